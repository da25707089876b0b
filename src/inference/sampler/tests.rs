use std::path::Path;

use serde_json::Value;

use super::*;

fn sampler(temperature: f64, top_k: usize, top_p: f64, seed: u64) -> Sampler {
    Sampler::new(SamplingOptions {
        temperature,
        top_k,
        top_p,
        seed,
        ..SamplingOptions::default()
    })
    .unwrap()
}

/// Logits of a large vocabulary, with ties.
fn spread_logits(count: u32) -> Vec<f32> {
    (0..count)
        .map(|id| f32::from(u16::try_from(id.wrapping_mul(2_654_435_761) >> 20).unwrap()) / 400.)
        .collect()
}

fn fixture() -> Value {
    serde_json::from_str(include_str!(
        "../../../tests/fixtures/sampling/expected.json"
    ))
    .unwrap()
}

fn kept(probabilities: &[f32]) -> Vec<usize> {
    (0..probabilities.len())
        .filter(|&id| probabilities[id] > 0.0)
        .collect()
}

#[test]
fn matches_the_reference_distributions() {
    let mut fixture = fixture();
    let logits: Vec<f32> = serde_json::from_value(fixture["logits"].take()).unwrap();
    let history: Vec<u32> = serde_json::from_value(fixture["history_ids"].take()).unwrap();
    let cases = fixture["cases"].as_array_mut().unwrap();
    assert_eq!(cases.len(), 25);
    for case in cases {
        let kept_ids: Vec<usize> = serde_json::from_value(case["kept_ids"].take()).unwrap();
        let expected: Vec<f32> = serde_json::from_value(case["probs"].take()).unwrap();
        let case = case.as_object_mut().unwrap();
        case.remove("kept_ids");
        case.remove("probs");
        case.entry("temperature").or_insert(1.0.into());
        // The names of the reference are those of the options.
        let options: SamplingOptions = serde_json::from_value(case.clone().into()).unwrap();
        let sampler = Sampler::new(options).unwrap();
        let probabilities = sampler.probabilities(&logits, &history).unwrap();
        for (got, want) in probabilities.iter().zip(&expected) {
            assert!((got - want).abs() < 1e-6, "{got} {want} in {case:?}");
        }
        assert_eq!(kept(&probabilities), kept_ids, "{case:?}");
    }
}

/// Kept ids by the steps of `TypicalLogitsWarper` of transformers, computed in float64 for the logits
/// of the fixture. No sum is closer than 3e-4 to the mass.
#[test]
fn typical_p_matches_transformers() {
    let logits: Vec<f32> = serde_json::from_value(fixture()["logits"].take()).unwrap();
    let cases: [(f64, usize, f64, &[usize]); 8] = [
        (1.0, 0, 0.9, &[3, 4, 5, 11, 14, 16, 18, 24, 26, 33, 37, 47]),
        (1.0, 0, 0.5, &[3, 14, 16, 18, 37]),
        (1.0, 0, 0.2, &[16, 18, 37]),
        (1.0, 0, 0.05, &[37]),
        (0.7, 0, 0.9, &[14, 16, 18, 24, 37]),
        (
            1.6,
            0,
            0.6,
            &[
                3, 4, 5, 6, 11, 14, 16, 18, 26, 33, 37, 40, 41, 43, 46, 47, 48,
            ],
        ),
        (1.0, 20, 0.5, &[3, 14, 16, 18, 37]),
        (0.8, 12, 0.95, &[3, 14, 16, 18, 24, 37]),
    ];
    for (temperature, top_k, typical_p, expected) in cases {
        let sampler = Sampler::new(SamplingOptions {
            temperature,
            top_k,
            typical_p,
            ..SamplingOptions::default()
        });
        let probabilities = sampler.unwrap().probabilities(&logits, &[]).unwrap();
        assert_eq!(kept(&probabilities), expected, "{typical_p}");
    }
}

