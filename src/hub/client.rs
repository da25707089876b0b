//! Requests to the hub: where the token goes, redirects, and what an answer means.
//!
//! The crate `hf-hub` is not used. Its 1.0 brings an asynchronous runtime and some two hundred crates,
//! C sources among them; its blocking 0.5 has no checksums, no offline mode and no way to cancel, and
//! takes names of files from the server as they come. What would be left of it is the names of three
//! folders.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, LOCATION, RANGE};
use ureq::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::checksum::Checksum;
use super::name::{RepoName, is_commit};
use super::origin::{Origin, redirect};
use crate::error::{Error, Result};
use crate::models::json::MAX_JSON_BYTES;

const MAX_REDIRECTS: usize = 8;
/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may say nothing.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a request gave nothing.
pub(super) enum Failure {
    /// The network or the server has a problem that may pass.
    Passing(Error),
    /// It would be the same again.
    Final(Error),
}

/// What a request gave.
pub(super) type Attempt<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Passing(error) | Self::Final(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// What a repository holds at a revision.
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<String>,
}

/// A file as the hub describes it.
pub(super) struct RemoteFile {
    pub(super) url: String,
    pub(super) checksum: Checksum,
    pub(super) size: u64,
}

/// A connection to one hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    authorization: Option<HeaderValue>,
}

impl Client {
    /// # Errors
    ///
    /// [`Error::InvalidOption`] if the endpoint is no address or the token no token.
    pub(super) fn new(endpoint: &str, token: Option<&str>) -> Result<Self> {
        let endpoint = endpoint.trim_end_matches('/');
        let origin = endpoint.parse().ok().as_ref().and_then(Origin::of);
        let origin = origin
            .filter(|_| !endpoint.contains(['?', '#', '@']))
            .ok_or_else(|| {
                Error::option(
                    "endpoint",
                    format!("`{endpoint}`"),
                    "the address of a hub such as `https://huggingface.co`",
                )
            })?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("metal-candle/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT));
        if origin.is_this_machine() {
            // A proxy that the environment names would look on its own machine.
            config = config.proxy(None);
        }
        Ok(Self {
            agent: config.build().into(),
            endpoint: endpoint.to_owned(),
            origin,
            authorization: token.map(authorization).transpose()?,
        })
    }

    /// The address of the page of a repository.
    pub(super) fn page(&self, repo: &RepoName) -> String {
        format!("{}/{}", self.endpoint, repo.id)
    }

    /// Asks which files a revision has.
    pub(super) fn list(&self, repo: &RepoName) -> Attempt<Listing> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            #[serde(rename = "rfilename")]
            name: String,
        }

        let revision = repo.revision.replace('/', "%2F");
        let url = format!(
            "{}/api/models/{}/revision/{revision}",
            self.endpoint, repo.id
        );
        let (response, _) = self.send(&Method::GET, &url, 0)?;
        let mut text = Vec::new();
        let body = response.into_body().into_reader();
        body.take(MAX_JSON_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(|error| Failure::Passing(failed(&url, error.to_string())))?;
        if text.len() as u64 > MAX_JSON_BYTES {
            return Err(failed(
                &url,
                format!("the list of files is longer than {MAX_JSON_BYTES} bytes"),
            )
            .into());
        }
        let info: Info = serde_json::from_slice(&text).map_err(|error| {
            failed(
                &url,
                format!("this is no list of files: {error}; expected `sha` and `siblings`"),
            )
        })?;
        if !is_commit(&info.sha) {
            let found = info.sha.chars().take(80).collect::<String>();
            return Err(failed(
                &url,
                format!("`sha` is {found:?}; expected a commit of 40 hexadecimal digits"),
            )
            .into());
        }
        Ok(Listing {
            commit: info.sha,
            files: info
                .siblings
                .into_iter()
                .map(|sibling| sibling.name)
                .collect(),
        })
    }

    /// Asks for the size and the checksum of a file.
    pub(super) fn describe(
        &self,
        repo: &RepoName,
        commit: &str,
        file: &str,
    ) -> Attempt<RemoteFile> {
        let url = format!("{}/{}/resolve/{commit}/{file}", self.endpoint, repo.id);
        let (response, linked) = self.send(&Method::HEAD, &url, 0)?;
        // Without such a redirect, the answer's own headers describe the file.
        let direct = |name| header(response.headers(), name);
        let etag = linked
            .etag
            .or_else(|| direct(ETAG.as_str()))
            .unwrap_or_default();
        let checksum = Checksum::from_etag(&etag).ok_or_else(|| {
            let found = etag.chars().take(80).collect::<String>();
            failed(
                &url,
                format!("the ETag is {found:?}; expected the SHA-256 of the file or the SHA-1 of its git object"),
            )
        })?;
        let size = linked.size.or_else(|| direct(CONTENT_LENGTH.as_str()));
        let size = size.unwrap_or_else(|| "missing".to_owned());
        let size = size.parse().map_err(|_| {
            failed(
                &url,
                format!("the size is {size}; expected a number of bytes"),
            )
        })?;
        Ok(RemoteFile {
            url,
            checksum,
            size,
        })
    }

    /// Asks for the bytes of a file, from byte `from` on. That there are none is an answer.
    pub(super) fn get(&self, file: &RemoteFile, from: u64) -> Attempt<Response<Body>> {
        let (response, _) = self.send(&Method::GET, &file.url, from)?;
        Ok(response)
    }

