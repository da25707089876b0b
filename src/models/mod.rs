//! What a model is: configuration, weights, tokenizer, and the decoder they make.

pub(crate) mod adapter;
mod adapter_mix;
mod adapters;
mod chat_template;
mod config;
pub(crate) mod decoder;
mod fim;
pub(crate) mod fingerprint;
mod format;
pub(crate) mod full_weights;
mod generation_config;
pub(crate) mod gguf;
mod grammar_vocabulary;
pub(crate) mod json;
mod kv_cache;
mod loader;
mod lora_config;
mod model;
mod model_info;
mod projection;
pub(crate) mod pytorch;
mod quantization;
pub(crate) mod rope;
mod rope_scaling;
pub(crate) mod safetensors;
pub(crate) mod shard_index;
mod tensor_files;
mod tensor_spec;
#[cfg(test)]
pub(crate) mod testing;
mod tokenizer;
pub(crate) mod trained_weights;
mod weight_source;

pub use adapter::LoRAAdapter;
pub use adapter_mix::AdapterMix;
pub use adapters::{AdapterInfo, Adapters};
pub use chat_template::{ChatOptions, ChatTemplate};
pub use config::{Architecture, ModelConfig};
pub use decoder::Decoder;
pub use fim::FimContext;
pub use fingerprint::Fingerprint;
pub use format::{
    GgufFormat, MlxFormat, ModelFormat, ModelText, PytorchFormat, SafetensorsFormat, StoredModel,
};
pub use generation_config::GenerationConfig;
pub use gguf::{GgmlType, GgufCheckpoint};
pub use grammar_vocabulary::GrammarVocabulary;
pub use kv_cache::{KvCache, KvCacheType};
pub use loader::{LoadProgress, ModelLoader};
pub use lora_config::{LayerSelection, LoRAConfig, LoRAScale, LoRATargets};
pub use model::{Model, ModelSummary};
pub use model_info::{ModelInfo, StoredNumbers};
pub use projection::Projection;
pub use quantization::Quantization;
pub use rope_scaling::RopeScaling;
pub use safetensors::SafetensorsCheckpoint;
pub use tensor_spec::TensorSpec;
pub use tokenizer::Tokenizer;
pub use weight_source::{StoredTensor, WeightSource};
