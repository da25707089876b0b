//! The header of a safetensors file: which tensors there are, and where.
//!
//! Read here and not by the library that writes such files, to name the tensor that is wrong, to notice
//! names that come twice, and because its sum of all sizes overflows.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use candle_core::DType;
use safetensors::tensor::{Dtype, TensorInfo};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::error::{Error, Result};
use crate::models::tensor_files::TensorEntry;

/// The length of the number at the start of a safetensors file, in bytes.
const LENGTH_BYTES: usize = 8;
/// The longest header that is read, in bytes, as the format has it.
const MAX_HEADER_BYTES: usize = 100_000_000;
/// The most dimensions of a tensor that are believed; PyTorch has no more.
const MAX_DIMENSIONS: usize = 64;

/// The free-form strings of headers.
pub(super) type Metadata = BTreeMap<String, String>;

/// The tensors and the metadata of a file with these bytes.
pub(crate) fn entries(bytes: &[u8], path: &Path) -> Result<(Vec<(String, TensorEntry)>, Metadata)> {
    let invalid = |reason: String| Error::format(path, reason);
    let (header, data_start) = header(bytes).map_err(invalid)?;
    let header: Header = serde_json::from_slice(header)
        .map_err(|error| invalid(format!("not a valid safetensors file: {error}")))?;
    let mut tensors = header.tensors;
    let mut names = HashSet::new();
    if let Some((twice, _)) = tensors.iter().find(|(name, _)| !names.insert(name)) {
        let reason = format!("tensor `{twice}` is there twice; expected each tensor once");
        return Err(invalid(reason));
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = data_start;
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let range = place(&info, data_start, end)
            .map_err(|reason| invalid(format!("tensor `{name}` {reason}")))?;
        end = range.end;
        let entry = TensorEntry {
            encoding: info.dtype.to_string(),
            dtype: loadable_dtype(info.dtype),
            shape: info.shape,
            bytes: range,
        };
        entries.push((name, entry));
    }
    let length = bytes.len();
    match end.cmp(&length) {
        Ordering::Equal => Ok((entries, header.metadata)),
        Ordering::Greater => Err(invalid(format!(
            "truncated: the file has {length} bytes; expected {end}"
        ))),
        Ordering::Less => Err(invalid(format!(
            "the file has {length} bytes; expected {end}, where its tensors end"
        ))),
    }
}

/// The header of a file with these bytes, and where its data begins.
fn header(bytes: &[u8]) -> std::result::Result<(&[u8], usize), String> {
    let file_length = bytes.len();
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!(
            "truncated: the file has {file_length} bytes; expected a header of at least \
             {LENGTH_BYTES}"
        ));
    };
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "not a valid safetensors file: header too large, {length} bytes; expected at most \
             {MAX_HEADER_BYTES}"
        ));
    }
    let header = rest.get(..length).ok_or_else(|| {
        format!(
            "truncated or not a safetensors file: the header ends beyond the {file_length} bytes of \
             the file"
        )
    })?;
    Ok((header, LENGTH_BYTES + length))
}

/// The bytes of a tensor in the file, which must begin where the one before it ends; or what is wrong
/// with it.
fn place(
    info: &TensorInfo,
    data_start: usize,
    expected_start: usize,
) -> std::result::Result<Range<usize>, String> {
    let dimensions = info.shape.len();
    if dimensions > MAX_DIMENSIONS {
        return Err(format!(
            "has {dimensions} dimensions; expected at most {MAX_DIMENSIONS}"
        ));
    }
    // Strides are products of some sizes, so these must fit even where another one is zero.
    let mut sizes = info.shape.iter().filter(|&&size| size > 0);
    let bits = sizes.try_fold(info.dtype.bitsize(), |bits, &size| bits.checked_mul(size));
    let empty = info.shape.contains(&0);
    let bits = bits.map(|bits| if empty { 0 } else { bits });
    let Some(bits) = bits.filter(|bits| bits.is_multiple_of(8)) else {
        let (dtype, shape) = (info.dtype, &info.shape);
        return Err(format!(
            "of {dtype} has the shape {shape:?}; expected whole bytes that memory could hold"
        ));
    };
    let length = bits / 8;
    let (start, end) = info.data_offsets;
    let place = |offset: usize| offset.checked_add(data_start);
    match (place(start), place(end)) {
        (Some(from), Some(to))
            if from == expected_start && to.checked_sub(from) == Some(length) =>
        {
            Ok(from..to)
        }
        _ => Err(format!(
            "has the offsets [{start}, {end}]; expected {length} bytes from {} on, without overlaps \
             or gaps",
            expected_start - data_start
        )),
    }
}

/// The header of a file: a JSON object.
struct Header {
    /// Each as often as it is there.
    tensors: Vec<(String, TensorInfo)>,
    metadata: Metadata,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Header, A::Error> {
                let (mut tensors, mut metadata) = (vec![], Metadata::new());
                while let Some(key) = map.next_key::<String>()? {
                    if key == "__metadata__" {
                        metadata = map.next_value::<Option<Metadata>>()?.unwrap_or_default();
                        continue;
                    }
                    let info = map.next_value().map_err(|error| {
                        serde::de::Error::custom(format_args!("tensor `{key}`: {error}"))
                    })?;
                    tensors.push((key, info));
                }
                Ok(Header { tensors, metadata })
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// The dtype in candle of a stored one, if candle can compute with it.
fn loadable_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F64 => Some(DType::F64),
        Dtype::U8 => Some(DType::U8),
        Dtype::U32 => Some(DType::U32),
        Dtype::I16 => Some(DType::I16),
        Dtype::I32 => Some(DType::I32),
        Dtype::I64 => Some(DType::I64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with this header and so many bytes of data.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [&length, header.as_bytes(), &vec![0; data]].concat()
    }

    #[test]
    fn ends_that_no_number_holds_are_refused() {
        // As many bytes as there are numbers of 64 bits, in tensors that each fit.
        let size = (1usize << 61) - 1;
        let tensors: Vec<_> = (0..8)
            .map(|i| {
                let (start, end) = (i * size, (i + 1) * size);
                format!(
                    r#""t{i}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#
                )
            })
            .collect();
        let error = entries(
            &file(&format!("{{{}}}", tensors.join(",")), 8),
            Path::new("f"),
        );
        let message = error.unwrap_err().to_string();
        assert!(
            message.starts_with("f: tensor `t7` has the offsets"),
            "{message}"
        );
    }

    #[test]
    fn tensors_without_numbers_are_there() {
        let header = r#"{"a":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},
            "__metadata__":null,"b":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}} "#;
        let (entries, metadata) = entries(&file(header, 1), Path::new("f")).unwrap();
        let found: Vec<_> = entries
            .iter()
            .map(|(name, entry)| (name.as_str(), entry.shape.as_slice(), entry.bytes.len()))
            .collect();
        assert_eq!(found, [("a", &[0, 3][..], 0), ("b", &[2], 1)]);
        assert!(metadata.is_empty());
    }
}
