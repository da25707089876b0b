use super::*;
use crate::backend::ops::gradcheck::random;
use crate::backend::testing::{device, device_kind, read};
use crate::backend::{DTypePolicy, DeviceKind};
use crate::error::Error;
use crate::models::testing::model;

const TYPES: [KvCacheType; 2] = KvCacheType::ALL;

/// The small model's configuration with heads of the given width.
fn config(head_dim: usize) -> ModelConfig {
    let model = model("qwen2_tied", DeviceKind::Cpu, DTypePolicy::F32);
    let mut config = model.config().clone();
    config.head_dim = head_dim;
    config
}

/// A cache on the device under test, and beside it what it was given: on the CPU, part by part.
struct Pair {
    cache: KvCache,
    batch: usize,
    held: Vec<[Tensor; 2]>,
    /// What the cache gave last, by layer, keys before values.
    given: Vec<Tensor>,
}

impl Pair {
    fn new(cache_type: KvCacheType, head_dim: usize, batch: usize, dtype: DType) -> Self {
        Self {
            cache: KvCache::with_type(&config(head_dim), dtype, device(), cache_type),
            batch,
            held: vec![],
            given: vec![],
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
        let before = std::mem::take(&mut self.given);
        for layer in 0..2 {
            let sign = if layer == 0 { 1.0 } else { -1.0 };
            let there = |x: &Tensor| (x.to_device(device()).unwrap() * sign).unwrap();
            let found = self.cache.append(layer, &there(&keys), &there(&values));
            let (keys, values) = found.unwrap();
            for (index, found) in [keys, values].into_iter().enumerate() {
                let parts: Vec<_> = self.held.iter().map(|part| &part[index]).collect();
                let expected = (Tensor::cat(&parts, 2).unwrap() * sign).unwrap();
                assert_eq!(found.dims(), expected.dims());
                assert_eq!(found.dtype(), self.cache.dtype);
                self.compare(&found, &expected);
                // What stays is not touched by what comes, to the last bit.
                if let Some(before) = before.get(2 * layer + index) {
                    let old = before.dims()[2].min(self.cache.len);
                    let old_of = |x: &Tensor| read(&x.narrow(2, 0, old).unwrap());
                    assert!(old_of(&found) == old_of(before), "layer {layer}");
                }
                // The buffer of a full cache will be written again.
                self.given.push(found.force_contiguous().unwrap());
            }
        }
        self.cache.advance(positions);
    }

    /// Equal to the last bit, or within half a step of each group and one rounding to the dtype.
    fn compare(&self, found: &Tensor, expected: &Tensor) {
        let (found, expected) = (read(found), read(expected));
        if self.cache.cache_type == KvCacheType::Full {
            assert!(found == expected);
            return;
        }
        let rounding = match self.cache.dtype {
            DType::BF16 => 1.0 / 256.0,
            DType::F16 => 1.0 / 2048.0,
            _ => 1e-6,
        };
        let group = self.cache.head_dim.min(32);
        for (found, expected) in found.chunks(group).zip(expected.chunks(group)) {
            let largest = expected.iter().fold(0f64, |max, x| max.max(x.abs()));
            for (a, b) in found.iter().zip(expected) {
                let bound = largest * (1.0 / 252.0 + rounding);
                assert!((a - b).abs() <= bound, "{a} {b} of {largest}");
            }
        }
        assert!(found != expected, "nothing was quantised");
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

    fn fork(&self) -> Self {
        Self {
            cache: self.cache.fork().unwrap(),
            batch: self.batch,
            held: self.held.clone(),
            given: self.given.clone(),
        }
    }
}

fn dtypes() -> [DType; 3] {
    [DType::F32, DType::F16, DType::BF16]
}

#[test]
fn it_holds_what_was_appended() {
    for (cache_type, head_dim) in [
        (KvCacheType::Full, 16),
        (KvCacheType::Int8, 16),
        (KvCacheType::Int8, 64),
    ] {
        for dtype in dtypes() {
            for batch in [1, 2] {
                let mut pair = Pair::new(cache_type, head_dim, batch, dtype);
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
}

#[test]
fn two_caches_share_nothing() {
    for cache_type in TYPES {
        for dtype in [DType::F32, DType::BF16] {
            let [mut first, mut second] = [(); 2].map(|()| Pair::new(cache_type, 16, 1, dtype));
            for step in 0..6 {
                first.append(1, 100 + step);
                second.append(2, 200 + step);
                if step == 3 {
                    first.truncate(2);
                }
            }
        }
    }
}

#[test]
fn a_fork_shares_nothing_with_its_source() {
    for cache_type in TYPES {
        for dtype in dtypes() {
            let mut first = Pair::new(cache_type, 16, 2, dtype);
            assert!(first.fork().cache.is_empty());
            first.append(5, 10);
            let mut second = first.fork();
            assert_eq!(second.cache.len(), 5);
            assert_eq!(second.cache.size_in_bytes(), first.cache.size_in_bytes());
            first.append(3, 20);
            second.append(2, 30);
            // Back into what both began with.
            second.truncate(3);
            second.append(1, 40);
            first.append(1, 50);
        }
    }
}

/// Writing into a buffer must not reach what was written from.
#[test]
fn the_appended_tensors_stay_as_they_are() {
    for cache_type in TYPES {
        let mut cache = Pair::new(cache_type, 16, 1, DType::F32).cache;
        let shape = [1, cache.kv_heads, 1, cache.head_dim];
        let first = random(&shape, 1).to_device(device()).unwrap();
        let second = random(&shape, 2).to_device(device()).unwrap();
        cache.append(0, &first, &first).unwrap();
        cache.truncate(0);
        cache.append(0, &second, &second).unwrap();
        assert_eq!(read(&first), read(&random(&shape, 1)));
        assert_eq!(read(&second), read(&random(&shape, 2)));
    }
}

#[test]
fn sizes_are_those_of_the_buffers() {
    let size = |cache_type, head_dim, dtype, reserved| {
        let mut pair = Pair::new(cache_type, head_dim, 1, dtype);
        assert_eq!(pair.cache.size_in_bytes(), 0);
        pair.cache.reserve(reserved);
        pair.append(1, 1);
        pair.cache.size_in_bytes()
    };
    // Two layers, keys and values, two heads.
    for positions in [256, 1024] {
        let numbers = 2 * 2 * 2 * positions;
        let full = size(KvCacheType::Full, 128, DType::BF16, positions);
        assert_eq!(full, numbers * 128 * 2);
        let int8 = size(KvCacheType::Int8, 128, DType::BF16, positions - 1);
        assert_eq!(int8, numbers * (128 + 4 * 2));
    }
}

/// An error must leave what was there.
#[test]
fn a_batch_of_another_size_is_an_error_and_changes_nothing() {
    for cache_type in TYPES {
        let mut pair = Pair::new(cache_type, 16, 1, DType::F32);
        pair.append(3, 1);
        let shape = [2, pair.cache.kv_heads, 1, 16];
        let two = random(&shape, 2).to_device(device()).unwrap();
        assert!(pair.cache.append(0, &two, &two).is_err());
        pair.append(2, 3);
        pair.truncate(0);
        assert!(pair.cache.append(0, &two, &two).is_ok());
    }
}

#[test]
fn a_cache_is_filled_with_its_parts_or_not_at_all() {
    for cache_type in TYPES {
        let mut pair = Pair::new(cache_type, 64, 1, DType::BF16);
        assert!(pair.cache.parts_of(0).is_empty());
        pair.append(5, 1);
        let used = pair.cache.used_parts().unwrap();
        let parts = pair.cache.parts_of(5);
        assert_eq!(used.len(), parts.len());
        for ((name, part), (expected, shape, dtype)) in used.iter().zip(&parts) {
            assert_eq!((name, part.dtype()), (expected, *dtype));
            assert_eq!(part.dims(), shape);
        }
        let mut cache = Pair::new(cache_type, 64, 1, DType::BF16).cache;
        let last = &parts.last().unwrap().0;
        let failed = cache.fill(5, |name| match used.iter().find(|part| part.0 == name) {
            Some((name, part)) if name != last => Ok(part.clone()),
            _ => Err(Error::Cancelled),
        });
        assert!(matches!(failed, Err(Error::Cancelled)));
        assert_eq!((cache.len(), cache.size_in_bytes()), (0, 0));
    }
}

#[test]
fn types_have_their_names() {
    for cache_type in TYPES {
        let name = cache_type.name();
        assert_eq!(KvCacheType::from_name(name).unwrap(), cache_type);
        assert_eq!(serde_json::to_value(cache_type).unwrap(), name);
    }
    let message = KvCacheType::from_name("q4").unwrap_err().to_string();
    assert!(message.contains("`cache_type` is `q4`"), "{message}");
}

#[test]
fn a_model_that_went_back_is_as_one_that_did_not() {
    let model = model("qwen2_sliding", device_kind(), DTypePolicy::F32);
    let run = |cache: &mut KvCache, ids: &[u32]| {
        let tokens = Tensor::new(ids, model.device()).unwrap();
        let tokens = tokens.unsqueeze(0).unwrap();
        read(&model.decoder().forward(&tokens, Some(cache), None).unwrap())
    };
    // What was rounded otherwise may land on another code, which is up to half a step more.
    for (cache_type, tolerance) in [(KvCacheType::Full, 1e-5), (KvCacheType::Int8, 0.05)] {
        let mut back = model.decoder().new_cache_of(cache_type);
        run(&mut back, &[5, 17, 100, 42, 7, 150, 3, 99, 61, 8]);
        back.truncate(6);
        let mut straight = model.decoder().new_cache_of(cache_type);
        run(&mut straight, &[5, 17, 100, 42, 7, 150]);
        let next = [11, 12, 13];
        // The first six were computed with ten and with six rows, which rounds otherwise.
        let (back, straight) = (run(&mut back, &next), run(&mut straight, &next));
        let size = straight.iter().fold(0f64, |max, x| max.max(x.abs()));
        for (a, b) in back.iter().zip(&straight) {
            assert!((a - b).abs() < tolerance * size, "{a} {b}");
        }
    }
}
