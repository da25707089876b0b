//! What a host program is told about a training run.
//!
//! Every type serialises to the JSON that is kept in
//! [`metrics.jsonl`](super::MetricsLog): times in seconds, numbers that are not finite as null.

use super::preference::PairLoss;
use serde::{Serialize, Serializer};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a run is about to do, told once, before anything is computed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunInfo {
    /// Numbers that are trained.
    pub trainable_parameters: usize,
    /// Numbers in all: those of the model and those that training adds.
    pub parameters: usize,
    /// Training rows.
    pub rows: usize,
    /// Tokens of the training rows.
    pub tokens: usize,
    /// Tokens of the training rows that are scored.
    pub target_tokens: usize,
    /// Training rows that were cut to the longest length.
    pub truncated: usize,
    /// Training rows that were left out.
    pub skipped: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// Steps done before: 0, or where the run resumes.
    pub first_step: usize,
    /// Batches in which every training row comes once.
    pub batches_per_epoch: usize,
    /// The share of a packed batch's places that hold tokens, above 0 and at most 1; none where rows
    /// are not packed.
    pub pack_efficiency: Option<f64>,
    /// What is trained, such as `lora`, `dora`, `qlora` or `full`.
    pub method: String,
    /// What the loss rewards: `sft`, `dpo` or `orpo`.
    pub objective: String,
}

/// What the rows of a step say about preferences.
///
/// A reward is the log-probability of an answer times beta, less that of the model before training
/// where the objective has a reference, as in
/// [DPO](https://arxiv.org/abs/2305.18290).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PreferenceReport {
    /// The mean reward of the answers that were chosen.
    pub reward_chosen: f64,
    /// The mean reward of the answers that were rejected.
    pub reward_rejected: f64,
    /// The mean of the differences, chosen less rejected.
    pub margin: f64,
    /// The share of pairs whose chosen answer has the higher reward, 0 to 1.
    pub accuracy: f64,
}

impl PreferenceReport {
    /// The means over pairs; none where there are no pairs.
    #[allow(clippy::cast_precision_loss, reason = "a number of pairs fits f64")]
    pub(super) fn of(pairs: &[PairLoss]) -> Option<Self> {
        if pairs.is_empty() {
            return None;
        }
        let mean = |number: fn(&PairLoss) -> f64| {
            pairs.iter().map(number).sum::<f64>() / pairs.len() as f64
        };
        Some(Self {
            reward_chosen: mean(|pair| pair.chosen_reward),
            reward_rejected: mean(|pair| pair.rejected_reward),
            margin: mean(PairLoss::margin),
            accuracy: mean(|pair| f64::from(u8::from(pair.is_accurate()))),
        })
    }
}

/// What happened in one optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// The number of the step, from 1.
    pub step: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// How often every training row was seen, this step included; 1.5 is the middle of the second
    /// time.
    pub epoch: f64,
    /// Mean negative log-likelihood of the step's target tokens, before its update; the mean loss of
    /// its pairs where the objective is a preference.
    pub loss: f64,
    /// The learning rate of this step.
    pub learning_rate: f64,
    /// L2 norm of the gradient of that mean, before clipping.
    pub grad_norm: f64,
    /// Target tokens of this step.
    pub target_tokens: usize,
    /// Tokens of this step, targets or not, without padding.
    pub tokens: usize,
    /// Tokens since step 1, this step included, over all resumptions.
    pub tokens_so_far: usize,
    /// Tokens per second of this step.
    pub tokens_per_second: f64,
    /// Time since this run, or its resumption, began.
    #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
    /// Time the remaining steps will take at the pace so far.
    #[serde(rename = "remaining_seconds", serialize_with = "seconds")]
    pub remaining: Duration,
    /// Memory that the process holds now, in bytes; 0 where the operating system does not tell.
    pub memory: u64,
    /// The most memory the process has held, in bytes.
    pub peak_memory: u64,
    /// Rewards, where the objective is a preference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceReport>,
}

