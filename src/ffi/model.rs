//! Models.

use super::adapter::mcandle_adapter;
use super::device::{device_of, dtype_of, mcandle_device, mcandle_dtype};
use super::error::{mcandle_error, mcandle_status};
use super::handle::{self, Out, Result, borrow};
use super::model_options::mcandle_model_options;
use super::panic::guard;
use super::string::mcandle_string;
use super::task::{self, Completion};
use super::tokenizer::mcandle_tokenizer;
use crate::models::{Model, ModelLoader};
use std::ffi::{c_char, c_void};

/// A loaded model.
///
/// Its weights are never written: any number of generators and trainers, on any threads, can use one
/// model at the same time. They keep what they need of it, so it may be freed before them.
#[derive(Debug)]
pub struct mcandle_model {
    pub(super) inner: Model,
}

/// Loads a model from a directory, which has config.json, tokenizer.json, and the weights in
/// safetensors, as MLX quantised them, or in PyTorch's own files, or from a GGUF file. The format
/// is found by looking at the files.
///
/// @param[in] path The directory or file, NUL-terminated UTF-8.
/// @param[in] options Options, or NULL for the defaults.
/// @param[out] model Receives the model on success, to be freed with mcandle_model_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NOT_FOUND, MCANDLE_IO, MCANDLE_INVALID_FORMAT,
/// MCANDLE_UNSUPPORTED, MCANDLE_TOKENIZER, MCANDLE_DEVICE, MCANDLE_BACKEND, MCANDLE_OUT_OF_MEMORY
/// where the weights exceed the memory budget of the options, MCANDLE_CANCELLED where the callback
/// of the options ended it, MCANDLE_INVALID_ARGUMENT also where a quantisation does not fit the
/// model, and those of bad arguments.
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
            let loader = loader(options)?;
            out.give(mcandle_model {
                inner: loader.load(path)?,
            });
            Ok(())
        })
    }
}

/// Receives what became of a load, once, on the thread of the library that loaded.
///
/// @param[in] model The model, which then belongs to the function, to be freed with
/// mcandle_model_free(); NULL where it failed.
/// @param[in] error Why it failed, which then belongs to the function, to be freed with
/// mcandle_error_free(); NULL where it did not fail.
/// @param[in] user_data As it was given with the completion.
pub type mcandle_model_completion = Option<
    unsafe extern "C-unwind" fn(
        model: *mut mcandle_model,
        error: *mut mcandle_error,
        user_data: *mut c_void,
    ),
>;

/// Loads a model as mcandle_model_load() does, on a thread of the library, and returns at once.
///
/// The callback of the options, which hears how far the model is loaded and may end the loading, is
/// called on that thread too. A program that has threads of its own can as well call
/// mcandle_model_load() on one of them.
///
/// @param[in] path The directory or file, NUL-terminated UTF-8; it is copied.
/// @param[in] options Options, or NULL for the defaults; they are copied.
/// @param[in] completion Receives the model or an error, exactly once where the call succeeds, and
/// not where it fails.
/// @param[in] user_data Given to the completion as it is; it must stay valid until the completion
/// returns, and so must that of the options' callback.
/// @param[out] error Receives an error where nothing was started; may be NULL.
/// @return MCANDLE_OK where it was started, or MCANDLE_INVALID_UTF8, MCANDLE_INVALID_ARGUMENT,
/// MCANDLE_OUT_OF_MEMORY where there is no room for a thread, MCANDLE_NULL_POINTER. What else
/// mcandle_model_load() returns is the status of the error that the completion receives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_load_async(
    path: *const c_char,
    options: *const mcandle_model_options,
    completion: mcandle_model_completion,
    user_data: *mut c_void,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a NUL-terminated path, NULL or live options, a writable output, and
    // callbacks that may be called on another thread.
    unsafe {
        guard(error, || {
            let path = handle::path(path, "path")?.to_owned();
            let loader = loader(options)?;
            task::start(Completion::new(completion, user_data)?, move || {
                Ok(mcandle_model {
                    inner: loader.load(path)?,
                })
            })
        })
    }
}

/// # Safety
///
/// `options` is NULL or live, and their callback may be called on the thread that loads.
unsafe fn loader(options: *const mcandle_model_options) -> Result<ModelLoader> {
    // SAFETY: as the caller promises.
    unsafe {
        match options.as_ref() {
            Some(options) => options.loader(),
            None => Ok(ModelLoader::new()),
        }
    }
}

/// Lets a model read a few tokens and forget them, so that the first real one comes as fast as the
/// others: on a GPU, kernels are compiled when they are first used. What is computed later does not
/// change.
///
/// @param[in] model The model.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_BACKEND, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_warm_up(
    model: *const mcandle_model,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live model and a writable output, or NULL.
    unsafe { guard(error, || Ok(borrow(model, "model")?.inner.warm_up()?)) }
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
