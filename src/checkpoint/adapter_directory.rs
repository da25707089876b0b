//! Adapters on disk, in the format of PEFT or of mlx-lm.

use super::atomic::Staged;
use super::peft::pretty;
use super::tensor_file::{Stored, write_tensors};
use super::{mlx, peft};
use crate::backend::device::completed;
use crate::error::{Error, Result};
use crate::models::adapter::{LoRAAdapter, Part, Slot, slots};
use crate::models::json::{self, Object};
use crate::models::{
    Adapters, LoRAConfig, Model, ModelConfig, Projection, SafetensorsCheckpoint, TensorSpec,
};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const CONFIG: &str = "adapter_config.json";
/// The largest rank that is believed.
pub(super) const MAX_RANK: usize = 4096;
/// How many tensors of a kind an error names.
const MAX_NAMED: usize = 10;

/// The format of an adapter's directory.
///
/// Both hold the same matrices, and `adapter_config.json` with keys of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AdapterFormat {
    /// That of Hugging Face's PEFT: `adapter_model.safetensors`.
    Peft,
    /// That of mlx-lm: `adapters.safetensors`.
    Mlx,
}

/// How a format lays out an adapter.
pub(super) struct Layout {
    /// The file of the tensors.
    pub weights: &'static str,
    /// `format` in the metadata of that file.
    pub metadata: &'static str,
    /// The name of a tensor.
    pub tensor_name: fn(&Slot, Part) -> String,
    /// Whether matrices are stored as (in, rank) and (rank, out).
    pub is_transposed: bool,
    /// Reads what the adapter changes, and the name of its model.
    pub read_config: fn(&Object, &ModelConfig) -> Result<(LoRAConfig, String)>,
    /// What [`Layout::read_config`] reads.
    pub config_json: fn(&LoRAAdapter) -> Value,
}

impl AdapterFormat {
    const ALL: [Self; 2] = [Self::Peft, Self::Mlx];

    /// The format by its name: `peft` or `mlx`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for any other name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "peft" => Ok(Self::Peft),
            "mlx" => Ok(Self::Mlx),
            other => Err(Error::option(
                "format",
                format!("`{other}`"),
                "`peft` or `mlx`",
            )),
        }
    }

    /// The format of the adapter in `directory`, by the files that are there.
    ///
    /// # Errors
    ///
    /// [`Error::FileNotFound`] where there is none, [`Error::InvalidFormat`] where there are two.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::checkpoint::AdapterFormat;
    /// use std::path::Path;
    ///
    /// let format = AdapterFormat::of(Path::new("tests/fixtures/mlx/lora_adapter"))?;
    /// assert_eq!(format, AdapterFormat::Mlx);
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn of(directory: &Path) -> Result<Self> {
        let names = Self::ALL.map(|format| format.layout().weights);
        let exists = |format: &Self| directory.join(format.layout().weights).exists();
        match Self::ALL.into_iter().filter(exists).collect::<Vec<_>>()[..] {
            [format] => Ok(format),
            [] => Err(Error::FileNotFound {
                path: directory.join(names[0]),
                expected: format!("{} of PEFT or {} of mlx-lm", names[0], names[1]),
            }),
            _ => Err(Error::format(
                directory,
                format!(
                    "has both {} and {}; expected one of them",
                    names[0], names[1]
                ),
            )),
        }
    }

    fn layout(self) -> &'static Layout {
        match self {
            Self::Peft => &peft::LAYOUT,
            Self::Mlx => &mlx::LAYOUT,
        }
    }
}

