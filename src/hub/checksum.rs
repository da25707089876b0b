//! The checksums that the hub gives for its files.

use std::fmt::Write;

use ring::digest::{Context, Digest, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::name::is_lower_hex;

/// What a file must hash to; also the name of the file among the blobs of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Of the bytes of a file in Git LFS, or in what came after it.
    Sha256(String),
    /// Of the git object that holds a file.
    GitBlob(String),
}

impl Checksum {
    /// Reads an `ETag`. None if it is no checksum, so that the file could not be checked.
    pub(super) fn from_etag(etag: &str) -> Option<Self> {
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        match etag.len() {
            64 if is_lower_hex(etag) => Some(Self::Sha256(etag.to_owned())),
            40 if is_lower_hex(etag) => Some(Self::GitBlob(etag.to_owned())),
            _ => None,
        }
    }

    /// The checksum in hexadecimal digits.
    pub(super) fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::GitBlob(digits) => digits,
        }
    }

    /// What is computed, for error messages.
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::GitBlob(_) => "SHA-1 as a git object",
        }
    }

    /// Starts the checksum of a file of `size` bytes.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        Hasher(match self {
            Self::Sha256(_) => Context::new(&SHA256),
            Self::GitBlob(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {size}\0").as_bytes());
                context
            }
        })
    }
}

/// A checksum in the making. From `ring`, which TLS brings along.
pub(super) struct Hasher(Context);

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum in hexadecimal digits.
    pub(super) fn finish(self) -> String {
        hexadecimal(&self.0.finish())
    }
}

fn hexadecimal(digest: &Digest) -> String {
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_sha256sum_and_git() {
        let text = b"hello\n";
        for etag in [
            "\"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03\"",
            "\"ce013625030ba8dba906f756967f9e9ca394464a\"",
            "W/\"ce013625030ba8dba906f756967f9e9ca394464a\"",
        ] {
            let checksum = Checksum::from_etag(etag).unwrap();
            let mut hasher = checksum.hasher(6);
            hasher.update(&text[..2]);
            hasher.update(&text[2..]);
            assert_eq!(hasher.finish(), checksum.digits());
        }
    }

    #[test]
    fn an_etag_that_is_no_checksum_is_none() {
        let upper = "A".repeat(40);
        let path = format!("../{}", "a".repeat(37));
        for etag in [
            "",
            "\"\"",
            "\"abc\"",
            "\"686897696a7c876b7e-2\"",
            &upper,
            &path,
        ] {
            assert_eq!(Checksum::from_etag(etag), None, "{etag}");
        }
    }
}
