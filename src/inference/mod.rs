//! Generating text with a model.

mod detokenizer;
mod generator;
mod options;
mod sampler;

pub use detokenizer::Detokenizer;
pub use generator::{Chunk, FinishReason, GenerateOptions, Generation, Generator};
pub use options::SamplingOptions;
pub use sampler::Sampler;
