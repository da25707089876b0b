//! The names of repositories and revisions, and what may be one.
//!
//! Names become parts of addresses and of paths, so that only what the hub itself allows passes.

use crate::error::{Error, Result};

/// The longest name of an owner or a model, in characters.
const MAX_NAME: usize = 96;
/// The longest name of a revision, in characters.
const MAX_REVISION: usize = 255;

/// The name of a model repository, `owner/name`, and the revision that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RepoName {
    /// `owner/name`.
    pub(super) id: String,
    /// A branch, a tag or a commit.
    pub(super) revision: String,
}

impl RepoName {
    /// Reads `owner/name` or `owner/name@revision`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for anything else.
    pub(super) fn parse(text: &str, revision: &str) -> Result<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, revision));
        if !is_id(id) {
            return Err(Error::option(
                "repo",
                format!("`{text}`"),
                "the name of a repository such as `Qwen/Qwen2.5-Coder-0.5B` or `owner/name@revision`",
            ));
        }
        if !is_revision(revision) {
            return Err(Error::option(
                "revision",
                format!("`{revision}`"),
                "a branch, a tag or a commit such as `main`",
            ));
        }
        Ok(Self {
            id: id.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

/// Whether a text has the form of a repository's name, `owner/name` or `owner/name@revision`.
///
/// Looks at the characters only: `out/adapter` has that form too, so where both are possible, look for
/// a directory first.
///
/// # Example
///
/// ```
/// use metal_candle::hub::is_repo_name;
///
/// assert!(is_repo_name("Qwen/Qwen2.5-Coder-0.5B"));
/// assert!(is_repo_name("Qwen/Qwen2.5-Coder-0.5B@main"));
/// assert!(!is_repo_name("models/qwen/0.5b"));
/// assert!(!is_repo_name("../qwen"));
/// ```
#[must_use]
pub fn is_repo_name(text: &str) -> bool {
    RepoName::parse(text, "main").is_ok()
}

/// Whether a text is a commit, which always means the same files.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_lower_hex(text)
}

/// Whether a text is a number as hashes are written.
pub(super) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether a text names a file of a repository, perhaps in folders, and nothing outside of it.
pub(super) fn is_file(text: &str) -> bool {
    text.len() <= MAX_REVISION && text.split('/').all(is_path_part)
}

fn is_id(id: &str) -> bool {
    let Some((owner, name)) = id.split_once('/') else {
        return false;
    };
    [owner, name].into_iter().all(|part| {
        part.len() <= MAX_NAME
            && is_path_part(part)
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
            && !part.contains("--")
            && !part.contains("..")
    }) && !has_git_suffix(name)
}

/// Names that the hub keeps for the repository's own address.
fn has_git_suffix(name: &str) -> bool {
    name.get(name.len().saturating_sub(4)..)
        .is_some_and(|end| end.eq_ignore_ascii_case(".git"))
}

fn is_revision(revision: &str) -> bool {
    revision.len() <= MAX_REVISION
        && !revision.contains("..")
        && revision
            .split('/')
            .all(|part| is_path_part(part) && !part.starts_with(['-', '.']))
}

/// Whether a text can be one part of an address and of a path without meaning anything else.
fn is_path_part(part: &str) -> bool {
    !matches!(part, "" | "." | "..")
        && part
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_names() {
        for (text, id, revision) in [
            ("a/b", "a/b", "main"),
            ("Qwen/Qwen2.5-Coder-0.5B", "Qwen/Qwen2.5-Coder-0.5B", "main"),
            ("org_1/x_y.z@v1.0", "org_1/x_y.z", "v1.0"),
            ("org/name@refs/pr/1", "org/name", "refs/pr/1"),
        ] {
            let name = RepoName::parse(text, "main").unwrap();
            assert_eq!((name.id.as_str(), name.revision.as_str()), (id, revision));
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        let long = format!("a/{}", "b".repeat(97));
        for text in [
            "",
            "a",
            "/",
            "a/",
            "/b",
            "/etc/passwd",
            "../x",
            "a/..",
            "./a",
            "a/b/c",
            "a\\b",
            "a/b c",
            "a/b?c",
            "a/b%2f",
            "a/ü",
            "-a/b",
            "a/b.",
            "a/b--c",
            "a/b..c",
            "a/b.git",
            "a/b\n",
            "C:/b",
            "https://huggingface.co/a/b",
            &long,
        ] {
            let error = RepoName::parse(text, "main").unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
            assert!(!is_repo_name(text), "{text}");
        }
        for revision in [
            "", "a b", "../x", "/a", "a/", "a//b", "-a", ".a", "a/.b", "a@b",
        ] {
            let text = format!("a/b@{revision}");
            let error = RepoName::parse(&text, "main").unwrap_err().to_string();
            assert!(error.contains("`revision`"), "{text}: {error}");
        }
    }

    #[test]
    fn files_stay_in_the_repository() {
        for name in ["config.json", "BF16/model-Q4_K_M.gguf", ".gitattributes"] {
            assert!(is_file(name), "{name}");
        }
        for name in [
            "", "/a", "a/", "../a", "a/../b", "./a", "a\\b", "a b", "a?b", "C:a", "a\0",
        ] {
            assert!(!is_file(name), "{name:?}");
        }
    }
}
