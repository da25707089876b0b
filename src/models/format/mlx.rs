//! Directories with weights that MLX quantised.

use super::safetensors::refuse_quantized;
use super::{ModelFormat, StoredModel, directory};
use crate::backend::ops::affine::AffineWeight;
use crate::backend::ops::matrix::Matrix;
use crate::error::{Error, Result};
use crate::models::json::Object;
use crate::models::safetensors::{INDEX_FILE, SINGLE_FILE};
use crate::models::tensor_files::TensorFiles;
use crate::models::{Quantization, SafetensorsCheckpoint, StoredTensor, WeightSource};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A directory as [`SafetensorsFormat`](super::SafetensorsFormat) has it, whose `config.json` has
/// `quantization`, as mlx-lm writes it: weights of 4 or 8 bits in groups of 32, 64 or 128 with scales
/// and biases beside them, the embedding's too. They stay as they are.
#[derive(Debug, Clone, Copy)]
pub struct MlxFormat;

impl ModelFormat for MlxFormat {
    fn name(&self) -> &'static str {
        "mlx"
    }

    fn detect(&self, path: &Path) -> Result<bool> {
        if !directory::has(path, &[SINGLE_FILE, INDEX_FILE]) {
            return Ok(false);
        }
        Ok(settings(&directory::config_json(path)?).is_some())
    }

    fn open(&self, path: &Path) -> Result<StoredModel> {
        directory::open(path, |config| MlxWeights::open(path, config))
    }
}

/// What a configuration says of MLX's quantisation.
fn settings(config: &Value) -> Option<&Value> {
    let found = config.get("quantization").or_else(|| {
        let other = config.get("quantization_config")?;
        (other.get("group_size").is_some() && other.get("quant_method").is_none()).then_some(other)
    });
    found.filter(|settings| !settings.is_null())
}

/// The weights of such a directory.
#[derive(Debug)]
struct MlxWeights {
    tensors: TensorFiles,
    path: PathBuf,
    /// Of modules that are not listed.
    default: Quantization,
    listed: HashMap<String, Quantization>,
}

impl MlxWeights {
    fn open(directory: &Path, config: &Value) -> Result<Self> {
        let path = directory.join("config.json");
        let Some(settings) = settings(config) else {
            refuse_quantized(config, directory)?;
            return Err(Error::format(&path, "has no `quantization`"));
        };
        let settings = Object::new(settings, &path)?;
        let default = read(&settings)?;
        let mut listed = HashMap::new();
        for (module, value) in settings.fields() {
            // `false` is of a module that is not quantised, which its tensors show.
            if value.is_object() {
                listed.insert(module.clone(), read(&Object::new(value, &path)?)?);
            }
        }
        Ok(Self {
            tensors: SafetensorsCheckpoint::open(directory)?.into_files(),
            default,
            listed,
            path,
        })
    }

    /// The quantisation of a matrix, with its name less `.weight`; none where it is dense.
    fn quantization<'a>(&self, name: &'a str) -> Option<(Quantization, &'a str)> {
        let module = name.strip_suffix(".weight")?;
        self.tensors.get(&format!("{module}.scales")).map(|_| {
            let quantization = self.listed.get(module).unwrap_or(&self.default);
            (*quantization, module)
        })
    }

    fn affine(
        &self,
        name: &str,
        module: &str,
        quantization: Quantization,
        device: &Device,
    ) -> Result<AffineWeight> {
        // Words are turned into bytes on the host.
        let part = |name: &str| self.tensors.read(name, None, &Device::Cpu);
        let weight = AffineWeight::from_parts(
            &part(name)?,
            &part(&format!("{module}.scales"))?,
            &part(&format!("{module}.biases"))?,
            quantization.bits,
            quantization.group_size,
        )?;
        Ok(weight.to_device(device)?)
    }
}

/// The settings of all modules or of one.
fn read(settings: &Object) -> Result<Quantization> {
    if let Some(mode) = settings.string("mode")?.filter(|mode| *mode != "affine") {
        return Err(Error::Unsupported {
            path: settings.path().to_owned(),
            what: "weight quantization",
            found: format!("mode: {mode}"),
            supported: "affine".to_owned(),
        });
    }
    let one_of = |key: &str, allowed: &[usize], expected: &str| {
        let found = settings.required_size(key, 1 << 16)?;
        if allowed.contains(&found) {
            return Ok(found);
        }
        Err(Error::Unsupported {
            path: settings.path().to_owned(),
            what: "weight quantization",
            found: format!("{key}: {found}"),
            supported: expected.to_owned(),
        })
    };
    Ok(Quantization {
        bits: one_of("bits", &[4, 8], "4 and 8")?,
        group_size: one_of("group_size", &[32, 64, 128], "32, 64 and 128")?,
    })
}

