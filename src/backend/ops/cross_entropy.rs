//! Cross-entropy fused with the output head, a chunk of tokens at a time.
//!
//! The logits of a batch are its largest tensor by far: 4,096 tokens of a vocabulary of 151,936 are
//! 2.5 GB in `f32`, and their gradient as much again. Here the head, the loss and its gradient are
//! computed for a few rows at a time (the idea of Liger Kernel, Hsu et al., 2024,
//! <https://arxiv.org/abs/2410.10989>), so that neither ever exists as a whole.

use super::linear::linear_weight_backward;
use super::matrix::Matrix;
use crate::backend::kernels;
use candle_core::{D, DType, Result, Tensor};

/// Logits held at once, 8 MB in `f32`; some three times as much with what is made of them.
const CHUNK_ELEMENTS: usize = 2 << 20;

/// Rows held at once where the vocabulary is so large that fewer would fit: below, the matrix
/// products become slow.
const CHUNK_ROWS: usize = 64;

/// The same on the CPU, where the head is read from memory and packed anew for each chunk.
const CPU_CHUNK_ROWS: usize = 128;

/// Logits held at once on an NVIDIA GPU, 128 MB in 16 bits: the head is read anew for each chunk.
const CUDA_CHUNK_ELEMENTS: usize = 64 << 20;

/// What the loss of each target is multiplied by, and how much of it is that of all other ids.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LossOptions<'a> {
    /// A factor for each target; none for 1.
    pub weights: Option<&'a [f32]>,
    /// The share that is spread over the whole vocabulary (Szegedy et al., 2015,
    /// <https://arxiv.org/abs/1512.00567>), in [0, 1): with `e` of it the loss of a target is
    /// `(1 - e)` times its negative log-likelihood plus `e` times the mean of those of all ids.
    pub label_smoothing: f64,
    /// Whether the head gets a gradient.
    pub trains_head: bool,
}

/// The loss of some targets, and its gradients.
#[derive(Debug)]
pub(crate) struct LossAndGradient {
    /// The weighted sum, an `f32` scalar on the device.
    pub loss: Tensor,
    /// With respect to the hidden states, in their dtype.
    pub hidden: Tensor,
    /// With respect to the head, `f32`, where it is trained.
    pub head: Option<Tensor>,
}

/// The negative log-likelihood (natural log) of each target, shape (n), `f32`.
///
/// `hidden` has shape (n, hidden), `head` (vocabulary, hidden), `targets` (n) of dtype `u32`.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub(crate) fn negative_log_likelihood(
    hidden: &Tensor,
    head: &Matrix,
    targets: &Tensor,
) -> Result<Tensor> {
    let mut losses = vec![];
    for (_, hidden, targets) in chunks(hidden, head, targets)? {
        let logits = head.forward(&hidden)?;
        losses.push(Chunk::new(&logits, &targets, 0.0)?.losses()?);
    }
    Tensor::cat(&losses, 0)
}

