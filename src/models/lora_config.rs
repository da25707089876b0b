//! What a LoRA adapter changes, and how strongly.

use super::{ModelConfig, Projection};
use crate::error::{Error, Result};
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a LoRA adapter changes, and how much.
///
/// `y = W x + scaling · B A x` (Hu et al., 2021, <https://arxiv.org/abs/2106.09685>). The defaults are
/// those of Hugging Face's PEFT for `rank` and `alpha`, on all seven projections of all layers.
///
/// # Example
///
/// ```
/// use metal_candle::models::{LayerSelection, LoRAConfig, LoRAScale};
///
/// // The last 16 layers with a factor of 20, as `mlx_lm.lora` does by default.
/// let config = LoRAConfig {
///     scale: LoRAScale::Factor(20.0),
///     layers: LayerSelection::Last(16),
///     ..LoRAConfig::default()
/// };
/// assert_eq!(config.scaling(), 20.0);
/// assert_eq!(LoRAConfig::default().scaling(), 2.0);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, try_from = "Fields", into = "Fields")]
pub struct LoRAConfig {
    /// Rank of the change, 1 to 4096. Default 8.
    pub rank: usize,
    /// Strength of the change. Default an alpha of 16.
    pub scale: LoRAScale,
    /// Share of the branch's inputs that training drops, in [0, 1). Default 0.
    pub dropout: f64,
    /// Divide alpha by the square root of the rank (Kalajdzievski, 2023,
    /// <https://arxiv.org/abs/2312.03732>). Default false.
    pub use_rslora: bool,
    /// Train the lengths of the weights' rows apart from their directions (`DoRA`: Liu et al., 2024,
    /// <https://arxiv.org/abs/2402.09353>). Default false.
    pub use_dora: bool,
    /// The projections that are changed. Default all seven.
    pub targets: LoRATargets,
    /// The layers in which they are changed. Default all.
    pub layers: LayerSelection,
}

impl Default for LoRAConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            scale: LoRAScale::Alpha(16.0),
            dropout: 0.0,
            use_rslora: false,
            use_dora: false,
            targets: LoRATargets::default(),
            layers: LayerSelection::All,
        }
    }
}

/// The strength of an adapter's change: Hugging Face and mlx-lm mean different things by it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LoRAScale {
    /// The change is multiplied by this number divided by the rank, or by the root of the rank for
    /// rsLoRA: `lora_alpha` of PEFT.
    Alpha(f64),
    /// The change is multiplied by this number itself: `scale` of mlx-lm, whose default of 20 at
    /// rank 8 is an alpha of 160.
    Factor(f64),
}

/// The projections that an adapter changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LoRATargets {
    /// These, in every selected layer.
    Projections(BTreeSet<Projection>),
    /// Those whose whole name, such as `model.layers.3.self_attn.q_proj`, the regular expression
    /// matches, as `target_modules` of PEFT where it is a string.
    Pattern(String),
}

impl Default for LoRATargets {
    fn default() -> Self {
        Self::Projections(Projection::ALL.into_iter().collect())
    }
}

impl<const N: usize> From<[Projection; N]> for LoRATargets {
    fn from(projections: [Projection; N]) -> Self {
        Self::Projections(projections.into())
    }
}

/// Layers of a model, counted from 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LayerSelection {
    /// Every layer.
    #[default]
    All,
    /// The last ones, so many; a model of fewer is changed in all: `num_layers` of mlx-lm.
    Last(usize),
    /// These: `layers_to_transform` of PEFT.
    These(BTreeSet<usize>),
}

impl LayerSelection {
    /// Whether a layer of a model with `count` layers is one of them.
    #[must_use]
    pub fn contains(&self, layer: usize, count: usize) -> bool {
        match self {
            Self::All => true,
            Self::Last(last) => layer.saturating_add(*last) >= count,
            Self::These(layers) => layers.contains(&layer),
        }
    }

    /// Checks that there is a layer, and none beyond the model's.
    pub(crate) fn check(&self, count: usize) -> Result<()> {
        match self {
            Self::Last(0) => Err(Error::option("num_layers", 0, "at least 1")),
            Self::These(layers) if layers.is_empty() => {
                Err(Error::option("layers", "empty", "at least one layer"))
            }
            Self::These(layers) => match layers.iter().find(|layer| **layer >= count) {
                Some(layer) => {
                    let expected = format!("below the model's {count} layers");
                    Err(Error::option("layers", layer, expected))
                }
                None => Ok(()),
            },
            Self::All | Self::Last(_) => Ok(()),
        }
    }
}

impl LoRAConfig {
    /// The factor of the low-rank branch.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a rank fits f64")]
    pub fn scaling(&self) -> f64 {
        let rank = self.rank as f64;
        match self.scale {
            LoRAScale::Factor(factor) => factor,
            LoRAScale::Alpha(alpha) if self.use_rslora => alpha / rank.sqrt(),
            LoRAScale::Alpha(alpha) => alpha / rank,
        }
    }

