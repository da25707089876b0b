//! The training loop.

use super::batch::BatchLayout;
use super::batch_order::{BatchOrder, BatchOrderOptions, Batching};
use super::dataset::Dataset;
use super::event::{
    BestEvaluation, PreferenceReport, RunInfo, StepReport, StopReason, TrainEvent, TrainSummary,
};
use super::gradient::{GradientSource, Share, mix};
use super::method::TrainMethod;
use super::optimizer::{Optimizer, WeightShape};
use super::options::TrainOptions;
use super::output::RunOutput;
use super::row::{Row, RowKind};
use crate::backend::{device, memory};
use crate::cancel::CancelHandle;
use crate::checkpoint::{Checkpoint, Progress};
use crate::error::{Error, Result};
use crate::models::full_weights::FullWeights;
use crate::models::trained_weights::TrainedWeights;
use crate::models::{LoRAAdapter, Model};
use candle_core::Tensor;
use serde_json::Value;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NOT_FINITE: &str = "try a lower learning rate, a smaller max_grad_norm or f32 weights";

/// Fine-tunes a model: an adapter beside it, which leaves the model as it is, or a copy of its weights.
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
    /// Steps of the whole run.
    steps: usize,
    trained: TrainedWeights,
    optimizer: Optimizer,
    progress: Progress,
    /// The one that the run wrote last, or began with.
    last_checkpoint: Option<PathBuf>,
    cancel: CancelHandle,
}

impl LoRATrainer {
    /// A trainer from the start: with a new adapter, or from the model's weights.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for options out of range or that do not fit the rows, for rows with
    /// tokens that the model does not have, and for full fine-tuning of a quantised model;
    /// [`Error::ContextFull`] for rows that are longer than the model's context.
    pub fn new(
        model: &Model,
        train: Dataset,
        validation: Option<Dataset>,
        options: TrainOptions,
    ) -> Result<Self> {
        options.validate()?;
        let trained = match &options.method {
            TrainMethod::LoRA(config) => {
                TrainedWeights::Adapter(LoRAAdapter::new(config.clone(), model, options.seed)?)
            }
            TrainMethod::Full { layers } => {
                TrainedWeights::Full(Box::new(FullWeights::new(model, layers)?))
            }
        };
        Self::start(model, train, validation, options, trained)
    }