    /// Sends a request, and again to where the answer points. For a `HEAD` a redirect that describes the
    /// file is the answer.
    ///
    /// Not left to the HTTP library, because only the redirect describes a large file, and because the
    /// token is for the hub alone.
    fn send(&self, method: &Method, url: &str, from: u64) -> Attempt<(Response<Body>, Linked)> {
        let invalid = |error: ureq::http::Error| failed(url, error.to_string());
        let mut target: Uri = url.parse().map_err(|_| failed(url, "this is no address"))?;
        let mut linked = Linked::default();
        for _ in 0..=MAX_REDIRECTS {
            let is_hub = Origin::of(&target).as_ref() == Some(&self.origin);
            let mut request = Request::builder()
                .method(method)
                .uri(&target)
                .header("Accept-Encoding", "identity");
            if let Some(token) = self.authorization.as_ref().filter(|_| is_hub) {
                request = request.header(AUTHORIZATION, token);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = self.agent.run(request.body(()).map_err(invalid)?);
            let response = response.map_err(|error| failure(url, &error))?;
            linked.add(response.headers());
            let status = response.status();
            if from > 0 && status == StatusCode::RANGE_NOT_SATISFIABLE {
                return Ok((response, linked));
            }
            if !status.is_redirection() {
                return match self.refusal(url, &response) {
                    Some(refusal) => Err(refusal),
                    None => Ok((response, linked)),
                };
            }
            if *method == Method::HEAD && linked.etag.is_some() && linked.size.is_some() {
                return Ok((response, linked));
            }
            let location = header(response.headers(), LOCATION.as_str()).unwrap_or_default();
            target = redirect(&target, &location).ok_or_else(|| {
                failed(
                    url,
                    "it redirects to what is no web address, or from https to http",
                )
            })?;
        }
        Err(failed(url, format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    /// The failure that a status stands for, if it is one.
    fn refusal(&self, url: &str, response: &Response<Body>) -> Option<Failure> {
        let status = response.status();
        if status.is_success() {
            return None;
        }
        let code = header(response.headers(), "x-error-code").unwrap_or_default();
        let explanation = match (status, code.as_str()) {
            (_, "RevisionNotFound") => "the repository has no such revision",
            (_, "EntryNotFound") => "the repository has no such file",
            (StatusCode::UNAUTHORIZED, _) if self.authorization.is_none() => {
                "the repository does not exist, or it is private or gated; expected an access token of an \
                 account that may read it, in HF_TOKEN or by `Hub::with_token`"
            }
            (StatusCode::UNAUTHORIZED, _) => {
                "the repository does not exist, or the access token is not valid for it; expected the token \
                 of an account that may read it, in HF_TOKEN or by `Hub::with_token`"
            }
            (StatusCode::FORBIDDEN, _) => {
                "the account of the access token may not read this; the terms of a gated repository are \
                 accepted on its page"
            }
            (StatusCode::NOT_FOUND, _) => {
                "there is no such repository, or it is private; expected the name of one, and an access token \
                 (HF_TOKEN or `Hub::with_token`) where it is private"
            }
            _ => "the server refuses",
        };
        let error = failed(url, format!("{status}: {explanation}"));
        Some(match status {
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Failure::Passing(error),
            _ if status.is_server_error() => Failure::Passing(error),
            _ => Failure::Final(error),
        })
    }
}

/// The header that carries a token.
fn authorization(token: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
        // The token itself stays out of messages.
        Error::option("token", "a text with control characters", "an access token")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// What the hub says of a file that lies elsewhere, in the redirect to it.
#[derive(Default)]
struct Linked {
    etag: Option<String>,
    size: Option<String>,
}

impl Linked {
    fn add(&mut self, headers: &HeaderMap) {
        self.etag = self
            .etag
            .take()
            .or_else(|| header(headers, "x-linked-etag"));
        self.size = self
            .size
            .take()
            .or_else(|| header(headers, "x-linked-size"));
    }
}

/// A header's text.
pub(super) fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// The error of a download.
pub(super) fn failed(url: &str, reason: impl Into<String>) -> Error {
    Error::Download {
        url: url.to_owned(),
        reason: reason.into(),
    }
}

/// The failure that an error of the HTTP library stands for.
fn failure(url: &str, error: &ureq::Error) -> Failure {
    let passes = matches!(
        error,
        ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_)
    );
    let error = failed(url, error.to_string());
    if passes {
        Failure::Passing(error)
    } else {
        Failure::Final(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_and_a_token_are_checked_without_showing_the_token() {
        for endpoint in [
            "",
            "hub.co",
            "ftp://hub.co",
            "https://",
            "https://hub.co?x",
            "https://a:b@hub.co",
        ] {
            let error = Client::new(endpoint, None).err().unwrap().to_string();
            assert!(error.contains("`endpoint`"), "{endpoint}: {error}");
        }
        let error = Client::new("https://hub.co", Some("secret\n"))
            .err()
            .unwrap();
        let message = error.to_string();
        assert!(
            message.contains("`token`") && !message.contains("secret"),
            "{message}"
        );
        assert!(Client::new("https://hub.co/", Some("secret")).is_ok());
    }
}
