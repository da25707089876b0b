//! LoRA adapters.

use super::error::{MCANDLE_INVALID_ARGUMENT, mcandle_error, mcandle_status};
use super::handle::{self, Out, Result, borrow};
use super::model::mcandle_model;
use super::panic::guard;
use crate::checkpoint::AdapterFormat;
use crate::models::LoRAAdapter;
use std::ffi::c_char;

/// The format of an adapter's directory: one of the MCANDLE_ADAPTER_FORMAT_ constants.
pub type mcandle_adapter_format = i32;

/// That of Hugging Face's PEFT: adapter_config.json and adapter_model.safetensors.
pub const MCANDLE_ADAPTER_FORMAT_PEFT: mcandle_adapter_format = 0;
/// That of mlx-lm: adapter_config.json and adapters.safetensors.
pub const MCANDLE_ADAPTER_FORMAT_MLX: mcandle_adapter_format = 1;

fn format_of(format: mcandle_adapter_format) -> Result<AdapterFormat> {
    match format {
        MCANDLE_ADAPTER_FORMAT_PEFT => Ok(AdapterFormat::Peft),
        MCANDLE_ADAPTER_FORMAT_MLX => Ok(AdapterFormat::Mlx),
        other => Err(mcandle_error::new(
            MCANDLE_INVALID_ARGUMENT,
            format!("`format` is {other}; expected one of the MCANDLE_ADAPTER_FORMAT_ constants"),
        )),
    }
}

/// A LoRA adapter: low-rank changes to the weights of one model. It is never written, so any number
/// of generators, on any threads, can use one at the same time.
#[derive(Debug)]
pub struct mcandle_adapter {
    pub(super) inner: LoRAAdapter,
}

/// Loads an adapter that Hugging Face's PEFT, mlx-lm or this library saved. The files that are there
/// tell the format.
///
/// @param[in] path The directory, NUL-terminated UTF-8.
/// @param[in] model The model that the adapter is for; it need not outlive the adapter.
/// @param[out] adapter Receives the adapter on success, to be freed with mcandle_adapter_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NOT_FOUND, MCANDLE_IO, MCANDLE_INVALID_FORMAT,
/// MCANDLE_UNSUPPORTED for other kinds of adapters, MCANDLE_INCOMPATIBLE where it does not fit the
/// model, MCANDLE_BACKEND, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_load(
    path: *const c_char,
    model: *const mcandle_model,
    adapter: *mut *mut mcandle_adapter,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a NUL-terminated path, a live model and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let path = handle::path(path, "path")?;
            let model = borrow(model, "model")?;
            let out = Out::new(adapter, "adapter")?;
            out.give(mcandle_adapter {
                inner: LoRAAdapter::load(path, &model.inner)?,
            });
            Ok(())
        })
    }
}

/// Saves an adapter in the format of Hugging Face's PEFT.
///
/// @param[in] adapter The adapter.
/// @param[in] path The directory, NUL-terminated UTF-8; it is made where it does not exist.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_IO, MCANDLE_INVALID_FORMAT where the path names no directory,
/// MCANDLE_BACKEND, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_save(
    adapter: *const mcandle_adapter,
    path: *const c_char,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live adapter and a NUL-terminated path, or NULL.
    unsafe {
        guard(error, || {
            let adapter = borrow(adapter, "adapter")?;
            let path = handle::path(path, "path")?;
            adapter.inner.save(path)?;
            Ok(())
        })
    }
}

/// Saves an adapter in the given format, in the place of an adapter that is there in either format.
/// So adapters are converted: load one, and save it in the other format.
///
/// @param[in] adapter The adapter.
/// @param[in] path The directory, NUL-terminated UTF-8; it is made where it does not exist.
/// @param[in] format One of the MCANDLE_ADAPTER_FORMAT_ constants. mcandle_adapter_save() takes
/// MCANDLE_ADAPTER_FORMAT_PEFT.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_IO, MCANDLE_INVALID_FORMAT where the path names no directory,
/// MCANDLE_BACKEND, and those of bad arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_save_as(
    adapter: *const mcandle_adapter,
    path: *const c_char,
    format: mcandle_adapter_format,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes a live adapter and a NUL-terminated path, or NULL.
    unsafe {
        guard(error, || {
            let adapter = borrow(adapter, "adapter")?;
            let path = handle::path(path, "path")?;
            adapter.inner.save_as(path, format_of(format)?)?;
            Ok(())
        })
    }
}

/// Gives the number of parameters of an adapter.
///
/// @param[in] adapter The adapter, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_parameter_count(adapter: *const mcandle_adapter) -> u64 {
    // SAFETY: the caller passes NULL or a live adapter.
    unsafe { adapter.as_ref() }.map_or(0, |adapter| adapter.inner.parameter_count() as u64)
}

/// Gives the rank of an adapter.
///
/// @param[in] adapter The adapter, or NULL.
/// @return The rank; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_rank(adapter: *const mcandle_adapter) -> usize {
    // SAFETY: the caller passes NULL or a live adapter.
    unsafe { adapter.as_ref() }.map_or(0, |adapter| adapter.inner.config().rank)
}

/// Frees an adapter. Generators that use it keep what they need.
///
/// @param[in] adapter The adapter; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_free(adapter: *mut mcandle_adapter) {
    // SAFETY: the caller passes NULL or an adapter that it owns.
    unsafe { handle::free(adapter) }
}
