//! A few tokens through all layers of a decoder at once, on the CPU.
//!
//! Operations one by one would wake the threads for each product of some ten microseconds, and write and
//! read what lies between. Here the threads go through all layers together ([`team`]); what is small, norms
//! and rotations, each computes for itself.

#![allow(unsafe_code, reason = "threads write parts of the same vectors")]

mod attention;
mod input;
mod keep;
mod map;
mod shared;
mod team;

pub(in crate::backend) use keep::keep;
pub(in crate::backend) use map::{Branch, Map, Weights};

use super::dot::{Numbers, swiglu_all};
use attention::Attention;
use input::Input;
use map::Maps;
use shared::Shared;
use std::cell::RefCell;
use std::ops::Range;
use team::Team;

/// The sizes of a decoder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Sizes {
    /// The numbers of a token's queries, keys and values.
    fn projected(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// What a layer computes with.
pub(in crate::backend) struct Layer<'a> {
    pub eps: f32,
    pub input_norm: &'a [f32],
    /// The norms of queries and keys, head by head.
    pub head_norms: Option<(&'a [f32], &'a [f32])>,
    pub query_key_value: [Map<'a>; 3],
    pub output: Map<'a>,
    pub post_norm: &'a [f32],
    pub gate_up: [Map<'a>; 2],
    pub down: Map<'a>,
    pub window: Option<usize>,
    /// Of each sequence.
    pub caches: Vec<Cache<'a>>,
}

/// The keys and values of one sequence in one layer, (`kv_heads`, `capacity`, `head_dim`).
#[derive(Clone, Copy)]
pub(in crate::backend) struct Cache<'a> {
    pub keys: Numbers<'a>,
    pub values: Numbers<'a>,
    pub capacity: usize,
}

/// Consecutive tokens of one sequence, and the positions that its cache holds.
pub(in crate::backend) struct Sequence<'a> {
    pub tokens: Range<usize>,
    pub held: usize,
    /// Cosines and sines of its tokens' positions, (tokens, `head_dim` / 2).
    pub cos: &'a [f32],
    pub sin: &'a [f32],
}

/// All that a step computes with.
pub(in crate::backend) struct Step<'a> {
    pub sizes: Sizes,
    pub layers: Vec<Layer<'a>>,
    pub sequences: Vec<Sequence<'a>>,
}

/// Phases of a layer.
const PHASES: usize = 9;

/// What the threads share.
struct Buffers<'a> {
    /// The hidden states, (tokens, hidden), and those between the two halves of a layer.
    x: Shared<'a>,
    residual: Shared<'a>,
    /// Queries, keys and values of each token.
    projected: Shared<'a>,
    /// What splits of the attention found.
    parts: Shared<'a>,
    /// What goes into the last map, (tokens, intermediate).
    activated: Shared<'a>,
    /// What lies between the two matrices of adapters.
    down: Shared<'a>,
    /// The keys and values to keep.
    new: Shared<'a>,
}

/// What a thread has for itself.
#[derive(Default)]
struct Scratch {
    input: Input,
    outputs: Vec<f32>,
    attention: attention::Scratch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static BUFFER: RefCell<Vec<f32>> = RefCell::default();
}

