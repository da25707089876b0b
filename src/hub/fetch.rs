//! All files of a model, from the hub or from the cache alone.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Hub;
use super::cache::RepoCache;
use super::client::{Attempt, Client, Failure, Listing, failed};
use super::download::download;
use super::files::{candidates, select, shards};
use super::name::{RepoName, is_file};
use super::progress::{Progress, with_retries};
use crate::error::{Error, Result};

/// How many names an error message lists at most.
const SHOWN: usize = 8;

/// Downloads what the cache lacks; gives the path of the model.
///
/// Where the hub cannot be reached, a model that the cache has is as good as it gets.
pub(super) fn online(hub: &Hub, name: &RepoName, cache: &RepoCache) -> Result<PathBuf> {
    let client = Client::new(&hub.endpoint, hub.token.as_deref())?;
    let mut progress = Progress::new(hub.progress.as_deref());
    let listing = match with_retries(&mut progress, |_, _| client.list(name)) {
        Ok(listing) => listing,
        Err(Failure::Passing(error)) => {
            let cached = offline(hub, name, cache);
            if cached.is_ok() {
                tracing::warn!("{error}; using {} as the cache has it", name.id);
            }
            return cached.map_err(|_| error);
        }
        Err(Failure::Final(error)) => return Err(error),
    };
    let mut missing = Missing {
        client: &client,
        name,
        cache,
        listing: &listing,
        progress,
    };
    missing
        .fetch(hub.gguf.as_deref())
        .map_err(Failure::into_error)?;
    // Last, so that a revision never leads to a commit whose files are not all there.
    cache.set_commit(&name.revision, &listing.commit)?;
    Ok(model_path(hub, cache.snapshot(&listing.commit)))
}

/// Where the model is that was asked for: others of the repository may lie beside a GGUF file.
fn model_path(hub: &Hub, snapshot: PathBuf) -> PathBuf {
    match &hub.gguf {
        Some(gguf) => snapshot.join(gguf),
        None => snapshot,
    }
}

/// The path of a model that the cache has.
///
/// # Errors
///
/// [`Error::FileNotFound`] that names the file which is not there.
pub(super) fn offline(hub: &Hub, name: &RepoName, cache: &RepoCache) -> Result<PathBuf> {
    let lacking = |path: PathBuf| Error::FileNotFound {
        path,
        expected: format!(
            "{} at revision {} in the cache; offline (HF_HUB_OFFLINE or `Hub::with_offline`) it cannot be downloaded",
            name.id, name.revision
        ),
    };
    let commit = cache.commit(&name.revision)?;
    let commit = commit.ok_or_else(|| lacking(cache.reference(&name.revision)))?;
    let snapshot = cache.snapshot(&commit);
    let gguf = hub.gguf.as_deref();
    let candidates = candidates(gguf);
    let mut present = BTreeSet::new();
    for file in &candidates {
        if cache.has(&commit, file)? {
            present.insert(file.as_str());
        }
    }
    let selection = select(gguf, &present).map_err(|file| lacking(snapshot.join(file)))?;
    if let Some(index) = selection.index {
        for shard in shards(&snapshot.join(index))? {
            if !cache.has(&commit, &shard)? {
                return Err(lacking(snapshot.join(shard)));
            }
        }
    }
    Ok(model_path(hub, snapshot))
}

/// What the cache may lack of a commit.
struct Missing<'a> {
    client: &'a Client,
    name: &'a RepoName,
    cache: &'a RepoCache,
    listing: &'a Listing,
    progress: Progress<'a>,
}

impl Missing<'_> {
    fn fetch(&mut self, gguf: Option<&str>) -> Attempt<()> {
        let present = self.listing.files.iter().map(String::as_str).collect();
        let selection = select(gguf, &present).map_err(|file| self.lacking(&file))?;
        let mut files = selection.files;
        if let Some(index) = selection.index {
            self.fetch_files(std::slice::from_ref(&index))?;
            let shards = shards(&self.cache.snapshot(&self.listing.commit).join(index))?;
            if let Some(shard) = shards
                .iter()
                .find(|shard| !present.contains(shard.as_str()))
            {
                return Err(self.lacking(shard).into());
            }
            files.extend(shards);
        }
        self.fetch_files(&files)
    }

    /// Downloads files. All are described first, so that it is known how much is to come.
    fn fetch_files(&mut self, files: &[String]) -> Attempt<()> {
        let commit = &self.listing.commit;
        let mut missing = Vec::new();
        for file in files {
            if !self.cache.has(commit, file)? {
                let remote = with_retries(&mut self.progress, |_, _| {
                    self.client.describe(self.name, commit, file)
                })?;
                self.progress.expect(remote.size);
                missing.push((file, remote));
            }
        }
        for (file, remote) in missing {
            self.progress.begin(file, remote.size);
            download(self.client, self.cache, &remote, &mut self.progress)?;
            self.cache.link(commit, file, &remote.checksum)?;
        }
        Ok(())
    }

    /// The error that the repository does not have a file that is needed.
    fn lacking(&self, file: &str) -> Error {
        let mut reason = format!("the repository has no `{file}`");
        let all = self.listing.files.iter().map(String::as_str);
        let is_gguf = |file: &&str| {
            is_file(file) && Path::new(file).extension().is_some_and(|end| end == "gguf")
        };
        let gguf: Vec<_> = all.filter(is_gguf).take(SHOWN).collect();
        if !gguf.is_empty() {
            reason.push_str("; `Hub::with_gguf` takes one of its GGUF files, such as ");
            reason.push_str(&gguf.join(", "));
        }
        failed(&self.client.page(self.name), reason)
    }
}
