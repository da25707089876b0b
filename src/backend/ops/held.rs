//! A tensor of the CPU that is read in place.

use crate::backend::kernels::dot::Numbers;
use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use parking_lot::RwLockReadGuard;

/// A tensor, and its storage for as long as it is read.
pub(super) struct Held<'a> {
    storage: RwLockReadGuard<'a, Storage>,
    layout: &'a Layout,
}

impl<'a> Held<'a> {
    pub fn of(tensor: &'a Tensor) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout }
    }

    /// Floating-point numbers.
    pub fn numbers(&self) -> Result<Numbers<'_>> {
        Numbers::of(self.storage()?, self.layout)
    }

    /// Bytes.
    pub fn bytes(&self) -> Result<&[u8]> {
        match (self.storage()?, self.layout.contiguous_offsets()) {
            (CpuStorage::U8(bytes), Some((start, end))) => Ok(&bytes[start..end]),
            _ => bail!("these are no bytes one after the other"),
        }
    }

    fn storage(&self) -> Result<&CpuStorage> {
        match &*self.storage {
            Storage::Cpu(storage) => Ok(storage),
            _ => bail!("a tensor that is read in place is one of the CPU"),
        }
    }
}
