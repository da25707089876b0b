//! Packing of operands to panels that the innermost loop reads from front to back.

use super::simd::{MAX_LANES, Number, Simd};

/// A matrix with one line for each row or column of the result, and the depth of the product along it.
#[derive(Clone, Copy)]
pub(in crate::backend::kernels) struct View<'a, T> {
    pub numbers: &'a [T],
    /// From one line to the next, or from one step of the depth to the next.
    pub stride: usize,
    /// Whether it is the lines whose numbers are neighbours, rather than those of one step of the depth.
    pub along: bool,
}

impl<T: Number> View<'_, T> {
    /// Whether there are so many lines, each so long.
    pub(in crate::backend::kernels) fn has(&self, lines: usize, depth: usize) -> bool {
        let (rows, row) = if self.along {
            (lines, depth)
        } else {
            (depth, lines)
        };
        rows == 0 || row <= self.stride && (rows - 1) * self.stride + row <= self.numbers.len()
    }

    /// Packs a panel: for each word of the depth one of each line, `width` in all, of which those that are
    /// not among `lines` are zero or, where lines are not along the depth, the numbers beside them. `depth`
    /// counts numbers, and starts at an even one.
    ///
    /// # Safety
    ///
    /// As for [`Simd`]; `to` has room for `width` words for each word of the depth, and `LANES` more. The
    /// lines and the depth lie in the matrix.
    #[inline(always)]
    pub(in crate::backend::kernels) unsafe fn pack<S: Simd>(
        &self,
        lines: std::ops::Range<usize>,
        depth: std::ops::Range<usize>,
        width: usize,
        to: *mut u32,
    ) {
        // SAFETY: the caller's.
        unsafe {
            if self.along {
                self.pack_along::<S>(lines, depth, width, to);
            } else {
                self.pack_across::<S>(lines, depth, width, to);
            }
        }
    }

    /// Blocks of lines and words are transposed in registers.
    #[inline(always)]
    unsafe fn pack_along<S: Simd>(
        &self,
        lines: std::ops::Range<usize>,
        depth: std::ops::Range<usize>,
        width: usize,
        to: *mut u32,
    ) {
        let step = S::LANES * S::PER_WORD;
        let words = depth.len().div_ceil(S::PER_WORD);
        for word in (0..words).step_by(S::LANES) {
            let from = depth.start + word * S::PER_WORD;
            let count = step.min(depth.end - from);
            for first in (0..width).step_by(S::LANES) {
                // SAFETY: what is read lies in the matrix. Lanes beyond the width are written to where the
                // next word comes, and there is room for those of the last.
                unsafe {
                    let mut block = [S::zero(); MAX_LANES];
                    for (lane, vector) in block.iter_mut().enumerate().take(S::LANES) {
                        let line = lines.start + first + lane;
                        if line < lines.end && first + lane < width {
                            let from = self.numbers.as_ptr().add(line * self.stride + from);
                            fetch(from.wrapping_add(AHEAD * step));
                            *vector = if count == step {
                                T::words::<S>(from)
                            } else {
                                partial::<S, T>(from, count)
                            };
                        }
                    }
                    S::transpose(&mut block);
                    let count = S::LANES.min(words - word);
                    for (offset, vector) in block.iter().enumerate().take(count) {
                        S::store(to.add((word + offset) * width + first), *vector);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn pack_across<S: Simd>(
        &self,
        lines: std::ops::Range<usize>,
        depth: std::ops::Range<usize>,
        width: usize,
        to: *mut u32,
    ) {
        let rounded = width.next_multiple_of(S::LANES);
        let reads_whole = lines.start + rounded <= self.stride;
        if reads_whole && depth.end * self.stride <= self.numbers.len() {
            let whole = depth.len() / S::PER_WORD;
            // SAFETY: vectors that reach beyond the lines end before their rows do. Of what is written the same
            // holds as above.
            unsafe {
                let mut from = self
                    .numbers
                    .as_ptr()
                    .add(depth.start * self.stride + lines.start);
                let mut to = to;
                for _ in 0..whole {
                    let second = from.add((S::PER_WORD - 1) * self.stride);
                    for first in (0..width).step_by(S::LANES) {
                        S::store(
                            to.add(first),
                            T::pairs::<S>(from.add(first), second.add(first)),
                        );
                    }
                    from = second.wrapping_add(self.stride);
                    to = to.add(width);
                }
                let rest = depth.start + whole * S::PER_WORD..depth.end;
                self.pack_across_parts::<S>(lines, rest, width, to);
            }
        } else {
            // SAFETY: the caller's.
            unsafe { self.pack_across_parts::<S>(lines, depth, width, to) };
        }
    }

    /// The same where not all vectors are whole.
    #[inline(always)]
    unsafe fn pack_across_parts<S: Simd>(
        &self,
        lines: std::ops::Range<usize>,
        depth: std::ops::Range<usize>,
        width: usize,
        to: *mut u32,
    ) {
        let zeros = [T::ZERO; MAX_LANES];
        for (word, at) in depth.clone().step_by(S::PER_WORD).enumerate() {
            for first in (0..width).step_by(S::LANES) {
                let line = lines.start + first;
                let count = S::LANES.min(lines.end.saturating_sub(line));
                // SAFETY: what is read lies in the matrix or in an array. Of what is written the same
                // holds as above.
                unsafe {
                    let (mut a, mut b) = ([T::ZERO; MAX_LANES], [T::ZERO; MAX_LANES]);
                    let row = |at: usize, place: &mut [T; MAX_LANES]| {
                        if at >= depth.end || count == 0 {
                            return zeros.as_ptr();
                        }
                        let from = self.numbers.as_ptr().add(at * self.stride + line);
                        if count == S::LANES {
                            return from;
                        }
                        for (lane, place) in place.iter_mut().enumerate().take(count) {
                            *place = *from.add(lane);
                        }
                        place.as_ptr()
                    };
                    let first_row = row(at, &mut a);
                    let second_row = if S::PER_WORD == 2 {
                        row(at + 1, &mut b)
                    } else {
                        first_row
                    };
                    let words = T::pairs::<S>(first_row, second_row);
                    S::store(to.add(word * width + first), words);
                }
            }
        }
    }
}

/// How many vectors ahead a line is fetched.
const AHEAD: usize = 4;

/// Asks for memory that is going to be read: so many lines at once are more than processors foresee.
#[inline(always)]
fn fetch<T>(from: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: all processors of this kind have the instruction, which reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(from.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

/// Words of `count` numbers, fewer than a vector has; the rest are zero.
///
/// # Safety
///
/// As for [`Simd`].
#[inline(always)]
pub(in crate::backend::kernels) unsafe fn partial<S: Simd, T: Number>(
    from: *const T,
    count: usize,
) -> S::Vector {
    let mut numbers = [T::ZERO; 2 * MAX_LANES];
    // SAFETY: the caller's; a vector has at most twice as many numbers as lanes.
    unsafe {
        for (index, number) in numbers.iter_mut().enumerate().take(count) {
            *number = *from.add(index);
        }
        T::words::<S>(numbers.as_ptr())
    }
}
