//! Which part of a product is computed when, by whom, and from which cache.
//!
//! As in `GotoBLAS` (Goto and van de Geijn, 2008, <https://doi.org/10.1145/1356052.1356053>) both operands
//! are packed to panels that are read from front to back. Here the left one, the activations, is packed as
//! a whole, for all threads; of the weights each task packs the columns that it computes, a block of the
//! depth at a time, which then stays in the second cache while all panels of the left come by.

use super::few_rows::{self, Dots};
use super::pack::View;
use super::shared::{Buffer, Kept, LINE, PARALLEL, Shared, each, threads};
use super::simd::{Number, Simd, Work, height};
use super::tile::Operands;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Words of the depth in a block.
const DEPTH: usize = 512;

/// The most columns of a task.
const COLUMNS: usize = 256;

/// Words of the depth above which the left operand does not stay in a cache.
const LONG: usize = 8 * DEPTH;

/// The most columns of a task then; its blocks are less deep by as much.
const LONG_COLUMNS: usize = 768;

/// Rows of the weights that are packed at once where a panel takes a part of each, so that each is read as
/// it lies.
const STRIP: usize = 16;

/// Words of the left operand that are packed at once: 16 MB.
const LEFT_WORDS: usize = 4 << 20;

/// Products of so few rows go without packing the weights.
pub(super) const FEW_ROWS: usize = 16;

thread_local! {
    static LEFT: Kept = const { Cell::new(Vec::new()) };
    static RIGHT: Kept = const { Cell::new(Vec::new()) };
}

/// A product of matrices, of shape (rows, depth) and (depth, columns).
pub(super) struct Product<'a, T> {
    pub left: View<'a, f32>,
    pub right: View<'a, T>,
    pub rows: usize,
    pub columns: usize,
    pub depth: usize,
    /// Whether it is added to the result, or takes its place.
    pub add: bool,
}

impl<T: Number> Product<'_, T> {
    /// Computes it into `result`, (rows, columns), all of which then is written; where it adds, there are numbers.
    pub(super) fn compute<S: Simd>(&self, result: &mut [MaybeUninit<f32>]) {
        assert_eq!(result.len(), self.rows * self.columns);
        assert!(self.left.has(self.rows, self.depth) && self.right.has(self.columns, self.depth));
        if result.is_empty() {
            return;
        }
        if self.depth == 0 {
            if !self.add {
                result.fill(MaybeUninit::new(0.0));
            }
            return;
        }
        let result = Shared(result.as_mut_ptr().cast());
        if self.rows <= FEW_ROWS && self.right.along && self.left.along {
            self.few::<S>(result);
            return;
        }
        let words = self.depth.div_ceil(S::PER_WORD);
        let panels = (LEFT_WORDS / (S::ROWS * words)).max(1);
        for start in (0..self.rows).step_by(panels * S::ROWS) {
            let end = self.rows.min(start + panels * S::ROWS);
            self.rows::<S>(start..end, result);
        }
    }

    /// Some rows of the result, of which the left operand is packed at once.
    fn rows<S: Simd>(&self, rows: Range<usize>, result: Shared) {
        let words = self.depth.div_ceil(S::PER_WORD);
        let panel_words = (S::ROWS * words + S::LANES).next_multiple_of(LINE);
        let panels = rows.len().div_ceil(S::ROWS);
        let mut buffer = Buffer::take(&LEFT, panels * panel_words);
        let left = Shared(buffer.words().cast());
        let threads = threads(rows.len() * self.columns * self.depth);
        // A task should take longer than it takes to start it.
        let at_once = (PARALLEL / 16).div_ceil(panel_words);
        each(threads, panels.div_ceil(at_once), |chunk| {
            let first = chunk * at_once;
            let last = panels.min(first + at_once);
            // SAFETY: the processor has the instructions; panels are disjoint and have room.
            unsafe {
                S::enter(PackLeft {
                    product: self,
                    rows: rows.clone(),
                    panels: first..last,
                    panel_words,
                    to: left,
                });
            }
        });
        // Each task reads all of the left operand, so that where this is long they should be few.
        let (tasks, most) = if words > LONG {
            (threads, LONG_COLUMNS)
        } else {
            (4 * threads, COLUMNS)
        };
        let width = self.columns.div_ceil(tasks).next_multiple_of(S::COLUMNS);
        let width = width.min(most);
        let blocks = self.columns.div_ceil(width);
        // Where there are few columns, rows are shared out too.
        let groups = match threads {
            1 => 1,
            _ if blocks >= 2 * threads => 1,
            _ => (3 * threads).div_ceil(blocks).min(panels),
        };
        let group = panels.div_ceil(groups);
        let groups = panels.div_ceil(group);
        each(threads, blocks * groups, |task| {
            let (block, first) = (task / groups, task % groups * group);
            let start = block * width;
            // SAFETY: the processor has the instructions; tasks write disjoint parts of the result.
            unsafe {
                S::enter(Block {
                    product: self,
                    rows: rows.clone(),
                    panels: first..panels.min(first + group),
                    columns: start..self.columns.min(start + width),
                    panel_words,
                    left,
                    result,
                });
            }
        });
    }

    /// All of the result, which has few rows.
    fn few<S: Simd>(&self, result: Shared) {
        let vectors = self.depth.div_ceil(S::LANES * S::PER_WORD);
        let group_words = vectors * S::LANES * S::FEW;
        let groups = self.rows.div_ceil(S::FEW);
        let mut buffer = Buffer::take(&LEFT, groups * group_words);
        let left = Shared(buffer.words().cast());
        let threads = threads(self.rows * self.columns * self.depth);
        let width = self
            .columns
            .div_ceil(8 * threads)
            .clamp(1, 64)
            .next_multiple_of(24);
        for group in 0..groups {
            let rows = group * S::FEW..self.rows.min((group + 1) * S::FEW);
            // SAFETY: the processor has the instructions, and the buffer has room.
            unsafe {
                S::enter(PackFew {
                    product: self,
                    rows,
                    to: left.at(group * group_words),
                });
            }
        }
        each(threads, self.columns.div_ceil(width), |task| {
            let start = task * width;
            // SAFETY: the processor has the instructions; tasks write disjoint parts of the result.
            unsafe {
                S::enter(FewRows {
                    product: self,
                    columns: start..self.columns.min(start + width),
                    group_words,
                    left,
                    result,
                });
            }
        });
    }
}

