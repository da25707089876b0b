//! Fine-tuning: data sets, options, the trainer, what a run tells, and its checkpoints.

mod checkpoint;
mod dataset;
mod dataset_options;
mod train_event;
mod train_event_preference;
mod train_event_start;
mod train_method_options;
mod train_optimizer_options;
mod train_options;
mod train_output_options;
mod train_summary;
mod trainer;

pub use checkpoint::*;
pub use dataset::*;
pub use dataset_options::*;
pub use train_event::*;
pub use train_event_preference::*;
pub use train_event_start::*;
pub use train_method_options::*;
pub use train_optimizer_options::*;
pub use train_options::*;
pub use train_output_options::*;
pub use train_summary::*;
pub use trainer::*;
