//! The keys and values of the tokens seen so far.

mod cache_type;

pub use cache_type::KvCacheType;

use super::ModelConfig;
use crate::backend::device::completed;
use crate::backend::room;
use cache_type::Part;
use candle_core::{DType, Device, Result, Tensor};

/// Positions by which a cache grows.
const GROWTH: usize = 256;

/// Keys and values of every layer, in buffers that are written in place.
///
/// Each buffer has shape (batch, `kv_heads`, capacity, `head_dim`); a step writes only its own
/// positions, so a token costs the same however many came before it. Capacity grows in steps of 256
/// positions, or at once by [`KvCache::reserve`]. [`KvCacheType`] says in which form numbers are kept.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Option<Buffers>>,
    len: usize,
    capacity: usize,
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    device: Device,
    cache_type: KvCacheType,
}

/// The parts of one layer's keys and values, as [`KvCacheType::parts`] lists them.
#[derive(Debug)]
struct Buffers {
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
}

impl Buffers {
    fn all(&self) -> impl Iterator<Item = &Tensor> {
        self.keys.iter().chain(&self.values)
    }

    fn batch(&self) -> usize {
        self.keys.first().map_or(0, |part| part.dims()[0])
    }

    fn capacity(&self) -> usize {
        self.keys.first().map_or(0, |part| part.dims()[2])
    }

    /// Copies the first `len` positions of `from`.
    fn copy(&self, from: &Self, len: usize) -> Result<()> {
        for (to, from) in self.all().zip(from.all()) {
            to.slice_set(&from.narrow(2, 0, len)?.contiguous()?, 2, 0)?;
        }
        Ok(())
    }
}

impl KvCache {
    /// Capacity is a multiple of this.
    pub(crate) const STEP: usize = GROWTH;

    /// An empty cache for a model of this configuration, of type [`KvCacheType::Full`].
    #[must_use]
    pub fn new(config: &ModelConfig, dtype: DType, device: &Device) -> Self {
        Self::with_type(config, dtype, device, KvCacheType::Full)
    }

    /// An empty cache of the given type, for a model of `dtype`.
    #[must_use]
    pub fn with_type(
        config: &ModelConfig,
        dtype: DType,
        device: &Device,
        cache_type: KvCacheType,
    ) -> Self {
        Self {
            layers: (0..config.num_hidden_layers).map(|_| None).collect(),
            len: 0,
            capacity: 0,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            dtype,
            device: device.clone(),
            cache_type,
        }
    }

    /// The form in which numbers are kept.
    #[must_use]
    pub fn cache_type(&self) -> KvCacheType {
        self.cache_type
    }

    /// The dtype of the model, in which [`KvCacheType::Full`] keeps numbers.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
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

    /// A copy that shares nothing with this cache, so that two texts can go on from one beginning.
    ///
    /// It takes as much memory again, with the same room for further positions.
    ///
    /// # Errors
    ///
    /// [`Error::Backend`](crate::Error::Backend) where the device is out of memory.
    ///
    /// # Example
    ///
    /// ```
    /// use metal_candle::ModelLoader;
    ///
    /// let model = ModelLoader::new().load("assets/tiny-coder")?;
    /// let tokens = candle_core::Tensor::new(&[[5u32, 17, 42]], model.device())?;
    /// let mut cache = model.decoder().new_cache();
    /// model.decoder().forward(&tokens, Some(&mut cache), None)?;
    /// let mut fork = cache.fork()?;
    /// model.decoder().forward(&tokens, Some(&mut fork), None)?;
    /// assert_eq!((cache.len(), fork.len()), (3, 6));
    /// # Ok::<(), metal_candle::Error>(())
    /// ```
    pub fn fork(&self) -> crate::Result<Self> {
        completed(&self.device, || {
            let copy = |held: &Buffers| {
                let buffers = self.buffers(held.batch())?;
                buffers.copy(held, self.len)?;
                Ok(buffers)
            };
            let layers = self.layers.iter().map(|layer| {
                let held = layer.as_ref().filter(|_| self.len > 0);
                held.map(copy).transpose()
            });
            Ok(Self {
                layers: layers.collect::<Result<_>>()?,
                device: self.device.clone(),
                ..*self
            })
        })
    }

    /// Memory of the buffers in bytes, room for further positions included.
    #[must_use]
    pub fn size_in_bytes(&self) -> usize {
        let buffers = self.layers.iter().flatten().flat_map(Buffers::all);
        buffers
            .map(|buffer| buffer.elem_count() * buffer.dtype().size_in_bytes())
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
        let (len, end) = (self.len, self.len + new);
        let (cache_type, dtype) = (self.cache_type, keys.dtype());
        let kept = self.dtype;
        let held = self.room(layer, batch, new)?;
        let write = |buffers: &[Tensor], new: &Tensor| {
            for (buffer, part) in buffers.iter().zip(cache_type.encode(new, kept)?) {
                buffer.slice_set(&part, 2, len)?;
            }
            let parts = buffers.iter().map(|buffer| buffer.narrow(2, 0, end));
            let parts = parts.collect::<Result<Vec<_>>>()?;
            cache_type.decode(&parts, dtype)
        };
        Ok((write(&held.keys, keys)?, write(&held.values, values)?))
    }