struct PackLeft<'a, T> {
    product: &'a Product<'a, T>,
    rows: Range<usize>,
    panels: Range<usize>,
    panel_words: usize,
    to: Shared,
}

impl<T: Number> Work for PackLeft<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for panel in self.panels {
            let start = self.rows.start + panel * S::ROWS;
            let end = self.rows.end.min(start + S::ROWS);
            let depth = 0..self.product.depth;
            // SAFETY: the caller's.
            unsafe {
                let to = self.to.at(panel * self.panel_words).0.cast();
                let left = &self.product.left;
                left.pack::<S>(start..end, depth, height::<S>(end - start), to);
            }
        }
    }
}

/// Some rows and columns of the result.
struct Block<'a, T> {
    product: &'a Product<'a, T>,
    rows: Range<usize>,
    panels: Range<usize>,
    columns: Range<usize>,
    panel_words: usize,
    left: Shared,
    result: Shared,
}

impl<T: Number> Work for Block<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Product {
            ref right,
            depth,
            columns: stride,
            add,
            ..
        } = *self.product;
        let words = depth.div_ceil(S::PER_WORD);
        let width = self.columns.len().next_multiple_of(S::COLUMNS);
        let step = DEPTH.min(DEPTH * COLUMNS / width);
        let step = words.div_ceil(words.div_ceil(step));
        let room = step * width + S::LANES;
        let buffer = &mut Buffer::take(&RIGHT, room);
        let packed: *mut u32 = buffer.words();
        for first in (0..words).step_by(step) {
            let last = words.min(first + step);
            let numbers = first * S::PER_WORD..depth.min(last * S::PER_WORD);
            let panel = (last - first) * S::COLUMNS;
            let strip = if right.along { numbers.len() } else { STRIP };
            for at in numbers.clone().step_by(strip) {
                let strip = at..numbers.end.min(at + strip);
                let word = (at - numbers.start) / S::PER_WORD;
                for (index, start) in self.columns.clone().step_by(S::COLUMNS).enumerate() {
                    let end = self.columns.end.min(start + S::COLUMNS);
                    // SAFETY: the buffer has room for all panels, and the columns are in the matrix.
                    unsafe {
                        let to = packed.add(index * panel + word * S::COLUMNS);
                        right.pack::<S>(start..end, strip.clone(), S::COLUMNS, to);
                    }
                }
            }
            for row_panel in self.panels.clone() {
                let row = self.rows.start + row_panel * S::ROWS;
                let rows = S::ROWS.min(self.rows.end - row);
                let height = height::<S>(rows);
                for (index, start) in self.columns.clone().step_by(S::COLUMNS).enumerate() {
                    // SAFETY: the panels were packed, and the tile lies in the result.
                    unsafe {
                        let left = self.left.at(row_panel * self.panel_words).0.cast::<u32>();
                        S::tile(
                            height,
                            Operands {
                                depth: last - first,
                                left: left.add(first * height),
                                right: packed.add(index * panel),
                                result: self.result.at(row * stride + start).0,
                                stride,
                                rows,
                                columns: S::COLUMNS.min(self.columns.end - start),
                                add: add || first > 0,
                            },
                        );
                    }
                }
            }
        }
    }
}

struct PackFew<'a, T> {
    product: &'a Product<'a, T>,
    rows: Range<usize>,
    to: Shared,
}

impl<T: Number> Work for PackFew<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let depth = self.product.depth;
        let x = &self.product.left.numbers[self.rows.start * depth..self.rows.end * depth];
        // SAFETY: the caller's.
        unsafe { few_rows::pack::<S>(x, depth, self.to.0.cast()) };
    }
}

/// Some columns of all rows.
struct FewRows<'a, T> {
    product: &'a Product<'a, T>,
    columns: Range<usize>,
    group_words: usize,
    left: Shared,
    result: Shared,
}

impl<T: Number> Work for FewRows<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let product = self.product;
        for (group, first) in (0..product.rows).step_by(S::FEW).enumerate() {
            // SAFETY: the rows were packed, and the columns lie in weights and result.
            unsafe {
                let dots = Dots {
                    left: self.left.at(group * self.group_words).0.cast::<u32>(),
                    weights: product.right.numbers,
                    depth: product.depth,
                    result: self.result.at(first * product.columns).0,
                    stride: product.columns,
                    rows: S::FEW.min(product.rows - first),
                    add: product.add,
                };
                S::few(&dots, self.columns.clone());
            }
        }
    }
}
