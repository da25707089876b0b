//! Generating text with a model.

mod batch;
mod constraint;
mod context;
mod detokenizer;
mod generate_options;
mod generation;
mod generator;
mod logits_processor;
mod logprobs;
mod options;
mod prompts;
mod sampler;
mod scores;
mod sequence;
mod speculative;
mod stop;
mod text_stream;
mod tool_calls;

pub use batch::BatchGenerator;
pub use constraint::{Constraint, Grammar};
pub use detokenizer::Detokenizer;
pub use generate_options::GenerateOptions;
pub use generation::{Chunk, FinishReason, Generation, TokenLogprob};
pub use generator::Generator;
pub use logits_processor::LogitsProcessor;
pub use options::SamplingOptions;
pub use sampler::Sampler;
pub use scores::{Perplexity, Pooling};
pub use tool_calls::{Piece, ToolCall, ToolCallParser};
