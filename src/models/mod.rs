//! What a model is: configuration, weights, tokenizer, and the decoder they make.

pub(crate) mod adapter;
mod adapter_mix;
mod chat_template;
mod config;
pub(crate) mod decoder;
mod fim;
pub(crate) mod fingerprint;
pub(crate) mod full_weights;
mod generation_config;
mod grammar_vocabulary;
pub(crate) mod json;
mod kv_cache;
mod loader;
mod lora_config;
mod model;
mod projection;
mod quantization;
mod rope;
mod rope_scaling;
mod safetensors;
mod shard_index;
mod tensor_spec;
#[cfg(test)]
pub(crate) mod testing;
mod tokenizer;
pub(crate) mod trained_weights;

pub use adapter::LoRAAdapter;
pub use adapter_mix::AdapterMix;
pub use chat_template::{ChatOptions, ChatTemplate};
pub use config::{Architecture, ModelConfig};
pub use decoder::Decoder;
pub use fim::FimContext;
pub use fingerprint::Fingerprint;
pub use generation_config::GenerationConfig;
pub use grammar_vocabulary::GrammarVocabulary;
pub use kv_cache::{KvCache, KvCacheType};
pub use loader::ModelLoader;
pub use lora_config::{LayerSelection, LoRAConfig, LoRAScale, LoRATargets};
pub use model::{Model, ModelSummary};
pub use projection::Projection;
pub use quantization::Quantization;
pub use rope_scaling::RopeScaling;
pub use safetensors::SafetensorsCheckpoint;
pub use tensor_spec::TensorSpec;
pub use tokenizer::Tokenizer;
