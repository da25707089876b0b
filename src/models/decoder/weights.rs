//! The weights of a decoder, one after the other.

use super::Decoder;
use crate::models::Projection;
use candle_core::Tensor;

impl Decoder {
    /// Every weight, in the order of the computation; a tied head comes once, as the embedding.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Tensor> {
        self.named_weights().map(|(_, weight)| weight)
    }

    /// Every weight with its Hugging Face name, in the order of [`Decoder::weights`].
    pub(crate) fn named_weights(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let layers = self.layers.iter().flat_map(|layer| {
            let prefix = format!("model.layers.{}", layer.index);
            let norms = [
                ("input_layernorm", &layer.input_norm),
                ("post_attention_layernorm", &layer.post_norm),
            ]
            .map(|(norm, weight)| (format!("{prefix}.{norm}.weight"), weight));
            let linears = Projection::ALL.into_iter().zip(&layer.linears);
            let linears = linears.flat_map(move |(projection, linear)| {
                let module = format!("{prefix}.{}", projection.path());
                let bias = linear.bias.as_ref();
                let bias = bias.map(|bias| (format!("{module}.bias"), bias));
                [(format!("{module}.weight"), &linear.weight)]
                    .into_iter()
                    .chain(bias)
            });
            norms.into_iter().chain(linears)
        });
        let named = |name: &str, weight| (name.to_owned(), weight);
        let head = (!self.config.tie_word_embeddings).then_some(&self.head);
        [named("model.embed_tokens.weight", &self.embedding)]
            .into_iter()
            .chain(layers)
            .chain([named("model.norm.weight", &self.norm)])
            .chain(head.map(|head| named("lm_head.weight", head)))
    }
}
