//! The linear maps of a layer, with adapters beside them.

use super::input::Input;
use super::shared::Shared;
use crate::backend::kernels::blocks::dot_rows;
use crate::backend::kernels::dot::{Numbers, dots};
use crate::backend::ops::blocks::BlockType;
use std::ops::Range;

/// A matrix (out, in), as it is kept.
#[derive(Clone, Copy)]
pub(in crate::backend) enum Weights<'a> {
    Numbers(Numbers<'a>),
    /// Those of a GGUF file.
    Blocks(BlockType, &'a [u8]),
}

/// A linear map.
pub(in crate::backend) struct Map<'a> {
    pub weights: Weights<'a>,
    pub output: usize,
    pub bias: Option<&'a [f32]>,
    pub branches: Vec<Branch<'a>>,
}

/// `row_scale ∘ y + scaling · B A x`, for some of the tokens.
pub(in crate::backend) struct Branch<'a> {
    pub tokens: Range<usize>,
    pub rank: usize,
    /// (rank, in)
    pub a: &'a [f32],
    /// (out, rank)
    pub b: &'a [f32],
    pub row_scale: Option<&'a [f32]>,
    pub scaling: f32,
}

/// Ranks that are one chunk.
const RANKS: usize = 8;

impl Branch<'_> {
    /// The numbers between A and B.
    fn ranks(&self) -> usize {
        self.tokens.len() * self.rank
    }
}

impl Map<'_> {
    /// The numbers between A and B of all branches.
    pub fn ranks(&self) -> usize {
        self.branches.iter().map(Branch::ranks).sum()
    }

    /// The outputs `rows` of all tokens, as (tokens, rows). `down` is what [`Maps::down`] made for this map.
    pub(super) fn rows(&self, rows: Range<usize>, input: &Input, down: &[f32], y: &mut [f32]) {
        let (width, len) = (input.width, rows.len());
        match self.weights {
            Weights::Numbers(weights) => {
                let weights = weights.part(rows.start * width..rows.end * width);
                dots(weights, width, &input.numbers, y, len);
            }
            Weights::Blocks(kind, blocks) if y.len() == len => {
                dot_rows(kind, blocks, rows.clone(), &input.codes, &mut [&mut *y]);
            }
            Weights::Blocks(kind, blocks) => {
                let mut tokens: Vec<_> = y.chunks_exact_mut(len).collect();
                dot_rows(kind, blocks, rows.clone(), &input.codes, &mut tokens);
            }
        }
        let mut down = down;
        for branch in &self.branches {
            let (mine, others) = down.split_at(branch.ranks());
            down = others;
            let tokens = branch.tokens.start * len..branch.tokens.end * len;
            let tokens = y[tokens].chunks_exact_mut(len);
            for (y, down) in tokens.zip(mine.chunks_exact(branch.rank)) {
                for (row, y) in rows.clone().zip(y) {
                    let b = &branch.b[row * branch.rank..][..branch.rank];
                    let scale = branch.row_scale.map_or(1.0, |scale| scale[row]);
                    *y = *y * scale + short_dot(b, down);
                }
            }
        }
        if let Some(bias) = self.bias {
            for y in y.chunks_exact_mut(len) {
                for (y, bias) in y.iter_mut().zip(&bias[rows.clone()]) {
                    *y += bias;
                }
            }
        }
    }
}

/// The inner product of vectors so short that a call would take most of the time.
fn short_dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Maps of the same input, whose outputs lie one after the other.
pub(super) struct Maps<'a>(pub &'a [Map<'a>]);

impl Maps<'_> {
    /// Makes what else than numbers the maps take of an input.
    pub fn prepare(&self, input: &mut Input) {
        let is_in_blocks = |map: &Map| matches!(map.weights, Weights::Blocks(..));
        if self.0.iter().any(is_in_blocks) {
            input.codes.quantize(&input.numbers, input.width);
        }
    }

    /// Chunks of the way through all A.
    pub fn down_chunks(&self) -> usize {
        let branches = self.0.iter().flat_map(|map| &map.branches);
        branches.map(|branch| branch.rank.div_ceil(RANKS)).sum()
    }

    /// One of those chunks: `scaling · A x` into its place in `down`.
    pub fn down(&self, chunk: usize, input: &Input, down: &Shared<'_>, y: &mut Vec<f32>) {
        let (mut chunk, mut place) = (chunk, 0);
        for branch in self.0.iter().flat_map(|map| &map.branches) {
            let chunks = branch.rank.div_ceil(RANKS);
            if chunk < chunks {
                let width = input.width;
                let ranks = chunk * RANKS..branch.rank.min((chunk + 1) * RANKS);
                let a = Numbers::F32(branch.a).part(ranks.start * width..ranks.end * width);
                let x = &input.numbers[branch.tokens.start * width..branch.tokens.end * width];
                let tokens = branch.tokens.len();
                y.resize(ranks.len() * tokens, 0.0);
                dots(a, width, x, y, ranks.len());
                for (token, y) in y.chunks_exact(ranks.len()).enumerate() {
                    let start = place + token * branch.rank;
                    // SAFETY: each chunk writes its own ranks, and nobody reads before the phase is over.
                    let down = unsafe { down.write(start + ranks.start..start + ranks.end) };
                    for (down, y) in down.iter_mut().zip(y) {
                        *down = branch.scaling * y;
                    }
                }
                return;
            }
            chunk -= chunks;
            place += branch.ranks();
        }
    }

    /// The outputs of all maps.
    pub fn outputs(&self) -> usize {
        self.0.iter().map(|map| map.output).sum()
    }

    /// Chunks of `size` outputs, of which none is of two maps.
    pub fn chunks(&self, size: usize) -> usize {
        self.0.iter().map(|map| map.output.div_ceil(size)).sum()
    }

    /// The outputs of a chunk, as (tokens, rows) in `y`; gives the place of the first among those of all
    /// maps.
    pub fn rows(
        &self,
        chunk: usize,
        size: usize,
        input: &Input,
        down: &[f32],
        y: &mut Vec<f32>,
    ) -> usize {
        let count = input.numbers.len() / input.width;
        let (mut chunk, mut place, mut down) = (chunk, 0, down);
        for map in self.0 {
            let chunks = map.output.div_ceil(size);
            if chunk < chunks {
                let rows = chunk * size..map.output.min((chunk + 1) * size);
                place += rows.start;
                y.resize(rows.len() * count, 0.0);
                map.rows(rows, input, down, y);
                return place;
            }
            chunk -= chunks;
            place += map.output;
            down = down.split_at(map.ranks()).1;
        }
        y.clear();
        place
    }
}
