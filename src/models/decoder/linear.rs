//! A linear map of a decoder layer, with weights as they are kept.

use crate::backend::ops::linear::{LowRank, add_bias, add_branch};
use crate::backend::ops::matrix::Matrix;
use candle_core::{Result, Tensor};

/// A linear map and its bias.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    pub weight: Matrix,
    pub bias: Option<Tensor>,
}

/// What an output is computed for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// Activations may be rounded where that is faster.
    Inference,
    Training,
}

impl Linear {
    /// The map of `x`, (tokens, in).
    pub(super) fn forward(&self, x: &Tensor, purpose: Purpose) -> Result<Tensor> {
        add_bias(self.product(x, purpose)?, self.bias.as_ref())
    }

    /// The map with a branch beside it, whose input may be another one, such as `x` after dropout.
    pub(super) fn with_branch(
        &self,
        x: &Tensor,
        purpose: Purpose,
        branch: LowRank<'_>,
        branch_input: Option<&Tensor>,
    ) -> Result<Tensor> {
        let y = self.product(x, purpose)?;
        let y = add_branch(y, branch_input.unwrap_or(x), branch)?;
        add_bias(y, self.bias.as_ref())
    }

    /// The map without its bias.
    pub(super) fn product(&self, x: &Tensor, purpose: Purpose) -> Result<Tensor> {
        match purpose {
            Purpose::Inference => self.weight.infer(x),
            Purpose::Training => self.weight.forward(x),
        }
    }
}
