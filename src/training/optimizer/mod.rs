//! Optimizers over one flat vector of weights.
//!
//! A method is a function: from weights, gradient and state to new weights and state. [`Optimizer`]
//! keeps the state, which is a few flat vectors too, so that a checkpoint can save it without knowing
//! the method.

mod adafactor;
mod adamw;
mod muon;
mod options;
mod sgd;
mod shape;
#[cfg(test)]
mod tests;

pub use adafactor::AdafactorOptions;
pub use adamw::{AdamOptions, AdamWOptions};
pub use muon::{AdjustLr, MuonOptions};
pub use options::OptimizerOptions;
pub use sgd::SgdOptions;
pub(crate) use shape::WeightShape;

use crate::error::{Error, Result};
use candle_core::{DType, Tensor};

/// The parts of a state by their names: flat vectors.
type State = Vec<(&'static str, Tensor)>;

/// The name and the length of each part of a state.
type Specs = Vec<(&'static str, usize)>;

/// What a step gives.
type Stepped = (Tensor, State);

/// What one step starts from.
struct Step<'a> {
    weights: &'a Tensor,
    gradient: &'a Tensor,
    learning_rate: f64,
    shapes: &'a [WeightShape],
    state: &'a State,
    /// From 1.
    number: usize,
}

impl Step<'_> {
    /// A part of the state.
    fn state(&self, name: &'static str) -> Result<&Tensor> {
        let part = self.state.iter().find(|(part, _)| *part == name);
        part.map(|(_, tensor)| tensor).ok_or_else(|| missing(name))
    }
}

fn missing(name: &str) -> Error {
    broken(format!("the optimizer's state has no {name}"))
}

/// The error for what callers within this crate have to get right.
fn broken(message: String) -> Error {
    candle_core::Error::Msg(message).into()
}

/// An optimizer and its state, in `f32` on the device of the weights.
///
/// Nothing is read back from the device.
#[derive(Debug, Clone)]
pub(crate) struct Optimizer {
    options: OptimizerOptions,
    shapes: Vec<WeightShape>,
    state: State,
    steps: usize,
}

impl Optimizer {
    /// An optimizer before its first step.
    ///
    /// `shapes` say where the tensors lie in `weights`; they follow each other without gaps.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for options out of range, [`Error::Backend`] where the shapes are not
    /// those of `weights` or the device is out of memory.
    pub(crate) fn new(
        options: OptimizerOptions,
        weights: &Tensor,
        shapes: &[WeightShape],
    ) -> Result<Self> {
        if shape::total(shapes)? != weights.elem_count() {
            let message = "the shapes are not those of the weights";
            return Err(broken(message.to_owned()));
        }
        let zeros = |_, len| Ok(Tensor::zeros(len, DType::F32, weights.device())?);
        Self::resume(options, shapes, zeros, 0)
    }

    /// Goes on after `steps` steps, with the parts of the state that `state` gives by name and
    /// length.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for options out of range, and the errors of `state`.
    pub(crate) fn resume(
        options: OptimizerOptions,
        shapes: &[WeightShape],
        mut state: impl FnMut(&'static str, usize) -> Result<Tensor>,
        steps: usize,
    ) -> Result<Self> {
        options.validate()?;
        shape::total(shapes)?;
        let state = Self::state_specs(&options, shapes)
            .into_iter()
            .map(|(name, len)| Ok((name, state(name, len)?)))
            .collect::<Result<_>>()?;
        Ok(Self {
            options,
            shapes: shapes.to_vec(),
            state,
            steps,
        })
    }

    /// The name and the length of each part of the state that these options need, all of them flat
    /// vectors of `f32`.
    pub(crate) fn state_specs(options: &OptimizerOptions, shapes: &[WeightShape]) -> Specs {
        let specs = match options {
            OptimizerOptions::AdamW(_) | OptimizerOptions::Adam(_) => {
                adamw::moments(shape::len(shapes))
            }
            OptimizerOptions::Sgd(options) => options.specs(shapes),
            OptimizerOptions::Adafactor(options) => options.specs(shapes),
            OptimizerOptions::Muon(_) => muon::specs(shapes),
        };
        // An empty part would be a tensor that no device allocates.
        specs.into_iter().filter(|&(_, len)| len > 0).collect()
    }

    /// The parts of the state by their names.
    pub(crate) fn state(&self) -> Vec<(&'static str, &Tensor)> {
        self.state
            .iter()
            .map(|(name, part)| (*name, part))
            .collect()
    }

    /// The weights after one step, in new memory: the old ones, and those of the state, may still be
    /// in use.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] where the device fails; the optimizer then is as before.
    pub(crate) fn step(
        &mut self,
        weights: &Tensor,
        gradient: &Tensor,
        learning_rate: f64,
    ) -> Result<Tensor> {
        let step = Step {
            weights,
            gradient,
            learning_rate,
            shapes: &self.shapes,
            state: &self.state,
            number: self.steps + 1,
        };
        let (weights, state) = match &self.options {
            OptimizerOptions::AdamW(options) => options.step(&step),
            OptimizerOptions::Adam(options) => options.step(&step),
            OptimizerOptions::Sgd(options) => options.step(&step),
            OptimizerOptions::Adafactor(options) => options.step(&step),
            OptimizerOptions::Muon(options) => options.step(&step),
        }?;
        self.steps += 1;
        self.state = state;
        Ok(weights)
    }
}

/// Checks numbers that must be 0 or more and below 1.
fn check_fractions<const N: usize>(fractions: [(&'static str, f64); N]) -> Result<()> {
    check(fractions, "0 or more and below 1", |x| {
        (0.0..1.0).contains(&x)
    })
}

/// Checks numbers that must not be negative.
fn check_not_negative<const N: usize>(numbers: [(&'static str, f64); N]) -> Result<()> {
    check(numbers, "0 or more", |x| x.is_finite() && x >= 0.0)
}

/// Checks numbers that must be above 0.
fn check_positive<const N: usize>(numbers: [(&'static str, f64); N]) -> Result<()> {
    check(numbers, "a number above 0", |x| x.is_finite() && x > 0.0)
}

fn check<const N: usize>(
    numbers: [(&'static str, f64); N],
    expected: &str,
    fits: impl Fn(f64) -> bool,
) -> Result<()> {
    match numbers.into_iter().find(|&(_, x)| !fits(x)) {
        Some((name, x)) => Err(Error::option(name, x, expected)),
        None => Ok(()),
    }
}
