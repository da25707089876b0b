//! Objects that one call at a time may use.

use super::error::{MCANDLE_BUSY, MCANDLE_INTERNAL, mcandle_error};
use super::handle::Result;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An object that one call at a time may use. A second call, from another thread or from a callback
/// of the first one, gets an error instead of a deadlock.
#[derive(Debug)]
pub(super) struct Exclusive<T> {
    in_use: AtomicBool,
    broken: AtomicBool,
    /// Locked only by who put `in_use`, and so without waiting.
    value: Mutex<T>,
}

impl<T> Exclusive<T> {
    pub(super) fn new(value: T) -> Self {
        Self {
            in_use: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            value: Mutex::new(value),
        }
    }

    /// Uses the object for the time of `body`. One that a panic left half-done is not used again.
    pub(super) fn with<R>(&self, name: &str, body: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        self.enter(name)?;
        let _leave = Leave(self);
        body(&mut self.value.lock())
    }

    /// Takes the object, to use it on another thread.
    pub(super) fn take(self: &Arc<Self>, name: &str) -> Result<Taken<T>> {
        self.enter(name)?;
        Ok(Taken(Arc::clone(self)))
    }

    fn enter(&self, name: &str) -> Result<()> {
        if self.in_use.swap(true, Ordering::Acquire) {
            return Err(mcandle_error::new(
                MCANDLE_BUSY,
                format!("`{name}` is in use by another call"),
            ));
        }
        if self.broken.load(Ordering::Relaxed) {
            self.in_use.store(false, Ordering::Release);
            return Err(mcandle_error::new(
                MCANDLE_INTERNAL,
                format!("`{name}` is unusable since an internal error; free it"),
            ));
        }
        Ok(())
    }

    fn leave(&self) {
        if std::thread::panicking() {
            self.broken.store(true, Ordering::Relaxed);
        }
        self.in_use.store(false, Ordering::Release);
    }
}

struct Leave<'a, T>(&'a Exclusive<T>);

impl<T> Drop for Leave<'_, T> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// An object that is in use, until this is dropped. It keeps the object alive.
pub(super) struct Taken<T>(Arc<Exclusive<T>>);

impl<T> Taken<T> {
    /// Uses the object and gives it back.
    pub(super) fn with<R>(self, body: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        body(&mut self.0.value.lock())
    }
}

impl<T> Drop for Taken<T> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

    fn status<R>(result: Result<R>) -> i32 {
        result.map_or_else(|error| error.status(), |_| 0)
    }

    #[test]
    fn an_exclusive_object_refuses_a_second_user() {
        let object = Exclusive::new(1);
        let inner = object.with("object", |_| Ok(status(object.with("object", |_| Ok(())))));
        assert_eq!(inner.unwrap(), MCANDLE_BUSY);
        assert_eq!(object.with("object", |value| Ok(*value)).unwrap(), 1);
    }

    #[test]
    fn an_object_that_was_taken_is_in_use_until_it_is_given_back() {
        let object = Arc::new(Exclusive::new(1));
        let taken = object.take("object").unwrap();
        assert_eq!(status(object.with("object", |_| Ok(()))), MCANDLE_BUSY);
        assert_eq!(status(object.take("object")), MCANDLE_BUSY);
        let thread = std::thread::spawn(|| {
            status(taken.with(|value| {
                *value = 2;
                Ok(())
            }))
        });
        assert_eq!(thread.join().unwrap(), 0);
        drop(object.take("object").unwrap());
        assert_eq!(object.with("object", |value| Ok(*value)).unwrap(), 2);
    }

    #[test]
    fn an_exclusive_object_stays_broken_after_a_panic() {
        let object = Arc::new(Exclusive::new(1));
        let result = catch_unwind(AssertUnwindSafe(|| {
            object.with("object", |_| -> Result<()> { resume_unwind(Box::new("x")) })
        }));
        assert!(result.is_err());
        for _ in 0..2 {
            assert_eq!(status(object.with("object", |_| Ok(()))), MCANDLE_INTERNAL);
            assert_eq!(status(object.take("object")), MCANDLE_INTERNAL);
        }

        let object = Arc::new(Exclusive::new(1));
        let taken = object.take("object").unwrap();
        let result = catch_unwind(AssertUnwindSafe(|| {
            taken.with(|_| -> Result<()> { resume_unwind(Box::new("x")) })
        }));
        assert!(result.is_err());
        assert_eq!(status(object.with("object", |_| Ok(()))), MCANDLE_INTERNAL);
    }

    #[test]
    fn threads_get_their_turn_or_an_error() {
        let object = Exclusive::new(0);
        let served = std::thread::scope(|scope| {
            let add = || {
                let rounds = (0..50).filter(|_| {
                    let result = object.with("object", |value| {
                        *value += 1;
                        Ok(())
                    });
                    result.is_ok()
                });
                rounds.count()
            };
            let (first, second) = (scope.spawn(add), scope.spawn(add));
            first.join().unwrap() + second.join().unwrap()
        });
        assert_eq!(object.with("object", |value| Ok(*value)).unwrap(), served);
    }
}
