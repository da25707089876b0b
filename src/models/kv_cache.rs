//! The keys and values of the tokens seen so far.

use super::ModelConfig;
use candle_core::{DType, Device, Result, Tensor};

/// Positions by which a cache grows.
const GROWTH: usize = 256;

/// Keys and values of every layer, in buffers that are written in place.
///
/// Each buffer has shape (batch, `kv_heads`, capacity, `head_dim`); a step writes only its own
/// positions, so a token costs the same however many came before it. Capacity grows in steps of 256
/// positions, or at once by [`KvCache::reserve`].
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Option<Buffers>>,
    len: usize,
    capacity: usize,
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    device: Device,
}

#[derive(Debug)]
struct Buffers {
    keys: Tensor,
    values: Tensor,
}

impl KvCache {
    /// An empty cache for a model of this configuration.
    #[must_use]
    pub fn new(config: &ModelConfig, dtype: DType, device: &Device) -> Self {
        Self {
            layers: (0..config.num_hidden_layers).map(|_| None).collect(),
            len: 0,
            capacity: 0,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            dtype,
            device: device.clone(),
        }
    }

    /// The number of positions held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes the next growth large enough for `positions` in all.
    pub fn reserve(&mut self, positions: usize) {
        self.capacity = self.capacity.max(positions.next_multiple_of(GROWTH));
    }

    /// Forgets the positions from `len` on; the buffers stay.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Memory of the buffers in bytes.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        self.layers
            .iter()
            .flatten()
            .flat_map(|layer| [&layer.keys, &layer.values])
            .map(|buffer| buffer.elem_count() * self.dtype.size_in_bytes())
            .sum()
    }

    /// Writes the keys and values of new positions, of shape (batch, `kv_heads`, n, `head_dim`), and
    /// gives those of all positions. [`KvCache::advance`] follows when all layers are done.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (batch, _, new, _) = keys.dims4()?;
        let end = self.len + new;
        self.reserve(end);
        let shape = (batch, self.kv_heads, self.capacity, self.head_dim);
        let (len, capacity) = (self.len, self.capacity);
        let slot = &mut self.layers[layer];
        let fits = slot
            .as_ref()
            .is_some_and(|held| held.keys.dims()[2] >= end && held.keys.dims()[0] == batch);
        if !fits {
            tracing::trace!(layer, capacity, "growing the key-value cache");
            let grown = Buffers {
                keys: Tensor::zeros(shape, self.dtype, &self.device)?,
                values: Tensor::zeros(shape, self.dtype, &self.device)?,
            };
            if let Some(held) = slot.take().filter(|_| len > 0) {
                let copy = |from: &Tensor, to: &Tensor| {
                    to.slice_set(&from.narrow(2, 0, len)?.contiguous()?, 2, 0)
                };
                copy(&held.keys, &grown.keys)?;
                copy(&held.values, &grown.values)?;
            }
            *slot = Some(grown);
        }
        let Some(held) = slot else {
            return Err(candle_core::Error::Msg(
                "the cache has no buffer".to_owned(),
            ));
        };
        held.keys.slice_set(&keys.contiguous()?, 2, len)?;
        held.values.slice_set(&values.contiguous()?, 2, len)?;
        Ok((held.keys.narrow(2, 0, end)?, held.values.narrow(2, 0, end)?))
    }

    /// Counts the positions that every layer has written.
    pub(crate) fn advance(&mut self, positions: usize) {
        self.len += positions;
    }
}
