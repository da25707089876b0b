//! The loss of a batch and its gradients, layer by layer from the last to the first.
//!
//! Only adapters are trained: a frozen weight takes part in the gradient of its input and gets none
//! itself, so nothing is computed or kept for it.

use super::layer::{Activations, DecoderLayer, merge};
use super::{Decoder, Pass};
use crate::backend::ops::attention::attention_backward;
use crate::backend::ops::cross_entropy::{cross_entropy, cross_entropy_with_gradient};
use crate::backend::ops::dropout::dropout_mask;
use crate::backend::ops::linear::{add_into, linear_backward, low_rank_backward};
use crate::backend::ops::rms_norm::{rms_norm, rms_norm_backward};
use crate::backend::ops::rope::rope_backward;
use crate::backend::ops::swiglu::swiglu_backward;
use crate::error::Result;
use crate::models::Projection;
use crate::models::adapter::{LayerAdapter, LoRAAdapter};
use candle_core::Tensor;

/// A batch on the device.
pub(crate) struct TokenBatch {
    /// Token ids, (rows, width), `u32`.
    pub tokens: Tensor,
    /// Flat positions whose next token is scored, (n), `u32`.
    pub positions: Tensor,
    /// Those next tokens, (n), `u32`.
    pub targets: Tensor,
}

/// How gradients are computed.
pub(crate) struct StepOptions {
    /// Keep only the inputs of the layers and compute the rest again in the backward (Chen et al.,
    /// 2016, <https://arxiv.org/abs/1604.06174>).
    pub checkpoint: bool,
    /// Dropout on the inputs of the adapters' branches.
    pub dropout: Option<Dropout>,
}

/// Dropout of one forward and its backward.
pub(crate) struct Dropout {
    pub p: f64,
    /// Another one for every batch of a run.
    pub seed: u64,
}

impl Dropout {
    fn mask(
        &self,
        layer: usize,
        projection: Projection,
        x: &Tensor,
    ) -> candle_core::Result<Tensor> {
        // Layers and projections get seeds of their own, so that a layer computed again, alone,
        // drops the same elements.
        let site = (layer * Projection::ALL.len() + projection as usize) as u64;
        let seed = self
            .seed
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(site);
        dropout_mask(x.dims(), self.p, seed, x.device())?.to_dtype(x.dtype())
    }

    pub(super) fn apply(
        &self,
        layer: usize,
        projection: Projection,
        x: &Tensor,
    ) -> candle_core::Result<Tensor> {
        x * self.mask(layer, projection, x)?
    }
}

/// Gradients of one layer's adapter: (A, B) by [`Projection`].
type LayerGradients = [Option<(Tensor, Tensor)>; 7];

impl Decoder {
    /// The summed loss of the batch's targets, an `f32` scalar on the device.
    pub(crate) fn loss(&self, batch: &TokenBatch, adapter: Option<&LoRAAdapter>) -> Result<Tensor> {
        let hidden = self.forward_here(&batch.tokens, None, adapter)?;
        let selected = self.select(&hidden.flatten_to(1)?, batch)?;
        let normed = rms_norm(&selected, &self.norm, self.config.rms_norm_eps)?;
        Ok(cross_entropy(&normed, &self.head, &batch.targets)?)
    }

    /// The summed loss, and its gradient with respect to the adapter's weights as one flat `f32`
    /// vector in their order.
    pub(crate) fn loss_and_gradient(
        &self,
        batch: &TokenBatch,
        adapter: &LoRAAdapter,
        options: &StepOptions,
    ) -> Result<(Tensor, Tensor)> {
        let (rows, width) = batch.tokens.dims2()?;
        let pass = Pass::of([self.segment(rows, width, 0)?]);
        let run = Run {
            pass: &pass,
            adapter,
            dropout: options.dropout.as_ref(),
        };
        let mut x = self.embed(&batch.tokens)?;
        let mut kept = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let activations = run.forward(layer, &x)?;
            let input = x;
            x = activations.output.clone();
            kept.push(if options.checkpoint {
                Kept::Input(input)
            } else {
                Kept::All(Box::new(activations))
            });
        }

