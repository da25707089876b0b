//! The part of `objc2-foundation` that candle uses.
#![allow(non_snake_case, reason = "the names are Apple's")]

use objc2::rc::{Retained, autoreleased};
use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::ops::Index;
use std::path::Path;

/// A range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NSRange {
    /// The first byte.
    pub location: usize,
    /// How many there are.
    pub length: usize,
}

impl NSRange {
    /// The range of `length` bytes from `location`.
    #[must_use]
    pub fn new(location: usize, length: usize) -> Self {
        Self { location, length }
    }
}

/// A string.
#[derive(Debug)]
pub struct NSString(CString);

impl NSString {
    /// A string of the text up to its first NUL.
    #[allow(
        clippy::should_implement_trait,
        reason = "the name is the real crate's"
    )]
    #[must_use]
    pub fn from_str(text: &str) -> Retained<Self> {
        let text = text.split('\0').next().unwrap_or_default();
        Retained::new(Self(CString::new(text).unwrap_or_default()))
    }

    /// The bytes, with a NUL at the end.
    #[must_use]
    pub fn UTF8String(&self) -> *const c_char {
        self.0.as_ptr()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The text with its NUL.
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

impl fmt::Display for NSString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error with a message.
#[derive(Debug)]
pub struct NSError(String);

impl NSError {
    /// An error of the message.
    pub fn new(message: impl Into<String>) -> Retained<Self> {
        Retained::new(Self(message.into()))
    }

    /// The message.
    #[must_use]
    pub fn localizedDescription(&self) -> Retained<NSString> {
        autoreleased(NSString::from_str(&self.0))
    }
}

impl fmt::Display for NSError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The address of a file; nothing here opens one.
pub struct NSURL;

impl NSURL {
    /// The address of a path.
    pub fn from_file_path(_path: impl AsRef<Path>) -> Option<Retained<Self>> {
        Some(Retained::new(Self))
    }
}

/// An array of objects.
pub struct NSArray<T>(Vec<Retained<T>>);

impl<T> NSArray<T> {
    /// An array of the objects.
    #[must_use]
    pub fn new(objects: Vec<Retained<T>>) -> Retained<Self> {
        Retained::new(Self(objects))
    }

    /// The objects.
    #[must_use]
    pub fn to_vec(&self) -> Vec<Retained<T>> {
        self.0.clone()
    }
}

impl<T> Index<usize> for NSArray<T> {
    type Output = Retained<T>;

    fn index(&self, index: usize) -> &Retained<T> {
        &self.0[index]
    }
}