/// What a callback of [`LoRATrainer::train`](super::LoRATrainer::train) is told.
///
/// As JSON it is one object whose key `event` is `start`, `step`, `evaluation`, `checkpoint` or
/// `end`, beside the fields.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum TrainEvent {
    /// A run, or its resumption, begins.
    Start(RunInfo),
    /// A step is done.
    Step(StepReport),
    /// The validation rows were evaluated.
    Evaluation {
        /// Steps done.
        step: usize,
        /// Mean negative log-likelihood of their target tokens.
        loss: f64,
        /// e to the power of the loss.
        perplexity: f64,
        /// Whether no earlier evaluation of the run had a loss as low.
        best: bool,
        /// Time since this run, or its resumption, began.
        #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
        elapsed: Duration,
    },
    /// A checkpoint is safe on disk.
    Checkpoint {
        /// Steps done.
        step: usize,
        /// Its directory.
        #[serde(serialize_with = "lossy")]
        path: PathBuf,
        /// Whether it holds the weights of the best evaluation so far.
        best: bool,
    },
    /// The run is over; nothing comes after it.
    End(TrainSummary),
}

/// The evaluation of a run with the lowest loss.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BestEvaluation {
    /// Steps done.
    pub step: usize,
    /// Mean negative log-likelihood of the validation rows' target tokens.
    pub loss: f64,
    /// The checkpoint with these weights, where one was written.
    #[serde(serialize_with = "optional_lossy")]
    pub path: Option<PathBuf>,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StopReason {
    /// All steps are done.
    Finished,
    /// A callback or another thread stopped it before its last step.
    Cancelled,
    /// The validation loss no longer fell.
    EarlyStopping,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainSummary {
    /// Steps done in all.
    pub steps: usize,
    /// The loss of the last step; NaN where no step was done.
    pub loss: f64,
    /// The last validation loss, where there was an evaluation.
    pub validation_loss: Option<f64>,
    /// The best evaluation, where there was one.
    pub best: Option<BestEvaluation>,
    /// Why it ended.
    pub stop: StopReason,
    /// Tokens since step 1, over all resumptions.
    pub tokens: usize,
    /// Time since the run, or its resumption, began.
    #[serde(rename = "elapsed_seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
}

impl TrainSummary {
    /// Whether a callback or another thread stopped the run before its last step.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.stop == StopReason::Cancelled
    }
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// A path that is not UTF-8 is no reason to lose the line.
fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

#[allow(clippy::ref_option, reason = "serde passes a reference to the field")]
fn optional_lossy<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => serializer.collect_str(&path.display()),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn json_of(event: &TrainEvent) -> Value {
        serde_json::to_value(event).unwrap()
    }

    #[test]
    fn events_are_flat_json() {
        let evaluation = TrainEvent::Evaluation {
            step: 3,
            loss: 1.5,
            perplexity: f64::INFINITY,
            best: true,
            elapsed: Duration::from_millis(250),
        };
        assert_eq!(
            json_of(&evaluation),
            json!({"event": "evaluation", "step": 3, "loss": 1.5, "perplexity": null, "best": true,
                   "elapsed_seconds": 0.25})
        );
        let checkpoint = TrainEvent::Checkpoint {
            step: 3,
            path: "out/checkpoint-000003".into(),
            best: false,
        };
        assert_eq!(
            json_of(&checkpoint),
            json!({"event": "checkpoint", "step": 3, "path": "out/checkpoint-000003", "best": false})
        );
    }

    #[test]
    fn a_summary_tells_why_it_ended() {
        let mut summary = TrainSummary {
            steps: 2,
            loss: f64::NAN,
            validation_loss: None,
            best: Some(BestEvaluation {
                step: 1,
                loss: 2.0,
                path: Some("x".into()),
            }),
            stop: StopReason::EarlyStopping,
            tokens: 7,
            elapsed: Duration::from_secs(1),
        };
        assert!(!summary.cancelled());
        assert_eq!(
            json_of(&TrainEvent::End(summary.clone())),
            json!({"event": "end", "steps": 2, "loss": null, "validation_loss": null,
                   "best": {"step": 1, "loss": 2.0, "path": "x"}, "stop": "early_stopping",
                   "tokens": 7, "elapsed_seconds": 1.0})
        );
        summary.stop = StopReason::Cancelled;
        assert!(summary.cancelled());
    }
}
