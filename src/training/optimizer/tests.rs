use super::*;
use crate::backend::ops::gradcheck::random;
use crate::backend::testing::{assert_agree, device, read, tolerance};
use candle_core::Device;
use serde_json::Value;

/// Options that together reach every branch of every optimizer.
const ALL: [&str; 9] = [
    r#""adamw""#,
    r#"{"name": "adam", "weight_decay": 0.1, "bias_correction": false}"#,
    r#""sgd""#,
    r#"{"name": "sgd", "momentum": 0.9, "nesterov": true, "weight_decay": 0.1}"#,
    r#"{"name": "sgd", "momentum": 0.8, "dampening": 0.5}"#,
    r#"{"name": "adafactor"}"#,
    r#"{"name": "adafactor", "beta1": 0.9, "scale_parameter": true, "weight_decay": 0.1}"#,
    r#""muon""#,
    r#"{"name": "muon", "nesterov": false, "adjust_lr": "match_rms_adamw"}"#,
];

fn options(json: &str) -> OptimizerOptions {
    OptimizerOptions::from_json(json).unwrap()
}

/// Shapes that follow each other: dimensions, and whether hidden.
fn shapes(tensors: &[(&[usize], bool)]) -> Vec<WeightShape> {
    let mut offset = 0;
    tensors
        .iter()
        .map(|&(dims, hidden)| {
            let shape = WeightShape {
                offset,
                dims: dims.to_vec(),
                hidden,
            };
            offset += shape.len();
            shape
        })
        .collect()
}

/// Tall, wide and of one row or column; twice the same; vectors and an embedding between them.
fn mixed() -> Vec<WeightShape> {
    shapes(&[
        (&[96, 64], true),
        (&[33], false),
        (&[1, 33], true),
        (&[40, 16], false),
        (&[41, 25], true),
        (&[96, 64], true),
        (&[1], false),
        (&[25, 41], true),
        (&[17, 1], true),
        (&[33], false),
        (&[2, 3, 5], true),
    ])
}

fn numbers(value: &Value) -> Vec<f64> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|x| x.as_f64().unwrap()).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "rounding is meant")]
fn tensor(value: &Value) -> Tensor {
    let numbers: Vec<f32> = numbers(value).into_iter().map(|x| x as f32).collect();
    Tensor::new(numbers, device()).unwrap()
}

#[test]
fn follows_the_reference_steps() {
    let fixture: Value = serde_json::from_str(include_str!(
        "../../../tests/fixtures/optimizers/steps.json"
    ))
    .unwrap();
    let list = |key| fixture[key].as_array().unwrap();
    let tensors: Vec<(Vec<usize>, bool)> = list("shapes")
        .iter()
        .map(|shape| {
            let dims = shape["dims"].as_array().unwrap().iter();
            let dims = dims.map(|d| usize::try_from(d.as_u64().unwrap()).unwrap());
            (dims.collect(), shape["hidden"].as_bool().unwrap())
        })
        .collect();
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(dims, hidden)| (&dims[..], *hidden))
        .collect();
    let shapes = shapes(&tensors);
    let gradients: Vec<Tensor> = list("gradients").iter().map(tensor).collect();
    let rates = numbers(&fixture["learning_rates"]);
    assert_eq!(list("runs").len(), 15);
    for run in list("runs") {
        let options = options(&run["options"].to_string());
        let mut weights = tensor(&fixture["start"]);
        let mut optimizer = Optimizer::new(options, &weights, &shapes).unwrap();
        for (step, (gradient, rate)) in gradients.iter().zip(&rates).enumerate() {
            weights = optimizer.step(&weights, gradient, *rate).unwrap();
            let expected = numbers(&run["weights"][step]);
            let found = read(&weights);
            assert_eq!(found.len(), expected.len());
            for (index, (a, b)) in found.iter().zip(&expected).enumerate() {
                assert!(
                    (a - b).abs() < 1e-5 * b.abs() + 1e-6,
                    "{}, step {step}: {a} for {b} at {index}",
                    run["options"]
                );
            }
        }
        assert_eq!(optimizer.steps, gradients.len());
    }
}

#[test]
fn every_device_takes_the_same_steps() {
    let shapes = mixed();
    let len = shape::len(&shapes);
    for json in ALL {
        let run = |device: &Device| {
            let number = |seed| random(&[len], seed).to_device(device).unwrap();
            let mut weights = number(1);
            let mut optimizer = Optimizer::new(options(json), &weights, &shapes).unwrap();
            let start = weights.clone();
            for step in 0..5 {
                // From large to so small that eps counts, and out of a longer vector.
                let gradient = Tensor::cat(&[number(9), number(10 + step)], 0).unwrap();
                let scale = 10f64.powi(-3 * i32::try_from(step).unwrap());
                let gradient = (gradient.narrow(0, len, len).unwrap() * scale).unwrap();
                weights = optimizer.step(&weights, &gradient, 1e-2).unwrap();
            }
            // A step makes new weights; the old ones may still be in use.
            assert_eq!(read(&start), read(&random(&[len], 1)));
            let mut results = vec![("weights", weights)];
            results.extend(optimizer.state);
            results
        };
        for ((what, found), (_, expected)) in run(device()).iter().zip(&run(&Device::Cpu)) {
            let what = format!("{json}: {what}");
            assert_agree(&what, found, expected, tolerance(DType::F32));
        }
    }
}

