//! Several adapters at once, and texts with adapters of their own beside each other.

#![cfg(feature = "training")]

mod common;

use candle_core::Tensor;
use common::training::{dora, edited, lora, trained, weights};
use common::{assert_close, copy_of, fixture, load_as, load_f32};
use metal_candle::backend::DTypePolicy;
use metal_candle::inference::BatchGenerator;
use metal_candle::models::{AdapterMix, KvCacheType, LayerSelection};
use metal_candle::{GenerateOptions, Generator, LoRAAdapter, LoRAConfig, Model, Projection};
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

const PROMPT: [u32; 9] = [5, 17, 100, 42, 7, 60, 180, 3, 9];
const MODEL: &str = "models/qwen2_tied";

type Parts<'a> = Vec<(&'a LoRAAdapter, f64)>;

/// Adapters of other ranks, targets and layers; the third and the fourth with lengths of rows.
fn adapters(model: &Model) -> [LoRAAdapter; 4] {
    let some = LoRAConfig {
        rank: 3,
        targets: [Projection::Query, Projection::Value, Projection::Down].into(),
        layers: LayerSelection::Last(1),
        ..lora()
    };
    let lengths = LoRAConfig {
        use_dora: true,
        ..some.clone()
    };
    [
        trained(model, lora(), 1),
        trained(model, some, 2),
        trained(model, dora(), 3),
        trained(model, lengths, 4),
    ]
}

fn mix(parts: &Parts) -> AdapterMix {
    let parts = parts
        .iter()
        .map(|&(adapter, weight)| (adapter.clone(), weight));
    AdapterMix::new(parts.collect()).unwrap()
}

/// The change of each weight by an adapter, by the weight's name: from the tensors of its file, since
/// a merged model is made as a mix is.
fn changes(
    model: &Model,
    adapter: &LoRAAdapter,
    base: &BTreeMap<String, Tensor>,
) -> Vec<(String, Tensor)> {
    let mut parts = BTreeMap::new();
    edited(model, adapter, |name, tensor| {
        parts.insert(name.to_owned(), tensor.clone());
        tensor.clone()
    });
    let down = parts
        .iter()
        .filter(|(name, _)| name.ends_with("lora_A.weight"));
    down.map(|(name, a)| {
        let module = name.trim_end_matches(".lora_A.weight");
        let b = &parts[&format!("{module}.lora_B.weight")];
        let name = format!("{}.weight", module.trim_start_matches("base_model.model."));
        let weight = &base[&name];
        let change = (b.matmul(a).unwrap() * adapter.config().scaling()).unwrap();
        let mut changed = (weight + change).unwrap();
        if let Some(lengths) = parts.get(&format!("{module}.lora_magnitude_vector")) {
            let found = changed.sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
            let factors = (lengths / found).unwrap().unsqueeze(1).unwrap();
            changed = changed.broadcast_mul(&factors).unwrap();
        }
        (name, (changed - weight).unwrap())
    })
    .collect()
}

/// The model with the weighted changes added to its weights, one adapter after the other.
fn by_hand(model: &Model, parts: &Parts) -> Model {
    let base = weights(model);
    let mut sum: HashMap<_, _> = base.clone().into_iter().collect();
    for &(adapter, weight) in parts {
        for (name, change) in changes(model, adapter, &base) {
            let changed = (&sum[&name] + (change * weight).unwrap()).unwrap();
            sum.insert(name, changed);
        }
    }
    let folder = copy_of(fixture(MODEL));
    candle_core::safetensors::save(&sum, folder.path().join("model.safetensors")).unwrap();
    load_f32(folder.path())
}

fn logits(model: &Model, cache: KvCacheType, mix: Option<AdapterMix>) -> Vec<f64> {
    let mut generator = Generator::with_cache_type(model, cache);
    generator.set_adapters(mix).unwrap();
    // In two parts, so that the second one reads what the cache has kept.
    generator.next_logits(&PROMPT[..4]).unwrap();
    let logits = generator.next_logits(&PROMPT).unwrap();
    assert_eq!(generator.context(), PROMPT);
    logits.into_iter().map(f64::from).collect()
}

/// Asserts that numbers differ by more than rounding does.
fn assert_differ(what: &str, a: &[f64], b: &[f64]) {
    let off = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max);
    let size = b.iter().fold(0f64, |max, x| max.max(x.abs()));
    assert!(off > 0.05 * size, "{what}: {off} of {size}");
}

