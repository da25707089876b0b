use super::*;
use crate::backend::device::completed;
use crate::backend::testing::{device_kind, read};
use crate::backend::{DTypePolicy, DeviceKind};
use crate::models::full_weights::FullWeights;
use crate::models::{LayerSelection, LoRAAdapter, LoRAConfig, LoRAScale, Model, testing};
use candle_core::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A model of its own kind each: untied with grouped queries, with sliding windows, tied, one
/// without biases, and one with normed heads.
const MODELS: [&str; 5] = [
    "qwen2_untied_gqa",
    "qwen2_sliding",
    "qwen2_tied",
    "mistral_sliding",
    "qwen3",
];

fn noise(count: usize, seed: u64) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
fn tensor(values: &[f64], device: &Device) -> Tensor {
    let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    Tensor::new(values, device).unwrap()
}

fn with_weights(subject: &TrainedWeights, model: &Model, values: &[f64]) -> TrainedWeights {
    let mut changed = subject.clone();
    let weights = tensor(values, model.device());
    changed.set_weights(weights, model.decoder()).unwrap();
    changed
}

/// Name and place of each matrix and vector in the flat vector.
fn parts(subject: &TrainedWeights) -> Vec<(String, usize, usize)> {
    let parts = subject.parts().into_iter();
    parts
        .map(|(name, offset, dims, _)| (name, offset, dims.iter().product()))
        .collect()
}

fn lora(use_dora: bool) -> LoRAConfig {
    LoRAConfig {
        rank: 2,
        scale: LoRAScale::Alpha(4.0),
        use_dora,
        ..LoRAConfig::default()
    }
}

/// An adapter whose A and B are both away from zero.
fn adapter(model: &Model, config: LoRAConfig) -> TrainedWeights {
    let adapter = LoRAAdapter::new(config, model, 0).unwrap();
    let (start, noise) = (read(adapter.weights()), noise(adapter.parameter_count(), 1));
    // Magnitudes are around the lengths of rows, the rest around zero.
    let values: Vec<f64> = start.iter().zip(noise).map(|(x, n)| x + 0.2 * n).collect();
    with_weights(&TrainedWeights::Adapter(adapter), model, &values)
}

fn full(model: &Model, layers: &LayerSelection) -> TrainedWeights {
    TrainedWeights::Full(Box::new(FullWeights::new(model, layers).unwrap()))
}

/// Two rows of twelve tokens. Few targets keep the rounding of the sum small; they lie beyond the
/// sliding window.
fn batch(device: &Device) -> TokenBatch {
    let ids: Vec<u32> = (0..24).map(|i| (i * 37 + 11) % 190).collect();
    TokenBatch {
        tokens: Tensor::new(ids, device).unwrap(),
        segments: vec![(2, 12)],
        positions: Tensor::new(&[4u32, 10, 17, 22], device).unwrap(),
        targets: Tensor::new(&[3u32, 150, 60, 99], device).unwrap(),
    }
}

fn options(checkpoint: bool, dropout: Option<u64>) -> StepOptions<'static> {
    StepOptions {
        checkpoint,
        dropout: dropout.map(|seed| Dropout { p: 0.3, seed }),
        cancel: None,
    }
}

const PLAIN: Objective<'static> = Objective::Likelihood {
    label_smoothing: 0.0,
};

