//! The ZIP archive that `torch.save` writes.

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::path::Path;
use zip::{CompressionMethod, ZipArchive};

/// How a ZIP archive begins.
const MAGIC: &[u8] = b"PK\x03\x04";
/// How a header of the list of files begins.
const LISTED: &[u8] = b"PK\x01\x02";
/// How the files of older versions of PyTorch begin: a pickled long number.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
/// The largest pickle that is read; those of the largest models have some hundred kilobytes.
const MAX_PICKLE: usize = 16 << 20;
/// The largest number of files that is believed.
const MAX_FILES: usize = 1 << 20;

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
        if !bytes.starts_with(MAGIC) {
            return Err(invalid(
                "this is no ZIP archive; expected a file of torch.save",
            ));
        }
        let unreadable = |error| Error::format(path, format!("not a valid ZIP archive: {error}"));
        let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(unreadable)?;
        if archive.len() > MAX_FILES {
            return Err(invalid("lists more than a million files"));
        }
        let start = usize::try_from(archive.central_directory_start()).unwrap_or(usize::MAX);
        if listed(bytes.get(start..).unwrap_or_default()) != archive.len() {
            return Err(invalid("lists a file twice; expected each file once"));
        }
        if archive.has_overlapping_files().map_err(unreadable)? {
            return Err(invalid(
                "has files that overlap; expected each byte in one file",
            ));
        }
        let mut files = HashMap::with_capacity(archive.len());
        for index in 0..archive.len() {
            let file = archive.by_index_raw(index).map_err(unreadable)?;
            let name = file.name().map_err(unreadable)?.into_owned();
            if file.compression() != CompressionMethod::Stored || file.encrypted() {
                let reason = format!("`{name}` is compressed or encrypted; expected it as it is");
                return Err(Error::format(path, reason));
            }
            let start = file
                .data_start()
                .and_then(|start| usize::try_from(start).ok());
            let size = usize::try_from(file.size()).ok();
            let range = start.zip(size).and_then(|(start, size)| {
                let end = start.checked_add(size)?;
                (end <= bytes.len()).then_some(start..end)
            });
            let Some(range) = range else {
                let reason = format!("truncated: `{name}` lies beyond the end of the file");
                return Err(Error::format(path, reason));
            };
            files.insert(name, range);
        }
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

/// The number of headers in the list of files, where a name may come twice.
fn listed(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while bytes.starts_with(LISTED) {
        // Header, name, further fields, comment.
        let Some(header) = bytes.first_chunk::<46>() else {
            break;
        };
        let length = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        bytes = bytes
            .get(46 + length(28) + length(30) + length(32)..)
            .unwrap_or_default();
        count += 1;
    }
    count
}
