#![doc = include_str!("../README.md")]
// The layers below `training` hold backwards and optimizer steps beside what they belong to. Without
// training nothing calls them, so nothing is built of them; with it the compiler looks for dead code.
#![cfg_attr(
    not(feature = "training"),
    allow(
        dead_code,
        unused_imports,
        reason = "of the shared layers, what only training calls"
    )
)]

pub mod backend;
pub mod cancel;
pub mod checkpoint;
pub mod error;
pub mod ffi;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "hub")]
pub mod hub;
pub mod inference;
pub mod models;
#[cfg(feature = "training")]
pub mod training;

pub use cancel::CancelHandle;
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "hub")]
pub use hub::Hub;
pub use inference::{Chunk, FinishReason, GenerateOptions, Generation, Generator, SamplingOptions};
pub use models::{LoRAAdapter, LoRAConfig, LoRAScale, Model, ModelLoader, Projection};
#[cfg(feature = "training")]
pub use training::{DataFolder, Dataset, DatasetOptions, LoRATrainer, TrainEvent, TrainOptions};

/// The examples of the migration guide, which are tested as those of the README are.
#[cfg(all(doctest, feature = "training"))]
#[doc = include_str!("../MIGRATION.md")]
struct Migration;
