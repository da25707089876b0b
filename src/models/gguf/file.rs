//! A GGUF file: keys and values, and where its tensors lie.
//!
//! The file is not trusted. Everything it says about lengths and places is held against the bytes
//! that it has when it is opened; what is kept in memory is no longer than the header.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::Path;

use crate::backend::mapped_file::{MappedFile, open_regular_file};
use crate::error::{Error, Result};
use crate::models::gguf::ggml_type::GgmlType;
use crate::models::gguf::metadata::Value;
use crate::models::gguf::reader::Reader;

/// What files begin with.
const MAGIC: [u8; 4] = *b"GGUF";
/// The largest number of keys that is believed. Known files have dozens.
const MAX_KEYS: u64 = 1 << 16;
/// The largest number of tensors that is believed. Known files have up to thousands.
const MAX_TENSORS: u64 = 1 << 17;
/// The most dimensions that a tensor may have.
const MAX_DIMENSIONS: u32 = 4;
/// The longest key that is believed, in bytes, as the format has it.
const MAX_KEY_BYTES: usize = u16::MAX as usize;
/// The longest name of a tensor that is believed, in bytes. The format allows 64.
const MAX_NAME_BYTES: usize = 256;
/// The key of what the places of tensors are multiples of, and its value where it is missing.
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;

/// An open GGUF file, mapped into memory, with the tensors of further parts if it has been given such.
#[derive(Debug)]
pub(super) struct GgufFile {
    file: MappedFile,
    parts: Vec<MappedFile>,
    /// Where the type of each value stands, with the value behind it.
    values: BTreeMap<String, usize>,
    tensors: BTreeMap<String, TensorEntry>,
}

/// What a file says about a tensor.
#[derive(Debug)]
pub(super) struct TensorEntry {
    /// The size of each dimension, outermost first; files have them innermost first.
    pub(super) shape: Vec<usize>,
    pub(super) ggml_type: GgmlType,
    /// The part that it lies in, from 1, or 0 for the file itself.
    part: usize,
    /// Its bytes from the start of the file; of a type of unknown size only the first of them.
    bytes: Range<usize>,
}

/// Whether there is a GGUF file at `path`, which its first bytes tell.
pub(crate) fn is_gguf(path: &Path) -> Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut magic = [0; MAGIC.len()];
    let file = open_regular_file(path, "a GGUF file")?;
    match (&file).read_exact(&mut magic) {
        Ok(()) => Ok(magic == MAGIC),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(Error::io(path, "a GGUF file", error)),
    }
}