impl LoRAAdapter {
    /// Saves the adapter to `directory` in PEFT's format, beside what the directory holds already.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the directory cannot be written.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<()> {
        self.save_as(directory, AdapterFormat::Peft)
    }

    /// Saves the adapter to `directory` in the given format, beside what the directory holds already
    /// and in the place of an adapter there, of either format.
    ///
    /// So an adapter is converted: load it, and save it in the other format. No number changes on the
    /// way there and back.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where the directory cannot be written.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::checkpoint::AdapterFormat;
    /// use metal_candle::{LoRAAdapter, ModelLoader};
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let adapter = LoRAAdapter::load("tests/fixtures/mlx/lora_adapter", &model)?;
    /// # let directory = std::env::temp_dir().join(format!("adapter-{}", std::process::id()));
    /// adapter.save_as(&directory, AdapterFormat::Peft)?;
    /// assert_eq!(AdapterFormat::of(&directory)?, AdapterFormat::Peft);
    /// # std::fs::remove_dir_all(directory).ok();
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn save_as(&self, directory: impl AsRef<Path>, format: AdapterFormat) -> Result<()> {
        let directory = directory.as_ref();
        let staged = Staged::new(directory)?;
        self.write_as(&staged, format)?;
        staged.merge()?;
        // The configuration of another adapter has been replaced; its tensors would be taken for ours.
        for other in AdapterFormat::ALL
            .into_iter()
            .filter(|other| *other != format)
        {
            let path = directory.join(other.layout().weights);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(&path, "a writable directory", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, staged: &Staged) -> Result<()> {
        self.write_as(staged, AdapterFormat::Peft)
    }

    fn write_as(&self, staged: &Staged, format: AdapterFormat) -> Result<()> {
        let layout = format.layout();
        staged.write(CONFIG, &pretty(&(layout.config_json)(self)))?;
        let weights = completed(self.weights().device(), || {
            Ok(self.weights().to_device(&Device::Cpu)?)
        })?;
        let mut tensors = Vec::with_capacity(3 * self.slots().len());
        for slot in self.slots() {
            for (part, offset, shape) in slot.parts() {
                let tensor = weights.narrow(0, offset, shape.iter().product())?;
                let tensor = layout.turned(tensor.reshape(shape)?)?;
                tensors.push(Stored::new((layout.tensor_name)(slot, part), tensor));
            }
        }
        write_tensors(staged.create(layout.weights)?, &tensors, layout.metadata)
    }

    /// Loads an adapter for `model` that PEFT, mlx-lm or this library saved; the files that are there
    /// tell the [format](AdapterFormat).
    ///
    /// LoRA, rsLoRA and `DoRA` are read, on any of the seven projections of any layers.
    ///
    /// # Errors
    ///
    /// An error that names the file and the key or tensor: [`Error::FileNotFound`],
    /// [`Error::InvalidFormat`], [`Error::InvalidConfig`], [`Error::Unsupported`] for other kinds of
    /// adapters, [`Error::TensorMismatch`] for numbers that are no floats, and
    /// [`Error::Incompatible`] where tensors are missing, are more than the configuration calls for,
    /// or have the shape of another model; it names up to ten of each.
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
        let layout = AdapterFormat::of(directory)?.layout();
        let path = directory.join(CONFIG);
        let config = json::read(&path, "an adapter directory with adapter_config.json")?;
        let config = Object::new(&config, &path)?;
        let (config, base_model) = (layout.read_config)(&config, model.config())?;
        let slots = slots(&config, model.config())?;
        let path = directory.join(layout.weights);
        let file = SafetensorsCheckpoint::open_file(&path)?;
        let specs: Vec<_> = slots.iter().flat_map(|slot| layout.specs(slot)).collect();
        check_tensors(&file, &path, &specs)?;
        let load = |spec: &TensorSpec| {
            let tensor = file.load(&spec.name, Some(DType::F32), &Device::Cpu)?;
            Ok(layout.turned(tensor)?.flatten_all()?)
        };
        let parts = specs.iter().map(load).collect::<Result<Vec<_>>>()?;
        let weights = Tensor::cat(&parts, 0)?.to_device(model.device())?;
        Self::from_weights(config, base_model, slots, weights, model.decoder())
    }
}

impl Adapters<'_> {
    /// Loads an adapter under a name. It is not active, and its weight is 1.
    ///
    /// # Errors
    ///
    /// Those of [`LoRAAdapter::load`]; [`Error::InvalidOption`] where the name is empty or taken.
    pub fn load(&self, name: &str, directory: impl AsRef<Path>) -> Result<()> {
        // Before the time to load it is spent.
        self.check_new(name)?;
        self.insert(name, LoRAAdapter::load(directory, self.model())?)
    }
}

