//! `silu(gate) · up`.

use super::exp::sigmoid;
use super::gemm::Instructions;
use super::gemm::simd::{Simd, Work};
use super::{EachRow, made_of_rows, numbers, numbers_of};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

pub(in crate::backend) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.apply_op2_no_bwd(up, &Forward)
}

/// The gradients of `gate` and `up`.
pub(in crate::backend) fn swiglu_backward(
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let guards = [gate, up, dy].map(Tensor::storage_and_layout);
    let inputs = [0, 1, 2].map(|index| numbers_of(&guards[index].0, guards[index].1));
    let [gate_numbers, up, dy] = inputs;
    let (gate_numbers, up, dy) = (gate_numbers?, up?, dy?);
    if up.len() != gate_numbers.len() || dy.len() != gate_numbers.len() {
        bail!("the gradient of an activation of two lengths");
    }
    let mut dgate = vec![0f32; dy.len()];
    let mut dup = vec![0f32; dy.len()];
    let outputs = dgate.par_chunks_mut(WIDTH).zip(dup.par_chunks_mut(WIDTH));
    outputs.enumerate().for_each(|(index, (dgate, dup))| {
        let part = index * WIDTH..index * WIDTH + dgate.len();
        Instructions::best().enter(Backward {
            gate: &gate_numbers[part.clone()],
            up: &up[part.clone()],
            dy: &dy[part],
            dgate,
            dup,
        });
    });
    let tensor = |numbers| Tensor::from_vec(numbers, gate.shape(), gate.device());
    Ok((tensor(dgate)?, tensor(dup)?))
}

/// Elements that one task takes.
const WIDTH: usize = 1 << 13;

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
        let work = Activate { gate, up };
        let mut result = made_of_rows(gate.len().div_ceil(WIDTH), WIDTH, &work);
        result.truncate(gate.len());
        Ok((CpuStorage::F32(result), gate_layout.shape().clone()))
    }
}

struct Activate<'a> {
    gate: &'a [f32],
    up: &'a [f32],
}

impl EachRow for Activate<'_> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as the trait says")]
    fn row(&self, index: usize, row: &mut [f32]) {
        let start = index * WIDTH;
        for ((y, g), u) in row
            .iter_mut()
            .zip(&self.gate[start..])
            .zip(&self.up[start..])
        {
            *y = g * sigmoid(*g) * u;
        }
    }
}

struct Backward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    dy: &'a [f32],
    dgate: &'a mut [f32],
    dup: &'a mut [f32],
}

#[allow(unsafe_code, reason = "the trait's function is unsafe to call")]
impl Work for Backward<'_> {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as the trait says")]
    unsafe fn run<S: Simd>(self) {
        let inputs = self.gate.iter().zip(self.up).zip(self.dy);
        let outputs = self.dgate.iter_mut().zip(self.dup);
        for ((dgate, dup), ((g, u), d)) in outputs.zip(inputs) {
            let s = sigmoid(*g);
            *dgate = d * u * s * (1.0 + g * (1.0 - s));
            *dup = d * g * s;
        }
    }
}
