//! Directories and files that appear whole or not at all.

use crate::error::{Error, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes files beside their final place, and moves them there when all are safe on disk.
pub(super) struct Staged {
    target: PathBuf,
    staging: PathBuf,
}

impl Staged {
    /// Starts a directory that will be `target`.
    pub(super) fn new(target: &Path) -> Result<Self> {
        let staging = staging(target).ok_or_else(|| {
            Error::format(
                target,
                "does not name a directory; expected a path such as `out/adapter`",
            )
        })?;
        // What an earlier process of the same number left unfinished.
        let _ = fs::remove_dir_all(&staging);
        fs::create_dir_all(&staging).map_err(|e| Error::io(&staging, "a writable directory", e))?;
        Ok(Self {
            target: target.to_owned(),
            staging,
        })
    }

    pub(super) fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        let path = self.staging.join(name);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(contents)?;
            file.sync_all()
        };
        write().map_err(|e| Error::io(&path, "a writable directory", e))
    }

    /// Makes the directory the target, in the place of an older one.
    pub(super) fn replace(self) -> Result<()> {
        let failed = |e| Error::io(&self.target, "a writable directory", e);
        sync_directory(&self.staging);
        // A directory that is not empty cannot be replaced in one step, so the old one moves aside
        // first; should the process die between the two, it still is there under its other name.
        let aside = self.staging.with_extension("old");
        let had_old = self.target.exists();
        if had_old {
            fs::rename(&self.target, &aside).map_err(failed)?;
        }
        if let Err(error) = fs::rename(&self.staging, &self.target) {
            if had_old {
                let _ = fs::rename(&aside, &self.target);
            }
            return Err(failed(error));
        }
        if had_old {
            let _ = fs::remove_dir_all(&aside);
        }
        if let Some(parent) = self.target.parent() {
            sync_directory(parent);
        }
        Ok(())
    }

    /// Moves the files into the target, beside what it holds already.
    pub(super) fn merge(self) -> Result<()> {
        fs::create_dir_all(&self.target)
            .map_err(|e| Error::io(&self.target, "a writable directory", e))?;
        let entries = fs::read_dir(&self.staging)
            .map_err(|e| Error::io(&self.staging, "a readable directory", e))?;
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(&self.staging, "a readable directory", e))?;
            let to = self.target.join(entry.file_name());
            fs::rename(entry.path(), &to).map_err(|e| Error::io(&to, "a writable file", e))?;
        }
        sync_directory(&self.target);
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already where the directory found its place.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

/// The place beside `target` where it is written; none if `target` has no name.
fn staging(target: &Path) -> Option<PathBuf> {
    let mut staging = std::ffi::OsString::from(".");
    staging.push(target.file_name()?);
    staging.push(format!(".partial-{}", std::process::id()));
    Some(target.with_file_name(staging))
}

/// Makes the file `target`, in the place of an older one; `write` writes it to the path that it is
/// given. Where that fails, the older one is still there.
pub(super) fn replace_file(target: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let staging = staging(target).ok_or_else(|| {
        Error::format(
            target,
            "does not name a file; expected a path such as `out/chat.session`",
        )
    })?;
    let failed = |e| Error::io(target, "a writable file", e);
    let parent = target.parent().filter(|parent| *parent != Path::new(""));
    if let Some(parent) = parent {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let written = write(&staging).and_then(|()| {
        File::open(&staging)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&staging, target))
            .map_err(failed)
    });
    if written.is_err() {
        let _ = fs::remove_file(&staging);
    } else {
        sync_directory(parent.unwrap_or(Path::new(".")));
    }
    written
}

/// Makes the names in a directory safe on disk, where the file system can.
fn sync_directory(path: &Path) {
    if let Ok(directory) = File::open(path) {
        let _ = directory.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_a_whole_directory() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("x");
        for name in ["a", "b"] {
            let staged = Staged::new(&target).unwrap();
            staged.write(name, b"1").unwrap();
            staged.replace().unwrap();
            assert_eq!(names(&target), [name]);
        }
        assert_eq!(names(root.path()), ["x"]);
    }

    #[test]
    fn an_unfinished_directory_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("x");
        let staged = Staged::new(&target).unwrap();
        staged.write("a", b"1").unwrap();
        drop(staged);
        assert!(names(root.path()).is_empty());
    }

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("folder/x");
        for contents in ["1", "2"] {
            replace_file(&target, |path| {
                fs::write(path, contents).map_err(|e| Error::io(path, "", e))
            })
            .unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), contents);
        }
        let failed = replace_file(&target, |path| {
            fs::write(path, "half").map_err(|e| Error::io(path, "", e))?;
            Err(Error::Cancelled)
        });
        assert!(matches!(failed, Err(Error::Cancelled)));
        assert_eq!(fs::read_to_string(&target).unwrap(), "2");
        assert_eq!(names(target.parent().unwrap()), ["x"]);
        // A directory is in the way.
        let failed = replace_file(target.parent().unwrap(), |path| {
            fs::write(path, "3").map_err(|e| Error::io(path, "", e))
        });
        assert!(matches!(failed, Err(Error::Io { .. })));
        assert_eq!(names(root.path()), ["folder"]);
    }

    #[test]
    fn merges_into_a_directory() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("x");
        for name in ["a", "b"] {
            let staged = Staged::new(&target).unwrap();
            staged.write(name, b"1").unwrap();
            staged.merge().unwrap();
        }
        assert_eq!(names(&target), ["a", "b"]);
    }
}
