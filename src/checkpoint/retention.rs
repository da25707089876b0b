//! The checkpoints of an output directory: which there are, the newest, the best, and which are kept.

use super::atomic::replace_file;
use super::peft::pretty;
use super::state::STATE;
use crate::error::{Error, Result};
use crate::models::json;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

const PREFIX: &str = "checkpoint-";
const BEST: &str = "best.json";
/// Of the hidden name that a checkpoint has while it is removed.
const REMOVED: &str = ".removed";

/// The checkpoint of a run's best evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct BestCheckpoint {
    /// Steps done.
    pub step: usize,
    /// The validation loss.
    pub loss: f64,
    /// The directory; whoever removes it by hand leaves its name here.
    pub path: PathBuf,
}

/// The directory of the checkpoint after `step` steps, such as `out/checkpoint-000100`.
#[must_use]
pub fn checkpoint_path(output_dir: &Path, step: usize) -> PathBuf {
    output_dir.join(format!("{PREFIX}{step:06}"))
}

/// The checkpoints in `output_dir` with their steps, ascending.
///
/// A directory without a readable `trainer_state.json` is none: a copy that was not finished, for
/// example. A directory that does not exist holds no checkpoints.
///
/// # Errors
///
/// [`Error::Io`] where the directory cannot be read.
pub fn checkpoints(output_dir: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let mut found: Vec<_> = names(output_dir)?
        .into_iter()
        .filter_map(|name| Some((step(&name)?, output_dir.join(name))))
        .filter(|(_, path)| is_whole(path))
        .collect();
    found.sort();
    Ok(found)
}

/// The checkpoint in `output_dir` with the most steps, or none.
///
/// # Errors
///
/// As [`checkpoints`].
pub fn latest(output_dir: &Path) -> Result<Option<PathBuf>> {
    Ok(checkpoints(output_dir)?.pop().map(|(_, path)| path))
}

/// The checkpoint that [`record_best`] named last, or none.
///
/// # Errors
///
/// [`Error::InvalidFormat`], [`Error::InvalidConfig`] or [`Error::Io`] that names `best.json`, where
/// that file is damaged.
pub fn best(output_dir: &Path) -> Result<Option<BestCheckpoint>> {
    let path = output_dir.join(BEST);
    let Some(value) = json::read_if_exists(&path, "the best.json of a training run")? else {
        return Ok(None);
    };
    let file = json::Object::new(&value, &path)?;
    let loss = file.get("loss").and_then(serde_json::Value::as_f64);
    // A name that leads elsewhere is none of ours.
    let checkpoint = file
        .string("checkpoint")?
        .filter(|name| step(name).is_some());
    Ok(Some(BestCheckpoint {
        step: file.required_size("step", usize::MAX)?,
        loss: loss.ok_or_else(|| file.invalid("loss", "a number"))?,
        path: output_dir.join(
            checkpoint.ok_or_else(|| file.invalid("checkpoint", "a name as checkpoint-000120"))?,
        ),
    }))
}

/// Names the checkpoint after `step` steps the best one, in `best.json`.
///
/// # Errors
///
/// [`Error::InvalidOption`] for a loss that is not finite, [`Error::Io`] where the file cannot be
/// written; the older one then is still there.
pub fn record_best(output_dir: &Path, step: usize, loss: f64) -> Result<()> {
    if !loss.is_finite() {
        return Err(Error::option("loss", loss, "a finite number"));
    }
    let record = pretty(&json!({
        "step": step,
        "loss": loss,
        "checkpoint": format!("{PREFIX}{step:06}"),
    }));
    let path = output_dir.join(BEST);
    let write = |staged: &Path| {
        fs::write(staged, record).map_err(|e| Error::io(&path, "a writable file", e))
    };
    replace_file(&path, write)
}

