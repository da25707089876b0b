//! Root-mean-square normalisation, and its gradient with respect to its input.

use super::{EachRow, made_of_rows, numbers_of};
use candle_core::{Result, Tensor, bail};

pub(in crate::backend) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let guards = [x, weight].map(Tensor::storage_and_layout);
    let work = Forward {
        x: numbers_of(&guards[0].0, guards[0].1)?,
        weight: numbers_of(&guards[1].0, guards[1].1)?,
        eps,
    };
    let (len, width) = (work.x.len(), work.weight.len());
    if width == 0 || !len.is_multiple_of(width) {
        bail!("no norm of {:?} by {width} weights", x.dims());
    }
    let result = made_of_rows(len / width, width, &work);
    Tensor::from_vec(result, x.shape(), x.device())
}

/// The gradient of [`rms_norm`] with respect to `x`, and `more`, what else that is made of.
pub(in crate::backend) fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    dy: &Tensor,
    more: Option<&Tensor>,
) -> Result<Tensor> {
    let guards = [x, weight, dy].map(Tensor::storage_and_layout);
    let more = more.map(Tensor::storage_and_layout);
    let work = Backward {
        x: numbers_of(&guards[0].0, guards[0].1)?,
        weight: numbers_of(&guards[1].0, guards[1].1)?,
        dy: numbers_of(&guards[2].0, guards[2].1)?,
        more: match &more {
            Some((storage, layout)) => Some(numbers_of(storage, layout)?),
            None => None,
        },
        eps,
    };
    let (len, width) = (work.x.len(), work.weight.len());
    let fits = work.dy.len() == len && work.more.is_none_or(|more| more.len() == len);
    if width == 0 || !len.is_multiple_of(width) || !fits {
        bail!("no gradient of a norm of {:?} by {width} weights", x.dims());
    }
    let result = made_of_rows(len / width, width, &work);
    Tensor::from_vec(result, x.shape(), x.device())
}

/// Sums are of so many numbers at once.
const LANES: usize = 16;

/// The sums of what is made of each element of a row, by its index.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it is vectorised where it is called")]
fn sums<const SUMS: usize>(width: usize, of: impl Fn(usize) -> [f32; SUMS]) -> [f32; SUMS] {
    let mut lanes = [[0f32; LANES]; SUMS];
    let whole = width / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            for (sums, x) in lanes.iter_mut().zip(of(start + lane)) {
                sums[lane] += x;
            }
        }
    }
    let mut result = lanes.map(|lanes| lanes.iter().sum());
    for index in whole..width {
        for (sum, x) in result.iter_mut().zip(of(index)) {
            *sum += x;
        }
    }
    result
}

#[allow(clippy::cast_precision_loss, reason = "a width fits f32")]
fn inverse(square: f32, width: usize, eps: f32) -> f32 {
    1.0 / (square / width as f32 + eps).sqrt()
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
}

impl EachRow for Forward<'_> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as the trait says")]
    fn row(&self, index: usize, row: &mut [f32]) {
        let width = row.len();
        let x = &self.x[index * width..][..width];
        let [square] = sums(width, |i| [x[i] * x[i]]);
        let inverse = inverse(square, width, self.eps);
        for ((out, x), weight) in row.iter_mut().zip(x).zip(self.weight) {
            *out = x * inverse * weight;
        }
    }
}

struct Backward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    dy: &'a [f32],
    more: Option<&'a [f32]>,
    eps: f32,
}

impl EachRow for Backward<'_> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as the trait says")]
    #[allow(clippy::cast_precision_loss, reason = "a width fits f32")]
    fn row(&self, index: usize, row: &mut [f32]) {
        let width = row.len();
        let range = index * width..(index + 1) * width;
        let (x, dy) = (&self.x[range.clone()], &self.dy[range.clone()]);
        let weight = &self.weight[..width];
        let [square, along] = sums(width, |i| [x[i] * x[i], dy[i] * weight[i] * x[i]]);
        let inverse = inverse(square, width, self.eps);
        let pull = along / width as f32 * inverse * inverse;
        for (((out, x), dy), weight) in row.iter_mut().zip(x).zip(dy).zip(weight) {
            *out = (dy * weight - x * pull) * inverse;
        }
        if let Some(more) = self.more {
            for (out, more) in row.iter_mut().zip(&more[range]) {
                *out += more;
            }
        }
    }
}
