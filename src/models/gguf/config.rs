//! The configuration of a model in a GGUF file, in the spelling of `config.json`.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::models::gguf::file::GgufFile;
use crate::models::gguf::rope;

/// The architectures that are read.
const ARCHITECTURES: &str = "qwen2, qwen3, llama";

/// Numbers that other models of these architectures have, and that would be computed without.
const UNSUPPORTED_NUMBERS: [&str; 8] = [
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
];

/// The keys of the tokens that end a text: the sequence, a turn, a message.
const END_KEYS: [&str; 3] = [
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
];

/// The key of the token that starts a text.
pub(super) const BOS_KEY: &str = "tokenizer.ggml.bos_token_id";
/// The key of the token that fills up shorter texts.
pub(super) const PAD_KEY: &str = "tokenizer.ggml.padding_token_id";

/// The keys of one architecture, which all begin with its name.
pub(super) struct Keys<'a> {
    pub(super) file: &'a GgufFile,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    /// The keys of the architecture that the file names.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if it names none, [`Error::Unsupported`] if it names another.
    pub(super) fn new(file: &'a GgufFile) -> Result<Self> {
        const KEY: &str = "general.architecture";
        let Some(architecture) = file.string(KEY)? else {
            return Err(file.invalid(KEY, format!("one of {ARCHITECTURES}")));
        };
        if !ARCHITECTURES.split(", ").any(|name| name == architecture) {
            return Err(unsupported(
                file,
                "architecture",
                architecture,
                ARCHITECTURES,
            ));
        }
        Ok(Self { file, architecture })
    }

    /// Whether the rows of query and key weights lie in pairs that rotate together, as llama.cpp
    /// rotates them, and not in halves, as Hugging Face does.
    pub(super) fn pairs_rotate_together(&self) -> bool {
        self.architecture == "llama"
    }

    /// The whole key.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A whole number, which may be given for each layer if it is the same.
    fn number(&self, name: &str) -> Result<Option<u64>> {
        self.file.uniform(&self.key(name))
    }

    fn required(&self, name: &str) -> Result<u64> {
        self.number(name)?.ok_or_else(|| {
            let key = self.key(name);
            self.file.invalid(&key, "a whole number from 1 on")
        })
    }

    /// A finite number.
    pub(super) fn float(&self, name: &str) -> Result<Option<f64>> {
        self.file.float(&self.key(name))
    }

    /// The error that a setting would be computed wrongly.
    pub(super) fn unsupported(&self, name: &str, found: &str, supported: &str) -> Error {
        let found = format!("{}: {found}", self.key(name));
        unsupported(self.file, "setting", &found, supported)
    }
}

fn unsupported(file: &GgufFile, what: &'static str, found: &str, supported: &str) -> Error {
    Error::Unsupported {
        path: file.path().to_owned(),
        what,
        found: found.to_owned(),
        supported: supported.to_owned(),
    }
}

/// What `config.json` of the model would say.
///
/// Sizes are as the file has them; [`ModelConfig`](crate::models::ModelConfig) checks them.
///
/// # Errors
///
/// [`Error::InvalidConfig`] with the key that is missing or makes no sense, [`Error::Unsupported`] if
/// the model is of a kind that cannot be run.
pub(super) fn config_json(file: &GgufFile) -> Result<Value> {
    let keys = &Keys::new(file)?;
    check_supported(keys)?;
    let context = keys.required("context_length")?;
    let window = sliding_window(keys, context)?;
    let (model_type, class) = match keys.architecture {
        "qwen2" => ("qwen2", "Qwen2ForCausalLM"),
        "qwen3" => ("qwen3", "Qwen3ForCausalLM"),
        // Both families have this architecture; a window on every layer is what tells them apart.
        _ if window.is_some() => ("mistral", "MistralForCausalLM"),
        _ => ("llama", "LlamaForCausalLM"),
    };
    let heads = keys.required("attention.head_count")?;
    let head_dim = head_dim(keys, heads)?;
    let epsilon = keys.float("attention.layer_norm_rms_epsilon")?;
    let mut config = json!({
        "architectures": [class],
        "model_type": model_type,
        "hidden_act": "silu",
        "vocab_size": vocab_size(file)?,
        "hidden_size": keys.required("embedding_length")?,
        "intermediate_size": keys.required("feed_forward_length")?,
        "num_hidden_layers": keys.required("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": keys.number("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "rms_norm_eps": epsilon.ok_or_else(|| {
            file.invalid(&keys.key("attention.layer_norm_rms_epsilon"), "a number above 0")
        })?,
        "rope_theta": keys.float("rope.freq_base")?.unwrap_or(10_000.0),
        "tie_word_embeddings": file.tensor("output.weight").is_none(),
    });
    if let Some(config) = config.as_object_mut() {
        if let Some(scaling) = rope::scaling(keys, head_dim, context)? {
            config.insert("rope_scaling".to_owned(), scaling);
        }
        if let Some(window) = window {
            config.insert("sliding_window".to_owned(), json!(window));
        }
        if model_type != "qwen2" {
            let biased = file.tensor("blk.0.attn_q.bias").is_some();
            config.insert("attention_bias".to_owned(), json!(biased));
        }
        add_token_ids(file, config)?;
    }
    Ok(config)
}

