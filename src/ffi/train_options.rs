//! Options of a training run.

use super::error::{MCANDLE_INVALID_ARGUMENT, MCANDLE_INVALID_UTF8, mcandle_error};
use super::handle::{self, Result};
use crate::models::{LoRAConfig, LoRAScale, LoRATargets, Projection};
use crate::training::{AdamWOptions, LrSchedule, OptimizerOptions, TrainOptions};
use std::ffi::{CStr, CString, c_char};
use std::path::PathBuf;

/// How the learning rate falls: one of the MCANDLE_SCHEDULE_ constants.
pub type mcandle_schedule = i32;

/// It stays.
pub const MCANDLE_SCHEDULE_CONSTANT: mcandle_schedule = 0;
/// It falls to 0 along a line.
pub const MCANDLE_SCHEDULE_LINEAR: mcandle_schedule = 1;
/// It falls to 0 along half a cosine.
pub const MCANDLE_SCHEDULE_COSINE: mcandle_schedule = 2;

/// How a model is fine-tuned.
#[derive(Debug)]
pub struct mcandle_train_options {
    inner: TrainOptions,
    lora: LoRAConfig,
    adamw: AdamWOptions,
    schedule: mcandle_schedule,
    /// As given; checked when the options are used.
    target_modules: Option<CString>,
    /// As given; checked when the options are used.
    output_dir: Option<CString>,
}

impl mcandle_train_options {
    pub(super) fn resolve(&self) -> Result<TrainOptions> {
        let (mut options, mut lora) = (self.inner.clone(), self.lora.clone());
        options.optimizer = OptimizerOptions::AdamW(self.adamw);
        options.schedule = match self.schedule {
            MCANDLE_SCHEDULE_CONSTANT => LrSchedule::Constant,
            MCANDLE_SCHEDULE_LINEAR => LrSchedule::Linear,
            MCANDLE_SCHEDULE_COSINE => LrSchedule::Cosine,
            other => {
                return Err(mcandle_error::new(
                    MCANDLE_INVALID_ARGUMENT,
                    format!("`schedule` is {other}; expected a MCANDLE_SCHEDULE_ constant"),
                ));
            }
        };
        if let Some(names) = &self.target_modules {
            let names = utf8(names, "target_modules")?.split(',');
            let targets = names.map(|name| Projection::from_name(name.trim()));
            lora.targets = LoRATargets::Projections(targets.collect::<crate::Result<_>>()?);
        }
        if let Some(directory) = &self.output_dir {
            options.output_dir = Some(PathBuf::from(utf8(directory, "output_dir")?));
        }
        options.method = lora.into();
        Ok(options)
    }
}

fn utf8<'a>(text: &'a CStr, name: &str) -> Result<&'a str> {
    text.to_str().map_err(|error| {
        mcandle_error::new(
            MCANDLE_INVALID_UTF8,
            format!("`{name}` is not UTF-8: {error}"),
        )
    })
}

/// Makes options with the defaults.
///
/// @return Options, to be freed with mcandle_train_options_free().
#[unsafe(no_mangle)]
pub extern "C" fn mcandle_train_options_new() -> *mut mcandle_train_options {
    Box::into_raw(Box::new(mcandle_train_options {
        inner: TrainOptions::default(),
        lora: LoRAConfig::default(),
        adamw: AdamWOptions::default(),
        schedule: MCANDLE_SCHEDULE_CONSTANT,
        target_modules: None,
        output_dir: None,
    }))
}

/// Sets the number of optimizer steps. Values out of range are reported by the call that uses the
/// options; so it is for all options.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param steps At least 1. Default 1000.
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

/// Sets the number of rows in a batch.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param batch_size At least 1. Default 4.
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

/// Sets how many batches make one step, weighted by their tokens.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param batches At least 1. Default 1.
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

/// Sets the highest learning rate.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param learning_rate Above 0. Default 1e-4.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_learning_rate(
    options: *mut mcandle_train_options,
    learning_rate: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.learning_rate = learning_rate;
    }
}

/// Sets how the learning rate falls.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param schedule One of the MCANDLE_SCHEDULE_ constants. Default MCANDLE_SCHEDULE_CONSTANT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_schedule(
    options: *mut mcandle_train_options,
    schedule: mcandle_schedule,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.schedule = schedule;
    }
}