        let selected = self.select(&x, batch)?;
        let eps = self.config.rms_norm_eps;
        let normed = rms_norm(&selected, &self.norm, eps)?;
        let (loss, dnormed) = cross_entropy_with_gradient(&normed, &self.head, &batch.targets)?;
        let dselected = rms_norm_backward(&selected, &self.norm, eps, &dnormed)?;
        let mut dx = x.zeros_like()?.index_add(&batch.positions, &dselected, 0)?;
        drop((x, selected, normed, dnormed, dselected));

        let mut gradients = Vec::with_capacity(self.layers.len());
        for (layer, kept) in self.layers.iter().zip(kept).rev() {
            let activations = match kept {
                Kept::All(activations) => *activations,
                Kept::Input(input) => run.forward(layer, &input)?,
            };
            let (dinput, layer_gradients) = run.backward(layer, &activations, &dx)?;
            dx = dinput;
            gradients.push(layer_gradients);
        }
        gradients.reverse();
        Ok((loss, flatten(adapter, &gradients)?))
    }

    /// The hidden states at the positions that are scored.
    fn select(&self, hidden: &Tensor, batch: &TokenBatch) -> candle_core::Result<Tensor> {
        hidden
            .reshape(((), self.config.hidden_size))?
            .index_select(&batch.positions, 0)
    }
}

enum Kept {
    Input(Tensor),
    All(Box<Activations>),
}

/// One batch on its way through the layers.
struct Run<'a> {
    pass: &'a Pass,
    adapter: &'a LoRAAdapter,
    dropout: Option<&'a Dropout>,
}

impl Run<'_> {
    fn forward(&self, layer: &DecoderLayer, x: &Tensor) -> candle_core::Result<Activations> {
        let adapter = self.adapter.layer(layer.index);
        layer.forward(x, self.pass, &mut [], adapter, self.dropout)
    }

    /// The gradient of the layer's input, and those of its adapter.
    fn backward(
        &self,
        layer: &DecoderLayer,
        kept: &Activations,
        dy: &Tensor,
    ) -> candle_core::Result<(Tensor, LayerGradients)> {
        let mut projections = Backward {
            layer,
            adapter: self.adapter.layer(layer.index),
            dropout: self.dropout,
            gradients: LayerGradients::default(),
        };

        let dactivated = projections.input_of(Projection::Down, &kept.activated, dy)?;
        let (dgate, dup) = swiglu_backward(&kept.gate, &kept.up, &dactivated)?;
        let dpost_normed = add_into(
            projections.input_of(Projection::Gate, &kept.post_normed, &dgate)?,
            &projections.input_of(Projection::Up, &kept.post_normed, &dup)?,
        )?;
        let dresidual = add_into(
            rms_norm_backward(&kept.residual, &layer.post_norm, layer.eps, &dpost_normed)?,
            dy,
        )?;

        let dcontext = projections.input_of(Projection::Output, &kept.context, &dresidual)?;
        let (mut dqs, mut dks, mut dvs) = (vec![], vec![], vec![]);
        for (segment, heads) in self.pass.segments.iter().zip(&kept.heads) {
            let dcontext = self.pass.part(segment, &dcontext)?;
            let (dq, dk, dv) = attention_backward(
                &heads.q,
                &heads.k,
                &heads.v,
                segment.plan(layer.window)?,
                &heads.attended,
                &layer.split(&dcontext, layer.heads, segment)?,
            )?;
            dqs.push(merge(&rope_backward(&dq, &segment.rotation)?)?);
            dks.push(merge(&rope_backward(&dk, &segment.rotation)?)?);
            dvs.push(merge(&dv)?);
        }
        let (dq, dk) = (Pass::join(dqs)?, Pass::join(dks)?);
        let dv = Pass::join(dvs)?;
        let mut dnormed = projections.input_of(Projection::Query, &kept.normed, &dq)?;
        for (projection, dy) in [(Projection::Key, dk), (Projection::Value, dv)] {
            dnormed = add_into(
                dnormed,
                &projections.input_of(projection, &kept.normed, &dy)?,
            )?;
        }
        let dx = add_into(
            rms_norm_backward(&kept.input, &layer.input_norm, layer.eps, &dnormed)?,
            &dresidual,
        )?;
        Ok((dx, projections.gradients))
    }
}

/// The backward of a layer's projections, which collects their adapters' gradients.
struct Backward<'a> {
    layer: &'a DecoderLayer,
    adapter: Option<&'a LayerAdapter>,
    dropout: Option<&'a Dropout>,
    gradients: LayerGradients,
}