    /// The alpha that gives this strength: PEFT's files know no other way to say it.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a rank fits f64")]
    pub fn alpha(&self) -> f64 {
        let rank = self.rank as f64;
        match self.scale {
            LoRAScale::Alpha(alpha) => alpha,
            LoRAScale::Factor(factor) if self.use_rslora => factor * rank.sqrt(),
            LoRAScale::Factor(factor) => factor * rank,
        }
    }

    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        if self.rank == 0 || self.rank > 4096 {
            return Err(Error::option("rank", self.rank, "1 to 4096"));
        }
        let (name, scale) = match self.scale {
            LoRAScale::Alpha(alpha) => ("alpha", alpha),
            LoRAScale::Factor(factor) => ("scale", factor),
        };
        if !(scale.is_finite() && scale > 0.0) {
            return Err(Error::option(name, scale, "a number above 0"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::option(
                "dropout",
                self.dropout,
                "0 or more and below 1",
            ));
        }
        match &self.targets {
            LoRATargets::Projections(targets) if targets.is_empty() => Err(Error::option(
                "target_modules",
                "empty",
                "at least one projection",
            )),
            LoRATargets::Projections(_) => Ok(()),
            LoRATargets::Pattern(pattern) => whole_name(pattern).map(|_| ()),
        }
    }

    /// The projections that are changed in a model, layer by layer.
    pub(crate) fn modules(&self, model: &ModelConfig) -> Result<Vec<(usize, Projection)>> {
        self.validate()?;
        let count = model.num_hidden_layers;
        self.layers.check(count)?;
        let layers = (0..count).filter(|&layer| self.layers.contains(layer, count));
        match &self.targets {
            LoRATargets::Projections(targets) => Ok(layers
                .flat_map(|layer| targets.iter().map(move |&projection| (layer, projection)))
                .collect()),
            LoRATargets::Pattern(pattern) => {
                let name = whole_name(pattern)?;
                let all = layers.flat_map(|layer| Projection::ALL.map(|target| (layer, target)));
                let modules: Vec<_> = all
                    .filter(|(layer, target)| name.is_match(&target.module(*layer)))
                    .collect();
                if modules.is_empty() {
                    let found = format!("`{pattern}`, which matches nothing");
                    let expected = "a pattern of whole names such as \
                                    `model.layers.0.self_attn.q_proj`";
                    return Err(Error::option("target_modules", found, expected));
                }
                Ok(modules)
            }
        }
    }
}

/// A pattern of whole names; bounded, since it may come from a file.
fn whole_name(pattern: &str) -> Result<Regex> {
    regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
        .size_limit(1 << 20)
        .build()
        .map_err(|error| {
            let reason = error.to_string();
            let reason = reason.lines().last().unwrap_or_default().trim();
            let found = format!("`{pattern}`: {reason}");
            Error::option("target_modules", found, "a regular expression")
        })
}

/// The JSON form: one of `alpha` and `scale`, one of `num_layers` and `layers`.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Fields {
    rank: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpha: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scale: Option<f64>,
    dropout: f64,
    use_rslora: bool,
    use_dora: bool,
    target_modules: LoRATargets,
    #[serde(skip_serializing_if = "Option::is_none")]
    num_layers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<BTreeSet<usize>>,
}

impl Default for Fields {
    fn default() -> Self {
        let mut fields = Self::from(LoRAConfig::default());
        // Not given, so that a `scale` stands alone.
        fields.alpha = None;
        fields
    }
}

impl From<LoRAConfig> for Fields {
    fn from(config: LoRAConfig) -> Self {
        let (alpha, scale) = match config.scale {
            LoRAScale::Alpha(alpha) => (Some(alpha), None),
            LoRAScale::Factor(factor) => (None, Some(factor)),
        };
        let (num_layers, layers) = match config.layers {
            LayerSelection::All => (None, None),
            LayerSelection::Last(last) => (Some(last), None),
            LayerSelection::These(layers) => (None, Some(layers)),
        };
        Self {
            rank: config.rank,
            alpha,
            scale,
            dropout: config.dropout,
            use_rslora: config.use_rslora,
            use_dora: config.use_dora,
            target_modules: config.targets,
            num_layers,
            layers,
        }
    }
}

impl TryFrom<Fields> for LoRAConfig {
    type Error = String;

