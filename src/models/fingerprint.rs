//! Short numbers that tell models and adapters apart.

use super::{AdapterMix, LoRAAdapter, Model, ModelConfig, RopeScaling};
use crate::backend::device::{completed, to_host};
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use std::fmt;

/// A number that changes when a model or an adapter does, and is the same on every device and in every
/// process. It tells an accident, not an attack.
///
/// # Example
///
/// ```
/// use metal_candle::ModelLoader;
///
/// let load = || ModelLoader::new().load("assets/tiny-coder");
/// let (first, second) = (load()?.fingerprint()?, load()?.fingerprint()?);
/// assert_eq!(first, second);
/// assert_eq!(first.to_string().len(), 16);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64);

impl fmt::Display for Fingerprint {
    /// Sixteen hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Makes a fingerprint, eight bytes at a time.
///
/// Every step is one-to-one, so that inputs of the same length that differ in one word never get the
/// same fingerprint.
#[derive(Debug)]
pub(crate) struct Hasher(u64);

impl Hasher {
    pub(crate) fn new() -> Self {
        // The fraction of the golden ratio, as good a start as any.
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// Takes bytes in, and their number, so that two parts are not one longer one.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
    }

    fn word(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        self.0 = mixed ^ (mixed >> 32);
    }

    fn numbers(&mut self, numbers: &[f32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.update(&bytes);
    }

    pub(crate) fn finish(&self) -> Fingerprint {
        Fingerprint(self.0)
    }
}

/// The fingerprint of a model: of what its layers compute, and of a number of every row of every weight.
pub(super) fn of_model(model: &Model) -> Result<Fingerprint> {
    let mut hasher = Hasher::new();
    hasher.update(computation(model.config()).as_bytes());
    let sample = completed(model.device(), || {
        let decoder = model.decoder();
        let sample = |place| sample(&decoder.weight_at(place)?);
        let samples = decoder.places().into_iter().map(sample);
        Ok(Tensor::cat(&samples.collect::<Result<Vec<_>>>()?, 0)?)
    })?;
    hasher.numbers(&to_host(&sample)?);
    Ok(hasher.finish())
}

/// The settings that decide what a layer computes. Ids that begin or end a text do not.
fn computation(config: &ModelConfig) -> String {
    format!(
        "{} {:?} {:?} {} {:?}",
        config.architecture.model_type(),
        [
            config.vocab_size,
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        ],
        (config.rms_norm_eps, config.rope_theta),
        rotation(&config.rope_scaling),
        config.sliding_windows,
    )
}

/// Field by field: what `Debug` writes changes with a new field, and sessions would be lost.
fn rotation(scaling: &RopeScaling) -> String {
    match scaling {
        RopeScaling::None => "none".to_owned(),
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast,
            beta_slow,
            attention_factor,
        } => format!("yarn {factor} {original} {beta_fast} {beta_slow} {attention_factor:?}"),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: original,
        } => format!("llama3 {factor} {low} {high} {original}"),
        RopeScaling::Linear { factor } => format!("linear {factor}"),
        RopeScaling::Factors { factors } => format!("factors {factors:?}"),
    }
}

/// A number of every row of a matrix, and all of a vector, in `f32`.
///
/// So whole rows that differ are seen, such as those of a few new tokens.
fn sample(weight: &Tensor) -> Result<Tensor> {
    let (rows, width) = match *weight.dims() {
        [rows, width] => (rows, width),
        _ => (weight.elem_count(), 1),
    };
    let mut places = Vec::with_capacity(rows);
    for row in 0..rows {
        // In another column each, so that columns that differ are seen, too.
        let place = row * width + (row * 7919) % width;
        // Beyond that, no device can be asked for a place in one step.
        if let Ok(place) = u32::try_from(place) {
            places.push(place);
        }
    }
    let flat = weight.flatten_all()?;
    let places = Tensor::new(places, &Device::Cpu)?.to_device(weight.device())?;
    Ok(flat.index_select(&places, 0)?.to_dtype(DType::F32)?)
}

impl LoRAAdapter {
    /// The fingerprint of the adapter: of what it changes, how much, and of all its weights.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`](crate::Error::Backend) when the device fails.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        let mut hasher = Hasher::new();
        hasher.update(&self.config().scaling().to_le_bytes());
        for slot in self.slots() {
            hasher.update(format!("{} {}", slot.module(), slot.rank).as_bytes());
        }
        hasher.numbers(&to_host(self.weights())?);
        Ok(hasher.finish())
    }
}

