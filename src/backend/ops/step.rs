//! A few tokens through all layers of a decoder at once, on the CPU.

use super::held::Held;
use super::linear::LowRank;
use super::matrix::Matrix;
use crate::backend::kernels::step;
use crate::backend::kernels::{self, dot::Numbers};
use candle_core::{DType, Result, Tensor, bail};
use std::ops::Range;

pub(crate) use crate::backend::kernels::step::Sizes;

/// A linear map, and what adapters add for some of the tokens.
pub(crate) struct Map<'a> {
    pub weight: &'a Matrix,
    pub bias: Option<&'a Tensor>,
    pub branches: Vec<(Range<usize>, LowRank<'a>)>,
}

/// What a layer computes with.
pub(crate) struct Layer<'a> {
    pub eps: f32,
    pub input_norm: &'a Tensor,
    /// The norms of queries and keys, head by head.
    pub head_norms: Option<(&'a Tensor, &'a Tensor)>,
    pub query_key_value: [Map<'a>; 3],
    pub output: Map<'a>,
    pub post_norm: &'a Tensor,
    pub gate_up: [Map<'a>; 2],
    pub down: Map<'a>,
    pub window: Option<usize>,
    /// Keys and values of each sequence, (1, `kv_heads`, capacity, `head_dim`); none where it holds nothing.
    pub caches: Vec<Option<(&'a Tensor, &'a Tensor)>>,
}

/// Consecutive tokens of one sequence.
pub(crate) struct Sequence<'a> {
    pub tokens: Range<usize>,
    /// The positions that its cache holds.
    pub held: usize,
    /// (tokens, `head_dim` / 2)
    pub cos: &'a Tensor,
    pub sin: &'a Tensor,
}

/// All layers, for tokens of one or more sequences.
pub(crate) struct Step<'a> {
    pub sizes: Sizes,
    pub layers: Vec<Layer<'a>>,
    pub sequences: Vec<Sequence<'a>>,
}

/// The most tokens that a step multiplies with a matrix: more are faster as matrix products. None where a step
/// does not take the matrix.
pub(crate) fn most_tokens(weight: &Matrix) -> usize {
    match weight {
        Matrix::Dense(weight) if kernels::takes_weights(weight) => match weight.dtype() {
            // Processors multiply pairs of these.
            DType::BF16 => 16,
            _ => 64,
        },
        Matrix::Blocks(weight) if weight.on_host().is_some() => 8,
        _ => 0,
    }
}

/// The keys and values of the tokens of a step, (layers, 2, tokens, `kv_heads` · `head_dim`).
pub(crate) struct Kept(Tensor);

impl Kept {
    /// Writes those of some tokens in one layer to the buffers of a cache, (1, `kv_heads`, capacity,
    /// `head_dim`), from `position` on.
    ///
    /// # Errors
    ///
    /// When there is no room for them.
    pub fn write(
        &self,
        layer: usize,
        tokens: &Range<usize>,
        (keys, values): (&Tensor, &Tensor),
        position: usize,
    ) -> Result<()> {
        for (what, buffer) in [keys, values].into_iter().enumerate() {
            let new = self.0.narrow(0, layer, 1)?.narrow(1, what, 1)?;
            let new = new.narrow(2, tokens.start, tokens.len())?;
            step::keep(buffer, &new, position)?;
        }
        Ok(())
    }
}

