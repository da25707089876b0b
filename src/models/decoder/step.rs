//! The way of a few tokens through all layers at once, on the CPU.

use super::adapted::Adapted;
use super::linear::Linear;
use super::{Decoder, KvCache, Pass};
use crate::backend::ops::step::{self, Layer, Map, Sequence, Sizes, Step};
use crate::models::Projection;
use candle_core::{DType, Result, Tensor};

impl Decoder {
    /// The hidden states behind the last layer, or none where the layers are computed one by one. The
    /// caches have the tokens' keys and values then.
    pub(super) fn step(
        &self,
        x: &Tensor,
        pass: &Pass,
        caches: &mut [&mut KvCache],
        adapted: &Adapted<'_>,
    ) -> Result<Option<Tensor>> {
        let linears = self.layers.iter().flat_map(|layer| &layer.linears);
        let most = linears.map(|map| step::most_tokens(&map.weight)).min();
        let segments = &pass.segments;
        if x.dim(0)? > most.unwrap_or(0)
            || !x.device().is_cpu()
            || x.dtype() != DType::F32
            || caches.len() != segments.len()
            || segments.iter().any(|segment| segment.batch != 1)
        {
            return Ok(None);
        }
        for (cache, segment) in caches.iter_mut().zip(segments) {
            if !cache.make_room(segment.len)? {
                return Ok(None);
            }
        }
        let (output, kept) = self.as_step(pass, caches, adapted, x.dim(0)?).run(x)?;
        for (cache, segment) in caches.iter().zip(segments) {
            let tokens = segment.start..segment.start + segment.len;
            for layer in 0..self.layers.len() {
                if let Some(buffers) = cache.plain(layer) {
                    kept.write(layer, &tokens, buffers, cache.len())?;
                }
            }
        }
        Ok(Some(output))
    }

