//! A loaded model: decoder, tokenizer and the ids that end a text.

use super::adapters::{Adapters, Registry};
use super::decoder::Row;
use super::fingerprint::{self, Fingerprint};
use super::{
    AdapterMix, ChatTemplate, Decoder, GrammarVocabulary, LoRAAdapter, ModelConfig, ModelText,
    Quantization, Tokenizer,
};
use crate::backend::device;
use crate::error::{Error, Result};
use candle_core::{DType, Device};
use once_cell::sync::OnceCell;
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// A loaded model.
///
/// Cloning is cheap and shares the weights, which are never written: any number of generators and
/// trainers can use one model at the same time, from several threads.
///
/// # Example
///
/// ```
/// use metal_candle::ModelLoader;
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// assert_eq!(model.parameter_count(), 6_297_856);
/// println!("{}", model.summary());
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// The configuration as it is written.
    config_json: Arc<Value>,
    decoder: Decoder,
    tokenizer: Option<Tokenizer>,
    eos_token_ids: Vec<u32>,
    fingerprint: OnceLock<Fingerprint>,
    /// Of the tokenizer, and so shared with models of other weights.
    grammar_vocabulary: Arc<OnceCell<GrammarVocabulary>>,
    chat_template: Option<Arc<ChatTemplate>>,
    text_directory: Option<PathBuf>,
    adapters: Registry,
}

