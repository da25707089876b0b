//! A text that was begun, with the keys and values of its tokens, to go on from later.
//!
//! One safetensors file: `tokens`, and for each layer the part of keys and values that is in use, in
//! the form in which the cache keeps them. The metadata says what the file is and what it belongs to.

use super::atomic::replace_file;
use crate::backend::device::completed;
use crate::error::{Error, Result};
use crate::models::fingerprint::{Fingerprint, Hasher};
use crate::models::{AdapterMix, KvCache, KvCacheType, Model, SafetensorsCheckpoint};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::Path;

const FORMAT: &str = "metal_candle_session";
const VERSION: &str = "1";
const TOKENS: &str = "tokens";
/// What the metadata has for no adapter.
const NONE: &str = "none";

/// Saves a session to the file `path`, which appears whole or not at all.
///
/// `tokens` are those of the text so far; the cache holds the keys and values of the first
/// [`len`](KvCache::len) of them, computed with `model` and `adapters`. The host holds a copy of what
/// the cache has in use while it is written.
///
/// # Errors
///
/// [`Error::InvalidOption`] where the cache is another model's, holds more positions than there are
/// tokens or than the context of the model has, or those of several sequences, [`Error::Io`] where the
/// file cannot be written; an older file of that name then is still there.
///
/// # Example
///
/// ```
/// use candle_core::Tensor;
/// use metal_candle::ModelLoader;
/// use metal_candle::checkpoint::{load_session, save_session};
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let tokens = model.tokenizer()?.encode("fn main() {", true)?;
/// let mut cache = model.decoder().new_cache();
/// let input = Tensor::new(tokens.as_slice(), model.device())?.unsqueeze(0)?;
/// model.decoder().forward(&input, Some(&mut cache), None)?;
///
/// # let folder = std::env::temp_dir().join(format!("session-{}", std::process::id()));
/// # let path = folder.join("main.session");
/// save_session(&path, &model, None, &tokens, &cache)?;
/// let (again, cache) = load_session(&path, &model, None)?;
/// assert_eq!(again, tokens);
/// assert_eq!(cache.len(), tokens.len());
/// # std::fs::remove_dir_all(folder).ok();
/// # Ok::<(), metal_candle::Error>(())
/// ```
pub fn save_session(
    path: &Path,
    model: &Model,
    adapters: Option<&AdapterMix>,
    tokens: &[u32],
    cache: &KvCache,
) -> Result<()> {
    if !cache.fits(model.config(), model.dtype()) {
        let found = "made for a model of another shape or dtype";
        return Err(Error::option("cache", found, "a cache of this model"));
    }
    if cache.len() > tokens.len() {
        let found = format!("of {} positions", cache.len());
        let expected = format!("at most one for each of the {} tokens", tokens.len());
        return Err(Error::option("cache", found, expected));
    }
    let context = model.config().max_position_embeddings;
    if cache.len() > context {
        let found = format!("of {} positions", cache.len());
        let expected = format!("at most the {context} of the model's context");
        return Err(Error::option("cache", found, expected));
    }
    check_ids(tokens, model).map_err(|id| {
        let expected = format!("below {}", model.config().vocab_size);
        Error::option("tokens", format!("the id {id}"), expected)
    })?;
    let mut parts = vec![(TOKENS.to_owned(), Tensor::new(tokens, &Device::Cpu)?)];
    completed(model.device(), || {
        for (name, part) in cache.used_parts()? {
            if part.dim(0)? != 1 {
                let found = format!("of a batch of {}", part.dim(0)?);
                return Err(Error::option("cache", found, "of one sequence"));
            }
            parts.push((name, part.to_device(&Device::Cpu)?));
        }
        Ok(())
    })?;

    let mut checksum = Hasher::new();
    let mut contents = Vec::with_capacity(parts.len());
    for (name, part) in &parts {
        let bytes = bytes(part)?;
        checksum.update(&bytes);
        contents.push((name, part, bytes));
    }
    let invalid = |e: safetensors::SafeTensorError| Error::format(path, e.to_string());
    let mut views = Vec::with_capacity(contents.len());
    for (name, part, bytes) in &contents {
        let dtype = stored_dtype(part.dtype())?;
        let view = TensorView::new(dtype, part.dims().to_vec(), bytes).map_err(invalid)?;
        views.push((*name, view));
    }
    let belongs = belongs_to(model, adapters)?;
    let more = [
        ("cache_type", cache.cache_type().name().to_owned()),
        ("positions", cache.len().to_string()),
        ("checksum", checksum.finish().to_string()),
    ];
    let metadata: HashMap<_, _> = belongs
        .into_iter()
        .chain(more)
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    replace_file(path, |staging| {
        safetensors::serialize_to_file(views, Some(metadata), staging).map_err(
            |error| match error {
                safetensors::SafeTensorError::IoError(e) => Error::io(path, "a writable file", e),
                other => invalid(other),
            },
        )
    })
}

