//! Everything a training run needs to go on.

use super::atomic::Staged;
use super::peft::pretty;
use crate::backend::device::to_host;
use crate::error::{Error, Result};
use crate::models::{LoRAAdapter, Model, SafetensorsCheckpoint, TensorSpec, json};
use candle_core::{DType, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::path::Path;

const OPTIMIZER: &str = "optimizer.safetensors";
pub(super) const STATE: &str = "trainer_state.json";
const VERSION: u64 = 1;

/// A moment of a training run: the adapter, the optimizer's state, and the place in the data.
///
/// On disk it is a directory with the adapter in PEFT's format, `optimizer.safetensors` and
/// `trainer_state.json`. Random numbers need no state: every one of them follows from the seed and
/// the number of the batch.
#[derive(Debug)]
pub struct Checkpoint {
    /// The adapter.
    pub adapter: LoRAAdapter,
    /// AdamW's mean of gradients, flat.
    pub first_moment: Tensor,
    /// AdamW's mean of squared gradients, flat.
    pub second_moment: Tensor,
    /// Steps done.
    pub step: usize,
    /// The settings that decide the losses of the run, as a JSON object.
    pub settings: Value,
}

impl Checkpoint {
    /// Writes the checkpoint to `directory`, which appears whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it cannot be written; an older checkpoint of that name then is still
    /// there.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let staged = Staged::new(directory)?;
        self.adapter.write(&staged)?;
        let bytes = |tensor: &Tensor| -> Result<Vec<u8>> {
            let numbers = to_host(tensor)?;
            Ok(numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
        };
        let (first, second) = (bytes(&self.first_moment)?, bytes(&self.second_moment)?);
        let count = self.first_moment.elem_count();
        let invalid = |e: safetensors::SafeTensorError| Error::format(directory, e.to_string());
        let view = |bytes| TensorView::new(Dtype::F32, vec![count], bytes).map_err(invalid);
        let views = [
            ("first_moment", view(first.as_slice())?),
            ("second_moment", view(second.as_slice())?),
        ];
        let file = safetensors::serialize(views, None).map_err(invalid)?;
        staged.write(OPTIMIZER, &file)?;
        let state = json!({
            "version": VERSION,
            "step": self.step,
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
        let state = json::read(
            &state_path,
            "a checkpoint directory with trainer_state.json",
        )?;
        let invalid = |key: &str, expected: &str| Error::InvalidConfig {
            path: state_path.clone(),
            key: key.to_owned(),
            found: state[key].to_string(),
            expected: expected.to_owned(),
        };
        if state["version"].as_u64() != Some(VERSION) {
            return Err(invalid("version", &VERSION.to_string()));
        }
        let step = state["step"]
            .as_u64()
            .and_then(|step| usize::try_from(step).ok())
            .ok_or_else(|| invalid("step", "the number of steps done"))?;
        let settings = state["settings"].clone();
        if !settings.is_object() {
            return Err(invalid("settings", "an object"));
        }
        let adapter = LoRAAdapter::load(directory, model)?;
        let file = SafetensorsCheckpoint::open_file(&directory.join(OPTIMIZER))?;
        let spec = |name: &str| TensorSpec {
            name: name.to_owned(),
            shape: vec![adapter.parameter_count()],
        };
        file.validate(&[spec("first_moment"), spec("second_moment")])?;
        let load = |name| file.load(name, Some(DType::F32), model.device());
        Ok(Self {
            first_moment: load("first_moment")?,
            second_moment: load("second_moment")?,
            adapter,
            step,
            settings,
        })
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
