//! The rules that all handles share: borrowing, giving, freeing.

use super::error::{
    MCANDLE_INVALID_ARGUMENT, MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER, mcandle_error,
};
use super::panic::guard;
use std::ffi::{CStr, c_char};
use std::path::Path;
use std::slice;

pub(super) type Result<T> = std::result::Result<T, mcandle_error>;

fn null(name: &str) -> mcandle_error {
    mcandle_error::new(MCANDLE_NULL_POINTER, format!("`{name}` is NULL"))
}

/// Borrows an object.
///
/// # Safety
///
/// `pointer` is NULL or an object that stays alive for `'a` and is not written meanwhile.
pub(super) unsafe fn borrow<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: as the caller promises.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(name))
}

/// Borrows an object to change it.
///
/// # Safety
///
/// `pointer` is NULL or an object that stays alive for `'a` and that nobody else uses meanwhile.
pub(super) unsafe fn borrow_mut<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut T> {
    // SAFETY: as the caller promises.
    unsafe { pointer.as_mut() }.ok_or_else(|| null(name))
}

/// The place of a number, checked before the work and written after it.
pub(super) fn place<T>(pointer: *mut T, name: &str) -> Result<*mut T> {
    if pointer.is_null() {
        return Err(null(name));
    }
    Ok(pointer)
}

/// Gives a number where there is a place for it.
///
/// # Safety
///
/// `pointer` is NULL or writable.
pub(super) unsafe fn give_number<T>(pointer: *mut T, value: T) {
    if !pointer.is_null() {
        // SAFETY: not NULL, and writable as the caller promises.
        unsafe { pointer.write(value) }
    }
}

/// Gives an object to the caller where there is a place for it.
///
/// # Safety
///
/// `slot` is NULL or writable.
pub(super) unsafe fn give_object<T>(slot: *mut *mut T, value: T) {
    if !slot.is_null() {
        Out { slot }.give(value);
    }
}

/// Gives the items of an object, and their number where there is a place for it. No object has none.
///
/// # Safety
///
/// `count` is NULL or writable.
pub(super) unsafe fn give_items<T>(items: Option<&[T]>, count: *mut usize) -> *const T {
    // SAFETY: as the caller promises.
    unsafe { give_number(count, items.map_or(0, <[T]>::len)) }
    items.map_or(std::ptr::null(), <[T]>::as_ptr)
}

/// The place of an output, checked before the work and written after it.
pub(super) struct Out<T> {
    slot: *mut *mut T,
}

impl<T> Out<T> {
    /// # Safety
    ///
    /// `slot` is NULL or points to a writable pointer until the value is given.
    pub(super) unsafe fn new(slot: *mut *mut T, name: &str) -> Result<Self> {
        if slot.is_null() {
            return Err(null(name));
        }
        Ok(Self { slot })
    }

    /// Gives NULL, which says that there is no such object.
    pub(super) fn give_nothing(self) {
        // SAFETY: not NULL by construction, and writable as promised there.
        unsafe { self.slot.write(std::ptr::null_mut()) }
    }

    /// Gives an object to the caller.
    pub(super) fn give(self, value: T) {
        // SAFETY: not NULL by construction, and writable as promised there.
        unsafe { self.slot.write(Box::into_raw(Box::new(value))) }
    }
}

/// Frees an object; NULL is nothing to free. A callback that frees user data may panic.
///
/// # Safety
///
/// `pointer` is NULL or came from [`Out::give`] or [`Box::into_raw`] and was not freed before.
pub(super) unsafe fn free<T>(pointer: *mut T) {
    if pointer.is_null() {
        return;
    }
    // SAFETY: it came from a box, as the caller promises; an error has no place to go to.
    unsafe {
        guard(std::ptr::null_mut(), || {
            drop(Box::from_raw(pointer));
            Ok(())
        });
    }
}

/// A text of `len` bytes.
///
/// # Safety
///
/// `pointer` is NULL or points to `len` readable bytes that are not written for `'a`.
pub(super) unsafe fn text<'a>(pointer: *const c_char, len: usize, name: &str) -> Result<&'a str> {
    // SAFETY: as the caller promises.
    let bytes = unsafe { items(pointer.cast::<u8>(), len, name) }?;
    utf8(bytes, name)
}

/// `len` items.
///
/// # Safety
///
/// `pointer` is NULL or points to `len` readable items that are not written for `'a`.
pub(super) unsafe fn items<'a, T>(pointer: *const T, len: usize, name: &str) -> Result<&'a [T]> {
    if len == 0 {
        // A slice needs a valid pointer even then.
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(null(name));
    }
    // Such as a length of -1. No object has as many bytes, so the pointer cannot be what is meant.
    if len > isize::MAX.unsigned_abs() / size_of::<T>().max(1) {
        return Err(mcandle_error::new(
            MCANDLE_INVALID_ARGUMENT,
            format!("`{name}` has a length of {len}; expected one that fits into memory"),
        ));
    }
    // SAFETY: not NULL, and readable as the caller promises.
    Ok(unsafe { slice::from_raw_parts(pointer, len) })
}

