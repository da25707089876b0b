//! Heads out of rows, (tokens, heads · d) to (batch, heads, n, d), and back.

use super::rope::{Rotation, rope, rope_backward};
use crate::backend::kernels;
#[cfg(feature = "cuda")]
use crate::backend::kernels::cuda;
use candle_core::{Result, Tensor};

/// The heads of `dim` numbers in the rows of `batch` sequences; on the CPU a view of them.
///
/// # Errors
///
/// When shapes do not fit.
pub(crate) fn split(x: &Tensor, batch: usize, dim: usize) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (len, heads) = (tokens / batch.max(1), width / dim.max(1));
    #[cfg(feature = "cuda")]
    if cuda::takes(x) && cuda::takes_head(dim) {
        let [x] = cuda::to_heads([x], None, (batch, len, dim))?;
        return Ok(x);
    }
    let shape = (batch, heads, len, dim);
    let heads_of_rows = x.reshape((batch, len, heads, dim))?.transpose(1, 2)?;
    if kernels::takes_heads(&heads_of_rows) {
        return Ok(heads_of_rows);
    }
    heads_of_rows
        .contiguous()?
        // One head is contiguous as it is, but with strides of the wrong dimension for Metal's
        // matrix product, which takes the last but two for that of the batch.
        .reshape(shape)
}

/// The rows of heads: the inverse of [`split`].
///
/// # Errors
///
/// When `x` does not have four dimensions.
pub(crate) fn merge(x: &Tensor) -> Result<Tensor> {
    let (batch, heads, len, dim) = x.dims4()?;
    #[cfg(feature = "cuda")]
    if cuda::takes(x) && cuda::takes_head(dim) {
        let [x] = cuda::to_rows([x], None)?;
        return Ok(x);
    }
    x.transpose(1, 2)?
        .contiguous()?
        .reshape((batch * len, heads * dim))
}

/// Queries, keys and values, [`split`], of which queries and keys are rotated.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub(crate) fn split_rotated(
    [q, k, v]: [&Tensor; 3],
    rotation: &Rotation,
    batch: usize,
) -> Result<[Tensor; 3]> {
    let dim = rotation.head_dim()?;
    #[cfg(feature = "cuda")]
    {
        let (cos, sin) = rotation.parts();
        if cuda::takes_all([q, k, v, cos, sin]) && cuda::takes_head(dim) {
            let shape = (batch, cos.dim(0)?, dim);
            return cuda::to_heads([q, k, v], Some((cos, sin)), shape);
        }
    }
    let [q, k, v] = [
        split(q, batch, dim)?,
        split(k, batch, dim)?,
        split(v, batch, dim)?,
    ];
    Ok([rope(&q, rotation)?, rope(&k, rotation)?, v])
}

/// The gradients of what [`split_rotated`] took, for those of its results.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub(crate) fn split_rotated_backward(
    [dq, dk, dv]: [&Tensor; 3],
    rotation: &Rotation,
) -> Result<[Tensor; 3]> {
    #[cfg(feature = "cuda")]
    {
        let (cos, sin) = rotation.parts();
        if cuda::takes_all([dq, dk, dv, cos, sin]) && cuda::takes_head(rotation.head_dim()?) {
            return cuda::to_rows([dq, dk, dv], Some((cos, sin)));
        }
    }
    let (dq, dk) = (rope_backward(dq, rotation)?, rope_backward(dk, rotation)?);
    Ok([merge(&dq)?, merge(&dk)?, merge(dv)?])
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, random};
    use super::super::rope::RopeTable;
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn a_merge_undoes_a_split() {
        for [batch, len, heads, dim] in [[1, 1, 1, 2], [2, 5, 3, 4], [3, 2, 1, 6]] {
            let x = random(&[batch * len, heads * dim], 1);
            let heads_of_x = split(&x, batch, dim).unwrap();
            assert_eq!(heads_of_x.dims(), [batch, heads, len, dim]);
            let back = merge(&heads_of_x).unwrap();
            assert_eq!(back.to_vec2::<f32>().unwrap(), x.to_vec2::<f32>().unwrap());
        }
    }

    #[test]
    fn agrees_with_finite_differences() {
        let table = RopeTable::new(vec![1.0, 0.3], 1.2, DType::F32, &Device::Cpu);
        let rotation = table.rotation(7, 3).unwrap();
        let inputs = [random(&[6, 8], 1), random(&[6, 4], 2), random(&[6, 4], 3)];
        let run = |parts: [&Tensor; 3]| split_rotated(parts, &rotation, 2);
        let results = run(inputs.each_ref()).unwrap();
        let mut seed = 3;
        let dy = results.map(|result| {
            seed += 1;
            random(result.dims(), seed)
        });
        let dx = split_rotated_backward(dy.each_ref(), &rotation).unwrap();
        for index in 0..3 {
            let with = |part: &Tensor| {
                let mut parts = inputs.each_ref();
                parts[index] = part;
                run(parts).map(|results| results[index].clone())
            };
            let name = ["q", "k", "v"][index];
            check(name, &inputs[index], &dx[index], &dy[index], with);
        }
    }
}
