//! The options of a training run.

use super::{Batching, LrSchedule, OptimizerOptions, PreferenceLoss, TrainMethod};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;

/// How a model is fine-tuned.
///
/// # Example
///
/// ```
/// use metal_candle::models::{LoRAConfig, LoRAScale};
/// use metal_candle::training::{LrSchedule, TrainOptions};
///
/// let lora = LoRAConfig { rank: 16, scale: LoRAScale::Alpha(32.0), ..LoRAConfig::default() };
/// let options = TrainOptions {
///     method: lora.into(),
///     steps: 200,
///     learning_rate: 2e-4,
///     schedule: LrSchedule::Cosine,
///     warmup_steps: 10,
///     ..TrainOptions::default()
/// };
/// options.validate()?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// What is changed. Default a LoRA adapter on all projections.
    pub method: TrainMethod,
    /// How rows of `{"prompt", "chosen", "rejected"}` are learned; for other rows none, which is the
    /// default: the likelihood of the scored tokens.
    pub preference: Option<PreferenceLoss>,
    /// Optimizer steps in all, at least 1. Default 1000.
    pub steps: usize,
    /// Passes over the training rows, in the place of `steps`; above 0. Default none.
    pub epochs: Option<f64>,
    /// Rows of one batch, packs where rows are packed, at least 1. Default 4.
    pub batch_size: usize,
    /// Batches whose gradients make one step, weighted by their scored tokens (pairs of preferences
    /// count alike); at least 1. Default 1.
    pub gradient_accumulation: usize,
    /// How rows are put together to batches. Default as they come.
    pub batching: Batching,
    /// The most tokens of a pack, where rows are packed. Default 2048.
    pub pack_length: usize,
    /// The highest learning rate, above 0. Default 1e-4.
    pub learning_rate: f64,
    /// What the learning rate does not fall below, 0 or more. Default 0.
    pub min_learning_rate: f64,
    /// How the learning rate falls. Default constant.
    pub schedule: LrSchedule,
    /// Steps over which the learning rate rises from 0. Default 0.
    pub warmup_steps: usize,
    /// The optimizer. Default AdamW.
    pub optimizer: OptimizerOptions,
    /// Gradients are scaled down to this L2 norm, over all weights together; 0 for no limit.
    /// Default 1.
    pub max_grad_norm: f64,
    /// The share of each target that is spread over the whole vocabulary, in [0, 1) (Szegedy et al.,
    /// 2015, <https://arxiv.org/abs/1512.00567>). The training loss contains it, validation losses do
    /// not. Default 0.
    pub label_smoothing: f64,
    /// Recompute each layer in the backward instead of keeping what it computed: about a third
    /// slower, and memory for one layer instead of all. Default false.
    pub grad_checkpoint: bool,
    /// Decides the adapter's first values, the order of rows and dropout. Default 0.
    pub seed: u64,
    /// Another order of rows in each epoch. Default true.
    pub shuffle: bool,
    /// Steps between evaluations on the validation rows, which also happen before the first step
    /// and after the last; 0 for none. Default 200.
    pub eval_every: usize,
    /// The most batches of an evaluation; 0 for all. Default 25.
    pub eval_batches: usize,
    /// Evaluations in a row without a better loss after which the run ends; 0 for no such end.
    /// Default 0.
    pub early_stopping_patience: usize,
    /// By how much a loss must be below the best one to be better, 0 or more. Default 0.
    pub early_stopping_min_delta: f64,
    /// Steps between checkpoints; 0 for none. Default 100. Needs `output_dir`.
    pub save_every: usize,
    /// How many of the newest checkpoints are kept, beside the one of the best evaluation; 0 for all.
    /// Default 0.
    pub keep_checkpoints: usize,
    /// Where checkpoints (`checkpoint-000100`), `metrics.jsonl`, `loss.svg` and at the end the adapter
    /// are written, or the model in `model` where its weights are trained. Default none.
    pub output_dir: Option<PathBuf>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            method: TrainMethod::default(),
            preference: None,
            steps: 1000,
            epochs: None,
            batch_size: 4,
            gradient_accumulation: 1,
            batching: Batching::Plain,
            pack_length: 2048,
            learning_rate: 1e-4,
            min_learning_rate: 0.0,
            schedule: LrSchedule::Constant,
            warmup_steps: 0,
            optimizer: OptimizerOptions::default(),
            max_grad_norm: 1.0,
            label_smoothing: 0.0,
            grad_checkpoint: false,
            seed: 0,
            shuffle: true,
            eval_every: 200,
            eval_batches: 25,
            early_stopping_patience: 0,
            early_stopping_min_delta: 0.0,
            save_every: 100,
            keep_checkpoints: 0,
            output_dir: None,
        }
    }
}

