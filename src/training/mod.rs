//! Fine-tuning with LoRA.

mod batch;
mod batch_order;
mod chart;
mod dataset;
mod event;
mod metrics;
mod optimizer;
mod options;
mod packing;
mod row;
mod sample;
mod schedule;
mod trainer;

pub use batch::{Batch, BatchLayout, BatchSegment};
pub use batch_order::{BatchOrder, BatchOrderOptions, Batching};
pub use chart::draw_loss;
pub use dataset::{Dataset, DatasetOptions};
pub use event::{
    BestEvaluation, PreferenceReport, RunInfo, StepReport, StopReason, TrainEvent, TrainSummary,
};
pub use metrics::{MetricPoint, MetricsLog, read_metrics};
pub use optimizer::AdamWOptions;
pub use options::TrainOptions;
pub use sample::{PreferencePair, Sample};
pub use schedule::LrSchedule;
pub use trainer::LoRATrainer;