/// The sum of the losses of all targets together with its gradients.
///
/// # Errors
///
/// When shapes or dtypes do not fit.
pub(crate) fn cross_entropy_with_gradient(
    hidden: &Tensor,
    head: &Matrix,
    targets: &Tensor,
    options: LossOptions<'_>,
) -> Result<LossAndGradient> {
    let smoothing = options.label_smoothing;
    let (mut losses, mut gradients) = (vec![], vec![]);
    let mut head_gradient = None::<Tensor>;
    for (start, hidden, targets) in chunks(hidden, head, targets)? {
        let weights = options.weights;
        let weights = weights.and_then(|w| w.get(start..start + targets.elem_count()));
        let logits = head.forward(&hidden)?;
        let (loss, dlogits) = loss_and_gradient(logits, &targets, weights, smoothing)?;
        losses.push(loss);
        gradients.push(head.backward(&dlogits.to_dtype(hidden.dtype())?)?);
        if options.trains_head {
            let part = linear_weight_backward(&dlogits, &hidden)?;
            head_gradient = Some(match head_gradient {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
    }
    Ok(LossAndGradient {
        loss: Tensor::stack(&losses, 0)?.sum_all()?,
        hidden: Tensor::cat(&gradients, 0)?,
        head: head_gradient,
    })
}

/// The summed loss of a few rows of fresh logits, and the gradients of those.
fn loss_and_gradient(
    logits: Tensor,
    targets: &Tensor,
    weights: Option<&[f32]>,
    smoothing: f64,
) -> Result<(Tensor, Tensor)> {
    if kernels::takes(&logits) {
        let loss = kernels::softmax_cross_entropy(&logits, targets, weights, smoothing)?;
        return Ok((loss, logits));
    }
    let weights = match weights {
        Some(weights) => Some(Tensor::new(weights, logits.device())?),
        None => None,
    };
    #[cfg(feature = "cuda")]
    if kernels::cuda::takes(&logits) {
        #[allow(clippy::cast_possible_truncation, reason = "a share fits f32")]
        let smoothing = smoothing as f32;
        let losses = kernels::cuda::cross_entropy(&logits, targets, weights.as_ref(), smoothing)?;
        return Ok((losses.sum_all()?, logits));
    }
    let weights = match weights {
        Some(weights) => Some(weights.unsqueeze(1)?),
        None => None,
    };
    let weights = weights.as_ref();
    let chunk = Chunk::new(&logits, targets, smoothing)?;
    let loss = weighted(chunk.losses()?.unsqueeze(1)?, weights)?.sum_all()?;
    Ok((loss, weighted(chunk.gradient()?, weights)?))
}

fn weighted(x: Tensor, weights: Option<&Tensor>) -> Result<Tensor> {
    match weights {
        Some(weights) => x.broadcast_mul(weights),
        None => Ok(x),
    }
}

/// A few hidden states and their targets at a time, with the index of the first.
fn chunks(
    hidden: &Tensor,
    head: &Matrix,
    targets: &Tensor,
) -> Result<Vec<(usize, Tensor, Tensor)>> {
    let rows = hidden.dim(0)?;
    let elements = if hidden.device().is_cuda() {
        CUDA_CHUNK_ELEMENTS
    } else {
        CHUNK_ELEMENTS
    };
    let least = if hidden.device().is_cpu() {
        CPU_CHUNK_ROWS
    } else {
        CHUNK_ROWS
    };
    let size = (elements / head.dims()?.0).max(least);
    (0..rows)
        .step_by(size)
        .map(|start| {
            let len = size.min(rows - start);
            Ok((
                start,
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
    /// `logit - max` of the targets, shape (rows, 1); smoothed with the mean of all.
    picked: Tensor,
    /// The target ids, shape (rows, 1).
    targets: Tensor,
    smoothing: f64,
}

impl Chunk {
    fn new(logits: &Tensor, targets: &Tensor, smoothing: f64) -> Result<Self> {
        let logits = logits.to_dtype(DType::F32)?;
        let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
        drop(logits);
        let targets = targets.contiguous()?.unsqueeze(1)?;
        let mut picked = shifted.gather(&targets, 1)?;
        if smoothing > 0.0 {
            let mean = (shifted.mean_keepdim(D::Minus1)? * smoothing)?;
            picked = ((picked * (1.0 - smoothing))? + mean)?;
        }
        let exponentials = shifted.exp()?;
        let sums = exponentials.sum_keepdim(D::Minus1)?;
        Ok(Self {
            exponentials,
            sums,
            picked,
            targets,
            smoothing,
        })
    }

    /// The loss of each row, shape (rows).
    fn losses(&self) -> Result<Tensor> {
        (self.sums.log()? - &self.picked)?.squeeze(1)
    }

    /// The gradient of their sum with respect to the logits: the probabilities, less 1 at the target.
    fn gradient(&self) -> Result<Tensor> {
        let at_target = (self.sums.ones_like()? * (self.smoothing - 1.0))?;
        let gradient = self.exponentials.broadcast_div(&self.sums)?.scatter_add(
            &self.targets,
            &at_target,
            1,
        )?;
        if self.smoothing > 0.0 {
            #[allow(clippy::cast_precision_loss, reason = "a vocabulary fits f64")]
            let everywhere = self.smoothing / gradient.dim(1)? as f64;
            gradient - everywhere
        } else {
            Ok(gradient)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradcheck::{check, random};
    use super::*;
    use candle_core::Device;

    fn targets(ids: &[u32]) -> Tensor {
        Tensor::new(ids, &Device::Cpu).unwrap()
    }

    fn dense(head: &Tensor) -> Matrix {
        Matrix::Dense(head.clone())
    }

    fn scalar(x: &Tensor) -> f32 {
        x.to_scalar().unwrap()
    }

    fn max_gap(a: &Tensor, b: &Tensor) -> f32 {
        scalar(&(a - b).unwrap().abs().unwrap().max_all().unwrap())
    }

    const IDS: [u32; 6] = [0, 10, 3, 3, 7, 1];
    const WEIGHTS: [f32; 6] = [0.5, -2.0, 0.0, 1.0, 3.0, 0.25];

    /// The loss by its definition.
    fn reference(hidden: &Tensor, head: &Tensor, options: LossOptions<'_>) -> Result<Tensor> {
        let log_softmax = candle_nn::ops::log_softmax(&hidden.matmul(&head.t()?)?, 1)?;
        let picked = log_softmax.gather(&targets(&IDS).unsqueeze(1)?, 1)?;
        let e = options.label_smoothing;
        let losses = ((picked * (e - 1.0))? - (log_softmax.mean_keepdim(1)? * e)?)?;
        let weights = Tensor::new(options.weights.unwrap_or(&[1.0; 6]), &Device::Cpu)?;
        (losses.squeeze(1)? * weights)?.sum_all()
    }

    #[test]
    fn agrees_with_log_softmax_and_finite_differences() {
        let (hidden, head) = (random(&[6, 5], 1), (random(&[11, 5], 2) * 4.0).unwrap());
        for weights in [None, Some(&WEIGHTS[..])] {
            for label_smoothing in [0.0, 0.2] {
                let options = LossOptions {
                    weights,
                    label_smoothing,
                    trains_head: true,
                };
                let found =
                    cross_entropy_with_gradient(&hidden, &dense(&head), &targets(&IDS), options)
                        .unwrap();
                let expected = scalar(&reference(&hidden, &head, options).unwrap());
                let gap = scalar(&found.loss) - expected;
                assert!(gap.abs() < 1e-4, "{options:?}: {gap}");
                let one = Tensor::new(1f32, &Device::Cpu).unwrap();
                check("hidden", &hidden, &found.hidden, &one, |hidden| {
                    reference(hidden, &head, options)
                });
                check("head", &head, &found.head.unwrap(), &one, |head| {
                    reference(&hidden, head, options)
                });
            }
        }
    }

    #[test]
    fn the_sum_of_the_likelihoods_is_the_loss() {
        let (hidden, head) = (random(&[6, 5], 1), random(&[11, 5], 2));
        let each = negative_log_likelihood(&hidden, &dense(&head), &targets(&IDS)).unwrap();
        assert_eq!(each.dims(), &[6]);
        let options = LossOptions::default();
        let sum =
            cross_entropy_with_gradient(&hidden, &dense(&head), &targets(&IDS), options).unwrap();
        assert!(sum.head.is_none());
        assert!((scalar(&each.sum_all().unwrap()) - scalar(&sum.loss)).abs() < 1e-5);
    }

    /// Other devices go the way of the chain.
    #[test]
    fn the_kernel_agrees_with_the_chain() {
        let logits = random(&[6, 11], 1);
        for smoothing in [0.0, 0.2] {
            let chunk = Chunk::new(&logits, &targets(&IDS), smoothing).unwrap();
            let weights = Tensor::new(&WEIGHTS, &Device::Cpu).unwrap();
            let loss = (chunk.losses().unwrap() * &weights).unwrap();
            let gradient = chunk.gradient().unwrap();
            let gradient = weighted(gradient, Some(&weights.unsqueeze(1).unwrap())).unwrap();
            let copy = logits.force_contiguous().unwrap();
            let ids = targets(&IDS);
            let found = kernels::softmax_cross_entropy(&copy, &ids, Some(&WEIGHTS), smoothing);
            assert!(max_gap(&found.unwrap(), &loss.sum_all().unwrap()) < 1e-5);
            assert!(max_gap(&copy, &gradient) < 1e-5);
        }
    }

    #[test]
    fn chunks_add_up() {
        const ROWS: usize = 2 * CPU_CHUNK_ROWS + 5;
        // A vocabulary so large that the rows are three chunks.
        let vocabulary = CHUNK_ELEMENTS / CPU_CHUNK_ROWS + 1;
        let (hidden, head) = (random(&[ROWS, 2], 1), random(&[vocabulary, 2], 2));
        let ids: Vec<u32> = (0..261).collect();
        let weights: Vec<f32> = (0..261u16).map(|i| f32::from(i) / 261.0).collect();
        let run = |from: usize, len: usize| {
            let hidden = hidden.narrow(0, from, len).unwrap();
            let options = LossOptions {
                weights: Some(&weights[from..from + len]),
                trains_head: true,
                ..LossOptions::default()
            };
            let ids = targets(&ids[from..from + len]);
            cross_entropy_with_gradient(&hidden, &dense(&head), &ids, options).unwrap()
        };
        let whole = run(0, ROWS);
        assert_eq!(whole.hidden.dims(), &[ROWS, 2]);
        let mut loss = 0.0;
        let mut of_head = head.zeros_like().unwrap();
        for start in (0..ROWS).step_by(9) {
            let part = run(start, 9);
            loss += scalar(&part.loss);
            of_head = (of_head + part.head.unwrap()).unwrap();
            assert!(max_gap(&whole.hidden.narrow(0, start, 9).unwrap(), &part.hidden) < 1e-4);
        }
        assert!((scalar(&whole.loss) / loss - 1.0).abs() < 1e-5);
        assert!(max_gap(&whole.head.unwrap(), &of_head) < 1e-4);
    }

    #[test]
    fn large_logits_stay_finite() {
        let (hidden, head) = (
            (random(&[2, 4], 1) * 1e3).unwrap(),
            (random(&[9, 4], 2) * 1e3).unwrap(),
        );
        let options = LossOptions {
            label_smoothing: 0.1,
            ..LossOptions::default()
        };
        let found = cross_entropy_with_gradient(&hidden, &dense(&head), &targets(&[1, 2]), options)
            .unwrap();
        assert!(scalar(&found.loss).is_finite());
        let gradient = found
            .hidden
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert!(gradient.iter().all(|g| g.is_finite()));
    }
}
