//! The loss of a batch and its gradients, layer by layer from the last to the first.
//!
//! A weight that is not trained takes part in the gradient of its input and gets none itself, so that
//! nothing is computed or kept for it; nor for the layers below the first that is trained.

use super::adapted::Adapted;
use super::dropout::Dropout;
use super::gradients::{Gradients, Parameter};
use super::layer::{Activations, DecoderLayer};
use super::{Decoder, Pass, Place};
use crate::backend::ops::attention::attention_backward;
use crate::backend::ops::cross_entropy::{
    LossOptions, cross_entropy_with_gradient, negative_log_likelihood,
};
use crate::backend::ops::heads::{merge, split, split_rotated_backward};
use crate::backend::ops::linear::{
    LowRank, LowRankGradients, add_into, branch_backward, linear_weight_backward, low_rank,
    low_rank_backward,
};
use crate::backend::ops::rms_norm::{
    rms_norm, rms_norm_backward, rms_norm_backward_add, rms_norm_weight_backward,
};
use crate::backend::ops::rope::rope_backward;
use crate::backend::ops::rows::place_rows;
use crate::backend::ops::swiglu::{swiglu, swiglu_backward};
use crate::cancel::CancelHandle;
use crate::error::{Error, Result};
use crate::models::Projection;
use crate::models::adapter::{Branch, LayerAdapter, Part};
use crate::models::trained_weights::TrainedWeights;
use candle_core::{DType, Tensor};

/// A batch on the device.
pub(crate) struct TokenBatch {
    /// Token ids, (n), `u32`: those of one segment after the other.
    pub tokens: Tensor,
    /// Rows and width of each segment.
    pub segments: Vec<(usize, usize)>,
    /// Flat positions whose next token is scored, (targets), `u32`.
    pub positions: Tensor,
    /// Those next tokens, (targets), `u32`.
    pub targets: Tensor,
}

/// How gradients are computed.
#[derive(Default)]
pub(crate) struct StepOptions<'a> {
    /// Keep only the inputs of the layers and compute the rest again in the backward (Chen et al.,
    /// 2016, <https://arxiv.org/abs/1604.06174>).
    pub checkpoint: bool,
    /// Dropout on the inputs of the adapters' branches.
    pub dropout: Option<Dropout>,
    /// Stops the work between two layers.
    pub cancel: Option<&'a CancelHandle>,
}

