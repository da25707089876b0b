//! The layout of a GGUF file: metadata, the table of tensors, and their data, in version 3.

use crate::backend::device::completed;
use crate::backend::threads;
use crate::error::{Error, Result};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use std::fs::File;
use std::io::Write;
use std::path::Path;

const MAGIC: &[u8] = b"GGUF";
const VERSION: u32 = 3;
/// Where a file does not say otherwise, the data of each tensor starts at a multiple of this.
const ALIGNMENT: u64 = 32;
/// How many numbers a thread quantises at a time.
const CHUNK: usize = 1 << 18;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Texts(Vec<String>),
}

impl Value {
    /// The number that stands for its type, and for an array that of the elements.
    fn type_ids(&self) -> (u32, Option<u32>) {
        const ARRAY: u32 = 9;
        match self {
            Self::U32(_) => (4, None),
            Self::F32(_) => (6, None),
            Self::Bool(_) => (7, None),
            Self::Text(_) => (8, None),
            Self::I32s(_) => (ARRAY, Some(5)),
            Self::F32s(_) => (ARRAY, Some(6)),
            Self::Texts(_) => (ARRAY, Some(8)),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (id, element) = self.type_ids();
        out.extend(id.to_le_bytes());
        out.extend(element.into_iter().flat_map(u32::to_le_bytes));
        let mut length = |len: usize| out.extend((len as u64).to_le_bytes());
        match self {
            Self::I32s(list) => length(list.len()),
            Self::F32s(list) => length(list.len()),
            Self::Texts(list) => length(list.len()),
            _ => {}
        }
        match self {
            Self::U32(number) => out.extend(number.to_le_bytes()),
            Self::F32(number) => out.extend(number.to_le_bytes()),
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::Text(text) => write_text(text, out),
            Self::I32s(list) => out.extend(list.iter().flat_map(|n| n.to_le_bytes())),
            Self::F32s(list) => out.extend(list.iter().flat_map(|n| n.to_le_bytes())),
            Self::Texts(list) => list.iter().for_each(|text| write_text(text, out)),
        }
    }
}

impl From<usize> for Value {
    /// Sizes of a configuration have less than 32 bits.
    fn from(size: usize) -> Self {
        Self::U32(u32::try_from(size).unwrap_or(u32::MAX))
    }
}

impl From<f64> for Value {
    #[allow(clippy::cast_possible_truncation, reason = "GGUF has these as f32")]
    fn from(number: f64) -> Self {
        Self::F32(number as f32)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Keys and values, in the order in which they are written.
pub(super) type Metadata = Vec<(String, Value)>;

/// A tensor of a file, which is made when it is written.
pub(super) struct Stored<'a> {
    pub name: String,
    pub dims: Vec<usize>,
    pub format: GgmlDType,
    pub tensor: Box<dyn Fn() -> Result<Tensor> + 'a>,
}

impl Stored<'_> {
    /// The size in the file. Rows are whole blocks.
    fn bytes(&self) -> u64 {
        let count: usize = self.dims.iter().product();
        (count / self.format.block_size() * self.format.type_size()) as u64
    }
}

/// Writes a file. The host holds one tensor at a time, as it is in the model.
pub(super) fn write_file(path: &Path, metadata: &Metadata, tensors: &[Stored<'_>]) -> Result<()> {
    let failed = |e| Error::io(path, "a writable file", e);
    let mut file = File::create(path).map_err(failed)?;
    let header = header(metadata, tensors)?;
    file.write_all(&header).map_err(failed)?;
    let mut at = header.len() as u64;
    for tensor in tensors {
        file.write_all(&padding(at)).map_err(failed)?;
        write_data(tensor, |bytes| file.write_all(bytes).map_err(failed))?;
        at = at.next_multiple_of(ALIGNMENT) + tensor.bytes();
    }
    // Readers take the last tensor's size as a whole number of units, too.
    file.write_all(&padding(at)).map_err(failed)
}

/// The zeros from `at` to where the next tensor may begin.
fn padding(at: u64) -> Vec<u8> {
    vec![0; usize::try_from(at.next_multiple_of(ALIGNMENT) - at).unwrap_or(0)]
}

fn header(metadata: &Metadata, tensors: &[Stored<'_>]) -> Result<Vec<u8>> {
    let mut out = Vec::from(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_text(key, &mut out);
        value.write(&mut out);
    }
    // Offsets count from the beginning of the data, which is aligned as well.
    let mut offset = 0_u64;
    for tensor in tensors {
        write_text(&tensor.name, &mut out);
        let rank = u32::try_from(tensor.dims.len()).unwrap_or(u32::MAX);
        out.extend(rank.to_le_bytes());
        // The fastest dimension comes first.
        let dims = tensor.dims.iter().rev();
        out.extend(dims.flat_map(|&dim| (dim as u64).to_le_bytes()));
        out.extend(format_id(tensor.format)?.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
    }
    Ok(out)
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The number that stands for a tensor's format.
fn format_id(format: GgmlDType) -> Result<u32> {
    match format {
        GgmlDType::F32 => Ok(0),
        GgmlDType::F16 => Ok(1),
        GgmlDType::Q4_0 => Ok(2),
        GgmlDType::Q5_0 => Ok(6),
        GgmlDType::Q8_0 => Ok(8),
        GgmlDType::Q4K => Ok(12),
        GgmlDType::Q6K => Ok(14),
        GgmlDType::BF16 => Ok(30),
        other => Err(Error::option(
            "gguf_type",
            format!("{other:?}"),
            "a format that is written",
        )),
    }
}

/// Gives the data of a tensor to `write`, part by part.
fn write_data(tensor: &Stored<'_>, mut write: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let format = tensor.format;
    let numbers = (tensor.tensor)()?;
    let numbers = completed(numbers.device(), || {
        Ok(numbers.to_device(&Device::Cpu)?.flatten_all()?)
    })?;
    let count = numbers.elem_count();
    // A round is what all threads do at the same time, so that memory is bounded by their number.
    let round = CHUNK * threads::count();
    for start in (0..count).step_by(round) {
        let starts: Vec<_> = (start..count.min(start + round)).step_by(CHUNK).collect();
        let parts = starts.into_par_iter().map(|start| {
            let part = numbers.narrow(0, start, CHUNK.min(count - start))?;
            encode(&part, format)
        });
        for part in threads::run(|| parts.collect::<candle_core::Result<Vec<_>>>())? {
            write(&part)?;
        }
    }
    Ok(())
}

/// The bytes of numbers in a format of which they are whole blocks.
fn encode(numbers: &Tensor, format: GgmlDType) -> candle_core::Result<Vec<u8>> {
    // Copied, because the quantiser reads from the beginning of a tensor's memory, whatever part of
    // it the tensor is.
    let numbers: Vec<f32> = numbers.to_dtype(DType::F32)?.to_vec1()?;
    let count = numbers.len();
    let block = format.block_size();
    let numbers = Tensor::from_vec(numbers, (count / block, block), &Device::Cpu)?;
    let blocks = match format {
        // Of candle's two quantisers the one for weighted errors searches better, be all weights one.
        GgmlDType::Q4K | GgmlDType::Q6K => {
            QTensor::quantize_imatrix(&numbers, &vec![1.0; block], format)?
        }
        _ => QTensor::quantize(&numbers, format)?,
    };
    Ok(blocks.data()?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::gguf_file::{Content, Value as Read};

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let metadata = vec![
            ("a".to_owned(), Value::from(7_usize)),
            ("b".to_owned(), Value::from(0.5)),
            ("c".to_owned(), Value::Bool(true)),
            ("d".to_owned(), Value::from("größe")),
            ("e".to_owned(), Value::I32s(vec![-1, 2])),
            ("f".to_owned(), Value::F32s(vec![-0.5])),
            (
                "g".to_owned(),
                Value::Texts(vec![String::new(), "x".into()]),
            ),
        ];
        // Longer than a round, and so that its end is no multiple of the alignment.
        let count = CHUNK * (rayon::current_num_threads() + 1) + 3;
        let long = Tensor::arange(0u32, u32::try_from(count).unwrap(), &Device::Cpu).unwrap();
        let long = long.to_dtype(DType::F32).unwrap();
        let turned = long.narrow(0, 5, 128).unwrap().reshape((2, 64)).unwrap();
        let turned = turned.t().unwrap();
        let stored = |name: &str, tensor: &Tensor, format| {
            let tensor = tensor.clone();
            Stored {
                name: name.to_owned(),
                dims: tensor.dims().to_vec(),
                format,
                tensor: Box::new(move || Ok(tensor.clone())),
            }
        };
        let rows = turned.t().unwrap();
        let tensors = [
            stored("long", &long, GgmlDType::F32),
            stored("turned", &turned, GgmlDType::F16),
            stored("rows", &rows, GgmlDType::Q8_0),
        ];
        write_file(&path, &metadata, &tensors).unwrap();
        let mut file = File::open(&path).unwrap();
        let content = Content::read(&mut file).unwrap();
        assert_eq!(content.tensor_data_offset % 32, 0);
        assert!(file.metadata().unwrap().len().is_multiple_of(32));
        let value = |key: &str| &content.metadata[key];
        assert_eq!(content.metadata.len(), 7);
        assert_eq!(value("a").to_u32().unwrap(), 7);
        assert!((value("b").to_f32().unwrap() - 0.5).abs() < f32::EPSILON);
        assert!(value("c").to_bool().unwrap());
        assert_eq!(value("d").to_string().unwrap(), "größe");
        let list = |key: &str| value(key).to_vec().unwrap().clone();
        assert!(matches!(list("e")[..], [Read::I32(-1), Read::I32(2)]));
        assert!(matches!(list("f")[..], [Read::F32(x)] if (x + 0.5).abs() < f32::EPSILON));
        assert!(matches!(&list("g")[..], [Read::String(a), Read::String(b)]
            if a.is_empty() && b == "x"));
        for info in content.tensor_infos.values() {
            assert_eq!(info.offset % 32, 0);
        }
        let mut read = |name: &str| {
            let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap();
            tensor.dequantize(&Device::Cpu).unwrap()
        };
        let numbers =
            |tensor: &Tensor| -> Vec<f32> { tensor.flatten_all().unwrap().to_vec1().unwrap() };
        assert_eq!(numbers(&read("long")), numbers(&long));
        let read_turned = read("turned");
        assert_eq!(read_turned.dims(), [64, 2]);
        assert_eq!(numbers(&read_turned), numbers(&turned));
        for (found, expected) in numbers(&read("rows")).iter().zip(numbers(&rows)) {
            // Half a step, and the rounding of its size to 16 bits.
            assert!((found - expected).abs() <= 132.0 / 254.0 + 0.07, "{found}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_file(folder.path(), &vec![], &[]).unwrap_err();
        let name = folder.path().display().to_string();
        assert!(error.to_string().contains(&name), "{error}");
    }
}
