//! Numbers that several threads write, each its own part.

use std::cell::UnsafeCell;
use std::ops::Range;

/// A vector of which threads write parts that do not overlap, and read parts that nobody writes.
pub(super) struct Shared<'a>(&'a [UnsafeCell<f32>]);

// SAFETY: those who call `write` and `read` say that no part is written while another thread has it.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub fn new(numbers: &'a mut [f32]) -> Self {
        let len = numbers.len();
        // SAFETY: a cell has the layout of what is in it, and the numbers are borrowed for writing.
        Self(unsafe { std::slice::from_raw_parts(numbers.as_mut_ptr().cast(), len) })
    }

    /// A part, to be written.
    ///
    /// # Safety
    ///
    /// No other thread has any of it, nor has this one another borrow of it.
    ///
    /// # Panics
    ///
    /// When it does not lie within.
    #[allow(clippy::mut_from_ref, reason = "it is what the cells are for")]
    pub unsafe fn write(&self, part: Range<usize>) -> &mut [f32] {
        let cells = &self.0[part];
        // SAFETY: the caller says that nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(cells.as_ptr().cast_mut().cast(), cells.len()) }
    }

    /// All numbers.
    ///
    /// # Safety
    ///
    /// Nobody writes any of them meanwhile.
    pub unsafe fn read(&self) -> &[f32] {
        // SAFETY: the caller says that nobody writes.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len()) }
    }
}
