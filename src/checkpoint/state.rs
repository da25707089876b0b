//! Everything a training run needs to go on.

use super::atomic::Staged;
use super::peft::pretty;
use super::tensor_file::{Stored, write_tensors};
use crate::error::{Error, Result};
use crate::models::full_weights::FullWeights;
use crate::models::trained_weights::TrainedWeights;
use crate::models::{LayerSelection, LoRAAdapter, Model, SafetensorsCheckpoint, TensorSpec, json};
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

const OPTIMIZER: &str = "optimizer.safetensors";
const WEIGHTS: &str = "weights.safetensors";
pub(super) const STATE: &str = "trainer_state.json";
const VERSION: u64 = 1;

/// A moment of a training run: what is trained, the optimizer's state, and the place in the data.
///
/// On disk it is a directory with the adapter in PEFT's format, or the trained weights of the model in
/// `weights.safetensors`; and `optimizer.safetensors` and `trainer_state.json`. Random numbers need no
/// state: every one of them follows from the seed and the number of the batch.
#[derive(Debug)]
pub struct Checkpoint {
    pub(crate) trained: TrainedWeights,
    /// The optimizer's state by name, flat.
    pub(crate) optimizer: Vec<(String, Tensor)>,
    pub(crate) progress: Progress,
    /// The settings that decide the losses of the run, as a JSON object.
    pub(crate) settings: Value,
}

/// How far a run is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    /// Steps done.
    pub step: usize,
    /// Tokens read in them.
    pub tokens: usize,
    /// Step and loss of the best evaluation so far.
    pub best: Option<(usize, f64)>,
    /// Evaluations since then.
    pub evaluations_since_best: usize,
}

impl Checkpoint {
    /// Steps done.
    #[must_use]
    pub fn step(&self) -> usize {
        self.progress.step
    }

    /// The optimizer's state: flat vectors by name, such as `first_moment`.
    #[must_use]
    pub fn optimizer_state(&self) -> &[(String, Tensor)] {
        &self.optimizer
    }

    /// The adapter, or none where the model's weights are trained.
    #[must_use]
    pub fn adapter(&self) -> Option<&LoRAAdapter> {
        match &self.trained {
            TrainedWeights::Adapter(adapter) => Some(adapter),
            TrainedWeights::Full(_) => None,
        }
    }

