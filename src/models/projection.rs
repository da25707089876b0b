//! The seven linear maps of a decoder layer.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A linear map of a decoder layer, named as in Hugging Face checkpoints.
///
/// In JSON it is its name, such as `"q_proj"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Projection {
    /// Attention queries, `q_proj`.
    #[serde(rename = "q_proj")]
    Query,
    /// Attention keys, `k_proj`.
    #[serde(rename = "k_proj")]
    Key,
    /// Attention values, `v_proj`.
    #[serde(rename = "v_proj")]
    Value,
    /// Attention output, `o_proj`.
    #[serde(rename = "o_proj")]
    Output,
    /// Feed-forward gate, `gate_proj`.
    #[serde(rename = "gate_proj")]
    Gate,
    /// Feed-forward input, `up_proj`.
    #[serde(rename = "up_proj")]
    Up,
    /// Feed-forward output, `down_proj`.
    #[serde(rename = "down_proj")]
    Down,
}

impl Projection {
    /// All seven, in the order of the computation.
    pub const ALL: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// The name used in adapter configurations, such as `q_proj`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "q_proj",
            Self::Key => "k_proj",
            Self::Value => "v_proj",
            Self::Output => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The projection by its name.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that lists the seven names.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::models::Projection;
    ///
    /// assert_eq!(Projection::from_name("o_proj")?, Projection::Output);
    /// assert!(Projection::from_name("lm_head").is_err());
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn from_name(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|projection| projection.name() == name)
            .ok_or_else(|| {
                Error::option(
                    "target_modules",
                    format!("`{name}`"),
                    format!("one of {}", Self::ALL.map(Self::name).join(", ")),
                )
            })
    }

    /// The path below `model.layers.{i}`, such as `self_attn.q_proj`.
    #[must_use]
    pub fn path(self) -> String {
        let block = match self {
            Self::Query | Self::Key | Self::Value | Self::Output => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        };
        format!("{block}.{}", self.name())
    }

    /// The name in a layer of a model, such as `model.layers.3.self_attn.q_proj`.
    #[must_use]
    pub fn module(self, layer: usize) -> String {
        format!("model.layers.{layer}.{}", self.path())
    }

    /// Whether it has a bias in a model of the given configuration.
    pub(crate) fn has_bias(self, config: &super::ModelConfig) -> bool {
        config.attention_bias && matches!(self, Self::Query | Self::Key | Self::Value)
    }

    /// (output, input) features in a model of the given configuration.
    #[must_use]
    pub fn dims(self, config: &super::ModelConfig) -> (usize, usize) {
        let hidden = config.hidden_size;
        let query = config.num_attention_heads * config.head_dim;
        let key = config.num_key_value_heads * config.head_dim;
        match self {
            Self::Query => (query, hidden),
            Self::Key | Self::Value => (key, hidden),
            Self::Output => (hidden, query),
            Self::Gate | Self::Up => (config.intermediate_size, hidden),
            Self::Down => (hidden, config.intermediate_size),
        }
    }
}