impl GgufFile {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    ///
    /// [`Error::FileNotFound`] and [`Error::Io`] if it cannot be read, [`Error::InvalidFormat`] if it
    /// is truncated, repeats a key or tensor, or has tensors that overlap or lie outside of it,
    /// [`Error::Unsupported`] for other versions than 2 and 3 and for big-endian files.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::read(MappedFile::open(path, "a GGUF file")?)
    }

    /// Reads and checks the header of a file, as [`open`](Self::open) does.
    pub(super) fn read(file: MappedFile) -> Result<Self> {
        let path = file.path();
        let mut reader = Reader::new(path, file.bytes(), 0);
        check_magic(&mut reader, path)?;
        let tensor_count = count(&mut reader, "tensors", MAX_TENSORS)?;
        let key_count = count(&mut reader, "keys", MAX_KEYS)?;
        let values = read_keys(&mut reader, key_count)?;
        let position = reader.position();
        let mut this = Self {
            file,
            parts: Vec::new(),
            values,
            tensors: BTreeMap::new(),
        };
        this.tensors = this.read_tensors(position, tensor_count)?;
        this.check_overlaps()?;
        Ok(this)
    }

    /// The path that was opened.
    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &str) -> Option<Value<'_>> {
        let position = *self.values.get(key)?;
        // It was read once when the file was opened.
        let mut reader = Reader::new(self.path(), self.file.bytes(), position);
        reader.typed_value(key).ok()
    }

    /// The names of all tensors, in alphabetical order.
    pub(super) fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What the file says about a tensor, or `None` if there is none of this name.
    pub(super) fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor; of a type of unknown size only the first of them.
    pub(super) fn tensor_bytes(&self, tensor: &TensorEntry) -> &[u8] {
        // In range, since that was checked when the file was opened.
        let file = self.part(tensor);
        let bytes = file.and_then(|file| file.bytes().get(tensor.bytes.clone()));
        bytes.unwrap_or_default()
    }

    /// Lets go of the memory that holds the bytes of a tensor.
    pub(super) fn release(&self, tensor: &TensorEntry) {
        if let Some(file) = self.part(tensor) {
            file.release(tensor.bytes.clone());
        }
    }

    fn part(&self, tensor: &TensorEntry) -> Option<&MappedFile> {
        match tensor.part {
            0 => Some(&self.file),
            part => self.parts.get(part - 1),
        }
    }

    /// Adds the tensors of another file; its keys and values are dropped.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFormat`] if it repeats a tensor.
    pub(super) fn add_part(&mut self, part: Self) -> Result<()> {
        let number = self.parts.len() + 1;
        for (name, tensor) in part.tensors {
            if self.tensors.contains_key(&name) {
                return Err(Error::format(
                    part.file.path(),
                    format!("tensor `{name}` is in another part, too; expected each tensor once"),
                ));
            }
            let tensor = TensorEntry {
                part: number,
                ..tensor
            };
            self.tensors.insert(name, tensor);
        }
        self.parts.push(part.file);
        Ok(())
    }

    fn read_tensors(
        &self,
        position: usize,
        tensor_count: u64,
    ) -> Result<BTreeMap<String, TensorEntry>> {
        let alignment = self.alignment()?;
        let mut reader = Reader::new(self.path(), self.file.bytes(), position);
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = reader.string("the name of a tensor")?;
            if name.is_empty() || name.len() > MAX_NAME_BYTES {
                let length = name.len();
                return Err(reader.error(format!(
                    "the name of a tensor has {length} bytes; expected 1 to {MAX_NAME_BYTES}"
                )));
            }
            let (entry, offset) = read_tensor(&mut reader, name)?;
            if !offset.is_multiple_of(alignment) {
                return Err(reader.error(format!(
                    "tensor `{name}` lies at {offset} in the data; expected a multiple of the \
                     alignment, which is {alignment}"
                )));
            }
            if tensors.insert(name.to_owned(), (entry, offset)).is_some() {
                return Err(reader.error(format!(
                    "tensor `{name}` is there twice; expected each tensor once"
                )));
            }
        }
        let data_start = (reader.position() as u64).checked_next_multiple_of(alignment);
        let tensors = tensors.into_iter().map(|(name, (mut entry, offset))| {
            let start = data_start.and_then(|start| start.checked_add(offset));
            entry.bytes = self.place(&name, start, entry.bytes.len())?;
            Ok((name, entry))
        });
        tensors.collect()
    }

    /// The range of `length` bytes from `start` on, if the file has it.
    fn place(&self, name: &str, start: Option<u64>, length: usize) -> Result<Range<usize>> {
        let file_length = self.file.bytes().len();
        let range = start
            .and_then(|start| usize::try_from(start).ok())
            .and_then(|start| Some(start..start.checked_add(length)?));
        match range {
            Some(range) if range.end <= file_length => Ok(range),
            Some(Range { end, .. }) => Err(Error::format(
                self.path(),
                format!(
                    "truncated: tensor `{name}` ends at byte {end}; the file has {file_length} bytes"
                ),
            )),
            None => Err(Error::format(
                self.path(),
                format!("tensor `{name}` lies beyond any file; the file has {file_length} bytes"),
            )),
        }
    }

    fn alignment(&self) -> Result<u64> {
        match self.unsigned(ALIGNMENT)? {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(alignment) if alignment.is_power_of_two() => Ok(alignment),
            Some(_) => Err(self.invalid(ALIGNMENT, "a power of two")),
        }
    }

    fn check_overlaps(&self) -> Result<()> {
        let mut places: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, entry)| (entry.bytes.start, entry.bytes.end, name))
            .collect();
        places.sort_unstable();
        for pair in places.windows(2) {
            if let [(_, end, first), (start, _, second)] = pair
                && end > start
            {
                return Err(Error::format(
                    self.path(),
                    format!("the tensors `{first}` and `{second}` overlap; expected them apart"),
                ));
            }
        }
        Ok(())
    }
}