impl WeightSource for MlxWeights {
    fn stored(&self, name: &str) -> Option<StoredTensor> {
        let Some((quantization, module)) = self.quantization(name) else {
            return self.tensors.stored(name);
        };
        let part = |name: &str| self.tensors.stored(name);
        let codes = part(name)?;
        let scales = part(&format!("{module}.scales"))?;
        let biases = part(&format!("{module}.biases"))?;
        let Quantization { bits, group_size } = quantization;
        let groups = *scales.shape.last()?;
        Some(StoredTensor {
            shape: vec![*codes.shape.first()?, groups.checked_mul(group_size)?],
            encoding: format!("{bits}-bit affine, groups of {group_size}"),
            size_in_bytes: codes.size_in_bytes + scales.size_in_bytes + biases.size_in_bytes,
            dtype: scales.dtype,
            quantized: true,
        })
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        let Some((quantization, module)) = self.quantization(name) else {
            return self.tensors.check(name, shape);
        };
        let Quantization { bits, group_size } = quantization;
        let &[output, input] = shape else {
            return Err(self.mismatch(name, "shape", "two dimensions", &format!("{shape:?}")));
        };
        if !input.is_multiple_of(group_size) {
            let expected = format!("a divisor of the {input} inputs of `{module}`");
            return Err(Error::InvalidConfig {
                path: self.path.clone(),
                key: "quantization.group_size".to_owned(),
                found: group_size.to_string(),
                expected,
            });
        }
        let parts = [
            (name.to_owned(), input * bits / 32),
            (format!("{module}.scales"), input / group_size),
            (format!("{module}.biases"), input / group_size),
        ];
        for (name, columns) in parts {
            let found = self.tensors.get(&name).map(|entry| &entry.shape);
            let expected = [output, columns];
            let Some(found) = found else {
                return Err(Error::MissingTensor {
                    path: self.path.with_file_name("model.safetensors"),
                    name,
                    expected: expected.to_vec(),
                });
            };
            if *found != expected {
                let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
                return Err(self.mismatch(&name, "shape", &found, &expected));
            }
        }
        let dtype = |name: &str| self.tensors.get(name).and_then(|entry| entry.dtype);
        let (codes, scales) = (dtype(name), dtype(&format!("{module}.scales")));
        let biases = dtype(&format!("{module}.biases"));
        let show = |dtype: Option<DType>| {
            dtype.map_or_else(
                || "unknown".to_owned(),
                |dtype| dtype.as_str().to_uppercase(),
            )
        };
        if codes != Some(DType::U32) {
            return Err(self.mismatch(name, "dtype", &show(codes), "U32"));
        }
        let name = format!("{module}.scales");
        if !matches!(scales, Some(DType::F32 | DType::F16 | DType::BF16)) {
            return Err(self.mismatch(&name, "dtype", &show(scales), "F32, F16 or BF16"));
        }
        if biases != scales {
            let name = format!("{module}.biases");
            return Err(self.mismatch(&name, "dtype", &show(biases), &show(scales)));
        }
        Ok(())
    }

    fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        match self.quantization(name) {
            Some(_) => Ok(self.load_matrix(name, dtype, device)?.dense(dtype)?),
            None => self.tensors.load(name, dtype, device),
        }
    }

    fn load_matrix(&self, name: &str, dtype: DType, device: &Device) -> Result<Matrix> {
        match self.quantization(name) {
            Some((quantization, module)) => {
                let weight = self.affine(name, module, quantization, device)?;
                Ok(Matrix::Affine(Arc::new(weight)))
            }
            None => self.tensors.load_matrix(name, dtype, device),
        }
    }
}

impl MlxWeights {
    fn mismatch(&self, name: &str, property: &'static str, found: &str, expected: &str) -> Error {
        Error::TensorMismatch {
            path: self.path.with_file_name("model.safetensors"),
            name: name.to_owned(),
            property,
            found: found.to_owned(),
            expected: expected.to_owned(),
        }
    }
}