/// Sets the steps over which the learning rate rises from 0.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param warmup_steps At most the number of steps. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_warmup_steps(
    options: *mut mcandle_train_options,
    warmup_steps: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.warmup_steps = warmup_steps;
    }
}

/// Sets the share of each weight that AdamW takes away per step and unit of learning rate.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param weight_decay 0 or more. Default 0.01.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_weight_decay(
    options: *mut mcandle_train_options,
    weight_decay: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.adamw.weight_decay = weight_decay;
    }
}

/// Sets the decay of the means of gradients and of squared gradients of AdamW.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param beta1 0 or more and below 1. Default 0.9.
/// @param beta2 0 or more and below 1. Default 0.999.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_betas(
    options: *mut mcandle_train_options,
    beta1: f64,
    beta2: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.adamw.beta1 = beta1;
        options.adamw.beta2 = beta2;
    }
}

/// Sets what AdamW adds to its denominator.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param eps Above 0. Default 1e-8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_eps(
    options: *mut mcandle_train_options,
    eps: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.adamw.eps = eps;
    }
}

/// Sets the L2 norm that gradients are scaled down to, over all weights together.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param max_grad_norm 0 for no limit, or more. Default 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_max_grad_norm(
    options: *mut mcandle_train_options,
    max_grad_norm: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.max_grad_norm = max_grad_norm;
    }
}

/// Sets whether layers are computed again in the backward pass instead of kept: about a third
/// slower, and memory for one layer instead of all.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param grad_checkpoint Default false.
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

/// Sets the seed of the first weights of the adapter, the order of rows, and dropout.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param seed Any number. Default 0.
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

/// Sets whether rows come in another order in each epoch.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param shuffle Default true.
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

/// Sets the steps between evaluations, which also happen before the first step and after the last.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param steps 0 for none. Default 200.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_eval_every(
    options: *mut mcandle_train_options,
    steps: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.eval_every = steps;
    }
}

/// Sets the most batches of an evaluation.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param batches 0 for all. Default 25.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_eval_batches(
    options: *mut mcandle_train_options,
    batches: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.eval_batches = batches;
    }
}

/// Sets the steps between checkpoints, which need an output directory.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param steps 0 for none. Default 100.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_save_every(
    options: *mut mcandle_train_options,
    steps: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.save_every = steps;
    }
}

/// Sets the rank of the adapter.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param rank 1 to 4096. Default 8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_rank(
    options: *mut mcandle_train_options,
    rank: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.lora.rank = rank;
    }
}

/// Sets the strength of the adapter before division by its rank.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param alpha Above 0. Default 16.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_alpha(
    options: *mut mcandle_train_options,
    alpha: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.lora.scale = LoRAScale::Alpha(alpha);
    }
}

/// Sets the share of the inputs of the adapter that training drops.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param dropout 0 or more and below 1. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_dropout(
    options: *mut mcandle_train_options,
    dropout: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.lora.dropout = dropout;
    }
}

/// Sets whether the strength is divided by the square root of the rank.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param use_rslora Default false.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_use_rslora(
    options: *mut mcandle_train_options,
    use_rslora: bool,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.lora.use_rslora = use_rslora;
    }
}

/// Sets which projections the adapter changes.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param names NUL-terminated names with commas between them, out of q_proj, k_proj, v_proj, o_proj,
/// gate_proj, up_proj, down_proj; it is copied. NULL for all. Default all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_target_modules(
    options: *mut mcandle_train_options,
    names: *const c_char,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now, and NULL or a
    // NUL-terminated string.
    unsafe {
        if let Some(options) = options.as_mut() {
            options.target_modules = (!names.is_null()).then(|| CStr::from_ptr(names).to_owned());
        }
    }
}

/// Sets where checkpoints are written, and the adapter at the end.
///
/// @param options The options; NULL is allowed and does nothing.
/// @param path A directory, NUL-terminated UTF-8; it is copied. NULL for none. Default none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_output_dir(
    options: *mut mcandle_train_options,
    path: *const c_char,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now, and NULL or a
    // NUL-terminated string.
    unsafe {
        if let Some(options) = options.as_mut() {
            options.output_dir = (!path.is_null()).then(|| CStr::from_ptr(path).to_owned());
        }
    }
}

/// Frees options.
///
/// @param options The options; NULL is allowed and does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_free(options: *mut mcandle_train_options) {
    // SAFETY: the caller passes NULL or options that it owns.
    unsafe { handle::free(options) }
}