fn evaluate(
    model: &Model,
    subject: &TrainedWeights,
    batch: &TokenBatch,
    objective: Objective<'_>,
    options: &StepOptions<'_>,
) -> (f64, Vec<f32>) {
    // One at a time on Metal, as the trainer does it.
    completed(model.device(), || {
        let decoder = subject.decoder(model.decoder());
        let (loss, gradient) = decoder.loss_and_gradient(batch, subject, objective, options)?;
        let loss = loss.to_scalar::<f32>()?;
        Ok((f64::from(loss), gradient.to_vec1()?))
    })
    .unwrap()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Holds each matrix and vector to finite differences of the loss.
fn check_differences(
    what: &str,
    model: &Model,
    subject: &TrainedWeights,
    objective: Objective<'_>,
    options: &StepOptions<'_>,
) {
    const STEP: f64 = 1e-2;
    let batch = batch(model.device());
    let (_, gradient) = evaluate(model, subject, &batch, objective, options);
    let start = read(subject.weights());
    for (part, from, len) in parts(subject) {
        let what = format!("{what}, {part}");
        let g: Vec<f64> = gradient[from..from + len]
            .iter()
            .map(|&x| f64::from(x))
            .collect();
        let size = norm(&g);
        if part.ends_with("k_proj.bias") {
            // A constant beside all keys of a query changes no probability but for the rotation.
            assert!(size > 0.0, "{what}");
            continue;
        }
        assert!(size > 1e-4, "{what}: {size}");
        // Half random, half along the gradient: a random direction alone is nearly orthogonal to it,
        // and would drown in the rounding of the loss.
        let random = noise(len, from as u64);
        let scale = norm(&random);
        let direction: Vec<f64> = g
            .iter()
            .zip(&random)
            .map(|(g, r)| g / size + r / scale)
            .collect();
        // Small where the loss bends much.
        let step = STEP / (1.0 + size / 20.0);
        let moved = |step: f64| {
            let mut weights = start.clone();
            for (weight, d) in weights[from..from + len].iter_mut().zip(&direction) {
                *weight += step * d;
            }
            let subject = with_weights(subject, model, &weights);
            evaluate(model, &subject, &batch, objective, options).0
        };
        let found = (moved(step) - moved(-step)) / (2.0 * step);
        let expected: f64 = g.iter().zip(&direction).map(|(g, d)| g * d).sum();
        assert!(
            (found - expected).abs() < 0.01 * size + 1e-3,
            "{what}: {found} {expected} of {size}"
        );
    }
}

fn on_cpu(name: &str) -> Model {
    testing::model(name, DeviceKind::Cpu, DTypePolicy::F32)
}

/// On the CPU, for it takes a thousand forwards; other devices are held to the CPU below.
#[test]
fn every_matrix_of_an_adapter_gets_the_gradient_that_differences_give() {
    for (name, dropout) in MODELS.into_iter().flat_map(|m| [(m, None), (m, Some(5))]) {
        let model = on_cpu(name);
        let subject = adapter(&model, lora(false));
        let what = format!("{name}, dropout {dropout:?}");
        check_differences(&what, &model, &subject, PLAIN, &options(false, dropout));
    }
}

#[test]
fn every_weight_of_a_model_gets_the_gradient_that_differences_give() {
    for name in MODELS {
        let model = on_cpu(name);
        let subject = full(&model, &LayerSelection::All);
        let objective = Objective::Likelihood {
            label_smoothing: 0.1,
        };
        check_differences(name, &model, &subject, objective, &options(false, None));
    }
}

/// The paper takes the norm of `DoRA` for a constant, which differences do not; so they are taken of
/// the same function with the norm held.
#[test]
fn dora_gets_the_gradient_that_differences_give() {
    for dropout in [None, Some(5)] {
        let model = on_cpu("qwen2_tied");
        let subject = adapter(&model, lora(true));
        let TrainedWeights::Adapter(dora) = &subject else {
            unreachable!()
        };
        let batch = batch(model.device());
        let options = options(false, dropout);
        let (_, gradient) = evaluate(&model, &subject, &batch, PLAIN, &options);
        let start = read(subject.weights());
        for (what, from, len) in parts(&subject) {
            let g: Vec<f64> = gradient[from..from + len]
                .iter()
                .map(|&x| f64::from(x))
                .collect();
            let size = norm(&g);
            assert!(size > 1e-4, "{what}: {size}");
            let direction: Vec<f64> = g.iter().map(|g| g / size).collect();
            let moved = |step: f64| {
                let mut weights = start.clone();
                for (weight, d) in weights[from..from + len].iter_mut().zip(&direction) {
                    *weight += step * d;
                }
                let mut moved = dora.clone();
                let weights = tensor(&weights, &Device::Cpu);
                moved.set_weights_with_norms_of(weights, dora).unwrap();
                let moved = TrainedWeights::Adapter(moved);
                evaluate(&model, &moved, &batch, PLAIN, &options).0
            };
            let found = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((found / size - 1.0).abs() < 0.01, "{what}: {found} {size}");
        }
    }
}

/// Weights of targets are derivatives: of the square of each loss they are twice the loss.
#[test]
fn targets_have_weights() {
    let model = on_cpu("qwen2_tied");
    let subject = adapter(&model, lora(false));
    let batch = batch(model.device());
    let TrainedWeights::Adapter(adapter) = &subject else {
        unreachable!()
    };
    let losses = model
        .decoder()
        .losses(&batch, adapter.layers(), &StepOptions::default())
        .unwrap();
    let losses: Vec<f32> = losses.to_vec1().unwrap();
    let ones = |found: &[f32]| {
        for (found, expected) in found.iter().zip(&losses) {
            assert!((found / expected - 1.0).abs() < 1e-5);
        }
        Ok(vec![1.0; found.len()])
    };
    let run = |objective| evaluate(&model, &subject, &batch, objective, &options(false, None));
    let (loss, gradient) = run(PLAIN);
    assert_eq!(run(Objective::Weighted(&ones)), (loss, gradient.clone()));
    let sum: f32 = losses.iter().sum();
    assert!((loss - f64::from(sum)).abs() < 1e-5 * loss);
    let twice = |found: &[f32]| Ok(vec![2.0; found.len()]);
    let (_, doubled) = run(Objective::Weighted(&twice));
    for (a, b) in doubled.iter().zip(&gradient) {
        assert!((a - 2.0 * b).abs() <= 1e-5 * b.abs() + 1e-7, "{a} {b}");
    }
}

/// Segments are sequences of their own: packed ones give what each gives alone.
#[test]
fn tokens_of_other_segments_are_not_seen() {
    for name in MODELS {
        let model = testing::model(name, device_kind(), DTypePolicy::F32);
        let subject = adapter(&model, lora(false));
        let device = model.device();
        let ids: Vec<u32> = (0..24).map(|i| (i * 37 + 11) % 190).collect();
        let run = |ids: &[u32], segments: &[(usize, usize)], targets: &[(u32, u32)]| {
            let (positions, targets): (Vec<u32>, Vec<u32>) = targets.iter().copied().unzip();
            let batch = TokenBatch {
                tokens: Tensor::new(ids, device).unwrap(),
                segments: segments.to_vec(),
                positions: Tensor::new(positions, device).unwrap(),
                targets: Tensor::new(targets, device).unwrap(),
            };
            evaluate(&model, &subject, &batch, PLAIN, &options(false, None))
        };
        let targets = [(2, 9), (7, 40), (15, 3), (22, 150)];
        let packed = run(&ids, &[(1, 3), (1, 9), (2, 6)], &targets);
        let parts = [
            run(&ids[..3], &[(1, 3)], &[(2, 9)]),
            run(&ids[3..12], &[(1, 9)], &[(4, 40)]),
            run(&ids[12..18], &[(1, 6)], &[(3, 3)]),
            run(&ids[18..], &[(1, 6)], &[(4, 150)]),
        ];
        let loss: f64 = parts.iter().map(|(loss, _)| loss).sum();
        assert!((packed.0 / loss - 1.0).abs() < 1e-5, "{name}");
        let largest = packed.1.iter().fold(0f32, |max, x| max.max(x.abs()));
        for (place, found) in packed.1.iter().enumerate() {
            let expected: f32 = parts.iter().map(|(_, gradient)| gradient[place]).sum();
            assert!((found - expected).abs() < 1e-4 * largest, "{name}");
        }
    }
}

/// The backward ends at the first layer that is trained, with the same numbers.
#[test]
fn a_selection_of_layers_gets_its_share_of_the_gradient() {
    let model = on_cpu("qwen2_sliding");
    let batch = batch(model.device());
    let run =
        |subject: &TrainedWeights| evaluate(&model, subject, &batch, PLAIN, &options(false, None));
    let all = full(&model, &LayerSelection::All);
    let whole = run(&all).1;
    for layers in [
        LayerSelection::Last(1),
        LayerSelection::These([1, 2].into()),
    ] {
        let some = full(&model, &layers);
        let gradient = run(&some).1;
        let places = parts(&all);
        for (name, from, len) in parts(&some) {
            let (_, start, _) = places.iter().find(|(other, ..)| *other == name).unwrap();
            assert_eq!(
                gradient[from..from + len],
                whole[*start..start + len],
                "{name}"
            );
        }
    }
    assert_eq!(
        full(&model, &LayerSelection::Last(1)).parts().len(),
        2 + 7 + 3
    );
}

#[test]
fn checkpointing_changes_no_bit() {
    for name in MODELS {
        let model = testing::model(name, device_kind(), DTypePolicy::F32);
        for use_dora in [false, true] {
            let subject = adapter(&model, lora(use_dora));
            let batch = batch(model.device());
            let gradient = |checkpoint, dropout| {
                let options = options(checkpoint, dropout);
                evaluate(&model, &subject, &batch, PLAIN, &options)
            };
            assert_eq!(gradient(false, None), gradient(true, None), "{name}");
            assert_eq!(gradient(false, Some(5)), gradient(true, Some(5)), "{name}");
            assert_ne!(gradient(false, None), gradient(false, Some(5)), "{name}");
            assert_ne!(gradient(false, Some(6)), gradient(false, Some(5)), "{name}");
        }
    }
}

#[test]
fn a_request_to_stop_is_met_between_layers() {
    let model = on_cpu("qwen2_tied");
    let subject = adapter(&model, lora(false));
    let cancel = CancelHandle::default();
    cancel.cancel();
    let options = StepOptions {
        cancel: Some(&cancel),
        ..StepOptions::default()
    };
    let found =
        model
            .decoder()
            .loss_and_gradient(&batch(model.device()), &subject, PLAIN, &options);
    assert!(matches!(found, Err(Error::Cancelled)));
}

#[test]
fn every_device_gives_the_same_gradient() {
    // One key head in a batch besides.
    for name in MODELS.into_iter().chain(["qwen2_untied_f16"]) {
        type Make = fn(&Model) -> TrainedWeights;
        let kinds: [(&str, Make); 3] = [
            ("LoRA", |model| adapter(model, lora(false))),
            ("DoRA", |model| adapter(model, lora(true))),
            ("all", |model| full(model, &LayerSelection::All)),
        ];
        for (kind, make) in kinds {
            for dropout in [None, Some(5)] {
                let run = |device| {
                    let model = testing::model(name, device, DTypePolicy::F32);
                    let subject = make(&model);
                    let batch = batch(model.device());
                    let objective = Objective::Likelihood {
                        label_smoothing: 0.1,
                    };
                    let options = options(false, dropout);
                    let (loss, gradient) = evaluate(&model, &subject, &batch, objective, &options);
                    (loss, gradient, subject)
                };
                let (expected_loss, expected, subject) = run(DeviceKind::Cpu);
                let (loss, found, _) = run(device_kind());
                assert!((loss - expected_loss).abs() < 1e-5 * expected_loss);
                for (part, from, len) in parts(&subject) {
                    let range = from..from + len;
                    let (found, expected) = (&found[range.clone()], &expected[range]);
                    let size = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
                    assert!(size > 0.0, "{name}, {part}");
                    // The rotation leaves next to nothing of a bias of keys but rounding.
                    let floor = if part.ends_with("k_proj.bias") {
                        1e-4
                    } else {
                        0.0
                    };
                    for (a, b) in found.iter().zip(expected) {
                        let what = format!("{name}, {kind}, {dropout:?}, {part}");
                        let gap = (a - b).abs();
                        assert!(gap <= 1e-4 * size + floor, "{what}: {a} {b} of {size}");
                    }
                }
            }
        }
    }
}
