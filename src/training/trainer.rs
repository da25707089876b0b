//! The training loop.

use super::batch::{Batch, BatchLayout};
use super::batch_order::{BatchOrder, BatchOrderOptions, Batching};
use super::dataset::Dataset;
use super::event::{BestEvaluation, StepReport, StopReason, TrainEvent, TrainSummary};
use super::optimizer::AdamW;
use super::options::TrainOptions;
use super::row::{Row, RowKind};
use super::sample::Sample;
use crate::backend::{device, memory};
use crate::cancel::CancelHandle;
use crate::checkpoint::{Checkpoint, checkpoint_path};
use crate::error::{Error, Result};
use crate::models::decoder::{Dropout, Objective, StepOptions, TokenBatch};
use crate::models::trained_weights::TrainedWeights;
use crate::models::{LoRAAdapter, Model};
use candle_core::Tensor;
use rayon::prelude::*;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

const NOT_FINITE: &str = "try a lower learning rate, a smaller max_grad_norm or f32 weights";

/// Trains a LoRA adapter for a model; the model itself does not change.
///
/// # Example
///
/// ```
/// use metal_candle::training::{Dataset, DatasetOptions, LoRATrainer, TrainEvent, TrainOptions};
/// use metal_candle::ModelLoader;
/// use std::ops::ControlFlow;
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let rows = Dataset::from_jsonl(
///     "assets/sql/train.jsonl".as_ref(),
///     &model,
///     &DatasetOptions::default(),
/// )?;
/// let options = TrainOptions {
///     steps: 2,
///     ..TrainOptions::default()
/// };
/// let mut trainer = LoRATrainer::new(&model, rows, None, options)?;
/// let summary = trainer.train(|event| {
///     if let TrainEvent::Step(step) = event {
///         println!("{}: {:.3}", step.step, step.loss);
///     }
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(summary.steps, 2);
/// let adapter = trainer.adapter();
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug)]
pub struct LoRATrainer {
    model: Model,
    train: Dataset,
    validation: Option<Dataset>,
    options: TrainOptions,
    order: BatchOrder,
    adapter: LoRAAdapter,
    optimizer: AdamW,
    /// Tokens since step 1.
    tokens: usize,
    cancel: CancelHandle,
}

impl LoRATrainer {
    /// A trainer with a new adapter.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for options out of range, and for rows with tokens that the model
    /// does not have.
    pub fn new(
        model: &Model,
        train: Dataset,
        validation: Option<Dataset>,
        options: TrainOptions,
    ) -> Result<Self> {
        options.validate()?;
        let adapter = LoRAAdapter::new(options.lora.clone(), model, options.seed)?;
        Self::from_adapter(model, train, validation, options, adapter)
    }

    /// A trainer that goes on with an adapter, with a new optimizer. The adapter's configuration
    /// takes the place of `options.lora`.
    ///
    /// # Errors
    ///
    /// As [`LoRATrainer::new`], and where the adapter is for a model of another shape.
    pub fn from_adapter(
        model: &Model,
        train: Dataset,
        validation: Option<Dataset>,
        mut options: TrainOptions,
        adapter: LoRAAdapter,
    ) -> Result<Self> {
        options.lora = adapter.config().clone();
        let optimizer = device::completed(model.device(), || {
            AdamW::new(options.adamw, adapter.weights())
        })?;
        Self::assemble(model, train, validation, options, adapter, optimizer)
    }

    /// A trainer that goes on where a checkpoint was written: on the CPU its losses are, bit for
    /// bit, those of the run that was not interrupted.
    ///
    /// # Errors
    ///
    /// As [`LoRATrainer::new`]; [`Error::Incompatible`] that names the first setting which differs
    /// from the checkpoint's and would change the losses, or where the rows are others.
    pub fn resume(
        model: &Model,
        train: Dataset,
        validation: Option<Dataset>,
        options: TrainOptions,
        checkpoint: &Path,
    ) -> Result<Self> {
        options.validate()?;
        let saved = Checkpoint::load(checkpoint, model)?;
        saved.check_settings(checkpoint, &settings(&options, &train))?;
        let optimizer = AdamW::resume(
            options.adamw,
            saved.first_moment,
            saved.second_moment,
            saved.step,
        );
        Self::assemble(model, train, validation, options, saved.adapter, optimizer)
    }

