use super::*;
use crate::backend::testing::device_kind;
use crate::backend::{DTypePolicy, DeviceKind};
use crate::models::LoRAAdapter;
use crate::models::LoRAConfig;
use crate::models::testing::model;
use std::path::PathBuf;

const PROMPT: [u32; 10] = [5, 17, 100, 42, 7, 150, 3, 99, 61, 8];

fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    u32::try_from(best.unwrap().0).unwrap()
}

/// Continues `tokens` greedily by `count`; the cache has all but the last of them, or fewer.
fn go_on(
    model: &Model,
    adapter: Option<&LoRAAdapter>,
    tokens: &mut Vec<u32>,
    cache: &mut KvCache,
    count: usize,
) {
    for _ in 0..count {
        let new = Tensor::new(&tokens[cache.len()..], model.device()).unwrap();
        let new = new.unsqueeze(0).unwrap();
        let hidden = model.decoder().forward(&new, Some(cache), adapter);
        let hidden = hidden.unwrap().squeeze(0).unwrap();
        let last = hidden.narrow(0, hidden.dim(0).unwrap() - 1, 1).unwrap();
        let logits = model.decoder().logits(&last).unwrap();
        let logits: Vec<Vec<f32>> = logits.to_device(&Device::Cpu).unwrap().to_vec2().unwrap();
        tokens.push(argmax(&logits[0]));
    }
}

fn mix(adapter: Option<&LoRAAdapter>) -> Option<AdapterMix> {
    adapter.map(|adapter| AdapterMix::new(vec![(adapter.clone(), 1.0)]).unwrap())
}

/// A session in a file, and the text with eight tokens more.
struct Saved {
    folder: tempfile::TempDir,
    tokens: Vec<u32>,
    continued: Vec<u32>,
}

impl Saved {
    fn new(model: &Model, adapter: Option<&LoRAAdapter>, cache_type: KvCacheType) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut tokens = PROMPT.to_vec();
        let mut cache = model.decoder().new_cache_of(cache_type);
        go_on(model, adapter, &mut tokens, &mut cache, 4);
        let path = folder.path().join("a.session");
        save_session(&path, model, mix(adapter).as_ref(), &tokens, &cache).unwrap();
        let mut continued = tokens.clone();
        go_on(model, adapter, &mut continued, &mut cache, 8);
        Self {
            folder,
            tokens,
            continued,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("a.session")
    }

    fn assert_goes_on(&self, model: &Model, adapter: Option<&LoRAAdapter>, form: KvCacheType) {
        let (mut tokens, mut cache) =
            load_session(&self.path(), model, mix(adapter).as_ref()).unwrap();
        assert_eq!(tokens, self.tokens);
        assert_eq!((cache.len(), cache.cache_type()), (13, form));
        go_on(model, adapter, &mut tokens, &mut cache, 8);
        assert_eq!(tokens, self.continued);
    }

    fn error(&self, model: &Model, adapter: Option<&LoRAAdapter>) -> Error {
        load_session(&self.path(), model, mix(adapter).as_ref()).unwrap_err()
    }
}

fn assert_incompatible(error: &Error, field: &str) {
    assert!(
        matches!(error, Error::Incompatible { field: found, .. } if found == field),
        "{error}"
    );
    assert!(error.to_string().contains("a.session"), "{error}");
}

fn here(dtype: DTypePolicy) -> Model {
    model("qwen2_tied", device_kind(), dtype)
}

fn adapter(model: &Model, seed: u64) -> LoRAAdapter {
    let mut adapter = LoRAAdapter::new(LoRAConfig::default(), model, seed).unwrap();
    let weights = adapter.weights().clone();
    // As A is, B is away from zero.
    let weights = (weights + 0.01).unwrap();
    adapter.set_weights(weights, model.decoder()).unwrap();
    adapter
}

#[test]
fn a_session_goes_on_as_if_it_had_not_stopped() {
    for dtype in [DTypePolicy::F32, DTypePolicy::Bf16] {
        for cache_type in KvCacheType::ALL {
            let model = here(dtype);
            let saved = Saved::new(&model, None, cache_type);
            saved.assert_goes_on(&model, None, cache_type);
            // In another process.
            saved.assert_goes_on(&here(dtype), None, cache_type);
        }
    }
}