impl TrainOptions {
    /// Reads options from a JSON object; what is left out has its default.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for text that is no such object, and for unknown keys. Ranges are
    /// checked by [`TrainOptions::validate`].
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::TrainOptions;
    ///
    /// let options = TrainOptions::from_json(
    ///     r#"{"method": {"rank": 16, "num_layers": 8}, "epochs": 3,
    ///         "optimizer": "muon", "schedule": "cosine", "batching": "packed"}"#,
    /// )?;
    /// assert_eq!(options.epochs, Some(3.0));
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn from_json(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|error| {
            let found = format!("not understood ({error})");
            Error::option("train options", found, "a JSON object of training options")
        })
    }

    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        self.method.validate()?;
        self.optimizer.validate()?;
        self.schedule.validate()?;
        if let Some(preference) = &self.preference {
            preference.validate()?;
        }
        for (name, value) in [
            ("steps", self.steps),
            ("batch_size", self.batch_size),
            ("gradient_accumulation", self.gradient_accumulation),
        ] {
            if value == 0 {
                return Err(Error::option(name, 0, "at least 1"));
            }
        }
        for (name, value) in [
            ("learning_rate", Some(self.learning_rate)),
            ("epochs", self.epochs),
        ] {
            if let Some(value) = value
                && !(value.is_finite() && value > 0.0)
            {
                return Err(Error::option(name, value, "a number above 0"));
            }
        }
        for (name, value) in [
            ("min_learning_rate", self.min_learning_rate),
            ("max_grad_norm", self.max_grad_norm),
            ("early_stopping_min_delta", self.early_stopping_min_delta),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::option(name, value, "0 or more"));
            }
        }
        if self.min_learning_rate > self.learning_rate {
            let expected = format!("at most the learning rate of {}", self.learning_rate);
            let found = self.min_learning_rate;
            return Err(Error::option("min_learning_rate", found, expected));
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            let found = self.label_smoothing;
            return Err(Error::option(
                "label_smoothing",
                found,
                "0 or more and below 1",
            ));
        }
        if self.label_smoothing > 0.0 && self.preference.is_some() {
            let found = self.label_smoothing;
            let expected = "0 beside preferences; DPO has a label_smoothing of its own";
            return Err(Error::option("label_smoothing", found, expected));
        }
        if self.preference.is_some() && self.batching == Batching::Packed {
            let expected = "plain or length_buckets for preferences";
            return Err(Error::option("batching", "packed", expected));
        }
        if self.epochs.is_none() && self.warmup_steps > self.steps {
            return Err(too_long_warmup(self.warmup_steps, self.steps));
        }
        Ok(())
    }

    /// The steps of a run over so many batches an epoch.
    pub(crate) fn total_steps(&self, batches_per_epoch: usize) -> Result<usize> {
        let Some(epochs) = self.epochs else {
            return Ok(self.steps);
        };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a number of batches fits f64, and an absurd number of epochs saturates"
        )]
        let batches = (epochs * batches_per_epoch as f64).ceil() as usize;
        let steps = batches.div_ceil(self.gradient_accumulation).max(1);
        if self.warmup_steps > steps {
            return Err(too_long_warmup(self.warmup_steps, steps));
        }
        Ok(steps)
    }

    /// The settings that decide the losses of a run of so many steps: a run may only be resumed with
    /// the same. More steps are none of them where the learning rate does not depend on their number.
    pub(crate) fn trajectory(&self, steps: usize) -> Value {
        let mut settings = json!({
            "batch_size": self.batch_size,
            "gradient_accumulation": self.gradient_accumulation,
            "batching": self.batching,
            "learning_rate": self.learning_rate,
            "min_learning_rate": self.min_learning_rate,
            "schedule": self.schedule,
            "warmup_steps": self.warmup_steps,
            "optimizer": self.optimizer,
            "max_grad_norm": self.max_grad_norm,
            "label_smoothing": self.label_smoothing,
            "preference": self.preference,
            "seed": self.seed,
            "shuffle": self.shuffle,
        });
        if self.batching == Batching::Packed {
            settings["pack_length"] = self.pack_length.into();
        }
        if matches!(self.schedule, LrSchedule::Linear | LrSchedule::Cosine) {
            settings["steps"] = steps.into();
        }
        if let (Ok(Value::Object(method)), Some(settings)) =
            (serde_json::to_value(&self.method), settings.as_object_mut())
        {
            settings.extend(method);
        }
        settings
    }
}

