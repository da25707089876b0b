//! Options of a training run: its length, its batches, what is learned from a row. What is trained is in
//! `train_method_options.rs`, how weights change in `train_optimizer_options.rs`, what is checked and
//! written on the way in `train_output_options.rs`.

use super::train_method_options::MethodOptions;
use super::train_optimizer_options::OptimizerSettings;
use crate::ffi::error::{
    MCANDLE_INVALID_ARGUMENT, MCANDLE_INVALID_UTF8, mcandle_error, mcandle_status,
};
use crate::ffi::handle::{self, Out, Result, borrow};
use crate::ffi::panic::guard;
use crate::ffi::string::mcandle_string;
use crate::training::{Batching, LrSchedule, PreferenceLoss, TrainOptions};
use std::ffi::{CStr, CString, c_char};
use std::path::PathBuf;

/// How rows are put together to batches: one of the MCANDLE_BATCHING_ constants.
pub type mcandle_batching = i32;

/// They come as they are, each padded to the longest of its batch.
pub const MCANDLE_BATCHING_PLAIN: mcandle_batching = 0;
/// Rows of similar length come together, so that there is little to pad.
pub const MCANDLE_BATCHING_LENGTH_BUCKETS: mcandle_batching = 1;
/// Rows that have few tokens together make one of a batch's rows, and do not see each other. Nothing
/// is padded within it.
pub const MCANDLE_BATCHING_PACKED: mcandle_batching = 2;

/// How a model is fine-tuned.
#[derive(Debug)]
pub struct mcandle_train_options {
    /// Without what the other fields hold.
    pub(super) inner: TrainOptions,
    pub(super) method: MethodOptions,
    pub(super) optimizer: OptimizerSettings,
    pub(super) schedule: Chosen<LrSchedule>,
    batching: Chosen<Batching>,
    /// As given, in the place of that of `inner`; checked when the options are used.
    pub(super) output_dir: Option<CString>,
}

/// What a constant means, or the number where it is none; that is told when the options are used.
pub(super) type Chosen<T> = std::result::Result<T, i32>;

/// What a constant means, or an error that names the option and the prefix of its constants.
pub(super) fn chosen<T: Copy>(choice: &Chosen<T>, name: &str, prefix: &str) -> Result<T> {
    choice.map_err(|found| {
        let message = format!("`{name}` is {found}; expected a {prefix} constant");
        mcandle_error::new(MCANDLE_INVALID_ARGUMENT, message)
    })
}

impl mcandle_train_options {
    fn new(inner: TrainOptions) -> Self {
        Self {
            method: MethodOptions::new(&inner.method),
            optimizer: OptimizerSettings::new(inner.optimizer),
            schedule: Ok(inner.schedule),
            batching: Ok(inner.batching),
            output_dir: None,
            inner,
        }
    }

    fn resolve(&self) -> Result<TrainOptions> {
        let output_dir = match &self.output_dir {
            Some(directory) => Some(PathBuf::from(utf8(directory, "output_dir")?)),
            None => self.inner.output_dir.clone(),
        };
        Ok(TrainOptions {
            method: self.method.resolve()?,
            optimizer: self.optimizer.resolve()?,
            schedule: chosen(&self.schedule, "schedule", "MCANDLE_SCHEDULE_")?,
            batching: chosen(&self.batching, "batching", "MCANDLE_BATCHING_")?,
            output_dir,
            ..self.inner.clone()
        })
    }
}

/// The options given, or the defaults for NULL.
///
/// # Safety
///
/// `options` is NULL or live.
pub(super) unsafe fn resolve(options: *const mcandle_train_options) -> Result<TrainOptions> {
    // SAFETY: as the caller promises.
    match unsafe { options.as_ref() } {
        Some(options) => options.resolve(),
        None => Ok(TrainOptions::default()),
    }
}

/// A copy of a string, or none for NULL.
///
/// # Safety
///
/// `text` is NULL or NUL-terminated.
pub(super) unsafe fn copy(text: *const c_char) -> Option<CString> {
    // SAFETY: as the caller promises.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_owned())
}

pub(super) fn utf8<'a>(text: &'a CStr, name: &str) -> Result<&'a str> {
    text.to_str().map_err(|error| {
        mcandle_error::new(
            MCANDLE_INVALID_UTF8,
            format!("`{name}` is not UTF-8: {error}"),
        )
    })
}

/// Makes options with the defaults: 1000 steps of AdamW on a LoRA adapter.
///
/// @return Options, to be freed with mcandle_train_options_free().
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_train_options_new() -> *mut mcandle_train_options {
    let options = mcandle_train_options::new(TrainOptions::default());
    Box::into_raw(Box::new(options))
}

/// Makes options from JSON: an object whose keys are the names in the setters, such as
/// {"method": {"rank": 16, "num_layers": 8}, "epochs": 3, "optimizer": "muon", "schedule": "cosine"}.
///
/// What belongs to the adapter is under "method"; {"fine_tune_type": "full"} there trains the weights
/// themselves. An "optimizer", "schedule" or "preference" is a name, or an object with a "name" and
/// settings, such as {"name": "sgd", "momentum": 0.9} or {"name": "dpo", "beta": 0.2}; settings that
/// have no setter are given so. A "batching" is "plain", "length_buckets" or "packed". A key that is
/// left out has its default.
///
/// @param[in] json The JSON in UTF-8.
/// @param[in] json_length Its length in bytes.
/// @param[out] options Receives the options on success, to be freed with
/// mcandle_train_options_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT for what is not JSON, unknown keys and values of
/// another type, MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER. Values out of range are reported by the
/// call that uses the options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_from_json(
    json: *const c_char,
    json_length: usize,
    options: *mut *mut mcandle_train_options,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes readable text and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let json = handle::text(json, json_length, "json")?;
            let out = Out::new(options, "options")?;
            out.give(mcandle_train_options::new(TrainOptions::from_json(json)?));
            Ok(())
        })
    }
}

