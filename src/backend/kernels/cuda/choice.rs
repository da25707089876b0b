//! The most likely token, where the logits are.

use super::launch::{Grid, Module, fresh, int, launch, pointer, unfit};
use candle_core::{DType, Result, Tensor};

const MODULE: Module = Module {
    name: "metal_candle_choice",
    ptx: include_str!("choice.ptx"),
};
/// All of them are one block.
const THREADS: usize = 1024;

/// The index of the largest of the logits, (1, vocabulary) in `f32`, the lowest where several are, that logit, and
/// the sum of the exponentials of what others are below it. That is no number where a logit is none.
pub(in crate::backend) fn most_likely(logits: &Tensor) -> Result<(u32, f32, f32)> {
    if logits.dtype() != DType::F32 || logits.dim(0)? != 1 {
        return Err(unfit("logits of several tokens"));
    }
    // All in one, so that there is one copy to the host.
    let found = fresh(3, DType::U32, logits.device())?;
    let part = |index| found.narrow(0, index, 1);
    let arguments = [
        pointer(&part(0)?)?,
        pointer(&part(1)?)?,
        pointer(&part(2)?)?,
        pointer(logits)?,
        int(logits.dim(1)?)?,
    ];
    let of = (logits.device(), DType::F32);
    let grid = Grid::of(1, THREADS);
    // SAFETY: so many logits, and three places of 32 bits each, which are new.
    unsafe { launch((MODULE, "most_likely"), of, grid, &arguments) }?;
    match found.to_vec1::<u32>()?[..] {
        [index, logit, sum] => Ok((index, f32::from_bits(logit), f32::from_bits(sum))),
        _ => Err(unfit("another number of results")),
    }
}
