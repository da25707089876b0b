//! What stored models are.

use super::device::mcandle_dtype;
use super::error::{MCANDLE_INVALID_ARGUMENT, mcandle_error, mcandle_status};
use super::generator::{cache_type_of, mcandle_cache_type};
use super::handle::{self, Out, borrow};
use super::panic::guard;
use super::string::mcandle_string;
use super::{MCANDLE_DTYPE_BF16, MCANDLE_DTYPE_F16, MCANDLE_DTYPE_F32};
use crate::models::{ModelInfo, ModelLoader};
use candle_core::DType;
use std::ffi::c_char;

/// What a stored model is, found by its headers without loading its weights.
#[derive(Debug)]
pub struct mcandle_model_info {
    info: ModelInfo,
    format: mcandle_string,
    architecture: mcandle_string,
    quantization: Option<mcandle_string>,
}

/// Finds out what a stored model is, without loading its weights.
///
/// @param[in] path The model, as mcandle_model_load() takes it, NUL-terminated UTF-8.
/// @param[out] info Receives what was found on success, to be freed with mcandle_model_info_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NOT_FOUND, MCANDLE_INVALID_FORMAT,
/// MCANDLE_UNSUPPORTED, MCANDLE_IO and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_inspect(
    path: *const c_char,
    info: *mut *mut mcandle_model_info,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a NUL-terminated path and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let path = handle::path(path, "path")?;
            let out = Out::new(info, "info")?;
            let info = ModelLoader::new().inspect(path)?;
            out.give(mcandle_model_info {
                format: mcandle_string::new(info.format),
                architecture: mcandle_string::new(info.architecture().model_type()),
                quantization: info.quantization().map(mcandle_string::new),
                info,
            });
            Ok(())
        })
    }
}

/// Frees what was found out about a model.
///
/// @param[in] info The object; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_info_free(info: *mut mcandle_model_info) {
    // SAFETY: the caller passes NULL or an object that it owns.
    unsafe { handle::free(info) }
}

/// Gives the format in which a model is stored, such as "safetensors", "mlx", "gguf" or "pytorch".
///
/// @param[in] info What was found out, or NULL.
/// @return A NUL-terminated text that lives as long as the object; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_info_format(
    info: *const mcandle_model_info,
) -> *const c_char {
    // SAFETY: the caller passes NULL or a live object.
    unsafe { info.as_ref() }.map_or(c"".as_ptr(), |info| info.format.as_ptr())
}

/// Gives the family of a model, such as "qwen2" or "llama".
///
/// @param[in] info What was found out, or NULL.
/// @return A NUL-terminated text that lives as long as the object; empty for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_info_architecture(
    info: *const mcandle_model_info,
) -> *const c_char {
    // SAFETY: the caller passes NULL or a live object.
    unsafe { info.as_ref() }.map_or(c"".as_ptr(), |info| info.architecture.as_ptr())
}

/// Gives the encoding of most of the weights that stay quantised, such as "Q4_K".
///
/// @param[in] info What was found out, or NULL.
/// @return A NUL-terminated text that lives as long as the object; NULL where no weight is quantised,
/// and for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_info_quantization(
    info: *const mcandle_model_info,
) -> *const c_char {
    // SAFETY: the caller passes NULL or a live object.
    let quantization = unsafe { info.as_ref() }.and_then(|info| info.quantization.as_ref());
    quantization.map_or(std::ptr::null(), mcandle_string::as_ptr)
}

/// Gives the number of parameters; a tied embedding counts once.
///
/// @param[in] info What was found out, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_info_parameter_count(
    info: *const mcandle_model_info,
) -> u64 {
    // SAFETY: the caller passes NULL or a live object.
    unsafe { info.as_ref() }.map_or(0, |info| info.info.parameter_count as u64)
}

/// Gives the most tokens that prompt and generated text can have together.
///
/// @param[in] info What was found out, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_info_context_length(
    info: *const mcandle_model_info,
) -> usize {
    // SAFETY: the caller passes NULL or a live object.
    unsafe { info.as_ref() }.map_or(0, |info| info.info.config.max_position_embeddings)
}

/// Gives the memory that the weights take in a number format, of which those that are stored quantised
/// are not.
///
/// @param[in] info What was found out.
/// @param[in] dtype One of the MCANDLE_DTYPE_ constants but MCANDLE_DTYPE_AUTO.
/// @param[out] bytes Receives the bytes on success.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_info_weights_size(
    info: *const mcandle_model_info,
    dtype: mcandle_dtype,
    bytes: *mut u64,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live object and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let info = borrow(info, "info")?;
            let out = handle::borrow_mut(bytes, "bytes")?;
            *out = info.info.weights_size_in_bytes(exact(dtype)?) as u64;
            Ok(())
        })
    }
}

/// Gives the memory that keys and values of a conversation take.
///
/// @param[in] info What was found out.
/// @param[in] tokens The tokens of the conversation.
/// @param[in] dtype The number format of the model, one of the MCANDLE_DTYPE_ constants but
/// MCANDLE_DTYPE_AUTO.
/// @param[in] cache_type One of the MCANDLE_CACHE_ constants.
/// @param[out] bytes Receives the bytes on success.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_info_cache_size(
    info: *const mcandle_model_info,
    tokens: usize,
    dtype: mcandle_dtype,
    cache_type: mcandle_cache_type,
    bytes: *mut u64,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live object and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let info = borrow(info, "info")?;
            let out = handle::borrow_mut(bytes, "bytes")?;
            let (dtype, cache_type) = (exact(dtype)?, cache_type_of(cache_type)?);
            *out = info.info.cache_size_in_bytes(tokens, dtype, cache_type) as u64;
            Ok(())
        })
    }
}

/// Gives all that was found out as a JSON object: "format", "architecture", "parameters", "layers",
/// "hidden_size", "vocab_size", "context_length", "quantization" (or null), "encodings" (tensors,
/// parameters and bytes by the name of each), and "memory" with the bytes of "weights" and of
/// "cache_per_1000_tokens" in each number format.
///
/// @param[in] info What was found out.
/// @param[out] json Receives the text on success, to be freed with mcandle_string_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_info_json(
    info: *const mcandle_model_info,
    json: *mut *mut mcandle_string,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live object and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let info = borrow(info, "info")?;
            let out = Out::new(json, "json")?;
            out.give(mcandle_string::new(&info.info.to_json().to_string()));
            Ok(())
        })
    }
}

/// A dtype that is no choice.
fn exact(dtype: mcandle_dtype) -> handle::Result<DType> {
    match dtype {
        MCANDLE_DTYPE_F32 => Ok(DType::F32),
        MCANDLE_DTYPE_F16 => Ok(DType::F16),
        MCANDLE_DTYPE_BF16 => Ok(DType::BF16),
        other => Err(mcandle_error::new(
            MCANDLE_INVALID_ARGUMENT,
            format!("`dtype` is {other}; expected MCANDLE_DTYPE_F32, _F16 or _BF16"),
        )),
    }
}
