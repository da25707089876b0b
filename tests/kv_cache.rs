//! What a key-value cache of eight bits costs, in perplexity and memory.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{TINY_CODER, expected, ids, load_f32};
use metal_candle::Model;
use metal_candle::models::KvCacheType;

/// The perplexity of a text that is read in chunks, and the bytes of the cache that holds it.
fn perplexity(model: &Model, ids: &[u32], cache_type: KvCacheType) -> (f64, usize) {
    const CHUNK: usize = 32;
    let decoder = model.decoder();
    let mut cache = decoder.new_cache_of(cache_type);
    let mut nll = 0.0;
    for (start, chunk) in (0..).step_by(CHUNK).zip(ids.chunks(CHUNK)) {
        let tokens = Tensor::new(chunk, model.device()).unwrap();
        let tokens = tokens.unsqueeze(0).unwrap();
        let hidden = decoder.forward(&tokens, Some(&mut cache), None).unwrap();
        let logits = decoder.logits(&hidden.squeeze(0).unwrap()).unwrap();
        let logits = logits.to_device(&Device::Cpu).unwrap();
        let logits = logits.to_dtype(DType::F64).unwrap();
        let log_softmax = candle_nn::ops::log_softmax(&logits, 1).unwrap();
        let rows = log_softmax.to_vec2::<f64>().unwrap();
        let targets = ids.iter().skip(start + 1);
        nll -= rows
            .iter()
            .zip(targets)
            .map(|(row, &target)| row[target as usize])
            .sum::<f64>();
    }
    assert_eq!(cache.len(), ids.len());
    let scored = u32::try_from(ids.len() - 1).unwrap();
    ((nll / f64::from(scored)).exp(), cache.size_in_bytes())
}

#[test]
fn eight_bits_keep_the_perplexity() {
    let model = load_f32(TINY_CODER);
    let reference = &expected("tiny_coder")["perplexity"];
    let ids = ids(&reference["input_ids"]);
    let (full, full_size) = perplexity(&model, &ids, KvCacheType::Full);
    let (int8, int8_size) = perplexity(&model, &ids, KvCacheType::Int8);
    let expected = reference["perplexity"].as_f64().unwrap();
    assert!((full / expected - 1.0).abs() < 1e-5, "{full} {expected}");
    assert!((int8 / full - 1.0).abs() < 1e-3, "{int8} {full}");
    assert!((int8 - full).abs() > 0.0, "nothing was quantised");
    // For each 32 numbers a byte for each and two for their scale, instead of four for each.
    assert_eq!(int8_size * 4 * 32, full_size * (32 + 2));
}
