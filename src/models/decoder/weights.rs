//! The weights of a decoder, one after the other.

use super::Decoder;
use candle_core::Tensor;

impl Decoder {
    /// Every weight, in the order of the computation; a tied head comes once, as the embedding.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Tensor> {
        let layers = self.layers.iter().flat_map(|layer| {
            let linears = layer.linears.iter();
            [&layer.input_norm, &layer.post_norm]
                .into_iter()
                .chain(linears.flat_map(|linear| {
                    [Some(&linear.weight), linear.bias.as_ref()]
                        .into_iter()
                        .flatten()
                }))
        });
        let head = (!self.config.tie_word_embeddings).then_some(&self.head);
        [&self.embedding]
            .into_iter()
            .chain(layers)
            .chain([&self.norm])
            .chain(head)
    }
}
