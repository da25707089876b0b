//! Losses and gradients of a batch of rows.

use super::batch::{Batch, BatchLayout};
use super::preference::{AnswerLikelihood, PairLoss, PreferenceLoss};
use super::row::Row;
use super::sample::Sample;
use crate::backend::{device, threads};
use crate::cancel::CancelHandle;
use crate::error::Result;
use crate::models::decoder::{Decoder, Dropout, Objective, StepOptions, TokenBatch};
use crate::models::trained_weights::TrainedWeights;
use candle_core::{Device, Tensor};
use parking_lot::Mutex;
use rayon::prelude::*;

/// What turns rows into a loss and a gradient.
pub(super) struct GradientSource<'a> {
    /// The decoder that training began with, which is the reference of preferences.
    pub base: &'a Decoder,
    pub trained: &'a TrainedWeights,
    pub preference: Option<PreferenceLoss>,
    pub layout: BatchLayout,
    pub label_smoothing: f64,
    pub grad_checkpoint: bool,
    /// The probability, and a seed that is another one for every batch of a run.
    pub dropout: (f64, u64),
    pub cancel: &'a CancelHandle,
}

/// What rows add to a step.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Summed over the targets, or over the pairs.
    pub loss: f64,
    /// Of the summed loss; none where only the loss was asked for.
    pub gradient: Option<Tensor>,
    pub target_tokens: usize,
    /// The pairs of preferences.
    pub pairs: Vec<PairLoss>,
}

impl Share {
    /// By what the sum is divided to give the mean.
    #[allow(clippy::cast_precision_loss, reason = "counts fit f64")]
    pub fn count(&self) -> f64 {
        if self.pairs.is_empty() {
            self.target_tokens as f64
        } else {
            self.pairs.len() as f64
        }
    }

    /// Takes what other rows add.
    pub fn add(&mut self, other: Self) -> Result<()> {
        self.loss += other.loss;
        self.target_tokens += other.target_tokens;
        self.pairs.extend(other.pairs);
        self.gradient = match (self.gradient.take(), other.gradient) {
            (Some(sum), Some(gradient)) => Some(device::scoped(sum.device(), || &sum + &gradient)?),
            (sum, gradient) => sum.or(gradient),
        };
        Ok(())
    }
}

impl GradientSource<'_> {
    /// The loss and gradient of a batch of rows.
    ///
    /// A CPU has more to give than one matrix product after the other can take, so each of its
    /// threads gets a share of the rows; a GPU gets the whole batch, and so do gradients that are as
    /// large as the model.
    pub fn batch(&self, rows: &[Row]) -> Result<Share> {
        let in_shares =
            self.base.device().is_cpu() && matches!(self.trained, TrainedWeights::Adapter(_));
        if !in_shares {
            return self.share(rows, 0);
        }
        let shares: Vec<_> = threads::run(|| {
            let threads = rayon::current_num_threads();
            rows.par_chunks(rows.len().div_ceil(threads).max(1))
                .enumerate()
                .map(|(index, rows)| self.share(rows, index))
                .collect::<Result<_>>()
        })?;
        // In the order of the rows, whichever thread was first: sums depend on it.
        let mut total = Share::default();
        for share in shares {
            total.add(share)?;
        }
        Ok(total)
    }

    /// The loss of rows alone.
    pub fn loss(&self, rows: &[Row]) -> Result<Share> {
        let laid_out = LaidOut::new(rows, self.layout)?;
        let losses = self.losses(&laid_out, Model::Trained)?;
        let mut share = Share {
            target_tokens: laid_out.batch.target_tokens(),
            ..Share::default()
        };
        match self.preference {
            None => share.loss = losses.iter().map(|&loss| f64::from(loss)).sum(),
            Some(preference) => {
                let reference = self.reference(preference, &laid_out)?;
                share.pairs = laid_out.pairs(preference, &losses, &reference);
                share.loss = share.pairs.iter().map(|pair| pair.loss).sum();
            }
        }
        Ok(share)
    }

    fn share(&self, rows: &[Row], index: usize) -> Result<Share> {
        let laid_out = LaidOut::new(rows, self.layout)?;
        let (p, seed) = self.dropout;
        let options = StepOptions {
            checkpoint: self.grad_checkpoint,
            dropout: (p > 0.0).then(|| Dropout {
                p,
                seed: mix(seed, index as u64),
            }),
            cancel: Some(self.cancel),
        };
        let reference = match self.preference {
            Some(preference) => self.reference(preference, &laid_out)?,
            None => vec![],
        };
        let found = Mutex::new(vec![]);
        let weights = |losses: &[f32]| -> Result<Vec<f32>> {
            let Some(preference) = self.preference else {
                return Ok(vec![1.0; losses.len()]);
            };
            let pairs = laid_out.pairs(preference, losses, &reference);
            let weights = laid_out.spread(&pairs);
            *found.lock() = pairs;
            Ok(weights)
        };
        let objective = match self.preference {
            Some(_) => Objective::Weighted(&weights),
            None => Objective::Likelihood {
                label_smoothing: self.label_smoothing,
            },
        };
        let device = self.base.device();
        let (loss, gradient) = device::completed(device, || {
            let batch = laid_out.upload(device)?;
            let decoder = self.trained.decoder(self.base);
            let (loss, gradient) =
                decoder.loss_and_gradient(&batch, self.trained, objective, &options)?;
            Ok((f64::from(loss.to_scalar::<f32>()?), gradient))
        })?;
        let pairs = found.into_inner();
        Ok(Share {
            loss: if pairs.is_empty() {
                loss
            } else {
                pairs.iter().map(|pair| pair.loss).sum()
            },
            gradient: Some(gradient),
            target_tokens: laid_out.batch.target_tokens(),
            pairs,
        })
    }

    /// The summed losses of each sample under the model that training began with, where they count.
    fn reference(&self, preference: PreferenceLoss, laid_out: &LaidOut) -> Result<Vec<f64>> {
        if preference.has_reference() {
            Ok(laid_out.sums(&self.losses(laid_out, Model::Base)?))
        } else {
            Ok(vec![0.0; laid_out.batch.row_targets.len()])
        }
    }

    fn losses(&self, laid_out: &LaidOut, model: Model) -> Result<Vec<f32>> {
        let device = self.base.device();
        let options = StepOptions {
            cancel: Some(self.cancel),
            ..StepOptions::default()
        };
        device::completed(device, || {
            let batch = laid_out.upload(device)?;
            let losses = match model {
                Model::Base => self.base.losses(&batch, &[], &options),
                Model::Trained => {
                    let decoder = self.trained.decoder(self.base);
                    decoder.losses(&batch, self.trained.branches(), &options)
                }
            };
            Ok(losses?.to_vec1()?)
        })
    }
}