    /// A trainer that goes on with an adapter, with a new optimizer. The adapter's configuration
    /// takes the place of `options.method`.
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
        options.method = adapter.config().clone().into();
        adapter.check(model.config())?;
        let trained = TrainedWeights::Adapter(adapter);
        Self::start(model, train, validation, options, trained)
    }

    fn start(
        model: &Model,
        train: Dataset,
        validation: Option<Dataset>,
        options: TrainOptions,
        trained: TrainedWeights,
    ) -> Result<Self> {
        options.validate()?;
        let data = RunData::new(model, train, validation, &options)?;
        let optimizer = device::completed(model.device(), || {
            Optimizer::new(options.optimizer, trained.weights(), &shapes(&trained))
        })?;
        let progress = Progress::default();
        Ok(Self::assemble(
            model, data, options, trained, optimizer, progress,
        ))
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
        let data = RunData::new(model, train, validation, &options)?;
        let settings = settings(&options, data.steps, &data.train);
        saved.check_settings(checkpoint, &settings)?;
        let optimizer = Optimizer::resume(
            options.optimizer,
            &shapes(&saved.trained),
            |name, len| saved.optimizer_part(checkpoint, name, len),
            saved.progress.step,
        )?;
        let Checkpoint {
            trained, progress, ..
        } = saved;
        Ok(Self {
            last_checkpoint: Some(checkpoint.to_owned()),
            ..Self::assemble(model, data, options, trained, optimizer, progress)
        })
    }

    fn assemble(
        model: &Model,
        data: RunData,
        options: TrainOptions,
        trained: TrainedWeights,
        optimizer: Optimizer,
        progress: Progress,
    ) -> Self {
        Self {
            model: model.clone(),
            steps: data.steps,
            order: data.order,
            train: data.train,
            validation: data.validation,
            options,
            trained,
            optimizer,
            progress,
            last_checkpoint: None,
            cancel: CancelHandle::default(),
        }
    }

    /// The adapter as trained so far, or none where the model's weights are trained.
    #[must_use]
    pub fn adapter(&self) -> Option<&LoRAAdapter> {
        match &self.trained {
            TrainedWeights::Adapter(adapter) => Some(adapter),
            TrainedWeights::Full(_) => None,
        }
    }

    /// The model as trained so far: with the adapter merged into its weights, or with its new weights.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`] where the device is out of memory.
    pub fn trained_model(&self) -> Result<Model> {
        match &self.trained {
            TrainedWeights::Adapter(adapter) => self.model.merge(adapter),
            TrainedWeights::Full(full) => Ok(self.model.with_decoder(full.decoder().clone())),
        }
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// Steps done so far, those before a resumption included.
    #[must_use]
    pub fn step_count(&self) -> usize {
        self.progress.step
    }

    /// Steps of the whole run: those of the options, or those that the epochs take.
    #[must_use]
    pub fn total_steps(&self) -> usize {
        self.steps
    }

    /// A handle that stops [`LoRATrainer::train`] from any thread, within a step.
    #[must_use]
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// What the run is about to do.
    #[must_use]
    pub fn info(&self) -> RunInfo {
        let trainable_parameters = self.trained.weights().elem_count();
        let added = self.adapter().map_or(0, LoRAAdapter::parameter_count);
        RunInfo {
            trainable_parameters,
            parameters: self.model.parameter_count() + added,
            rows: self.train.len(),
            tokens: self.train.tokens(),
            target_tokens: self.train.target_tokens(),
            truncated: self.train.truncated(),
            skipped: self.train.skipped_count(),
            steps: self.steps,
            first_step: self.progress.step,
            batches_per_epoch: self.order.batches_per_epoch(),
            pack_efficiency: self.order.pack_efficiency(),
            method: self.options.method.name(&self.model).to_owned(),
            objective: self
                .options
                .preference
                .map_or("sft", |preference| preference.name())
                .to_owned(),
        }
    }

    /// Trains until all steps are done, until the validation loss no longer falls where that ends the
    /// run, or until the callback returns [`ControlFlow::Break`] or another thread cancels, which ends
    /// it within a step. A cancelled run leaves a checkpoint of its last whole step where there is an
    /// `output_dir`, and a later call goes on.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for an `output_dir` that has the checkpoints of another run;
    /// [`Error::NonFinite`] for a loss or gradient that is not a number, with the rows of the batch
    /// and the last checkpoint; what is trained then is as before that step. [`Error::Io`] where the
    /// output cannot be written, [`Error::Backend`] where the device fails.
    pub fn train(
        &mut self,
        mut on_event: impl FnMut(&TrainEvent) -> ControlFlow<()>,
    ) -> Result<TrainSummary> {
        self.cancel.reset();
        let mut run = Run {
            started: Instant::now(),
            first_step: self.progress.step,
            output: match &self.options.output_dir {
                Some(directory) => Some(RunOutput::open(directory, self.progress.step)?),
                None => None,
            },
            loss: f64::NAN,
            validation_loss: None,
            interrupted: false,
            on_event: &mut on_event,
        };
        let info = self.info();
        tracing::info!(
            method = info.method,
            objective = info.objective,
            rows = info.rows,
            tokens = info.tokens,
            trainable_parameters = info.trainable_parameters,
            first_step = info.first_step,
            steps = info.steps,
            "training begins"
        );
        let ended = self.run(&mut run);
        // A request ends this run and not what is asked for after it.
        self.cancel.reset();
        // The curve of a run that failed is of use, too.
        let drawn = match &run.output {
            Some(output) => output.draw(),
            None => Ok(()),
        };
        let summary = ended?;
        drawn?;
        tracing::info!(
            steps = summary.steps,
            stop = ?summary.stop,
            loss = summary.loss,
            validation_loss = summary.validation_loss,
            seconds = summary.elapsed.as_secs_f32(),
            "training ended"
        );
        run.tell(&TrainEvent::End(summary.clone()))?;
        Ok(summary)
    }

    fn run(&mut self, run: &mut Run<'_>) -> Result<TrainSummary> {
        run.tell(&TrainEvent::Start(self.info()))?;
        let mut stop = StopReason::Finished;
        if run.first_step == 0 {
            self.evaluate_into(run)?;
        }
        while self.progress.step < self.steps {
            if run.interrupted || self.cancel.is_requested() {
                stop = StopReason::Cancelled;
                break;
            }
            match self.step() {
                Ok(report) => self.report(run, report)?,
                Err(Error::Cancelled) => {
                    stop = StopReason::Cancelled;
                    break;
                }
                Err(error) => return Err(self.with_checkpoint(error)),
            }
            let done = self.progress.step;
            let last = done == self.steps;
            let mut is_best = false;
            if last || due(done, self.options.eval_every) {
                is_best = self.evaluate_into(run)?;
            }
            if is_best || (!last && due(done, self.options.save_every)) {
                self.checkpoint_into(run, is_best)?;
            }
            let patience = self.options.early_stopping_patience;
            if !last && patience > 0 && self.progress.evaluations_since_best >= patience {
                stop = StopReason::EarlyStopping;
                break;
            }
        }
        if stop == StopReason::Cancelled {
            if self.progress.step > run.first_step {
                self.checkpoint_into(run, false)?;
            }
        } else if let Some(directory) = &self.options.output_dir {
            match &self.trained {
                TrainedWeights::Adapter(adapter) => adapter.save(directory)?,
                TrainedWeights::Full(_) => self.trained_model()?.save(directory.join("model"))?,
            }
        }
        Ok(self.summary(run, stop))
    }

    fn summary(&self, run: &Run<'_>, stop: StopReason) -> TrainSummary {
        let path = |step| {
            let output = run.output.as_ref()?;
            output.existing_checkpoint(step)
        };
        TrainSummary {
            steps: self.progress.step,
            loss: run.loss,
            validation_loss: run.validation_loss,
            best: self.progress.best.map(|(step, loss)| BestEvaluation {
                step,
                loss,
                path: path(step),
            }),
            stop,
            tokens: self.progress.tokens,
            elapsed: run.started.elapsed(),
        }
    }

    /// Completes and tells the report of a step.
    fn report(&self, run: &mut Run<'_>, mut report: StepReport) -> Result<()> {
        report.elapsed = run.started.elapsed();
        let left = self.steps - report.step;
        let done = report.step - run.first_step;
        report.remaining = report.elapsed.mul_f64(ratio(left, done));
        run.loss = report.loss;
        run.tell(&TrainEvent::Step(report))
    }

    /// One optimizer step.
    ///
    /// # Errors
    ///
    /// As [`LoRATrainer::train`], and [`Error::Cancelled`] where another thread cancels.
    pub fn step(&mut self) -> Result<StepReport> {
        let started = Instant::now();
        let step = self.progress.step;
        let accumulation = self.options.gradient_accumulation;
        let mut total = Share::default();
        let mut tokens = 0;
        let mut row_numbers = vec![];
        for number in step * accumulation..(step + 1) * accumulation {
            let indices = self.order.indices(number);
            let rows = rows(&self.train, &indices)?;
            tokens += rows.iter().map(Row::tokens).sum::<usize>();
            row_numbers.extend(indices);
            total.add(self.source(number).batch(&rows)?)?;
        }
        let count = total.count();
        let loss = total.loss / count;
        self.check_finite("loss", loss, &row_numbers)?;
        let Some(gradient) = total.gradient else {
            return Err(Error::option("gradient_accumulation", 0, "at least 1"));
        };
        let learning_rate = self.options.schedule.learning_rate(
            self.options.learning_rate,
            self.options.min_learning_rate,
            step,
            self.options.warmup_steps,
            self.steps,
        );
        // Taken over when the device has done all of it: a step that fails changes nothing.
        let (grad_norm, weights, optimizer) = device::completed(self.model.device(), || {
            self.update(&gradient, count, learning_rate, &row_numbers)
        })?;
        self.trained.set_weights(weights, self.model.decoder())?;
        self.optimizer = optimizer;
        self.progress.step += 1;
        self.progress.tokens += tokens;
        let memory = memory::usage();
        let batches = self.progress.step * accumulation;
        Ok(StepReport {
            step: self.progress.step,
            total_steps: self.steps,
            epoch: ratio(batches, self.order.batches_per_epoch()),
            loss,
            learning_rate,
            grad_norm,
            target_tokens: total.target_tokens,
            tokens,
            tokens_so_far: self.progress.tokens,
            tokens_per_second: ratio(tokens, 1) / started.elapsed().as_secs_f64(),
            elapsed: started.elapsed(),
            remaining: Duration::ZERO,
            memory: memory.current,
            peak_memory: memory.peak,
            preference: PreferenceReport::of(&total.pairs),
        })
    }

    /// Divides the summed gradient by what was summed and clips it. Gives the norm before clipping,
    /// and weights and optimizer after the step.
    fn update(
        &self,
        gradient: &Tensor,
        count: f64,
        learning_rate: f64,
        rows: &[usize],
    ) -> Result<(f64, Tensor, Optimizer)> {
        let norm = gradient.sqr()?.sum_all()?.to_scalar::<f32>()?;
        let norm = f64::from(norm).sqrt() / count;
        self.check_finite("gradient norm", norm, rows)?;
        let limit = self.options.max_grad_norm;
        // As in PyTorch's clip_grad_norm_.
        let clip = if limit > 0.0 {
            (limit / (norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        let gradient = (gradient * (clip / count))?;
        let mut optimizer = self.optimizer.clone();
        let weights = optimizer.step(self.trained.weights(), &gradient, learning_rate)?;
        Ok((norm, weights, optimizer))
    }

    fn source(&self, batch_number: usize) -> GradientSource<'_> {
        let p = match &self.options.method {
            TrainMethod::LoRA(config) => config.dropout,
            TrainMethod::Full { .. } => 0.0,
        };
        GradientSource {
            base: self.model.decoder(),
            trained: &self.trained,
            preference: self.options.preference,
            layout: match self.options.batching {
                Batching::Packed => BatchLayout::Packed,
                Batching::Plain | Batching::LengthBuckets => BatchLayout::Padded,
            },
            label_smoothing: self.options.label_smoothing,
            grad_checkpoint: self.options.grad_checkpoint,
            dropout: (p, mix(self.options.seed, batch_number as u64)),
            cancel: &self.cancel,
        }
    }

    /// The mean loss of the validation rows, or none where there are no such rows: the negative
    /// log-likelihood of a target token, or the loss of a pair where the objective is a preference.
    ///
    /// # Errors
    ///
    /// [`Error::NonFinite`] for a loss that is not a number, [`Error::Backend`] where the device
    /// fails, [`Error::Cancelled`] where another thread cancels.
    pub fn evaluate(&self) -> Result<Option<f64>> {
        let Some(validation) = &self.validation else {
            return Ok(None);
        };
        let size = self.options.batch_size;
        let limit = match self.options.eval_batches {
            0 => validation.len(),
            limit => limit.saturating_mul(size).min(validation.len()),
        };
        let indices: Vec<_> = (0..limit).collect();
        let source = self.source(0);
        let mut total = Share::default();
        for indices in indices.chunks(size) {
            let rows = rows(validation, indices)?;
            total.add(source.loss(&rows)?)?;
        }
        let loss = total.loss / total.count();
        if !loss.is_finite() {
            return Err(not_finite("validation loss", self.progress.step, vec![]));
        }
        Ok(Some(loss))
    }

    /// Writes a checkpoint of this moment to `directory`, which appears whole or not at all.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it cannot be written; an older checkpoint of that name then is still
    /// there.
    pub fn save_checkpoint(&self, directory: &Path) -> Result<()> {
        let parts = self.optimizer.state().into_iter();
        Checkpoint {
            trained: self.trained.clone(),
            optimizer: parts
                .map(|(name, part)| (name.to_owned(), part.clone()))
                .collect(),
            progress: self.progress.clone(),
            settings: settings(&self.options, self.steps, &self.train),
        }
        .save(directory)
    }

    /// Whether the evaluation, if there is one, was the best so far.
    fn evaluate_into(&mut self, run: &mut Run<'_>) -> Result<bool> {
        if self.options.eval_every == 0 {
            return Ok(false);
        }
        let loss = match self.evaluate() {
            Ok(Some(loss)) => loss,
            Ok(None) => return Ok(false),
            Err(Error::Cancelled) => {
                run.interrupted = true;
                return Ok(false);
            }
            Err(error) => return Err(self.with_checkpoint(error)),
        };
        run.validation_loss = Some(loss);
        let step = self.progress.step;
        let delta = self.options.early_stopping_min_delta;
        let best = self
            .progress
            .best
            .is_none_or(|(_, best)| loss < best - delta);
        if best {
            self.progress.best = Some((step, loss));
            self.progress.evaluations_since_best = 0;
        } else {
            self.progress.evaluations_since_best += 1;
        }
        run.tell(&TrainEvent::Evaluation {
            step,
            loss,
            perplexity: loss.exp(),
            best,
            elapsed: run.started.elapsed(),
        })?;
        // Before the first step there is nothing to keep.
        Ok(best && step > 0)
    }

    fn checkpoint_into(&mut self, run: &mut Run<'_>, best: bool) -> Result<()> {
        let Some(output) = &run.output else {
            return Ok(());
        };
        let step = self.progress.step;
        let path = output.checkpoint_path(step);
        self.save_checkpoint(&path)?;
        if let (true, Some((_, loss))) = (best, self.progress.best) {
            output.record_best(step, loss)?;
        }
        output.prune(step, self.options.keep_checkpoints)?;
        tracing::info!(path = %path.display(), step, best, "wrote a checkpoint");
        self.last_checkpoint = Some(path.clone());
        run.tell(&TrainEvent::Checkpoint { step, path, best })
    }

    fn check_finite(&self, what: &'static str, value: f64, rows: &[usize]) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        let rows = rows.iter().map(|&row| self.train.row_name(row)).collect();
        Err(not_finite(what, self.progress.step, rows))
    }

    /// Names the last checkpoint in an error of numbers that are not finite.
    fn with_checkpoint(&self, mut error: Error) -> Error {
        if let Error::NonFinite { checkpoint, .. } = &mut error {
            checkpoint.clone_from(&self.last_checkpoint);
        }
        error
    }
}

/// The rows of a run, and how it goes through them.
struct RunData {
    train: Dataset,
    validation: Option<Dataset>,
    order: BatchOrder,
    steps: usize,
}

impl RunData {
    /// Checks that the model and the options take the rows.
    fn new(
        model: &Model,
        train: Dataset,
        validation: Option<Dataset>,
        options: &TrainOptions,
    ) -> Result<Self> {
        check_rows("train", &train, model, options)?;
        if let Some(validation) = &validation {
            check_rows("validation", validation, model, options)?;
        }
        let order = batch_order(&train, options)?;
        Ok(Self {
            steps: options.total_steps(order.batches_per_epoch())?,
            order,
            train,
            validation,
        })
    }
}

/// One call of [`LoRATrainer::train`].
struct Run<'a> {
    started: Instant,
    first_step: usize,
    output: Option<RunOutput>,
    /// Of the last step.
    loss: f64,
    validation_loss: Option<f64>,
    /// Whether the callback asked to stop.
    interrupted: bool,
    on_event: &'a mut dyn FnMut(&TrainEvent) -> ControlFlow<()>,
}

impl Run<'_> {
    /// Tells the host program and the log.
    fn tell(&mut self, event: &TrainEvent) -> Result<()> {
        if let Some(output) = &mut self.output {
            output.log(event)?;
        }
        self.interrupted |= (self.on_event)(event).is_break();
        Ok(())
    }
}

