//! Fine-tuning with LoRA.

mod batch;
mod dataset;
mod optimizer;
mod options;
mod row;
mod schedule;
mod trainer;

pub use batch::{Batch, BatchOrder};
pub use dataset::{Dataset, DatasetOptions, Sample};
pub use optimizer::AdamWOptions;
pub use options::TrainOptions;
pub use schedule::LrSchedule;
pub use trainer::{LoRATrainer, StepReport, TrainEvent, TrainSummary};
