//! Status codes and error objects.

use super::handle;
use crate::error::{Error, ErrorKind};
use std::ffi::{CStr, CString, c_char};

/// The result of a call: MCANDLE_OK, or the class of what went wrong.
pub type mcandle_status = i32;

/// The call succeeded.
pub const MCANDLE_OK: mcandle_status = 0;
/// An argument or option is out of its range.
pub const MCANDLE_INVALID_ARGUMENT: mcandle_status = 1;
/// A pointer that must not be NULL is NULL.
pub const MCANDLE_NULL_POINTER: mcandle_status = 2;
/// A text is not valid UTF-8.
pub const MCANDLE_INVALID_UTF8: mcandle_status = 3;
/// A file or directory does not exist.
pub const MCANDLE_NOT_FOUND: mcandle_status = 4;
/// The operating system refused to read or write a file.
pub const MCANDLE_IO: mcandle_status = 5;
/// A file, configuration, tensor or data row is malformed.
pub const MCANDLE_INVALID_FORMAT: mcandle_status = 6;
/// The input is well-formed but asks for something that is not supported.
pub const MCANDLE_UNSUPPORTED: mcandle_status = 7;
/// The tokenizer failed, or the model has none.
pub const MCANDLE_TOKENIZER: mcandle_status = 8;
/// The device is not available.
pub const MCANDLE_DEVICE: mcandle_status = 9;
/// The tokens do not fit into the context of the model.
pub const MCANDLE_CONTEXT_FULL: mcandle_status = 10;
/// A computation gave NaN or an infinity.
pub const MCANDLE_NON_FINITE: mcandle_status = 11;
/// A checkpoint or adapter does not fit what it is used with.
pub const MCANDLE_INCOMPATIBLE: mcandle_status = 12;
/// The caller cancelled.
pub const MCANDLE_CANCELLED: mcandle_status = 13;
/// The object is in use, by another thread or by the call whose callback this is.
pub const MCANDLE_BUSY: mcandle_status = 14;
/// The tensor backend failed, for example for lack of memory.
pub const MCANDLE_BACKEND: mcandle_status = 15;
/// A defect of this library; the object that was used must be freed.
pub const MCANDLE_INTERNAL: mcandle_status = 16;

/// The work needs more memory than it may have, or the system has no room for another thread.
pub const MCANDLE_OUT_OF_MEMORY: mcandle_status = 17;

/// What went wrong, with a message for people.
///
/// Functions that can fail take a pointer to an error pointer as their last argument. It may be
/// NULL. On failure it receives an error object, which the caller frees with mcandle_error_free();
/// on success it is not touched.
#[derive(Debug)]
pub struct mcandle_error {
    status: mcandle_status,
    message: CString,
}

impl mcandle_error {
    pub(super) fn new(status: mcandle_status, message: impl Into<String>) -> Self {
        // A path in the message may hold a NUL, which would end it early.
        let message = message.into().replace('\0', "\u{FFFD}");
        Self {
            status,
            message: CString::new(message).unwrap_or_default(),
        }
    }

    pub(super) fn status(&self) -> mcandle_status {
        self.status
    }
}

impl From<Error> for mcandle_error {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotFound => MCANDLE_NOT_FOUND,
            ErrorKind::Io => MCANDLE_IO,
            ErrorKind::InvalidFormat => MCANDLE_INVALID_FORMAT,
            ErrorKind::InvalidArgument => MCANDLE_INVALID_ARGUMENT,
            ErrorKind::Unsupported => MCANDLE_UNSUPPORTED,
            ErrorKind::Tokenizer => MCANDLE_TOKENIZER,
            ErrorKind::Device => MCANDLE_DEVICE,
            ErrorKind::ContextFull => MCANDLE_CONTEXT_FULL,
            ErrorKind::NonFinite => MCANDLE_NON_FINITE,
            ErrorKind::Incompatible => MCANDLE_INCOMPATIBLE,
            ErrorKind::Cancelled => MCANDLE_CANCELLED,
            ErrorKind::Backend => MCANDLE_BACKEND,
            ErrorKind::OutOfMemory => MCANDLE_OUT_OF_MEMORY,
        };
        Self::new(status, error.to_string())
    }
}

/// Gives the class of an error.
///
/// @param[in] error The error, or NULL.
/// @return Its status; MCANDLE_OK for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_error_status(error: *const mcandle_error) -> mcandle_status {
    // SAFETY: the caller passes NULL or an error that it has not freed.
    unsafe { error.as_ref() }.map_or(MCANDLE_OK, |error| error.status)
}

/// Gives the message of an error: what was wrong, where, and what would be right.
///
/// @param[in] error The error, or NULL.
/// @return A NUL-terminated string in UTF-8 that lives as long as the error; an empty one for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_error_message(error: *const mcandle_error) -> *const c_char {
    // SAFETY: the caller passes NULL or an error that it has not freed.
    unsafe { error.as_ref() }.map_or(c"".as_ptr(), |error| error.message.as_ptr())
}

/// Frees an error.
///
/// @param[in] error The error; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_error_free(error: *mut mcandle_error) {
    // SAFETY: the caller passes NULL or an error that it owns.
    unsafe { handle::free(error) }
}

/// Gives the name of a status, such as "MCANDLE_NOT_FOUND".
///
/// @param[in] status Any number.
/// @return A NUL-terminated string that lives as long as the library; "unknown status" for numbers
/// that are not a status.
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_status_name(status: mcandle_status) -> *const c_char {
    let name: &CStr = match status {
        MCANDLE_OK => c"MCANDLE_OK",
        MCANDLE_INVALID_ARGUMENT => c"MCANDLE_INVALID_ARGUMENT",
        MCANDLE_NULL_POINTER => c"MCANDLE_NULL_POINTER",
        MCANDLE_INVALID_UTF8 => c"MCANDLE_INVALID_UTF8",
        MCANDLE_NOT_FOUND => c"MCANDLE_NOT_FOUND",
        MCANDLE_IO => c"MCANDLE_IO",
        MCANDLE_INVALID_FORMAT => c"MCANDLE_INVALID_FORMAT",
        MCANDLE_UNSUPPORTED => c"MCANDLE_UNSUPPORTED",
        MCANDLE_TOKENIZER => c"MCANDLE_TOKENIZER",
        MCANDLE_DEVICE => c"MCANDLE_DEVICE",
        MCANDLE_CONTEXT_FULL => c"MCANDLE_CONTEXT_FULL",
        MCANDLE_NON_FINITE => c"MCANDLE_NON_FINITE",
        MCANDLE_INCOMPATIBLE => c"MCANDLE_INCOMPATIBLE",
        MCANDLE_CANCELLED => c"MCANDLE_CANCELLED",
        MCANDLE_BUSY => c"MCANDLE_BUSY",
        MCANDLE_BACKEND => c"MCANDLE_BACKEND",
        MCANDLE_INTERNAL => c"MCANDLE_INTERNAL",
        MCANDLE_OUT_OF_MEMORY => c"MCANDLE_OUT_OF_MEMORY",
        _ => c"unknown status",
    };
    name.as_ptr()
}
