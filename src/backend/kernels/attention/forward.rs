//! Scores, softmax and result, a tile's rows at a time.

use super::super::gemm::Instructions;
use super::super::gemm::shared::{Buffer, Kept, PARALLEL, Shared, each, threads};
use super::super::gemm::simd::{Simd, Work};
use super::panels::{exponentials, pack_keys, pack_rows, pack_values, scores, sums, words_along};
use super::{Heads, Sizes, shared, stacked};
use std::cell::Cell;
use std::ops::Range;

/// Words of keys and values that are packed at once, where one head has no more: 16 MB.
const PACKED_WORDS: usize = 4 << 20;

/// Keys that a task packs.
const KEYS: usize = 384;

thread_local! {
    static PACKED: Kept = const { Cell::new(Vec::new()) };
    static SCRATCH: Kept = const { Cell::new(Vec::new()) };
}

/// Writes the result, as (batch, queries, heads, dim).
pub(super) fn compute(
    instructions: Instructions,
    sizes: &Sizes,
    operands: [Heads<'_>; 3],
    result: &mut [f32],
) {
    assert_eq!(
        result.len(),
        sizes.batch * sizes.queries * sizes.heads() * sizes.dim
    );
    if !result.is_empty() {
        instructions.enter(Forward {
            sizes,
            operands,
            result: shared(result),
        });
    }
}

struct Forward<'a> {
    sizes: &'a Sizes,
    operands: [Heads<'a>; 3],
    result: Shared,
}

impl Work for Forward<'_> {
    /// It only starts tasks, which enter the instructions themselves, on whichever thread.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let sizes = self.sizes;
        let key_words = words_along::<S>(sizes.keys, sizes.dim);
        let value_words = words_along::<S>(sizes.dim, sizes.keys);
        let head_words = key_words + value_words;
        let heads = sizes.batch * sizes.kv_heads;
        let at_once = (PACKED_WORDS / head_words).clamp(1, heads);
        let mut buffer = Buffer::take(&PACKED, at_once * head_words);
        let packed = Shared(buffer.words().cast());
        let of_a_head = sizes.rows() * sizes.keys * sizes.dim;
        for first in (0..heads).step_by(at_once) {
            let count = at_once.min(heads - first);
            let threads = threads(count * of_a_head);
            let place = |head: usize| {
                let index = first + head;
                let head_of_text = [index / sizes.kv_heads, index % sizes.kv_heads];
                // SAFETY: the buffer has room for so many heads.
                let keys = unsafe { packed.at(head * head_words) };
                // SAFETY: as above.
                (head_of_text, [keys, unsafe { keys.at(key_words) }])
            };
            let keys_at_once = KEYS.next_multiple_of(S::COLUMNS);
            let parts = sizes.keys.div_ceil(keys_at_once);
            each(threads, count * parts, |task| {
                let (of, to) = place(task / parts);
                let start = task % parts * keys_at_once;
                let keys = start..sizes.keys.min(start + keys_at_once);
                let [_, k, v] = self.operands;
                let work = Pack {
                    operands: [k, v],
                    of,
                    keys,
                    count: sizes.keys,
                    to,
                };
                // SAFETY: this runs where the processor has the instructions.
                unsafe { S::enter(work) };
            });
            let rows = sizes.rows();
            let of_a_tile = S::ROWS * sizes.keys * sizes.dim;
            let rows_at_once = (PARALLEL / 4).div_ceil(of_a_tile) * S::ROWS;
            let parts = rows.div_ceil(rows_at_once);
            each(threads, count * parts, |task| {
                let (of, packed) = place(task % count);
                // The last rows, which see the most, come first.
                let start = (parts - 1 - task / count) * rows_at_once;
                let work = Block {
                    sizes,
                    queries: self.operands[0],
                    of,
                    packed,
                    rows: start..rows.min(start + rows_at_once),
                    result: self.result,
                };
                // SAFETY: this runs where the processor has the instructions; tasks have rows of their own.
                unsafe { S::enter(work) };
            });
        }
    }
}

struct Pack<'a> {
    operands: [Heads<'a>; 2],
    of: [usize; 2],
    keys: Range<usize>,
    count: usize,
    to: [Shared; 2],
}

impl Work for Pack<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let [keys, values] = &self.operands;
        // SAFETY: the caller's; there is room for all keys, of which these are some.
        unsafe {
            pack_keys::<S>(keys, self.of, self.keys.clone(), self.to[0]);
            pack_values::<S>(values, self.of, self.keys, self.count, self.to[1]);
        }
    }
}

/// Some rows of a key head.
struct Block<'a> {
    sizes: &'a Sizes,
    queries: Heads<'a>,
    of: [usize; 2],
    packed: [Shared; 2],
    rows: Range<usize>,
    result: Shared,
}

impl Work for Block<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (sizes, [text, head], [keys, values]) = (self.sizes, self.of, self.packed);
        let dim = sizes.dim;
        let most = sizes.keys.next_multiple_of(S::COLUMNS) + S::COLUMNS;
        let dim_width = dim.next_multiple_of(S::COLUMNS);
        let lengths = [
            S::ROWS * dim,
            S::ROWS * dim + S::LANES,
            S::ROWS * most,
            S::ROWS * most + S::LANES,
            S::ROWS * dim_width,
        ];
        let mut buffer = Buffer::take(&SCRATCH, lengths.iter().sum());
        let [lines, packed_lines, scored, packed_scores, result] = buffer.split(lengths);
        for start in self.rows.clone().step_by(S::ROWS) {
            let rows = start..self.rows.end.min(start + S::ROWS);
            let count = rows.len();
            for (line, row) in lines.chunks_exact_mut(dim).zip(rows.clone()) {
                let query = stacked(&self.queries, sizes, [text, head], row);
                for (to, from) in line.iter_mut().zip(query) {
                    *to = from * sizes.scores.scale;
                }
            }
            let seen = sizes.seen_by(&rows);
            // From the first key of a panel on.
            let seen = seen.start / S::COLUMNS * S::COLUMNS..seen.end;
            let width = seen.len().next_multiple_of(S::COLUMNS);
            // SAFETY: the caller's; keys were packed, and rows are where they are read.
            unsafe {
                pack_rows::<S>(lines, dim, count, 0..dim, packed_lines);
                scores::<S>(packed_lines, count, dim, keys, seen.clone(), scored, width);
            }
            let mut inverses = [0f32; super::MOST_ROWS];
            let scored_rows = scored.chunks_exact_mut(width).zip(rows.clone());
            for ((scored, row), inverse) in scored_rows.zip(&mut inverses) {
                let of_row = sizes.seen(row);
                let of_row = of_row.start - seen.start..of_row.end - seen.start;
                *inverse = exponentials(scored, &of_row, &(0..width));
            }
            // SAFETY: as above.
            unsafe {
                pack_rows::<S>(scored, width, count, 0..seen.len(), packed_scores);
                let values = (values, sizes.keys);
                sums::<S>(packed_scores, count, dim, values, &seen, result);
            }
            let results = result.chunks_exact(dim_width).zip(rows);
            for ((line, row), inverse) in results.zip(inverses) {
                // SAFETY: the result has a place for each row, which no other task writes to.
                let to = unsafe {
                    let place = self.result.at(sizes.place(text, head, row));
                    std::slice::from_raw_parts_mut(place.0, dim)
                };
                for (to, from) in to.iter_mut().zip(line) {
                    *to = from * inverse;
                }
            }
        }
    }
}
