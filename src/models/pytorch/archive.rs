//! The ZIP archive that `torch.save` writes.
//!
//! Read here, because the libraries for such archives set aside memory for as many files as an archive
//! says it has, and take an archive for valid wherever in its last bytes a list of files may end.

mod zip;

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// How the files of older versions of PyTorch begin: a pickled long number.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
/// The largest pickle that is read; those of the largest models have some hundred kilobytes.
const MAX_PICKLE: usize = 16 << 20;

/// The files in an archive, none of them compressed.
pub(super) struct Archive<'a> {
    path: &'a Path,
    /// The folder that all of them are in.
    root: String,
    files: HashMap<String, Range<usize>>,
}

impl<'a> Archive<'a> {
    /// Reads the list of files of an archive with these bytes.
    pub(super) fn open(bytes: &[u8], path: &'a Path) -> Result<Self> {
        let invalid = |reason: &str| Error::format(path, reason);
        if bytes.starts_with(LEGACY) {
            return Err(Error::Unsupported {
                path: path.to_owned(),
                what: "format",
                found: "that of torch.save before PyTorch 1.6".to_owned(),
                supported: "files of torch.save since PyTorch 1.6; loading and saving it there \
                            converts it"
                    .to_owned(),
            });
        }
        let files = zip::files(bytes).map_err(|reason| Error::format(path, reason))?;
        let pickle = "/data.pkl";
        let mut roots = files.keys().filter_map(|name| name.strip_suffix(pickle));
        let (Some(root), None) = (roots.next(), roots.next()) else {
            return Err(invalid(
                "has no data.pkl or several; expected a file of torch.save",
            ));
        };
        let this = Self {
            path,
            root: root.to_owned(),
            files,
        };
        match this.file("byteorder").map(|range| &bytes[range]) {
            None | Some(b"little") => Ok(this),
            Some(_) => Err(Error::Unsupported {
                path: path.to_owned(),
                what: "byte order",
                found: "big".to_owned(),
                supported: "little".to_owned(),
            }),
        }
    }

    fn file(&self, name: &str) -> Option<Range<usize>> {
        self.files.get(&format!("{}/{name}", self.root)).cloned()
    }

    /// Where the pickle lies.
    pub(super) fn pickle(&self) -> Result<Range<usize>> {
        let range = self.file("data.pkl").unwrap_or_default();
        if range.len() > MAX_PICKLE {
            let found = range.len();
            let reason = format!("data.pkl has {found} bytes; expected at most {MAX_PICKLE}");
            return Err(Error::format(self.path, reason));
        }
        Ok(range)
    }

    /// Where the numbers of a storage lie.
    pub(super) fn storage(&self, key: &str) -> Option<Range<usize>> {
        self.file(&format!("data/{key}"))
    }
}
