//! LoRA adapters.

use super::error::{mcandle_error, mcandle_status};
use super::handle::{self, Out, borrow};
use super::model::mcandle_model;
use super::panic::guard;
use crate::models::LoRAAdapter;
use std::ffi::c_char;

/// A LoRA adapter: low-rank changes to the weights of one model. It is never written, so any number
/// of generators, on any threads, can use one at the same time.
#[derive(Debug)]
pub struct mcandle_adapter {
    pub(super) inner: LoRAAdapter,
}

/// Loads an adapter in the format of Hugging Face's PEFT: adapter_config.json and
/// adapter_model.safetensors.
///
/// @param path The directory, NUL-terminated UTF-8.
/// @param model The model that the adapter is for; it need not outlive the adapter.
/// @param[out] adapter Receives the adapter on success, to be freed with mcandle_adapter_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_NOT_FOUND, MCANDLE_INVALID_FORMAT, MCANDLE_UNSUPPORTED,
/// MCANDLE_INCOMPATIBLE, and those of bad arguments.
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
/// @param adapter The adapter.
/// @param path The directory, NUL-terminated UTF-8; it is made where it does not exist.
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_IO, and those of bad arguments.
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

/// Gives the number of parameters of an adapter.
///
/// @param adapter The adapter, or NULL.
/// @return The number; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_parameter_count(adapter: *const mcandle_adapter) -> u64 {
    // SAFETY: the caller passes NULL or a live adapter.
    unsafe { adapter.as_ref() }.map_or(0, |adapter| adapter.inner.parameter_count() as u64)
}

/// Gives the rank of an adapter.
///
/// @param adapter The adapter, or NULL.
/// @return The rank; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_rank(adapter: *const mcandle_adapter) -> usize {
    // SAFETY: the caller passes NULL or a live adapter.
    unsafe { adapter.as_ref() }.map_or(0, |adapter| adapter.inner.config().rank)
}

/// Frees an adapter. Generators that use it keep what they need.
///
/// @param adapter The adapter; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_adapter_free(adapter: *mut mcandle_adapter) {
    // SAFETY: the caller passes NULL or an adapter that it owns.
    unsafe { handle::free(adapter) }
}
