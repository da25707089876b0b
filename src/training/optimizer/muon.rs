//! Muon: momentum, made orthogonal.

use super::shape::{Parts, Pieces, WeightShape, gather, groups};
use super::{AdamWOptions, Specs, Step, Stepped, adamw};
use super::{check_fractions, check_not_negative, check_positive};
use crate::error::{Error, Result};
use candle_core::{D, Tensor};
use serde::{Deserialize, Serialize};

const BUFFER: &str = "momentum_buffer";

/// The settings of Muon (Jordan et al., 2024, <https://kellerjordan.github.io/posts/muon/>), with the
/// meaning and the defaults of PyTorch's `Muon`.
///
/// The momentum of a matrix is replaced by an orthogonal one near it, so that all directions change
/// alike; a few Newton-Schulz iterations find it, in `f32` (PyTorch has `bf16`). Tensors that are not
/// matrices between hidden states (embeddings, output heads and vectors) take AdamW with the same
/// learning rate, as the author recommends.
///
/// # Example
///
/// ```
/// use metal_candle::training::{AdjustLr, MuonOptions};
///
/// // A learning rate that suits AdamW then suits Muon.
/// let options = MuonOptions { adjust_lr: AdjustLr::MatchRmsAdamW, ..MuonOptions::default() };
/// options.validate()?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MuonOptions {
    /// Decay of the mean of gradients, in [0, 1). Default 0.95.
    pub momentum: f64,
    /// Look ahead along the momentum. Default true.
    pub nesterov: bool,
    /// Iterations that make a matrix orthogonal, 1 to 99. Default 5.
    pub ns_steps: usize,
    /// What an iteration makes of each singular value x: the polynomial with these numbers before x,
    /// x³ and x⁵. Default 3.4445, -4.775 and 2.0315.
    pub ns_coefficients: (f64, f64, f64),
    /// The least norm that a matrix is divided by, above 0. Default 1e-7.
    pub eps: f64,
    /// Share of each weight taken away per step and unit of learning rate, 0 or more. Default 0.1.
    /// (mlx has 0.01, and adds it to the gradient.)
    pub weight_decay: f64,
    /// How the learning rate follows the shape of a matrix. Default [`AdjustLr::Original`].
    pub adjust_lr: AdjustLr,
    /// For the tensors that Muon does not change.
    pub adamw: AdamWOptions,
}

/// How the learning rate of [`MuonOptions`] follows the shape of a matrix. In JSON the names are
/// `original` and `match_rms_adamw`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AdjustLr {
    /// Multiplied by the root of rows over columns, where there are more rows.
    #[default]
    #[serde(rename = "original")]
    Original,
    /// Multiplied by 0.2 times the root of the larger dimension, so that changes have the size of
    /// those of AdamW (Liu et al., 2025, <https://arxiv.org/abs/2502.16982>).
    #[serde(rename = "match_rms_adamw")]
    MatchRmsAdamW,
}

impl AdjustLr {
    #[allow(clippy::cast_precision_loss, reason = "dimensions fit f64")]
    fn factor(self, rows: usize, columns: usize) -> f64 {
        let (rows, columns) = (rows as f64, columns as f64);
        match self {
            Self::Original => (rows / columns).max(1.0).sqrt(),
            Self::MatchRmsAdamW => 0.2 * rows.max(columns).sqrt(),
        }
    }
}

impl Default for MuonOptions {
    fn default() -> Self {
        Self {
            momentum: 0.95,
            nesterov: true,
            ns_steps: 5,
            ns_coefficients: (3.4445, -4.775, 2.0315),
            eps: 1e-7,
            weight_decay: 0.1,
            adjust_lr: AdjustLr::Original,
            adamw: AdamWOptions::default(),
        }
    }
}

impl MuonOptions {
    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        check_fractions([("momentum", self.momentum)])?;
        check_positive([("eps", self.eps)])?;
        check_not_negative([("weight_decay", self.weight_decay)])?;
        if !(1..100).contains(&self.ns_steps) {
            return Err(Error::option("ns_steps", self.ns_steps, "1 to 99"));
        }
        let (a, b, c) = self.ns_coefficients;
        if ![a, b, c].into_iter().all(f64::is_finite) {
            let found = format!("({a}, {b}, {c})");
            return Err(Error::option("ns_coefficients", found, "three numbers"));
        }
        self.adamw.validate()
    }

    pub(super) fn step(&self, step: &Step) -> Result<Stepped> {
        let (matrices, others) = split(step.shapes);
        let mut buffer = Parts::of(step, BUFFER);
        let mut weights = Pieces::default();
        for group in groups(matrices.into_iter()) {
            let gradient = group.gather(step.gradient)?;
            let mean = buffer.average(&gradient, self.momentum)?;
            let direction = if self.nesterov {
                ((gradient * (1.0 - self.momentum))? + (mean * self.momentum)?)?
            } else {
                mean
            };
            let rate = step.learning_rate * self.adjust_lr.factor(group.rows, group.columns);
            let update = (self.orthogonal(&direction)? * rate)?;
            let keep = 1.0 - step.learning_rate * self.weight_decay;
            let kept = (group.gather(step.weights)? * keep)?;
            weights.put(&group, &(kept - update)?)?;
        }
        let mut state = vec![];
        buffer.finish(&mut state)?;
        if !others.is_empty() {
            let places: Vec<_> = others.iter().map(|s| (s.offset, s.len())).collect();
            let (others, moments) = self.adamw.step(&Step {
                weights: &gather(step.weights, &places)?,
                gradient: &gather(step.gradient, &places)?,
                ..*step
            })?;
            weights.put_all(&places, &others)?;
            state.extend(moments);
        }
        Ok((weights.join()?, state))
    }

    /// The n matrices of (n, rows, columns), each with singular values near 1 and the same singular
    /// vectors.
    fn orthogonal(&self, matrices: &Tensor) -> Result<Tensor> {
        let (_, rows, columns) = matrices.dims3()?;
        let turned = rows > columns;
        let mut x = if turned {
            matrices.t()?.contiguous()?
        } else {
            matrices.clone()
        };
        let squares = x.sqr()?.sum_keepdim(D::Minus1)?;
        let norm = squares.sum_keepdim(D::Minus2)?.sqrt()?;
        x = x.broadcast_div(&norm.maximum(self.eps)?)?;
        let (a, b, c) = self.ns_coefficients;
        for _ in 0..self.ns_steps {
            let gram = x.matmul(&x.t()?)?;
            let factor = ((&gram * b)? + (gram.matmul(&gram)? * c)?)?;
            x = ((&x * a)? + factor.matmul(&x)?)?;
        }
        if turned {
            x = x.t()?.contiguous()?;
        }
        Ok(x)
    }
}

pub(super) fn specs(shapes: &[WeightShape]) -> Specs {
    let (matrices, others) = split(shapes);
    let len = |shapes: &[&WeightShape]| shapes.iter().map(|shape| shape.len()).sum();
    let (matrices, others) = (len(&matrices), len(&others));
    let mut specs = vec![(BUFFER, matrices)];
    specs.extend(adamw::moments(others));
    specs
}

/// The matrices between hidden states, and all others.
fn split(shapes: &[WeightShape]) -> (Vec<&WeightShape>, Vec<&WeightShape>) {
    shapes
        .iter()
        .filter(|shape| shape.len() > 0)
        .partition(|shape| shape.hidden && shape.is_matrix())
}
