//! Cross-entropy fused with the output head, a chunk of tokens at a time.
//!
//! The logits of a batch are its largest tensor by far: 4,096 tokens of a vocabulary of 151,936 are
//! 2.5 GB in `f32`, and their gradient as much again. Here the head, the loss and its gradient are
//! computed for a few rows at a time (the idea of Liger Kernel, Hsu et al., 2024,
//! <https://arxiv.org/abs/2410.10989>), so that neither ever exists as a whole.

use crate::backend::kernels;
use candle_core::{D, DType, Result, Tensor};

/// Logits held at once, 8 MB in `f32`; some three times as much with what is made of them.
const CHUNK_ELEMENTS: usize = 2 << 20;

/// Rows held at once where the vocabulary is so large that fewer would fit: below, the matrix
/// products become slow.
const CHUNK_ROWS: usize = 64;

/// The sum of the negative log-likelihoods (natural log) of `targets`.
///
/// `hidden` has shape (n, hidden), `head` (vocabulary, hidden), `targets` (n) of dtype `u32`. The
/// result is an `f32` scalar on the device.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub fn cross_entropy(hidden: &Tensor, head: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let mut losses = vec![];
    for (hidden, targets) in chunks(hidden, head, targets)? {
        let logits = hidden.matmul(&head.t()?)?;
        losses.push(Chunk::new(&logits, &targets)?.loss()?);
    }
    sum(&losses)
}

/// [`cross_entropy`] together with its gradient with respect to `hidden`.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub fn cross_entropy_with_gradient(
    hidden: &Tensor,
    head: &Tensor,
    targets: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (mut losses, mut gradients) = (vec![], vec![]);
    for (hidden, targets) in chunks(hidden, head, targets)? {
        let logits = hidden.matmul(&head.t()?)?;
        if kernels::takes(&logits) {
            losses.push(kernels::softmax_cross_entropy(&logits, &targets)?);
            gradients.push(logits.matmul(head)?);
            continue;
        }
        let chunk = Chunk::new(&logits, &targets)?;
        losses.push(chunk.loss()?);
        gradients.push(chunk.gradient()?.to_dtype(head.dtype())?.matmul(head)?);
    }
    Ok((sum(&losses)?, Tensor::cat(&gradients, 0)?))
}

fn sum(losses: &[Tensor]) -> Result<Tensor> {
    Tensor::stack(losses, 0)?.sum_all()
}

fn chunks(hidden: &Tensor, head: &Tensor, targets: &Tensor) -> Result<Vec<(Tensor, Tensor)>> {
    let rows = hidden.dim(0)?;
    let size = (CHUNK_ELEMENTS / head.dim(0)?).max(CHUNK_ROWS);
    (0..rows)
        .step_by(size)
        .map(|start| {
            let len = size.min(rows - start);
            Ok((
                hidden.narrow(0, start, len)?,
                targets.narrow(0, start, len)?,
            ))
        })
        .collect()
}

/// The logits of a few rows, shifted so that the largest of each row is 0.
struct Chunk {
    /// `exp(logit - max)`, shape (rows, vocabulary).
    exponentials: Tensor,
    /// Their sums, shape (rows, 1).
    sums: Tensor,
    /// `logit - max` of the targets, shape (rows, 1).
    picked: Tensor,
    /// The target ids, shape (rows, 1).
    targets: Tensor,
}

impl Chunk {
    fn new(logits: &Tensor, targets: &Tensor) -> Result<Self> {
        let logits = logits.to_dtype(DType::F32)?;
        let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
        drop(logits);
        let targets = targets.contiguous()?.unsqueeze(1)?;
        let picked = shifted.gather(&targets, 1)?;
        let exponentials = shifted.exp()?;
        let sums = exponentials.sum_keepdim(D::Minus1)?;
        Ok(Self {
            exponentials,
            sums,
            picked,
            targets,
        })
    }

    fn loss(&self) -> Result<Tensor> {
        (self.sums.log()? - &self.picked)?.sum_all()
    }

    /// The gradient with respect to the logits: the probabilities, less 1 at the target.
    fn gradient(&self) -> Result<Tensor> {
        let minus_one = self.sums.ones_like()?.neg()?;
        self.exponentials
            .broadcast_div(&self.sums)?
            .scatter_add(&self.targets, &minus_one, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, random};
    use super::*;
    use candle_core::Device;

    #[test]
    fn agrees_with_log_softmax_and_finite_differences() {
        let (hidden, head) = (random(&[6, 5], 1), (random(&[11, 5], 2) * 4.0).unwrap());
        let targets = Tensor::new(&[0u32, 10, 3, 3, 7, 1], &Device::Cpu).unwrap();
        let loss = cross_entropy(&hidden, &head, &targets).unwrap();
        let log_softmax =
            candle_nn::ops::log_softmax(&hidden.matmul(&head.t().unwrap()).unwrap(), 1).unwrap();
        let expected = log_softmax
            .gather(&targets.unsqueeze(1).unwrap(), 1)
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!((loss.to_scalar::<f32>().unwrap() + expected).abs() < 1e-5);
        let (again, gradient) = cross_entropy_with_gradient(&hidden, &head, &targets).unwrap();
        let gap = again.to_scalar::<f32>().unwrap() - loss.to_scalar::<f32>().unwrap();
        assert!(gap.abs() < 1e-5, "{gap}");
        let one = Tensor::new(1f32, &Device::Cpu).unwrap();
        check("hidden", &hidden, &gradient, &one, |hidden| {
            cross_entropy(hidden, &head, &targets)
        });
    }

    #[test]
    fn chunks_add_up() {
        const ROWS: usize = 2 * CHUNK_ROWS + 5;
        // A vocabulary so large that the rows are three chunks.
        let vocabulary = CHUNK_ELEMENTS / CHUNK_ROWS + 1;
        let (hidden, head) = (random(&[ROWS, 2], 1), random(&[vocabulary, 2], 2));
        let targets: Vec<u32> = (0..133).collect();
        let targets = Tensor::new(targets, &Device::Cpu).unwrap();
        let (loss, gradient) = cross_entropy_with_gradient(&hidden, &head, &targets).unwrap();
        assert_eq!(gradient.dims(), &[ROWS, 2]);
        let mut sum = 0.0;
        for row in 0..ROWS {
            let hidden = hidden.narrow(0, row, 1).unwrap();
            let targets = targets.narrow(0, row, 1).unwrap();
            let (part, part_gradient) =
                cross_entropy_with_gradient(&hidden, &head, &targets).unwrap();
            sum += part.to_scalar::<f32>().unwrap();
            let whole = gradient.get(row).unwrap().to_vec1::<f32>().unwrap();
            let part = part_gradient.get(0).unwrap().to_vec1::<f32>().unwrap();
            for (a, b) in whole.iter().zip(part) {
                assert!((a - b).abs() < 1e-4, "row {row}: {a} {b}");
            }
        }
        assert!((loss.to_scalar::<f32>().unwrap() / sum - 1.0).abs() < 1e-5);
    }

    #[test]
    fn large_logits_stay_finite() {
        let (hidden, head) = (
            (random(&[2, 4], 1) * 1e3).unwrap(),
            (random(&[9, 4], 2) * 1e3).unwrap(),
        );
        let targets = Tensor::new(&[1u32, 2], &Device::Cpu).unwrap();
        let (loss, gradient) = cross_entropy_with_gradient(&hidden, &head, &targets).unwrap();
        assert!(loss.to_scalar::<f32>().unwrap().is_finite());
        let gradient = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(gradient.iter().all(|g| g.is_finite()));
    }
}