/// Where each matrix and vector that is trained lies.
fn shapes(trained: &TrainedWeights) -> Vec<WeightShape> {
    let parts = trained.parts().into_iter();
    parts
        .map(|(_, offset, dims, hidden)| WeightShape {
            offset,
            dims,
            hidden,
        })
        .collect()
}

fn batch_order(train: &Dataset, options: &TrainOptions) -> Result<BatchOrder> {
    let lengths = train.lengths();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    if options.batching == Batching::Packed && longest > options.pack_length {
        let expected = format!("at least {longest}, the tokens of the longest row");
        return Err(Error::option("pack_length", options.pack_length, expected));
    }
    let order = BatchOrderOptions {
        batch_size: options.batch_size,
        seed: options.seed,
        shuffle: options.shuffle,
        batching: options.batching,
        max_seq_length: options.pack_length,
    };
    BatchOrder::new(&lengths, order)
}

fn rows(dataset: &Dataset, indices: &[usize]) -> Result<Vec<Row>> {
    indices.iter().map(|&index| dataset.row(index)).collect()
}

/// Everything that decides the losses of a run, the rows included.
fn settings(options: &TrainOptions, steps: usize, train: &Dataset) -> Value {
    let mut settings = options.trajectory(steps);
    settings["dataset"] = train.fingerprint().to_string().into();
    settings
}

