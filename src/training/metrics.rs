//! The file that keeps what a run told: `metrics.jsonl`.

use super::event::TrainEvent;
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "metrics.jsonl";
const EXPECTED: &str = "a metrics.jsonl file";

/// Appends the events of a run to `metrics.jsonl`, one JSON object a line.
///
/// The key `event` of a line is `start`, `step`, `evaluation`, `checkpoint` or `end`; the other keys
/// are the fields of [`TrainEvent`]'s types. Times are in seconds, memory in bytes, and a number that
/// is not finite is null. A line reaches the operating system at once, so that it outlives the
/// process, though not a loss of power.
///
/// # Example
///
/// ```
/// use metal_candle::training::{MetricPoint, MetricsLog, TrainEvent, read_metrics};
/// use std::time::Duration;
///
/// # let output = tempfile::tempdir().unwrap();
/// # let output = output.path();
/// let mut log = MetricsLog::open(output, 0)?;
/// log.append(&TrainEvent::Evaluation {
///     step: 0,
///     loss: 2.5,
///     perplexity: 2.5_f64.exp(),
///     best: true,
///     elapsed: Duration::from_secs(1),
/// })?;
/// let points = read_metrics(log.path())?;
/// assert_eq!(points, [MetricPoint::Evaluation { step: 0, loss: 2.5 }]);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    length: u64,
}

impl MetricsLog {
    /// Opens `metrics.jsonl` in `output_dir`, which is made where it does not exist.
    ///
    /// A run that resumes after `first_step` steps keeps the lines up to that step; later ones, of a
    /// run that died after its last checkpoint, will come again and are dropped, and so is a last
    /// line that a crash cut in half. A run from step 0 begins with an empty file.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRow`] with the line for one that is not an event, [`Error::Io`] where the file
    /// cannot be read or written.
    pub fn open(output_dir: &Path, first_step: usize) -> Result<Self> {
        let path = output_dir.join(FILE);
        let failed = |e| Error::io(&path, EXPECTED, e);
        fs::create_dir_all(output_dir).map_err(failed)?;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(failed)?;
        let mut length = 0;
        if first_step > 0 {
            // Steps only grow in a file that every resumption left so: what is kept is its beginning.
            for_each_line(&path, |line, end| {
                let kept = line.step() <= first_step;
                if kept {
                    length = end;
                }
                kept
            })?;
        }
        if file.metadata().map_err(failed)?.len() > length {
            // One call: a process that dies here has done all of it or nothing.
            file.set_len(length).map_err(failed)?;
        }
        Ok(Self { path, file, length })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends an event.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where it cannot be written; the file then ends with the line before, and a later
    /// call may succeed.
    pub fn append(&mut self, event: &TrainEvent) -> Result<()> {
        let failed = |e| Error::io(&self.path, EXPECTED, e);
        let mut line = serde_json::to_vec(event).map_err(|e| failed(e.into()))?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // A full disk takes a part of a line.
            let _ = self.file.set_len(self.length);
            return Err(failed(error));
        }
        self.length += line.len() as u64;
        Ok(())
    }
}

/// What [`draw_loss`](super::draw_loss) draws of an event.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum MetricPoint {
    /// A step.
    Step {
        /// The number of the step, from 1.
        step: usize,
        /// Its loss; NaN where it was not finite.
        loss: f64,
        /// Its learning rate.
        learning_rate: f64,
    },
    /// An evaluation of the validation rows.
    Evaluation {
        /// Steps done.
        step: usize,
        /// The validation loss; NaN where it was not finite.
        loss: f64,
    },
}

impl MetricPoint {
    /// The point of an event, or none for events without a loss.
    #[must_use]
    pub fn of(event: &TrainEvent) -> Option<Self> {
        match event {
            TrainEvent::Step(report) => Some(Self::Step {
                step: report.step,
                loss: report.loss,
                learning_rate: report.learning_rate,
            }),
            TrainEvent::Evaluation { step, loss, .. } => Some(Self::Evaluation {
                step: *step,
                loss: *loss,
            }),
            _ => None,
        }
    }
}

/// Reads the losses of a `metrics.jsonl` in the order of the file.
///
/// A last line without its end, as a crash leaves it, is ignored.
///
/// # Errors
///
/// [`Error::FileNotFound`] or [`Error::Io`] where the file cannot be read, [`Error::InvalidRow`] with
/// the line for one that is not an event.
pub fn read_metrics(path: &Path) -> Result<Vec<MetricPoint>> {
    let mut points = vec![];
    for_each_line(path, |line, _| {
        points.extend(line.point());
        true
    })?;
    Ok(points)
}

