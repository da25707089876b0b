//! Adapters in the format of Hugging Face's PEFT.
//!
//! `adapter_config.json` and `adapter_model.safetensors` with tensors
//! `base_model.model.{module}.lora_A.weight` (rank, in) and `.lora_B.weight` (out, rank), for `DoRA`
//! also `.lora_magnitude_vector` (out).

use super::adapter_directory::{Layout, MAX_RANK, pattern_of, read_dropout};
use crate::error::{Error, Result};
use crate::models::adapter::{LoRAAdapter, Part, Slot};
use crate::models::json::Object;
use crate::models::{LayerSelection, LoRAConfig, LoRAScale, LoRATargets, ModelConfig, Projection};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) const LAYOUT: Layout = Layout {
    weights: "adapter_model.safetensors",
    metadata: "pt",
    tensor_name,
    is_transposed: false,
    read_config,
    config_json,
};

const TARGETS: &str = "target_modules";
const LAYERS: &str = "layers_to_transform";

/// Settings that would change the result and that this library does not compute.
const UNSUPPORTED: [&str; 16] = [
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "exclude_modules",
];

fn tensor_name(slot: &Slot, part: Part) -> String {
    let part = match part {
        Part::A => "lora_A.weight",
        Part::B => "lora_B.weight",
        Part::Magnitude => "lora_magnitude_vector",
    };
    format!("base_model.model.{}.{part}", slot.module())
}

pub(super) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// The keys that PEFT needs to load the adapter.
fn config_json(adapter: &LoRAAdapter) -> Value {
    let config = adapter.config();
    let slots = adapter.slots().iter();
    let (targets, layers) = match (&config.targets, &config.layers) {
        (targets, LayerSelection::All) => (json!(targets), Value::Null),
        (LoRATargets::Projections(targets), _) => {
            let layers: BTreeSet<_> = slots.map(|slot| slot.layer).collect();
            (json!(targets), json!(layers))
        }
        // PEFT takes no layers beside an expression.
        (LoRATargets::Pattern(_), _) => {
            let modules: Vec<_> = slots.map(Slot::module).collect();
            (json!(modules), Value::Null)
        }
    };
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_model(),
        "r": config.rank,
        "lora_alpha": config.alpha(),
        "lora_dropout": config.dropout,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
        "layers_to_transform": layers,
        "rank_pattern": {},
        "alpha_pattern": {},
    })
}

fn read_config(config: &Object, model: &ModelConfig) -> Result<(LoRAConfig, String)> {
    let kind = config.string("peft_type")?;
    let kind = kind.ok_or_else(|| config.invalid("peft_type", "`LORA`"))?;
    if kind != "LORA" {
        return Err(unsupported(config, kind));
    }
    for key in UNSUPPORTED {
        if let Some(value) = config.get(key)
            && !is_off(value)
        {
            return Err(unsupported(config, &format!("{key}: {value}")));
        }
    }
    if !matches!(config.string("bias")?, None | Some("none")) {
        return Err(config.invalid("bias", "`none`"));
    }
    let alpha = config.number_above("lora_alpha", 0.0)?;
    let alpha = alpha.ok_or_else(|| config.invalid("lora_alpha", "a number above 0"))?;
    let lora = LoRAConfig {
        rank: config.required_size("r", MAX_RANK)?,
        scale: LoRAScale::Alpha(alpha),
        dropout: read_dropout(config, "lora_dropout")?,
        use_rslora: config.bool("use_rslora")?.unwrap_or(false),
        use_dora: config.bool("use_dora")?.unwrap_or(false),
        targets: read_targets(config, model)?,
        layers: read_layers(config)?,
    };
    // What only the model can tell: patterns that match nothing, and layers that it does not have.
    lora.modules(model).map_err(|error| match error {
        Error::InvalidOption {
            name,
            found,
            expected,
        } => Error::InvalidConfig {
            path: config.path().to_owned(),
            key: if name == "layers" { LAYERS } else { name }.to_owned(),
            found,
            expected,
        },
        other => other,
    })?;
    let base_model = config.string("base_model_name_or_path")?;
    Ok((lora, base_model.unwrap_or_default().to_owned()))
}

