//! Weights in PyTorch's own files, `pytorch_model.bin`, as `torch.save` writes them.
//!
//! Such a file is a ZIP archive: `data.pkl`, a pickle that says which tensors there are, and a file
//! for the numbers of each storage. A pickle is a program. Here it is run by an interpreter that can
//! do nothing but put together names and tensors; what asks for more is refused.

mod archive;
pub(crate) mod pickle;

use super::tensor_files::{TensorEntry, TensorFiles};
use crate::backend::mapped_file::MappedFile;
use crate::error::{Error, Result};
use archive::Archive;
use pickle::PickledTensor;
use std::path::Path;

/// The name of the weights of a model in one file.
pub(super) const SINGLE_FILE: &str = "pytorch_model.bin";
/// The name of the file that lists the shards of a model in several files.
pub(super) const INDEX_FILE: &str = "pytorch_model.bin.index.json";

/// Opens the weights of a model directory: `pytorch_model.bin`, or else the shards that
/// `pytorch_model.bin.index.json` lists.
pub(super) fn open(dir: &Path) -> Result<TensorFiles> {
    let single = dir.join(SINGLE_FILE);
    if single.exists() {
        let mut tensors = TensorFiles::new(&single);
        add_file(&mut tensors, &single)?;
        Ok(tensors)
    } else {
        TensorFiles::open_shards(&dir.join(INDEX_FILE), add_file)
    }
}

/// Maps a file and adds its tensors.
fn add_file(tensors: &mut TensorFiles, path: &Path) -> Result<()> {
    let file = MappedFile::open(path, "weights in a file of torch.save")?;
    let entries = entries(file.bytes(), path)?;
    tensors.add(file, entries)
}

/// The tensors of a file with these bytes.
pub(crate) fn entries(bytes: &[u8], path: &Path) -> Result<Vec<(String, TensorEntry)>> {
    let archive = Archive::open(bytes, path)?;
    let pickle = archive.pickle()?;
    let tensors = pickle::tensors(&bytes[pickle], path)?;
    let entries = tensors.into_iter().map(|(name, tensor)| {
        let entry = place(&archive, name, &tensor, path)?;
        Ok((name.to_owned(), entry))
    });
    entries.collect()
}

/// Finds the numbers of a tensor in the file.
fn place(
    archive: &Archive,
    name: &str,
    tensor: &PickledTensor<'_>,
    path: &Path,
) -> Result<TensorEntry> {
    let invalid = |reason: String| Error::format(path, format!("tensor `{name}` {reason}"));
    let too_large = || {
        invalid(format!(
            "has the shape {:?}, which is too large",
            tensor.shape
        ))
    };
    let mut elements = 1usize;
    // Strides are products of some sizes, so these must fit even where another one is zero.
    let mut sizes = tensor.shape.iter().filter(|&&size| size > 0);
    if sizes
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .is_none()
    {
        return Err(too_large());
    }
    // Of a row-major tensor, from the last dimension on.
    for (&size, &stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
        if size > 1 && stride != elements {
            return Err(invalid(format!(
                "has the strides {:?} with the shape {:?}; expected a tensor without gaps, which \
                 `contiguous()` makes before saving",
                tensor.strides, tensor.shape
            )));
        }
        elements = elements.checked_mul(size).ok_or_else(too_large)?;
    }
    let storage = archive.storage(tensor.storage).ok_or_else(|| {
        let storage = tensor.storage;
        invalid(format!(
            "lies in the storage `{storage}`, which is not in the file"
        ))
    })?;
    let (dtype, width) = (tensor.dtype, tensor.dtype.size_in_bytes());
    let start = tensor.offset.checked_mul(width).ok_or_else(too_large)?;
    let len = elements.checked_mul(width).ok_or_else(too_large)?;
    let end = start.checked_add(len).ok_or_else(too_large)?;
    if end > storage.len() {
        return Err(invalid(format!(
            "ends at byte {end} of the storage `{}`; expected at most its {} bytes",
            tensor.storage,
            storage.len()
        )));
    }
    Ok(TensorEntry {
        encoding: dtype.as_str().to_uppercase(),
        dtype: Some(dtype),
        shape: tensor.shape.clone(),
        bytes: storage.start + start..storage.start + end,
    })
}

#[cfg(test)]
mod tests;
