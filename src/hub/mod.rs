//! Models by their name on the Hugging Face hub.
//!
//! Behind the feature `hub`. [`Hub::fetch`] downloads the files of a model that are not there yet and gives
//! the path, which a model is loaded from like any other. The cache is the one of Python's
//! `huggingface_hub`, so that what either has downloaded, both have.

mod cache;
mod checksum;
mod client;
mod download;
mod environment;
mod fetch;
mod files;
mod name;
mod origin;
mod progress;

use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

pub use name::is_repo_name;
pub use progress::HubProgress;

use crate::error::{Error, Result};
use cache::RepoCache;
use environment::Environment;
use name::RepoName;
use progress::Report;

/// A hub to download models from, and the cache for them.
///
/// Sizes and checksums of all that is downloaded are held against what the hub says. Transfers that
/// break are tried again a few times; what has arrived is kept, also for a later call, which asks for
/// the rest. Several threads and processes may fetch into one cache.
///
/// # Example
///
/// ```no_run
/// use metal_candle::{Hub, ModelLoader};
/// use std::ops::ControlFlow;
///
/// let hub = Hub::new().with_progress(|progress| {
///     println!("{} of {} bytes", progress.bytes, progress.size);
///     ControlFlow::Continue(())
/// });
/// let model = ModelLoader::new().load(hub.fetch("Qwen/Qwen2.5-Coder-0.5B")?)?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Clone)]
pub struct Hub {
    cache_dir: Option<PathBuf>,
    token: Option<String>,
    endpoint: String,
    revision: String,
    offline: bool,
    gguf: Option<String>,
    progress: Option<Arc<Report>>,
}

impl Hub {
    /// The hub that the environment names, <https://huggingface.co> where it names none.
    ///
    /// The variables are those of Python's `huggingface_hub`: `HF_HUB_CACHE` or `HF_HOME` for the cache,
    /// `HF_TOKEN` or the file `token` in `HF_HOME` for the access token, `HF_ENDPOINT`, `HF_HUB_OFFLINE`.
    /// They are read once, here. Proxies are those of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and
    /// `NO_PROXY`.
    #[must_use]
    pub fn new() -> Self {
        let home = std::env::home_dir();
        let environment = Environment::read(|name| std::env::var_os(name), home.as_deref());
        Self {
            cache_dir: environment.cache_dir,
            token: environment.token,
            endpoint: environment.endpoint,
            revision: "main".to_owned(),
            offline: environment.offline,
            gguf: None,
            progress: None,
        }
    }

    /// Sets the directory of the cache, the one with the folders `models--OWNER--NAME`.
    #[must_use]
    pub fn with_cache_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(directory.into());
        self
    }

    /// Sets the access token, which private and gated repositories need. It is sent to the hub itself
    /// and to no other server.
    #[must_use]
    pub fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token;
        self
    }

    /// Sets the address of the hub, such as that of a mirror.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = endpoint.into();
        self
    }

    /// Sets the branch, tag or commit that is meant where a name has no `@revision`; `main` unless set.
    #[must_use]
    pub fn with_revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = revision.into();
        self
    }

    /// Uses the cache only, or not.
    #[must_use]
    pub fn with_offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// Asks for a GGUF file of the repository, by its name there, in the place of other weights; of a
    /// model in several files, for the first.
    #[must_use]
    pub fn with_gguf(mut self, file: impl Into<String>) -> Self {
        self.gguf = Some(file.into());
        self
    }

    /// Sets what is called with each piece that arrives, some ten thousand bytes, and while waiting. By
    /// [`ControlFlow::Break`] it ends the call with [`Error::Cancelled`]; what has arrived is kept.
    #[must_use]
    pub fn with_progress(
        mut self,
        on_progress: impl Fn(&HubProgress) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Arc::new(on_progress));
        self
    }

    /// Downloads what is missing of the model `owner/name` or `owner/name@revision`, and gives its path:
    /// that of its directory, or of the GGUF file where [`with_gguf`](Self::with_gguf) asks for one.
    ///
    /// These are `config.json`, the weights, and where the repository has them the files of tokenizer,
    /// chat template and generation. Of the weights it takes the first of `model.safetensors`, its
    /// shards, `pytorch_model.bin` and its shards. A GGUF file has all of this in it. What the revision means is asked each time; if the hub cannot be reached, the model as the
    /// cache has it will do.
    ///
    /// # Errors
    ///
    /// - [`Error::InvalidOption`] for what is no name, and for options that make no sense.
    /// - [`Error::Download`] if the hub refuses, cannot be reached or sends something else than it
    ///   announced.
    /// - [`Error::FileNotFound`] if the hub is offline and the cache lacks a file.
    /// - [`Error::InvalidConfig`] or [`Error::InvalidFormat`] if the list of the shards is malformed, or
    ///   a link in the cache leads out of it.
    /// - [`Error::Io`] if the cache cannot be written.
    /// - [`Error::Cancelled`] if the callback ends the call.
    ///
    /// # Example
    ///
    /// ```no_run
    /// let directory = metal_candle::Hub::new().fetch("Qwen/Qwen2.5-Coder-0.5B@main")?;
    /// assert!(directory.join("config.json").exists());
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn fetch(&self, repo: &str) -> Result<PathBuf> {
        let name = RepoName::parse(repo, &self.revision)?;
        if let Some(gguf) = self.gguf.as_ref().filter(|gguf| !name::is_file(gguf)) {
            let expected = "the name of a file of the repository such as `model-Q4_K_M.gguf`";
            return Err(Error::option("gguf", format!("{gguf:?}"), expected));
        }
        let directory = self.cache_dir.as_deref().ok_or_else(|| {
            Error::option(
                "cache_dir",
                "missing, and there is no home directory",
                "a directory, in HF_HOME or by `Hub::with_cache_dir`",
            )
        })?;
        let cache = RepoCache::new(directory, &name);
        if self.offline {
            fetch::offline(self, &name, &cache)
        } else {
            fetch::online(self, &name, &cache)
        }
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("cache_dir", &self.cache_dir)
            .field("token", &self.token.as_ref().map(|_| "***"))
            .field("endpoint", &self.endpoint)
            .field("revision", &self.revision)
            .field("offline", &self.offline)
            .field("gguf", &self.gguf)
            .finish_non_exhaustive()
    }
}