#[test]
fn a_mix_is_the_sum_of_its_changes() {
    let model = load_f32(fixture(MODEL));
    let narrow = load_as(fixture(MODEL), DTypePolicy::Bf16);
    let [a, b, c, d] = &adapters(&model);
    let base = logits(&model, KvCacheType::Full, None);
    let cases: [(&str, Parts); 8] = [
        ("two", vec![(a, 1.0), (b, 1.0)]),
        ("half and opposite", vec![(a, 0.5), (b, -1.0)]),
        ("opposite", vec![(a, -1.0)]),
        ("one of two", vec![(a, 0.0), (b, 1.0)]),
        ("lengths", vec![(c, 0.5)]),
        ("lengths against", vec![(c, -1.0), (d, 0.5)]),
        ("lengths beside", vec![(a, 1.0), (d, 1.0)]),
        ("all", vec![(a, 0.5), (b, 1.0), (c, 0.5), (d, -1.0)]),
    ];
    for (what, parts) in &cases {
        let by_hand = by_hand(&model, parts);
        let expected = logits(&by_hand, KvCacheType::Full, None);
        assert_differ(what, &expected, &base);
        let check = |what: &str, found: &[f64], tolerance| {
            assert_close(what, found, &expected, tolerance);
        };
        let beside = |model, cache| logits(model, cache, Some(mix(parts)));
        check(what, &beside(&model, KvCacheType::Full), 1e-4);
        let merged = model.merge_mix(&mix(parts)).unwrap();
        check(what, &logits(&merged, KvCacheType::Full, None), 1e-4);
        check("in 8 bits", &beside(&model, KvCacheType::Int8), 3e-2);
        check("in 16 bits", &beside(&narrow, KvCacheType::Full), 5e-2);
    }
}

#[test]
fn weights_of_zero_change_nothing() {
    let model = load_f32(fixture(MODEL));
    let [a, b, c, _] = &adapters(&model);
    let base = logits(&model, KvCacheType::Full, None);
    for parts in [
        vec![(a, 0.0), (b, 0.0)],
        vec![(c, 0.0)],
        vec![(a, 1.0), (a, -1.0)],
        vec![(c, 0.5), (c, -0.5)],
    ] {
        let found = logits(&model, KvCacheType::Full, Some(mix(&parts)));
        assert_close("logits", &found, &base, 1e-5);
    }
}

fn greedy() -> GenerateOptions {
    GenerateOptions {
        max_tokens: 8,
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

fn alone(model: &Model, prompt: &[u32], mix: Option<AdapterMix>) -> Vec<u32> {
    let mut generator = Generator::new(model);
    generator.set_adapters(mix).unwrap();
    let generation = generator.generate_from_ids(prompt, &greedy(), |_| ControlFlow::Continue(()));
    generation.unwrap().tokens
}

#[test]
fn texts_of_a_batch_have_adapters_of_their_own() {
    // In 16 bits products of few and of many rows round differently, and random weights have near ties.
    let model = load_as(fixture(MODEL), DTypePolicy::F32);
    let [a, b, c, d] = &adapters(&model);
    let a = mix(&vec![(a, 1.0)]);
    let two = mix(&vec![(b, 1.0), (c, 0.5)]);
    let d = mix(&vec![(d, -1.0)]);
    let of_row = [
        None,
        Some(&a),
        Some(&two),
        Some(&a),
        Some(&d),
        Some(&d),
        None,
    ];
    let prompt = |row: usize| &PROMPT[..4 + row % 3];
    let mut batch = BatchGenerator::new(&model, of_row.len()).unwrap();
    let mut expected = vec![];
    for (row, mix) in of_row.into_iter().enumerate() {
        batch.set_adapters(mix.cloned()).unwrap();
        batch.push_ids(prompt(row), &greedy()).unwrap();
        expected.push(alone(&model, prompt(row), mix.cloned()));
    }
    // Rows 0, 3 and 6 have one prompt, so do 1 and 4.
    assert_ne!(expected[0], expected[3]);
    assert_ne!(expected[1], expected[4]);
    assert_eq!(expected[0], expected[6]);
    let mut found = batch.run(|_| ControlFlow::Continue(()));
    found.sort_by_key(|(sequence, _)| *sequence);
    let found: Vec<_> = found.into_iter().map(|(_, r)| r.unwrap().tokens).collect();
    assert_eq!(found, expected);
}
