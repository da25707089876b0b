//! Rows at places of their own.

#[cfg(feature = "cuda")]
use crate::backend::kernels;
use candle_core::{Result, Tensor};

/// `count` rows: those of `x` at the given positions, (n) of dtype `u32`, each of which occurs once, and zeros
/// everywhere else.
///
/// # Errors
///
/// When shapes do not fit, or on the CPU when a position is no row.
pub(crate) fn place_rows(x: &Tensor, positions: &Tensor, count: usize) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if kernels::cuda::takes(x) {
        return kernels::cuda::place_rows(x, positions, count);
    }
    let zeros = Tensor::zeros((count, x.dim(1)?), x.dtype(), x.device())?;
    zeros.index_add(positions, x, 0)
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::random;
    use super::*;

    #[test]
    fn rows_lie_where_they_belong() {
        let x = random(&[2, 3], 1);
        let positions = Tensor::new(&[3u32, 1], x.device()).unwrap();
        let placed = place_rows(&x, &positions, 5).unwrap();
        let (x, zero) = (x.to_vec2::<f32>().unwrap(), vec![0.0; 3]);
        let expected = [zero.clone(), x[1].clone(), zero.clone(), x[0].clone(), zero];
        assert_eq!(placed.to_vec2::<f32>().unwrap(), expected);
    }
}
