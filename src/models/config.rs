//! The configuration of a model, `config.json`.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::models::json::{self, Object};
use crate::models::rope_scaling::{self, MAX_POSITIONS, RopeScaling};

/// The largest width, vocabulary or window that is believed.
const MAX_SIZE: usize = 1 << 24;
/// The largest number of layers that is believed.
const MAX_LAYERS: usize = 1 << 12;
/// The largest number of parameters that is believed, so that no size in bytes can overflow.
const MAX_PARAMETERS: usize = usize::MAX / 8;

/// A model family, by the computation that its layers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// Qwen2 and Qwen2.5, among them Qwen2.5-Coder: biases on the query, key and value projections.
    Qwen2,
    /// Qwen3: no biases, and norms of each query and key head.
    Qwen3,
    /// Llama 2 and 3, and what has their form, such as `SmolLM2`: no biases.
    Llama,
    /// Mistral 7B and its relatives: no biases, and a sliding window on every layer or on none.
    Mistral,
}

impl Architecture {
    /// All families that can be run.
    pub const ALL: &'static [Self] = &[Self::Qwen2, Self::Qwen3, Self::Llama, Self::Mistral];

    /// The name of the family as `model_type` in `config.json` has it.
    #[must_use]
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
        }
    }

    /// The context of a configuration that names none, as in transformers.
    fn default_context(self) -> usize {
        match self {
            Self::Qwen2 | Self::Qwen3 => 32_768,
            Self::Llama => 2048,
            Self::Mistral => 131_072,
        }
    }

    /// Whether `use_sliding_window` decides about sliding windows.
    fn has_window_switch(self) -> bool {
        matches!(self, Self::Qwen2 | Self::Qwen3)
    }

    /// The width of a head that is not named, where it does not follow from other sizes.
    fn default_head_dim(self) -> Option<usize> {
        (self == Self::Qwen3).then_some(128)
    }

    fn from_config(config: &Object) -> Result<Self> {
        let supported = || {
            let names: Vec<_> = Self::ALL.iter().map(|family| family.model_type()).collect();
            names.join(", ")
        };
        let Some(model_type) = config.string("model_type")? else {
            return Err(config.invalid("model_type", format!("one of {}", supported())));
        };
        Self::ALL
            .iter()
            .copied()
            .find(|family| family.model_type() == model_type)
            .ok_or_else(|| Error::Unsupported {
                path: config.path().to_owned(),
                what: "architecture",
                found: model_type.to_owned(),
                supported: supported(),
            })
    }
}

/// The sizes and settings of a decoder-only transformer, from `config.json`.
///
/// Both spellings of the file are read: the older one with `rope_theta` and `rope_scaling` at the
/// top level and the newer one with `rope_parameters`. A configuration that was read is consistent:
/// sizes are positive and bounded, heads divide, and there is one sliding window entry per layer.
/// Token ids are taken as they are; they may lie outside the vocabulary.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ModelConfig {
    /// The model family.
    pub architecture: Architecture,
    /// The number of rows of the embedding. May exceed the number of tokens of the tokenizer.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// The width inside the feed-forward network.
    pub intermediate_size: usize,
    /// The number of layers.
    pub num_hidden_layers: usize,
    /// The number of query heads.
    pub num_attention_heads: usize,
    /// The number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// The width of one head; even.
    pub head_dim: usize,
    /// The longest context, in tokens: `max_position_embeddings` of the file, or with
    /// [`RopeScaling::Yarn`] the original context times the factor where that is more, up to 2²⁴.
    pub max_position_embeddings: usize,
    /// What is added to the mean square in `RMSNorm`.
    pub rms_norm_eps: f64,
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
    /// How rotary position embeddings are stretched.
    pub rope_scaling: RopeScaling,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the query, key and value projections have biases.
    pub attention_bias: bool,
    /// Whether each query and key head is normed before it is rotated.
    pub qk_norm: bool,
    /// For each layer the number of tokens it sees, itself included; `None` if all.
    pub sliding_windows: Vec<Option<usize>>,
    /// The ids that end a text; empty if the file names none.
    pub eos_token_ids: Vec<u32>,
    /// The id that starts a text.
    pub bos_token_id: Option<u32>,
    /// The id that fills up shorter rows of a batch.
    pub pad_token_id: Option<u32>,
}