#[test]
fn a_resumed_run_goes_on_bit_for_bit() {
    let shapes = mixed();
    let len = shape::len(&shapes);
    let gradient = |step: u64| random(&[len], 20 + step).to_device(device()).unwrap();
    for json in ALL {
        let mut weights = random(&[len], 1).to_device(device()).unwrap();
        let mut straight = Optimizer::new(options(json), &weights, &shapes).unwrap();
        for step in 0..3 {
            weights = straight.step(&weights, &gradient(step), 1e-2).unwrap();
        }
        let specs = Optimizer::state_specs(&options(json), &shapes);
        let found: Vec<_> = straight
            .state()
            .iter()
            .map(|(n, t)| (*n, t.dims1().unwrap()))
            .collect();
        assert_eq!(found, specs, "{json}");

        // As through a file.
        let saved: Vec<_> = straight
            .state()
            .into_iter()
            .map(|(n, t)| (n, read(t)))
            .collect();
        let load = |name, len| {
            let (_, part) = saved.iter().find(|(saved, _)| *saved == name).unwrap();
            assert_eq!(part.len(), len);
            Ok(tensor(&serde_json::json!(part)))
        };
        let mut resumed = Optimizer::resume(options(json), &shapes, load, straight.steps).unwrap();
        let mut again = weights.clone();
        for step in 3..6 {
            weights = straight.step(&weights, &gradient(step), 1e-2).unwrap();
            again = resumed.step(&again, &gradient(step), 1e-2).unwrap();
            assert_eq!(read(&weights), read(&again), "{json}");
        }
        assert_eq!(straight.steps, resumed.steps);
    }
}

#[test]
fn a_step_that_fails_changes_nothing() {
    let shapes = mixed();
    let len = shape::len(&shapes);
    for json in ALL {
        let weights = random(&[len], 1).to_device(device()).unwrap();
        let gradient = random(&[len], 2).to_device(device()).unwrap();
        let short = gradient.narrow(0, 0, len - 1).unwrap();
        let mut optimizer = Optimizer::new(options(json), &weights, &shapes).unwrap();
        let weights = optimizer.step(&weights, &gradient, 1e-2).unwrap();
        let mut other = optimizer.clone();
        assert!(other.step(&weights, &short, 1e-2).is_err(), "{json}");
        assert_eq!(other.steps, 1);
        let expected = optimizer.step(&weights, &gradient, 1e-2).unwrap();
        let found = other.step(&weights, &gradient, 1e-2).unwrap();
        assert_eq!(read(&found), read(&expected), "{json}");
    }
}

#[test]
fn the_state_has_no_empty_part() {
    let vectors = shapes(&[(&[3], false), (&[2], false)]);
    let matrices = shapes(&[(&[3, 2], true), (&[4, 5], true)]);
    let specs = |json, shapes: &[WeightShape]| Optimizer::state_specs(&options(json), shapes);
    assert_eq!(specs(r#""sgd""#, &matrices), []);
    assert_eq!(specs(r#""adafactor""#, &vectors), [("second_moment", 5)]);
    let factored = [("row_moment", 7), ("column_moment", 7)];
    assert_eq!(specs(r#""adafactor""#, &matrices), factored);
    let moments = [("first_moment", 5), ("second_moment", 5)];
    assert_eq!(specs(r#""muon""#, &vectors), moments);
    assert_eq!(specs(r#""muon""#, &matrices), [("momentum_buffer", 26)]);
    // And a step of each works.
    for (json, shapes) in [
        (r#""adafactor""#, &vectors),
        (r#""adafactor""#, &matrices),
        (r#""muon""#, &vectors),
        (r#""muon""#, &matrices),
    ] {
        let weights = random(&[shape::len(shapes)], 1)
            .to_device(device())
            .unwrap();
        let mut optimizer = Optimizer::new(options(json), &weights, shapes).unwrap();
        optimizer.step(&weights, &weights, 1e-2).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let weights = random(&[8], 1).to_device(device()).unwrap();
    let new = |json, tensors| Optimizer::new(options(json), &weights, &shapes(tensors));
    assert!(new(r#""adamw""#, &[(&[2, 3], true), (&[2], false)]).is_ok());
    assert!(new(r#""adamw""#, &[(&[2, 3], true)]).is_err());
    let error = new(r#"{"name": "sgd", "momentum": 2}"#, &[(&[8], false)]).unwrap_err();
    assert!(error.to_string().contains("`momentum`"), "{error}");
    let mut gap = shapes(&[(&[2, 3], true), (&[2], false)]);
    gap[1].offset = 5;
    assert!(Optimizer::new(options(r#""adamw""#), &weights, &gap).is_err());
}
