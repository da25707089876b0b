//! The files of a repository on this machine, laid out as Python's `huggingface_hub` does.
//!
//! `models--owner--name/` holds `blobs/CHECKSUM`, each file once; `snapshots/COMMIT/`, where a file's name
//! is a link to its blob; and `refs/REVISION`, which commit a branch or tag was at. So each finds what
//! the other has downloaded.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::checksum::Checksum;
use super::name::{RepoName, is_commit};
use super::progress::Progress;
use crate::error::{Error, Result};
use crate::models::json::read_bounded;

/// How often a lock is tried that another process holds.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// The longest file that can hold a commit, in bytes.
const MAX_REF_BYTES: u64 = 256;

/// What the cache has of one repository.
pub(super) struct RepoCache {
    root: PathBuf,
    repo: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(root: &Path, name: &RepoName) -> Self {
        let folder = format!("models--{}", name.id.replace('/', "--"));
        Self {
            root: root.to_owned(),
            repo: root.join(&folder),
            locks: root.join(".locks").join(folder),
        }
    }

    /// The directory with the files of a commit.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.join("snapshots").join(commit)
    }

    /// Where the contents of a file lie.
    pub(super) fn blob(&self, checksum: &Checksum) -> PathBuf {
        self.repo.join("blobs").join(checksum.digits())
    }

    /// Where it is written down which commit a branch or tag was at.
    pub(super) fn reference(&self, revision: &str) -> PathBuf {
        self.repo.join("refs").join(revision)
    }

    /// The commit of a revision, if the cache knows it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFormat`] if what is written down is no commit, [`Error::Io`].
    pub(super) fn commit(&self, revision: &str) -> Result<Option<String>> {
        if is_commit(revision) {
            return Ok(Some(revision.to_owned()));
        }
        let path = self.reference(revision);
        let bytes = match read_bounded(&path, "a commit", MAX_REF_BYTES) {
            Err(Error::FileNotFound { .. }) => return Ok(None),
            result => result?,
        };
        let text = String::from_utf8_lossy(&bytes);
        if is_commit(text.trim()) {
            return Ok(Some(text.trim().to_owned()));
        }
        Err(Error::format(
            &path,
            "this is no commit of 40 hexadecimal digits",
        ))
    }

    /// Writes down which commit a revision is at.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.reference(revision);
        let partial = beside(&path);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            File::create(&partial)?.write_all(commit.as_bytes())?;
            fs::rename(&partial, &path)
        };
        write().map_err(|source| Error::io(&path, "a writable cache", source))
    }

    /// Whether a commit's file is there.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFormat`] if it is a link out of the cache, [`Error::Io`].
    pub(super) fn has(&self, commit: &str, file: &str) -> Result<bool> {
        let path = self.snapshot(commit).join(file);
        let failed = |source| Error::io(&path, "a file of the cache", source);
        if !path.try_exists().map_err(failed)? {
            return Ok(false);
        }
        let target = path.canonicalize().map_err(failed)?;
        if target.starts_with(self.root.canonicalize().map_err(failed)?) {
            return Ok(true);
        }
        Err(Error::format(
            &path,
            format!(
                "this links to {}; expected a file inside the cache",
                target.display()
            ),
        ))
    }

    /// Gives a blob its name in a commit.
    pub(super) fn link(&self, commit: &str, file: &str, checksum: &Checksum) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        let partial = beside(&path);
        // Relative, so that the cache can be moved: out of the file's folders, the commit and `snapshots`.
        let up = "../".repeat(file.split('/').count() + 1);
        let target = format!("{up}blobs/{}", checksum.digits());
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            // What an earlier process of the same id left unfinished.
            let _ = fs::remove_file(&partial);
            std::os::unix::fs::symlink(target, &partial)?;
            fs::rename(&partial, &path)
        };
        write().map_err(|source| Error::io(&path, "a writable cache", source))
    }

    /// Keeps other processes and threads from downloading the same file, until the result is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Cancelled`], [`Error::Io`].
    pub(super) fn lock(&self, checksum: &Checksum, progress: &Progress) -> Result<File> {
        let path = self.locks.join(format!("{}.lock", checksum.digits()));
        let failed = |source| Error::io(&path, "a writable cache", source);
        fs::create_dir_all(&self.locks).map_err(failed)?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(failed)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => progress.pause(LOCK_PAUSE)?,
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
    }
}

/// A hidden path beside another, for what is not complete; no other thread or process has the same.
fn beside(path: &Path) -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.partial-{}-{number}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn cache(root: &Path) -> RepoCache {
        RepoCache::new(root, &RepoName::parse("org/name", "main").unwrap())
    }

    #[test]
    fn the_layout_is_that_of_python() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let digits = "a".repeat(64);
        let checksum = Checksum::from_etag(&digits).unwrap();
        let repo = dir.path().join("models--org--name");
        assert_eq!(cache.blob(&checksum), repo.join("blobs").join(&digits));
        fs::create_dir_all(repo.join("blobs")).unwrap();
        fs::write(cache.blob(&checksum), "text").unwrap();
        for (file, link) in [
            ("config.json", "../../blobs/"),
            ("a/b.gguf", "../../../blobs/"),
        ] {
            assert!(!cache.has(COMMIT, file).unwrap());
            cache.link(COMMIT, file, &checksum).unwrap();
            cache.link(COMMIT, file, &checksum).unwrap();
            let path = repo.join("snapshots").join(COMMIT).join(file);
            assert_eq!(
                fs::read_link(&path).unwrap(),
                Path::new(&format!("{link}{digits}"))
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), "text");
            assert!(cache.has(COMMIT, file).unwrap());
        }
    }

    #[test]
    fn refs_name_commits() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        assert_eq!(cache.commit("refs/pr/1").unwrap(), None);
        cache.set_commit("refs/pr/1", COMMIT).unwrap();
        assert_eq!(cache.commit("refs/pr/1").unwrap().unwrap(), COMMIT);
        assert_eq!(cache.commit(COMMIT).unwrap().unwrap(), COMMIT);
        fs::write(cache.reference("v1"), "../../x").unwrap();
        let error = cache.commit("v1").unwrap_err().to_string();
        assert!(
            error.contains("refs/v1") && error.contains("no commit"),
            "{error}"
        );
    }

    #[test]
    fn a_link_out_of_the_cache_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("secret");
        fs::write(&outside, "x").unwrap();
        let cache = cache(&dir.path().join("cache"));
        fs::create_dir_all(cache.snapshot(COMMIT)).unwrap();
        let link = cache.snapshot(COMMIT).join("config.json");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        let error = cache.has(COMMIT, "config.json").unwrap_err().to_string();
        assert!(
            error.contains("secret") && error.contains("inside the cache"),
            "{error}"
        );
    }

    #[test]
    fn a_lock_waits_for_the_other_one() {
        use std::ops::ControlFlow;
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let checksum = Checksum::from_etag(&"a".repeat(40)).unwrap();
        let first = cache.lock(&checksum, &Progress::new(None)).unwrap();
        let cancel = |_: &super::super::HubProgress| ControlFlow::Break(());
        let error = cache
            .lock(&checksum, &Progress::new(Some(&cancel)))
            .unwrap_err();
        assert!(matches!(error, Error::Cancelled));
        drop(first);
        assert!(cache.lock(&checksum, &Progress::new(Some(&cancel))).is_ok());
    }
}