/// Of the checkpoints of the first `step` steps, removes all but the newest `keep_last` and the best
/// one, and gives the paths of those it removed; 0 keeps all. Later ones are of a run that went further,
/// and stay.
///
/// A checkpoint that is being removed has a hidden name, so that a process that dies then leaves none
/// that is half there; a later call removes the rest.
///
/// # Errors
///
/// [`Error::Io`] where a checkpoint cannot be removed, and those of [`best`], before anything is
/// removed.
pub fn prune(output_dir: &Path, step: usize, keep_last: usize) -> Result<Vec<PathBuf>> {
    if keep_last == 0 {
        return Ok(vec![]);
    }
    let best = best(output_dir)?.map(|best| best.path);
    for name in names(output_dir)? {
        let hidden = name
            .strip_prefix('.')
            .and_then(|name| name.strip_suffix(REMOVED));
        if hidden.and_then(self::step).is_some() {
            remove(&output_dir.join(name))?;
        }
    }
    let mut removed = checkpoints(output_dir)?;
    removed.retain(|(of, _)| *of <= step);
    removed.truncate(removed.len().saturating_sub(keep_last));
    removed.retain(|(_, path)| best.as_ref() != Some(path));
    let removed: Vec<_> = removed.into_iter().map(|(_, path)| path).collect();
    for path in &removed {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hidden = path.with_file_name(format!(".{name}{REMOVED}"));
        fs::rename(path, &hidden).map_err(|e| Error::io(path, "a checkpoint to remove", e))?;
        remove(&hidden)?;
    }
    Ok(removed)
}

/// Removes what killed processes left of checkpoints that they were writing.
pub(crate) fn clear_unfinished(output_dir: &Path) -> Result<()> {
    let own = format!(".partial-{}-", std::process::id());
    for name in names(output_dir)? {
        let of = name
            .strip_prefix('.')
            .and_then(|n| n.split_once(".partial-"));
        if of.is_some_and(|(of, _)| step(of).is_some()) && !name.contains(&own) {
            remove(&output_dir.join(name))?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).map_err(|e| Error::io(path, "a directory to remove", e))
}

/// The names in a directory that are UTF-8, in no order.
fn names(directory: &Path) -> Result<Vec<String>> {
    let failed = |e| Error::io(directory, "a readable directory", e);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        entries => entries.map_err(failed)?,
    };
    let mut names = vec![];
    for entry in entries {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}

/// The steps that the name of a checkpoint tells.
fn step(name: &str) -> Option<usize> {
    let step = name.strip_prefix(PREFIX)?;
    let digits = step.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| step.parse().ok()).flatten()
}

