//! How far a download is, and whether it shall go on.

use std::ops::ControlFlow;
use std::time::Duration;

use super::client::{Attempt, Failure};
use crate::error::{Error, Result};

/// How often whoever waits looks whether to go on waiting.
const SLICE: Duration = Duration::from_millis(50);
/// How often a request is sent again, after the first time.
const RETRIES: u32 = 4;
/// The pause before the first time; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How far a download is.
///
/// See [`Hub::with_progress`](super::Hub::with_progress).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct HubProgress<'a> {
    /// The file that is downloaded, by its name in the repository; empty until it is known what to download.
    pub file: &'a str,
    /// How many bytes of the file are there, those of an earlier, broken transfer included.
    pub file_bytes: u64,
    /// How many bytes the file has.
    pub file_size: u64,
    /// How many bytes of all files are there that this call has to download.
    pub bytes: u64,
    /// How many bytes these files have. For a model in shards it grows once, when their list is there.
    pub size: u64,
}

/// What [`Hub::with_progress`](super::Hub::with_progress) is given.
pub(super) type Report = dyn Fn(&HubProgress) -> ControlFlow<()> + Send + Sync;

/// Counts what arrives, and asks the caller whether to go on.
pub(super) struct Progress<'a> {
    report: Option<&'a Report>,
    file: String,
    file_bytes: u64,
    file_size: u64,
    /// The bytes of the files before this one.
    done: u64,
    size: u64,
}

impl<'a> Progress<'a> {
    pub(super) fn new(report: Option<&'a Report>) -> Self {
        Self {
            report,
            file: String::new(),
            file_bytes: 0,
            file_size: 0,
            done: 0,
            size: 0,
        }
    }

    /// Adds bytes to those that are to come.
    pub(super) fn expect(&mut self, bytes: u64) {
        self.size = self.size.saturating_add(bytes);
    }

    /// Goes on to a file.
    pub(super) fn begin(&mut self, file: &str, size: u64) {
        self.done = self.done.saturating_add(self.file_size);
        file.clone_into(&mut self.file);
        self.file_bytes = 0;
        self.file_size = size;
    }

    /// Says how many bytes of the file are there.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`] if the caller does not want more.
    pub(super) fn reached(&mut self, file_bytes: u64) -> Result<()> {
        self.file_bytes = file_bytes;
        self.check()
    }

    /// Waits, unless the caller cancels.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`].
    pub(super) fn pause(&self, duration: Duration) -> Result<()> {
        let mut left = duration;
        while !left.is_zero() {
            self.check()?;
            let slice = left.min(SLICE);
            std::thread::sleep(slice);
            left = left.saturating_sub(slice);
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let progress = HubProgress {
            file: &self.file,
            file_bytes: self.file_bytes,
            file_size: self.file_size,
            bytes: self.done.saturating_add(self.file_bytes),
            size: self.size,
        };
        match self.report.map(|report| report(&progress)) {
            Some(ControlFlow::Break(())) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}

/// Counts attempts that failed one after the other.
#[derive(Default)]
pub(super) struct Attempts {
    failed: u32,
}

impl Attempts {
    /// Forgets the failures, because something has been gained since.
    pub(super) fn gained(&mut self) {
        self.failed = 0;
    }
}

/// Tries again, a few times and with growing pauses, as long as the failure is one that may pass.
pub(super) fn with_retries<T>(
    progress: &mut Progress,
    mut attempt: impl FnMut(&mut Progress, &mut Attempts) -> Attempt<T>,
) -> Attempt<T> {
    let mut attempts = Attempts::default();
    loop {
        progress.check()?;
        match attempt(progress, &mut attempts) {
            Err(Failure::Passing(error)) if attempts.failed < RETRIES => {
                tracing::warn!("{error}; trying again");
                progress.pause(FIRST_PAUSE * 2u32.pow(attempts.failed))?;
                attempts.failed += 1;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn passing() -> Failure {
        Failure::Passing(Error::Cancelled)
    }

    #[test]
    fn failures_that_may_pass_are_tried_again_a_few_times() {
        let mut progress = Progress::new(None);
        let tried = Cell::new(0);
        let result = with_retries(&mut progress, |_, _| {
            tried.set(tried.get() + 1);
            if tried.get() < 3 {
                Err(passing())
            } else {
                Ok(7)
            }
        });
        assert!(matches!(result, Ok(7)));
        assert_eq!(tried.get(), 3);

        tried.set(0);
        let result = with_retries(&mut progress, |_, _| -> Attempt<()> {
            tried.set(tried.get() + 1);
            Err(Failure::Final(Error::Cancelled))
        });
        assert!(matches!(result, Err(Failure::Final(_))));
        assert_eq!(tried.get(), 1);
    }

    #[test]
    fn what_was_gained_counts_as_a_new_start() {
        let mut progress = Progress::new(None);
        let tried = Cell::new(0);
        let result = with_retries(&mut progress, |_, attempts| {
            tried.set(tried.get() + 1);
            attempts.gained();
            if tried.get() <= RETRIES + 2 {
                Err(passing())
            } else {
                Ok(())
            }
        });
        assert!(result.is_ok());
    }

    #[test]
    fn a_pause_ends_when_the_caller_cancels() {
        let cancel = |_: &HubProgress| ControlFlow::Break(());
        let progress = Progress::new(Some(&cancel));
        let error = progress.pause(Duration::from_secs(3600)).unwrap_err();
        assert!(matches!(error, Error::Cancelled));
    }

    #[test]
    fn bytes_add_up_over_files() {
        let seen = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
        let log = std::sync::Arc::clone(&seen);
        let report = move |p: &HubProgress| {
            let file = p.file.to_owned();
            log.lock()
                .push((file, p.file_bytes, p.file_size, p.bytes, p.size));
            ControlFlow::Continue(())
        };
        let mut progress = Progress::new(Some(&report));
        progress.expect(10);
        progress.expect(5);
        progress.begin("a", 10);
        progress.reached(4).unwrap();
        progress.begin("b", 5);
        progress.reached(5).unwrap();
        assert_eq!(
            *seen.lock(),
            [
                ("a".to_owned(), 4, 10, 4, 15),
                ("b".to_owned(), 5, 5, 15, 15)
            ]
        );
    }
}
