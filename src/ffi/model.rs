//! Models.

use super::adapter::mcandle_adapter;
use super::device::{device_of, dtype_of, mcandle_device, mcandle_dtype};
use super::error::{mcandle_error, mcandle_status};
use super::handle::{self, Out, borrow};
use super::model_options::mcandle_model_options;
use super::panic::guard;
use super::string::mcandle_string;
use super::tokenizer::mcandle_tokenizer;
use crate::models::{Model, ModelLoader};
use std::ffi::c_char;

/// A loaded model.
///
/// Its weights are never written: any number of generators and trainers, on any threads, can use one
/// model at the same time. They keep what they need of it, so it may be freed before them.
#[derive(Debug)]
pub struct mcandle_model {
    pub(super) inner: Model,
}

/// Loads a model from a directory, which has config.json, tokenizer.json, and the weights in safetensors,
/// as MLX quantised them, or in PyTorch's own files, or from a GGUF file. The format is found by looking
/// at the files.
///
/// @param[in] path The directory or file, NUL-terminated UTF-8.
/// @param[in] options Options, or NULL for the defaults.
/// @param[out] model Receives the model on success, to be freed with mcandle_model_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NOT_FOUND, MCANDLE_IO, MCANDLE_INVALID_FORMAT,
/// MCANDLE_UNSUPPORTED, MCANDLE_TOKENIZER, MCANDLE_DEVICE, MCANDLE_BACKEND, MCANDLE_CANCELLED where
/// the callback of the options ended it, MCANDLE_INVALID_ARGUMENT also where a quantisation does not
/// fit the model, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_load(
    path: *const c_char,
    options: *const mcandle_model_options,
    model: *mut *mut mcandle_model,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a NUL-terminated path, NULL or live options, and writable outputs.
    unsafe {
        guard(error, || {
            let path = handle::path(path, "path")?;
            let out = Out::new(model, "model")?;
            let loader = match options.as_ref() {
                Some(options) => options.loader()?,
                None => ModelLoader::new(),
            };
            out.give(mcandle_model {
                inner: loader.load(path)?,
            });
            Ok(())
        })
    }
}

/// Frees a model. Generators, trainers and tokenizers made from it stay usable.
///
/// @param[in] model The model; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_free(model: *mut mcandle_model) {
    // SAFETY: the caller passes NULL or a model that it owns.
    unsafe { handle::free(model) }
}

/// Saves a model to a directory that this library and Hugging Face's transformers load: the weights in
/// the model's number format, in shards where they have more than 5 GB, its configuration, and the
/// files of its tokenizer.
///
/// The directory appears whole or not at all. Where it exists, the model in it is replaced and files
/// that are no part of a model stay; it may be the one that the model was loaded from.
///
/// @param[in] model The model; one that mcandle_model_merge() made has its adapter in the weights.
/// @param[in] path The directory, NUL-terminated UTF-8.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_IO, MCANDLE_INVALID_FORMAT where the path is that of a file,
/// MCANDLE_BACKEND, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_save(
    model: *const mcandle_model,
    path: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and a NUL-terminated path, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let path = handle::path(path, "path")?;
            model.inner.save(path)?;
            Ok(())
        })
    }
}

/// Makes a model with an adapter's change added to its weights. It generates what the model with the
/// adapter does, at the speed of a plain model.
///
/// @param[in] model The model, which stays as it is; both share the weights that are not changed.
/// @param[in] adapter An adapter for the model.
/// @param[out] merged Receives the new model on success, to be freed with mcandle_model_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where the adapter is for another model,
/// MCANDLE_BACKEND, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_merge(
    model: *const mcandle_model,
    adapter: *const mcandle_adapter,
    merged: *mut *mut mcandle_model,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live objects and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let adapter = borrow(adapter, "adapter")?;
            let out = Out::new(merged, "merged")?;
            out.give(mcandle_model {
                inner: model.inner.merge(&adapter.inner)?,
            });
            Ok(())
        })
    }
}

/// Describes a model in one line: architecture, size, vocabulary, context, number format, device.
///
/// @param[in] model The model.
/// @param[out] summary Receives the text on success, to be freed with mcandle_string_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_summary(
    model: *const mcandle_model,
    summary: *mut *mut mcandle_string,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let out = Out::new(summary, "summary")?;
            out.give(mcandle_string::new(&model.inner.summary().to_string()));
            Ok(())
        })
    }
}

/// Gives the number of parameters of a model; a tied embedding counts once.
///
/// @param[in] model The model, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_parameter_count(model: *const mcandle_model) -> u64 {
    // SAFETY: the caller passes NULL or a live model.
    unsafe { model.as_ref() }.map_or(0, |model| model.inner.parameter_count() as u64)
}

/// Gives the most tokens that prompt and generated text can have together.
///
/// @param[in] model The model, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_context_length(model: *const mcandle_model) -> usize {
    // SAFETY: the caller passes NULL or a live model.
    unsafe { model.as_ref() }.map_or(0, |model| model.inner.config().max_position_embeddings)
}

/// Gives the number of token ids that the model knows.
///
/// @param[in] model The model, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_vocab_size(model: *const mcandle_model) -> usize {
    // SAFETY: the caller passes NULL or a live model.
    unsafe { model.as_ref() }.map_or(0, |model| model.inner.config().vocab_size)
}

/// Tells whether weights of a model are kept in fewer bits than those of a float, because they are
/// stored so or were quantised at load.
///
/// @param[in] model The model, or NULL.
/// @return Whether they are; false for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_is_quantized(model: *const mcandle_model) -> bool {
    // SAFETY: the caller passes NULL or a live model.
    unsafe { model.as_ref() }.is_some_and(|model| model.inner.is_quantized())
}

/// Gives the device that a model was loaded to.
///
/// @param[in] model The model, or NULL.
/// @return One of the MCANDLE_DEVICE_ constants; MCANDLE_DEVICE_AUTO for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_device(model: *const mcandle_model) -> mcandle_device {
    // SAFETY: the caller passes NULL or a live model.
    unsafe { model.as_ref() }.map_or(super::MCANDLE_DEVICE_AUTO, |model| {
        device_of(model.inner.device())
    })
}

/// Gives the number format that a model computes in.
///
/// @param[in] model The model, or NULL.
/// @return One of the MCANDLE_DTYPE_ constants; MCANDLE_DTYPE_AUTO for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_dtype(model: *const mcandle_model) -> mcandle_dtype {
    // SAFETY: the caller passes NULL or a live model.
    unsafe { model.as_ref() }.map_or(super::MCANDLE_DTYPE_AUTO, |model| {
        dtype_of(model.inner.dtype())
    })
}

/// Gives the tokenizer of a model.
///
/// @param[in] model The model.
/// @param[out] tokenizer Receives the tokenizer on success, to be freed with
/// mcandle_tokenizer_free(); it may outlive the model.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, MCANDLE_TOKENIZER where the model has none, or MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_tokenizer(
    model: *const mcandle_model,
    tokenizer: *mut *mut mcandle_tokenizer,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let model = borrow(model, "model")?;
            let out = Out::new(tokenizer, "tokenizer")?;
            out.give(mcandle_tokenizer::new(&model.inner)?);
            Ok(())
        })
    }
}