impl Backward<'_> {
    /// The gradient of the projection's input `x`, for the gradient `dy` of its result.
    fn input_of(
        &mut self,
        projection: Projection,
        x: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let dx = linear_backward(dy, &self.layer.linears[projection as usize].weight)?;
        let Some(pair) = self.adapter.and_then(|a| a[projection as usize].as_ref()) else {
            return Ok(dx);
        };
        let mask = match self.dropout {
            Some(dropout) => Some(dropout.mask(self.layer.index, projection, x)?),
            None => None,
        };
        let dropped = match &mask {
            Some(mask) => (x * mask)?,
            None => x.clone(),
        };
        let branch = low_rank_backward(&dropped, &pair.a, &pair.b, pair.scaling, dy)?;
        self.gradients[projection as usize] = Some((branch.a, branch.b));
        match mask {
            Some(mask) => add_into(dx, &(branch.x * mask)?),
            None => add_into(dx, &branch.x),
        }
    }
}

fn flatten(adapter: &LoRAAdapter, gradients: &[LayerGradients]) -> candle_core::Result<Tensor> {
    let mut parts = Vec::with_capacity(2 * adapter.slots().len());
    for slot in adapter.slots() {
        let Some((a, b)) = &gradients[slot.layer][slot.projection as usize] else {
            return Err(candle_core::Error::Msg(format!(
                "{} got no gradient",
                slot.module()
            )));
        };
        parts.push(a.flatten_all()?);
        parts.push(b.flatten_all()?);
    }
    Tensor::cat(&parts, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::{device_kind, read};
    use crate::backend::{DTypePolicy, DeviceKind};
    use crate::models::testing;
    use crate::models::{LoRAConfig, Model};
    use candle_core::Device;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// A model of its own kind each: untied with grouped queries, with sliding windows, tied, and one
    /// without biases.
    const MODELS: [&str; 4] = [
        "qwen2_untied_gqa",
        "qwen2_sliding",
        "qwen2_tied",
        "mistral_sliding",
    ];

    fn noise(count: usize, seed: u64) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    #[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
    fn tensor(values: &[f64], device: &Device) -> Tensor {
        let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
        Tensor::new(values, device).unwrap()
    }

    /// A model, an adapter whose A and B are both away from zero, and a batch.
    fn case(name: &str, device: DeviceKind) -> (Model, LoRAAdapter, TokenBatch) {
        let model = testing::model(name, device, DTypePolicy::F32);
        let device = model.device();
        let config = LoRAConfig {
            rank: 2,
            alpha: 4.0,
            ..LoRAConfig::default()
        };
        let mut adapter = LoRAAdapter::new(config, &model, 0).unwrap();
        let weights: Vec<f64> = noise(adapter.parameter_count(), 1)
            .iter()
            .map(|x| x * 0.2)
            .collect();
        adapter.set_weights(tensor(&weights, device)).unwrap();
        // Few targets keep the rounding of the sum small; they lie beyond the sliding window.
        let (rows, width) = (2, 12);
        let ids: Vec<u32> = (0..rows * width).map(|i| (i * 37 + 11) % 190).collect();
        let shape = (rows as usize, width as usize);
        let batch = TokenBatch {
            tokens: Tensor::from_vec(ids, shape, device).unwrap(),
            positions: Tensor::new(&[4u32, 10, 17, 22], device).unwrap(),
            targets: Tensor::new(&[3u32, 150, 60, 99], device).unwrap(),
        };
        (model, adapter, batch)
    }

    fn options(checkpoint: bool, dropout: Option<u64>) -> StepOptions {
        StepOptions {
            checkpoint,
            dropout: dropout.map(|seed| Dropout { p: 0.3, seed }),
        }
    }

    fn evaluate(
        model: &Model,
        adapter: &LoRAAdapter,
        batch: &TokenBatch,
        options: &StepOptions,
    ) -> (f64, Vec<f32>) {
        let (loss, gradient) = model
            .decoder()
            .loss_and_gradient(batch, adapter, options)
            .unwrap();
        let loss = loss.to_scalar::<f32>().unwrap();
        (f64::from(loss), gradient.to_vec1().unwrap())
    }

    fn norm(values: &[f64]) -> f64 {
        values.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// On the CPU, for it takes a thousand forwards; other devices are held to the CPU below.
    #[test]
    fn every_matrix_gets_the_gradient_that_differences_give() {
        const STEP: f64 = 1e-2;
        for (name, dropout) in MODELS.into_iter().flat_map(|m| [(m, None), (m, Some(5))]) {
            let (model, adapter, batch) = case(name, DeviceKind::Cpu);
            let options = options(false, dropout);
            let (loss, gradient) = evaluate(&model, &adapter, &batch, &options);
            if dropout.is_none() {
                let plain = model.decoder().loss(&batch, Some(&adapter)).unwrap();
                let plain = f64::from(plain.to_scalar::<f32>().unwrap());
                assert!((loss - plain).abs() < 1e-5 * plain, "{loss} {plain}");
            }
            let start: Vec<f32> = adapter.weights().to_vec1().unwrap();
            for slot in adapter.slots() {
                let a_len = slot.rank * slot.input;
                for (matrix, from, len) in [
                    ("A", slot.offset, a_len),
                    ("B", slot.offset + a_len, slot.len() - a_len),
                ] {
                    let what = format!("{name}, dropout {dropout:?}, {} {matrix}", slot.module());
                    let g: Vec<f64> = gradient[from..from + len]
                        .iter()
                        .map(|&x| f64::from(x))
                        .collect();
                    let size = norm(&g);
                    assert!(size > 1e-4, "{what}: {size}");
                    // Half random, half along the gradient: a random direction alone is nearly
                    // orthogonal to it, and would drown in the rounding of the loss.
                    let random = noise(len, from as u64);
                    let scale = norm(&random);
                    let direction: Vec<f64> = g
                        .iter()
                        .zip(&random)
                        .map(|(g, r)| g / size + r / scale)
                        .collect();
                    let moved = |step: f64| {
                        let mut weights: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
                        for (weight, d) in weights[from..from + len].iter_mut().zip(&direction) {
                            *weight += step * d;
                        }
                        let mut adapter = adapter.clone();
                        adapter.set_weights(tensor(&weights, &Device::Cpu)).unwrap();
                        evaluate(&model, &adapter, &batch, &options).0
                    };
                    let found = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                    let expected: f64 = g.iter().zip(&direction).map(|(g, d)| g * d).sum();
                    assert!(
                        (found - expected).abs() < 0.01 * size + 1e-3,
                        "{what}: {found} {expected} of {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn checkpointing_changes_no_bit() {
        for name in MODELS {
            let (model, adapter, batch) = case(name, device_kind());
            let gradient = |checkpoint, dropout| {
                evaluate(&model, &adapter, &batch, &options(checkpoint, dropout))
            };
            assert_eq!(gradient(false, None), gradient(true, None), "{name}");
            assert_eq!(gradient(false, Some(5)), gradient(true, Some(5)), "{name}");
            assert_ne!(gradient(false, None), gradient(false, Some(5)), "{name}");
            assert_ne!(gradient(false, Some(6)), gradient(false, Some(5)), "{name}");
        }
    }

    #[test]
    fn every_device_gives_the_same_gradient() {
        // One key head in a batch besides.
        for name in MODELS.into_iter().chain(["qwen2_untied_f16"]) {
            for dropout in [None, Some(5)] {
                let run = |device| {
                    let (model, adapter, batch) = case(name, device);
                    let (loss, gradient) =
                        evaluate(&model, &adapter, &batch, &options(false, dropout));
                    (loss, gradient, read(adapter.weights()), adapter)
                };
                let (expected_loss, expected, expected_weights, adapter) = run(DeviceKind::Cpu);
                let (loss, found, weights, _) = run(device_kind());
                assert_eq!(weights, expected_weights);
                assert!((loss - expected_loss).abs() < 1e-5 * expected_loss);
                for slot in adapter.slots() {
                    let middle = slot.offset + slot.rank * slot.input;
                    for range in [slot.offset..middle, middle..slot.offset + slot.len()] {
                        let (found, expected) = (&found[range.clone()], &expected[range.clone()]);
                        let size = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
                        assert!(size > 0.0, "{name}, {}", slot.module());
                        for (a, b) in found.iter().zip(expected) {
                            let what = format!("{name}, {dropout:?}, {} {range:?}", slot.module());
                            assert!((a - b).abs() <= 1e-4 * size, "{what}: {a} {b} of {size}");
                        }
                    }
                }
            }
        }
    }
}
