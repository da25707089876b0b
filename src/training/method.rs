//! What a training run changes.

use crate::error::Result;
use crate::models::{LayerSelection, LoRAConfig, Model};
use serde::{Deserialize, Serialize};

/// What a training run changes: an adapter beside the model, or the model's weights.
///
/// In JSON it is an object with `fine_tune_type` beside the settings: those of the adapter for
/// `lora`, which is the default, and `num_layers` for `full`.
///
/// # Example
///
/// ```
/// use metal_candle::models::{LayerSelection, LoRAConfig};
/// use metal_candle::training::TrainMethod;
///
/// let adapter: TrainMethod = LoRAConfig { rank: 16, ..LoRAConfig::default() }.into();
/// let last_layers = TrainMethod::Full { layers: LayerSelection::Last(4) };
/// assert_ne!(adapter, last_layers);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum TrainMethod {
    /// A LoRA, rsLoRA or `DoRA` adapter; QLoRA where the model is quantised.
    LoRA(LoRAConfig),
    /// The weights themselves, in `f32` while they are trained. It takes some 16 bytes a weight with
    /// Adam, and a model that is not quantised.
    Full {
        /// With all layers everything is trained, embedding, norms and head included; with some of
        /// them only what belongs to these, as in mlx-lm.
        layers: LayerSelection,
    },
}

impl Default for TrainMethod {
    fn default() -> Self {
        Self::LoRA(LoRAConfig::default())
    }
}

impl From<LoRAConfig> for TrainMethod {
    fn from(config: LoRAConfig) -> Self {
        Self::LoRA(config)
    }
}

impl TrainMethod {
    /// Checks the ranges of all settings.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) that names the setting and its range.
    pub fn validate(&self) -> Result<()> {
        match self {
            Self::LoRA(config) => config.validate(),
            Self::Full { layers } => layers.check(usize::MAX),
        }
    }

    /// `lora`, `dora`, `qlora`, `qdora` or `full`.
    #[must_use]
    pub fn name(&self, model: &Model) -> &'static str {
        match (self, model.is_quantized()) {
            (Self::LoRA(config), false) if config.use_dora => "dora",
            (Self::LoRA(config), true) if config.use_dora => "qdora",
            (Self::LoRA(_), false) => "lora",
            (Self::LoRA(_), true) => "qlora",
            (Self::Full { .. }, _) => "full",
        }
    }
}

/// The JSON form.
#[derive(Serialize, Deserialize)]
#[serde(tag = "fine_tune_type", rename_all = "lowercase")]
enum Tagged {
    LoRA(LoRAConfig),
    Full(FullFields),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FullFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    num_layers: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<std::collections::BTreeSet<usize>>,
}

impl Serialize for TrainMethod {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::LoRA(config) => Tagged::LoRA(config.clone()),
            Self::Full { layers } => Tagged::Full(match layers {
                LayerSelection::All => FullFields {
                    num_layers: None,
                    layers: None,
                },
                LayerSelection::Last(last) => FullFields {
                    num_layers: Some(*last),
                    layers: None,
                },
                LayerSelection::These(layers) => FullFields {
                    num_layers: None,
                    layers: Some(layers.clone()),
                },
            }),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TrainMethod {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        use serde::de::Error as _;
        let mut value = serde_json::Value::deserialize(deserializer)?;
        if let Some(object) = value.as_object_mut() {
            object
                .entry("fine_tune_type")
                .or_insert_with(|| "lora".into());
        }
        match Tagged::deserialize(value).map_err(D::Error::custom)? {
            Tagged::LoRA(config) => Ok(Self::LoRA(config)),
            Tagged::Full(FullFields { num_layers, layers }) => Ok(Self::Full {
                layers: match (num_layers, layers) {
                    (None, None) => LayerSelection::All,
                    (Some(last), None) => LayerSelection::Last(last),
                    (None, Some(layers)) => LayerSelection::These(layers),
                    (Some(_), Some(_)) => {
                        return Err(D::Error::custom(
                            "expected one of `num_layers` and `layers`",
                        ));
                    }
                },
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_names_the_method_beside_its_settings() {
        let read = |value| serde_json::from_value::<TrainMethod>(value);
        assert_eq!(read(json!({})).unwrap(), TrainMethod::default());
        let dora = read(json!({"fine_tune_type": "lora", "use_dora": true, "rank": 4})).unwrap();
        let TrainMethod::LoRA(config) = &dora else {
            panic!("{dora:?}");
        };
        assert!(config.use_dora && config.rank == 4);
        let full = read(json!({"fine_tune_type": "full", "num_layers": 4})).unwrap();
        let last = LayerSelection::Last(4);
        assert_eq!(full, TrainMethod::Full { layers: last });
        for method in [
            dora,
            full,
            TrainMethod::Full {
                layers: LayerSelection::All,
            },
        ] {
            assert_eq!(
                read(serde_json::to_value(&method).unwrap()).unwrap(),
                method
            );
        }
        assert!(read(json!({"fine_tune_type": "full", "rank": 4})).is_err());
        assert!(read(json!({"fine_tune_type": "prefix"})).is_err());
        assert!(read(json!({"ranc": 4})).is_err());
    }
}