impl Model {
    pub(crate) fn new(path: &Path, decoder: Decoder, text: ModelText, config_json: Value) -> Self {
        Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                config_json: Arc::new(config_json),
                decoder,
                tokenizer: text.tokenizer,
                eos_token_ids: text.eos_token_ids,
                fingerprint: OnceLock::new(),
                grammar_vocabulary: Arc::default(),
                chat_template: text.chat_template.map(Arc::new),
                text_directory: text.directory,
                adapters: Registry::default(),
            }),
        }
    }

    /// The directory or file it was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        self.decoder().config()
    }

    /// The configuration as `config.json` has it.
    pub(crate) fn config_json(&self) -> &Value {
        &self.inner.config_json
    }

    /// The network itself, for logits and hidden states.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.inner.decoder
    }

    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] where the model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.inner.tokenizer.as_ref().ok_or_else(|| {
            let what = match self.text_directory() {
                Some(_) => "tokenizer.json",
                None => "tokenizer",
            };
            let path = self.path().display();
            Error::Tokenizer {
                reason: format!("{path} has no {what}; text needs one, token ids do not"),
            }
        })
    }

    /// The ids that end a text: those of `generation_config.json`, else of the configuration, else the
    /// tokenizer's.
    #[must_use]
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.inner.eos_token_ids
    }

    /// The vocabulary, prepared for grammars: made at the first call, which takes about a second for
    /// 150 000 tokens, and kept, for merged models too.
    ///
    /// Ids that end a text and lie outside the vocabulary are left out: no logit is theirs. Where none
    /// is left, a text ends where its grammar lets nothing follow.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] where there is no tokenizer, or its tokens are not pieces of text.
    pub fn grammar_vocabulary(&self) -> Result<&GrammarVocabulary> {
        self.inner.grammar_vocabulary.get_or_try_init(|| {
            let vocab_size = self.config().vocab_size;
            let ends = self.eos_token_ids().iter().copied();
            let ends: Vec<_> = ends.filter(|&id| (id as usize) < vocab_size).collect();
            GrammarVocabulary::new(self.tokenizer()?, &ends, vocab_size)
        })
    }

    /// Whether the model has a chat template.
    #[must_use]
    pub fn has_chat_template(&self) -> bool {
        self.inner.chat_template.is_some()
    }

    /// The chat template.
    ///
    /// # Errors
    ///
    /// [`Error::FileNotFound`] where a model directory has none, and [`Error::InvalidFormat`] where
    /// another format has none, or it cannot be compiled.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        let template = self.inner.chat_template.as_deref();
        let template = template.ok_or_else(|| match self.text_directory() {
            Some(directory) => Error::FileNotFound {
                path: directory.join("chat_template.jinja"),
                expected: "a chat template, there or as `chat_template` in tokenizer_config.json; \
                           models that are no chat models have none"
                    .to_owned(),
            },
            None => Error::format(
                self.path(),
                "has no chat template; models that are no chat models have none",
            ),
        })?;
        template.compile()?;
        Ok(template)
    }

    /// The chat template as it is, be it one that can be compiled or not.
    pub(crate) fn uncompiled_chat_template(&self) -> Option<&ChatTemplate> {
        self.inner.chat_template.as_deref()
    }

    /// The directory with the files of tokenizer and chat template, if they were read from such.
    pub(crate) fn text_directory(&self) -> Option<&Path> {
        self.inner.text_directory.as_deref()
    }

    /// The device that holds the weights.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.decoder().device()
    }

    /// The dtype of weights and activations.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.decoder().dtype()
    }

    /// How the weights of the linear maps are quantised: as the first of them that is in groups of MLX's
    /// kind, or none.
    #[must_use]
    pub fn quantization(&self) -> Option<Quantization> {
        self.decoder().quantization()
    }

    /// Whether a weight is kept in fewer bits than those of a float.
    #[must_use]
    pub fn is_quantized(&self) -> bool {
        self.decoder().is_quantized()
    }

    /// The number of parameters; a tied embedding counts once.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.config().parameter_count()
    }

    /// What tells this model from others: of its configuration, one number of every row of every matrix,
    /// and all numbers of norms and biases.
    ///
    /// It is computed when it is first asked for, from 2 million numbers of a model of 7 billion. A model
    /// that was trained further, or of which one row is another, such as the embedding of one token, has
    /// another fingerprint; one of which single numbers were changed may have the same. The device and
    /// the path make no difference, nor does the dtype unless weights were rounded to it.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] when the device fails.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        if let Some(known) = self.inner.fingerprint.get() {
            return Ok(*known);
        }
        let computed = fingerprint::of_model(self)?;
        Ok(*self.inner.fingerprint.get_or_init(|| computed))
    }

    /// Lets the model read a few tokens and forgets them, so that the first real one comes as fast as the
    /// others: on a GPU, kernels are compiled when they are first used.
    ///
    /// It takes as long as the first tokens of a text, and does not change what is computed later.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] when the device fails.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::ModelLoader;
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// model.warm_up()?;
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn warm_up(&self) -> Result<()> {
        /// A prompt that is long enough for the kernels of many rows.
        const PROMPT: usize = 32;
        let decoder = self.decoder();
        let most = self.config().max_position_embeddings.saturating_sub(1);
        let prompt = PROMPT.min(most).max(1);
        let started = Instant::now();
        device::completed(self.device(), || {
            let mut cache = decoder.new_cache();
            for count in [prompt, 1] {
                let mut rows = [Row {
                    tokens: &vec![0; count],
                    cache: &mut cache,
                    adapter: None,
                }];
                let hidden = decoder.forward_rows(&mut rows)?;
                let last = hidden.narrow(0, count - 1, 1)?;
                decoder.logits_here(&last)?.to_vec2::<f32>()?;
            }
            Ok(())
        })?;
        let seconds = started.elapsed().as_secs_f32();
        tracing::debug!(seconds, "warmed up a model");
        Ok(())
    }

    /// A model with the adapter's change added to its weights: `W + scaling · B A`.
    ///
    /// It computes what this model with the adapter does, at the speed of a plain model; layers that
    /// are not adapted share their weights with this one.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] where the adapter was made for a model of another shape.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::{LoRAAdapter, ModelLoader};
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let adapter = LoRAAdapter::load("tests/fixtures/lora/nonzero_b", &model)?;
    /// let merged = model.merge(&adapter)?;
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn merge(&self, adapter: &LoRAAdapter) -> Result<Self> {
        self.merge_mix(&AdapterMix::new(vec![(adapter.clone(), 1.0)])?)
    }

    /// A model with the weighted changes of several adapters added to its weights.
    ///
    /// # Errors
    ///
    /// As [`Model::merge`].
    pub fn merge_mix(&self, adapters: &AdapterMix) -> Result<Self> {
        adapters.check(self.config())?;
        let decoder = device::completed(self.device(), || self.decoder().merge(adapters))?;
        Ok(self.with_decoder(decoder))
    }

    /// The same model with other weights.
    pub(crate) fn with_decoder(&self, decoder: Decoder) -> Self {
        Self {
            inner: Arc::new(Inner {
                path: self.inner.path.clone(),
                config_json: Arc::clone(&self.inner.config_json),
                decoder,
                tokenizer: self.inner.tokenizer.clone(),
                eos_token_ids: self.inner.eos_token_ids.clone(),
                fingerprint: OnceLock::new(),
                grammar_vocabulary: Arc::clone(&self.inner.grammar_vocabulary),
                chat_template: self.inner.chat_template.clone(),
                text_directory: self.inner.text_directory.clone(),
                adapters: Registry::default(),
            }),
        }
    }

    /// The adapters that are loaded for the model and its clones, by name.
    #[must_use]
    pub fn adapters(&self) -> Adapters<'_> {
        Adapters::new(self, &self.inner.adapters)
    }

    /// One line that describes the model.
    #[must_use]
    pub fn summary(&self) -> ModelSummary<'_> {
        ModelSummary(self)
    }
}