impl Step<'_> {
    /// Replaces the tokens' hidden states, `x` of shape (tokens, hidden), by those behind the last layer,
    /// and gives their keys and values: of each layer the keys, (tokens, `kv_heads`, `head_dim`), and
    /// then the values.
    ///
    /// # Panics
    ///
    /// When slices do not have the sizes that [`Sizes`] says.
    pub fn run(&self, x: &mut [f32]) -> Vec<f32> {
        let Sizes {
            hidden,
            intermediate,
            kv_heads,
            head_dim,
            ..
        } = self.sizes;
        let count = x.len() / hidden;
        let attention = Attention::new(self);
        let mut new = vec![0f32; self.layers.len() * 2 * count * kv_heads * head_dim];
        let lengths = [
            count * hidden,
            count * self.sizes.projected(),
            attention.parts(),
            count * intermediate,
            self.ranks(),
        ];
        // Kept from step to step; where a step is within another one's wait, it has a new one.
        let mut buffer = BUFFER.with(RefCell::take);
        buffer.resize(lengths.iter().sum(), 0.0);
        let mut rest = &mut buffer[..];
        let [residual, projected, parts, activated, down] = lengths.map(|len| {
            let (part, others) = std::mem::take(&mut rest).split_at_mut(len);
            rest = others;
            Shared::new(part)
        });
        let buffers = Buffers {
            x: Shared::new(x),
            residual,
            projected,
            parts,
            activated,
            down,
            new: Shared::new(&mut new),
        };
        Team::run(self.layers.len() * PHASES, |team| {
            let mut scratch = SCRATCH.with(RefCell::take);
            for (index, layer) in self.layers.iter().enumerate() {
                let program = Program {
                    team,
                    first: index * PHASES,
                    index,
                    layer,
                    sizes: self.sizes,
                    count,
                    attention: &attention,
                    buffers: &buffers,
                };
                program.run(&mut scratch);
            }
            SCRATCH.set(scratch);
        });
        BUFFER.set(buffer);
        new
    }

    /// The most numbers between the two matrices of adapters that maps of one input have.
    fn ranks(&self) -> usize {
        let of = |maps: &[Map]| maps.iter().map(Map::ranks).sum::<usize>();
        let layers = self.layers.iter().flat_map(|layer| {
            [
                of(&layer.query_key_value),
                layer.output.ranks(),
                of(&layer.gate_up),
                layer.down.ranks(),
            ]
        });
        layers.max().unwrap_or(0)
    }
}

/// The way of a thread through one layer.
struct Program<'a> {
    team: &'a Team,
    /// The number of the layer's first phase.
    first: usize,
    index: usize,
    layer: &'a Layer<'a>,
    sizes: Sizes,
    count: usize,
    attention: &'a Attention<'a>,
    buffers: &'a Buffers<'a>,
}

