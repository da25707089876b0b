//! The guard around every body: a panic becomes a status, and nothing is printed.

use super::error::{MCANDLE_INTERNAL, MCANDLE_OK, mcandle_error, mcandle_status};
use once_cell::sync::OnceCell;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Guards that are running, on all threads.
static ACTIVE: AtomicUsize = AtomicUsize::new(0);
static HOOK: OnceCell<()> = OnceCell::new();

/// Runs the body of a C function. On failure, a panic included, `error` receives an error object
/// unless it is NULL.
///
/// # Safety
///
/// `error` is NULL or points to a writable pointer.
pub(super) unsafe fn guard(
    error: *mut *mut mcandle_error,
    body: impl FnOnce() -> Result<(), mcandle_error>,
) -> mcandle_status {
    silence();
    ACTIVE.fetch_add(1, Ordering::SeqCst);
    // What a body can leave half-done lies behind `Exclusive`, which remembers a panic.
    let result = catch_unwind(AssertUnwindSafe(body));
    ACTIVE.fetch_sub(1, Ordering::SeqCst);
    let failure = match result {
        Ok(Ok(())) => return MCANDLE_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => mcandle_error::new(
            MCANDLE_INTERNAL,
            format!("internal error: {}", message(payload.as_ref())),
        ),
    };
    let status = failure.status();
    // SAFETY: the caller of the C function passed NULL or a writable pointer.
    if let Some(slot) = unsafe { error.as_mut() } {
        *slot = Box::into_raw(Box::new(failure));
    }
    status
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown panic")
}

/// Keeps the panic hook quiet while a guard runs. Worker threads panic without a guard of their own,
/// so all threads are quiet then; a host written in Rust keeps its hook for all other times.
fn silence() {
    HOOK.get_or_init(|| {
        let previous = take_hook();
        set_hook(Box::new(move |info| {
            if ACTIVE.load(Ordering::SeqCst) == 0 {
                previous(info);
            } else {
                // Its message may hold text of the user, and is in the error that the caller gets.
                let location = info
                    .location()
                    .map_or_else(String::new, ToString::to_string);
                tracing::error!(location, "internal error");
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::{mcandle_error_free, mcandle_error_message, mcandle_error_status};
    use std::ffi::CStr;
    use std::ptr;

    #[test]
    fn a_panic_becomes_an_error() {
        let mut error = ptr::null_mut();
        // SAFETY: `error` is a writable pointer, and freed once.
        unsafe {
            let status = guard(&raw mut error, || panic!("the number is {}", 7));
            assert_eq!(status, MCANDLE_INTERNAL);
            assert_eq!(mcandle_error_status(error), MCANDLE_INTERNAL);
            let message = CStr::from_ptr(mcandle_error_message(error));
            assert_eq!(message, c"internal error: the number is 7");
            mcandle_error_free(error);
        }
    }

    #[test]
    fn success_leaves_the_error_alone() {
        let mut error = ptr::null_mut();
        // SAFETY: `error` is a writable pointer; NULL is allowed.
        unsafe {
            assert_eq!(guard(&raw mut error, || Ok(())), MCANDLE_OK);
            assert!(error.is_null());
            assert_eq!(guard(ptr::null_mut(), || panic!("quiet")), MCANDLE_INTERNAL);
        }
    }
}