#[test]
fn what_is_loaded_is_what_was_saved_to_the_last_bit() {
    for cache_type in KvCacheType::ALL {
        let model = here(DTypePolicy::Bf16);
        let saved = Saved::new(&model, None, cache_type);
        let (tokens, cache) = load_session(&saved.path(), &model, None).unwrap();
        let again = saved.folder.path().join("b.session");
        save_session(&again, &model, None, &tokens, &cache).unwrap();
        let read = |path: &Path| std::fs::read(path).unwrap();
        let file = SafetensorsCheckpoint::open_file(&again).unwrap();
        let first = SafetensorsCheckpoint::open_file(&saved.path()).unwrap();
        assert_eq!(file.metadata(), first.metadata());
        assert_eq!(read(&again).len(), read(&saved.path()).len());
        // Two layers, keys and values; scales beside them.
        let parts = if cache_type == KvCacheType::Full {
            4
        } else {
            8
        };
        assert_eq!(file.names().count(), parts + 1);
        assert_eq!(file.shape("layers.1.values"), Some(&[1, 2, 13, 16][..]));
    }
}

#[test]
fn a_session_goes_from_device_to_device() {
    for cache_type in KvCacheType::ALL {
        let there = model("qwen2_tied", DeviceKind::Cpu, DTypePolicy::F32);
        for (from, to) in [
            (&there, &here(DTypePolicy::F32)),
            (&here(DTypePolicy::F32), &there),
        ] {
            Saved::new(from, None, cache_type).assert_goes_on(to, None, cache_type);
        }
    }
}

#[test]
fn an_adapter_belongs_to_its_session() {
    let model = here(DTypePolicy::F32);
    let (first, second) = (adapter(&model, 1), adapter(&model, 2));
    let saved = Saved::new(&model, Some(&first), KvCacheType::Full);
    saved.assert_goes_on(&model, Some(&first), KvCacheType::Full);
    for other in [None, Some(&second)] {
        assert_incompatible(&saved.error(&model, other), "adapter");
    }
    let plain = Saved::new(&model, None, KvCacheType::Full);
    let error = plain.error(&model, Some(&first));
    assert_incompatible(&error, "adapter");
    assert!(error.to_string().contains("`adapter` is none"), "{error}");
}

#[test]
fn a_session_of_another_model_or_dtype_is_refused() {
    let saved = Saved::new(&here(DTypePolicy::F32), None, KvCacheType::Full);
    let other = model("qwen2_sliding", device_kind(), DTypePolicy::F32);
    assert_incompatible(&saved.error(&other, None), "model");
    let merged = here(DTypePolicy::F32);
    let merged = merged.merge(&adapter(&merged, 1)).unwrap();
    assert_incompatible(&saved.error(&merged, None), "model");
    // Of weights stored in 16 bits, which have one fingerprint in both dtypes.
    let load = |dtype| model("qwen2_bf16", device_kind(), dtype);
    let saved = Saved::new(&load(DTypePolicy::Bf16), None, KvCacheType::Int8);
    let error = saved.error(&load(DTypePolicy::F32), None);
    assert_incompatible(&error, "dtype");
    assert!(
        error.to_string().contains("is bf16; expected f32"),
        "{error}"
    );
}

/// Writes the file anew with a key of its metadata changed, or removed.
fn edit(path: &Path, key: &str, value: Option<&str>) {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let mut metadata = header.metadata().clone().unwrap();
    match value {
        Some(value) => metadata.insert(key.to_owned(), value.to_owned()),
        None => metadata.remove(key),
    };
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let edited = safetensors::serialize(file.tensors(), Some(metadata)).unwrap();
    std::fs::write(path, edited).unwrap();
}

#[test]
fn metadata_that_makes_no_sense_is_named() {
    let model = here(DTypePolicy::F32);
    for (key, value, words) in [
        ("format", None, "`format`"),
        ("version", Some("2"), "`version` is 2; expected 1"),
        ("model", None, "`model` is missing"),
        ("cache_type", Some("q4"), "`cache_type` is q4"),
        (
            "cache_type",
            Some("int8"),
            "`layers.0.keys` has dtype f32; expected u8",
        ),
        ("positions", Some("15"), "`positions` is 15"),
        (
            "positions",
            Some("12"),
            "`layers.0.keys` has shape [1, 2, 13, 16]",
        ),
        ("positions", Some("-1"), "`positions` is -1"),
        ("checksum", Some("0"), "`checksum` is 0"),
    ] {
        let saved = Saved::new(&model, None, KvCacheType::Full);
        edit(&saved.path(), key, value);
        let message = saved.error(&model, None).to_string();
        assert!(message.contains(words), "{message}");
        assert!(message.contains("a.session"), "{message}");
    }
}