/// Which model computes.
#[derive(Clone, Copy)]
enum Model {
    Base,
    Trained,
}

/// Rows as a batch; a pair is two samples, the chosen one first.
struct LaidOut {
    batch: Batch,
}

impl LaidOut {
    fn new(rows: &[Row], layout: BatchLayout) -> Result<Self> {
        let samples: Vec<&Sample> = rows.iter().flat_map(Row::samples).collect();
        Ok(Self {
            batch: Batch::new(&samples, layout)?,
        })
    }

    fn upload(&self, device: &Device) -> Result<TokenBatch> {
        let (positions, targets): (Vec<u32>, Vec<u32>) = self.batch.targets.iter().copied().unzip();
        let segments = self.batch.segments.iter();
        Ok(TokenBatch {
            tokens: Tensor::new(&self.batch.input_ids[..], device)?,
            segments: segments.map(|s| (s.rows, s.width)).collect(),
            positions: Tensor::new(positions, device)?,
            targets: Tensor::new(targets, device)?,
        })
    }

    /// The sum of each sample's losses.
    fn sums(&self, losses: &[f32]) -> Vec<f64> {
        let mut losses = losses.iter().map(|&loss| f64::from(loss));
        let counts = self.batch.row_targets.iter();
        counts
            .map(|&count| losses.by_ref().take(count).sum())
            .collect()
    }

    /// The losses of the pairs, of the targets' losses and the sums of the reference.
    fn pairs(
        &self,
        preference: PreferenceLoss,
        losses: &[f32],
        reference: &[f64],
    ) -> Vec<PairLoss> {
        let counts = self.batch.row_targets.iter();
        let answers: Vec<_> = counts
            .zip(self.sums(losses).into_iter().zip(reference))
            .map(|(&tokens, (nll, &reference_nll))| AnswerLikelihood {
                nll,
                tokens,
                reference_nll,
            })
            .collect();
        let (pairs, _) = answers.as_chunks::<2>();
        pairs
            .iter()
            .map(|[chosen, rejected]| preference.pair(chosen, rejected))
            .collect()
    }

    /// The weight of each target, which is that of its sample.
    #[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
    fn spread(&self, pairs: &[PairLoss]) -> Vec<f32> {
        let weights = pairs
            .iter()
            .flat_map(|pair| [pair.chosen_weight, pair.rejected_weight]);
        let counts = self.batch.row_targets.iter();
        counts
            .zip(weights)
            .flat_map(|(&count, weight)| std::iter::repeat_n(weight as f32, count))
            .collect()
    }
}

/// A seed that differs for every `number` (the finalizer of `SplitMix64`).
pub(super) fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed ^ number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
