//! The way of one token through the layers, where the device has kernels for it.

use super::adapted::Adapted;
use super::layer::DecoderLayer;
use super::{Decoder, KvCache, Pass};
use crate::backend::ops::attention::oldest_seen;
use crate::backend::ops::decode::{self, Heads, Layer, Scratch, plain};
use crate::models::Projection;
use candle_core::{Result, Tensor};

/// What all layers of a forward share, if it is one of a single token without adapters.
pub(super) struct OneToken<'a> {
    pass: &'a Pass,
    scratch: Option<Scratch>,
}

impl<'a> OneToken<'a> {
    pub fn new(
        decoder: &Decoder,
        x: &Tensor,
        pass: &'a Pass,
        caches: &mut [&mut KvCache],
        adapted: &Adapted<'_>,
    ) -> Result<Self> {
        let mut scratch = match (&pass.segments[..], &*caches, decoder.layers.first()) {
            ([segment], [cache], Some(layer))
                if segment.batch == 1 && segment.len == 1 && adapted.is_nothing() =>
            {
                Scratch::new(x, &layer.heads(), cache.len() + 1)?
            }
            _ => None,
        };
        if let (Some(_), [cache]) = (&scratch, caches)
            && !cache.make_room(1)?
        {
            scratch = None;
        }
        Ok(Self { pass, scratch })
    }

    /// The output of a layer, or none where it takes the chain.
    pub fn layer(
        &self,
        layer: &DecoderLayer,
        x: &Tensor,
        caches: &[&mut KvCache],
    ) -> Result<Option<Tensor>> {
        let ([segment], [cache], Some(scratch)) = (&self.pass.segments[..], caches, &self.scratch)
        else {
            return Ok(None);
        };
        let position = cache.len();
        let Some((keys, values)) = cache.plain(layer.index) else {
            return Ok(None);
        };
        let dense = |projection: Projection| {
            let linear = &layer.linears[projection as usize];
            Some((plain(&linear.weight, None)?, linear.bias.as_ref()))
        };
        let without_bias = |projection: Projection| {
            let linear = &layer.linears[projection as usize];
            plain(&linear.weight, linear.bias.as_ref())
        };
        let (Some(query), Some(key), Some(value)) = (
            dense(Projection::Query),
            dense(Projection::Key),
            dense(Projection::Value),
        ) else {
            return Ok(None);
        };
        let (Some(output), Some(gate), Some(up), Some(down)) = (
            without_bias(Projection::Output),
            without_bias(Projection::Gate),
            without_bias(Projection::Up),
            without_bias(Projection::Down),
        ) else {
            return Ok(None);
        };
        let (cos, sin) = segment.rotation.parts();
        let norms = layer.head_norms.as_ref();
        let layer = Layer {
            heads: layer.heads(),
            eps: eps(layer.eps),
            input_norm: &layer.input_norm,
            head_norms: norms.map(|norms| (&norms.query, &norms.key)),
            query_key_value: [query, key, value],
            output,
            post_norm: &layer.post_norm,
            gate,
            up,
            down,
            cos,
            sin,
            keys,
            values,
            position,
            oldest: oldest_seen(position, layer.window),
        };
        decode::decode_layer(x, &layer, scratch)
    }
}

/// The logits in `f32` of one hidden state of shape (1, hidden), or none where they take the chain.
pub(super) fn logits(decoder: &Decoder, hidden: &Tensor) -> Result<Option<Tensor>> {
    decode::decode_head(
        hidden,
        &decoder.norm,
        eps(decoder.config.rms_norm_eps),
        &decoder.head,
    )
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "an epsilon such as 1e-6 fits f32"
)]
fn eps(eps: f64) -> f32 {
    eps as f32
}

impl DecoderLayer {
    fn heads(&self) -> Heads {
        Heads {
            query: self.heads,
            kv: self.kv_heads,
            dim: self.head_dim,
        }
    }
}