impl StepOptions<'_> {
    fn check_cancelled(&self) -> Result<()> {
        match self.cancel {
            Some(cancel) if cancel.is_requested() => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}

/// Gives the weight of each target in a gradient, for the targets' negative log-likelihoods.
pub(crate) type TargetWeights<'a> = &'a (dyn Fn(&[f32]) -> Result<Vec<f32>> + Sync);

/// What is minimised.
#[derive(Clone, Copy)]
pub(crate) enum Objective<'a> {
    /// The sum of the targets' losses, smoothed over all labels.
    Likelihood { label_smoothing: f64 },
    /// A function of the targets' negative log-likelihoods, by its derivatives.
    Weighted(TargetWeights<'a>),
}

impl Decoder {
    /// The negative log-likelihood of each of the batch's targets, (targets), `f32` on the device.
    pub(crate) fn losses(
        &self,
        batch: &TokenBatch,
        adapter: &[LayerAdapter],
        options: &StepOptions<'_>,
    ) -> Result<Tensor> {
        let pass = self.pass(batch)?;
        let branches = Adapted::trained(adapter, None);
        let mut x = self.embed(&batch.tokens)?;
        for layer in &self.layers {
            options.check_cancelled()?;
            x = layer.forward(&x, &pass, &mut [], &branches)?.output;
        }
        let selected = x.index_select(&batch.positions, 0)?;
        let normed = rms_norm(&selected, &self.norm, self.config.rms_norm_eps)?;
        Ok(negative_log_likelihood(
            &normed,
            &self.head,
            &batch.targets,
        )?)
    }

    /// The summed loss, an `f32` scalar, and its gradient with respect to what is trained as one flat
    /// `f32` vector, both on the device. For an objective by weights the sum is that of the weighted
    /// losses.
    pub(crate) fn loss_and_gradient(
        &self,
        batch: &TokenBatch,
        trained: &TrainedWeights,
        objective: Objective<'_>,
        options: &StepOptions<'_>,
    ) -> Result<(Tensor, Tensor)> {
        let pass = self.pass(batch)?;
        let adapter = trained.branches();
        let branches = Adapted::trained(adapter, options.dropout.as_ref());
        let first = trained.first_layer();
        let mut x = self.embed(&batch.tokens)?;
        let mut kept = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            options.check_cancelled()?;
            let activations = layer.forward(&x, &pass, &mut [], &branches)?;
            let input = x;
            x = activations.output.clone();
            if layer.index >= first {
                kept.push(if options.checkpoint {
                    Kept::Input(input)
                } else {
                    Kept::All(Box::new(activations.slim()))
                });
            }
        }

        let mut gradients = trained.gradients();
        let selected = x.index_select(&batch.positions, 0)?;
        let tokens = x.dim(0)?;
        let (loss, dselected) = self.head_backward(&selected, batch, objective, &mut gradients)?;
        let mut dx = place_rows(&dselected, &batch.positions, tokens)?;
        drop((x, selected, dselected));

        let layers = self.layers.get(first..).unwrap_or_default();
        for (layer, kept) in layers.iter().zip(kept).rev() {
            options.check_cancelled()?;
            let activations = match kept {
                Kept::All(activations) => *activations,
                Kept::Input(input) => layer.forward(&input, &pass, &mut [], &branches)?,
            };
            let mut backward = Backward {
                layer,
                pass: &pass,
                adapter: adapter.get(layer.index),
                dropout: options.dropout.as_ref(),
                gradients: &mut gradients,
            };
            dx = backward.layer(&activations, &dx)?;
        }
        if gradients.wants(Parameter::Whole(Place::Embedding)) {
            let table = Tensor::zeros(self.embedding.dims()?, DType::F32, &self.device)?;
            let dx = dx.to_dtype(DType::F32)?;
            let gradient = table.index_add(&batch.tokens.flatten_all()?, &dx, 0)?;
            gradients.add(Parameter::Whole(Place::Embedding), gradient)?;
        }
        Ok((loss, gradients.flatten()?))
    }

    /// The loss of the selected hidden states, before the last norm, and its gradient for them.
    fn head_backward(
        &self,
        selected: &Tensor,
        batch: &TokenBatch,
        objective: Objective<'_>,
        gradients: &mut Gradients,
    ) -> Result<(Tensor, Tensor)> {
        let eps = self.config.rms_norm_eps;
        let normed = rms_norm(selected, &self.norm, eps)?;
        let (weights, label_smoothing) = match objective {
            Objective::Likelihood { label_smoothing } => (None, label_smoothing),
            Objective::Weighted(weights) => {
                let losses = negative_log_likelihood(&normed, &self.head, &batch.targets)?;
                (Some(weights(&losses.to_vec1()?)?), 0.0)
            }
        };
        let head = Parameter::Whole(if self.config.tie_word_embeddings {
            Place::Embedding
        } else {
            Place::Head
        });
        let options = LossOptions {
            weights: weights.as_deref(),
            label_smoothing,
            trains_head: gradients.wants(head),
        };
        let found = cross_entropy_with_gradient(&normed, &self.head, &batch.targets, options)?;
        if let Some(gradient) = found.head {
            gradients.add(head, gradient)?;
        }
        gradients.add_with(Parameter::Whole(Place::Norm), || {
            rms_norm_weight_backward(selected, eps, &found.hidden)
        })?;
        let dselected = rms_norm_backward(selected, &self.norm, eps, &found.hidden)?;
        Ok((found.loss, dselected))
    }

    fn pass(&self, batch: &TokenBatch) -> Result<Pass> {
        let segments = batch.segments.iter();
        let segments = segments.map(|&(rows, width)| self.segment(rows, width, 0));
        Ok(Pass::of(segments.collect::<candle_core::Result<Vec<_>>>()?))
    }
}

