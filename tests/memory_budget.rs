//! Budgets of memory: of the weights of a model, and of keys and values.

use metal_candle::backend::{DTypePolicy, DeviceKind};
use metal_candle::checkpoint::GgufType;
use metal_candle::models::{KvCacheType, Quantization};
use metal_candle::{
    Error, ErrorKind, FinishReason, GenerateOptions, Generator, Model, ModelLoader, Result,
};
use std::ops::ControlFlow;

const SMALL: &str = "tests/fixtures/models/qwen2_tied";
/// Of the small model: keys and values, two layers, two heads of 16 numbers of four bytes.
const BYTES_PER_TOKEN: u64 = 2 * 2 * 2 * 16 * 4;

fn needed<T>(result: Result<T>) -> u64 {
    match result.map(|_| ()) {
        Err(error @ Error::MemoryBudget { needed, budget, .. }) => {
            assert_eq!(error.kind(), ErrorKind::OutOfMemory);
            let message = error.to_string();
            for figure in [needed, budget] {
                assert!(message.contains(&figure.to_string()), "{message}");
            }
            needed
        }
        other => panic!("{other:?}"),
    }
}

/// What is refused is what the weights take, to the byte, and nothing less is.
#[test]
fn the_weights_are_known_before_they_are_read() {
    let groups_of_32 = |bits| {
        Some(Quantization {
            bits,
            group_size: 32,
        })
    };
    let gguf = tempfile::tempdir().unwrap();
    let gguf = gguf.path().join("model.gguf");
    ModelLoader::new()
        .with_device(DeviceKind::Cpu)
        .load("assets/tiny-coder")
        .unwrap()
        .save_gguf(&gguf, GgufType::Q4K)
        .unwrap();
    let paths = [
        SMALL,
        "tests/fixtures/models/qwen2_untied_f16",
        "tests/fixtures/models/qwen3",
        "tests/fixtures/mlx/q4",
        gguf.to_str().unwrap(),
    ];
    for path in paths {
        for dtype in [DTypePolicy::Auto, DTypePolicy::Bf16] {
            for quantization in [None, groups_of_32(4), groups_of_32(8)] {
                let loader = ModelLoader::new()
                    .with_device(DeviceKind::Cpu)
                    .with_dtype(dtype)
                    .with_quantization(quantization);
                let what = format!("{path} {dtype:?} {quantization:?}");
                let size = loader.load(path).unwrap();
                let size = size.decoder().weights_size_in_bytes() as u64;
                let within = |bytes| loader.clone().with_memory_budget(Some(bytes)).load(path);
                assert_eq!(needed(within(size - 1)), size, "{what}");
                assert!(within(size).is_ok(), "{what}");
            }
        }
    }
}

fn small() -> Model {
    let loader = ModelLoader::new().with_device(DeviceKind::Cpu);
    loader.load(SMALL).unwrap()
}

fn options(max_kv_bytes: u64) -> GenerateOptions {
    GenerateOptions {
        max_tokens: 300,
        ignore_eos: true,
        max_kv_bytes: Some(max_kv_bytes),
        ..GenerateOptions::default()
    }
}

#[test]
fn keys_and_values_keep_to_their_budget() {
    let model = small();
    let budget = 256 * BYTES_PER_TOKEN;
    let go_on = |_: &_| ControlFlow::Continue(());
    let generate = |ids: &[u32], options: &GenerateOptions| {
        Generator::new(&model).generate_from_ids(ids, options, go_on)
    };
    // Room is made for 256 tokens at a time.
    assert_eq!(needed(generate(&[1], &options(budget - 1))), budget);
    assert_eq!(needed(generate(&[1; 256], &options(budget))), 2 * budget);
    let generation = generate(&[1; 10], &options(budget)).unwrap();
    assert_eq!(generation.finish_reason, FinishReason::ContextFull);
    assert_eq!(generation.tokens.len(), 256 - 10);
    let generation = generate(&[1; 10], &options(2 * budget)).unwrap();
    assert_eq!(generation.tokens.len(), 300);

    let shifting = GenerateOptions {
        context_shift: true,
        ..options(budget)
    };
    let generation = generate(&[1; 256], &shifting).unwrap();
    assert_eq!(generation.tokens.len(), 300);
    // The model's own limit is another thing.
    let error = generate(&[1; 512], &options(1 << 40)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextFull);

    // In eight bits there is room for more.
    let mut generator = Generator::with_cache_type(&model, KvCacheType::Int8);
    let generation = generator.generate_from_ids(&[1; 256], &options(budget), go_on);
    assert_eq!(generation.unwrap().tokens.len(), 512 - 256);
}

#[test]
fn a_budget_is_written_and_read_as_json() {
    let written = serde_json::to_string(&options(7)).unwrap();
    assert!(written.contains(r#""max_kv_bytes":7"#), "{written}");
    assert_eq!(GenerateOptions::from_json(&written).unwrap(), options(7));
}

#[test]
fn warming_up_changes_nothing() {
    let model = small();
    let generate = || {
        let mut generator = Generator::new(&model);
        let options = GenerateOptions {
            max_tokens: 4,
            ..GenerateOptions::default()
        };
        let generation =
            generator.generate_from_ids(&[1, 2, 3], &options, |_| ControlFlow::Continue(()));
        generation.unwrap().tokens
    };
    let before = generate();
    model.warm_up().unwrap();
    assert_eq!(generate(), before);
}