impl ModelConfig {
    /// Reads the `config.json` at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::FileNotFound`] or [`Error::Io`] if the file cannot be read, else those of
    /// [`from_json`](Self::from_json).
    ///
    /// # Example
    ///
    /// ```
    /// use std::path::Path;
    /// use metal_candle::models::ModelConfig;
    ///
    /// let config = ModelConfig::from_file(Path::new("assets/tiny-coder/config.json"))?;
    /// assert_eq!(config.num_hidden_layers, 6);
    /// assert_eq!(config.head_dim, 64);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_value(&json::read(path, "the configuration of the model")?, path)
    }

    /// Reads a configuration from its text; `path` is where it is from, for error messages.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFormat`] if the text is not a JSON object, [`Error::InvalidConfig`] if a
    /// value is missing or makes no sense, and [`Error::Unsupported`] if the model is of a kind that
    /// cannot be run: another architecture, activation or rope type. How the weights are quantised, if
    /// they are, is not looked at.
    pub fn from_json(text: &str, path: &Path) -> Result<Self> {
        Self::from_value(&json::parse(text.as_bytes(), path)?, path)
    }

    pub(crate) fn from_value(value: &Value, path: &Path) -> Result<Self> {
        let config = &Object::new(value, path)?;
        let architecture = Architecture::from_config(config)?;
        check_supported(config, architecture)?;

        let hidden_size = config.required_size("hidden_size", MAX_SIZE)?;
        let num_hidden_layers = config.required_size("num_hidden_layers", MAX_LAYERS)?;
        let num_attention_heads = config.required_size("num_attention_heads", MAX_SIZE)?;
        let max_position_embeddings = config
            .size("max_position_embeddings", MAX_POSITIONS)?
            .unwrap_or_else(|| architecture.default_context());
        let rope_scaling = RopeScaling::from_config(config, max_position_embeddings)?;
        let this = Self {
            architecture,
            vocab_size: config.required_size("vocab_size", MAX_SIZE)?,
            hidden_size,
            intermediate_size: config.required_size("intermediate_size", MAX_SIZE)?,
            num_hidden_layers,
            num_attention_heads,
            head_dim: head_dim(config, architecture, hidden_size, num_attention_heads)?,
            num_key_value_heads: key_value_heads(config, num_attention_heads)?,
            max_position_embeddings: rope_scaling.context(max_position_embeddings),
            rms_norm_eps: config.number_above("rms_norm_eps", 0.0)?.unwrap_or(1e-6),
            rope_theta: rope_scaling::rope_theta(config)?,
            rope_scaling,
            tie_word_embeddings: config.bool("tie_word_embeddings")?.unwrap_or(false),
            attention_bias: architecture == Architecture::Qwen2,
            qk_norm: architecture == Architecture::Qwen3,
            sliding_windows: sliding_windows(config, architecture, num_hidden_layers)?,
            eos_token_ids: config.token_ids("eos_token_id")?,
            bos_token_id: config.token_id("bos_token_id")?,
            pad_token_id: config.token_id("pad_token_id")?,
        };
        this.rope_scaling.check(config, this.head_dim)?;
        let parameters = this.parameter_count();
        if parameters > MAX_PARAMETERS {
            return Err(config.invalid(
                "hidden_size",
                format!(
                    "sizes that give at most {MAX_PARAMETERS} parameters (these give {parameters})"
                ),
            ));
        }
        Ok(this)
    }
}

/// Refuses settings that are well-formed but would be computed wrongly.
fn check_supported(config: &Object, architecture: Architecture) -> Result<()> {
    if let Some(activation) = config.string("hidden_act")?.filter(|name| *name != "silu") {
        return Err(Error::Unsupported {
            path: config.path().to_owned(),
            what: "activation",
            found: activation.to_owned(),
            supported: "silu".to_owned(),
        });
    }
    // Qwen2 always has the biases that it has, whatever its file says about them.
    if architecture != Architecture::Qwen2 {
        for key in ["attention_bias", "mlp_bias"] {
            if config.bool(key)? == Some(true) {
                return Err(Error::Unsupported {
                    path: config.path().to_owned(),
                    what: "setting",
                    found: format!("{key}: true"),
                    supported: format!(
                        "{key}: false in models of type {}",
                        architecture.model_type()
                    ),
                });
            }
        }
    }
    Ok(())
}

