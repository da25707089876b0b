//! Fine-tuning with LoRA.

mod batch;
mod dataset;
mod event;
mod optimizer;
mod options;
mod row;
mod schedule;
mod trainer;

pub use batch::{Batch, BatchOrder};
pub use dataset::{Dataset, DatasetOptions, Sample};
pub use event::{StepReport, TrainEvent, TrainSummary};
pub use optimizer::AdamWOptions;
pub use options::TrainOptions;
pub use schedule::LrSchedule;
pub use trainer::LoRATrainer;
