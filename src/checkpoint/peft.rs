//! Adapters in the format of Hugging Face's PEFT.
//!
//! `adapter_config.json` and `adapter_model.safetensors` with tensors
//! `base_model.model.{module}.lora_A.weight` (rank, in) and `.lora_B.weight` (out, rank).

use super::atomic::Staged;
use crate::backend::device::to_host;
use crate::error::{Error, Result};
use crate::models::adapter::{LoRAAdapter, Slot, slots};
use crate::models::{
    LoRAConfig, LoRAScale, LoRATargets, Model, Projection, SafetensorsCheckpoint, TensorSpec, json,
};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

impl LoRAAdapter {
    /// Saves the adapter to `directory` in PEFT's format, beside what the directory holds already.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the directory cannot be written.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        let staged = Staged::new(directory.as_ref())?;
        self.write(&staged)?;
        staged.merge()
    }

    pub(super) fn write(&self, staged: &Staged) -> Result<()> {
        staged.write(CONFIG, &pretty(&config_json(self)))?;
        let weights = to_host(self.weights())?;
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut views = Vec::with_capacity(2 * self.slots().len());
        for slot in self.slots() {
            let middle = slot.offset + slot.rank * slot.input;
            for (matrix, shape, start, end) in [
                ("lora_A", [slot.rank, slot.input], slot.offset, middle),
                (
                    "lora_B",
                    [slot.output, slot.rank],
                    middle,
                    slot.offset + slot.len(),
                ),
            ] {
                let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes[4 * start..4 * end])
                    .map_err(|e| Error::format(Path::new(WEIGHTS), e.to_string()))?;
                views.push((tensor_name(slot, matrix), view));
            }
        }
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let file = safetensors::serialize(views, Some(metadata))
            .map_err(|e| Error::format(Path::new(WEIGHTS), e.to_string()))?;
        staged.write(WEIGHTS, &file)
    }

    /// Loads an adapter that PEFT or this library saved, for `model`.
    ///
    /// # Errors
    ///
    /// An error that names the file and the key or tensor: [`Error::FileNotFound`],
    /// [`Error::InvalidFormat`], [`Error::InvalidConfig`], [`Error::Unsupported`] for kinds of
    /// adapters other than LoRA and rsLoRA, [`Error::MissingTensor`], [`Error::TensorMismatch`], and
    /// [`Error::Incompatible`] for tensors that the configuration does not call for, or with the
    /// shape of another model.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::{LoRAAdapter, ModelLoader};
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let adapter = LoRAAdapter::load("tests/fixtures/lora/nonzero_b", &model)?;
    /// assert_eq!(adapter.config().rank, 8);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn load(directory: impl AsRef<Path>, model: &Model) -> Result<Self> {
        let directory = directory.as_ref();
        let (config, base_model) = parse_config(&directory.join(CONFIG))?;
        let slots = slots(&config, model.config())?;
        let path = directory.join(WEIGHTS);
        let file = SafetensorsCheckpoint::open_file(&path)?;
        let specs: Vec<_> = slots.iter().flat_map(specs).collect();
        file.validate(&specs).map_err(foreign_shape)?;
        let known: BTreeSet<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let unknown: Vec<_> = file.names().filter(|name| !known.contains(*name)).collect();
        if !unknown.is_empty() {
            return Err(Error::Incompatible {
                path,
                field: "tensors".to_owned(),
                found: unknown.join(", "),
                expected: format!("those of target_modules in {CONFIG}, in every layer"),
            });
        }
        let parts = specs
            .iter()
            .map(|spec| {
                let tensor = file.load(&spec.name, Some(DType::F32), &Device::Cpu)?;
                Ok(tensor.flatten_all()?)
            })
            .collect::<Result<Vec<_>>>()?;
        let weights = Tensor::cat(&parts, 0)?.to_device(model.device())?;
        Self::from_weights(config, base_model, slots, weights, model.decoder())
    }
}

fn tensor_name(slot: &Slot, matrix: &str) -> String {
    format!("base_model.model.{}.{matrix}.weight", slot.module())
}

/// A tensor of another shape is no damage: it tells that the adapter is for another model.
fn foreign_shape(error: Error) -> Error {
    match error {
        Error::TensorMismatch {
            path,
            name,
            property: "shape",
            found,
            expected,
        } => Error::Incompatible {
            path,
            field: format!("shape of {name}"),
            found,
            expected: format!("{expected} for this model"),
        },
        other => other,
    }
}

