//! What the environment says about the hub, as Python's `huggingface_hub` reads it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::models::json::read_bounded;

/// Where the hub is, unless something else is asked for.
const ENDPOINT: &str = "https://huggingface.co";
/// The longest file that can hold a token, in bytes.
const MAX_TOKEN_BYTES: u64 = 1 << 12;

/// What the variables that start with `HF_` ask for.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Environment {
    /// None if nothing says where, not even a home directory.
    pub(super) cache_dir: Option<PathBuf>,
    pub(super) token: Option<String>,
    pub(super) endpoint: String,
    pub(super) offline: bool,
}

impl Environment {
    /// Reads variables through `variable`; `home` is the home directory.
    pub(super) fn read(variable: impl Fn(&str) -> Option<OsString>, home: Option<&Path>) -> Self {
        let value = |name: &str| variable(name).filter(|value| !value.is_empty());
        let first = |names: [&str; 2]| names.into_iter().find_map(value);
        let path = |name: &str| value(name).map(|path| expand_home(path, home));
        let is_set = |name: &str| {
            value(name).is_some_and(|value| {
                ["1", "on", "yes", "true"]
                    .iter()
                    .any(|yes| value.eq_ignore_ascii_case(yes))
            })
        };

        let hf_home = path("HF_HOME").or_else(|| {
            path("XDG_CACHE_HOME")
                .or_else(|| home.map(|home| home.join(".cache")))
                .map(|cache| cache.join("huggingface"))
        });
        let cache_dir = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hf_home.as_ref().map(|home| home.join("hub")));
        let token = if is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            first(["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
                .and_then(|token| clean(&token.to_string_lossy()))
                .or_else(|| {
                    let file = path("HF_TOKEN_PATH")
                        .or_else(|| hf_home.as_ref().map(|home| home.join("token")))?;
                    let bytes = read_bounded(&file, "an access token", MAX_TOKEN_BYTES).ok()?;
                    clean(&String::from_utf8_lossy(&bytes))
                })
        };
        Self {
            cache_dir,
            token,
            endpoint: value("HF_ENDPOINT").map_or_else(
                || ENDPOINT.to_owned(),
                |endpoint| endpoint.to_string_lossy().into_owned(),
            ),
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
        }
    }
}

fn expand_home(path: OsString, home: Option<&Path>) -> PathBuf {
    let path = PathBuf::from(path);
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

/// A token without the line end that editors leave after it.
fn clean(token: &str) -> Option<String> {
    let token = token.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Environment {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Environment::read(variable, Some(Path::new("/home/me")))
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        for (variables, expected) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (
                &[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")],
                "/home/me/hf/hub",
            ),
            (&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")], "/c"),
            (&[("HF_HUB_CACHE", ""), ("HF_HOME", "/h")], "/h/hub"),
        ] {
            let cache = read(variables).cache_dir.unwrap();
            assert_eq!(cache, Path::new(expected), "{variables:?}");
        }
        let nothing = Environment::read(|_| None, None);
        assert_eq!(nothing.cache_dir, None);
    }

    #[test]
    fn a_token_comes_from_the_variable_or_else_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "from-file\n").unwrap();
        let home = dir.path().to_str().unwrap();
        assert_eq!(read(&[("HF_HOME", home)]).token.unwrap(), "from-file");
        let both = [("HF_HOME", home), ("HF_TOKEN", " from-variable\n")];
        assert_eq!(read(&both).token.unwrap(), "from-variable");
        let file = format!("{home}/token");
        assert_eq!(
            read(&[("HF_TOKEN_PATH", &file)]).token.unwrap(),
            "from-file"
        );
        let neither = [("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(read(&neither).token, None);
        assert_eq!(read(&[("HF_HOME", "/no/such")]).token, None);
    }

    #[test]
    fn endpoint_and_offline_follow_the_variables() {
        let plain = read(&[]);
        assert_eq!((plain.endpoint.as_str(), plain.offline), (ENDPOINT, false));
        assert_eq!(
            read(&[("HF_ENDPOINT", "http://mirror")]).endpoint,
            "http://mirror"
        );
        assert!(read(&[("HF_HUB_OFFLINE", "1")]).offline);
        assert!(read(&[("TRANSFORMERS_OFFLINE", "True")]).offline);
        assert!(!read(&[("HF_HUB_OFFLINE", "0")]).offline);
    }
}
