//! What a run writes into its output directory.

use super::chart::draw_loss;
use super::event::TrainEvent;
use super::metrics::{MetricsLog, read_metrics};
use crate::checkpoint;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The output directory of a run: metrics, curve and checkpoints.
#[derive(Debug)]
pub(super) struct RunOutput {
    directory: PathBuf,
    metrics: MetricsLog,
}

impl RunOutput {
    /// The directory, for a run that goes on after `first_step` steps.
    ///
    /// A run from the start is refused a directory with checkpoints: they are of another run, which
    /// would be mixed up with this one.
    pub fn open(directory: &Path, first_step: usize) -> Result<Self> {
        if first_step == 0
            && let Some(of_another) = checkpoint::latest(directory)?
        {
            return Err(Error::option(
                "output_dir",
                format!("the directory of {}", of_another.display()),
                "a directory without checkpoints; resume from that one, or choose another",
            ));
        }
        checkpoint::clear_unfinished(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            metrics: MetricsLog::open(directory, first_step)?,
        })
    }

    pub fn log(&mut self, event: &TrainEvent) -> Result<()> {
        self.metrics.append(event)
    }

    /// Draws the losses of the whole run, those before a resumption included.
    pub fn draw(&self) -> Result<()> {
        let points = read_metrics(self.metrics.path())?;
        let name = self.directory.file_name().unwrap_or_default();
        draw_loss(
            &self.directory.join("loss.svg"),
            &points,
            &name.to_string_lossy(),
        )
    }

    pub fn checkpoint_path(&self, step: usize) -> PathBuf {
        checkpoint::checkpoint_path(&self.directory, step)
    }

    pub fn existing_checkpoint(&self, step: usize) -> Option<PathBuf> {
        let path = self.checkpoint_path(step);
        path.is_dir().then_some(path)
    }

    pub fn record_best(&self, step: usize, loss: f64) -> Result<()> {
        checkpoint::record_best(&self.directory, step, loss)
    }

    pub fn prune(&self, step: usize, keep_last: usize) -> Result<()> {
        checkpoint::prune(&self.directory, step, keep_last).map(|_| ())
    }
}