fn check_rows(
    name: &'static str,
    dataset: &Dataset,
    model: &Model,
    options: &TrainOptions,
) -> Result<()> {
    let config = model.config();
    let needed = dataset.lengths().into_iter().max().unwrap_or(0);
    if needed > config.max_position_embeddings {
        return Err(Error::ContextFull {
            needed,
            capacity: config.max_position_embeddings,
        });
    }
    let id = dataset.max_token_id();
    if id as usize >= config.vocab_size {
        return Err(Error::option(
            name,
            format!("token id {id} in {}", dataset.path().display()),
            format!("ids below the vocabulary size of {}", config.vocab_size),
        ));
    }
    match (dataset.kind(), options.preference) {
        (RowKind::Sample, None) | (RowKind::Pair, Some(_)) => Ok(()),
        (RowKind::Pair, None) => {
            let expected = "a loss for preferences, `dpo` or `orpo`, in the option `preference`";
            Err(Error::option(name, "rows of preferences", expected))
        }
        (RowKind::Sample, Some(preference)) => {
            let found = format!("rows of texts for {}", preference.name());
            let expected = "rows with `prompt`, `chosen` and `rejected`";
            Err(Error::option(name, found, expected))
        }
    }
}

fn not_finite(what: &'static str, step: usize, rows: Vec<String>) -> Error {
    Error::NonFinite {
        what,
        step,
        rows,
        checkpoint: None,
        hint: NOT_FINITE,
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