/// Displays a model in one line: architecture, size, layers, vocabulary, context, dtype, device.
#[derive(Debug)]
pub struct ModelSummary<'a>(&'a Model);

impl fmt::Display for ModelSummary<'_> {
    #[allow(clippy::cast_precision_loss, reason = "shown with two digits")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.0.config();
        write!(
            f,
            "{:?}, {:.2} M parameters, {} layers, hidden {}, vocabulary {}, context {}, {:?} on {}",
            config.architecture,
            self.0.parameter_count() as f64 / 1e6,
            config.num_hidden_layers,
            config.hidden_size,
            config.vocab_size,
            config.max_position_embeddings,
            self.0.dtype(),
            device::describe(self.0.device()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::model_with;
    use super::*;
    use crate::inference::{Constraint, Grammar};
    use crate::models::LoRAConfig;
    use serde_json::json;

    /// A model of 208 tokens, of which the tokenizer knows three.
    fn model(eos_token_ids: &[u32]) -> Model {
        let tokenizer = json!({"version": "1.0", "added_tokens": [], "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "<end>": 2}, "merges": []}});
        let generation_config = json!({"eos_token_id": eos_token_ids});
        let files = [
            ("tokenizer.json", tokenizer),
            ("generation_config.json", generation_config),
        ];
        model_with(&files)
    }

    #[test]
    fn ends_outside_the_vocabulary_are_left_out_of_grammars() {
        for (ends, end_is_allowed) in [(&[2, 208][..], true), (&[208], false)] {
            let model = model(ends);
            assert_eq!(model.eos_token_ids(), ends);
            let vocabulary = model.grammar_vocabulary().unwrap();
            let grammar = Grammar::Regex("a*".to_owned());
            let mut constraint = Constraint::new(vocabulary, &grammar).unwrap();
            let mut logits = [0.0; 208];
            constraint.mask(&mut logits).unwrap();
            let allowed = [0, 1, 2].map(|id: usize| logits[id] == 0.0);
            assert_eq!(allowed, [true, false, end_is_allowed]);
        }
    }

    #[test]
    fn a_merged_model_has_the_same_grammar_vocabulary() {
        let model = model(&[2]);
        let adapter = LoRAAdapter::new(LoRAConfig::default(), &model, 1).unwrap();
        // Whichever makes it first.
        let (early, late) = (model.merge(&adapter).unwrap(), model.merge(&adapter));
        let made = early.grammar_vocabulary().unwrap();
        for other in [&model, &late.unwrap()] {
            assert!(std::ptr::eq(other.grammar_vocabulary().unwrap(), made));
        }
    }
}