impl Program<'_> {
    // SAFETY of all that is read or written here: a phase reads what the phases before it wrote, which are
    // over, and writes what nobody reads before it is over; each of its chunks writes a part of its own.
    fn run(&self, scratch: &mut Scratch) {
        let Buffers {
            x,
            residual,
            projected,
            parts,
            activated,
            new,
            ..
        } = self.buffers;
        let layer = self.layer;
        let Sizes {
            hidden,
            intermediate,
            kv_heads,
            head_dim,
            ..
        } = self.sizes;
        let Scratch {
            input,
            outputs,
            attention,
        } = scratch;
        let width = self.sizes.projected();

        // SAFETY: as above.
        let prepare =
            |input: &mut Input| input.norm(unsafe { x.read() }, layer.input_norm, layer.eps);
        let maps = Maps(&layer.query_key_value);
        self.product(0, &maps, prepare, input, outputs, |place, outputs| {
            self.write(projected, width, place, outputs);
        });

        let kept = self.index * 2 * self.count * kv_heads * head_dim;
        self.phase(2, self.attention.chunks(), |chunk| {
            // SAFETY: as above.
            let projected = unsafe { projected.read() };
            let new = (new, kept);
            self.attention
                .chunk(chunk, layer, projected, parts, new, attention);
        });

        let prepare = |input: &mut Input| {
            // SAFETY: as above.
            let parts = unsafe { parts.read() };
            self.attention.context(parts, input);
        };
        let maps = Maps(std::slice::from_ref(&layer.output));
        self.product(3, &maps, prepare, input, outputs, |place, outputs| {
            // SAFETY: as above.
            self.add(outputs, place, unsafe { x.read() });
            self.write(residual, hidden, place, outputs);
        });

        let prepare = |input: &mut Input| {
            // SAFETY: as above.
            input.norm(unsafe { residual.read() }, layer.post_norm, layer.eps);
        };
        self.feed_forward(prepare, input, outputs, |place, outputs| {
            self.write(activated, intermediate, place, outputs);
        });

        let prepare = |input: &mut Input| {
            // SAFETY: as above.
            let activated = unsafe { activated.read() };
            input.set(self.count, intermediate, |input| {
                input.copy_from_slice(activated);
            });
        };
        let maps = Maps(std::slice::from_ref(&layer.down));
        self.product(7, &maps, prepare, input, outputs, |place, outputs| {
            // SAFETY: as above.
            self.add(outputs, place, unsafe { residual.read() });
            self.write(x, hidden, place, outputs);
        });
    }

    fn phase(&self, phase: usize, chunks: usize, work: impl FnMut(usize)) {
        self.team.phase(self.first + phase, chunks, work);
    }

    /// Outputs of one chunk: so many that each thread has several.
    fn chunk_size(outputs: usize) -> usize {
        const LEAST: usize = 8;
        (outputs / (8 * rayon::current_num_threads()))
            .next_multiple_of(LEAST)
            .max(LEAST)
    }

    /// Two phases: the way through the adapters' first matrices, and the outputs of the maps, of which
    /// `write` gets some rows of all tokens and the place of the first.
    fn product(
        &self,
        phase: usize,
        maps: &Maps<'_>,
        prepare: impl Fn(&mut Input),
        input: &mut Input,
        outputs: &mut Vec<f32>,
        write: impl Fn(usize, &mut [f32]),
    ) {
        let mut is_ready = self.downs(phase, maps, &prepare, input, outputs);
        let size = Self::chunk_size(maps.outputs());
        self.phase(phase + 1, maps.chunks(size), |chunk| {
            if !std::mem::replace(&mut is_ready, true) {
                prepare(input);
                maps.prepare(input);
            }
            // SAFETY: the phase before, which wrote it, is over.
            let down = unsafe { self.buffers.down.read() };
            let place = maps.rows(chunk, size, input, down, outputs);
            write(place, outputs);
        });
    }

    /// The way through the first matrices of the maps' adapters. Whether the input was made for it.
    fn downs(
        &self,
        phase: usize,
        maps: &Maps<'_>,
        prepare: &impl Fn(&mut Input),
        input: &mut Input,
        outputs: &mut Vec<f32>,
    ) -> bool {
        let mut is_ready = false;
        self.phase(phase, maps.down_chunks(), |chunk| {
            if !std::mem::replace(&mut is_ready, true) {
                prepare(input);
                maps.prepare(input);
            }
            maps.down(chunk, input, &self.buffers.down, outputs);
        });
        is_ready
    }

    /// The product of the gate, activated, and the other map: phases 5 and 6.
    fn feed_forward(
        &self,
        prepare: impl Fn(&mut Input),
        input: &mut Input,
        outputs: &mut Vec<f32>,
        write: impl Fn(usize, &mut [f32]),
    ) {
        let maps @ [gate, up] = &self.layer.gate_up;
        let both = Maps(maps);
        let mut is_ready = self.downs(5, &both, &prepare, input, outputs);
        let size = Self::chunk_size(gate.output);
        self.phase(6, gate.output.div_ceil(size), |chunk| {
            if !std::mem::replace(&mut is_ready, true) {
                prepare(input);
                both.prepare(input);
            }
            // SAFETY: the phase before, which wrote it, is over.
            let down = unsafe { self.buffers.down.read() };
            let rows = chunk * size..gate.output.min((chunk + 1) * size);
            let half = rows.len() * self.count;
            outputs.resize(2 * half, 0.0);
            let (gates, ups) = outputs.split_at_mut(half);
            gate.rows(rows.clone(), input, down, gates);
            up.rows(rows.clone(), input, &down[gate.ranks()..], ups);
            swiglu_all(ups, gates);
            write(rows.start, gates);
        });
    }

    /// Writes some outputs of all tokens, (tokens, rows), to their place in `to`, (tokens, width).
    fn write(&self, to: &Shared<'_>, width: usize, place: usize, outputs: &[f32]) {
        let rows = outputs.len() / self.count;
        for (token, outputs) in outputs.chunks_exact(rows.max(1)).enumerate() {
            let start = token * width + place;
            // SAFETY: nobody else writes these rows, and nobody reads them before the phase is over.
            unsafe { to.write(start..start + rows) }.copy_from_slice(outputs);
        }
    }

    /// Adds the numbers of `x`, (tokens, hidden), to some outputs, (tokens, rows).
    fn add(&self, outputs: &mut [f32], place: usize, x: &[f32]) {
        let rows = (outputs.len() / self.count).max(1);
        let x = x.chunks_exact(self.sizes.hidden);
        for (outputs, x) in outputs.chunks_exact_mut(rows).zip(x) {
            for (output, x) in outputs.iter_mut().zip(&x[place..]) {
                *output += x;
            }
        }
    }
}