/// Reads what the file begins with and its version.
fn check_magic(reader: &mut Reader, path: &Path) -> Result<()> {
    let magic = reader.take(MAGIC.len() as u64, "the mark `GGUF`")?;
    if magic != MAGIC {
        return Err(reader.error(format!(
            "not a GGUF file: it begins with \"{}\"; expected \"GGUF\"",
            magic.escape_ascii()
        )));
    }
    let unsupported = |what, found: String, supported: &str| {
        Err(Error::Unsupported {
            path: path.to_owned(),
            what,
            found,
            supported: supported.to_owned(),
        })
    };
    match reader.u32("the version")? {
        2 | 3 => Ok(()),
        version if (1..=3).contains(&version.swap_bytes()) => {
            unsupported("byte order", "big endian".to_owned(), "little endian")
        }
        version => unsupported("GGUF version", version.to_string(), "2, 3"),
    }
}

/// Reads how many of something there are.
fn count(reader: &mut Reader, what: &str, max: u64) -> Result<u64> {
    let count = reader.u64(&format!("the number of {what}"))?;
    if count > max {
        return Err(reader.error(format!("there are {count} {what}; expected at most {max}")));
    }
    Ok(count)
}

/// Reads and checks the metadata, and gives where each value stands.
fn read_keys(reader: &mut Reader, key_count: u64) -> Result<BTreeMap<String, usize>> {
    let mut values = BTreeMap::new();
    for _ in 0..key_count {
        let key = reader.string("a key")?;
        if key.len() > MAX_KEY_BYTES {
            let length = key.len();
            return Err(reader.error(format!(
                "a key has {length} bytes; expected at most {MAX_KEY_BYTES}"
            )));
        }
        let position = reader.position();
        reader.typed_value(key)?;
        if values.insert(key.to_owned(), position).is_some() {
            return Err(reader.error(format!(
                "the key `{key}` is there twice; expected each key once"
            )));
        }
    }
    Ok(values)
}

/// Reads what stands behind the name of a tensor: the tensor, as if its data began the file, and where
/// it lies in the data.
fn read_tensor(reader: &mut Reader, name: &str) -> Result<(TensorEntry, u64)> {
    let dimensions = reader.u32(name)?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        return Err(reader.error(format!(
            "tensor `{name}` has {dimensions} dimensions; expected 1 to {MAX_DIMENSIONS}"
        )));
    }
    let mut sizes = Vec::new();
    for _ in 0..dimensions {
        sizes.push(reader.u64(name)?);
    }
    let ggml_type = GgmlType::from_id(reader.u32(name)?);
    let offset = reader.u64(name)?;
    let shape: Option<Vec<usize>> = sizes
        .iter()
        .rev()
        .map(|&size| usize::try_from(size).ok().filter(|&size| size > 0))
        .collect();
    let elements = shape.as_ref().and_then(|shape| {
        let mut sizes = shape.iter();
        sizes.try_fold(1usize, |product, &size| product.checked_mul(size))
    });
    let (Some(shape), Some(elements)) = (shape, elements) else {
        return Err(reader.error(format!(
            "tensor `{name}` has the sizes {sizes:?}; expected sizes from 1 on with a product that \
             memory could hold"
        )));
    };
    let row = shape.last().copied().unwrap_or_default();
    let length = match (ggml_type.block_len(), ggml_type.block_bytes()) {
        (Some(block), Some(bytes)) => {
            if !row.is_multiple_of(block) {
                return Err(reader.error(format!(
                    "tensor `{name}` has rows of {row} numbers; expected a multiple of the {block} \
                     in a block of {ggml_type}"
                )));
            }
            (elements / block).checked_mul(bytes)
        }
        _ => Some(1),
    };
    let length = length.ok_or_else(|| {
        reader.error(format!(
            "tensor `{name}` has {elements} numbers; expected as many as memory could hold"
        ))
    })?;
    let entry = TensorEntry {
        shape,
        ggml_type,
        part: 0,
        bytes: 0..length,
    };
    Ok((entry, offset))
}

#[cfg(test)]
mod tests;
