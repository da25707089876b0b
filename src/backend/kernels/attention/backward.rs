//! The gradients of attention, a key head a task.

use super::super::gemm::Instructions;
use super::super::gemm::pack::View;
use super::super::gemm::shared::{Buffer, Kept, Shared, each, threads};
use super::super::gemm::simd::{Simd, Work, height};
use super::super::gemm::tile;
use super::panels::{
    dot, exponentials, pack_keys, pack_rows, pack_values, scores, sums, vectors, words_along,
};
use super::{Heads, Sizes, shared, stacked};
use std::cell::Cell;
use std::ops::Range;

/// Numbers in the scores of the rows over which the gradients of keys and values are summed at once: with
/// their gradients they fit the second cache.
const SCORES: usize = 1 << 16;

thread_local! {
    static PACKED: Kept = const { Cell::new(Vec::new()) };
    static SCRATCH: Kept = const { Cell::new(Vec::new()) };
}

pub(super) struct Operands<'a> {
    pub queries: Heads<'a>,
    pub keys: Heads<'a>,
    pub values: Heads<'a>,
    pub output: Heads<'a>,
    pub doutput: Heads<'a>,
}

/// Writes the gradients of queries, keys and values, as (batch, tokens, heads, dim), where there are zeros.
pub(super) fn compute(
    instructions: Instructions,
    sizes: &Sizes,
    operands: &Operands<'_>,
    [dq, dk, dv]: &mut [Vec<f32>; 3],
) {
    let of_keys = sizes.batch * sizes.keys * sizes.kv_heads * sizes.dim;
    assert_eq!(
        dq.len(),
        sizes.batch * sizes.queries * sizes.heads() * sizes.dim
    );
    assert!(dk.len() == of_keys && dv.len() == of_keys);
    if !dq.is_empty() {
        instructions.enter(Backward {
            sizes,
            operands,
            gradients: [shared(dq), shared(dk), shared(dv)],
        });
    }
}

struct Backward<'a> {
    sizes: &'a Sizes,
    operands: &'a Operands<'a>,
    gradients: [Shared; 3],
}

impl Work for Backward<'_> {
    /// It only starts tasks, which enter the instructions themselves, on whichever thread.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let sizes = self.sizes;
        let heads = sizes.batch * sizes.kv_heads;
        let threads = threads(heads * sizes.rows() * sizes.keys * sizes.dim);
        each(threads, heads, |index| {
            let work = Head {
                sizes,
                operands: self.operands,
                of: [index / sizes.kv_heads, index % sizes.kv_heads],
                gradients: self.gradients,
            };
            // SAFETY: this runs where the processor has the instructions; tasks have heads of their own.
            unsafe { S::enter(work) };
        });
    }
}

/// One key head, with all heads that share it.
struct Head<'a> {
    sizes: &'a Sizes,
    operands: &'a Operands<'a>,
    of: [usize; 2],
    gradients: [Shared; 3],
}

/// Keys and values of a head: keys and values for products with rows, and keys for sums over them.
#[derive(Clone, Copy)]
struct Packed([Shared; 3]);

impl Work for Head<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (sizes, of) = (self.sizes, self.of);
        let (keys, dim) = (sizes.keys, sizes.dim);
        let along = words_along::<S>(keys, dim);
        let mut buffer = Buffer::take(&PACKED, 2 * along + words_along::<S>(dim, keys));
        let packed: Shared = Shared(buffer.words().cast());
        // SAFETY: the buffer has room for the three.
        let packed = unsafe { [packed, packed.at(along), packed.at(2 * along)] };
        // SAFETY: the caller's, and as above.
        unsafe {
            pack_keys::<S>(&self.operands.keys, of, 0..keys, packed[0]);
            pack_keys::<S>(&self.operands.values, of, 0..keys, packed[1]);
            pack_values::<S>(&self.operands.keys, of, 0..keys, keys, packed[2]);
        }
        let rows = sizes.rows();
        let most = keys.next_multiple_of(S::COLUMNS);
        let at_once = (SCORES / most / S::ROWS).max(1) * S::ROWS;
        let at_once = at_once.min(rows.next_multiple_of(S::ROWS));
        for start in (0..rows).step_by(at_once) {
            // SAFETY: the caller's; all was packed.
            unsafe {
                self.rows::<S>(start..rows.min(start + at_once), at_once, Packed(packed));
            }
        }
    }
}

/// Some rows that are computed at once, and the first key and number of the columns of their scores.
struct Block {
    rows: Range<usize>,
    first: usize,
    width: usize,
}