impl Layout {
    /// The tensors of a slot as they are stored.
    fn specs(&self, slot: &Slot) -> impl Iterator<Item = TensorSpec> {
        slot.parts().map(|(part, _, mut shape)| {
            if self.is_transposed {
                shape.reverse();
            }
            let name = (self.tensor_name)(slot, part);
            TensorSpec { name, shape }
        })
    }

    /// A matrix the way it is stored, or back.
    fn turned(&self, tensor: Tensor) -> candle_core::Result<Tensor> {
        match tensor.rank() {
            2 if self.is_transposed => tensor.t(),
            _ => Ok(tensor),
        }
    }
}

/// Checks that a file has these tensors and no others.
fn check_tensors(file: &SafetensorsCheckpoint, path: &Path, specs: &[TensorSpec]) -> Result<()> {
    let (mut missing, mut misshapen) = (vec![], vec![]);
    for TensorSpec { name, shape } in specs {
        match file.shape(name) {
            None => missing.push(format!("{name} {shape:?}")),
            Some(found) if found != shape => {
                misshapen.push(format!("{name} {found:?}, expected {shape:?}"));
            }
            Some(_) => {}
        }
    }
    let known: BTreeSet<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    let unknown = file.names().filter(|name| !known.contains(name));
    let unknown: Vec<_> = unknown.map(str::to_owned).collect();
    let kinds = [
        ("missing", missing),
        ("unexpected", unknown),
        ("of another shape", misshapen),
    ];
    let problems = kinds.iter().filter(|(_, names)| !names.is_empty());
    let problems: Vec<_> = problems
        .map(|(kind, names)| format!("{} {kind} ({})", names.len(), some_of(names)))
        .collect();
    if problems.is_empty() {
        return file.validate(specs);
    }
    Err(Error::Incompatible {
        path: path.to_owned(),
        field: "tensors".to_owned(),
        found: problems.join(", "),
        expected: format!("those that {CONFIG} calls for in this model"),
    })
}

/// The first names, and how many more there are.
fn some_of(names: &[String]) -> String {
    let shown = names[..names.len().min(MAX_NAMED)].join("; ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// Reads the share of inputs that training drops.
pub(super) fn read_dropout(config: &Object, key: &str) -> Result<f64> {
    let Some(value) = config.get(key) else {
        return Ok(0.0);
    };
    let dropout = value
        .as_f64()
        .filter(|dropout| (0.0..1.0).contains(dropout));
    dropout.ok_or_else(|| config.invalid(key, "0 or more and below 1"))
}

/// A regular expression of the names of these modules and no others.
pub(super) fn pattern_of(modules: &BTreeSet<(usize, Projection)>) -> String {
    let mut layers: BTreeMap<Projection, Vec<String>> = BTreeMap::new();
    for (layer, projection) in modules {
        layers
            .entry(*projection)
            .or_default()
            .push(layer.to_string());
    }
    let names = layers.iter().map(|(projection, layers)| {
        format!(
            r"(?:{})\.{}",
            layers.join("|"),
            regex::escape(&projection.path())
        )
    });
    format!(
        r"model\.layers\.(?:{})",
        names.collect::<Vec<_>>().join("|")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_that_of_its_modules() {
        let modules: BTreeSet<_> = [
            (1, Projection::Query),
            (11, Projection::Query),
            (0, Projection::Down),
        ]
        .into();
        let pattern = regex::Regex::new(&format!("^(?:{})$", pattern_of(&modules))).unwrap();
        for layer in 0..20 {
            for projection in Projection::ALL {
                let is_match = pattern.is_match(&projection.module(layer));
                assert_eq!(is_match, modules.contains(&(layer, projection)));
            }
        }
        assert!(!pattern.is_match("model.layers.1.self_attn_q_proj"));
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<_> = (0..12).map(|n| n.to_string()).collect();
        assert_eq!(some_of(&names[..2]), "0; 1");
        assert_eq!(some_of(&names[..10]), "0; 1; 2; 3; 4; 5; 6; 7; 8; 9");
        assert!(some_of(&names).ends_with("; 9; and 2 more"));
    }
}
