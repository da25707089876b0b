//! The gradient of root-mean-square normalisation with respect to its input.

use super::{numbers, rows};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

pub(in crate::backend) fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    dy: &Tensor,
) -> Result<Tensor> {
    x.apply_op3_no_bwd(weight, dy, &Backward { eps })
}

struct Backward {
    eps: f64,
}

impl CustomOp3 for Backward {
    fn name(&self) -> &'static str {
        "rms-norm-backward"
    }

    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "a width fits f32, and so does an epsilon"
    )]
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (numbers(x, x_layout)?, numbers(weight, weight_layout)?);
        let dy = numbers(dy, dy_layout)?;
        let width = weight.len();
        let result = rows(x.len() / width, width, 1, |index, row| {
            let range = index * width..(index + 1) * width;
            let (x, dy) = (&x[range.clone()], &dy[range]);
            let (mut square, mut along) = (0f32, 0f32);
            for ((x, dy), weight) in x.iter().zip(dy).zip(weight) {
                square += x * x;
                along += dy * weight * x;
            }
            let inverse = 1.0 / (square / width as f32 + self.eps as f32).sqrt();
            let pull = along / width as f32 * inverse * inverse;
            for (((out, x), dy), weight) in row.iter_mut().zip(x).zip(dy).zip(weight) {
                *out = (dy * weight - x * pull) * inverse;
            }
        });
        Ok((CpuStorage::F32(result), x_layout.shape().clone()))
    }
}