/// A file may have any number of tokens; their keys and values must fit into the context.
#[test]
fn more_positions_than_the_context_has_are_refused() {
    let model = here(DTypePolicy::F32);
    let context = model.config().max_position_embeddings;
    let saved = Saved::new(&model, None, KvCacheType::Full);
    let cache = model.decoder().new_cache();
    let tokens = vec![1; context + 9];
    save_session(&saved.path(), &model, None, &tokens, &cache).unwrap();
    edit(&saved.path(), "positions", Some("513"));
    let message = saved.error(&model, None).to_string();
    assert!(message.contains("`positions` is 513"), "{message}");
    assert!(message.contains("the 512 of the model"), "{message}");

    let mut cache = model.decoder().new_cache();
    let input = Tensor::new(&tokens[..=context], model.device()).unwrap();
    let input = input.unsqueeze(0).unwrap();
    let decoder = model.decoder();
    decoder.forward(&input, Some(&mut cache), None).unwrap();
    let message = save_session(&saved.path(), &model, None, &tokens, &cache).unwrap_err();
    let message = message.to_string();
    assert!(message.contains("`cache` is of 513 positions"), "{message}");
    // The whole context.
    cache.truncate(context);
    save_session(&saved.path(), &model, None, &tokens, &cache).unwrap();
    let (found, cache) = load_session(&saved.path(), &model, None).unwrap();
    assert_eq!((found, cache.len()), (tokens, context));
}

/// A file with any byte changed is refused, or is the same session all the same: in the header, blanks
/// mean nothing.
#[test]
fn damaged_bytes_are_found() {
    let model = here(DTypePolicy::F32);
    for cache_type in KvCacheType::ALL {
        let saved = Saved::new(&model, None, cache_type);
        let whole = std::fs::read(saved.path()).unwrap();
        let header = usize::from(u16::from_le_bytes([whole[0], whole[1]])) + 8;
        let places = (0..header)
            .step_by(7)
            .chain((header..whole.len()).step_by(41));
        for place in places.chain([whole.len() - 1]) {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            std::fs::write(saved.path(), &bytes).unwrap();
            match load_session(&saved.path(), &model, None) {
                Err(error) => assert!(error.to_string().contains("a.session"), "{error}"),
                Ok(_) => assert!(place < header && whole[place] == b' ', "byte {place}"),
            }
        }
        for len in [0, 5, 100, header, header + 50, whole.len() - 1] {
            std::fs::write(saved.path(), &whole[..len]).unwrap();
            let error = saved.error(&model, None);
            assert!(matches!(error, Error::InvalidFormat { .. }), "{error}");
        }
    }
}

#[test]
fn what_cannot_be_saved_leaves_the_older_file() {
    let model = here(DTypePolicy::F32);
    let saved = Saved::new(&model, None, KvCacheType::Full);
    let before = std::fs::read(saved.path()).unwrap();
    let mut cache = model.decoder().new_cache();
    let two = Tensor::new(&[PROMPT, PROMPT], model.device()).unwrap();
    model
        .decoder()
        .forward(&two, Some(&mut cache), None)
        .unwrap();
    let save = |tokens: &[u32], cache: &KvCache| {
        let error = save_session(&saved.path(), &model, None, tokens, cache).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        assert_eq!(std::fs::read(saved.path()).unwrap(), before);
        error.to_string()
    };
    assert!(save(&PROMPT, &cache).contains("batch of 2"));
    assert!(save(&PROMPT[..9], &cache).contains("10 positions"));
    let other = here(DTypePolicy::Bf16).decoder().new_cache();
    assert!(save(&PROMPT, &other).contains("another shape or dtype"));
    assert!(save(&[9999], &model.decoder().new_cache()).contains("the id 9999"));
    let missing = load_session(Path::new("no/such.session"), &model, None).unwrap_err();
    assert!(matches!(missing, Error::FileNotFound { .. }), "{missing}");
}

#[test]
fn a_session_may_be_empty() {
    let model = here(DTypePolicy::F32);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/a.session");
    let cache = model.decoder().new_cache();
    for tokens in [&[][..], &PROMPT] {
        save_session(&path, &model, None, tokens, &cache).unwrap();
        let (found, cache) = load_session(&path, &model, None).unwrap();
        assert_eq!(found, tokens);
        assert!(cache.is_empty());
    }
}
