//! Fine-tuning: data, losses, optimizers and the loop.

mod batch;
mod batch_order;
mod chart;
mod conversation;
mod data_folder;
mod dataset;
mod dataset_builder;
mod dataset_options;
mod event;
mod field_names;
mod gradient;
mod lines;
mod method;
mod metrics;
mod named;
mod optimizer;
mod options;
mod output;
mod packing;
mod preference;
mod record;
mod row;
mod row_encoder;
mod row_store;
mod sample;
mod schedule;
mod skipped_rows;
#[cfg(test)]
mod testing;
mod trainer;

pub use batch::{Batch, BatchLayout, BatchSegment};
pub use batch_order::{BatchOrder, BatchOrderOptions, Batching};
pub use chart::draw_loss;
pub use data_folder::DataFolder;
pub use dataset::Dataset;
pub use dataset_options::{BadRow, DatasetOptions, LossMask};
pub use event::{
    BestEvaluation, PreferenceReport, RunInfo, StepReport, StopReason, TrainEvent, TrainSummary,
};
pub use field_names::FieldNames;
pub use method::TrainMethod;
pub use metrics::{MetricPoint, MetricsLog, read_metrics};
pub use optimizer::{
    AdafactorOptions, AdamOptions, AdamWOptions, AdjustLr, MuonOptions, OptimizerOptions,
    SgdOptions,
};
pub use options::TrainOptions;
pub use preference::{AnswerLikelihood, PairLoss, PreferenceLoss};
pub use row::{Row, RowKind};
pub use sample::{PreferencePair, Sample};
pub use schedule::LrSchedule;
pub use skipped_rows::SkippedRow;
pub use trainer::LoRATrainer;
