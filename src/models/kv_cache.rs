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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ops::gradcheck::random;
    use crate::backend::testing::{device, device_kind, read};
    use crate::backend::{DTypePolicy, DeviceKind};
    use crate::models::testing::model;

    /// A cache on the device under test, and beside it what it must hold: on the CPU, part by part.
    struct Pair {
        cache: KvCache,
        batch: usize,
        held: Vec<[Tensor; 2]>,
    }

    impl Pair {
        fn new(batch: usize, dtype: DType) -> Self {
            let model = model("qwen2_tied", DeviceKind::Cpu, DTypePolicy::F32);
            Self {
                cache: KvCache::new(model.config(), dtype, device()),
                batch,
                held: vec![],
            }
        }

        /// Appends positions to both layers, and compares all that the cache gives back.
        fn append(&mut self, positions: usize, seed: u64) {
            let shape = [
                self.batch,
                positions,
                self.cache.kv_heads,
                self.cache.head_dim,
            ];
            // As the decoder splits them: views, where there is one head or one position.
            let split = |seed| {
                let x = random(&shape, seed).to_dtype(self.cache.dtype).unwrap();
                x.transpose(1, 2).unwrap().contiguous().unwrap()
            };
            self.held.push([split(seed), split(seed + 1)]);
            let [keys, values] = [0, 1].map(|i| self.held.last().unwrap()[i].clone());
            for layer in 0..2 {
                let sign = if layer == 0 { 1.0 } else { -1.0 };
                let there = |x: &Tensor| (x.to_device(device()).unwrap() * sign).unwrap();
                let found = self.cache.append(layer, &there(&keys), &there(&values));
                let (keys, values) = found.unwrap();
                for (index, found) in [keys, values].iter().enumerate() {
                    let parts: Vec<_> = self.held.iter().map(|part| &part[index]).collect();
                    let expected = (Tensor::cat(&parts, 2).unwrap() * sign).unwrap();
                    assert_eq!(found.dims(), expected.dims());
                    assert!(read(found) == read(&expected), "layer {layer}, {positions}");
                }
            }
            self.cache.advance(positions);
        }

        fn truncate(&mut self, len: usize) {
            self.cache.truncate(len);
            let mut left = len;
            self.held.retain_mut(|part| {
                let kept = part[0].dims()[2].min(left);
                left -= kept;
                *part = [0, 1].map(|i| part[i].narrow(2, 0, kept).unwrap());
                kept > 0
            });
        }
    }

    #[test]
    fn it_holds_what_was_appended_to_the_last_bit() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for batch in [1, 2] {
                let mut pair = Pair::new(batch, dtype);
                pair.append(5, 10);
                pair.append(1, 20);
                // Beyond the first 256 positions, so that the buffers are moved.
                pair.append(260, 30);
                pair.append(3, 40);
                pair.truncate(4);
                pair.append(1, 50);
                pair.append(7, 60);
                pair.truncate(0);
                pair.append(2, 70);
                assert_eq!(pair.cache.len(), 2);
            }
        }
    }

    #[test]
    fn two_caches_share_nothing() {
        for dtype in [DType::F32, DType::BF16] {
            let (mut first, mut second) = (Pair::new(1, dtype), Pair::new(1, dtype));
            for step in 0..6 {
                first.append(1, 100 + step);
                second.append(2, 200 + step);
                if step == 3 {
                    first.truncate(2);
                }
            }
        }
    }

    /// Writing into a buffer must not reach what was written from.
    #[test]
    fn the_appended_tensors_stay_as_they_are() {
        let mut cache = Pair::new(1, DType::F32).cache;
        let shape = [1, cache.kv_heads, 1, cache.head_dim];
        let first = random(&shape, 1).to_device(device()).unwrap();
        let second = random(&shape, 2).to_device(device()).unwrap();
        cache.append(0, &first, &first).unwrap();
        cache.truncate(0);
        cache.append(0, &second, &second).unwrap();
        assert_eq!(read(&first), read(&random(&shape, 1)));
        assert_eq!(read(&second), read(&random(&shape, 2)));
    }

    #[test]
    fn a_model_that_went_back_is_as_one_that_did_not() {
        let model = model("qwen2_sliding", device_kind(), DTypePolicy::F32);
        let run = |cache: &mut KvCache, ids: &[u32]| {
            let tokens = Tensor::new(ids, model.device()).unwrap();
            let tokens = tokens.unsqueeze(0).unwrap();
            read(&model.decoder().forward(&tokens, Some(cache), None).unwrap())
        };
        let mut back = model.decoder().new_cache();
        run(&mut back, &[5, 17, 100, 42, 7, 150, 3, 99, 61, 8]);
        back.truncate(6);
        let mut straight = model.decoder().new_cache();
        run(&mut straight, &[5, 17, 100, 42, 7, 150]);
        let next = [11, 12, 13];
        // The first six were computed with ten and with six rows, which rounds otherwise.
        let (back, straight) = (run(&mut back, &next), run(&mut straight, &next));
        let size = straight.iter().fold(0f64, |max, x| max.max(x.abs()));
        for (a, b) in back.iter().zip(&straight) {
            assert!((a - b).abs() < 1e-5 * size, "{a} {b}");
        }
    }
}
