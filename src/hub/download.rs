//! One file, from the server into the cache.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use ureq::Body;
use ureq::http::{Response, StatusCode};

use super::cache::RepoCache;
use super::checksum::Hasher;
use super::client::{Attempt, Client, Failure, RemoteFile, failed, header};
use super::progress::{Attempts, Progress, with_retries};
use crate::error::{Error, Result};

const BUFFER_BYTES: usize = 64 << 10;
/// So many bytes make up for a connection that broke.
const GAINED_BYTES: u64 = 1 << 20;

/// Sees to it that the cache has a file's contents.
///
/// What an earlier, broken transfer left is kept, whoever made it, and only the rest is asked for.
///
/// # Errors
///
/// A failure that names the file if its size or checksum is another than the hub said; nothing of it
/// is kept then.
pub(super) fn download(
    client: &Client,
    cache: &RepoCache,
    file: &RemoteFile,
    progress: &mut Progress,
) -> Attempt<()> {
    let blob = cache.blob(&file.checksum);
    let _lock = cache.lock(&file.checksum, progress)?;
    if fs::metadata(&blob).is_ok_and(|metadata| metadata.is_file() && metadata.len() == file.size) {
        return Ok(progress.reached(file.size)?);
    }
    let mut partial = Partial::open(&blob, file, progress)?;
    with_retries(progress, |progress, attempts| {
        transfer(client, &mut partial, progress, attempts)
    })?;
    partial.finish(&blob)
}

/// A file whose last bytes may be missing.
struct Partial<'a> {
    file: &'a RemoteFile,
    path: PathBuf,
    handle: File,
    length: u64,
    hasher: Hasher,
}

impl<'a> Partial<'a> {
    /// Opens what there is of a blob, and hashes it.
    fn open(blob: &Path, file: &'a RemoteFile, progress: &mut Progress) -> Result<Self> {
        // As Python's client names it, so that either can go on with what the other left.
        let path = blob.with_extension("incomplete");
        let failed = |source| Error::io(&path, "a writable cache", source);
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(failed)?;
        let mut partial = Self {
            handle: File::options()
                .read(true)
                .append(true)
                .create(true)
                .open(&path)
                .map_err(failed)?,
            hasher: file.checksum.hasher(file.size),
            length: 0,
            path: path.clone(),
            file,
        };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = partial.handle.read(&mut buffer).map_err(failed)?;
            let bytes = buffer.get(..count).unwrap_or_default();
            partial.length += bytes.len() as u64;
            if partial.length > file.size {
                partial.restart()?;
                break;
            }
            if bytes.is_empty() {
                break;
            }
            partial.hasher.update(bytes);
            progress.reached(partial.length)?;
        }
        Ok(partial)
    }

    /// Begins again with the first byte.
    fn restart(&mut self) -> Result<()> {
        self.handle
            .set_len(0)
            .map_err(|source| self.unwritable(source))?;
        self.hasher = self.file.checksum.hasher(self.file.size);
        self.length = 0;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let length = self.length + bytes.len() as u64;
        if length > self.file.size {
            return Err(self.discard(&format!(
                "the file has {length} bytes or more; expected {}",
                self.file.size
            )));
        }
        self.handle
            .write_all(bytes)
            .map_err(|source| self.unwritable(source))?;
        self.hasher.update(bytes);
        self.length = length;
        Ok(())
    }

    /// Makes the file a blob if it is the one that the hub described.
    fn finish(mut self, blob: &Path) -> Attempt<()> {
        let checksum = &self.file.checksum;
        let hasher = std::mem::replace(&mut self.hasher, checksum.hasher(0));
        let found = hasher.finish();
        if found != checksum.digits() {
            let (algorithm, expected) = (checksum.algorithm(), checksum.digits());
            return Err(self
                .discard(&format!(
                    "the {algorithm} of the file is {found}; expected {expected}"
                ))
                .into());
        }
        let written = self
            .handle
            .sync_all()
            .and_then(|()| fs::rename(&self.path, blob));
        Ok(written.map_err(|source| self.unwritable(source))?)
    }

    /// Deletes a file that is not what it should be; gives the error.
    fn discard(&self, reason: &str) -> Error {
        match fs::remove_file(&self.path) {
            Ok(()) => failed(
                &self.file.url,
                format!("{reason}; what was downloaded is deleted"),
            ),
            Err(source) => self.unwritable(source),
        }
    }

    fn unwritable(&self, source: std::io::Error) -> Error {
        Error::io(&self.path, "a writable cache", source)
    }
}

/// Asks for the bytes that are missing, and takes what comes.
fn transfer(
    client: &Client,
    partial: &mut Partial,
    progress: &mut Progress,
    attempts: &mut Attempts,
) -> Attempt<()> {
    let file = partial.file;
    progress.reached(partial.length)?;
    if partial.length == file.size {
        return Ok(());
    }
    let response = client.get(file, partial.length)?;
    match response.status() {
        StatusCode::PARTIAL_CONTENT if first_byte(&response) == Some(partial.length) => (),
        StatusCode::PARTIAL_CONTENT => {
            let reason = format!(
                "the server sends another part than from byte {}",
                partial.length
            );
            return Err(failed(&file.url, reason).into());
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            let (found, expected) = (partial.length, file.size);
            return Err(partial
                .discard(&format!(
                    "the file has no more than {found} bytes; expected {expected}"
                ))
                .into());
        }
        // The server sends all of it, whatever was asked for.
        _ => partial.restart()?,
    }
    let missing = file.size - partial.length;
    if let Some(coming) = response
        .body()
        .content_length()
        .filter(|coming| *coming != missing)
    {
        return Err(partial
            .discard(&format!(
                "the server sends {coming} bytes; expected {missing}"
            ))
            .into());
    }
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; BUFFER_BYTES];
    let start = partial.length;
    loop {
        let broken = |partial: &Partial, why: String| {
            let reason = format!("{why} after {} of {} bytes", partial.length, file.size);
            Failure::Passing(failed(&file.url, reason))
        };
        let count = body.read(&mut buffer);
        let count = count.map_err(|error| broken(partial, error.to_string()))?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return if partial.length == file.size {
                Ok(())
            } else {
                Err(broken(partial, "the connection ended".to_owned()))
            };
        }
        partial.append(bytes)?;
        if partial.length - start >= GAINED_BYTES {
            attempts.gained();
        }
        progress.reached(partial.length)?;
    }
}

/// Where the part begins that the server sends, `Content-Range: bytes FIRST-LAST/SIZE`.
fn first_byte(response: &Response<Body>) -> Option<u64> {
    let range = header(response.headers(), "content-range")?;
    range
        .strip_prefix("bytes ")?
        .split_once('-')?
        .0
        .parse()
        .ok()
}
