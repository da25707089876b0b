//! The options of a training run.

use super::{AdamWOptions, LrSchedule};
use crate::error::{Error, Result};
use crate::models::LoRAConfig;
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
/// let options = TrainOptions {
///     lora: LoRAConfig { rank: 16, scale: LoRAScale::Alpha(32.0), ..LoRAConfig::default() },
///     steps: 200,
///     learning_rate: 2e-4,
///     schedule: LrSchedule::Cosine,
///     warmup_steps: 10,
///     ..TrainOptions::default()
/// };
/// options.validate()?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// What the adapter changes.
    pub lora: LoRAConfig,
    /// Optimizer steps in all, at least 1. Default 1000.
    pub steps: usize,
    /// Rows of one batch, at least 1. Default 4.
    pub batch_size: usize,
    /// Batches whose gradients make one step, weighted by their tokens; at least 1. Default 1.
    pub gradient_accumulation: usize,
    /// The highest learning rate, above 0. Default 1e-4.
    pub learning_rate: f64,
    /// How the learning rate falls. Default constant.
    pub schedule: LrSchedule,
    /// Steps over which the learning rate rises from 0. Default 0.
    pub warmup_steps: usize,
    /// The optimizer.
    pub adamw: AdamWOptions,
    /// Gradients are scaled down to this L2 norm, over all weights together; 0 for no limit.
    /// Default 1.
    pub max_grad_norm: f64,
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
    /// Steps between checkpoints; 0 for none. Default 100. Needs `output_dir`.
    pub save_every: usize,
    /// Where checkpoints (`checkpoint-000100`) and at the end the adapter are written. Default none.
    pub output_dir: Option<PathBuf>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            lora: LoRAConfig::default(),
            steps: 1000,
            batch_size: 4,
            gradient_accumulation: 1,
            learning_rate: 1e-4,
            schedule: LrSchedule::Constant,
            warmup_steps: 0,
            adamw: AdamWOptions::default(),
            max_grad_norm: 1.0,
            grad_checkpoint: false,
            seed: 0,
            shuffle: true,
            eval_every: 200,
            eval_batches: 25,
            save_every: 100,
            output_dir: None,
        }
    }
}

impl TrainOptions {
    /// Checks the ranges of all fields.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] that names the field and its range.
    pub fn validate(&self) -> Result<()> {
        self.lora.validate()?;
        self.adamw.validate()?;
        for (name, value) in [
            ("steps", self.steps),
            ("batch_size", self.batch_size),
            ("gradient_accumulation", self.gradient_accumulation),
        ] {
            if value == 0 {
                return Err(Error::option(name, 0, "at least 1"));
            }
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(Error::option(
                "learning_rate",
                self.learning_rate,
                "a number above 0",
            ));
        }
        if self.warmup_steps > self.steps {
            return Err(Error::option(
                "warmup_steps",
                self.warmup_steps,
                format!("at most the {} steps", self.steps),
            ));
        }
        if !(self.max_grad_norm.is_finite() && self.max_grad_norm >= 0.0) {
            return Err(Error::option(
                "max_grad_norm",
                self.max_grad_norm,
                "0 or more",
            ));
        }
        Ok(())
    }

    /// The settings that decide the losses of a run: a run may only be resumed with the same.
    pub(crate) fn trajectory(&self) -> Value {
        json!({
            "rank": self.lora.rank,
            "alpha": self.lora.alpha(),
            "dropout": self.lora.dropout,
            "use_rslora": self.lora.use_rslora,
            "target_modules": self.lora.targets,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "gradient_accumulation": self.gradient_accumulation,
            "learning_rate": self.learning_rate,
            "schedule": self.schedule,
            "warmup_steps": self.warmup_steps,
            "beta1": self.adamw.beta1,
            "beta2": self.adamw.beta2,
            "eps": self.adamw.eps,
            "weight_decay": self.adamw.weight_decay,
            "max_grad_norm": self.max_grad_norm,
            "seed": self.seed,
            "shuffle": self.shuffle,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_named() {
        let check = |change: fn(&mut TrainOptions), name: &str| {
            let mut options = TrainOptions::default();
            change(&mut options);
            let message = options.validate().unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        };
        check(|o| o.steps = 0, "`steps`");
        check(|o| o.batch_size = 0, "`batch_size`");
        check(|o| o.gradient_accumulation = 0, "`gradient_accumulation`");
        check(|o| o.learning_rate = f64::INFINITY, "`learning_rate`");
        check(|o| o.warmup_steps = 1001, "`warmup_steps`");
        check(|o| o.max_grad_norm = -1.0, "`max_grad_norm`");
        check(|o| o.lora.rank = 0, "`rank`");
        check(|o| o.adamw.beta1 = 2.0, "`beta1`");
    }
}