fn key_value_heads(config: &Object, num_attention_heads: usize) -> Result<usize> {
    let heads = config
        .size("num_key_value_heads", num_attention_heads)?
        .unwrap_or(num_attention_heads);
    if num_attention_heads.is_multiple_of(heads) {
        Ok(heads)
    } else {
        Err(config.invalid(
            "num_key_value_heads",
            format!("a divisor of num_attention_heads, which is {num_attention_heads}"),
        ))
    }
}

fn head_dim(
    config: &Object,
    architecture: Architecture,
    hidden_size: usize,
    num_attention_heads: usize,
) -> Result<usize> {
    let stated = config.size("head_dim", MAX_SIZE)?;
    let (key, head_dim) = match stated.or_else(|| architecture.default_head_dim()) {
        Some(head_dim) => ("head_dim", head_dim),
        None if hidden_size.is_multiple_of(num_attention_heads) => {
            ("num_attention_heads", hidden_size / num_attention_heads)
        }
        None => {
            return Err(config.invalid(
                "num_attention_heads",
                format!("a divisor of hidden_size, which is {hidden_size}"),
            ));
        }
    };
    // Rotary embeddings turn pairs of dimensions.
    if head_dim.is_multiple_of(2) {
        Ok(head_dim)
    } else {
        Err(config.invalid(
            key,
            format!("a value that makes the width of a head even, not {head_dim}"),
        ))
    }
}

/// The sliding window of every layer.
///
/// `layer_types` decides where present. Otherwise Mistral slides in every layer if there is a window,
/// and Qwen from `max_window_layers` on if `use_sliding_window` says so. A `sliding_window` that no
/// layer uses has no effect.
fn sliding_windows(
    config: &Object,
    architecture: Architecture,
    num_hidden_layers: usize,
) -> Result<Vec<Option<usize>>> {
    let enabled = config.bool("use_sliding_window")?;
    let slides: Vec<bool> = match config.list("layer_types")? {
        Some(types) => {
            let slides: Option<Vec<bool>> = types
                .iter()
                .map(|layer_type| match layer_type.as_str() {
                    Some("full_attention") => Some(false),
                    Some("sliding_attention") => Some(true),
                    _ => None,
                })
                .collect();
            slides
                .filter(|slides| slides.len() == num_hidden_layers)
                .ok_or_else(|| {
                    let count = types.len();
                    config.invalid(
                        "layer_types",
                        format!(
                            "{num_hidden_layers} entries (there are {count}), \
                             each \"full_attention\" or \"sliding_attention\""
                        ),
                    )
                })?
        }
        None if architecture == Architecture::Mistral => {
            // Absent is not null here: transformers then takes its default.
            if !config.fields().contains_key("sliding_window") {
                return Ok(vec![Some(4096); num_hidden_layers]);
            }
            vec![config.get("sliding_window").is_some(); num_hidden_layers]
        }
        None if architecture.has_window_switch() && enabled == Some(true) => {
            let first = match config.get("max_window_layers") {
                // The default of transformers.
                None => 28,
                Some(value) => value
                    .as_u64()
                    .ok_or_else(|| config.invalid("max_window_layers", "a whole number"))?,
            };
            (0..num_hidden_layers as u64)
                .map(|layer| layer >= first)
                .collect()
        }
        None => vec![false; num_hidden_layers],
    };
    if !slides.contains(&true) {
        return Ok(vec![None; num_hidden_layers]);
    }
    if architecture.has_window_switch() && enabled == Some(false) {
        return Err(config.invalid(
            "use_sliding_window",
            "true, because `layer_types` has sliding_attention",
        ));
    }
    let window = config.required_size("sliding_window", MAX_SIZE)?;
    Ok(slides
        .into_iter()
        .map(|slides| slides.then_some(window))
        .collect())
}

#[cfg(test)]
mod tests;
