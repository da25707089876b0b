//! How models are loaded.

use super::device::{device_kind, dtype_policy, mcandle_device, mcandle_dtype};
use super::handle::{self, Result};
use super::user_data::UserPointer;
use crate::models::{ModelLoader, Quantization};
use std::ffi::c_void;
use std::ops::ControlFlow;

/// How a model is loaded.
#[derive(Debug)]
pub struct mcandle_model_options {
    device: mcandle_device,
    dtype: mcandle_dtype,
    quantization: Option<Quantization>,
    memory_budget: u64,
    progress: Option<(Report, UserPointer)>,
}

type Report = unsafe extern "C-unwind" fn(u64, u64, *mut c_void) -> bool;

/// Hears how far a model is loaded, on the thread that loads it: before each tensor is read, and at the
/// end.
///
/// @param[in] loaded_bytes The bytes of the weights that were read.
/// @param[in] total_bytes All bytes of the weights.
/// @param[in] user_data As it was given with the callback.
/// @return True to go on, false to end the loading with MCANDLE_CANCELLED.
pub type mcandle_load_callback = Option<
    unsafe extern "C-unwind" fn(
        loaded_bytes: u64,
        total_bytes: u64,
        user_data: *mut c_void,
    ) -> bool,
>;

impl mcandle_model_options {
    /// A loader with these options.
    ///
    /// # Safety
    ///
    /// The callback may be called with its user data while the loader lives, on the thread that loads.
    pub(super) unsafe fn loader(&self) -> Result<ModelLoader> {
        let loader = ModelLoader::new()
            .with_device(device_kind(self.device)?)
            .with_dtype(dtype_policy(self.dtype)?)
            .with_quantization(self.quantization)
            .with_memory_budget((self.memory_budget != 0).then_some(self.memory_budget));
        let Some((report, user_data)) = self.progress else {
            return Ok(loader);
        };
        Ok(loader.with_progress(move |progress| {
            let (done, total) = (progress.loaded_bytes as u64, progress.bytes as u64);
            // SAFETY: as the caller promises.
            if unsafe { report(done, total, user_data.get()) } {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        }))
    }
}

/// Makes options with the defaults: device and number format chosen automatically, weights as they are
/// stored.
///
/// @return Options, to be freed with mcandle_model_options_free().
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_model_options_new() -> *mut mcandle_model_options {
    Box::into_raw(Box::new(mcandle_model_options {
        device: super::MCANDLE_DEVICE_AUTO,
        dtype: super::MCANDLE_DTYPE_AUTO,
        quantization: None,
        memory_budget: 0,
        progress: None,
    }))
}

/// Sets the device. A number that is no device is reported by mcandle_model_load().
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] device One of the MCANDLE_DEVICE_ constants. Default MCANDLE_DEVICE_AUTO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_options_set_device(
    options: *mut mcandle_model_options,
    device: mcandle_device,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.device = device;
    }
}

/// Sets the number format. A number that is no format is reported by mcandle_model_load().
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] dtype One of the MCANDLE_DTYPE_ constants. Default MCANDLE_DTYPE_AUTO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_options_set_dtype(
    options: *mut mcandle_model_options,
    dtype: mcandle_dtype,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.dtype = dtype;
    }
}

/// Keeps the weights of the linear maps in fewer bits: in groups that share a scale and a bias, as MLX
/// does. Weights that are stored in fewer bits stay as they are.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] bits The bits of a weight, 4 or 8; 0 keeps weights as they are stored, which is the
/// default. Other numbers are reported by mcandle_model_load().
/// @param[in] group_size The weights that share a scale: 32, 64 or 128. Without use where bits is
/// 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_options_set_quantization(
    options: *mut mcandle_model_options,
    bits: usize,
    group_size: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.quantization = (bits != 0).then_some(Quantization { bits, group_size });
    }
}

/// Sets the most memory that the weights of a model may take; a model that takes more is refused
/// with MCANDLE_OUT_OF_MEMORY before any of its weights is read.
///
/// The weights count as they end up on the device, widened or quantised. Beside them, memory is
/// needed for the largest tensor while the model is loaded, and for keys and values when it is
/// used, of which mcandle_generate_options_set_max_kv_bytes() sets a limit.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] bytes The bytes, or 0 for no limit. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_options_set_memory_budget(
    options: *mut mcandle_model_options,
    bytes: u64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.memory_budget = bytes;
    }
}

/// Lets a callback hear how far a model is loaded, and end the loading.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] callback The callback, or NULL for none, which is the default.
/// @param[in] user_data Given to the callback as it is; it must stay valid while a model is loaded
/// with these options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_options_set_progress(
    options: *mut mcandle_model_options,
    callback: mcandle_load_callback,
    user_data: *mut c_void,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.progress = callback.map(|callback| (callback, UserPointer::new(user_data)));
    }
}

/// Frees options.
///
/// @param[in] options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_model_options_free(options: *mut mcandle_model_options) {
    // SAFETY: the caller passes NULL or options that it owns.
    unsafe { handle::free(options) }
}