#[test]
fn greedy_takes_the_lowest_id_on_ties() {
    let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
    assert_eq!(sampler.sample(&[1.0, 3.0, 3.0, -1.0], &[], 0).unwrap(), 1);
    assert_eq!(
        sampler.probabilities(&[1.0, 3.0, 3.0], &[]).unwrap(),
        [0., 1., 0.]
    );
    assert_eq!(
        sampler
            .sample(&[f32::MIN, f32::NEG_INFINITY], &[], 0)
            .unwrap(),
        0
    );
    assert_eq!(sampler.sample(&[0.0, -0.0], &[], 0).unwrap(), 0);
    let mut logits = vec![0.0; 300];
    (logits[70], logits[90], logits[200]) = (1.0, 1.0, 1.0);
    assert_eq!(sampler.sample(&logits, &[], 0).unwrap(), 70);
}

#[test]
fn top_k_takes_the_lowest_ids_on_ties() {
    let probabilities = sampler(1.0, 2, 1.0, 0)
        .probabilities(&[1.0; 5], &[])
        .unwrap();
    assert_eq!(probabilities, [0.5, 0.5, 0.0, 0.0, 0.0]);
}

#[test]
fn non_finite_logits_never_give_a_token() {
    for temperature in [0.0, 1.0] {
        let mut sampler = sampler(temperature, 0, 1.0, 0);
        let masked = f32::NEG_INFINITY;
        for logits in [
            &[0.0, f32::NAN][..],
            &[f32::INFINITY, 0.0],
            &[masked; 3],
            &[],
        ] {
            let error = sampler.sample(logits, &[], 7).unwrap_err();
            assert!(matches!(
                error,
                Error::NonFinite {
                    what: "logits",
                    step: 7,
                    ..
                }
            ));
            assert!(sampler.probabilities(logits, &[]).is_err());
        }
    }
}

#[test]
fn masked_tokens_are_never_drawn() {
    let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0];
    for top_k in [0, 3] {
        let mut sampler = sampler(2.0, top_k, 1.0, 1);
        for step in 0..50 {
            assert_eq!(sampler.sample(&logits, &[], step).unwrap() % 2, 1);
        }
    }
}

#[test]
fn the_seed_fixes_the_tokens() {
    let logits = spread_logits(300);
    let draw = |seed, top_p| -> Vec<u32> {
        let mut sampler = sampler(3.0, 0, top_p, seed);
        (0..6)
            .map(|i| sampler.sample(&logits, &[], i).unwrap())
            .collect()
    };
    // Fixed values: a change here breaks reproducibility for users.
    assert_eq!(draw(42, 1.0), [205, 287, 131, 189, 87, 45]);
    assert_eq!(draw(42, 0.8), [265, 56, 71, 100, 262, 131]);
    assert_ne!(draw(42, 1.0), draw(43, 1.0));
}

/// How often each of `count` ids comes, as a share.
fn frequencies(count: usize, mut draw: impl FnMut() -> u32) -> Vec<f32> {
    let mut counts = vec![0u16; count];
    for _ in 0..20_000 {
        counts[draw() as usize] += 1;
    }
    counts.iter().map(|&n| f32::from(n) / 20_000.0).collect()
}