fn is_whole(checkpoint: &Path) -> bool {
    json::read(&checkpoint.join(STATE), "a trainer_state.json").is_ok_and(|state| state.is_object())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with what looks like checkpoints after these steps.
    fn output(steps: &[usize]) -> tempfile::TempDir {
        let output = tempfile::tempdir().unwrap();
        for step in steps {
            let path = checkpoint_path(output.path(), *step);
            fs::create_dir(&path).unwrap();
            fs::write(path.join(STATE), "{}").unwrap();
        }
        output
    }

    fn steps(output_dir: &Path) -> Vec<usize> {
        let found = checkpoints(output_dir).unwrap().into_iter();
        found.map(|(step, _)| step).collect()
    }

    fn all_names(output_dir: &Path) -> Vec<String> {
        let mut names = names(output_dir).unwrap();
        names.sort();
        names
    }

    #[test]
    fn only_whole_checkpoints_count() {
        let output = output(&[3, 20, 1_000_000, 100]);
        let path = output.path();
        assert_eq!(steps(path), [3, 20, 100, 1_000_000]);
        assert_eq!(
            latest(path).unwrap(),
            Some(checkpoint_path(path, 1_000_000))
        );
        for (step, state) in [
            (2_000_000, None),
            (1_000_001, Some("{\"step\"")),
            (1_000_002, Some("")),
        ] {
            let broken = checkpoint_path(path, step);
            fs::create_dir(&broken).unwrap();
            if let Some(state) = state {
                fs::write(broken.join(STATE), state).unwrap();
            }
        }
        fs::write(path.join("checkpoint-7"), "a file").unwrap();
        for name in [
            "checkpoint-",
            "checkpoint-x",
            "checkpoint-+8",
            ".checkpoint-9",
            "xcheckpoint-9",
        ] {
            fs::create_dir(path.join(name)).unwrap();
            fs::write(path.join(name).join(STATE), "{}").unwrap();
        }
        assert_eq!(steps(path), [3, 20, 100, 1_000_000]);
        assert_eq!(
            latest(path).unwrap(),
            Some(checkpoint_path(path, 1_000_000))
        );

        let missing = path.join("missing");
        assert_eq!(checkpoints(&missing).unwrap(), []);
        assert_eq!(latest(&missing).unwrap(), None);
        let error = checkpoints(&path.join("checkpoint-7")).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
    }

    #[test]
    fn the_best_is_what_was_recorded_last() {
        let output = output(&[]);
        let path = output.path();
        assert_eq!(best(path).unwrap(), None);
        for (step, loss) in [(120, 1.0 / 3.0), (7, 0.1)] {
            record_best(path, step, loss).unwrap();
            let expected = BestCheckpoint {
                step,
                loss,
                path: checkpoint_path(path, step),
            };
            assert_eq!(best(path).unwrap(), Some(expected));
        }
        assert_eq!(all_names(path), [BEST]);
        let error = record_best(path, 8, f64::NAN).unwrap_err();
        assert!(error.to_string().contains("`loss` is NaN"), "{error}");
        assert_eq!(best(path).unwrap().unwrap().step, 7);
        let error = record_best(&path.join(BEST), 8, 1.0).unwrap_err();
        assert!(error.to_string().contains("best.json/best.json"), "{error}");
    }

    #[test]
    fn a_damaged_best_names_the_file_and_nothing_is_removed() {
        let output = output(&[1, 2, 3]);
        let path = output.path();
        for (text, word) in [
            ("{\"step\": 1", "truncated"),
            ("[]", "expected an object"),
            (
                "{\"loss\": 1, \"checkpoint\": \"checkpoint-000001\"}",
                "`step`",
            ),
            (
                "{\"step\": 1, \"checkpoint\": \"checkpoint-000001\"}",
                "`loss`",
            ),
            ("{\"step\": 1, \"loss\": 1}", "`checkpoint`"),
            (
                "{\"step\": 1, \"loss\": 1, \"checkpoint\": \"../x\"}",
                "`checkpoint`",
            ),
        ] {
            fs::write(path.join(BEST), text).unwrap();
            for error in [
                best(path).unwrap_err(),
                prune(path, usize::MAX, 1).unwrap_err(),
            ] {
                let message = error.to_string();
                assert!(
                    message.contains(BEST) && message.contains(word),
                    "{message}"
                );
            }
        }
        assert_eq!(steps(path), [1, 2, 3]);
    }

    #[test]
    fn the_newest_and_the_best_are_kept() {
        let output = output(&[10, 20, 30, 40, 50]);
        let path = output.path();
        assert!(prune(path, usize::MAX, 0).unwrap().is_empty());
        assert!(prune(path, usize::MAX, 5).unwrap().is_empty());
        assert_eq!(steps(path).len(), 5);
        record_best(path, 20, 1.0).unwrap();
        // Not whole, so neither counted nor touched.
        let broken = checkpoint_path(path, 60);
        fs::create_dir(&broken).unwrap();
        let removed = [10, 30].map(|step| checkpoint_path(path, step));
        assert_eq!(prune(path, usize::MAX, 2).unwrap(), removed);
        assert_eq!(steps(path), [20, 40, 50]);
        // The best one may be among the newest.
        record_best(path, 50, 0.5).unwrap();
        assert_eq!(prune(path, usize::MAX, 1).unwrap().len(), 2);
        assert_eq!(
            all_names(path),
            [BEST, "checkpoint-000050", "checkpoint-000060"]
        );
    }

    #[test]
    fn what_a_dying_process_left_half_removed_goes() {
        let output = output(&[1, 2]);
        let path = output.path();
        for hidden in [".checkpoint-000001.removed", ".checkpoint-000009.removed"] {
            fs::create_dir(path.join(hidden)).unwrap();
            fs::write(path.join(hidden).join(STATE), "{}").unwrap();
        }
        fs::create_dir(path.join(".other.removed")).unwrap();
        assert_eq!(latest(path).unwrap(), Some(checkpoint_path(path, 2)));
        assert_eq!(
            prune(path, usize::MAX, 1).unwrap(),
            [checkpoint_path(path, 1)]
        );
        assert_eq!(all_names(path), [".other.removed", "checkpoint-000002"]);
    }

    #[test]
    fn checkpoints_of_a_run_that_went_further_stay() {
        let output = output(&[1, 2, 3, 8, 9]);
        let removed = prune(output.path(), 3, 1).unwrap();
        assert_eq!(removed.len(), 2);
        assert_eq!(steps(output.path()), [3, 8, 9]);
    }

    #[test]
    fn what_a_killed_process_was_writing_is_cleared() {
        let output = output(&[4]);
        let own = format!(".checkpoint-000005.partial-{}-0", std::process::id());
        for name in [&own, ".checkpoint-000005.partial-1-0", ".other.partial-1-0"] {
            fs::create_dir(output.path().join(name)).unwrap();
        }
        clear_unfinished(output.path()).unwrap();
        let expected = [&own, ".other.partial-1-0", "checkpoint-000004"];
        assert_eq!(all_names(output.path()), expected);
    }
}