impl<'a> Step<'a> {
    /// The hidden states behind the last layer for `x` of shape (tokens, hidden), and what the caches are
    /// to keep.
    ///
    /// # Errors
    ///
    /// When a tensor does not have the shape that the sizes say, or is not contiguous.
    pub fn run(&self, x: &Tensor) -> Result<(Tensor, Kept)> {
        let (count, hidden) = x.dims2()?;
        self.check(count, hidden)?;
        let mut x = x.flatten_all()?.to_vec1::<f32>()?;
        let mut held = Vec::new();
        self.visit(&mut |tensor| {
            held.push(Held::of(tensor));
        });
        let mut held = held.iter();
        let mut next = || match held.next() {
            Some(held) => Ok(held),
            None => bail!("a tensor of the step is missing"),
        };
        let layers = self.layers.iter().map(|layer| layer.slices(&mut next));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let mut sequences = Vec::with_capacity(self.sequences.len());
        for sequence in &self.sequences {
            sequences.push(step::Sequence {
                tokens: sequence.tokens.clone(),
                held: sequence.held,
                cos: wide(next()?)?,
                sin: wide(next()?)?,
            });
        }
        let step = step::Step {
            sizes: self.sizes,
            layers,
            sequences,
        };
        let new = step.run(&mut x);
        drop(step);

        let Sizes {
            kv_heads, head_dim, ..
        } = self.sizes;
        let device = candle_core::Device::Cpu;
        let shape = (self.layers.len(), 2, count, kv_heads * head_dim);
        let kept = Kept(Tensor::from_vec(new, shape, &device)?);
        Ok((Tensor::from_vec(x, (count, hidden), &device)?, kept))
    }

    /// Visits all tensors that are read, in the order in which [`Layer::slices`] takes them.
    fn visit(&self, see: &mut impl FnMut(&'a Tensor)) {
        for layer in &self.layers {
            layer.visit(see);
        }
        for sequence in &self.sequences {
            see(sequence.cos);
            see(sequence.sin);
        }
    }

    fn check(&self, count: usize, hidden: usize) -> Result<()> {
        let Sizes {
            intermediate,
            heads,
            kv_heads,
            head_dim,
            ..
        } = self.sizes;
        let fits = |map: &Map, output: usize, input: usize| {
            let bias = map.bias.is_none_or(|bias| bias.dims() == [output]);
            Ok::<_, candle_core::Error>(
                bias && map.weight.dims()? == (output, input)
                    && map.branches.iter().all(|(tokens, branch)| {
                        tokens.end <= count
                            && branch.a.dims().get(1) == Some(&input)
                            && branch.b.dims() == [output, branch.a.dims()[0]]
                    }),
            )
        };
        let (queries, keys) = (heads * head_dim, kv_heads * head_dim);
        let mut end = 0;
        for sequence in &self.sequences {
            let angles = [sequence.tokens.len(), head_dim / 2];
            if sequence.tokens.start != end
                || sequence.cos.dims() != angles
                || sequence.sin.dims() != angles
            {
                bail!("a sequence of a step has other tokens than its rotation");
            }
            end = sequence.tokens.end;
        }
        if end != count || hidden != self.sizes.hidden || kv_heads == 0 || heads % kv_heads != 0 {
            bail!("a step of {count} tokens of {hidden} numbers does not fit its sizes");
        }
        for layer in &self.layers {
            let [q, k, v] = &layer.query_key_value;
            let [gate, up] = &layer.gate_up;
            let norms = layer
                .head_norms
                .is_none_or(|(q, k)| q.dims() == [head_dim] && k.dims() == [head_dim]);
            let caches =
                layer.caches.len() == self.sequences.len()
                    && layer.caches.iter().zip(&self.sequences).all(
                        |(cache, sequence)| match cache {
                            None => sequence.held == 0,
                            Some((keys, values)) => {
                                let dims = keys.dims();
                                keys.rank() == 4
                                    && dims == values.dims()
                                    && [dims[0], dims[1], dims[3]] == [1, kv_heads, head_dim]
                                    && dims[2] >= sequence.held
                            }
                        },
                    );
            if !(fits(q, queries, hidden)?
                && fits(k, keys, hidden)?
                && fits(v, keys, hidden)?
                && fits(&layer.output, hidden, queries)?
                && fits(gate, intermediate, hidden)?
                && fits(up, intermediate, hidden)?
                && fits(&layer.down, hidden, intermediate)?
                && norms
                && caches
                && layer.input_norm.dims() == [hidden]
                && layer.post_norm.dims() == [hidden])
            {
                bail!("a layer of a step does not fit its sizes");
            }
        }
        Ok(())
    }
}

impl<'a> Layer<'a> {
    fn maps(&self) -> impl Iterator<Item = &Map<'a>> {
        let first = self.query_key_value.iter().chain([&self.output]);
        first.chain(&self.gate_up).chain([&self.down])
    }

