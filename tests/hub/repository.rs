//! A hub with one repository: its interface for programs on one server, large files on another.

use super::common::fixture;
use super::server::{Reply, Request, Server};
use metal_candle::Hub;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

pub const NAME: &str = "org/tiny";
pub const COMMIT: &str = "1111111111111111111111111111111111111111";

/// What the servers serve, and what they do wrong.
#[derive(Default)]
pub struct Repository {
    pub files: BTreeMap<String, Vec<u8>>,
    /// The token that is needed.
    pub token: Option<&'static str>,
    /// The revision that the hub knows; `main` if empty.
    pub revision: &'static str,
    /// What the servers send in the place of a file.
    pub wrong_bytes: BTreeMap<String, Vec<u8>>,
    /// What the hub says is the size of a file.
    pub wrong_sizes: BTreeMap<String, usize>,
    /// What the hub says is the checksum of a file.
    pub wrong_etags: BTreeMap<String, String>,
    /// What the hub says are the files.
    pub listing: Option<Vec<u8>>,
    /// The answers to the next requests for a file's bytes end after so many of them.
    pub cuts: Vec<usize>,
    /// The next requests get these answers.
    pub refusals: Vec<Reply>,
    /// Answers with the whole file, whatever part is asked for.
    pub ignores_ranges: bool,
    /// Does not say how many bytes of a large file come.
    pub hides_lengths: bool,
    /// Where large files are said to be, if not where they are.
    pub location: Option<String>,
}

impl Repository {
    /// The repository with the files of a fixture, and some that no model needs.
    pub fn of(model: &str) -> Self {
        let mut repository = Self::default();
        for entry in std::fs::read_dir(fixture("models").join(model)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            repository.files.insert(name, std::fs::read(path).unwrap());
        }
        repository.put("README.md", "# tiny");
        repository.put("onnx/model.onnx", "onnx");
        repository
    }

    pub fn put(&mut self, name: &str, text: &str) {
        self.files.insert(name.to_owned(), text.into());
    }

    /// What the hub says is the checksum of a file.
    pub fn etag(&self, name: &str) -> String {
        let bytes = &self.files[name];
        self.wrong_etags.get(name).cloned().unwrap_or_else(|| {
            if is_large(name) {
                hexadecimal(digest(&SHA256, bytes).as_ref())
            } else {
                let object = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
                hexadecimal(digest(&SHA1_FOR_LEGACY_USE_ONLY, &object).as_ref())
            }
        })
    }

    fn size(&self, name: &str) -> usize {
        let size = self.files[name].len();
        self.wrong_sizes.get(name).copied().unwrap_or(size)
    }

    fn listing(&self) -> Reply {
        let body = self.listing.clone().unwrap_or_else(|| {
            let names = self.files.keys();
            let siblings: Vec<_> = names
                .map(|name| serde_json::json!({"rfilename": name}))
                .collect();
            let listing = serde_json::json!({"sha": COMMIT, "siblings": siblings, "id": NAME});
            listing.to_string().into_bytes()
        });
        Reply {
            body,
            ..Reply::status(200)
        }
    }

    /// The bytes of a file from the one that is asked for on.
    fn bytes(&mut self, name: &str, request: &Request) -> Reply {
        let bytes = self.wrong_bytes.get(name).unwrap_or(&self.files[name]);
        let first = request.first_byte().filter(|_| !self.ignores_ranges);
        let mut reply = match first {
            None => Reply::status(200),
            Some(first) if first >= bytes.len() => return Reply::status(416),
            Some(first) => Reply::status(206).with(
                "Content-Range",
                format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len()),
            ),
        };
        reply.body = bytes[first.unwrap_or(0)..].to_vec();
        reply.hides_length = self.hides_lengths && is_large(name);
        if request.method == "GET" && !self.cuts.is_empty() && is_large(name) {
            reply.cut = Some(self.cuts.remove(0));
        }
        reply
    }

    /// The answer of the hub itself.
    fn answer(&mut self, request: &Request, large_files: &str) -> Reply {
        if !self.refusals.is_empty() {
            return self.refusals.remove(0);
        }
        let token = request.headers.get("authorization").map(String::as_str);
        let expected = self.token.map(|token| format!("Bearer {token}"));
        if expected.is_some() && expected.as_deref() != token {
            return Reply::status(401).with("X-Error-Code", "GatedRepo");
        }
        let revision = if self.revision.is_empty() {
            "main"
        } else {
            self.revision
        };
        let revision = revision.replace('/', "%2F");
        let path = request.path.as_str();
        if let Some(asked) = path.strip_prefix(&format!("/api/models/{NAME}/revision/")) {
            return if asked == revision || asked == COMMIT {
                self.listing()
            } else {
                Reply::status(404).with("X-Error-Code", "RevisionNotFound")
            };
        }
        if let Some(name) = path.strip_prefix(&format!("/small/{COMMIT}/")) {
            let etag = format!("\"{}\"", self.etag(name));
            return self.bytes(name, request).with("ETag", etag);
        }
        let Some(name) = path.strip_prefix(&format!("/{NAME}/resolve/{COMMIT}/")) else {
            return Reply::status(404).with("X-Error-Code", "RepoNotFound");
        };
        if !self.files.contains_key(name) {
            return Reply::status(404).with("X-Error-Code", "EntryNotFound");
        }
        let reply = Reply {
            body: b"Found. Redirecting".to_vec(),
            ..Reply::status(302)
        };
        let reply = reply
            .with("X-Repo-Commit", COMMIT)
            .with("ETag", "\"of-the-redirect\"");
        if is_large(name) {
            let location = self.location.clone();
            reply
                .with("X-Linked-Etag", format!("\"{}\"", self.etag(name)))
                .with("X-Linked-Size", self.size(name).to_string())
                .with(
                    "Location",
                    location.unwrap_or_else(|| format!("{large_files}/{name}?signature=s3cret")),
                )
        } else {
            reply.with("Location", format!("/small/{COMMIT}/{name}"))
        }
    }
}

/// A running hub.
pub struct FakeHub {
    pub hub: Server,
    pub large_files: Server,
    repository: Arc<Mutex<Repository>>,
}

impl FakeHub {
    pub fn start(repository: Repository) -> Self {
        let repository = Arc::new(Mutex::new(repository));
        let shared = Arc::clone(&repository);
        let large_files = Server::start(move |request| {
            let name = request
                .path
                .trim_start_matches('/')
                .split('?')
                .next()
                .unwrap();
            shared.lock().unwrap().bytes(name, request)
        });
        let (shared, url) = (Arc::clone(&repository), large_files.url.clone());
        let hub = Server::start(move |request| shared.lock().unwrap().answer(request, &url));
        Self {
            hub,
            large_files,
            repository,
        }
    }

    pub fn repository(&self) -> MutexGuard<'_, Repository> {
        self.repository.lock().unwrap()
    }

    /// A client that knows this hub only, whatever the environment says.
    pub fn client(&self, cache: &Path) -> Hub {
        Hub::new()
            .with_endpoint(&self.hub.url)
            .with_cache_dir(cache)
            .with_token(None)
            .with_offline(false)
    }
}

fn is_large(name: &str) -> bool {
    [".safetensors", ".bin", ".gguf"]
        .iter()
        .any(|end| name.ends_with(end))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}
