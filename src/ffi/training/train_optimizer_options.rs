//! Options of a training run: the optimizer and its learning rate.

use super::train_options::{Chosen, chosen, mcandle_train_options};
use crate::error::Error;
use crate::ffi::handle::Result;
use crate::training::{
    AdafactorOptions, AdamOptions, AdamWOptions, LrSchedule, MuonOptions, OptimizerOptions,
    SgdOptions,
};

/// How gradients change weights: one of the MCANDLE_OPTIMIZER_ constants.
pub type mcandle_optimizer = i32;

/// AdamW, which keeps 2 numbers a weight.
pub const MCANDLE_OPTIMIZER_ADAMW: mcandle_optimizer = 0;
/// Adam, whose decay of weights is part of the gradient. It keeps 2 numbers a weight.
pub const MCANDLE_OPTIMIZER_ADAM: mcandle_optimizer = 1;
/// Stochastic gradient descent, which keeps a number a weight with momentum, and none without.
pub const MCANDLE_OPTIMIZER_SGD: mcandle_optimizer = 2;
/// Adafactor, which keeps next to nothing.
pub const MCANDLE_OPTIMIZER_ADAFACTOR: mcandle_optimizer = 3;
/// Muon for matrices between hidden states, where it keeps a number a weight, and AdamW for the rest.
pub const MCANDLE_OPTIMIZER_MUON: mcandle_optimizer = 4;

/// How the learning rate falls: one of the MCANDLE_SCHEDULE_ constants. Two more have settings, and a
/// setter for each: mcandle_train_options_set_schedule_step() and
/// mcandle_train_options_set_schedule_exponential().
pub type mcandle_schedule = i32;

/// It stays.
pub const MCANDLE_SCHEDULE_CONSTANT: mcandle_schedule = 0;
/// It falls along a line, to the lowest at the last step.
pub const MCANDLE_SCHEDULE_LINEAR: mcandle_schedule = 1;
/// It falls along half a cosine, to the lowest at the last step.
pub const MCANDLE_SCHEDULE_COSINE: mcandle_schedule = 2;

/// An optimizer whose settings may come in any order, also before it.
#[derive(Debug)]
pub(super) struct OptimizerSettings {
    kind: Chosen<OptimizerOptions>,
    betas: Option<(f64, f64)>,
    eps: Option<f64>,
    weight_decay: Option<f64>,
    momentum: Option<f64>,
}

impl OptimizerSettings {
    pub(super) fn new(optimizer: OptimizerOptions) -> Self {
        Self {
            kind: Ok(optimizer),
            betas: None,
            eps: None,
            weight_decay: None,
            momentum: None,
        }
    }

    pub(super) fn resolve(&self) -> Result<OptimizerOptions> {
        let mut optimizer = chosen(&self.kind, "optimizer", "MCANDLE_OPTIMIZER_")?;
        let optimizer_name = optimizer.name();
        let unfit = |setting, having: &str| {
            let found = format!("set for {optimizer_name}");
            let expected = format!("an optimizer that has it: {having}");
            Err(Error::option(setting, found, expected).into())
        };
        if let Some(betas) = self.betas {
            match &mut optimizer {
                OptimizerOptions::AdamW(options) => (options.beta1, options.beta2) = betas,
                OptimizerOptions::Adam(options) => (options.beta1, options.beta2) = betas,
                _ => return unfit("betas", "adamw or adam"),
            }
        }
        if let Some(eps) = self.eps {
            match &mut optimizer {
                OptimizerOptions::AdamW(options) => options.eps = eps,
                OptimizerOptions::Adam(options) => options.eps = eps,
                OptimizerOptions::Muon(options) => options.eps = eps,
                _ => return unfit("eps", "adamw, adam or muon"),
            }
        }
        if let Some(momentum) = self.momentum {
            match &mut optimizer {
                OptimizerOptions::Sgd(options) => options.momentum = momentum,
                OptimizerOptions::Muon(options) => options.momentum = momentum,
                _ => return unfit("momentum", "sgd or muon"),
            }
        }
        if let Some(weight_decay) = self.weight_decay {
            let place = match &mut optimizer {
                OptimizerOptions::AdamW(options) => &mut options.weight_decay,
                OptimizerOptions::Adam(options) => &mut options.weight_decay,
                OptimizerOptions::Sgd(options) => &mut options.weight_decay,
                OptimizerOptions::Adafactor(options) => &mut options.weight_decay,
                OptimizerOptions::Muon(options) => &mut options.weight_decay,
            };
            *place = weight_decay;
        }
        Ok(optimizer)
    }
}

