use super::super::linear::{
    LowRank, add_branch, branch_backward, linear, low_rank, low_rank_backward,
};
use super::super::matrix::Matrix;
use crate::backend::testing::{Layout, on_both};
use candle_core::{Result, Tensor};

/// What a matrix product takes on every device. Columns out of wider rows are not among it; the
/// decoder has none, as every input of a linear map comes from an operation that makes it anew.
const LAYOUTS: [Layout; 3] = [Layout::Whole, Layout::Offset, Layout::Turned];

/// (rows, input, output)
const SIZES: [[usize; 3]; 7] = [
    [1, 1, 1],
    [1, 33, 65],
    [1, 65, 1025],
    [3, 65, 33],
    [33, 3, 1],
    [33, 1, 3],
    [65, 65, 65],
];

#[test]
fn a_frozen_linear_map() {
    for [rows, input, output] in SIZES {
        let name = format!("{rows} rows, {input} to {output}");
        on_both(&name, &LAYOUTS, |make| {
            let x = make.tensor(&[rows, input], 1);
            let weight = make.tensor(&[output, input], 2);
            let bias = make.tensor(&[output], 3);
            let dy = make.tensor(&[rows, output], 4);
            Ok([
                ("x Wᵀ", linear(&x, &weight, None)?),
                ("x Wᵀ + b", linear(&x, &weight, Some(&bias))?),
                ("dx", dy.matmul(&weight)?),
            ])
        });
    }
}

#[test]
fn a_low_rank_branch() {
    for ([rows, input, output], rank) in SIZES
        .into_iter()
        .flat_map(|size| [1, 2, 8].map(|rank| (size, rank)))
    {
        let name = format!("{rows} rows, {input} to {output}, rank {rank}");
        on_both(&name, &LAYOUTS, |make| {
            let x = make.tensor(&[rows, input], 1);
            let (a, b) = (make.wide(&[rank, input], 2), make.wide(&[output, rank], 3));
            let dy = make.tensor(&[rows, output], 4);
            let gradients = low_rank_backward(&x, &a, &b, 1.5, &dy)?;
            let y = low_rank(&x, &a, &b, 1.5)?;
            assert_eq!((y.dtype(), gradients.x.dtype()), (x.dtype(), x.dtype()));
            assert_eq!(gradients.a.dtype(), a.dtype());
            assert_eq!(gradients.b.dtype(), b.dtype());
            Ok([
                ("y", y),
                ("dx", gradients.x),
                ("da", gradients.a),
                ("db", gradients.b),
            ])
        });
    }
}

/// A and B in 16 bits beside those in 32, as adapters have them on some devices.
#[test]
fn a_branch_beside_its_map() {
    for ([rows, input, output], rank) in [[3, 65, 33], [33, 64, 136], [130, 896, 64]]
        .into_iter()
        .flat_map(|size| [1, 8].map(|rank| (size, rank)))
    {
        let name = format!("{rows} rows, {input} to {output}, rank {rank}");
        on_both(&name, &[Layout::Whole, Layout::Offset], |make| {
            let x = make.tensor(&[rows, input], 1);
            let weight = make.tensor(&[output, input], 2);
            let (a, b) = (make.wide(&[rank, input], 3), make.wide(&[output, rank], 4));
            let packed = Tensor::cat(&[a.flatten_all()?, b.flatten_all()?], 0)?;
            let rounded = [a.to_dtype(make.dtype)?, b.to_dtype(make.dtype)?];
            let branch = LowRank {
                a: &a,
                b: &b,
                packed: &packed,
                scaling: 1.5,
                row_scale: None,
                rounded: Some(&rounded),
            };
            let dy = make.tensor(&[rows, output], 5);
            let y = add_branch(linear(&x, &weight, None)?, &x, branch)?;
            let weight = Matrix::Dense(weight);
            let dx = weight.backward_onto(Some((&x * 2.0)?), &dy)?;
            let found = branch_backward(|| Ok(dx), &x, branch, &dy)?;
            assert_eq!(found.x.dtype(), x.dtype());
            Ok([("y", y), ("dx", found.x), ("da", found.a), ("db", found.b)])
        });
    }
}

/// A product of columns out of wider rows may be refused, but must not be wrong.
#[test]
fn a_view_that_a_product_does_not_take() {
    for [rows, input, output] in SIZES {
        let name = format!("{rows} rows, {input} to {output}");
        on_both(&name, &[Layout::Columns], |make| {
            let x = make.tensor(&[rows, input], 1);
            let weight = make.tensor(&[output, input], 2);
            let copy = |x: &candle_core::Tensor| x.force_contiguous();
            let product: Result<_> = linear(&x, &weight, None);
            let product = product.or_else(|_| linear(&copy(&x)?, &copy(&weight)?, None))?;
            Ok([("x Wᵀ", product)])
        });
    }
}
