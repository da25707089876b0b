//! Options of a training run: what is trained.

use super::train_options::{copy, mcandle_train_options, utf8};
use crate::ffi::error::{MCANDLE_INVALID_ARGUMENT, mcandle_error};
use crate::ffi::handle::Result;
use crate::models::{LayerSelection, LoRAConfig, LoRAScale, LoRATargets, Projection};
use crate::training::TrainMethod;
use std::ffi::{CString, c_char};

/// What a training run changes: one of the MCANDLE_METHOD_ constants.
pub type mcandle_method = i32;

/// An adapter beside the model: LoRA, rsLoRA or DoRA, and QLoRA where the model is quantised.
pub const MCANDLE_METHOD_LORA: mcandle_method = 0;
/// The weights of the model, in 32 bits while they are trained. It takes some 16 bytes a weight with
/// Adam, and a model that is not quantised.
pub const MCANDLE_METHOD_FULL: mcandle_method = 1;

/// A method whose settings may come in any order.
#[derive(Debug)]
pub(super) struct MethodOptions {
    /// As given; checked when the options are used.
    method: mcandle_method,
    /// Its layers are those of either method.
    lora: LoRAConfig,
    /// In the place of those of `lora`.
    targets: Option<Targets>,
}

/// As given; checked when the options are used.
#[derive(Debug)]
enum Targets {
    Names(CString),
    Pattern(CString),
}

impl MethodOptions {
    pub(super) fn new(method: &TrainMethod) -> Self {
        let (method, lora) = match method {
            TrainMethod::LoRA(config) => (MCANDLE_METHOD_LORA, config.clone()),
            TrainMethod::Full { layers } => {
                let layers = layers.clone();
                let lora = LoRAConfig {
                    layers,
                    ..LoRAConfig::default()
                };
                (MCANDLE_METHOD_FULL, lora)
            }
        };
        Self {
            method,
            lora,
            targets: None,
        }
    }

    pub(super) fn resolve(&self) -> Result<TrainMethod> {
        match self.method {
            MCANDLE_METHOD_LORA => Ok(TrainMethod::LoRA(LoRAConfig {
                targets: self.targets()?,
                ..self.lora.clone()
            })),
            MCANDLE_METHOD_FULL => Ok(TrainMethod::Full {
                layers: self.lora.layers.clone(),
            }),
            other => Err(mcandle_error::new(
                MCANDLE_INVALID_ARGUMENT,
                format!("`method` is {other}; expected a MCANDLE_METHOD_ constant"),
            )),
        }
    }

    fn targets(&self) -> Result<LoRATargets> {
        match &self.targets {
            None => Ok(self.lora.targets.clone()),
            Some(Targets::Names(names)) => {
                let names = utf8(names, "target_modules")?.split(',');
                let targets = names.map(|name| Projection::from_name(name.trim()));
                Ok(LoRATargets::Projections(
                    targets.collect::<crate::Result<_>>()?,
                ))
            }
            Some(Targets::Pattern(pattern)) => {
                let pattern = utf8(pattern, "target_pattern")?;
                Ok(LoRATargets::Pattern(pattern.to_owned()))
            }
        }
    }

    /// Sets the targets; none are all.
    fn set_targets(&mut self, targets: Option<Targets>) {
        self.targets = targets;
        self.lora.targets = LoRATargets::default();
    }
}

/// Sets what is trained.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] method One of the MCANDLE_METHOD_ constants. Default MCANDLE_METHOD_LORA.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_method(
    options: *mut mcandle_train_options,
    method: mcandle_method,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.method.method = method;
    }
}

/// Sets how many of the last layers are trained. MCANDLE_METHOD_FULL with all of them trains
/// embedding, norms and head, too, and otherwise only what belongs to these layers.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] num_layers The number; a model of fewer is trained in all. 0 for all. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_num_layers(
    options: *mut mcandle_train_options,
    num_layers: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.method.lora.layers = match num_layers {
            0 => LayerSelection::All,
            last => LayerSelection::Last(last),
        };
    }
}

/// Sets the rank of the adapter. This and the settings below are not used by MCANDLE_METHOD_FULL.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] rank 1 to 4096. Default 8.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_rank(
    options: *mut mcandle_train_options,
    rank: usize,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.method.lora.rank = rank;
    }
}

/// Sets the strength of the adapter before division by its rank: lora_alpha of PEFT. Of alpha and
/// scale the last one that is set counts.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] alpha Above 0. Default 16.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_alpha(
    options: *mut mcandle_train_options,
    alpha: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.method.lora.scale = LoRAScale::Alpha(alpha);
    }
}

/// Sets the strength of the adapter itself, which no rank divides: scale of mlx-lm. Of alpha and
/// scale the last one that is set counts.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] scale Above 0; 20 is the default of mlx-lm. Default none: alpha counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_scale(
    options: *mut mcandle_train_options,
    scale: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.method.lora.scale = LoRAScale::Factor(scale);
    }
}

/// Sets the share of the inputs of the adapter that are set to 0 in training.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] dropout 0 or more and below 1. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_dropout(
    options: *mut mcandle_train_options,
    dropout: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.method.lora.dropout = dropout;
    }
}

/// Sets whether alpha is divided by the square root of the rank.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] use_rslora Default false.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_use_rslora(
    options: *mut mcandle_train_options,
    use_rslora: bool,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.method.lora.use_rslora = use_rslora;
    }
}

/// Sets whether the lengths of the rows of weights are trained apart from their directions (DoRA).
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] use_dora Default false.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_use_dora(
    options: *mut mcandle_train_options,
    use_dora: bool,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.method.lora.use_dora = use_dora;
    }
}

/// Sets which projections the adapter changes. Of names and a pattern the last that is set counts.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] names NUL-terminated names with commas between them, out of q_proj, k_proj, v_proj,
/// o_proj, gate_proj, up_proj, down_proj; it is copied. NULL for all. Default all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_target_modules(
    options: *mut mcandle_train_options,
    names: *const c_char,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now, and NULL or a
    // NUL-terminated string.
    unsafe {
        if let Some(options) = options.as_mut() {
            options.method.set_targets(copy(names).map(Targets::Names));
        }
    }
}

/// Sets which projections the adapter changes by a pattern. Of names and a pattern the last that is
/// set counts.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] pattern A regular expression, NUL-terminated UTF-8, that matches whole names such as
/// model.layers.3.self_attn.q_proj; it is copied. NULL for all. Default all.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_target_pattern(
    options: *mut mcandle_train_options,
    pattern: *const c_char,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now, and NULL or a
    // NUL-terminated string.
    unsafe {
        if let Some(options) = options.as_mut() {
            options
                .method
                .set_targets(copy(pattern).map(Targets::Pattern));
        }
    }
}