#[test]
fn frequencies_follow_the_distribution() {
    let logits: Vec<f32> = spread_logits(20).iter().map(|x| x / 4.0).collect();
    let all = SamplingOptions {
        temperature: 1.0,
        seed: 5,
        ..SamplingOptions::default()
    };
    for options in [
        all.clone(),
        SamplingOptions {
            top_p: 0.8,
            ..all.clone()
        },
        SamplingOptions {
            xtc_probability: 0.3,
            ..all.clone()
        },
        SamplingOptions {
            top_k: 12,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 0.9,
            xtc_probability: 0.6,
            xtc_threshold: 0.08,
            frequency_penalty: 0.7,
            ..all
        },
    ] {
        let mut sampler = Sampler::new(options.clone()).unwrap();
        let history = [3, 7, 7];
        let expected = sampler.probabilities(&logits, &history).unwrap();
        assert!((expected.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let found = frequencies(20, || sampler.sample(&logits, &history, 0).unwrap());
        for (found, p) in found.into_iter().zip(expected) {
            // More than four standard deviations, and none of what has no probability.
            assert!((found - p).abs() < 0.015, "{found} {p} {options:?}");
            assert!(p > 0.0 || found <= 0.0, "{found} {p} {options:?}");
        }
    }
}

#[test]
fn an_accepted_draft_is_distributed_as_the_target() {
    let target = [0.5, 0.2, 0.0, 0.3];
    let draft = [0.1, 0.6, 0.3];
    let mut sampler = sampler(1.0, 0, 1.0, 9);
    let mut accepted = 0u16;
    let found = frequencies(4, || {
        let token = sampler.draw(&draft);
        let (token, is_accepted) = sampler.accept_draft(&target, &draft, token);
        accepted += u16::from(is_accepted);
        token
    });
    for (found, p) in found.into_iter().zip(target) {
        assert!((found - p).abs() < 0.015, "{found} {p}");
    }
    // The sum of the lower one of both probabilities.
    assert!((f32::from(accepted) / 20_000.0 - 0.3).abs() < 0.015);
}

#[test]
fn a_draft_of_the_same_distribution_is_always_accepted() {
    let distribution = [0.3, 0.3, 0.4];
    let mut sampler = sampler(1.0, 0, 1.0, 9);
    for token in [0, 1, 2].repeat(100) {
        let result = sampler.accept_draft(&distribution, &distribution, token);
        assert_eq!(result, (token, true));
    }
    // A token that neither has, with nothing left beyond the draft.
    let (token, accepted) = sampler.accept_draft(&[0.0, 1.0], &[0.0, 1.0], 7);
    assert_eq!((token, accepted), (1, false));
}

#[test]
fn a_ban_and_a_bias_act_before_the_greedy_choice() {
    let greedy = |bias: &[(u32, f32)], logits: &[f32]| {
        let options = SamplingOptions {
            logit_bias: bias.iter().copied().collect(),
            ..SamplingOptions::default()
        };
        Sampler::new(options).unwrap().sample(logits, &[], 0)
    };
    let logits = [1.0, 3.0, 2.0];
    assert_eq!(greedy(&[(1, f32::NEG_INFINITY)], &logits).unwrap(), 2);
    assert_eq!(greedy(&[(0, 2.5)], &logits).unwrap(), 0);
    let error = greedy(&[(3, 1.0)], &logits).unwrap_err().to_string();
    assert!(error.contains("`logit_bias` is token id 3"), "{error}");
    assert!(error.contains("vocabulary size of 3"), "{error}");
    let all = [0, 1, 2].map(|id| (id, f32::NEG_INFINITY));
    assert!(matches!(
        greedy(&all, &logits),
        Err(Error::NonFinite { .. })
    ));
}

#[test]
fn the_breakers_are_the_tokens_with_their_text() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/tiny-coder");
    let tokenizer = Tokenizer::from_dir(&dir).unwrap().unwrap();
    let text = "let x = y + z;";
    let history = tokenizer.encode(&text.repeat(3), false).unwrap();
    let next = history[history.len() / 3] as usize;
    let logits = vec![1.0; tokenizer.vocab_size()];
    let probability = |breakers: &[&str]| {
        let options = SamplingOptions {
            temperature: 1.0,
            dry_multiplier: 5.0,
            dry_sequence_breakers: breakers.iter().map(|&text| text.to_owned()).collect(),
            ..SamplingOptions::default()
        };
        let sampler = Sampler::with_tokenizer(options, &tokenizer).unwrap();
        sampler.probabilities(&logits, &history).unwrap()[next]
    };
    let off = probability(&[";"]);
    assert!(probability(&["never there"]) < off / 100.0);
    assert!(probability(&[]) < off / 100.0);
    // Also where it is one character of a token.
    assert!((probability(&["never there", "e"]) - off).abs() < off / 100.0);
}

#[test]
fn extreme_temperatures_stay_finite() {
    let logits = [f32::MIN, 0.0, f32::MAX];
    for temperature in [f64::MIN_POSITIVE, 1e-3, 1.0, f64::MAX] {
        let probabilities = sampler(temperature, 0, 0.99, 0)
            .probabilities(&logits, &[])
            .unwrap();
        assert!((probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