fn specs(slot: &Slot) -> [TensorSpec; 2] {
    [
        TensorSpec {
            name: tensor_name(slot, "lora_A"),
            shape: vec![slot.rank, slot.input],
        },
        TensorSpec {
            name: tensor_name(slot, "lora_B"),
            shape: vec![slot.output, slot.rank],
        },
    ]
}

pub(super) fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// The keys that PEFT needs to load the adapter.
fn config_json(adapter: &LoRAAdapter) -> Value {
    let config = adapter.config();
    let targets = &config.targets;
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_model(),
        "r": config.rank,
        "lora_alpha": config.alpha(),
        "lora_dropout": config.dropout,
        "use_rslora": config.use_rslora,
        "use_dora": false,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "modules_to_save": null,
        "layers_to_transform": null,
        "rank_pattern": {},
        "alpha_pattern": {},
    })
}

fn parse_config(path: &Path) -> Result<(LoRAConfig, String)> {
    let config = json::read(path, "a PEFT adapter directory with adapter_config.json")?;
    let invalid = |key: &str, expected: &str| Error::InvalidConfig {
        path: path.to_owned(),
        key: key.to_owned(),
        found: match config.get(key) {
            None => "missing".to_owned(),
            Some(value) => value.to_string(),
        },
        expected: expected.to_owned(),
    };
    let kind = config["peft_type"]
        .as_str()
        .ok_or_else(|| invalid("peft_type", "`LORA`"))?;
    if kind != "LORA" {
        return Err(unsupported(path, kind));
    }
    // Settings that would change the result and that this library does not compute.
    for key in [
        "use_dora",
        "fan_in_fan_out",
        "lora_bias",
        "use_qalora",
        "use_bdlora",
        "rank_pattern",
        "alpha_pattern",
        "modules_to_save",
        "layers_to_transform",
        "layer_replication",
        "trainable_token_indices",
        "target_parameters",
        "exclude_modules",
    ] {
        if !is_off(&config[key]) {
            return Err(unsupported(path, &format!("{key}: {}", config[key])));
        }
    }
    if !matches!(config["bias"].as_str(), None | Some("none")) {
        return Err(invalid("bias", "`none`"));
    }
    let names = config["target_modules"]
        .as_array()
        .ok_or_else(|| invalid("target_modules", "a list of projections such as `q_proj`"))?;
    let mut targets = BTreeSet::new();
    for name in names {
        let target = name
            .as_str()
            .and_then(|name| Projection::from_name(name).ok())
            .ok_or_else(|| {
                let known = Projection::ALL.map(Projection::name).join(", ");
                invalid("target_modules", &format!("a list out of {known}"))
            })?;
        targets.insert(target);
    }
    let rank = config["r"]
        .as_u64()
        .and_then(|r| usize::try_from(r).ok())
        .filter(|r| (1..=4096).contains(r))
        .ok_or_else(|| invalid("r", "1 to 4096"))?;
    let number = |key: &str, default: Option<f64>, expected: &str| match &config[key] {
        Value::Null => default.ok_or_else(|| invalid(key, expected)),
        value => value.as_f64().ok_or_else(|| invalid(key, expected)),
    };
    let lora = LoRAConfig {
        rank,
        scale: LoRAScale::Alpha(number("lora_alpha", None, "a number above 0")?),
        dropout: number("lora_dropout", Some(0.0), "0 or more and below 1")?,
        use_rslora: config["use_rslora"].as_bool().unwrap_or(false),
        targets: LoRATargets::Projections(targets),
        ..LoRAConfig::default()
    };
    if !(lora.alpha().is_finite() && lora.alpha() > 0.0) {
        return Err(invalid("lora_alpha", "a number above 0"));
    }
    if !(0.0..1.0).contains(&lora.dropout) {
        return Err(invalid("lora_dropout", "0 or more and below 1"));
    }
    if lora.targets == [].into() {
        return Err(invalid("target_modules", "at least one projection"));
    }
    let base_model = config["base_model_name_or_path"]
        .as_str()
        .unwrap_or_default();
    Ok((lora, base_model.to_owned()))
}

fn unsupported(path: &Path, found: &str) -> Error {
    Error::Unsupported {
        path: path.to_owned(),
        what: "adapter",
        found: found.to_owned(),
        supported: "LoRA and rsLoRA on whole layers, without bias".to_owned(),
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}