/// Memory for so many rows.
struct Scratch<'a> {
    at_once: usize,
    /// Of scaled queries and of the gradients of results: panels of `COLUMNS` dimensions of all rows.
    panels: [&'a mut [f32]; 2],
    /// The gradients of scores, and probabilities.
    scores: [&'a mut [f32]; 2],
    /// Scaled queries and gradients of results of a tile's rows.
    lines: [&'a mut [f32]; 2],
    /// The left operand of a tile.
    left: &'a mut [f32],
    result: &'a mut [f32],
}

impl Head<'_> {
    /// The part of the gradients that some rows have in them.
    #[inline(always)]
    unsafe fn rows<S: Simd>(&self, rows: Range<usize>, at_once: usize, packed: Packed) {
        let sizes = self.sizes;
        let dim = sizes.dim;
        let dim_width = dim.next_multiple_of(S::COLUMNS);
        let most = sizes.keys.next_multiple_of(S::COLUMNS);
        let lengths = [
            at_once * dim_width,
            at_once * dim_width,
            at_once * most,
            at_once * most,
            S::ROWS * dim,
            S::ROWS * dim,
            S::ROWS * dim.max(most).max(at_once) + S::LANES,
            S::ROWS * dim_width,
        ];
        let mut buffer = Buffer::take(&SCRATCH, lengths.iter().sum());
        let [queries, doutputs, ds, p, query, doutput, left, result] = buffer.split(lengths);
        let mut scratch = Scratch {
            at_once,
            panels: [queries, doutputs],
            scores: [ds, p],
            lines: [query, doutput],
            left,
            result,
        };
        let seen = sizes.seen_by(&rows);
        let first = seen.start / S::COLUMNS * S::COLUMNS;
        let block = Block {
            first,
            width: (seen.end - first).next_multiple_of(S::COLUMNS),
            rows,
        };
        for start in block.rows.clone().step_by(S::ROWS) {
            let tile = start..block.rows.end.min(start + S::ROWS);
            // SAFETY: the caller's.
            unsafe { self.tile::<S>(tile, &block, packed, &mut scratch) };
        }
        for (operand, gradient) in self.gradients[1..].iter().enumerate() {
            // SAFETY: the caller's.
            unsafe { self.onto_keys::<S>(&block, &mut scratch, operand, *gradient) };
        }
    }

    /// Writes what a tile's rows have in the panels and scores, and the gradients of their queries.
    #[inline(always)]
    unsafe fn tile<S: Simd>(
        &self,
        rows: Range<usize>,
        block: &Block,
        Packed([keys, values, keys_across]): Packed,
        scratch: &mut Scratch<'_>,
    ) {
        let (sizes, [text, head], operands) = (self.sizes, self.of, self.operands);
        let (dim, count, width) = (sizes.dim, rows.len(), block.width);
        let at = rows.start - block.rows.start;
        for (row, line) in rows.clone().zip(0..) {
            let query = stacked(&operands.queries, sizes, [text, head], row);
            let doutput = stacked(&operands.doutput, sizes, [text, head], row);
            let line = line * dim..(line + 1) * dim;
            for (to, from) in scratch.lines[0][line.clone()].iter_mut().zip(query) {
                *to = from * sizes.scores.scale;
            }
            scratch.lines[1][line].copy_from_slice(doutput);
        }
        for (panels, lines) in scratch.panels.iter_mut().zip(&scratch.lines) {
            for (row, line) in lines.chunks_exact(dim).take(count).enumerate() {
                for (panel, part) in line.chunks(S::COLUMNS).enumerate() {
                    let start = (panel * scratch.at_once + at + row) * S::COLUMNS;
                    panels[start..start + part.len()].copy_from_slice(part);
                }
            }
        }
        let seen = sizes.seen_by(&rows);
        let seen = seen.start / S::COLUMNS * S::COLUMNS..seen.end;
        let offset = seen.start - block.first;
        let written = offset..offset + seen.len().next_multiple_of(S::COLUMNS);
        let left = &mut *scratch.left;
        let part = at * width..(at + count) * width;
        let [ds, p] = &mut scratch.scores;
        let (ds, p) = (&mut ds[part.clone()], &mut p[part]);
        let [queries, doutputs] = &scratch.lines;
        for (lines, packed, to) in [(queries, keys, &mut *p), (doutputs, values, &mut *ds)] {
            let to = &mut to[offset..];
            // SAFETY: the caller's; keys and values were packed.
            unsafe {
                pack_rows::<S>(lines, dim, count, 0..dim, left);
                scores::<S>(left, count, dim, packed, seen.clone(), to, width);
            }
        }
        let scored = p.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width));
        let scored = scored.zip(doutputs.chunks_exact(dim));
        for (((p, ds), doutput), row) in scored.zip(rows.clone()) {
            let of_row = sizes.seen(row);
            let of_row = of_row.start - block.first..of_row.end - block.first;
            let inverse = exponentials(p, &of_row, &written);
            // The gradient through the softmax: p · (dp - <p, dp>), where <p, dp> = <output, doutput>.
            let along = dot(stacked(&operands.output, sizes, [text, head], row), doutput);
            let within = vectors(&of_row, &written);
            ds[..within.start].fill(0.0);
            ds[within.end..].fill(0.0);
            for (p, ds) in p[within.clone()].iter_mut().zip(&mut ds[within]) {
                *p *= inverse;
                *ds = *p * (*ds - along);
            }
        }
        // SAFETY: as above.
        unsafe {
            let depth = offset..offset + seen.len();
            pack_rows::<S>(ds, width, count, depth, left);
            let keys = (keys_across, sizes.keys);
            sums::<S>(left, count, dim, keys, &seen, scratch.result);
        }
        let dim_width = dim.next_multiple_of(S::COLUMNS);
        for (line, row) in scratch.result.chunks_exact(dim_width).zip(rows) {
            // SAFETY: the gradient has a place for each row, which no other task writes to.
            let to = unsafe {
                let place = self.gradients[0].at(sizes.place(text, head, row));
                std::slice::from_raw_parts_mut(place.0, dim)
            };
            for (to, from) in to.iter_mut().zip(line) {
                *to = from * sizes.scores.scale;
            }
        }
    }

    /// Adds to a gradient of keys or values the sums over rows of the operand's scores times its panels.
    #[inline(always)]
    unsafe fn onto_keys<S: Simd>(
        &self,
        block: &Block,
        scratch: &mut Scratch<'_>,
        operand: usize,
        gradient: Shared,
    ) {
        let (sizes, [text, head]) = (self.sizes, self.of);
        let (dim, at_once) = (sizes.dim, scratch.at_once);
        let (panels, left) = (&*scratch.panels[operand], &mut *scratch.left);
        let scored = View {
            numbers: &*scratch.scores[operand],
            stride: block.width,
            along: false,
        };
        let seen = sizes.seen_by(&block.rows);
        for start in (seen.start..seen.end).step_by(S::ROWS) {
            let keys = start..seen.end.min(start + S::ROWS);
            let seeing = self.seeing(&block.rows, &keys);
            if seeing.is_empty() {
                continue;
            }
            let depth = seeing.start - block.rows.start..seeing.end - block.rows.start;
            let columns = keys.start - block.first..keys.end - block.first;
            assert!(scored.has(block.width, depth.end) && depth.end <= at_once);
            assert!(panels.len() >= at_once * dim.next_multiple_of(S::COLUMNS));
            assert!(left.len() >= S::ROWS * depth.len() + S::LANES);
            let height = height::<S>(keys.len());
            let place = ((text * sizes.keys + keys.start) * sizes.kv_heads + head) * dim;
            // SAFETY: the caller's; lengths were checked, and the gradient has a place for each key, which no
            // other task writes to.
            unsafe {
                let words = left.as_mut_ptr().cast::<u32>();
                scored.pack::<S>(columns, depth.clone(), height, words);
                for column in (0..dim).step_by(S::COLUMNS) {
                    let panel = column * at_once + depth.start * S::COLUMNS;
                    S::tile(
                        height,
                        tile::Operands {
                            depth: depth.len(),
                            left: words,
                            right: panels.as_ptr().add(panel).cast(),
                            result: gradient.at(place + column).0,
                            stride: sizes.kv_heads * dim,
                            rows: keys.len(),
                            columns: S::COLUMNS.min(dim - column),
                            add: true,
                        },
                    );
                }
            }
        }
    }

    /// The rows among the given that see one of the keys.
    fn seeing(&self, rows: &Range<usize>, keys: &Range<usize>) -> Range<usize> {
        let sizes = self.sizes;
        let before = sizes.keys - sizes.queries;
        let row = |position: usize| position.saturating_sub(before).saturating_mul(sizes.per_kv);
        let end = match sizes.scores.window {
            // The last key is the oldest of as many as the window has.
            Some(window) => row((keys.end - 1).saturating_add(window)),
            None => rows.end,
        };
        row(keys.start).max(rows.start)..end.min(rows.end)
    }
}
