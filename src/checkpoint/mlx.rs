//! Adapters in the format of mlx-lm.
//!
//! `adapter_config.json` and `adapters.safetensors` with tensors `{module}.lora_a` (in, rank) and
//! `.lora_b` (rank, out), for `DoRA` also `.m` (out). The `scale` of the configuration is the factor of
//! the change itself.

use super::adapter_directory::{Layout, MAX_RANK, pattern_of, read_dropout};
use crate::error::{Error, Result};
use crate::models::adapter::{LoRAAdapter, Part, Slot};
use crate::models::json::Object;
use crate::models::{LayerSelection, LoRAConfig, LoRAScale, LoRATargets, ModelConfig, Projection};
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(super) const LAYOUT: Layout = Layout {
    weights: "adapters.safetensors",
    metadata: "mlx",
    tensor_name,
    is_transposed: true,
    read_config,
    config_json,
};

fn tensor_name(slot: &Slot, part: Part) -> String {
    let part = match part {
        Part::A => "lora_a",
        Part::B => "lora_b",
        Part::Magnitude => "m",
    };
    format!("{}.{part}", slot.module())
}

/// The keys that mlx-lm needs to load the adapter.
fn config_json(adapter: &LoRAAdapter) -> Value {
    let config = adapter.config();
    let slots = adapter.slots().iter();
    let layers: BTreeSet<_> = slots.clone().map(|slot| slot.layer).collect();
    let keys: Vec<_> = match (&config.targets, &config.layers) {
        (LoRATargets::Projections(targets), LayerSelection::All | LayerSelection::Last(_)) => {
            targets.iter().map(|target| target.path()).collect()
        }
        // In other layers than the last ones, modules are named one by one.
        _ => slots.map(Slot::module).collect(),
    };
    json!({
        "fine_tune_type": if config.use_dora { "dora" } else { "lora" },
        "lora_parameters": {
            "dropout": config.dropout,
            "keys": keys,
            "rank": config.rank,
            "scale": config.scaling(),
        },
        "model": adapter.base_model(),
        "num_layers": layers.len(),
    })
}

fn read_config(config: &Object, model: &ModelConfig) -> Result<(LoRAConfig, String)> {
    let kind = config.string("fine_tune_type")?.unwrap_or("lora");
    if !matches!(kind, "lora" | "dora") {
        return Err(Error::Unsupported {
            path: config.path().to_owned(),
            what: "adapter",
            found: format!("fine_tune_type: {kind}"),
            supported: "lora, dora".to_owned(),
        });
    }
    let parameters = config
        .object("lora_parameters")?
        .ok_or_else(|| config.invalid("lora_parameters", "an object with `rank` and `scale`"))?;
    let factor = parameters.number_above("scale", 0.0)?;
    let factor = factor.ok_or_else(|| parameters.invalid("scale", "a number above 0"))?;
    let (targets, layers) = read_modules(config, &parameters, model)?;
    let lora = LoRAConfig {
        rank: parameters.required_size("rank", MAX_RANK)?,
        scale: LoRAScale::Factor(factor),
        dropout: read_dropout(&parameters, "dropout")?,
        use_rslora: false,
        use_dora: kind == "dora",
        targets,
        layers,
    };
    let base_model = config.string("model")?.unwrap_or_default();
    Ok((lora, base_model.to_owned()))
}

/// What is adapted: the modules that `keys` names, each by its path in one of the last layers or by its
/// whole name.
fn read_modules(
    config: &Object,
    parameters: &Object,
    model: &ModelConfig,
) -> Result<(LoRATargets, LayerSelection)> {
    let count = model.num_hidden_layers;
    let last = config.get("num_layers").and_then(Value::as_i64);
    let last = last.ok_or_else(|| {
        config.invalid("num_layers", "the number of last layers, 0 or less for all")
    })?;
    // Whatever is 0 or less means all, in mlx-lm too.
    let layers = match usize::try_from(last) {
        Ok(last) if (1..count).contains(&last) => LayerSelection::Last(last),
        _ => LayerSelection::All,
    };
    let Some(keys) = parameters.list("keys")? else {
        return Ok((LoRATargets::default(), layers));
    };
    if keys.is_empty() {
        return Err(parameters.invalid("keys", "at least one projection"));
    }
    let unknown = || {
        let known = Projection::ALL.map(Projection::path).join(", ");
        parameters.invalid("keys", format!("a list out of {known}"))
    };
    let (mut relative, mut whole) = (BTreeSet::new(), BTreeSet::new());
    for key in keys {
        let key = key.as_str().ok_or_else(unknown)?;
        let mut all = Projection::ALL.into_iter();
        if let Some(projection) = all.find(|projection| projection.path() == key) {
            relative.insert(projection);
        } else {
            whole.insert(module(key, count).ok_or_else(unknown)?);
        }
    }
    if whole.is_empty() {
        return Ok((LoRATargets::Projections(relative), layers));
    }
    let selected = (0..count).filter(|&layer| layers.contains(layer, count));
    whole.extend(selected.flat_map(|layer| relative.iter().map(move |&target| (layer, target))));
    Ok((
        LoRATargets::Pattern(pattern_of(&whole)),
        LayerSelection::All,
    ))
}

