//! Callbacks that have a say in the choice of tokens.

use super::user_data::UserData;
use crate::error::{Error, Result};
use crate::inference::LogitsProcessor;
use std::ffi::c_void;

/// Changes the logits of the next token before it is chosen, on the thread that generates.
///
/// Penalties, grammars and filters work on what it leaves. Negative infinity forbids a token. It must
/// not use the generator or batch that calls it, except to cancel it.
///
/// @param[in] tokens The ids of the prompt and of what was generated; they live only during the
/// call.
/// @param[in] token_count Their number.
/// @param[in,out] logits One for each id of the vocabulary, to be changed in place; they live only
/// during the call.
/// @param[in] logit_count Their number.
/// @param[in] user_data As it was given with the callback.
/// @return True to go on, false to fail the generation with MCANDLE_CANCELLED.
pub type mcandle_logits_callback = Option<
    unsafe extern "C-unwind" fn(
        tokens: *const u32,
        token_count: usize,
        logits: *mut f32,
        logit_count: usize,
        user_data: *mut c_void,
    ) -> bool,
>;

type Callback =
    unsafe extern "C-unwind" fn(*const u32, usize, *mut f32, usize, *mut c_void) -> bool;

/// A callback and its user data.
pub(super) struct CallbackProcessor {
    callback: Callback,
    user_data: UserData,
}

impl CallbackProcessor {
    /// Nothing, and the user data freed, where there is no callback.
    ///
    /// # Safety
    ///
    /// The callback may be called with the user data, on any thread, until that is freed.
    pub unsafe fn new(callback: mcandle_logits_callback, user_data: UserData) -> Option<Self> {
        callback.map(|callback| Self {
            callback,
            user_data,
        })
    }
}

impl LogitsProcessor for CallbackProcessor {
    fn process(&mut self, tokens: &[u32], logits: &mut [f32]) -> Result<()> {
        // SAFETY: as promised when it was made; both slices outlive the call.
        let go_on = unsafe {
            (self.callback)(
                tokens.as_ptr(),
                tokens.len(),
                logits.as_mut_ptr(),
                logits.len(),
                self.user_data.get(),
            )
        };
        if go_on { Ok(()) } else { Err(Error::Cancelled) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice;

    /// Moves the logits by the number that it counts, and stops at 2.
    unsafe extern "C-unwind" fn count(
        tokens: *const u32,
        token_count: usize,
        logits: *mut f32,
        logit_count: usize,
        user_data: *mut c_void,
    ) -> bool {
        // SAFETY: the processor passes live slices, and the test a number that only this uses.
        unsafe {
            let calls = &mut *user_data.cast::<u8>();
            *calls += 1;
            assert_eq!(slice::from_raw_parts(tokens, token_count), [5, 6]);
            for logit in slice::from_raw_parts_mut(logits, logit_count) {
                *logit += f32::from(*calls);
            }
            *calls < 2
        }
    }

    unsafe extern "C-unwind" fn free_count(user_data: *mut c_void) {
        // SAFETY: the test made it of a box, and this is the only call.
        drop(unsafe { Box::from_raw(user_data.cast::<u8>()) });
    }

    #[test]
    fn user_data_is_used_on_any_thread_and_freed_once() {
        let pointer = Box::into_raw(Box::new(0_u8)).cast();
        // SAFETY: the callbacks are for what is behind `pointer`.
        let processor = unsafe {
            CallbackProcessor::new(Some(count), UserData::new(pointer, Some(free_count)))
        };
        let mut processor = processor.unwrap();
        let logits = std::thread::spawn(move || {
            let mut logits = [0.0; 3];
            processor.process(&[5, 6], &mut logits).unwrap();
            let end = processor.process(&[5, 6], &mut logits);
            assert!(matches!(end, Err(Error::Cancelled)));
            logits
        });
        let sums = logits.join().unwrap().map(f32::to_bits);
        assert_eq!(sums, [3_f32.to_bits(); 3]);
        // SAFETY: as above; there is nothing to call, so the data is freed at once.
        let none = unsafe {
            let pointer = Box::into_raw(Box::new(0_u8)).cast();
            CallbackProcessor::new(None, UserData::new(pointer, Some(free_count)))
        };
        assert!(none.is_none());
    }
}