impl AdapterMix {
    /// The fingerprint of the mix: that of its adapter where there is one with a weight of 1, else of
    /// all adapters and their weights in their order.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`](crate::Error::Backend) when the device fails.
    pub fn fingerprint(&self) -> Result<Fingerprint> {
        #[allow(clippy::float_cmp, reason = "exactly 1 is the adapter as it is")]
        if let [(adapter, weight)] = self.parts()
            && *weight == 1.0
        {
            return adapter.fingerprint();
        }
        let mut hasher = Hasher::new();
        for (adapter, weight) in self.parts() {
            hasher.word(adapter.fingerprint()?.0);
            hasher.word(weight.to_bits());
        }
        Ok(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::device_kind;
    use crate::backend::{DTypePolicy, DeviceKind};
    use crate::models::testing::model;
    use crate::models::{LoRAConfig, LoRAScale, ModelLoader};
    use std::collections::BTreeSet;

    const NAMES: [&str; 4] = [
        "qwen2_tied",
        "qwen2_untied_gqa",
        "qwen2_bf16",
        "llama_plain",
    ];

    #[test]
    fn a_model_has_one_fingerprint_everywhere() {
        for name in NAMES {
            let print = |device, dtype| model(name, device, dtype).fingerprint().unwrap();
            let expected = print(DeviceKind::Cpu, DTypePolicy::F32);
            assert_eq!(print(device_kind(), DTypePolicy::F32), expected, "{name}");
            let model = model(name, DeviceKind::Cpu, DTypePolicy::F32);
            // The second time it is kept.
            for _ in 0..2 {
                assert_eq!(model.fingerprint().unwrap(), expected);
                assert_eq!(model.clone().fingerprint().unwrap(), expected);
            }
        }
        let stored = model("qwen2_bf16", DeviceKind::Cpu, DTypePolicy::Bf16);
        let wide = model("qwen2_bf16", DeviceKind::Cpu, DTypePolicy::F32);
        assert_eq!(stored.fingerprint().unwrap(), wide.fingerprint().unwrap());
    }

    /// Files of sessions hold fingerprints, so that these must be the same in the next version.
    #[test]
    fn a_fingerprint_stays_what_it_is() {
        let mut hasher = Hasher::new();
        hasher.update(b"");
        hasher.update(b"twelve bytes");
        assert_eq!(hasher.finish().to_string(), "d3ea3a55027a9104");
        let model = model("qwen2_tied", DeviceKind::Cpu, DTypePolicy::F32);
        assert_eq!(model.fingerprint().unwrap().to_string(), "fc3116bcc3aeeb52");
    }

    #[test]
    fn every_row_and_every_column_counts() {
        let weight = crate::backend::ops::gradcheck::random(&[300, 40], 1);
        let before = sample(&weight).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(before.len(), 300);
        let numbers = weight.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let seen = |differs: &dyn Fn(usize) -> bool| {
            let mut numbers = numbers.clone();
            for (place, number) in numbers.iter_mut().enumerate() {
                if differs(place) {
                    *number += 1.0;
                }
            }
            let weight = Tensor::from_vec(numbers, (300, 40), &Device::Cpu).unwrap();
            sample(&weight).unwrap().to_vec1::<f32>().unwrap() != before
        };
        assert!(!seen(&|_| false));
        for row in 0..300 {
            assert!(seen(&|place| place / 40 == row), "row {row}");
        }
        for column in 0..40 {
            assert!(seen(&|place| place % 40 == column), "column {column}");
        }
        let vector = weight.flatten_all().unwrap();
        let all = sample(&vector).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(all, numbers);
    }

    /// What is hashed of the settings, which must stay the same where settings are added.
    #[test]
    fn settings_are_written_out() {
        let written = |name| computation(model(name, DeviceKind::Cpu, DTypePolicy::F32).config());
        for (name, rotation) in [
            ("qwen2_tied", "none"),
            ("qwen2_yarn", "yarn 4 256 32 1 None"),
            ("llama3_scaled", "llama3 8 1 4 64"),
        ] {
            let found = written(name);
            let around = format!(") {rotation} [");
            assert!(found.contains(&around), "{found}");
        }
    }

    #[test]
    fn every_model_has_another() {
        let mut prints: BTreeSet<String> = BTreeSet::new();
        for name in NAMES {
            let model = model(name, DeviceKind::Cpu, DTypePolicy::F32);
            prints.insert(model.fingerprint().unwrap().to_string());
        }
        // A setting, or one layer's merged change, makes another model.
        let original = std::path::Path::new("tests/fixtures/models/qwen2_tied");
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(
            original.join("model.safetensors"),
            folder.path().join("model.safetensors"),
        )
        .unwrap();
        let config = std::fs::read_to_string(original.join("config.json")).unwrap();
        let config = config.replace("\"rms_norm_eps\": ", "\"rms_norm_eps\": 1");
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let edited = ModelLoader::new()
            .with_device(DeviceKind::Cpu)
            .load(folder.path())
            .unwrap();
        prints.insert(edited.fingerprint().unwrap().to_string());
        let base = model("qwen2_tied", DeviceKind::Cpu, DTypePolicy::F32);
        let mut adapter = LoRAAdapter::new(LoRAConfig::default(), &base, 1).unwrap();
        let mut adapters = BTreeSet::new();
        adapters.insert(adapter.fingerprint().unwrap().to_string());
        let ones = adapter.weights().ones_like().unwrap();
        adapter.set_weights(ones, base.decoder()).unwrap();
        adapters.insert(adapter.fingerprint().unwrap().to_string());
        let merged = base.merge(&adapter).unwrap();
        prints.insert(merged.fingerprint().unwrap().to_string());
        let stronger = LoRAConfig {
            scale: LoRAScale::Alpha(32.0),
            ..LoRAConfig::default()
        };
        let stronger = LoRAAdapter::new(stronger, &base, 1).unwrap();
        adapters.insert(stronger.fingerprint().unwrap().to_string());
        assert_eq!((prints.len(), adapters.len()), (NAMES.len() + 2, 3));
    }

    #[test]
    fn parts_and_bytes_count() {
        let print = |parts: &[&[u8]]| {
            let mut hasher = Hasher::new();
            for part in parts {
                hasher.update(part);
            }
            hasher.finish().to_string()
        };
        let inputs: [&[&[u8]]; 7] = [
            &[],
            &[b""],
            &[b"ab"],
            &[b"a", b"b"],
            &[b"b", b"a"],
            &[b"ab\0"],
            &[b"12345678"],
        ];
        let prints: BTreeSet<_> = inputs.map(print).into_iter().collect();
        assert_eq!(prints.len(), 7);
    }
}
