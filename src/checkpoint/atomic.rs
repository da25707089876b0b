//! Directories and files that appear whole or not at all.

use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The numbers of the saves of this process that are in progress.
static IN_PROGRESS: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

/// Held while directories move, since an older one is for a moment in neither place.
static MOVING: Mutex<()> = Mutex::new(());

/// A path beside a target, which no other save of this process writes to while it is kept.
struct Staging {
    path: PathBuf,
    number: usize,
}

impl Staging {
    /// None if `target` has no name.
    fn beside(target: &Path) -> Option<Self> {
        let target_name = target.file_name()?;
        // The lowest number that is free, so that what a process left that died lies where the next one
        // of its id writes, and does not pile up.
        let mut in_progress = IN_PROGRESS.lock();
        let count = in_progress.len();
        let number = (0..=count).find(|number| in_progress.insert(*number))?;
        let mut name = std::ffi::OsString::from(".");
        name.push(target_name);
        name.push(format!(".partial-{}-{number}", std::process::id()));
        Some(Self {
            path: target.with_file_name(name),
            number,
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        IN_PROGRESS.lock().remove(&self.number);
    }
}

/// Writes files beside their final place, and moves them there when all are safe on disk.
///
/// Threads may make the same directory at the same time; the last one stays.
pub(super) struct Staged {
    target: PathBuf,
    staging: Staging,
}

impl Staged {
    /// Starts a directory that will be `target`.
    pub(super) fn new(target: &Path) -> Result<Self> {
        let staging = Staging::beside(target).ok_or_else(|| {
            Error::format(
                target,
                "does not name a directory; expected a path such as `out/adapter`",
            )
        })?;
        // What an earlier process of the same id left unfinished.
        let _ = fs::remove_dir_all(&staging.path);
        fs::create_dir_all(&staging.path)
            .map_err(|e| Error::io(&staging.path, "a writable directory", e))?;
        Ok(Self {
            target: target.to_owned(),
            staging,
        })
    }

    pub(super) fn write(&self, name: &str, contents: &[u8]) -> Result<()> {
        let path = self.staging.path.join(name);
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
        sync_directory(&self.staging.path);
        let _moving = MOVING.lock();
        // A directory that is not empty cannot be replaced in one step, so the old one moves aside
        // first; should the process die between the two, it still is there under its other name.
        let aside = self.staging.path.with_extension("old");
        let had_old = self.target.exists();
        if had_old {
            // From a process that died so; the target is a later one.
            let _ = fs::remove_dir_all(&aside);
            fs::rename(&self.target, &aside).map_err(failed)?;
        }
        if let Err(error) = fs::rename(&self.staging.path, &self.target) {
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
        let staging = &self.staging.path;
        let _moving = MOVING.lock();
        fs::create_dir_all(&self.target)
            .map_err(|e| Error::io(&self.target, "a writable directory", e))?;
        let entries =
            fs::read_dir(staging).map_err(|e| Error::io(staging, "a readable directory", e))?;
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(staging, "a readable directory", e))?;
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
        let _ = fs::remove_dir_all(&self.staging.path);
    }
}

/// Makes the file `target`, in the place of an older one; `write` writes it to the path that it is
/// given. Where that fails, the older one is still there. Threads may make the same file at the same
/// time; the last one stays.
pub(super) fn replace_file(target: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let staging = Staging::beside(target).ok_or_else(|| {
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
    let written = write(&staging.path).and_then(|()| {
        File::open(&staging.path)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&staging.path, target))
            .map_err(failed)
    });
    if written.is_err() {
        let _ = fs::remove_file(&staging.path);
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

    fn in_threads(save: impl Fn(usize) + Sync) {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let save = &save;
                scope.spawn(move || (0..20).for_each(|_| save(thread)));
            }
        });
    }

    #[test]
    fn threads_may_make_one_file() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("x");
        in_threads(|thread| {
            let contents = thread.to_string().repeat(1 + 5000 * thread);
            let write = |path: &Path| {
                fs::write(path, &contents).map_err(|e| Error::io(path, "a writable file", e))
            };
            replace_file(&target, write).unwrap();
            let found = fs::read_to_string(&target).unwrap();
            let first = usize::from(found.as_bytes()[0] - b'0');
            assert_eq!(found, first.to_string().repeat(1 + 5000 * first));
        });
        assert_eq!(names(root.path()), ["x"]);
    }

    #[test]
    fn threads_may_make_one_directory() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("x");
        in_threads(|thread| {
            let staged = Staged::new(&target).unwrap();
            for name in ["a", "b"] {
                staged.write(name, thread.to_string().as_bytes()).unwrap();
            }
            staged.replace().unwrap();
        });
        assert_eq!(names(root.path()), ["x"]);
        let [a, b] = ["a", "b"].map(|name| fs::read(target.join(name)).unwrap());
        assert_eq!(a, b);
        in_threads(|thread| {
            let staged = Staged::new(&target).unwrap();
            staged.write("c", thread.to_string().as_bytes()).unwrap();
            staged.merge().unwrap();
        });
        assert_eq!(names(&target), ["a", "b", "c"]);
    }

    #[test]
    fn what_a_process_left_that_died_is_cleared() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("x");
        // Other tests may have the lowest numbers.
        let id = std::process::id();
        let left: Vec<_> = (0..100).map(|n| format!(".x.partial-{id}-{n}")).collect();
        for name in left.iter().map(String::as_str).chain(["x", ".x.old"]) {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::write(root.path().join(name).join("left"), "").unwrap();
        }
        let staged = Staged::new(&target).unwrap();
        staged.write("a", b"1").unwrap();
        staged.replace().unwrap();
        assert_eq!(names(&target), ["a"]);
        assert_eq!(names(root.path()).len(), 100);
    }

    #[test]
    fn numbers_are_used_again() {
        let staging = |_| Staging::beside(Path::new("x")).unwrap().path.clone();
        let used: BTreeSet<_> = (0..1000).map(staging).collect();
        assert!(used.len() < 100, "{}", used.len());
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
