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
mod chat;
mod device;
mod error;
mod fim;
mod floats;
mod generate_options;
mod generation;
mod generator;
mod gguf;
mod grammar;
mod handle;
mod hidden;
mod logits_processor;
mod model;
mod model_info;
mod model_options;
mod panic;
mod prompts;
mod sampling_options;
mod scores;
mod string;
mod tokenizer;
mod tool_calls;
<<<<<<< HEAD
#[cfg(feature = "training")]
mod training;
=======
mod train_event;
mod train_event_preference;
mod train_event_start;
mod train_method_options;
mod train_optimizer_options;
mod train_options;
mod train_output_options;
mod train_summary;
mod trainer;
mod version;
>>>>>>> 5e2ca8d (The functions of the header come in sections, errors that were not named are, and versions have a file of their own)

pub use adapter::*;
pub use adapters::*;
pub use batch::*;
pub use batch_results::*;
pub use chat::*;
pub use device::*;
pub use error::*;
pub use fim::*;
pub use floats::*;
pub use generate_options::*;
pub use generation::*;
pub use generator::*;
pub use gguf::*;
pub use grammar::*;
pub use logits_processor::*;
pub use model::*;
pub use model_info::*;
pub use model_options::*;
pub use prompts::*;
pub use sampling_options::*;
pub use scores::*;
pub use string::*;
pub use tokenizer::*;
pub use tool_calls::*;
<<<<<<< HEAD
#[cfg(feature = "training")]
pub use training::*;

use std::ffi::c_char;

/// Version of the binary interface that this header describes.
///
/// It changes with every incompatible change of the interface. A program that loads the library at
/// run time compares it with mcandle_abi_version().
pub const MCANDLE_ABI_VERSION: u32 = 1;

/// Gives the version of the binary interface of the loaded library.
///
/// @return MCANDLE_ABI_VERSION as it was when the library was built.
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_abi_version() -> u32 {
    MCANDLE_ABI_VERSION
}

/// Gives the version of the loaded library, such as "0.1.0".
///
/// @return A NUL-terminated string that lives as long as the library; not to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
=======
pub use train_event::*;
pub use train_event_preference::*;
pub use train_event_start::*;
pub use train_method_options::*;
pub use train_optimizer_options::*;
pub use train_options::*;
pub use train_output_options::*;
pub use train_summary::*;
pub use trainer::*;
pub use version::*;
>>>>>>> 5e2ca8d (The functions of the header come in sections, errors that were not named are, and versions have a file of their own)