/// The ids that end a text, each once, the one that ends a sequence first.
pub(super) fn eos_token_ids(file: &GgufFile) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for key in END_KEYS {
        if let Some(id) = file.token_id(key)?
            && !ids.contains(&id)
        {
            ids.push(id);
        }
    }
    Ok(ids)
}

fn add_token_ids(file: &GgufFile, config: &mut Map<String, Value>) -> Result<()> {
    for (name, key) in [("bos_token_id", BOS_KEY), ("pad_token_id", PAD_KEY)] {
        if let Some(id) = file.token_id(key)? {
            config.insert(name.to_owned(), json!(id));
        }
    }
    let ends = match eos_token_ids(file)?[..] {
        [] => return Ok(()),
        [id] => json!(id),
        ref ids => json!(ids),
    };
    config.insert("eos_token_id".to_owned(), ends);
    Ok(())
}

/// Refuses what is well-formed but would be computed wrongly.
fn check_supported(keys: &Keys) -> Result<()> {
    if let Some(experts) = keys.number("expert_count")?.filter(|&experts| experts > 0) {
        let supported = "models without experts";
        return Err(keys.unsupported("expert_count", &experts.to_string(), supported));
    }
    for name in UNSUPPORTED_NUMBERS {
        if let Some(number) = keys.float(name)?.filter(|&number| number != 0.0) {
            return Err(keys.unsupported(name, &number.to_string(), "models without this setting"));
        }
    }
    if keys.file.bool(&keys.key("attention.causal"))? == Some(false) {
        return Err(keys.unsupported("attention.causal", "false", "causal attention"));
    }
    Ok(())
}

/// The number of rows of the embedding.
fn vocab_size(file: &GgufFile) -> Result<usize> {
    const NAME: &str = "token_embd.weight";
    let missing = || Error::MissingTensor {
        path: file.path().to_owned(),
        name: NAME.to_owned(),
        expected: Vec::new(),
    };
    match file.tensor(NAME).ok_or_else(missing)?.shape[..] {
        [rows, _] => Ok(rows),
        ref shape => Err(Error::TensorMismatch {
            path: file.path().to_owned(),
            name: NAME.to_owned(),
            property: "shape",
            found: format!("{shape:?}"),
            expected: "two dimensions".to_owned(),
        }),
    }
}

/// The width of one head.
fn head_dim(keys: &Keys, heads: u64) -> Result<u64> {
    let head_dim = if let Some(head_dim) = keys.number("attention.key_length")? {
        head_dim
    } else {
        let hidden = keys.required("embedding_length")?;
        let head_dim = hidden.checked_div(heads);
        let exact = head_dim.filter(|_| hidden.is_multiple_of(heads));
        exact.ok_or_else(|| {
            let key = keys.key("attention.head_count");
            let expected = format!("a divisor of embedding_length, which is {hidden}");
            keys.file.invalid(&key, expected)
        })?
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = keys.number(name)?.filter(|&other| other != head_dim) {
            let supported = format!("the width of a key, which is {head_dim}");
            return Err(keys.unsupported(name, &other.to_string(), &supported));
        }
    }
    Ok(head_dim)
}

/// The sliding window of a model that has one on all layers.
///
/// A window as long as the context has no effect. Files of Qwen models do not say which layers have
/// the window.
fn sliding_window(keys: &Keys, context: u64) -> Result<Option<u64>> {
    let window = keys.number("attention.sliding_window")?;
    let window = window.filter(|&window| window > 0 && window < context);
    match window {
        Some(window) if keys.architecture != "llama" => {
            let supported = "a window that is as long as the context";
            let found = window.to_string();
            Err(keys.unsupported("attention.sliding_window", &found, supported))
        }
        window => Ok(window),
    }
}

#[cfg(test)]
mod tests;
