//! How the rotary position embeddings of a model in a GGUF file are stretched, in the spelling of
//! `config.json`.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::models::gguf::config::Keys;
use crate::models::gguf::ggml_type::GgmlType;
use crate::models::rope::yarn_attention_factor;

/// The tensor with what each rotary frequency is divided by.
pub(super) const FACTORS_TENSOR: &str = "rope_freqs.weight";
/// The scaling types that are read.
const SUPPORTED: &str = "none, linear, yarn";
/// What all files of Llama 3.1 and later have.
const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;
/// How far single precision may put a factor off.
const TOLERANCE: f64 = 1e-4;

/// The `rope_scaling` section, if the model has one.
pub(super) fn scaling(keys: &Keys, head_dim: u64, context: u64) -> Result<Option<Value>> {
    let type_key = keys.key("rope.scaling.type");
    let factors = factors(keys, head_dim)?;
    let section = match (keys.file.string(&type_key)?, factors) {
        // The older spelling of linear scaling.
        (None | Some("none"), None) => match keys.float("rope.scale_linear")? {
            Some(factor) => json!({"rope_type": "linear", "factor": factor}),
            None => return Ok(None),
        },
        (None | Some("none"), Some(factors)) if factors.iter().all(|&factor| is(factor, 1.0)) => {
            return Ok(None);
        }
        (None | Some("none"), Some(factors)) => {
            let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
            llama3(&factors, theta).unwrap_or_else(|| {
                json!({
                    "rope_type": "longrope",
                    "short_factor": factors,
                    "long_factor": factors,
                    "attention_factor": 1.0,
                    "original_max_position_embeddings": context,
                })
            })
        }
        (Some("linear"), None) => json!({
            "rope_type": "linear",
            "factor": keys.float("rope.scaling.factor")?,
        }),
        (Some("yarn"), None) => yarn(keys)?,
        (Some(found), _) => return Err(keys.unsupported("rope.scaling.type", found, SUPPORTED)),
    };
    Ok(Some(section))
}

/// Whether a setting has a value.
fn is(number: f64, value: f64) -> bool {
    (number - value).abs() < f64::EPSILON
}

fn yarn(keys: &Keys) -> Result<Value> {
    let neutral = [
        ("rope.scaling.yarn_ext_factor", 1.0),
        ("rope.scaling.yarn_log_multiplier", 0.0),
    ];
    for (name, neutral) in neutral {
        if let Some(number) = keys.float(name)?.filter(|&number| !is(number, neutral)) {
            let found = number.to_string();
            return Err(keys.unsupported(name, &found, &neutral.to_string()));
        }
    }
    let factor = keys.float("rope.scaling.factor")?;
    let mut section = json!({"rope_type": "yarn", "factor": factor});
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            section[name] = value;
        }
    };
    let original = keys
        .file
        .unsigned(&keys.key("rope.scaling.original_context_length"))?;
    add(
        "original_max_position_embeddings",
        original.map(Value::from),
    );
    for name in ["beta_fast", "beta_slow"] {
        let number = keys.float(&format!("rope.scaling.yarn_{name}"))?;
        add(name, number.map(Value::from));
    }
    // Beside the one that follows from the factor, and not instead of it.
    let more = match keys.float("rope.scaling.yarn_attn_factor")? {
        Some(number) => Some(number),
        None => keys.float("rope.scaling.attn_factor")?,
    };
    let usual = factor.map(yarn_attention_factor);
    if let (Some(more), Some(usual)) = (more.filter(|&number| !is(number, 1.0)), usual) {
        add("attention_factor", Some((more * usual).into()));
    }
    Ok(section)
}

/// What each rotary frequency is divided by, if the file has a tensor of it.
fn factors(keys: &Keys, head_dim: u64) -> Result<Option<Vec<f64>>> {
    let Some(tensor) = keys.file.tensor(FACTORS_TENSOR) else {
        return Ok(None);
    };
    let mismatch = |property, found, expected| Error::TensorMismatch {
        path: keys.file.path().to_owned(),
        name: FACTORS_TENSOR.to_owned(),
        property,
        found,
        expected,
    };
    if tensor.ggml_type != GgmlType::F32 {
        let found = tensor.ggml_type.to_string();
        return Err(mismatch("type", found, GgmlType::F32.to_string()));
    }
    let half = head_dim / 2;
    let len = tensor.shape.iter().product::<usize>() as u64;
    if len != half {
        let found = format!("{:?}", tensor.shape);
        return Err(mismatch("shape", found, format!("[{half}]")));
    }
    let (numbers, _) = keys.file.tensor_bytes(tensor).as_chunks();
    let factors: Vec<f64> = numbers
        .iter()
        .map(|bytes| f64::from(f32::from_le_bytes(*bytes)))
        .collect();
    if factors
        .iter()
        .all(|factor| factor.is_finite() && *factor > 0.0)
    {
        Ok(Some(factors))
    } else {
        let expected = "numbers above 0".to_owned();
        Err(mismatch("a value", "another".to_owned(), expected))
    }
}

/// The scaling of Llama 3.1, if these factors are what follows from it.
///
/// The converter keeps the factors only. With the usual bounds of the ramp, the original context
/// follows from any factor on it.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "half the width of a head is small; a context is positive, and too long a one is refused"
)]
fn llama3(factors: &[f64], theta: f64) -> Option<Value> {
    let factor = factors.iter().copied().fold(1.0, f64::max);
    let half = factors.len() as f64;
    let turns_of = |index: usize| theta.powf(-(index as f64) / half) / std::f64::consts::TAU;
    // How much of the frequency is kept, from 0 to 1: the inverse of 1 / ((1 - k) / factor + k).
    let kept_of = |found: f64| (factor / found - 1.0) / (factor - 1.0);
    let on_ramp = |kept: f64| kept > 0.01 && kept < 0.99;
    let (index, kept) = factors
        .iter()
        .map(|&found| kept_of(found))
        .enumerate()
        .find(|(_, kept)| on_ramp(*kept))?;
    let turns = LOW_FREQ_FACTOR + kept * (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR);
    let original = (turns / turns_of(index)).round();
    let fits = factors.iter().enumerate().all(|(index, &found)| {
        let turns = original * turns_of(index);
        let kept = (turns - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR);
        let kept = kept.clamp(0.0, 1.0);
        let expected = 1.0 / ((1.0 - kept) / factor + kept);
        (found - expected).abs() <= TOLERANCE * expected
    });
    fits.then(|| {
        json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": LOW_FREQ_FACTOR,
            "high_freq_factor": HIGH_FREQ_FACTOR,
            "original_max_position_embeddings": original as u64,
        })
    })
}

#[cfg(test)]
mod tests;
