//! Stopping long work from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// A stop was requested.
const REQUESTED: u8 = 1;
/// Work will begin, and requests from now on are for it.
const ANNOUNCED: u8 = 2;

/// Asks a running generation or training to stop; any thread may hold one.
///
/// The work stops before its next token or step. A request made while nothing runs has no effect.
///
/// # Example
///
/// ```
/// use metal_candle::{Generator, ModelLoader};
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let generator = Generator::new(&model);
/// let cancel = generator.cancel_handle();
/// std::thread::spawn(move || cancel.cancel());
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct CancelHandle {
    state: Arc<AtomicU8>,
}

impl CancelHandle {
    /// Requests the stop.
    pub fn cancel(&self) {
        self.state.fetch_or(REQUESTED, Ordering::Relaxed);
    }

    /// Begins work: forgets requests, but for those since it was announced.
    pub(crate) fn reset(&self) {
        let before = self.state.fetch_and(!ANNOUNCED, Ordering::Relaxed);
        if before & ANNOUNCED == 0 {
            self.state.store(0, Ordering::Relaxed);
        }
    }

    /// Announces work that begins on another thread, so that a request which comes before it does is not
    /// lost. The work is over when the result is dropped.
    pub(crate) fn announce(&self) -> Announced {
        self.state.store(ANNOUNCED, Ordering::Relaxed);
        Announced(self.clone())
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.state.load(Ordering::Relaxed) & REQUESTED != 0
    }
}

/// Work that was announced and is not over.
#[derive(Debug)]
pub(crate) struct Announced(CancelHandle);

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.state.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_the_work_that_runs_or_is_announced() {
        let cancel = CancelHandle::default();
        cancel.cancel();
        cancel.reset();
        assert!(!cancel.is_requested(), "nothing ran");

        let announced = cancel.announce();
        cancel.cancel();
        cancel.reset();
        assert!(cancel.is_requested(), "it came before the work began");
        drop(announced);
        assert!(!cancel.is_requested(), "the work is over");

        let _announced = cancel.announce();
        cancel.reset();
        cancel.cancel();
        assert!(cancel.is_requested());
        cancel.reset();
        assert!(!cancel.is_requested(), "it was for the work before");
    }
}
