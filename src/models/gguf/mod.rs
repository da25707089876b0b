//! Models in GGUF files, as llama.cpp writes them: metadata, tokenizer and weights in one file.
//!
//! `file` is the container and knows no model, with `reader` and `metadata` below it and `split` beside
//! it; `config`, `tokenizer` and `names` say in the words of Hugging Face what a file has;
//! `checkpoint` is what the rest of the library sees.

mod checkpoint;
mod config;
mod file;
mod ggml_type;
mod metadata;
mod names;
mod reader;
mod rope;
mod split;
#[cfg(test)]
mod testing;
mod tokenizer;

pub use checkpoint::GgufCheckpoint;
pub(crate) use file::is_gguf;
pub use ggml_type::GgmlType;
pub(crate) use names::gguf_name;
pub(crate) use split::is_later_part;
