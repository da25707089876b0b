//! Work on a thread of the library, which ends with one call of a completion.

use super::error::{MCANDLE_NULL_POINTER, MCANDLE_OUT_OF_MEMORY, mcandle_error};
use super::handle::Result;
use super::panic::guard;
use super::user_data::UserPointer;
use std::ffi::c_void;
use std::ptr;
use std::thread::Builder;

/// Receives either a result or an error, and owns it.
type Callback<T> =
    unsafe extern "C-unwind" fn(result: *mut T, error: *mut mcandle_error, user_data: *mut c_void);

/// A callback that is called once, when work is over.
pub(super) struct Completion<T> {
    callback: Callback<T>,
    user_data: UserPointer,
}

impl<T> Completion<T> {
    /// # Safety
    ///
    /// The callback may be called once with `user_data`, on any thread, and takes what it is given.
    pub unsafe fn new(callback: Option<Callback<T>>, user_data: *mut c_void) -> Result<Self> {
        let callback = callback
            .ok_or_else(|| mcandle_error::new(MCANDLE_NULL_POINTER, "`completion` is NULL"))?;
        Ok(Self {
            callback,
            user_data: UserPointer::new(user_data),
        })
    }

    fn call(self, result: *mut T, error: *mut mcandle_error) {
        // SAFETY: as promised when this was made; it is the only call, since it takes `self`.
        unsafe { (self.callback)(result, error, self.user_data.get()) }
    }
}

/// Starts work on a thread of its own. Where that succeeds the completion is called, else it is not.
pub(super) fn start<T: 'static>(
    completion: Completion<T>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<()> {
    start_on(Builder::new(), completion, work)
}

fn start_on<T: 'static>(
    thread: Builder,
    completion: Completion<T>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<()> {
    let run = move || {
        let (mut result, mut error) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: `error` is a writable pointer.
        unsafe {
            guard(&raw mut error, || {
                result = Box::into_raw(Box::new(work()?));
                Ok(())
            });
            // One in Rust may panic; nobody is left to be told.
            guard(ptr::null_mut(), || {
                completion.call(result, error);
                Ok(())
            });
        }
    };
    match thread.name("metal-candle".to_owned()).spawn(run) {
        // The thread ends by itself.
        Ok(_) => Ok(()),
        Err(reason) => Err(mcandle_error::new(
            MCANDLE_OUT_OF_MEMORY,
            format!("the system does not start a thread: {reason}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::{
        MCANDLE_CANCELLED, MCANDLE_INTERNAL, mcandle_error_free, mcandle_error_status,
    };
    use std::sync::mpsc::{Sender, channel};

    type Ended = (Option<u8>, i32);

    unsafe extern "C-unwind" fn tell(
        result: *mut u8,
        error: *mut mcandle_error,
        user_data: *mut c_void,
    ) {
        // SAFETY: the result is a box or NULL, the error an error or NULL, and the user data the sender
        // of the test, which waits.
        unsafe {
            let result = (!result.is_null()).then(|| *Box::from_raw(result));
            let status = mcandle_error_status(error);
            mcandle_error_free(error);
            let sender = &*user_data.cast::<Sender<Ended>>();
            sender.send((result, status)).unwrap();
        }
    }

    fn ended(work: impl FnOnce() -> Result<u8> + Send + 'static) -> Ended {
        let (mut sender, receiver) = channel::<Ended>();
        // SAFETY: the sender lives until the completion was called.
        let completion = unsafe { Completion::new(Some(tell), (&raw mut sender).cast()) };
        start(completion.unwrap(), work).unwrap();
        let first = receiver.recv().unwrap();
        drop(sender);
        assert!(receiver.recv().is_err(), "it is called once");
        first
    }

    #[test]
    fn a_completion_gets_a_result_or_an_error() {
        assert_eq!(ended(|| Ok(7)), (Some(7), 0));
        let failed = || Err(mcandle_error::new(MCANDLE_CANCELLED, "x"));
        assert_eq!(ended(failed), (None, MCANDLE_CANCELLED));
        assert_eq!(ended(|| panic!("x")), (None, MCANDLE_INTERNAL));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri gives a stack of any size")]
    fn without_a_thread_there_is_no_completion() {
        // SAFETY: `tell` is not called.
        let completion = unsafe { Completion::new(Some(tell), ptr::null_mut()) };
        let impossible = Builder::new().stack_size(1 << 60);
        let error = start_on(impossible, completion.unwrap(), || Ok(7)).unwrap_err();
        assert_eq!(error.status(), MCANDLE_OUT_OF_MEMORY);
        // SAFETY: NULL is no callback.
        let missing = unsafe { Completion::<u8>::new(None, ptr::null_mut()) };
        assert_eq!(missing.err().unwrap().status(), MCANDLE_NULL_POINTER);
    }
}