    /// The buffers of a layer, with room for `new` more positions.
    fn room(&mut self, layer: usize, batch: usize, new: usize) -> Result<&Buffers> {
        let (len, end) = (self.len, self.len + new);
        self.reserve(end);
        let held = self.layers[layer].as_ref();
        if !held.is_some_and(|held| held.capacity() >= end && held.batch() == batch) {
            tracing::trace!(layer, self.capacity, "growing the key-value cache");
            let grown = self.buffers(batch)?;
            if let Some(held) = held.filter(|_| len > 0) {
                grown.copy(held, len)?;
            }
            self.layers[layer] = Some(grown);
        }
        self.layers[layer]
            .as_ref()
            .ok_or_else(|| candle_core::Error::Msg("the cache has no buffer".to_owned()))
    }

    /// Makes room in all layers for more positions of one sequence; not where the cache keeps numbers in
    /// another form than that of the model.
    pub(crate) fn make_room(&mut self, positions: usize) -> Result<bool> {
        if self.cache_type != KvCacheType::Full {
            return Ok(false);
        }
        for layer in 0..self.layers.len() {
            self.room(layer, 1, positions)?;
        }
        Ok(true)
    }

    /// The keys and values of a layer, (1, `kv_heads`, capacity, `head_dim`), where it has such.
    pub(crate) fn plain(&self, layer: usize) -> Option<(&Tensor, &Tensor)> {
        let held = self.layers.get(layer)?.as_ref()?;
        held.keys.first().zip(held.values.first())
    }

    /// Counts the positions that every layer has written.
    pub(crate) fn advance(&mut self, positions: usize) {
        self.len += positions;
    }

    /// Whether it is one for a model of this configuration and dtype.
    pub(crate) fn fits(&self, config: &ModelConfig, dtype: DType) -> bool {
        let other = Self::with_type(config, dtype, &self.device, self.cache_type);
        let shape = |cache: &Self| {
            (
                cache.layers.len(),
                cache.kv_heads,
                cache.head_dim,
                cache.dtype,
            )
        };
        shape(self) == shape(&other)
    }

    /// The positions held, part by part, each with a name such as `layers.0.keys`.
    pub(crate) fn used_parts(&self) -> Result<Vec<(String, Tensor)>> {
        let mut used = vec![];
        if self.len > 0 {
            for (layer, held) in self.layers.iter().enumerate() {
                let parts = held.iter().flat_map(Buffers::all);
                for ((name, _), part) in self.names(layer).into_iter().zip(parts) {
                    used.push((name, part.narrow(2, 0, self.len)?.force_contiguous()?));
                }
            }
        }
        Ok(used)
    }

    /// What [`used_parts`](Self::used_parts) gives of `len` positions of one sequence: names, shapes
    /// and dtypes.
    pub(crate) fn parts_of(&self, len: usize) -> Vec<(String, [usize; 4], DType)> {
        let layers = if len == 0 { 0 } else { self.layers.len() };
        (0..layers)
            .flat_map(|layer| self.names(layer))
            .map(|(name, part)| (name, [1, self.kv_heads, len, part.width], part.dtype))
            .collect()
    }

    /// Fills an empty cache with `len` positions of one sequence; `load` gives the part of a name,
    /// which is what [`parts_of`](Self::parts_of) says. Where it fails, the cache stays empty.
    ///
    /// Room for all positions is allocated first, so they must be known to be there.
    pub(crate) fn fill(
        &mut self,
        len: usize,
        mut load: impl FnMut(&str) -> crate::Result<Tensor>,
    ) -> crate::Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.reserve(len);
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in 0..self.layers.len() {
            let buffers = self.buffers(1)?;
            for ((name, _), buffer) in self.names(layer).into_iter().zip(buffers.all()) {
                buffer.slice_set(&load(&name)?, 2, 0)?;
            }
            layers.push(Some(buffers));
        }
        self.layers = layers;
        self.len = len;
        Ok(())
    }

    /// New buffers of one layer.
    fn buffers(&self, batch: usize) -> Result<Buffers> {
        let parts = self.cache_type.parts(self.head_dim, self.dtype);
        let width = |part: &Part| part.width * part.dtype.size_in_bytes();
        let bytes = parts.iter().map(width).sum::<usize>() * 2;
        let positions = batch
            .saturating_mul(self.kv_heads)
            .saturating_mul(self.capacity);
        room::check(&self.device, positions, bytes, "the key-value cache")?;
        let zeros = || {
            let parts = parts.iter().map(|part| {
                let shape = (batch, self.kv_heads, self.capacity, part.width);
                Tensor::zeros(shape, part.dtype, &self.device)
            });
            parts.collect::<Result<Vec<_>>>()
        };
        Ok(Buffers {
            keys: zeros()?,
            values: zeros()?,
        })
    }

    /// What the tensors of [`Buffers::all`] are called in a file, and what they are.
    fn names(&self, layer: usize) -> Vec<(String, Part)> {
        let parts = self.cache_type.parts(self.head_dim, self.dtype);
        ["keys", "values"]
            .iter()
            .flat_map(|what| parts.iter().map(move |part| (what, *part)))
            .map(|(what, part)| (format!("layers.{layer}.{what}{}", part.suffix), part))
            .collect()
    }
}

#[cfg(test)]
mod tests;
