//! Rotary position embedding.

use super::heads::{Heads, heads_of};
use super::{EachRow, made_of_rows, numbers_of};
use candle_core::{Result, Tensor, bail};

/// Rotates heads, (batch, heads, tokens, dim), by the angles whose cosines and sines, (tokens, dim / 2), are
/// given, or by the opposite ones. The result lies in memory as (batch, tokens, heads, dim).
pub(in crate::backend) fn rotate(
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    opposite: bool,
) -> Result<Tensor> {
    let (batch, heads, tokens, dim) = x.dims4()?;
    if cos.dims() != [tokens, dim / 2]
        || sin.dims() != cos.dims()
        || dim % 2 == 1
        || heads * dim == 0
    {
        bail!("no rotation of {:?} by {:?}", x.dims(), cos.dims());
    }
    let guards = [x, cos, sin].map(Tensor::storage_and_layout);
    let rotation = Rotate {
        x: Heads::of(&guards[0].0, guards[0].1)?,
        cos: numbers_of(&guards[1].0, guards[1].1)?,
        sin: numbers_of(&guards[2].0, guards[2].1)?,
        sign: if opposite { -1.0 } else { 1.0 },
    };
    let result = made_of_rows(batch * tokens, heads * dim, &rotation);
    heads_of(result, [batch, tokens, heads, dim])
}

struct Rotate<'a> {
    x: Heads<'a>,
    cos: &'a [f32],
    sin: &'a [f32],
    sign: f32,
}

impl EachRow for Rotate<'_> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as the trait says")]
    fn row(&self, index: usize, row: &mut [f32]) {
        let [_, _, tokens, dim] = self.x.dims;
        let (text, token) = (index / tokens, index % tokens);
        let half = dim / 2;
        let angles = token * half..(token + 1) * half;
        let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
        for (head, to) in row.chunks_exact_mut(dim).enumerate() {
            let (a, b) = self.x.row(text, head, token).split_at(half);
            let (to_a, to_b) = to.split_at_mut(half);
            let to = to_a.iter_mut().zip(to_b);
            for (((to_a, to_b), (a, b)), (cos, sin)) in
                to.zip(a.iter().zip(b)).zip(cos.iter().zip(sin))
            {
                let sin = self.sign * sin;
                *to_a = a * cos - b * sin;
                *to_b = a * sin + b * cos;
            }
        }
    }
}