/// What is read back of a line.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line {
    Start {
        first_step: usize,
    },
    Step {
        step: usize,
        #[serde(deserialize_with = "number_or_null")]
        loss: f64,
        #[serde(deserialize_with = "number_or_null")]
        learning_rate: f64,
    },
    Evaluation {
        step: usize,
        #[serde(deserialize_with = "number_or_null")]
        loss: f64,
    },
    Checkpoint {
        step: usize,
    },
    End {
        steps: usize,
    },
}

impl Line {
    /// Steps done.
    fn step(&self) -> usize {
        match self {
            Self::Start { first_step: step }
            | Self::Step { step, .. }
            | Self::Evaluation { step, .. }
            | Self::Checkpoint { step }
            | Self::End { steps: step } => *step,
        }
    }

    fn point(&self) -> Option<MetricPoint> {
        match *self {
            Self::Step {
                step,
                loss,
                learning_rate,
            } => Some(MetricPoint::Step {
                step,
                loss,
                learning_rate,
            }),
            Self::Evaluation { step, loss } => Some(MetricPoint::Evaluation { step, loss }),
            _ => None,
        }
    }
}

fn number_or_null<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// Calls `visit` with every whole line and the number of bytes up to its end, until it returns false.
fn for_each_line(path: &Path, mut visit: impl FnMut(&Line, u64) -> bool) -> Result<()> {
    let failed = |e| Error::io(path, EXPECTED, e);
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let mut bytes = vec![];
    let mut end = 0;
    for number in 1.. {
        bytes.clear();
        end += reader.read_until(b'\n', &mut bytes).map_err(failed)? as u64;
        if bytes.last() != Some(&b'\n') {
            break;
        }
        let line: Line = serde_json::from_slice(&bytes).map_err(|e| Error::InvalidRow {
            path: path.to_owned(),
            line: number,
            reason: format!("{e}; expected an event of a training run as a JSON object"),
        })?;
        if !visit(&line, end) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::{RunInfo, StepReport, StopReason, TrainSummary};
    use std::time::Duration;

    fn start(first_step: usize) -> TrainEvent {
        TrainEvent::Start(RunInfo {
            trainable_parameters: 10,
            parameters: 100,
            rows: 8,
            tokens: 80,
            target_tokens: 40,
            truncated: 1,
            skipped: 0,
            steps: 6,
            first_step,
            batches_per_epoch: 4,
            pack_efficiency: None,
            method: "lora".to_owned(),
            objective: "sft".to_owned(),
        })
    }

    fn step(step: usize, loss: f64) -> TrainEvent {
        TrainEvent::Step(StepReport {
            step,
            total_steps: 6,
            epoch: 0.25,
            loss,
            learning_rate: 1e-4,
            grad_norm: 1.0,
            target_tokens: 4,
            tokens: 8,
            tokens_so_far: 8 * step,
            tokens_per_second: f64::INFINITY,
            elapsed: Duration::from_millis(1500),
            remaining: Duration::ZERO,
            memory: 1,
            peak_memory: 2,
            preference: None,
        })
    }

    fn evaluation(step: usize) -> TrainEvent {
        TrainEvent::Evaluation {
            step,
            loss: 2.0,
            perplexity: 2.0_f64.exp(),
            best: true,
            elapsed: Duration::ZERO,
        }
    }

    fn checkpoint(step: usize) -> TrainEvent {
        TrainEvent::Checkpoint {
            step,
            path: "checkpoint".into(),
            best: false,
        }
    }

    fn end(steps: usize) -> TrainEvent {
        TrainEvent::End(TrainSummary {
            steps,
            loss: 1.0,
            validation_loss: None,
            best: None,
            stop: StopReason::Cancelled,
            tokens: 8,
            elapsed: Duration::ZERO,
        })
    }

    /// The events of a file, such as `step 3`.
    fn names(path: &Path) -> Vec<String> {
        let mut names = vec![];
        let text = fs::read_to_string(path).unwrap();
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let step = ["first_step", "step", "steps"].map(|key| line[key].as_u64());
            let step = step.iter().find_map(|step| *step).unwrap();
            names.push(format!("{} {step}", line["event"].as_str().unwrap()));
        }
        names
    }

    /// A run that was cancelled after step 4, with a checkpoint after step 3.
    fn write_run(directory: &Path) -> PathBuf {
        let mut log = MetricsLog::open(directory, 0).unwrap();
        let events = [
            start(0),
            evaluation(0),
            step(1, 3.0),
            step(2, f64::NAN),
            step(3, 2.5),
            evaluation(3),
            checkpoint(3),
            step(4, 2.25),
            end(4),
        ];
        for event in &events {
            log.append(event).unwrap();
        }
        log.path().to_owned()
    }

    #[test]
    fn what_was_written_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = write_run(&root.path().join("new/folder"));
        let text = fs::read_to_string(&path).unwrap();
        let third: serde_json::Value = serde_json::from_str(text.lines().nth(3).unwrap()).unwrap();
        assert!(third["loss"].is_null() && third["tokens_per_second"].is_null());
        assert_eq!(third["elapsed_seconds"], 1.5);
        assert!(third.get("preference").is_none());
        let points = read_metrics(&path).unwrap();
        assert_eq!(points.len(), 6);
        assert_eq!(points[0], MetricPoint::Evaluation { step: 0, loss: 2.0 });
        let step = |step, loss| MetricPoint::Step {
            step,
            loss,
            learning_rate: 1e-4,
        };
        assert_eq!(points[1], step(1, 3.0));
        assert!(matches!(points[2], MetricPoint::Step { step: 2, loss, .. } if loss.is_nan()));
        assert_eq!(points[5], step(4, 2.25));
        assert_eq!(
            MetricPoint::of(&self::step(4, 2.25)).unwrap(),
            points[5],
            "as from the event itself"
        );
        assert_eq!(MetricPoint::of(&end(4)), None);
    }

    #[test]
    fn a_resumed_run_drops_what_will_come_again() {
        let root = tempfile::tempdir().unwrap();
        let path = write_run(root.path());
        let whole = names(&path);
        let mut log = MetricsLog::open(root.path(), 3).unwrap();
        assert_eq!(names(&path), whole[..7]);
        log.append(&start(3)).unwrap();
        log.append(&step(4, 1.0)).unwrap();
        drop(log);
        // A second crash, before any further checkpoint.
        let mut log = MetricsLog::open(root.path(), 3).unwrap();
        log.append(&step(4, 1.0)).unwrap();
        assert_eq!(names(&path)[7..], ["start 3", "step 4"]);
        // As after a cancel, which leaves a checkpoint of the last step.
        MetricsLog::open(root.path(), 4).unwrap();
        assert_eq!(names(&path).len(), 9);
        // A new run in the same place.
        MetricsLog::open(root.path(), 0).unwrap();
        assert!(names(&path).is_empty());
        // Without an older file.
        fs::remove_file(&path).unwrap();
        MetricsLog::open(root.path(), 3).unwrap();
    }

    #[test]
    fn a_last_line_that_was_cut_anywhere_is_dropped() {
        let root = tempfile::tempdir().unwrap();
        let path = write_run(root.path());
        let text = fs::read(&path).unwrap();
        let last = text[..text.len() - 1].iter().rposition(|&b| b == b'\n');
        let last = last.unwrap() + 1;
        for cut in last..text.len() {
            fs::write(&path, &text[..cut]).unwrap();
            assert_eq!(read_metrics(&path).unwrap().len(), 6, "{cut}");
            let mut log = MetricsLog::open(root.path(), 4).unwrap();
            log.append(&step(5, 1.0)).unwrap();
            assert_eq!(names(&path)[7..], ["step 4", "step 5"], "{cut}");
        }
    }

    #[test]
    fn other_damage_names_the_line() {
        let root = tempfile::tempdir().unwrap();
        let path = write_run(root.path());
        let text = fs::read_to_string(&path).unwrap();
        for (from, to, reason) in [
            (
                "{\"event\":\"step\",\"step\":1",
                "{\"event\":\"step\"",
                "`step`",
            ),
            ("\"loss\":3.0,", "", "`loss`"),
            ("\"loss\":3.0", "\"loss\":\"low\"", "low"),
            (
                "\"event\":\"step\",\"step\":1",
                "\"event\":\"stop\"",
                "stop",
            ),
            ("\"event\":\"step\",\"step\":1", "", "expected an event"),
        ] {
            assert!(text.contains(from), "{from}");
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let error = read_metrics(&path).unwrap_err();
            assert!(
                matches!(&error, Error::InvalidRow { line: 3, .. }),
                "{error:?}"
            );
            let message = error.to_string();
            assert!(message.contains(path.to_str().unwrap()), "{message}");
            assert!(message.contains(reason), "{message}");
            assert!(MetricsLog::open(root.path(), 3).is_err());
        }
        fs::remove_file(&path).unwrap();
        let error = read_metrics(&path).unwrap_err();
        assert!(matches!(error, Error::FileNotFound { .. }), "{error:?}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(FILE);
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut log = MetricsLog::open(root.path(), 0).unwrap();
        let error = log.append(&start(0)).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()));
    }
}
