//! Which adapters act on which tokens of a forward.

use super::dropout::Dropout;
use super::linear::{Linear, Purpose};
use crate::backend::ops::linear::{LowRank, add_bias, add_branch};
use crate::models::Projection;
use crate::models::adapter::{Branch, LayerAdapter};
use candle_core::{Result, Tensor};
use std::ops::Range;

/// Adapters by the tokens on which they act.
pub(super) struct Adapted<'a> {
    /// One after the other, all tokens.
    runs: Vec<Run<'a>>,
    /// Of the inputs of the branches.
    dropout: Option<&'a Dropout>,
    purpose: Purpose,
}

/// Consecutive tokens with the same adapter, which is empty where there is none.
struct Run<'a> {
    len: usize,
    layers: &'a [LayerAdapter],
}

impl<'a> Adapted<'a> {
    /// One adapter for all tokens.
    pub(super) fn whole(layers: &'a [LayerAdapter]) -> Self {
        Self {
            runs: vec![Run { len: 0, layers }],
            dropout: None,
            purpose: Purpose::Inference,
        }
    }

    /// One adapter for all tokens, in training.
    pub(super) fn trained(layers: &'a [LayerAdapter], dropout: Option<&'a Dropout>) -> Self {
        Self {
            dropout,
            purpose: Purpose::Training,
            ..Self::whole(layers)
        }
    }

    /// The adapter of each of several sequences, with the number of its tokens.
    pub(super) fn rows(rows: impl IntoIterator<Item = (usize, &'a [LayerAdapter])>) -> Self {
        let mut runs: Vec<Run> = vec![];
        for (len, layers) in rows {
            match runs.last_mut() {
                Some(run) if std::ptr::eq(run.layers, layers) => run.len += len,
                _ => runs.push(Run { len, layers }),
            }
        }
        Self {
            runs,
            ..Self::whole(&[])
        }
    }

    /// Whether no adapter acts on any token.
    #[cfg(any(
        feature = "cuda",
        feature = "metal",
        target_os = "macos",
        target_os = "ios"
    ))]
    pub(super) fn is_nothing(&self) -> bool {
        self.runs.iter().all(|run| run.layers.is_empty())
    }

    /// The branches of a linear map, with the tokens of each.
    pub(super) fn branches(
        &self,
        layer: usize,
        projection: Projection,
        tokens: usize,
    ) -> Vec<(Range<usize>, LowRank<'a>)> {
        let mut start = 0;
        let mut branches = vec![];
        for run in &self.runs {
            let len = if self.runs.len() == 1 {
                tokens
            } else {
                run.len
            };
            let layers: &'a [LayerAdapter] = run.layers;
            let branch = layers
                .get(layer)
                .and_then(|layer| layer[projection as usize].as_ref());
            branches.extend(branch.map(|branch| (start..start + len, branch.low_rank())));
            start += len;
        }
        branches
    }

    /// The linear map of `x`, (tokens, in), with the adapters' branches.
    pub(super) fn project(
        &self,
        layer: usize,
        projection: Projection,
        map: &Linear,
        x: &Tensor,
    ) -> Result<Tensor> {
        let branch = |run: &Run<'a>| -> Option<&'a Branch> {
            run.layers.get(layer)?[projection as usize].as_ref()
        };
        if let [run] = &self.runs[..] {
            return match (branch(run), self.dropout) {
                (None, _) => map.forward(x, self.purpose),
                (Some(branch), None) => map.with_branch(x, self.purpose, branch.low_rank(), None),
                (Some(branch), Some(dropout)) => {
                    let dropped = dropout.apply(layer, projection, x)?;
                    map.with_branch(x, self.purpose, branch.low_rank(), Some(&dropped))
                }
            };
        }
        // The weights are read once for all tokens, whatever their adapters.
        let y = map.product(x, self.purpose)?;
        let mut start = 0;
        let mut parts = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let part = |x: &Tensor| x.narrow(0, start, run.len)?.contiguous();
            parts.push(match branch(run) {
                Some(branch) => {
                    // A view of `y` has other holders, which `add_branch` must not write to.
                    let part_of_y = part(&y)?.force_contiguous()?;
                    add_branch(part_of_y, &part(x)?, branch.low_rank())?
                }
                None => part(&y)?,
            });
            start += run.len;
        }
        add_bias(Tensor::cat(&parts, 0)?, map.bias.as_ref())
    }
}
