//! Callbacks that have a say in the choice of tokens.

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

/// Frees the user data of a callback that the library keeps beyond a call. It is called once, on the
/// thread whose call gives the callback up, and must not use the object that kept the callback.
///
/// @param[in] user_data As it was given with the callback.
pub type mcandle_free_callback = Option<unsafe extern "C-unwind" fn(user_data: *mut c_void)>;

/// User data that belongs to the library.
pub(super) struct UserData {
    pointer: *mut c_void,
    free: mcandle_free_callback,
}

// SAFETY: objects of this library may move between threads, and the header says so; what a program
// lets them keep must be able to move with them.
unsafe impl Send for UserData {}

impl UserData {
    /// # Safety
    ///
    /// `free` may be called once with `pointer`, on any thread.
    pub unsafe fn new(pointer: *mut c_void, free: mcandle_free_callback) -> Self {
        Self { pointer, free }
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            // SAFETY: as promised when it was made; this is the only call.
            unsafe { free(self.pointer) }
        }
    }
}

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
                self.user_data.pointer,
            )
        };
        if go_on { Ok(()) } else { Err(Error::Cancelled) }
    }
}