/// Loads a session that [`save_session`] saved with the same model and adapters, on any device.
///
/// Gives the tokens, and a cache on the model's device that holds the keys and values of the first
/// [`len`](KvCache::len) of them. Nothing is allocated before the file is known to hold them all.
///
/// # Errors
///
/// An error that names the file: [`Error::FileNotFound`], [`Error::InvalidFormat`] for a file that is
/// no session or is damaged, [`Error::Incompatible`] for one of another version, model, adapter or
/// dtype, [`Error::MissingTensor`] and [`Error::TensorMismatch`] for one whose parts are not those of
/// the model's cache.
pub fn load_session(
    path: &Path,
    model: &Model,
    adapters: Option<&AdapterMix>,
) -> Result<(Vec<u32>, KvCache)> {
    let file = SafetensorsCheckpoint::open_file(path)?;
    let of_file = |key: &str| file.metadata().get(key).map(String::as_str);
    if of_file("format") != Some(FORMAT) {
        let reason = format!("is no session; expected the metadata `format` to be `{FORMAT}`");
        return Err(Error::format(path, reason));
    }
    for (key, expected) in belongs_to(model, adapters)? {
        let found = of_file(key).unwrap_or("missing");
        if found != expected {
            return Err(Error::Incompatible {
                path: path.to_owned(),
                field: key.to_owned(),
                found: found.to_owned(),
                expected: format!("{expected}{}", whose(key)),
            });
        }
    }
    let damaged = |key: &str, expected: &str| {
        let found = of_file(key).unwrap_or("missing");
        Error::format(path, format!("`{key}` is {found}; expected {expected}"))
    };
    let cache_type = of_file("cache_type")
        .and_then(|name| KvCacheType::from_name(name).ok())
        .ok_or_else(|| damaged("cache_type", "`full` or `int8`"))?;

    let count = file.shape(TOKENS).map_or(0, |shape| shape.iter().product());
    check(&file, path, TOKENS, &[count], DType::U32)?;
    let context = model.config().max_position_embeddings;
    let positions = of_file("positions")
        .and_then(|positions| positions.parse::<usize>().ok())
        .filter(|&positions| positions <= count.min(context))
        .ok_or_else(|| {
            let expected = format!(
                "at most the {count} of the tokens and the {context} of the model's context"
            );
            damaged("positions", &expected)
        })?;
    let mut cache = model.decoder().new_cache_of(cache_type);
    for (name, shape, dtype) in cache.parts_of(positions) {
        check(&file, path, &name, &shape, dtype)?;
    }

    let mut checksum = Hasher::new();
    let mut load = |name: &str| -> Result<Tensor> {
        let part = file.load(name, None, &Device::Cpu)?;
        checksum.update(&bytes(&part)?);
        Ok(part)
    };
    let tokens: Vec<u32> = load(TOKENS)?.to_vec1()?;
    completed(model.device(), || {
        cache.fill(positions, |name| Ok(load(name)?.to_device(model.device())?))
    })?;
    let found = checksum.finish().to_string();
    if of_file("checksum") != Some(found.as_str()) {
        return Err(damaged(
            "checksum",
            &format!("that of its contents, {found}"),
        ));
    }
    check_ids(&tokens, model).map_err(|id| {
        let bound = model.config().vocab_size;
        Error::format(
            path,
            format!("`{TOKENS}` has the id {id}; expected ids below {bound}"),
        )
    })?;
    Ok((tokens, cache))
}

/// The metadata that must be the same where the file is loaded, the most telling difference first.
fn belongs_to(model: &Model, adapters: Option<&AdapterMix>) -> Result<[(&'static str, String); 5]> {
    let adapter = adapters.map(AdapterMix::fingerprint).transpose()?;
    let adapter = adapter.as_ref().map(Fingerprint::to_string);
    Ok([
        ("format", FORMAT.to_owned()),
        ("version", VERSION.to_owned()),
        ("model", model.fingerprint()?.to_string()),
        ("dtype", model.dtype().as_str().to_owned()),
        ("adapter", adapter.unwrap_or_else(|| NONE.to_owned())),
    ])
}

/// What an error message adds to the expected value.
fn whose(key: &str) -> &'static str {
    match key {
        "model" => ", the fingerprint of this model",
        "dtype" => ", the dtype of this model",
        "adapter" => ", the fingerprint of the adapters in use",
        _ => "",
    }
}

/// Checks that a part is there, of the shape and dtype that it must have.
fn check(
    file: &SafetensorsCheckpoint,
    path: &Path,
    name: &str,
    shape: &[usize],
    dtype: DType,
) -> Result<()> {
    let found = file.shape(name).ok_or_else(|| Error::MissingTensor {
        path: path.to_owned(),
        name: name.to_owned(),
        expected: shape.to_vec(),
    })?;
    let mismatch = |property, found, expected| Error::TensorMismatch {
        path: path.to_owned(),
        name: name.to_owned(),
        property,
        found,
        expected,
    };
    if found != shape {
        return Err(mismatch(
            "shape",
            format!("{found:?}"),
            format!("{shape:?}"),
        ));
    }
    let stored = file.dtype(name);
    if stored != Some(dtype) {
        let found = stored.map_or("another", |stored| stored.as_str());
        return Err(mismatch(
            "dtype",
            found.to_owned(),
            dtype.as_str().to_owned(),
        ));
    }
    Ok(())
}

/// The first id outside the vocabulary is an error.
fn check_ids(tokens: &[u32], model: &Model) -> std::result::Result<(), u32> {
    let outside = |id: &&u32| **id as usize >= model.config().vocab_size;
    tokens.iter().find(outside).map_or(Ok(()), |id| Err(*id))
}

/// The numbers of a tensor on the CPU, in the order and form of the file.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(tensor.elem_count() * tensor.dtype().size_in_bytes());
    tensor.write_bytes(&mut bytes)?;
    Ok(bytes)
}

fn stored_dtype(dtype: DType) -> Result<Dtype> {
    match dtype {
        DType::U8 => Ok(Dtype::U8),
        DType::U32 => Ok(Dtype::U32),
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::BF16),
        other => Err(Error::option(
            "cache",
            format!("of dtype {}", other.as_str()),
            "f32, f16 or bf16",
        )),
    }
}

#[cfg(test)]
mod tests;
