//! What a program gives with a callback, to be given back to it.

use std::ffi::c_void;

/// Frees the user data of a callback that the library keeps beyond a call. It is called once, on
/// the thread that gives the callback up, and must not use the object that kept the callback.
///
/// @param[in] user_data As it was given with the callback.
pub type mcandle_free_callback = Option<unsafe extern "C-unwind" fn(user_data: *mut c_void)>;

/// User data that belongs to the program.
#[derive(Debug, Clone, Copy)]
pub(super) struct UserPointer(*mut c_void);

// SAFETY: a pointer is a number; only callbacks read what is there, and each says on which thread it
// runs.
unsafe impl Send for UserPointer {}
// SAFETY: as above.
unsafe impl Sync for UserPointer {}

impl UserPointer {
    pub fn new(pointer: *mut c_void) -> Self {
        Self(pointer)
    }

    pub fn get(self) -> *mut c_void {
        self.0
    }
}

/// User data that belongs to the library.
pub(super) struct UserData {
    pointer: UserPointer,
    free: mcandle_free_callback,
}

impl UserData {
    /// # Safety
    ///
    /// `free` may be called once with `pointer`, on any thread.
    pub unsafe fn new(pointer: *mut c_void, free: mcandle_free_callback) -> Self {
        Self {
            pointer: UserPointer(pointer),
            free,
        }
    }

    pub fn get(&self) -> *mut c_void {
        self.pointer.get()
    }
}

impl Drop for UserData {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            // SAFETY: as promised when it was made; this is the only call.
            unsafe { free(self.get()) }
        }
    }
}