fn read_targets(config: &Object, model: &ModelConfig) -> Result<LoRATargets> {
    match config.get(TARGETS) {
        Some(Value::String(all)) if all.eq_ignore_ascii_case("all-linear") => {
            Ok(LoRATargets::default())
        }
        Some(Value::String(_)) if !config.get(LAYERS).is_none_or(is_off) => {
            let expected = format!("null where `{TARGETS}` is a regular expression");
            Err(config.invalid(LAYERS, expected))
        }
        Some(Value::String(pattern)) => Ok(LoRATargets::Pattern(pattern.clone())),
        Some(Value::Array(names)) if names.is_empty() => {
            Err(config.invalid(TARGETS, "at least one projection"))
        }
        Some(Value::Array(names)) => listed(names, model).ok_or_else(|| {
            let known = Projection::ALL.map(Projection::name).join(", ");
            let expected = format!(
                "a list out of {known}, or of names such as {}",
                Projection::Query.module(0)
            );
            config.invalid(TARGETS, expected)
        }),
        _ => Err(config.invalid(
            TARGETS,
            "a list of projections such as `q_proj`, a regular expression of modules, or \
             `all-linear`",
        )),
    }
}

/// The targets that a list names, each by the end of its whole name; none where there is no such.
fn listed(names: &[Value], model: &ModelConfig) -> Option<LoRATargets> {
    let names: BTreeSet<_> = names.iter().map(Value::as_str).collect::<Option<_>>()?;
    let in_any_layer = |name: &&str| {
        let mut all = Projection::ALL.into_iter();
        all.find(|projection| projection.name() == *name || projection.path() == *name)
    };
    if let Some(projections) = names.iter().map(in_any_layer).collect() {
        return Some(LoRATargets::Projections(projections));
    }
    let layers = 0..model.num_hidden_layers;
    let modules = layers.flat_map(|layer| Projection::ALL.map(|target| (layer, target)));
    let modules: Vec<_> = modules
        .map(|(layer, target)| (target.module(layer), (layer, target)))
        .collect();
    let mut listed = BTreeSet::new();
    for name in names {
        let ends_so = |module: &str| {
            let rest = module.strip_suffix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let matching = modules.iter().filter(|(module, _)| ends_so(module));
        let mut places = matching.map(|(_, place)| *place).peekable();
        places.peek()?;
        listed.extend(places);
    }
    Some(LoRATargets::Pattern(pattern_of(&listed)))
}

fn read_layers(config: &Object) -> Result<LayerSelection> {
    let pattern = config.get("layers_pattern");
    if let Some(pattern) = pattern
        && !is_off(pattern)
        && *pattern != json!("layers")
        && *pattern != json!(["layers"])
    {
        return Err(unsupported(config, &format!("layers_pattern: {pattern}")));
    }
    let number = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let layers = match config.get(LAYERS) {
        None => return Ok(LayerSelection::All),
        Some(Value::Array(list)) if list.is_empty() => return Ok(LayerSelection::All),
        Some(Value::Array(list)) => list.iter().map(number).collect(),
        Some(value) => number(value).map(|layer| [layer].into()),
    };
    let layers = layers.ok_or_else(|| config.invalid(LAYERS, "a layer or a list of layers"))?;
    Ok(LayerSelection::These(layers))
}

fn unsupported(config: &Object, found: &str) -> Error {
    Error::Unsupported {
        path: config.path().to_owned(),
        what: "adapter",
        found: found.to_owned(),
        supported: "LoRA, rsLoRA and DoRA of one rank, without bias".to_owned(),
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What an adapter of a model of four layers changes.
    fn read(changes: &Value) -> Result<LoRAConfig> {
        let model = Path::new("tests/fixtures/models/qwen2_sliding/config.json");
        let model = ModelConfig::from_file(model).unwrap();
        let mut config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 8.0,
            "target_modules": ["q_proj"]});
        let changes = changes.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(changes);
        let config = Object::new(&config, Path::new("adapter_config.json"))?;
        read_config(&config, &model).map(|(config, _)| config)
    }

    fn modules(changes: &Value) -> Vec<String> {
        let model = Path::new("tests/fixtures/models/qwen2_sliding/config.json");
        let model = ModelConfig::from_file(model).unwrap();
        let modules = read(changes).unwrap().modules(&model).unwrap();
        let names = modules.iter();
        names
            .map(|(layer, target)| format!("{layer}.{}", target.name()))
            .collect()
    }

    #[test]
    fn targets_are_a_list_or_an_expression_or_all() {
        let all = modules(&json!({"target_modules": "All-Linear"}));
        assert_eq!(all.len(), 4 * 7);
        assert_eq!(
            read(&json!({"target_modules": ["self_attn.v_proj", "q_proj"]}))
                .unwrap()
                .targets,
            [Projection::Query, Projection::Value].into()
        );
        let of = |targets: Value| modules(&json!({"target_modules": targets}));
        assert_eq!(
            of(json!(r".*\.[02]\.self_attn\.(q|v)_proj")),
            ["0.q_proj", "0.v_proj", "2.q_proj", "2.v_proj"]
        );
        // As PEFT shortens long lists.
        assert_eq!(
            of(json!([
                "0.mlp.up_proj",
                "model.layers.3.self_attn.k_proj",
                "v_proj",
                "1.self_attn.v_proj"
            ])),
            [
                "0.v_proj",
                "0.up_proj",
                "1.v_proj",
                "2.v_proj",
                "3.k_proj",
                "3.v_proj"
            ]
        );
    }

    #[test]
    fn layers_are_a_number_or_a_list() {
        let of = |layers: Value| modules(&json!({"layers_to_transform": layers}));
        assert_eq!(of(json!(2)), ["2.q_proj"]);
        assert_eq!(of(json!([0, 3])), ["0.q_proj", "3.q_proj"]);
        assert_eq!(of(json!([])).len(), 4);
        assert_eq!(of(Value::Null).len(), 4);
        let named = json!({"layers_to_transform": [1], "layers_pattern": "layers"});
        assert_eq!(modules(&named), ["1.q_proj"]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (changes, expected) in [
            (
                json!({"target_modules": ["0.lm_head"]}),
                "`target_modules` is [\"0.lm_head\"]",
            ),
            (
                json!({"target_modules": ["4.self_attn.q_proj"]}),
                "a list out of q_proj",
            ),
            (
                json!({"target_modules": ["j_proj"]}),
                "a list out of q_proj",
            ),
            (json!({"target_modules": [7]}), "a list out of q_proj"),
            (json!({"target_modules": {}}), "a regular expression"),
            (json!({"target_modules": "q_proj"}), "matches nothing"),
            (json!({"target_modules": "(?=x)"}), "look-around"),
            (
                json!({"target_modules": ".*", "layers_to_transform": [1]}),
                "null where",
            ),
            (json!({"layers_to_transform": -1}), "a layer or a list"),
            (json!({"layers_to_transform": [0.5]}), "a layer or a list"),
            (
                json!({"layers_to_transform": [4]}),
                "`layers_to_transform` is 4; expected below",
            ),
            (
                json!({"layers_to_transform": 1, "layers_pattern": "h"}),
                "layers_pattern: \"h\"",
            ),
            (json!({"kasa_config": {"beta": 1}}), "kasa_config"),
            (
                json!({"use_dora": 1}),
                "`use_dora` is 1; expected true or false",
            ),
        ] {
            let message = read(&changes).unwrap_err().to_string();
            assert!(message.starts_with("adapter_config.json: "), "{message}");
            assert!(message.contains(expected), "{changes}: {message}");
        }
    }
}