/// A NUL-terminated string.
///
/// # Safety
///
/// `pointer` is NULL or a NUL-terminated string that is not written for `'a`.
pub(super) unsafe fn string<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    if pointer.is_null() {
        return Err(null(name));
    }
    // SAFETY: not NULL, and NUL-terminated as the caller promises.
    utf8(unsafe { CStr::from_ptr(pointer) }.to_bytes(), name)
}

/// A path as a NUL-terminated string.
///
/// # Safety
///
/// As [`string`].
pub(super) unsafe fn path<'a>(pointer: *const c_char, name: &str) -> Result<&'a Path> {
    // SAFETY: as the caller promises.
    unsafe { string(pointer, name) }.map(Path::new)
}

fn utf8<'a>(bytes: &'a [u8], name: &str) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        mcandle_error::new(
            MCANDLE_INVALID_UTF8,
            format!("`{name}` is not UTF-8: byte {at} is 0x{:02X}", bytes[at]),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn null_and_invalid_utf8_are_errors() {
        // SAFETY: NULL pointers, an empty slice and a live array.
        unsafe {
            assert_eq!(
                borrow::<u8>(ptr::null(), "x").unwrap_err().status(),
                MCANDLE_NULL_POINTER
            );
            assert!(items::<u8>(ptr::null(), 0, "x").unwrap().is_empty());
            assert!(items::<u8>(ptr::null(), 1, "x").is_err());
            let bytes = b"ab\xFF";
            let error = text(bytes.as_ptr().cast(), 3, "x").unwrap_err();
            assert_eq!(error.status(), MCANDLE_INVALID_UTF8);
        }
    }

    #[test]
    fn lengths_beyond_all_memory_are_errors() {
        let ids = [1_u32, 2];
        for length in [usize::MAX, usize::MAX / 4, isize::MAX.unsigned_abs()] {
            // SAFETY: the array is live, and nothing of it is read.
            let error = unsafe { items(ids.as_ptr(), length, "ids") }.unwrap_err();
            assert_eq!(error.status(), MCANDLE_INVALID_ARGUMENT);
        }
        // SAFETY: the array is live and has two items.
        assert_eq!(unsafe { items(ids.as_ptr(), 2, "ids") }.unwrap(), ids);
    }

    #[test]
    fn what_is_given_is_freed() {
        struct Counted<'a>(&'a AtomicBool);
        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                assert!(!self.0.swap(true, Ordering::Relaxed), "freed twice");
            }
        }
        let freed = AtomicBool::new(false);
        let mut object = ptr::null_mut();
        // SAFETY: `object` is writable, and what it receives is freed once.
        unsafe {
            Out::new(&raw mut object, "object")
                .unwrap()
                .give(Counted(&freed));
            assert!(!borrow(object, "object").unwrap().0.load(Ordering::Relaxed));
            free(object);
            assert!(freed.load(Ordering::Relaxed));
            Out::new(&raw mut object, "object").unwrap().give_nothing();
            assert!(object.is_null());
            free(object);
            give_object(ptr::null_mut(), Counted(&AtomicBool::new(false)));
            assert!(Out::<u8>::new(ptr::null_mut(), "object").is_err());
        }
    }

    #[test]
    fn what_panics_as_it_is_freed_is_gone() {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("as it is freed");
            }
        }
        // SAFETY: it comes from a box, and is freed once.
        unsafe { free(Box::into_raw(Box::new(Panics))) }
    }

    #[test]
    fn items_and_numbers_are_given() {
        let mut count = 7;
        // SAFETY: `count` is writable; NULL is allowed; the given pointer has the given length.
        unsafe {
            let given = give_items(Some(&[3_u8, 4]), &raw mut count);
            assert_eq!(items(given, count, "given").unwrap(), [3, 4]);
            assert!(give_items::<u8>(None, &raw mut count).is_null() && count == 0);
            give_number(place(&raw mut count, "count").unwrap(), 9);
            give_number(ptr::null_mut(), 1);
            assert_eq!(count, 9);
            *borrow_mut(&raw mut count, "count").unwrap() += 1;
            assert_eq!(count, 10);
            assert_eq!(path(c"a/b".as_ptr(), "path").unwrap(), Path::new("a/b"));
            assert!(string(c"\xFF".as_ptr(), "name").is_err());
        }
    }
}