    fn try_from(fields: Fields) -> std::result::Result<Self, String> {
        Ok(Self {
            rank: fields.rank,
            scale: match (fields.alpha, fields.scale) {
                (Some(_), Some(_)) => return Err("expected one of `alpha` and `scale`".to_owned()),
                (Some(alpha), None) => LoRAScale::Alpha(alpha),
                (None, Some(factor)) => LoRAScale::Factor(factor),
                (None, None) => Self::default().scale,
            },
            dropout: fields.dropout,
            use_rslora: fields.use_rslora,
            use_dora: fields.use_dora,
            targets: fields.target_modules,
            layers: match (fields.num_layers, fields.layers) {
                (Some(_), Some(_)) => {
                    return Err("expected one of `num_layers` and `layers`".to_owned());
                }
                (Some(last), None) => LayerSelection::Last(last),
                (None, Some(layers)) => LayerSelection::These(layers),
                (None, None) => LayerSelection::All,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn model() -> ModelConfig {
        let path = "tests/fixtures/models/qwen2_sliding/config.json";
        ModelConfig::from_file(path.as_ref()).unwrap()
    }

    fn modules(config: &LoRAConfig) -> Vec<String> {
        let modules = config.modules(&model()).unwrap();
        modules.iter().map(|(l, p)| p.module(*l)).collect()
    }

    #[test]
    fn options_out_of_range_are_named() {
        let check = |change: fn(&mut LoRAConfig), name: &str| {
            let mut config = LoRAConfig::default();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        };
        check(|c| c.rank = 0, "`rank`");
        check(|c| c.scale = LoRAScale::Alpha(f64::NAN), "`alpha`");
        check(|c| c.scale = LoRAScale::Alpha(0.0), "`alpha`");
        check(|c| c.scale = LoRAScale::Factor(-1.0), "`scale`");
        check(|c| c.dropout = 1.0, "`dropout`");
        check(|c| c.targets = [].into(), "`target_modules`");
        let pattern = |c: &mut LoRAConfig| c.targets = LoRATargets::Pattern("(".to_owned());
        check(pattern, "unclosed group");
        let huge = |c: &mut LoRAConfig| c.targets = LoRATargets::Pattern("a{999999}".to_owned());
        check(huge, "`target_modules`");
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "exact numbers")]
    fn alpha_and_factor_are_kept_apart() {
        let config = |scale, use_rslora| LoRAConfig {
            rank: 16,
            scale,
            use_rslora,
            ..LoRAConfig::default()
        };
        for (config, scaling, alpha) in [
            (config(LoRAScale::Alpha(16.0), false), 1.0, 16.0),
            (config(LoRAScale::Alpha(16.0), true), 4.0, 16.0),
            (config(LoRAScale::Factor(20.0), false), 20.0, 320.0),
            (config(LoRAScale::Factor(20.0), true), 20.0, 80.0),
        ] {
            assert_eq!((config.scaling(), config.alpha()), (scaling, alpha));
        }
    }

    #[test]
    fn modules_are_selected_by_name_pattern_and_layer() {
        let all = modules(&LoRAConfig::default());
        assert_eq!(all.len(), 4 * 7);
        let last = modules(&LoRAConfig {
            targets: [Projection::Value].into(),
            layers: LayerSelection::Last(2),
            ..LoRAConfig::default()
        });
        let v = |layer| format!("model.layers.{layer}.self_attn.v_proj");
        assert_eq!(last, [v(2), v(3)]);
        let these = modules(&LoRAConfig {
            targets: [Projection::Value].into(),
            layers: LayerSelection::These([0, 3].into()),
            ..LoRAConfig::default()
        });
        assert_eq!(these, [v(0), v(3)]);
        let pattern = |pattern: &str| LoRAConfig {
            targets: LoRATargets::Pattern(pattern.to_owned()),
            ..LoRAConfig::default()
        };
        assert_eq!(modules(&pattern(r".*\.[13]\..*v_proj|x")), [v(1), v(3)]);
        for (config, part) in [
            (pattern("v_proj"), "matches nothing"),
            (
                LoRAConfig {
                    layers: LayerSelection::These([4].into()),
                    ..LoRAConfig::default()
                },
                "below the model's 4 layers",
            ),
            (
                LoRAConfig {
                    layers: LayerSelection::Last(0),
                    ..LoRAConfig::default()
                },
                "`num_layers`",
            ),
        ] {
            let message = config.modules(&model()).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn json_says_each_thing_once() {
        let read = |value| serde_json::from_value::<LoRAConfig>(value);
        assert_eq!(read(json!({})).unwrap(), LoRAConfig::default());
        let config = read(json!({"rank": 4, "scale": 20.0, "num_layers": 2,
            "target_modules": ["q_proj", "down_proj"], "use_dora": true}))
        .unwrap();
        assert_eq!(config.scale, LoRAScale::Factor(20.0));
        assert_eq!(config.layers, LayerSelection::Last(2));
        assert_eq!(config.targets, [Projection::Query, Projection::Down].into());
        let again = read(serde_json::to_value(&config).unwrap()).unwrap();
        assert_eq!(again, config);
        let pattern = read(json!({"target_modules": ".*q_proj", "layers": [1]})).unwrap();
        assert_eq!(pattern.targets, LoRATargets::Pattern(".*q_proj".to_owned()));
        assert!(read(json!({"alpha": 1, "scale": 2})).is_err());
        assert!(read(json!({"num_layers": 1, "layers": [2]})).is_err());
        assert!(read(json!({"ranc": 1})).is_err());
        assert!(read(json!({"target_modules": ["lm_head"]})).is_err());
    }
}
