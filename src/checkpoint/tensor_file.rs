//! Safetensors files, written one tensor after the other.

use super::atomic::StagedFile;
use crate::backend::device::completed;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

/// How many numbers are converted at a time.
const CHUNK: usize = 1 << 20;

/// A tensor of a file, which is made when it is written.
pub(super) struct Stored<'a> {
    pub name: String,
    pub dtype: DType,
    pub dims: Vec<usize>,
    pub tensor: Box<dyn Fn() -> Result<Tensor> + 'a>,
}

impl Stored<'_> {
    /// A tensor that there is.
    pub(super) fn new(name: String, tensor: Tensor) -> Self {
        Self {
            name,
            dtype: tensor.dtype(),
            dims: tensor.dims().to_vec(),
            tensor: Box::new(move || Ok(tensor.clone())),
        }
    }

    /// The size in the file.
    pub(super) fn bytes(&self) -> u64 {
        (self.dims.iter().product::<usize>() * self.dtype.size_in_bytes()) as u64
    }
}

/// Writes named tensors to a file, with `format` in its metadata. The host holds a copy of one tensor
/// at a time.
pub(super) fn write_tensors(
    mut file: StagedFile,
    tensors: &[Stored<'_>],
    format: &str,
) -> Result<()> {
    let mut header = Map::from_iter([("__metadata__".to_owned(), json!({"format": format}))]);
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes();
        let entry = json!({
            "dtype": dtype_name(tensor.dtype)?,
            "shape": tensor.dims,
            "data_offsets": [offset, end],
        });
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // So that the numbers lie aligned in a mapping of the file.
    header.resize(header.len().next_multiple_of(8), b' ');
    file.write(&(header.len() as u64).to_le_bytes())?;
    file.write(&header)?;
    for tensor in tensors {
        write_numbers(&mut file, tensor)?;
    }
    file.finish()
}

fn dtype_name(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("F32"),
        DType::F16 => Ok("F16"),
        DType::BF16 => Ok("BF16"),
        other => Err(Error::option("dtype", other.as_str(), "f32, f16 or bf16")),
    }
}

fn write_numbers(file: &mut StagedFile, tensor: &Stored<'_>) -> Result<()> {
    let tensor = (tensor.tensor)()?;
    let tensor = completed(tensor.device(), || {
        Ok(tensor.to_device(&Device::Cpu)?.flatten_all()?)
    })?;
    let count = tensor.elem_count();
    let mut bytes = Vec::new();
    for start in (0..count).step_by(CHUNK) {
        bytes.clear();
        let part = tensor.narrow(0, start, CHUNK.min(count - start))?;
        part.write_bytes(&mut bytes)?;
        file.write(&bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::atomic::Staged;
    use super::*;
    use crate::backend::testing::device;
    use safetensors::SafeTensors;

    #[test]
    fn tensors_of_every_layout_are_written_as_they_read() {
        let count = CHUNK + 10;
        let long = Tensor::arange(0u32, u32::try_from(count).unwrap(), &Device::Cpu).unwrap();
        let long = long
            .to_dtype(DType::F32)
            .unwrap()
            .to_device(device())
            .unwrap();
        let matrix = long.narrow(0, 7, 6).unwrap().reshape((2, 3)).unwrap();
        let half = matrix.to_dtype(DType::F16).unwrap();
        let tensors = [
            ("half".to_owned(), half),
            ("turned".to_owned(), matrix.t().unwrap()),
            ("long".to_owned(), long),
        ];
        let folder = tempfile::tempdir().unwrap();
        let staged = Staged::new(&folder.path().join("x")).unwrap();
        let tensors = tensors.map(|(name, tensor)| Stored::new(name, tensor));
        write_tensors(staged.create("a").unwrap(), &tensors, "pt").unwrap();
        staged.replace().unwrap();
        let bytes = std::fs::read(folder.path().join("x/a")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header % 8, 0);
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let turned = file.tensor("turned").unwrap();
        let expected = [7f32, 10., 8., 11., 9., 12.].map(f32::to_le_bytes).concat();
        assert_eq!(
            (turned.shape(), turned.data()),
            (&[3, 2][..], &expected[..])
        );
        let half = file.tensor("half").unwrap();
        assert_eq!(half.data()[..4], [0x00, 0x47, 0x00, 0x48]);
        let long = file.tensor("long").unwrap().data();
        #[allow(clippy::cast_precision_loss, reason = "below 2^24")]
        let last = ((count - 1) as f32).to_le_bytes();
        assert_eq!(
            (long.len(), &long[4 * (count - 1)..]),
            (4 * count, &last[..])
        );
    }
}