fn too_long_warmup(warmup_steps: usize, steps: usize) -> Error {
    let expected = format!("at most the {steps} steps");
    Error::option("warmup_steps", warmup_steps, expected)
}

#[cfg(test)]
mod tests {
    use super::super::{AdamWOptions, SgdOptions};
    use super::*;
    use crate::models::LoRAConfig;

    #[test]
    fn options_out_of_range_are_named() {
        let check = |change: fn(&mut TrainOptions), name: &str| {
            let mut options = TrainOptions::default();
            change(&mut options);
            let message = options.validate().unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        };
        check(|o| o.steps = 0, "`steps`");
        check(|o| o.epochs = Some(0.0), "`epochs`");
        check(|o| o.batch_size = 0, "`batch_size`");
        check(|o| o.gradient_accumulation = 0, "`gradient_accumulation`");
        check(|o| o.learning_rate = f64::INFINITY, "`learning_rate`");
        check(|o| o.min_learning_rate = 1.0, "`min_learning_rate`");
        check(|o| o.warmup_steps = 1001, "`warmup_steps`");
        check(|o| o.max_grad_norm = -1.0, "`max_grad_norm`");
        check(|o| o.label_smoothing = 1.0, "`label_smoothing`");
        check(|o| o.early_stopping_min_delta = -1.0, "min_delta`");
        let dpo = || PreferenceLoss::from_json(r#"{"name": "dpo"}"#).ok();
        let smooth = |o: &mut TrainOptions| o.label_smoothing = 0.1;
        let mut options = TrainOptions {
            preference: dpo(),
            ..TrainOptions::default()
        };
        smooth(&mut options);
        assert!(options.validate().is_err());
        options.label_smoothing = 0.0;
        options.validate().unwrap();
        options.batching = Batching::Packed;
        assert!(options.validate().is_err());
        let rank = |o: &mut TrainOptions| {
            let lora = LoRAConfig {
                rank: 0,
                ..LoRAConfig::default()
            };
            o.method = lora.into();
        };
        check(rank, "`rank`");
        let beta = |o: &mut TrainOptions| {
            let adamw = AdamWOptions {
                beta1: 2.0,
                ..AdamWOptions::default()
            };
            o.optimizer = OptimizerOptions::AdamW(adamw);
        };
        check(beta, "`beta1`");
    }

    #[test]
    fn epochs_become_steps() {
        let steps = |epochs, gradient_accumulation| {
            let options = TrainOptions {
                epochs: Some(epochs),
                gradient_accumulation,
                warmup_steps: 1,
                ..TrainOptions::default()
            };
            options.total_steps(10).unwrap()
        };
        assert_eq!((steps(1.0, 1), steps(2.5, 1), steps(1.0, 4)), (10, 25, 3));
        assert_eq!(steps(1e-9, 1), 1);
        let options = TrainOptions {
            epochs: Some(1.0),
            warmup_steps: 11,
            ..TrainOptions::default()
        };
        options.validate().unwrap();
        assert!(options.total_steps(10).is_err());
        assert_eq!(TrainOptions::default().total_steps(10).unwrap(), 1000);
    }

    #[test]
    fn json_has_every_field_and_no_other() {
        let options = TrainOptions {
            optimizer: OptimizerOptions::Sgd(SgdOptions::default()),
            schedule: LrSchedule::Exponential { gamma: 0.9 },
            epochs: Some(2.0),
            output_dir: Some("out".into()),
            ..TrainOptions::default()
        };
        let json = serde_json::to_string(&options).unwrap();
        assert_eq!(TrainOptions::from_json(&json).unwrap(), options);
        assert_eq!(
            TrainOptions::from_json("{}").unwrap(),
            TrainOptions::default()
        );
        for (json, part) in [
            (r#"{"stepps": 3}"#, "stepps"),
            (r#"{"method": {"ranc": 3}}"#, "ranc"),
            (r#"{"steps": -3}"#, "-3"),
            ("[", "JSON"),
        ] {
            let message = TrainOptions::from_json(json).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_run_may_go_on_for_longer_where_that_changes_no_rate() {
        let settings = |schedule, steps| {
            let options = TrainOptions {
                schedule,
                ..TrainOptions::default()
            };
            options.trajectory(steps)
        };
        let constant = LrSchedule::Constant;
        assert_eq!(settings(constant, 10), settings(constant, 20));
        let cosine = LrSchedule::Cosine;
        assert_ne!(settings(cosine, 10), settings(cosine, 20));
    }
}
