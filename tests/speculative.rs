//! Drafted tokens: greedy text stays the same, sampled text keeps its distribution.

mod common;

use common::{TINY_CODER, copy_of, fixture, load_f32};
use metal_candle::{Error, GenerateOptions, Generation, Generator, Model, SamplingOptions};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

/// Repeats itself, so that there is something to look up.
const PROMPT: &str = "let a1 = values[0].max(limit);\nlet a2 = values[1].max(limit);\nlet a3 = values[2].max(limit);\nlet a4 =";

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_tokens,
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

fn generate(generator: &mut Generator, options: &GenerateOptions) -> Generation {
    generator
        .generate(PROMPT, options, |_| ControlFlow::Continue(()))
        .unwrap()
}

/// The model with weights that are somewhat off.
fn disturbed(path: impl AsRef<Path>, by: f64) -> Model {
    let copy = copy_of(path);
    let file = copy.path().join("model.safetensors");
    let cpu = candle_core::Device::Cpu;
    let mut tensors = candle_core::safetensors::load(&file, &cpu).unwrap();
    for (name, tensor) in &mut tensors {
        if name.ends_with("down_proj.weight") {
            *tensor = tensor.affine(by, 0.0).unwrap();
        }
    }
    candle_core::safetensors::save(&tensors, &file).unwrap();
    load_f32(copy.path())
}

