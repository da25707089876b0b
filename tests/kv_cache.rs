//! What a key-value cache of eight bits costs, in perplexity and memory.

mod common;

use common::{TINY_CODER, expected, ids, load_f32, perplexity};
use metal_candle::models::KvCacheType;

#[test]
fn eight_bits_keep_the_perplexity() {
    let model = load_f32(TINY_CODER);
    let reference = &expected("tiny_coder")["perplexity"];
    let ids = ids(&reference["input_ids"]);
    let (full, full_size) = perplexity(&model, &ids, 32, KvCacheType::Full);
    let (int8, int8_size) = perplexity(&model, &ids, 32, KvCacheType::Int8);
    let expected = reference["perplexity"].as_f64().unwrap();
    assert!((full / expected - 1.0).abs() < 1e-5, "{full} {expected}");
    assert!((int8 / full - 1.0).abs() < 1e-3, "{int8} {full}");
    assert!((int8 - full).abs() > 0.0, "nothing was quantised");
    // For each 32 numbers a byte for each and two for their scale, instead of four for each.
    assert_eq!(int8_size * 4 * 32, full_size * (32 + 2));
}