/// Layer and projection by their whole name, such as `model.layers.3.self_attn.q_proj`.
fn module(name: &str, count: usize) -> Option<(usize, Projection)> {
    let (layer, path) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer = layer.parse().ok().filter(|&layer| layer < count)?;
    let mut all = Projection::ALL.into_iter();
    Some((layer, all.find(|projection| projection.path() == path)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn model() -> ModelConfig {
        let path = "tests/fixtures/models/qwen2_sliding/config.json";
        ModelConfig::from_file(path.as_ref()).unwrap()
    }

    /// What an adapter of a model of four layers changes.
    fn read(config: &Value) -> Result<LoRAConfig> {
        let config = Object::new(config, Path::new("adapter_config.json"))?;
        read_config(&config, &model()).map(|(config, _)| config)
    }

    fn with(num_layers: i64, keys: &Value) -> Value {
        json!({"num_layers": num_layers, "lora_parameters": {"rank": 4, "scale": 20.0, "keys": keys}})
    }

    #[test]
    fn the_last_layers_are_counted_as_by_mlx_lm() {
        for (num_layers, layers) in [
            (1, LayerSelection::Last(1)),
            (3, LayerSelection::Last(3)),
            (4, LayerSelection::All),
            (16, LayerSelection::All),
            (0, LayerSelection::All),
            (-1, LayerSelection::All),
        ] {
            let config = read(&with(num_layers, &Value::Null)).unwrap();
            assert_eq!(config.layers, layers);
            assert_eq!(config.targets, LoRATargets::default());
            assert_eq!(config.scale, LoRAScale::Factor(20.0));
            assert!(!config.use_dora);
        }
    }

    #[test]
    fn keys_are_paths_or_whole_names() {
        let modules = |keys: Value| -> Vec<_> {
            let config = read(&with(2, &keys)).unwrap();
            let modules = config.modules(&model()).unwrap();
            modules
                .into_iter()
                .map(|(layer, target)| (layer, target.name()))
                .collect()
        };
        assert_eq!(
            modules(json!(["mlp.up_proj", "self_attn.q_proj"])),
            [(2, "q_proj"), (2, "up_proj"), (3, "q_proj"), (3, "up_proj")]
        );
        assert_eq!(
            modules(json!(["mlp.up_proj", "model.layers.0.self_attn.q_proj"])),
            [(0, "q_proj"), (2, "up_proj"), (3, "up_proj")]
        );
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let good = with(2, &Value::Null);
        let check = |change: &dyn Fn(&mut Value), expected: &str| {
            let mut config = good.clone();
            change(&mut config);
            let message = read(&config).unwrap_err().to_string();
            assert!(message.starts_with("adapter_config.json: "), "{message}");
            assert!(message.contains(expected), "{message}");
        };
        check(
            &|c| c["fine_tune_type"] = json!("full"),
            "fine_tune_type: full",
        );
        check(&|c| c["num_layers"] = Value::Null, "`num_layers` is null");
        check(&|c| c["num_layers"] = json!(1.5), "`num_layers` is 1.5");
        check(
            &|c| c["lora_parameters"] = Value::Null,
            "`lora_parameters` is null",
        );
        for (key, value, expected) in [
            (
                "rank",
                json!(0),
                "`lora_parameters.rank` is 0; expected a whole number from 1 to 4096",
            ),
            ("rank", Value::Null, "`lora_parameters.rank` is null"),
            (
                "scale",
                json!(0),
                "`lora_parameters.scale` is 0; expected a number above 0",
            ),
            ("scale", Value::Null, "`lora_parameters.scale` is null"),
            (
                "dropout",
                json!(1),
                "`lora_parameters.dropout` is 1; expected 0 or more and below 1",
            ),
            ("keys", json!([]), "at least one projection"),
            ("keys", json!([1]), "a list out of self_attn.q_proj"),
            ("keys", json!(["q_proj"]), "a list out of self_attn.q_proj"),
            (
                "keys",
                json!(["model.embed_tokens"]),
                "a list out of self_attn.q_proj",
            ),
            (
                "keys",
                json!(["model.layers.4.self_attn.q_proj"]),
                "a list out of",
            ),
        ] {
            check(&|c| c["lora_parameters"][key] = value.clone(), expected);
        }
    }
}
