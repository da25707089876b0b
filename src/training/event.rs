//! What a host program is told about a training run.

use std::path::PathBuf;
use std::time::Duration;

/// What happened in one optimizer step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The number of the step, from 1.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Mean negative log-likelihood of the step's target tokens, before its update.
    pub loss: f64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// L2 norm of the gradient of that mean, before clipping.
    pub grad_norm: f64,
    /// Target tokens of this step.
    pub target_tokens: usize,
    /// Tokens of this step, targets or not, without padding.
    pub tokens: usize,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
    /// Time since this run, or its resumption, began.
    pub elapsed: Duration,
    /// Time the remaining steps will take at the pace so far.
    pub remaining: Duration,
    /// The most memory the process has held, in bytes.
    pub peak_memory: u64,
}

/// What a callback of [`LoRATrainer::train`](super::LoRATrainer::train) is told.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TrainEvent {
    /// A step is done.
    Step(StepReport),
    /// The validation rows were evaluated.
    Evaluation {
        /// Steps done.
        step: usize,
        /// Mean negative log-likelihood of their target tokens.
        loss: f64,
    },
    /// A checkpoint is safe on disk.
    Checkpoint {
        /// Steps done.
        step: usize,
        /// Its directory.
        path: PathBuf,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainSummary {
    /// Steps done in all.
    pub steps: usize,
    /// The loss of the last step; NaN where no step was done.
    pub loss: f64,
    /// The last validation loss, where there was an evaluation.
    pub validation_loss: Option<f64>,
    /// Whether a callback or another thread stopped it.
    pub cancelled: bool,
    /// Time since the run, or its resumption, began.
    pub elapsed: Duration,
}