    fn as_step<'a>(
        &'a self,
        pass: &'a Pass,
        caches: &'a [&mut KvCache],
        adapted: &Adapted<'a>,
        tokens: usize,
    ) -> Step<'a> {
        let config = &self.config;
        let layers = self.layers.iter().map(|layer| {
            let map = |projection: Projection| {
                let Linear { weight, bias } = &layer.linears[projection as usize];
                Map {
                    weight,
                    bias: bias.as_ref(),
                    branches: adapted.branches(layer.index, projection, tokens),
                }
            };
            #[allow(
                clippy::cast_possible_truncation,
                reason = "an epsilon such as 1e-6 fits f32"
            )]
            let eps = layer.eps as f32;
            let norms = layer.head_norms.as_ref();
            Layer {
                eps,
                input_norm: &layer.input_norm,
                head_norms: norms.map(|norms| (&norms.query, &norms.key)),
                query_key_value: [Projection::Query, Projection::Key, Projection::Value].map(map),
                output: map(Projection::Output),
                post_norm: &layer.post_norm,
                gate_up: [Projection::Gate, Projection::Up].map(map),
                down: map(Projection::Down),
                window: layer.window,
                caches: caches
                    .iter()
                    .map(|cache| cache.plain(layer.index))
                    .collect(),
            }
        });
        let sequences = pass.segments.iter().zip(caches).map(|(segment, cache)| {
            let (cos, sin) = segment.rotation.parts();
            Sequence {
                tokens: segment.start..segment.start + segment.len,
                held: cache.len(),
                cos,
                sin,
            }
        });
        Step {
            sizes: Sizes {
                hidden: config.hidden_size,
                intermediate: config.intermediate_size,
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
            },
            layers: layers.collect(),
            sequences: sequences.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{DTypePolicy, DeviceKind};
    use crate::models::adapter::LayerAdapter;
    use crate::models::testing::model;
    use crate::models::{LoRAAdapter, LoRAConfig};

    /// Adds the tokens of several sequences to their caches, by one step or layer by layer, and gives the
    /// hidden states and the caches' contents.
    fn run(
        decoder: &Decoder,
        calls: &[Vec<&[u32]>],
        adapters: &[&[LayerAdapter]],
        by_step: bool,
    ) -> Vec<f32> {
        let mut caches: Vec<_> = adapters.iter().map(|_| decoder.new_cache()).collect();
        let mut found = vec![];
        for call in calls {
            let tokens: Vec<u32> = call.concat();
            let x = decoder
                .embed(&Tensor::new(tokens, decoder.device()).unwrap())
                .unwrap();
            let segments = call.iter().zip(&caches);
            let segments =
                segments.map(|(tokens, cache)| decoder.segment(1, tokens.len(), cache.len()));
            let pass = Pass::of(segments.collect::<Result<Vec<_>>>().unwrap());
            let rows = call.iter().zip(adapters);
            let adapted = Adapted::rows(rows.map(|(tokens, layers)| (tokens.len(), *layers)));
            let mut borrowed: Vec<_> = caches.iter_mut().collect();
            let y = if by_step {
                let y = decoder.step(&x, &pass, &mut borrowed, &adapted).unwrap();
                y.expect("a step takes these")
            } else {
                decoder
                    .layer_by_layer(x, &pass, &mut borrowed, &adapted)
                    .unwrap()
            };
            found.extend(y.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            for (cache, tokens) in caches.iter_mut().zip(call) {
                cache.advance(tokens.len());
            }
        }
        for (_, part) in caches.iter().flat_map(|cache| cache.used_parts().unwrap()) {
            let part = part.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
            found.extend(part.to_vec1::<f32>().unwrap());
        }
        found
    }

    /// The length of the difference, in lengths of what is expected.
    fn distance(found: &[f32], expected: &[f32]) -> f64 {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let off: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
        let all: f64 = expected.iter().copied().map(square).sum();
        (off / all).sqrt()
    }

    /// A step adds up in another order; and of new keys in 16 bits it sees what they were before they were
    /// rounded.
    #[test]
    fn a_step_is_the_layers_one_by_one() {
        let long: Vec<u32> = (0..300).map(|i| i * 7 % 200).collect();
        let calls: Vec<Vec<&[u32]>> = vec![
            vec![&long[..9], &[3]],
            vec![&[5], &long[..6]],
            vec![&long[..1], &long[9..11]],
        ];
        for name in ["qwen2_tied", "qwen3", "mistral_sliding", "llama3_scaled"] {
            for (dtype, bound) in [
                (DTypePolicy::F32, 1e-5),
                (DTypePolicy::F16, 2e-3),
                (DTypePolicy::Bf16, 2e-2),
            ] {
                let model = model(name, DeviceKind::Cpu, dtype);
                let decoder = model.decoder();
                let mut adapter = LoRAAdapter::new(LoRAConfig::default(), &model, 1).unwrap();
                // B begins with zeros, which would change nothing.
                let weights = (adapter.weights() + 0.02).unwrap();
                adapter.set_weights(weights, decoder).unwrap();
                for adapters in [
                    [&[][..], &[]],
                    [adapter.layers(), &[]],
                    [adapter.layers(); 2],
                ] {
                    let expected = run(decoder, &calls, &adapters, false);
                    let found = run(decoder, &calls, &adapters, true);
                    assert_eq!(found.len(), expected.len());
                    let off = distance(&found, &expected);
                    assert!(off <= bound, "{name} {dtype:?} {off}");
                }
            }
        }
    }

    /// More positions than one split of the attention has.
    #[test]
    fn a_long_cache_is_seen_whole() {
        let long: Vec<u32> = (0..700).map(|i| i * 7 % 200).collect();
        let calls: Vec<Vec<&[u32]>> = long.chunks(16).map(|part| vec![part]).collect();
        let model = model("qwen2_tied", DeviceKind::Cpu, DTypePolicy::F32);
        let expected = run(model.decoder(), &calls, &[&[]], false);
        let found = run(model.decoder(), &calls, &[&[]], true);
        let off = distance(&found, &expected);
        assert!(off <= 1e-5, "{off}");
    }
}
