//! Directories and files that appear whole or not at all.

use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
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
        let mut file = self.create(name)?;
        file.write(contents)?;
        file.finish()
    }

    /// Copies a file that lies elsewhere. What it links to is copied, not the link.
    pub(super) fn copy(&self, from: &Path, name: &str) -> Result<()> {
        let mut source = File::open(from).map_err(|e| Error::io(from, "a readable file", e))?;
        let mut file = self.create(name)?;
        io::copy(&mut source, &mut file.file)
            .map_err(|e| Error::io(&file.path, "a writable file", e))?;
        file.finish()
    }

    /// Begins a file that is written part by part; `name` may be in a folder, as `folder/file`.
    pub(super) fn create(&self, name: &str) -> Result<StagedFile> {
        let path = self.staging.path.join(name);
        let create = || {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            File::create(&path)
        };
        match create() {
            Ok(file) => Ok(StagedFile { path, file }),
            Err(error) => Err(Error::io(&path, "a writable directory", error)),
        }
    }

    /// Makes the directory the target, in the place of an older one.
    pub(super) fn replace(self) -> Result<()> {
        self.replace_keeping(|_| false)
    }

    /// Makes the directory the target, in the place of an older one, out of which the files and
    /// folders whose names `keep` chooses stay.
    ///
    /// On Linux the two change places in one step, so that a process that dies at any moment leaves the
    /// old or the new one whole. Elsewhere, and on file systems that cannot, the old one is for a moment
    /// in neither place; should the process die then, it is still there under its other, hidden name.
    pub(super) fn replace_keeping(self, keep: impl Fn(&str) -> bool) -> Result<()> {
        let failed = |e| Error::io(&self.target, "a writable directory", e);
        sync_directory(&self.staging.path);
        let _moving = MOVING.lock();
        let aside = self.staging.path.with_extension("old");
        let had_old = self.target.exists();
        if had_old {
            // From a process that died before it was done; the target is a later one.
            let _ = fs::remove_dir_all(&aside);
            self.take_place_of_old(&aside).map_err(failed)?;
        } else {
            fs::rename(&self.staging.path, &self.target).map_err(failed)?;
        }
        if had_old {
            // Where one cannot be moved, all that is left stays aside rather than be lost.
            bring_back(&aside, &self.target, keep)?;
            let _ = fs::remove_dir_all(&aside);
        }
        if let Some(parent) = self.target.parent() {
            sync_directory(parent);
        }
        Ok(())
    }

    /// Moves to the target, and what is there to `aside`.
    fn take_place_of_old(&self, aside: &Path) -> io::Result<()> {
        if exchange(&self.staging.path, &self.target) {
            fs::rename(&self.staging.path, aside)
        } else {
            self.take_place_in_two_steps(aside)
        }
    }

    fn take_place_in_two_steps(&self, aside: &Path) -> io::Result<()> {
        fs::rename(&self.target, aside)?;
        fs::rename(&self.staging.path, &self.target).inspect_err(|_| {
            let _ = fs::rename(aside, &self.target);
        })
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

/// A file of a [`Staged`] directory while it is written.
pub(super) struct StagedFile {
    path: PathBuf,
    file: File,
}

impl StagedFile {
    pub(super) fn write(&mut self, contents: &[u8]) -> Result<()> {
        self.file
            .write_all(contents)
            .map_err(|e| Error::io(&self.path, "a writable file", e))
    }

    /// Makes what was written safe on disk.
    pub(super) fn finish(self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| Error::io(&self.path, "a writable file", e))
    }
}

/// Moves the entries that `keep` chooses, unless there are newer ones.
fn bring_back(from: &Path, to: &Path, keep: impl Fn(&str) -> bool) -> Result<()> {
    let unreadable = |e| Error::io(from, "a readable directory", e);
    for entry in fs::read_dir(from).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let place = to.join(&name);
        // A name that is no UTF-8 is none of ours.
        if name.to_str().is_none_or(&keep) && !place.exists() {
            fs::rename(from.join(&name), &place)
                .map_err(|e| Error::io(&place, "a writable directory", e))?;
        }
    }
    Ok(())
}

/// Makes the file `target`, in the place of an older one; `write` writes it to the path that it is
/// given. Where that fails, the older one is still there. Threads may make the same file at the same
/// time; the last one stays.
pub(crate) fn replace_file(target: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
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

/// Lets two directories change places in one step; false where the system cannot.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn exchange(a: &Path, b: &Path) -> bool {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    renameat2(AT_FDCWD, a, AT_FDCWD, b, RenameFlags::RENAME_EXCHANGE).is_ok()
}

/// Apple's `renamex_np` has no safe way to be called.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}

/// Makes the names in a directory safe on disk, where the file system can.
fn sync_directory(path: &Path) {
    if let Ok(directory) = File::open(path) {
        let _ = directory.sync_all();
    }
}

#[cfg(test)]
mod tests;
