//! The C API: `include/metal_candle.h` is generated from this module.
//!
//! It is thin: every function checks its arguments, converts them, calls the Rust API inside one
//! panic guard and converts the result. Comments here become the comments of the header, so they
//! speak to C programmers.

#![allow(unsafe_code, reason = "a C API takes and gives pointers")]
#![allow(non_camel_case_types, reason = "the types are named as C names them")]
#![allow(
    clippy::doc_link_with_quotes,
    clippy::doc_markdown,
    reason = "comments of the header are Doxygen, not Markdown"
)]
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract of each function is written in the words of the header"
)]
#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "`@param[out]` is Doxygen, not a link"
)]

mod adapter;
mod adapters;
mod batch;
mod batch_results;
#[cfg(all(test, not(miri)))]
mod callback_panics;
mod chat;
mod device;
mod error;
mod exclusive;
mod fim;
mod floats;
mod generate_async;
mod generate_options;
mod generation;
mod generator;
mod gguf;
mod grammar;
mod handle;
mod hidden;
mod log;
mod logits_processor;
mod memory;
mod model;
mod model_info;
mod model_options;
mod panic;
#[cfg(test)]
mod pointer_tests;
mod prompt;
mod prompts;
mod sampling_options;
mod scores;
mod string;
mod task;
mod thread_count;
mod thread_safety;
mod tokenizer;
mod tool_calls;
#[cfg(feature = "training")]
mod training;
mod user_data;
mod version;

pub use adapter::*;
pub use adapters::*;
pub use batch::*;
pub use batch_results::*;
pub use chat::*;
pub use device::*;
pub use error::*;
pub use fim::*;
pub use floats::*;
pub use generate_async::*;
pub use generate_options::*;
pub use generation::*;
pub use generator::*;
pub use gguf::*;
pub use grammar::*;
pub use log::*;
pub use logits_processor::*;
pub use memory::*;
pub use model::*;
pub use model_info::*;
pub use model_options::*;
pub use prompts::*;
pub use sampling_options::*;
pub use scores::*;
pub use string::*;
pub use thread_count::*;
pub use tokenizer::*;
pub use tool_calls::*;
#[cfg(feature = "training")]
pub use training::*;
pub use user_data::*;
pub use version::*;
