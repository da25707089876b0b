#![doc = include_str!("../README.md")]

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
pub mod training;

pub use cancel::CancelHandle;
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "hub")]
pub use hub::Hub;
pub use inference::{Chunk, FinishReason, GenerateOptions, Generation, Generator, SamplingOptions};
pub use models::{LoRAAdapter, LoRAConfig, LoRAScale, Model, ModelLoader, Projection};
pub use training::{DataFolder, Dataset, DatasetOptions, LoRATrainer, TrainEvent, TrainOptions};