/// Sets the optimizer, with its defaults but for what the setters below change, before or after
/// this one. A setting that the optimizer does not have is an error of the call that uses the
/// options.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] optimizer One of the MCANDLE_OPTIMIZER_ constants. Default MCANDLE_OPTIMIZER_ADAMW.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_optimizer(
    options: *mut mcandle_train_options,
    optimizer: mcandle_optimizer,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.optimizer.kind = match optimizer {
            MCANDLE_OPTIMIZER_ADAMW => Ok(OptimizerOptions::AdamW(AdamWOptions::default())),
            MCANDLE_OPTIMIZER_ADAM => Ok(OptimizerOptions::Adam(AdamOptions::default())),
            MCANDLE_OPTIMIZER_SGD => Ok(OptimizerOptions::Sgd(SgdOptions::default())),
            MCANDLE_OPTIMIZER_ADAFACTOR => {
                Ok(OptimizerOptions::Adafactor(AdafactorOptions::default()))
            }
            MCANDLE_OPTIMIZER_MUON => Ok(OptimizerOptions::Muon(MuonOptions::default())),
            other => Err(other),
        };
    }
}

/// Sets the decay of the means of gradients and of squared gradients of AdamW and Adam.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] beta1 0 or more and below 1. Default 0.9.
/// @param[in] beta2 0 or more and below 1. Default 0.999.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_betas(
    options: *mut mcandle_train_options,
    beta1: f64,
    beta2: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.optimizer.betas = Some((beta1, beta2));
    }
}

/// Sets what AdamW and Adam add to their denominator, and the least norm that Muon divides by.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] eps Above 0. Default 1e-8, and 1e-7 for Muon.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_eps(
    options: *mut mcandle_train_options,
    eps: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.optimizer.eps = Some(eps);
    }
}

/// Sets the share of each weight that is taken away per step and unit of learning rate; Adam and
/// SGD add it to the gradient. With Muon it is that of the matrices which Muon changes.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] weight_decay 0 or more. Default 0.01 for AdamW, 0.1 for Muon, and 0 for the others.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_weight_decay(
    options: *mut mcandle_train_options,
    weight_decay: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.optimizer.weight_decay = Some(weight_decay);
    }
}

/// Sets the share of the last direction that the next step of SGD or Muon keeps.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] momentum 0 or more and below 1. Default 0 for SGD and 0.95 for Muon.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_momentum(
    options: *mut mcandle_train_options,
    momentum: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.optimizer.momentum = Some(momentum);
    }
}

/// Sets the L2 norm that gradients are scaled down to, over all weights together.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] max_grad_norm 0 for no limit, or more. Default 1.
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

/// Sets the highest learning rate.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] learning_rate Above 0. Default 1e-4.
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

/// Sets what a falling learning rate does not fall below.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] min_learning_rate 0 or more, at most the highest. Default 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_min_learning_rate(
    options: *mut mcandle_train_options,
    min_learning_rate: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.inner.min_learning_rate = min_learning_rate;
    }
}

/// Sets the steps over which the learning rate rises from 0.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] warmup_steps At most the number of steps. Default 0.
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

/// Sets how the learning rate falls, in the place of any schedule set before.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] schedule One of the MCANDLE_SCHEDULE_ constants. Default MCANDLE_SCHEDULE_CONSTANT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_schedule(
    options: *mut mcandle_train_options,
    schedule: mcandle_schedule,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.schedule = match schedule {
            MCANDLE_SCHEDULE_CONSTANT => Ok(LrSchedule::Constant),
            MCANDLE_SCHEDULE_LINEAR => Ok(LrSchedule::Linear),
            MCANDLE_SCHEDULE_COSINE => Ok(LrSchedule::Cosine),
            other => Err(other),
        };
    }
}

/// Multiplies the learning rate by a factor each so many steps after the warm-up, in the place of
/// any schedule set before.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] step_size Steps between two changes, at least 1.
/// @param[in] gamma The factor, above 0 and at most 1; 0.1 is usual.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_schedule_step(
    options: *mut mcandle_train_options,
    step_size: usize,
    gamma: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.schedule = Ok(LrSchedule::Step { step_size, gamma });
    }
}

/// Multiplies the learning rate by a factor each step after the warm-up, in the place of any
/// schedule set before.
///
/// @param[in,out] options The options; NULL is allowed and does nothing.
/// @param[in] gamma The factor, above 0 and at most 1, such as 0.999.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mcandle_train_options_set_schedule_exponential(
    options: *mut mcandle_train_options,
    gamma: f64,
) {
    // SAFETY: the caller passes NULL or options that nobody else uses now.
    if let Some(options) = unsafe { options.as_mut() } {
        options.schedule = Ok(LrSchedule::Exponential { gamma });
    }
}
