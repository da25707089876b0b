//! Products of many matrices with as many others: (..., rows, columns) by (..., rows, columns).

use crate::backend::kernels;
use candle_core::{D, Result, Tensor};

/// `a b`.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub(super) fn times(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if takes(a, b)? {
        kernels::dense_backward(a, &b.contiguous()?)
    } else {
        a.matmul(b)
    }
}

/// `a bᵀ`.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub(super) fn times_transposed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if takes(a, b)? {
        kernels::dense_product(a, &b.contiguous()?)
    } else {
        a.matmul(&b.t()?)
    }
}

/// `aᵀ b`.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub(super) fn transposed_times(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if kernels::takes_products(a, b) {
        kernels::dense_outer(a, b)
    } else {
        a.t()?.matmul(b)
    }
}

/// Whether the kernel takes the product. It takes contiguous numbers, and for a few rows of `a` copying
/// `b`, which may be a part of a cache, takes longer than the product.
fn takes(a: &Tensor, b: &Tensor) -> Result<bool> {
    const ROWS: usize = 32;
    let copies = !b.is_contiguous() && a.dim(D::Minus2)? < ROWS;
    Ok(!copies && kernels::takes_products(a, b))
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::random;
    use super::*;

    #[test]
    fn they_agree_with_products_of_one_matrix() {
        for (rows, inner, columns) in [(5, 3, 4), (70, 64, 40), (1, 8, 1)] {
            let a = random(&[2, 3, rows, inner], 1);
            let b = random(&[2, 3, inner, columns], 2);
            let expected = a.matmul(&b).unwrap();
            let turned = |x: &Tensor| x.t().unwrap().contiguous().unwrap();
            for found in [
                times(&a, &b).unwrap(),
                times_transposed(&a, &turned(&b)).unwrap(),
                transposed_times(&turned(&a), &b).unwrap(),
            ] {
                assert_eq!(found.dims(), expected.dims());
                let gap = (found - &expected).unwrap().abs().unwrap();
                let gap = gap.flatten_all().unwrap().max(0).unwrap();
                assert!(gap.to_scalar::<f32>().unwrap() < 1e-4);
            }
        }
    }
}