#[test]
fn a_lookup_in_the_prompt_changes_no_token() {
    let model = load_f32(TINY_CODER);
    let plain = generate(&mut Generator::new(&model), &options(40));
    assert_eq!((plain.drafted_tokens, plain.accepted_tokens), (0, 0));
    for count in [1, 2, 5, 10] {
        let mut generator = Generator::new(&model);
        let options = GenerateOptions {
            prompt_lookup_num_tokens: count,
            ..options(40)
        };
        let mut streamed = vec![];
        let found = generator
            .generate(PROMPT, &options, |chunk| {
                streamed.push(chunk.token);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(found.tokens, plain.tokens, "{count}");
        assert_eq!(streamed, plain.tokens);
        assert_eq!(found.text, plain.text);
        assert!(found.accepted_tokens > 4, "{found:?}");
        assert!(found.accepted_tokens <= found.drafted_tokens);
        // The context is what was accepted, and no more.
        let read = generator.context().len();
        assert_eq!(read, found.prompt_tokens + 39);
        assert_eq!(generate(&mut generator, &options).tokens, plain.tokens);
    }
}

#[test]
fn a_draft_model_changes_no_token() {
    let model = load_f32(TINY_CODER);
    let plain = generate(&mut Generator::new(&model), &options(30));
    let mut rates = vec![];
    for draft in [
        model.clone(),
        disturbed(TINY_CODER, 0.9),
        disturbed(TINY_CODER, 0.0),
    ] {
        let mut generator = Generator::new(&model);
        generator.set_draft_model(Some(&draft)).unwrap();
        let found = generate(&mut generator, &options(30));
        assert_eq!(found.tokens, plain.tokens);
        // Again, with what both have read.
        assert_eq!(generate(&mut generator, &options(30)).tokens, plain.tokens);
        rates.push((found.accepted_tokens, found.drafted_tokens));
        generator.set_draft_model(None).unwrap();
        assert_eq!(generate(&mut generator, &options(30)).drafted_tokens, 0);
    }
    // A model is always right about itself, and a disturbed one sometimes.
    assert_eq!(rates[0].0, rates[0].1);
    assert!(rates[1].0 > 0 && rates[1].0 < rates[1].1, "{rates:?}");
    assert!(rates[2].0 < rates[2].1, "{rates:?}");
}

#[test]
fn a_draft_stops_where_the_generation_does() {
    let model = load_f32(TINY_CODER);
    let plain = generate(&mut Generator::new(&model), &options(30));
    let mut generator = Generator::new(&model);
    generator.set_draft_model(Some(&model)).unwrap();
    for length in [1, 2, 3, 5] {
        let found = generate(&mut generator, &options(length));
        assert_eq!(found.tokens, plain.tokens[..length]);
        let mut seen = 0;
        let found = generator.generate(PROMPT, &options(30), |_| {
            seen += 1;
            if seen == length {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert_eq!(found.unwrap().tokens, plain.tokens[..length]);
    }
    let small = GenerateOptions {
        max_kv_size: Some(plain.prompt_tokens + 6),
        ..options(30)
    };
    let found = generate(&mut generator, &small);
    assert_eq!(found.tokens, plain.tokens[..6]);
}

/// 3,000 texts of four tokens, compared with the exact probabilities of all of them.
#[test]
fn sampled_text_keeps_its_distribution() {
    let path = fixture("models/qwen2_tied");
    let (model, draft) = (load_f32(&path), disturbed(&path, -1.0));
    let prompt = [5, 17, 100, 42];
    let choices = [3u32, 50, 77];
    let vocabulary = u32::try_from(model.config().vocab_size).unwrap();
    let others = (0..vocabulary).filter(|id| !choices.contains(id));
    let sampling = SamplingOptions {
        temperature: 4.0,
        logit_bias: others.map(|id| (id, f32::NEG_INFINITY)).collect(),
        ..SamplingOptions::default()
    };
    let mut expected: BTreeMap<Vec<u32>, f64> = [(vec![], 1.0)].into();
    let mut scorer = Generator::new(&model);
    for _ in 0..4 {
        let mut longer = BTreeMap::new();
        for (text, p) in expected {
            let logits = scorer.next_logits(&[&prompt[..], &text].concat()).unwrap();
            let weight = |id: u32| (f64::from(logits[id as usize]) / 4.0).exp();
            let total: f64 = choices.iter().map(|&id| weight(id)).sum();
            for id in choices {
                longer.insert([&text[..], &[id]].concat(), p * weight(id) / total);
            }
        }
        expected = longer;
    }
    assert!(expected.values().all(|&p| p > 0.001), "{expected:?}");

    let mut generator = Generator::new(&model);
    generator.set_draft_model(Some(&draft)).unwrap();
    let mut counts: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
    let (mut drafted, mut accepted) = (0, 0);
    let runs = 3000;
    for seed in 0..runs {
        let options = GenerateOptions {
            sampling: SamplingOptions {
                seed,
                ..sampling.clone()
            },
            ..options(4)
        };
        let found = generator
            .generate_from_ids(&prompt, &options, |_| ControlFlow::Continue(()))
            .unwrap();
        *counts.entry(found.tokens).or_default() += 1.0;
        drafted += found.drafted_tokens;
        accepted += found.accepted_tokens;
    }
    assert!(
        accepted > drafted / 4 && accepted < drafted * 9 / 10,
        "{accepted} of {drafted}"
    );
    #[allow(clippy::cast_precision_loss)]
    let of = |p: f64| p * runs as f64;
    let chi_square: f64 = expected
        .iter()
        .map(|(text, &p)| {
            let found = counts.get(text).copied().unwrap_or(0.0);
            (found - of(p)).powi(2) / of(p)
        })
        .sum();
    // 80 degrees of freedom: above 125 with a probability of 0.001.
    assert!(chi_square < 125.0, "{chi_square}");
}

#[test]
fn a_draft_model_with_other_tokens_is_refused() {
    let model = load_f32(TINY_CODER);
    let mut generator = Generator::new(&model);
    let error = generator.set_draft_model(Some(&load_f32(fixture("models/qwen2_tied"))));
    assert_error!(
        error.unwrap_err(),
        Error::InvalidOption { .. },
        ["`draft_model`", "qwen2_tied", "other tokens", "tiny-coder"]
    );
    let plain = generate(&mut generator, &options(4));
    assert_eq!(plain.drafted_tokens, 0);
}