    fn assemble(
        model: &Model,
        train: Dataset,
        validation: Option<Dataset>,
        options: TrainOptions,
        adapter: LoRAAdapter,
        optimizer: AdamW,
    ) -> Result<Self> {
        options.validate()?;
        adapter.check(model.config())?;
        for dataset in [Some(&train), validation.as_ref()].into_iter().flatten() {
            check_rows(dataset, model)?;
        }
        let order = BatchOrderOptions {
            batch_size: options.batch_size,
            seed: options.seed,
            shuffle: options.shuffle,
            batching: Batching::Plain,
            ..BatchOrderOptions::default()
        };
        let order = BatchOrder::new(&train.lengths(), order)?;
        Ok(Self {
            model: model.clone(),
            order,
            tokens,
            train,
            validation,
            options,
            adapter,
            optimizer,
            cancel: CancelHandle::default(),
        })
    }

    /// The adapter as trained so far.
    #[must_use]
    pub fn adapter(&self) -> &LoRAAdapter {
        &self.adapter
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// Steps done so far, those before a resumption included.
    #[must_use]
    pub fn step_count(&self) -> usize {
        self.optimizer.steps
    }

    /// A handle that stops [`LoRATrainer::train`] from any thread.
    #[must_use]
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Trains until all steps are done, or until the callback returns [`ControlFlow::Break`] or
    /// another thread cancels. A stopped run leaves a checkpoint where there is an `output_dir`, and
    /// a later call goes on.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] for a loss or gradient that is not a number; the adapter then is as
    /// before that step. [`Error::Io`] where a checkpoint cannot be written, [`Error::Backend`]
    /// where the device fails.
    pub fn train(
        &mut self,
        mut on_event: impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<TrainSummary> {
        self.cancel.reset();
        let started = Instant::now();
        let first_step = self.step_count();
        let mut summary = TrainSummary {
            steps: first_step,
            loss: f64::NAN,
            validation_loss: None,
            best: None,
            stop: StopReason::Finished,
            tokens: self.tokens,
            elapsed: Duration::ZERO,
        };
        let mut interrupted = false;
        if first_step == 0 {
            interrupted |= self.evaluate_into(&mut summary, started, &mut on_event)?;
        }
        while !interrupted && self.step_count() < self.options.steps {
            if self.cancel.is_requested() {
                interrupted = true;
                break;
            }
            let mut report = self.step()?;
            report.elapsed = started.elapsed();
            let left = self.options.steps - report.step;
            report.remaining = report
                .elapsed
                .mul_f64(ratio(left, report.step - first_step));
            summary.steps = report.step;
            summary.loss = report.loss;
            summary.tokens = report.tokens_so_far;
            interrupted |= on_event(&TrainEvent::Step(report)).is_break();

            let done = self.step_count();
            let last = done == self.options.steps;
            if last || due(done, self.options.eval_every) {
                interrupted |= self.evaluate_into(&mut summary, started, &mut on_event)?;
            }
            if !last && due(done, self.options.save_every) {
                interrupted |= self.checkpoint_into(&mut on_event)?;
            }
        }
        if interrupted && self.step_count() < self.options.steps {
            summary.stop = StopReason::Cancelled;
            if self.step_count() > first_step {
                self.checkpoint_into(&mut on_event)?;
            }
        } else if let Some(directory) = &self.options.output_dir {
            self.adapter.save(directory)?;
        }
        summary.elapsed = started.elapsed();
        Ok(summary)
    }

    /// One optimizer step.
    ///
    /// # Errors
    ///
    /// As [`LoRATrainer::train`].
    pub fn step(&mut self) -> Result<StepReport> {
        let started = Instant::now();
        let step = self.step_count();
        let accumulation = self.options.gradient_accumulation;
        let (mut loss, mut gradient) = (0.0, None::<Tensor>);
        let (mut tokens, mut target_tokens) = (0, 0);
        for number in step * accumulation..(step + 1) * accumulation {
            let rows = rows(&self.train, self.order.indices(number))?;
            let samples: Vec<_> = rows.iter().flat_map(Row::samples).collect();
            tokens += samples
                .iter()
                .map(|sample| sample.input_ids.len())
                .sum::<usize>();
            for share in self.shares(&samples, number)? {
                target_tokens += share.target_tokens;
                loss += share.loss;
                gradient = Some(match gradient {
                    Some(sum) => device::scoped(self.model.device(), || sum + share.gradient)?,
                    None => share.gradient,
                });
            }
        }
        let count = ratio(target_tokens, 1);
        let loss = loss / count;
        check_finite("loss", loss, step)?;
        let Some(gradient) = gradient else {
            return Err(Error::option(
                "gradient_accumulation",
                accumulation,
                "at least 1",
            ));
        };
        let learning_rate = self.options.schedule.learning_rate(
            self.options.learning_rate,
            0.0,
            step,
            self.options.warmup_steps,
            self.options.steps,
        );
        // Taken over when the device has done all of it: a step that fails changes nothing.
        let (grad_norm, weights, optimizer) = device::completed(self.model.device(), || {
            self.update(&gradient, count, learning_rate)
        })?;
        self.adapter.set_weights(weights, self.model.decoder())?;
        self.optimizer = optimizer;
        self.tokens += tokens;
        let memory = memory::usage();
        let batches = self.step_count() * accumulation;
        Ok(StepReport {
            step: self.step_count(),
            total_steps: self.options.steps,
            epoch: ratio(batches, self.order.batches_per_epoch()),
            loss,
            learning_rate,
            grad_norm,
            target_tokens,
            tokens,
            tokens_so_far: self.tokens,
            tokens_per_second: ratio(tokens, 1) / started.elapsed().as_secs_f64(),
            elapsed: started.elapsed(),
            remaining: Duration::ZERO,
            memory: memory.current,
            peak_memory: memory.peak,
            preference: None,
        })
    }

    /// Divides the summed gradient by the number of targets and clips it. Gives the norm before
    /// clipping, and weights and optimizer after the step.
    fn update(
        &self,
        gradient: &Tensor,
        count: f64,
        learning_rate: f64,
    ) -> Result<(f64, Tensor, AdamW)> {
        let norm = gradient.sqr()?.sum_all()?.to_scalar::<f32>()?;
        let norm = f64::from(norm).sqrt() / count;
        check_finite("gradient norm", norm, self.step_count())?;
        let limit = self.options.max_grad_norm;
        // As in PyTorch's clip_grad_norm_.
        let clip = if limit > 0.0 {
            (limit / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        let gradient = (gradient * (clip / count))?;
        let mut optimizer = self.optimizer.clone();
        let weights = optimizer.step(self.adapter.weights(), &gradient, learning_rate)?;
        Ok((norm, weights, optimizer))
    }

    /// Losses and gradients of a batch, in the order of its rows.
    ///
    /// A CPU has more to give than one matrix product after the other can take, so each of its
    /// threads gets a share of the rows; a GPU gets the whole batch.
    fn shares(&self, samples: &[&Sample], batch_number: usize) -> Result<Vec<Share>> {
        if !self.model.device().is_cpu() {
            return Ok(vec![self.share(samples, batch_number, 0)?]);
        }
        let threads = rayon::current_num_threads();
        samples
            .par_chunks(samples.len().div_ceil(threads))
            .enumerate()
            .map(|(index, samples)| self.share(samples, batch_number, index))
            .collect()
    }

    fn share(&self, samples: &[&Sample], batch_number: usize, index: usize) -> Result<Share> {
        let batch = Batch::new(samples, BatchLayout::Padded)?;
        let p = self.options.lora.dropout;
        let options = StepOptions {
            checkpoint: self.options.grad_checkpoint,
            cancel: Some(&self.cancel),
            dropout: (p > 0.0).then(|| Dropout {
                p,
                seed: [batch_number, index]
                    .iter()
                    .fold(self.options.seed, |seed, &n| mix(seed, n as u64)),
            }),
        };
        device::completed(self.model.device(), || {
            let target_tokens = batch.target_tokens();
            let batch = self.upload(&batch)?;
            let (loss, gradient) = self.model.decoder().loss_and_gradient(
                &batch,
                &TrainedWeights::Adapter(self.adapter.clone()),
                Objective::Likelihood {
                    label_smoothing: 0.0,
                },
                &options,
            )?;
            Ok(Share {
                loss: f64::from(loss.to_scalar::<f32>()?),
                gradient,
                target_tokens,
            })
        })
    }

    fn upload(&self, batch: &Batch) -> Result<TokenBatch> {
        let device = self.model.device();
        let (positions, targets): (Vec<u32>, Vec<u32>) = batch.targets.iter().copied().unzip();
        Ok(TokenBatch {
            tokens: Tensor::new(&batch.input_ids[..], device)?,
            segments: batch.segments.iter().map(|s| (s.rows, s.width)).collect(),
            positions: Tensor::new(positions, device)?,
            targets: Tensor::new(targets, device)?,
        })
    }

    /// The mean negative log-likelihood of the validation rows' target tokens, or none where there
    /// are no such rows.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] for a loss that is not a number, [`Error::Backend`] where the device
    /// fails.
    pub fn evaluate(&self) -> Result<Option<f64>> {
        let Some(validation) = &self.validation else {
            return Ok(None);
        };
        let limit = match self.options.eval_batches {
            0 => usize::MAX,
            limit => limit,
        };
        let (mut loss, mut count) = (0.0, 0);
        let batch_size = self.options.batch_size;
        for start in (0..validation.len()).step_by(batch_size).take(limit) {
            let end = start.saturating_add(batch_size).min(validation.len());
            let rows = rows(validation, start..end)?;
            let samples: Vec<_> = rows.iter().flat_map(Row::samples).collect();
            let batch = Batch::new(&samples, BatchLayout::Padded)?;
            count += batch.target_tokens();
            loss += device::completed(self.model.device(), || {
                let batch = self.upload(&batch)?;
                let losses = self.model.decoder().losses(
                    &batch,
                    self.adapter.layers(),
                    &StepOptions::default(),
                )?;
                Ok(f64::from(losses.sum_all()?.to_scalar::<f32>()?))
            })?;
        }
        let loss = loss / ratio(count, 1);
        check_finite("validation loss", loss, self.step_count())?;
        Ok(Some(loss))
    }

    /// Writes a checkpoint of this moment to `directory`, which appears whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it cannot be written; an older checkpoint of that name then is still
    /// there.
    pub fn save_checkpoint(&self, directory: &Path) -> Result<()> {
        Checkpoint {
            adapter: self.adapter.clone(),
            first_moment: self.optimizer.first.clone(),
            second_moment: self.optimizer.second.clone(),
            step: self.optimizer.steps,
            settings: settings(&self.options, &self.train),
        }
        .save(directory)
    }

    fn evaluate_into(
        &self,
        summary: &mut TrainSummary,
        started: Instant,
        on_event: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<bool> {
        if self.options.eval_every == 0 {
            return Ok(false);
        }
        let Some(loss) = self.evaluate()? else {
            return Ok(false);
        };
        summary.validation_loss = Some(loss);
        let step = self.step_count();
        let best = summary.best.as_ref().is_none_or(|best| loss < best.loss);
        if best {
            let path = None;
            summary.best = Some(BestEvaluation { step, loss, path });
        }
        let event = TrainEvent::Evaluation {
            step,
            loss,
            perplexity: loss.exp(),
            best,
            elapsed: started.elapsed(),
        };
        Ok(on_event(&event).is_break())
    }

    fn checkpoint_into(
        &self,
        on_event: &mut impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<bool> {
        let Some(directory) = &self.options.output_dir else {
            return Ok(false);
        };
        let step = self.step_count();
        let path = checkpoint_path(directory, step);
        self.save_checkpoint(&path)?;
        let best = false;
        Ok(on_event(&TrainEvent::Checkpoint { step, path, best }).is_break())
    }
}

/// What a part of a batch's rows adds to a step.
struct Share {
    /// Summed over the target tokens.
    loss: f64,
    /// Of the summed loss.
    gradient: Tensor,
    target_tokens: usize,
}

/// A seed that differs for every `number` (the finalizer of `SplitMix64`).
fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed ^ number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Everything that decides the losses of a run, the rows included.
fn settings(options: &TrainOptions, train: &Dataset) -> serde_json::Value {
    let mut settings = options.trajectory();
    settings["dataset"] = train.fingerprint().to_string().into();
    settings
}

fn rows(dataset: &Dataset, indices: impl IntoIterator<Item = usize>) -> Result<Vec<Row>> {
    indices
        .into_iter()
        .map(|index| dataset.row(index))
        .collect()
}

fn check_rows(dataset: &Dataset, model: &Model) -> Result<()> {
    let config = model.config();
    if dataset.kind() == RowKind::Pair {
        return Err(Error::option(
            "dataset",
            "pairs of answers",
            "rows to imitate",
        ));
    }
    let longest = dataset.lengths().into_iter().max().unwrap_or(0);
    if longest > config.max_position_embeddings {
        return Err(Error::ContextFull {
            needed: longest,
            capacity: config.max_position_embeddings,
        });
    }
    let id = dataset.max_token_id();
    if id as usize >= config.vocab_size {
        return Err(Error::option(
            "dataset",
            format!("token id {id}"),
            format!("ids below the vocabulary size of {}", config.vocab_size),
        ));
    }
    Ok(())
}

fn check_finite(what: &'static str, value: f64, step: usize) -> Result<()> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(Error::NonFinite {
            what,
            step,
            hint: NOT_FINITE,
        })
    }
}

fn due(step: usize, every: usize) -> bool {
    every > 0 && step.is_multiple_of(every)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "counts of tokens and steps fit f64"
)]
fn ratio(a: usize, b: usize) -> f64 {
    a as f64 / b as f64
}
