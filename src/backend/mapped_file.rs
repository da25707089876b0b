//! Read-only memory maps of files.
//!
//! Weights are mapped rather than read, so that opening a checkpoint of many gigabytes costs
//! nothing until its tensors are used, and the operating system can drop pages that are not.

use std::fs::File;
use std::path::{Path, PathBuf};

use std::ops::Range;

use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, Result};

/// How texts begin that stand for a file kept in Git LFS.
const GIT_LFS_MAGIC: &[u8] = b"version https://git-lfs";

/// A whole file, mapped into memory for reading.
///
/// The file must not be shortened by anyone while the map lives: reading a page that is gone raises
/// `SIGBUS`, which ends the process. Replacing the file by renaming another over it is safe, since
/// the map keeps the old one.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    /// Maps the file at `path`; `expected` says in error messages what the file should be.
    ///
    /// # Errors
    ///
    /// [`Error::FileNotFound`] if there is no such file, [`Error::Io`] if it cannot be read, and
    /// [`Error::InvalidFormat`] if it is empty, not a regular file, or a text that stands for one in Git
    /// LFS.
    pub(crate) fn open(path: &Path, expected: &str) -> Result<Self> {
        let file = open_regular_file(path, expected)?;
        let metadata = file
            .metadata()
            .map_err(|source| Error::io(path, expected, source))?;
        if metadata.len() == 0 {
            return Err(Error::format(
                path,
                format!("the file is empty; expected {expected}"),
            ));
        }
        let map = map_read_only(&file).map_err(|source| Error::io(path, expected, source))?;
        if map.starts_with(GIT_LFS_MAGIC) {
            let reason = "this is a Git LFS pointer, which `git lfs pull` replaces";
            return Err(Error::format(
                path,
                format!("{reason}; expected {expected}"),
            ));
        }
        Ok(Self {
            path: path.to_owned(),
            map,
        })
    }

    /// Memory with these bytes, as if it were the file at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where there is not enough memory.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self> {
        let io = |source| Error::io(path, "memory", source);
        let mut map = memmap2::MmapMut::map_anon(bytes.len()).map_err(io)?;
        map.copy_from_slice(bytes);
        Ok(Self {
            path: path.to_owned(),
            map: map.make_read_only().map_err(io)?,
        })
    }

    /// The contents of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Tells the operating system that a part of the file was used and need not stay in memory. It is
    /// read again where it is used again.
    #[allow(
        unsafe_code,
        reason = "memmap2 marks the advice unsafe, since it loses what was written to a private map"
    )]
    pub(crate) fn release(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        if bytes.start < bytes.end && bytes.end <= self.map.len() {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the range lies in the map. The advice drops its pages, which are read from the
            // file again when they are next used; nothing is lost with them, since the map is read-only
            // and so has no page that differs from the file's.
            let _ = unsafe {
                self.map
                    .unchecked_advise_range(advice, bytes.start, bytes.len())
            };
        }
    }

    /// The path that was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens a regular file for reading; `expected` says in error messages what the file should be.
///
/// # Errors
///
/// [`Error::FileNotFound`] if there is no such file, [`Error::Io`] if it cannot be opened, and
/// [`Error::InvalidFormat`] if it is a directory, a pipe or a device.
pub(crate) fn open_regular_file(path: &Path, expected: &str) -> Result<File> {
    // Looked at before opening, because opening a named pipe would wait for a writer.
    let metadata = std::fs::metadata(path).map_err(|source| Error::io(path, expected, source))?;
    if !metadata.is_file() {
        let found = if metadata.is_dir() {
            "a directory"
        } else {
            "not a regular file"
        };
        return Err(Error::format(
            path,
            format!("this is {found}; expected {expected}"),
        ));
    }
    File::open(path).map_err(|source| Error::io(path, expected, source))
}

#[allow(
    unsafe_code,
    reason = "memory maps have no safe constructor, and copying whole checkpoints would double the memory needed"
)]
fn map_read_only(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is private and read-only, so nothing in this process can write through
    // it, and `Mmap` unmaps it only when no borrow of its bytes is left. What no program can rule
    // out is another process changing the file meanwhile: overwritten bytes may show up here as
    // other weights, never as invalid values, since every bit pattern is a valid `u8`, and headers
    // are parsed into owned values once; shortening the file makes reads of the lost pages raise
    // SIGBUS. The public documentation of loading asks callers not to do either.
    unsafe { MmapOptions::new().map_copy_read_only(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_the_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.bin");
        std::fs::write(&path, b"some bytes").unwrap();
        let file = MappedFile::open(&path, "some data").unwrap();
        assert_eq!(file.bytes(), b"some bytes");
        assert_eq!(file.path(), path);
        file.release(0..4);
        file.release(0..usize::MAX);
        assert_eq!(file.bytes(), b"some bytes");
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let error = MappedFile::open(Path::new("no/such.bin"), "some data").unwrap_err();
        assert!(matches!(error, Error::FileNotFound { .. }));
        let message = error.to_string();
        assert!(message.contains("no/such.bin") && message.contains("some data"));
    }

    #[test]
    fn an_empty_file_is_an_invalid_format() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = MappedFile::open(file.path(), "some data").unwrap_err();
        assert!(matches!(error, Error::InvalidFormat { .. }));
        assert!(error.to_string().contains("empty"));
    }

    #[test]
    fn a_pointer_of_git_lfs_is_an_invalid_format() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "version https://git-lfs.github.com/spec/v1\n").unwrap();
        let error = MappedFile::open(file.path(), "some data").unwrap_err();
        assert!(matches!(error, Error::InvalidFormat { .. }));
        let message = error.to_string();
        assert!(message.contains("git lfs pull") && message.contains("some data"));
    }

    #[test]
    fn a_directory_is_an_invalid_format() {
        let dir = tempfile::tempdir().unwrap();
        let error = MappedFile::open(dir.path(), "some data").unwrap_err();
        assert!(matches!(error, Error::InvalidFormat { .. }));
        assert!(error.to_string().contains("a directory"));
    }
}
