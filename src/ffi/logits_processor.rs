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
