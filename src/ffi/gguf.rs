//! Models as GGUF files.

use super::error::{MCANDLE_INVALID_ARGUMENT, mcandle_error, mcandle_status};
use super::handle::{self, Result, borrow};
use super::model::mcandle_model;
use super::panic::guard;
use crate::checkpoint::GgufType;
use std::ffi::c_char;

/// The number format of the weights in a GGUF file: one of the MCANDLE_GGUF_ constants.
///
/// Norms and biases are 32-bit floats in each of them. With formats of fewer bits than 8 the output
/// head has 6. Rows whose length is no multiple of 256 fall back from Q6_K to Q8_0 and from Q4_K to
/// Q5_0, and those whose length is no multiple of 32 to 16-bit floats.
pub type mcandle_gguf_type = i32;

/// 16-bit floats of IEEE 754.
pub const MCANDLE_GGUF_F16: mcandle_gguf_type = 0;
/// 16-bit brain floats.
pub const MCANDLE_GGUF_BF16: mcandle_gguf_type = 1;
/// 8.5 bits a weight; hardly to be told from 16 bits.
pub const MCANDLE_GGUF_Q8_0: mcandle_gguf_type = 2;
/// 6.6 bits a weight.
pub const MCANDLE_GGUF_Q6_K: mcandle_gguf_type = 3;
/// About 4.8 bits a weight, of the mix also called Q4_K_M; the usual choice where memory is scarce.
pub const MCANDLE_GGUF_Q4_K: mcandle_gguf_type = 4;
/// 4.5 bits a weight; the fastest on many CPUs, and the least accurate.
pub const MCANDLE_GGUF_Q4_0: mcandle_gguf_type = 5;

fn format(kind: mcandle_gguf_type) -> Result<GgufType> {
    match kind {
        MCANDLE_GGUF_F16 => Ok(GgufType::F16),
        MCANDLE_GGUF_BF16 => Ok(GgufType::Bf16),
        MCANDLE_GGUF_Q8_0 => Ok(GgufType::Q8_0),
        MCANDLE_GGUF_Q6_K => Ok(GgufType::Q6K),
        MCANDLE_GGUF_Q4_K => Ok(GgufType::Q4K),
        MCANDLE_GGUF_Q4_0 => Ok(GgufType::Q4_0),
        other => Err(mcandle_error::new(
            MCANDLE_INVALID_ARGUMENT,
            format!("`gguf_type` is {other}; expected one of the MCANDLE_GGUF_ constants"),
        )),
    }
}

/// Saves a model as a GGUF file, which llama.cpp and the programs built on it run: the weights, the
/// configuration, the tokenizer and the chat template.
///
/// The file appears whole or not at all; where it exists, it is replaced.
///
/// @param[in] model The model; one that mcandle_model_merge() made has its adapter in the weights.
/// @param[in] path The file, NUL-terminated UTF-8.
/// @param[in] gguf_type One of the MCANDLE_GGUF_ constants.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_TOKENIZER where the model has no tokenizer, MCANDLE_UNSUPPORTED
/// where llama.cpp has no counterpart of the tokenizer or of a setting of the model, MCANDLE_IO,
/// MCANDLE_INVALID_FORMAT where the path is a directory, MCANDLE_BACKEND, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_save_gguf(
    model: *const mcandle_model,
    path: *const c_char,
    gguf_type: mcandle_gguf_type,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and a NUL-terminated path, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let path = handle::path(path, "path")?;
            model.inner.save_gguf(path, format(gguf_type)?)?;
            Ok(())
        })
    }
}