/// Writes options as JSON, from which mcandle_train_options_from_json() makes the same options.
///
/// @param[in] options The options.
/// @param[out] json Receives an object with all keys on success, to be freed with
/// mcandle_string_free().
/// @param[out] error Receives an error on failure; may be NULL.
/// @return MCANDLE_OK, or MCANDLE_INVALID_ARGUMENT where an option is out of its range,
/// MCANDLE_INVALID_UTF8, MCANDLE_NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_to_json(
    options: *const mcandle_train_options,
    json: *mut *mut mcandle_string,
    error: *mut *mut mcandle_error,
) -> mcandle_status {
    // SAFETY: the caller passes live options and writable outputs, or NULL.
    unsafe {
        guard(error, || {
            let options = borrow(options, "options")?.resolve()?;
            let out = Out::new(json, "json")?;
            // JSON has no NaN and no infinity.
            options.validate()?;
            out.give(mcandle_string::of_options(&options)?);
            Ok(())
        })
    }
}

/// Sets the number of optimizer steps. Values out of range are reported by the call that uses the
/// options; so it is for all options.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] steps At least 1. Default 1000.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_steps(
    options: *mut mcandle_train_options,
    steps: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.steps = steps;
    }
}

/// Sets the number of passes over the training rows, in the place of a number of steps.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] epochs Above 0, such as 2.5; 0 for none. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_epochs(
    options: *mut mcandle_train_options,
    epochs: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.epochs = (epochs != 0.0).then_some(epochs);
    }
}

/// Sets the number of rows in a batch, or of packs where rows are packed.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] batch_size At least 1. Default 4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_batch_size(
    options: *mut mcandle_train_options,
    batch_size: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.batch_size = batch_size;
    }
}

/// Sets how many batches make one step, weighted by their scored tokens; pairs of preferences count
/// alike.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] batches At least 1. Default 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_gradient_accumulation(
    options: *mut mcandle_train_options,
    batches: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.gradient_accumulation = batches;
    }
}

/// Sets how rows are put together to batches. Rows of preferences cannot be packed.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] batching One of the MCANDLE_BATCHING_ constants. Default MCANDLE_BATCHING_PLAIN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_batching(
    options: *mut mcandle_train_options,
    batching: mcandle_batching,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.batching = match batching {
            MCANDLE_BATCHING_PLAIN => Ok(Batching::Plain),
            MCANDLE_BATCHING_LENGTH_BUCKETS => Ok(Batching::LengthBuckets),
            MCANDLE_BATCHING_PACKED => Ok(Batching::Packed),
            other => Err(other),
        };
    }
}

/// Sets the most tokens of a pack, where rows are packed.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] pack_length At least as many as the longest row has. Default 2048.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_pack_length(
    options: *mut mcandle_train_options,
    pack_length: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.pack_length = pack_length;
    }
}

/// Sets whether rows come in another order in each epoch.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] shuffle Default true.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_shuffle(
    options: *mut mcandle_train_options,
    shuffle: bool,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.shuffle = shuffle;
    }
}

/// Sets the seed of the first weights of the adapter, the order of rows, and dropout.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] seed Any number. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_seed(
    options: *mut mcandle_train_options,
    seed: u64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.seed = seed;
    }
}

/// Sets whether layers are computed again in the backward pass instead of kept: about a third
/// slower, and memory for one layer instead of all.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] grad_checkpoint Default false.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_grad_checkpoint(
    options: *mut mcandle_train_options,
    grad_checkpoint: bool,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.grad_checkpoint = grad_checkpoint;
    }
}

/// Sets the share of each target that is spread over the whole vocabulary. The training loss
/// contains it, validation losses do not. Not for preferences; DPO has one of its own.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] label_smoothing 0 or more and below 1. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_label_smoothing(
    options: *mut mcandle_train_options,
    label_smoothing: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.label_smoothing = label_smoothing;
    }
}

/// Learns from rows of {"prompt", "chosen", "rejected"} by direct preference optimisation, in the
/// place of any preference set before.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] beta How closely the model is held to the one before training; the smaller, the
/// further it may go. Above 0; 0.1 is usual.
/// @param[in] label_smoothing The share of pairs that may be the wrong way round, 0 or more and
/// below 0.5; 0 is usual.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_preference_dpo(
    options: *mut mcandle_train_options,
    beta: f64,
    label_smoothing: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.preference = Some(PreferenceLoss::Dpo {
            beta,
            label_smoothing,
        });
    }
}

/// Learns from rows of {"prompt", "chosen", "rejected"} by odds ratio preference optimisation, in
/// the place of any preference set before. It needs no second model, so a step takes less time than
/// one of DPO.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] lambda The weight of the odds ratio beside the likelihood of the chosen answer. Above
/// 0; 0.1 is usual.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_preference_orpo(
    options: *mut mcandle_train_options,
    lambda: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.preference = Some(PreferenceLoss::Orpo { lambda });
    }
}

/// Learns from texts again, which is the default.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_clear_preference(
    options: *mut mcandle_train_options,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.preference = None;
    }
}

/// Frees options.
///
/// @param[in] options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_free(options: *mut mcandle_train_options) {
    // SAFETY: the caller passes NULL or options that it owns.
    unsafe { handle::free(options) }
}