enum Kept {
    Input(Tensor),
    All(Box<Activations>),
}

/// The backward of one layer, which collects the gradients of its weights.
struct Backward<'a> {
    layer: &'a DecoderLayer,
    pass: &'a Pass,
    adapter: Option<&'a LayerAdapter>,
    dropout: Option<&'a Dropout>,
    gradients: &'a mut Gradients,
}

impl Backward<'_> {
    /// The gradient of the layer's input, for the gradient `dy` of its result.
    fn layer(&mut self, kept: &Activations, dy: &Tensor) -> candle_core::Result<Tensor> {
        let (layer, pass) = (self.layer, self.pass);
        let index = layer.index;
        let norm = |kept: &Option<Tensor>, x, weight| match kept {
            Some(normed) => Ok(normed.clone()),
            None => rms_norm(x, weight, layer.eps),
        };
        let activated = match &kept.activated {
            Some(activated) => activated.clone(),
            None => swiglu(&kept.gate, &kept.up)?,
        };
        let dactivated = self.input_of(Projection::Down, &activated, dy, None)?;
        drop(activated);
        let (dgate, dup) = swiglu_backward(&kept.gate, &kept.up, &dactivated)?;
        drop(dactivated);
        let post_normed = norm(&kept.post_normed, &kept.residual, &layer.post_norm)?;
        let dpost_normed = self.input_of(Projection::Gate, &post_normed, &dgate, None)?;
        let dpost_normed = self.input_of(Projection::Up, &post_normed, &dup, Some(dpost_normed))?;
        drop((post_normed, dgate, dup));
        self.norm(Place::PostNorm(index), &kept.residual, &dpost_normed)?;
        let dresidual = rms_norm_backward_add(
            &kept.residual,
            &layer.post_norm,
            layer.eps,
            &dpost_normed,
            dy,
        )?;

        let dcontext = self.input_of(Projection::Output, &kept.context, &dresidual, None)?;
        let (mut dqs, mut dks, mut dvs) = (vec![], vec![], vec![]);
        for (segment, heads) in pass.segments.iter().zip(&kept.heads) {
            let dcontext = pass.part(segment, &dcontext)?;
            let (dq, dk, dv) = attention_backward(
                &heads.q,
                &heads.k,
                &heads.v,
                segment.plan(layer.window)?,
                &heads.attended,
                &split(&dcontext, segment.batch, layer.head_dim)?,
            )?;
            let [dq, dk, dv] = match (&layer.head_norms, &heads.unnormed) {
                (Some(norms), Some((q, k))) => {
                    let dq = rope_backward(&dq, &segment.rotation)?;
                    let dk = rope_backward(&dk, &segment.rotation)?;
                    self.norm(Place::QueryNorm(index), q, &dq)?;
                    self.norm(Place::KeyNorm(index), k, &dk)?;
                    let dq = rms_norm_backward(q, &norms.query, layer.eps, &dq)?;
                    let dk = rms_norm_backward(k, &norms.key, layer.eps, &dk)?;
                    [merge(&dq)?, merge(&dk)?, merge(&dv)?]
                }
                _ => split_rotated_backward([&dq, &dk, &dv], &segment.rotation)?,
            };
            dqs.push(dq);
            dks.push(dk);
            dvs.push(dv);
        }
        let (dq, dk) = (Pass::join(dqs)?, Pass::join(dks)?);
        let dv = Pass::join(dvs)?;
        let normed = norm(&kept.normed, &kept.input, &layer.input_norm)?;
        let mut dnormed = self.input_of(Projection::Query, &normed, &dq, None)?;
        for (projection, dy) in [(Projection::Key, dk), (Projection::Value, dv)] {
            dnormed = self.input_of(projection, &normed, &dy, Some(dnormed))?;
        }
        self.norm(Place::InputNorm(index), &kept.input, &dnormed)?;
        let (x, norm) = (&kept.input, &layer.input_norm);
        rms_norm_backward_add(x, norm, layer.eps, &dnormed, &dresidual)
    }

    fn norm(&mut self, place: Place, x: &Tensor, dy: &Tensor) -> candle_core::Result<()> {
        let eps = self.layer.eps;
        self.gradients.add_with(Parameter::Whole(place), || {
            rms_norm_weight_backward(x, eps, dy)
        })
    }

    /// The gradient of the projection's input `x`, for the gradient `dy` of its result, and `dx`: what others
    /// add to it, which has no other holder.
    fn input_of(
        &mut self,
        projection: Projection,
        x: &Tensor,
        dy: &Tensor,
        dx: Option<Tensor>,
    ) -> candle_core::Result<Tensor> {
        let index = self.layer.index;
        self.gradients
            .add_with(Parameter::Whole(Place::Bias(index, projection)), || {
                dy.to_dtype(DType::F32)?.sum(0)
            })?;
        self.gradients
            .add_with(Parameter::Whole(Place::Weight(index, projection)), || {
                linear_weight_backward(dy, x)
            })?;
        let weight = &self.layer.linears[projection as usize].weight;
        match self.adapter.and_then(|a| a[projection as usize].as_ref()) {
            None => weight.backward_onto(dx, dy),
            Some(branch) => self.branch(projection, branch, x, dy, dx),
        }
    }

    /// [`Backward::input_of`] where there is an adapter.
    fn branch(
        &mut self,
        projection: Projection,
        branch: &Branch,
        x: &Tensor,
        dy: &Tensor,
        dx: Option<Tensor>,
    ) -> candle_core::Result<Tensor> {
        let index = self.layer.index;
        let weight = &self.layer.linears[projection as usize].weight;
        let mask = match self.dropout {
            Some(dropout) => Some(dropout.mask(index, projection, x)?),
            None => None,
        };
        let dropped = match &mask {
            Some(mask) => (x * mask)?,
            None => x.clone(),
        };
        let mut factors = branch.low_rank();
        let scaled;
        let dy = match (&branch.dora, &branch.row_scale) {
            (Some(dora), Some(row_scale)) => {
                // With u = W x + scaling · B A x the result is m u / norm, where the norm counts as a
                // constant (section 4.3 of the paper).
                let u = weight.forward(x)?;
                let u = (u + low_rank(&dropped, &branch.a, &dora.b, branch.scaling)?)?;
                let dm = (dy.to_dtype(DType::F32)? * u.to_dtype(DType::F32)?)?.sum(0)?;
                let magnitude = Parameter::Branch(index, projection, Part::Magnitude);
                self.gradients.add(magnitude, (dm / &dora.norm)?)?;
                scaled = dy.broadcast_mul(&row_scale.to_dtype(dy.dtype())?)?;
                factors = LowRank {
                    b: &dora.b,
                    row_scale: None,
                    ..factors
                };
                &scaled
            }
            _ => dy,
        };
        let dx = || weight.backward_onto(dx, dy);
        let found = match mask {
            None => branch_backward(dx, x, factors, dy)?,
            Some(mask) => {
                let LowRank { a, b, scaling, .. } = factors;
                let found = low_rank_backward(&dropped, a, b, scaling, dy)?;
                LowRankGradients {
                    x: add_into(dx()?, &(found.x * mask)?)?,
                    ..found
                }
            }
        };
        for (part, gradient) in [(Part::A, found.a), (Part::B, found.b)] {
            self.gradients
                .add(Parameter::Branch(index, projection, part), gradient)?;
        }
        Ok(found.x)
    }
}

#[cfg(test)]
mod tests;
