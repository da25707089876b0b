//! Versions.

use std::ffi::c_char;

/// Version of the binary interface that this header describes.
///
/// It changes with every incompatible change of the interface. A program that loads the library at
/// run time compares it with mcandle_abi_version().
pub const MCANDLE_ABI_VERSION: u32 = 1;

/// Gives the version of the binary interface of the loaded library.
///
/// @return MCANDLE_ABI_VERSION as it was when the library was built.
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_abi_version() -> u32 {
    MCANDLE_ABI_VERSION
}

/// Gives the version of the loaded library, such as "0.1.0".
///
/// @return A NUL-terminated string that lives as long as the library; not to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