    fn visit(&self, see: &mut impl FnMut(&'a Tensor)) {
        see(self.input_norm);
        see(self.post_norm);
        if let Some((query, key)) = self.head_norms {
            see(query);
            see(key);
        }
        for map in self.maps() {
            match map.weight {
                Matrix::Dense(weight) => see(weight),
                Matrix::Blocks(weight) => weight.on_host().into_iter().for_each(&mut *see),
                Matrix::Affine(_) => {}
            }
            map.bias.into_iter().for_each(&mut *see);
            for (_, branch) in &map.branches {
                see(branch.packed);
            }
        }
        for (keys, values) in self.caches.iter().flatten() {
            see(keys);
            see(values);
        }
    }

    /// The layer by its numbers; `next` gives those of the tensors that [`Self::visit`] visits.
    fn slices<'n>(
        &self,
        next: &mut impl FnMut() -> Result<&'n Held<'n>>,
    ) -> Result<step::Layer<'n>> {
        let (input_norm, post_norm) = (wide(next()?)?, wide(next()?)?);
        let head_norms = match self.head_norms {
            Some(_) => Some((wide(next()?)?, wide(next()?)?)),
            None => None,
        };
        let mut maps = Vec::with_capacity(7);
        for map in self.maps() {
            maps.push(map.slices(next)?);
        }
        let Ok([q, k, v, output, gate, up, down]) = <[step::Map; 7]>::try_from(maps) else {
            bail!("a layer has seven maps");
        };
        let mut caches = Vec::with_capacity(self.caches.len());
        for cache in &self.caches {
            caches.push(match cache {
                Some((keys, _)) => step::Cache {
                    capacity: keys.dim(2)?,
                    keys: next()?.numbers()?,
                    values: next()?.numbers()?,
                },
                None => step::Cache {
                    capacity: 0,
                    keys: Numbers::F32(&[]),
                    values: Numbers::F32(&[]),
                },
            });
        }
        Ok(step::Layer {
            eps: self.eps,
            input_norm,
            head_norms,
            query_key_value: [q, k, v],
            output,
            post_norm,
            gate_up: [gate, up],
            down,
            window: self.window,
            caches,
        })
    }
}

impl Map<'_> {
    fn slices<'n>(&self, next: &mut impl FnMut() -> Result<&'n Held<'n>>) -> Result<step::Map<'n>> {
        let (output, input) = self.weight.dims()?;
        let held = next()?;
        let weights = match self.weight {
            Matrix::Blocks(weight) => step::Weights::Blocks(weight.kind(), held.bytes()?),
            _ => step::Weights::Numbers(held.numbers()?),
        };
        let bias = match self.bias {
            Some(_) => Some(wide(next()?)?),
            None => None,
        };
        let mut branches = Vec::with_capacity(self.branches.len());
        for (tokens, branch) in &self.branches {
            let rank = branch.a.dim(0)?;
            let packed = wide(next()?)?;
            let parts = packed.split_at_checked(rank * input);
            let parts =
                parts.and_then(|(a, rest)| Some((a, rest.split_at_checked(rank * output)?)));
            let Some((a, (b, row_scale))) = parts else {
                bail!("a branch of rank {rank} has too few numbers");
            };
            #[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
            branches.push(step::Branch {
                tokens: tokens.clone(),
                rank,
                a,
                b,
                row_scale: (row_scale.len() == output).then_some(row_scale),
                scaling: branch.scaling as f32,
            });
        }
        Ok(step::Map {
            weights,
            output,
            bias,
            branches,
        })
    }
}

/// Numbers that must be `f32`.
fn wide<'a>(held: &'a Held<'_>) -> Result<&'a [f32]> {
    match held.numbers()? {
        Numbers::F32(numbers) => Ok(numbers),
        _ => bail!("norms, biases, rotations and adapters of a step are f32"),
    }
}
