//! Drafted tokens: greedy text stays the same, sampled text keeps its distribution.

mod common;

use common::{TINY_CODER, disturbed, fixture, load_f32};
use metal_candle::{Error, GenerateOptions, Generation, Generator, SamplingOptions};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

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

/// The tokens that sampled texts are made of.
const CHOICES: [u32; 3] = [3, 50, 77];
const START: [u32; 4] = [5, 17, 100, 42];

/// What the processor of the test adds to the logits after these tokens: a step from 3 to 77 and back
/// becomes more likely.
fn encourage(tokens: &[u32], logits: &mut [f32]) {
    match tokens.last() {
        Some(3) => logits[77] += 3.0,
        Some(77) => logits[3] += 3.0,
        _ => {}
    }
}

/// The probabilities of the choices, by the definitions of the options.
fn probabilities(logits: &[f32], text: &[u32], options: &SamplingOptions) -> [f64; 3] {
    let mut weights = CHOICES.map(|id| {
        let count = text.iter().filter(|&&other| other == id).count();
        let penalty = options.frequency_penalty * f64::from(u32::try_from(count).unwrap());
        ((f64::from(logits[id as usize]) - penalty) / options.temperature).exp()
    });
    let total: f64 = weights.iter().sum();
    let mut order = [0, 1, 2];
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    let mut kept = 0.0;
    for index in order {
        // From here on the more likely ones are enough.
        if kept >= options.top_p * total {
            weights[index] = 0.0;
        }
        kept += weights[index];
    }
    let total: f64 = weights.iter().sum();
    weights.map(|weight| weight / total)
}

type Processor = fn(&[u32], &mut [f32]);

/// Holds 1,500 texts of four tokens against the exact probabilities of all of them.
fn assert_distribution(sampling: &SamplingOptions, processor: Option<Processor>) {
    let path = fixture("models/qwen2_tied");
    let (model, draft) = (load_f32(&path), disturbed(&path, -1.0));
    let vocabulary = u32::try_from(model.config().vocab_size).unwrap();
    let others = (0..vocabulary).filter(|id| !CHOICES.contains(id));
    let logit_bias: BTreeMap<u32, f32> = others.map(|id| (id, f32::NEG_INFINITY)).collect();
    let mut expected: BTreeMap<Vec<u32>, f64> = [(vec![], 1.0)].into();
    let mut scorer = Generator::new(&model);
    for _ in 0..4 {
        let mut longer = BTreeMap::new();
        for (text, p) in expected {
            let tokens = [&START[..], &text].concat();
            let mut logits = scorer.next_logits(&tokens).unwrap();
            if let Some(processor) = processor {
                processor(&tokens, &mut logits);
            }
            for (id, next) in CHOICES.iter().zip(probabilities(&logits, &text, sampling)) {
                longer.insert([&text[..], &[*id]].concat(), p * next);
            }
        }
        expected = longer;
    }

    let mut generator = Generator::new(&model);
    generator.set_draft_model(Some(&draft)).unwrap();
    if let Some(processor) = processor {
        generator.set_logits_processor(move |tokens: &[u32], logits: &mut [f32]| {
            processor(tokens, logits);
            Ok(())
        });
    }
    let mut counts: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
    let (mut drafted, mut accepted) = (0, 0);
    let runs = 1500;
    for seed in 0..runs {
        let options = GenerateOptions {
            sampling: SamplingOptions {
                seed,
                logit_bias: logit_bias.clone(),
                ..sampling.clone()
            },
            ..options(4)
        };
        let found = generator
            .generate_from_ids(&START, &options, |_| ControlFlow::Continue(()))
            .unwrap();
        *counts.entry(found.tokens).or_default() += 1.0;
        drafted += found.drafted_tokens;
        accepted += found.accepted_tokens;
    }
    assert!(
        accepted > drafted / 4 && accepted < drafted * 9 / 10,
        "{accepted} of {drafted}"
    );
    // Texts that are too rare for the statistics are counted as one.
    let mut cells: BTreeMap<&[u32], (f64, f64)> = BTreeMap::new();
    for (text, p) in &expected {
        let found = counts.remove(text).unwrap_or(0.0);
        assert!(*p > 0.0 || found == 0.0, "{text:?} is impossible");
        #[allow(clippy::cast_precision_loss)]
        let expected = p * runs as f64;
        let cell = if expected < 5.0 { &[][..] } else { text };
        let (all_found, all_expected) = cells.entry(cell).or_default();
        *all_found += found;
        *all_expected += expected;
    }
    assert!(counts.is_empty(), "{counts:?} are impossible");
    cells.retain(|_, (_, expected)| *expected > 0.0);
    let square = |(found, expected): &(f64, f64)| (found - expected).powi(2) / expected;
    let chi_square: f64 = cells.values().map(square).sum();
    // Four standard deviations above its mean.
    let freedom = f64::from(u32::try_from(cells.len() - 1).unwrap());
    assert!(freedom > 20.0, "{cells:?}");
    let most = freedom + 4.0 * (2.0 * freedom).sqrt();
    assert!(chi_square < most, "{chi_square}, {freedom}");
}

#[test]
fn sampled_text_keeps_its_distribution() {
    let sampling = SamplingOptions {
        temperature: 4.0,
        ..SamplingOptions::default()
    };
    assert_distribution(&sampling, None);
}

/// The penalty counts drafted tokens as it does others, and what top-p leaves out never comes.
#[test]
fn filters_penalties_and_processors_keep_the_distribution_too() {
    let sampling = SamplingOptions {
        temperature: 4.0,
        top_p: 0.85,
        frequency_penalty: 2.5,
        ..SamplingOptions::default()
    };
    assert_distribution(&sampling, Some(encourage));
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