    /// Writes the checkpoint to `directory`, which appears whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it cannot be written; an older checkpoint of that name then is still
    /// there.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let staged = Staged::new(directory)?;
        match &self.trained {
            TrainedWeights::Adapter(adapter) => adapter.write(&staged)?,
            TrainedWeights::Full(full) => {
                let mut tensors = vec![];
                for slot in full.slots() {
                    let len = slot.dims.iter().product();
                    let tensor = full.weights().narrow(0, slot.offset, len)?;
                    let tensor = tensor.reshape(slot.dims.as_slice())?;
                    tensors.push(Stored::new(slot.place.name(), tensor));
                }
                write_tensors(staged.create(WEIGHTS)?, &tensors, "pt")?;
            }
        }
        let parts = self.optimizer.iter();
        let parts: Vec<_> = parts
            .map(|(name, part)| Stored::new(name.clone(), part.clone()))
            .collect();
        write_tensors(staged.create(OPTIMIZER)?, &parts, "pt")?;
        let state = json!({
            "version": VERSION,
            "progress": self.progress,
            "settings": self.settings,
        });
        staged.write(STATE, &pretty(&state))?;
        staged.replace()
    }

    /// Loads the checkpoint in `directory`, made with `model`.
    ///
    /// # Errors
    ///
    /// As [`LoRAAdapter::load`], for the files of the optimizer's state too.
    pub fn load(directory: &Path, model: &Model) -> Result<Self> {
        let state_path = directory.join(STATE);
        let expected = "a checkpoint directory with trainer_state.json";
        let state = json::read(&state_path, expected)?;
        let invalid = |key: &str, expected: &str| Error::InvalidConfig {
            path: state_path.clone(),
            key: key.to_owned(),
            found: state[key].to_string(),
            expected: expected.to_owned(),
        };
        if state["version"].as_u64() != Some(VERSION) {
            return Err(invalid("version", &VERSION.to_string()));
        }
        let progress = Progress::deserialize(&state["progress"])
            .map_err(|error| invalid("progress", &format!("how far the run is: {error}")))?;
        let settings = state["settings"].clone();
        if !settings.is_object() {
            return Err(invalid("settings", "an object"));
        }
        let weights = directory.join(WEIGHTS);
        let trained = if weights.exists() {
            TrainedWeights::Full(Box::new(load_weights(&weights, model)?))
        } else {
            TrainedWeights::Adapter(LoRAAdapter::load(directory, model)?)
        };
        let file = SafetensorsCheckpoint::open_file(&directory.join(OPTIMIZER))?;
        let names: Vec<_> = file.names().map(str::to_owned).collect();
        let load = |name: String| {
            let part = file.load(&name, Some(DType::F32), model.device())?;
            Ok((name, part))
        };
        Ok(Self {
            trained,
            optimizer: names.into_iter().map(load).collect::<Result<_>>()?,
            progress,
            settings,
        })
    }

    /// A part of the optimizer's state, of so many numbers.
    pub(crate) fn optimizer_part(&self, path: &Path, name: &str, len: usize) -> Result<Tensor> {
        let part = self.optimizer.iter().find(|(known, _)| known == name);
        let path = path.join(OPTIMIZER);
        match part {
            None => Err(Error::MissingTensor {
                path,
                name: name.to_owned(),
                expected: vec![len],
            }),
            Some((_, part)) if part.dims() != [len] => Err(Error::TensorMismatch {
                path,
                name: name.to_owned(),
                property: "shape",
                found: format!("{:?}", part.dims()),
                expected: format!("{:?}", [len]),
            }),
            Some((_, part)) => Ok(part.clone()),
        }
    }

    /// Checks that a run with these settings would have made this checkpoint.
    pub(crate) fn check_settings(&self, path: &Path, settings: &Value) -> Result<()> {
        let Some(expected) = settings.as_object() else {
            return Ok(());
        };
        for (field, expected) in expected {
            let found = &self.settings[field];
            if found != expected {
                return Err(Error::Incompatible {
                    path: path.to_owned(),
                    field: field.clone(),
                    found: found.to_string(),
                    expected: expected.to_string(),
                });
            }
        }
        Ok(())
    }
}

/// The weights of all layers, or of those that the file has.
fn load_weights(path: &Path, model: &Model) -> Result<FullWeights> {
    let file = SafetensorsCheckpoint::open_file(path)?;
    let all = FullWeights::slots_of(model, &LayerSelection::All)?;
    let mut offset = 0;
    let mut slots = vec![];
    for mut slot in all {
        if file.names().any(|name| name == slot.place.name()) {
            slot.offset = offset;
            offset += slot.dims.iter().product::<usize>();
            slots.push(slot);
        }
    }
    let specs = slots.iter().map(|slot| TensorSpec {
        name: slot.place.name(),
        shape: slot.dims.clone(),
    });
    file.validate(&specs.collect::<Vec<_>>())?;
    if let Some(unknown) = file
        .names()
        .find(|name| slots.iter().all(|slot| slot.place.name() != **name))
    {
        return Err(Error::Incompatible {
            path: path.to_owned(),
            field: "tensors".to_owned(),
            found: unknown.to_owned(),
            expected: "weights of this model".to_owned(),
        });
    }
    let part = |name: &str| -> Result<Tensor> {
        let part = file.load(name, Some(DType::F32), model.device())?;
        Ok(part.flatten_all()?)
    };
    let parts = slots.iter().map(|slot| part(&slot.place.name()));
    let weights = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?;
    FullWeights::from_weights(slots, weights, model.decoder().clone())
}
