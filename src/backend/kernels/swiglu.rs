//! `silu(gate) · up`.

use super::exp::sigmoid;
use super::{numbers, rows};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

pub(in crate::backend) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.apply_op2_no_bwd(up, &Forward)
}

/// The gradients of `gate` and `up`.
pub(in crate::backend) fn swiglu_backward(
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let both = gate.apply_op3_no_bwd(up, dy, &Backward)?;
    Ok((both.get(0)?, both.get(1)?))
}

/// Elements that one task takes.
const WIDTH: usize = 1 << 12;

struct Forward;

impl CustomOp2 for Forward {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (numbers(gate, gate_layout)?, numbers(up, up_layout)?);
        let mut result = rows(gate.len().div_ceil(WIDTH), WIDTH, 1, |index, row| {
            let start = index * WIDTH;
            for ((y, g), u) in row.iter_mut().zip(&gate[start..]).zip(&up[start..]) {
                *y = g * sigmoid(*g) * u;
            }
        });
        result.truncate(gate.len());
        Ok((CpuStorage::F32(result), gate_layout.shape().clone()))
    }
}

struct Backward;

impl CustomOp3 for Backward {
    fn name(&self) -> &'static str {
        "swiglu-backward"
    }

    /// The two gradients, stacked.
    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (numbers(gate, gate_layout)?, numbers(up, up_layout)?);
        let dy = numbers(dy, dy_layout)?;
        let width = gate_layout.dims().last().copied().unwrap_or(1).max(1);
        let count = gate.len() / width;
        let result = rows(2 * count, width, 1, |index, row| {
            let range = (index % count) * width..(index % count + 1) * width;
            let inputs = gate[range.clone()]
                .iter()
                .zip(&up[range.clone()])
                .zip(&dy[range]);
            if index < count {
                for (out, ((g, u), d)) in row.iter_mut().zip(inputs) {
                    let s = sigmoid(*g);
                    *out = d * u * s * (1.0 + g * (1.0 - s));
                }
            } else {
                for (out, ((g, _), d)) in row.iter_mut().zip(inputs) {
                    *out = d * g * sigmoid(*g);
                }
            }
        });
        let mut dims = gate_layout.dims().to_vec();
        dims.insert(0, 2);
        Ok((CpuStorage::F32(result), Shape::from(dims)))
    }
}
