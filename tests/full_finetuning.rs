//! Training the weights of a model themselves.

#![cfg(feature = "training")]

mod common;

use common::training::{
    assert_resumes, full, losses, options, reports, run, small, state, tensors, weights,
};
use common::{all_logits, fixture, load_as, load_f32, rows, to_f64};
use metal_candle::backend::DTypePolicy;
use metal_candle::models::{LayerSelection, Quantization};
use metal_candle::training::{AdamWOptions, OptimizerOptions, TrainMethod};
use metal_candle::{
    Error, GenerateOptions, Generator, LoRATrainer, Model, ModelLoader, TrainOptions,
};
use std::ops::ControlFlow;

const IDS: [u32; 9] = [5, 17, 100, 42, 7, 60, 180, 3, 9];

/// Without decay, so that weights move only where they have a gradient.
fn by_gradient(method: TrainMethod) -> TrainOptions {
    TrainOptions {
        optimizer: OptimizerOptions::AdamW(AdamWOptions {
            weight_decay: 0.0,
            ..AdamWOptions::default()
        }),
        ..options(method)
    }
}

fn tokens(model: &Model) -> Vec<u32> {
    let options = GenerateOptions {
        max_tokens: 8,
        ignore_eos: true,
        ..GenerateOptions::default()
    };
    let mut generator = Generator::new(model);
    let generation = generator.generate_from_ids(&IDS, &options, |_| ControlFlow::Continue(()));
    generation.unwrap().tokens
}

#[test]
fn every_weight_is_trained_and_the_model_is_not() {
    for (name, has_head) in [("qwen2_tied", false), ("qwen2_untied_gqa", true)] {
        let model = load_f32(fixture("models").join(name));
        let before = to_f64(&all_logits(&model, &IDS, None));
        let first = weights(&model);
        let options = TrainOptions {
            steps: 12,
            ..by_gradient(full())
        };
        let mut trainer = LoRATrainer::new(&model, rows(4), None, options).unwrap();
        assert!(trainer.adapter().is_none());
        let info = trainer.info();
        assert_eq!(info.method, "full");
        assert_eq!(info.trainable_parameters, model.parameter_count());
        assert_eq!(info.parameters, model.parameter_count());
        let losses = losses(&run(&mut trainer));
        assert!(losses[11] < 0.7 * losses[0], "{name}: {losses:?}");
        assert_eq!(to_f64(&all_logits(&model, &IDS, None)), before);

        let tuned = trainer.trained_model().unwrap();
        let last = weights(&tuned);
        assert_eq!(last.contains_key("lm_head.weight"), has_head);
        assert!(last.keys().eq(first.keys()), "{name}");
        for (name, tensor) in &last {
            assert_ne!(to_f64(tensor), to_f64(&first[name]), "{name}");
        }

        let folder = tempfile::tempdir().unwrap();
        tuned.save(folder.path()).unwrap();
        let loaded = load_f32(folder.path());
        let logits = to_f64(&all_logits(&tuned, &IDS, None));
        assert_ne!(logits, before);
        assert_eq!(to_f64(&all_logits(&loaded, &IDS, None)), logits);
        assert_eq!(tokens(&loaded), tokens(&tuned));
        assert_ne!(tokens(&tuned), tokens(&model));
    }
}

#[test]
fn only_the_selected_layers_are_trained() {
    let model = small();
    let first = weights(&model);
    let all = reports(&model, &rows(4), &by_gradient(full()));
    for layers in [
        LayerSelection::Last(1),
        LayerSelection::These([1].into()),
        LayerSelection::These([0].into()),
    ] {
        let of_layer = if layers.contains(0, 2) {
            "model.layers.0."
        } else {
            "model.layers.1."
        };
        let options = by_gradient(TrainMethod::Full { layers });
        let mut trainer = LoRATrainer::new(&model, rows(4), None, options).unwrap();
        let reports = run(&mut trainer);
        assert!(reports[3].loss < reports[0].loss);
        // The same loss, of which a part of the gradient is kept.
        assert!((reports[0].loss - all[0].loss).abs() < 1e-6);
        assert!(reports[0].grad_norm < all[0].grad_norm);
        for (name, tensor) in weights(&trainer.trained_model().unwrap()) {
            let moved = to_f64(&tensor) != to_f64(&first[&name]);
            assert_eq!(moved, name.starts_with(of_layer), "{name}");
        }
    }
}

#[test]
fn weights_of_sixteen_bits_are_trained_in_thirty_two() {
    let model = load_as(fixture("models/qwen2_bf16"), DTypePolicy::Bf16);
    let first = weights(&model);
    // Steps below what 16 bits can tell from none.
    let options = TrainOptions {
        steps: 6,
        learning_rate: 2e-5,
        ..by_gradient(full())
    };
    let losses = assert_resumes("bf16", &model, &rows(4), &options, &[1, 3]);
    assert!(losses[5] < losses[0], "{losses:?}");

    let mut trainer = LoRATrainer::new(&model, rows(4), None, options).unwrap();
    run(&mut trainer);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    trainer.save_checkpoint(&path).unwrap();
    let masters = tensors(&path.join("weights.safetensors"));
    let tuned = weights(&trainer.trained_model().unwrap());
    assert_eq!(masters.len(), first.len());
    let mut rounded_away = 0;
    for (name, master) in &masters {
        assert_eq!(master.dtype(), candle_core::DType::F32, "{name}");
        assert_ne!(to_f64(master), to_f64(&first[name]), "{name}");
        let rounded = master.to_dtype(candle_core::DType::BF16).unwrap();
        assert_eq!(to_f64(&tuned[name]), to_f64(&rounded), "{name}");
        rounded_away += usize::from(to_f64(&rounded) == to_f64(&first[name]));
    }
    // Norms of ones have moved by less than half a step of `bf16`.
    assert!(rounded_away > 0);
}

#[test]
fn a_run_resumed_at_any_step_is_the_same_run() {
    for name in ["qwen2_tied", "qwen2_untied_gqa"] {
        let model = load_f32(fixture("models").join(name));
        let options = TrainOptions {
            batch_size: 2,
            gradient_accumulation: 2,
            grad_checkpoint: true,
            ..options(full())
        };
        assert_resumes(name, &model, &rows(5), &options, &[1, 2, 3]);
    }
    let last = TrainMethod::Full {
        layers: LayerSelection::Last(1),
    };
    assert_resumes("last", &small(), &rows(5), &options(last), &[2]);
}

#[test]
fn accumulation_and_recomputation_change_nothing() {
    let model = small();
    let train = |batch_size, gradient_accumulation, grad_checkpoint| {
        let options = TrainOptions {
            batch_size,
            gradient_accumulation,
            grad_checkpoint,
            shuffle: false,
            ..by_gradient(full())
        };
        reports(&model, &rows(16), &options)
    };
    let whole = train(8, 1, false);
    common::training::assert_same_run("parts", &train(2, 4, false), &whole, 1e-3);
    common::training::assert_same_run("recomputed", &train(8, 1, true), &whole, 1e-6);
}

#[test]
fn the_trained_model_is_written_at_the_end() {
    let output = tempfile::tempdir().unwrap();
    let options = TrainOptions {
        save_every: 2,
        output_dir: Some(output.path().to_owned()),
        ..options(full())
    };
    let mut trainer = LoRATrainer::new(&small(), rows(4), None, options.clone()).unwrap();
    run(&mut trainer);
    let loaded = load_f32(output.path().join("model"));
    let tuned = trainer.trained_model().unwrap();
    let logits = |model| to_f64(&all_logits(model, &IDS, None));
    assert_eq!(logits(&loaded), logits(&tuned));
    // The checkpoint on the way goes on to the same weights.
    let checkpoint = metal_candle::checkpoint::checkpoint_path(output.path(), 2);
    let other = TrainOptions {
        output_dir: None,
        ..options
    };
    let mut resumed = LoRATrainer::resume(&small(), rows(4), None, other, &checkpoint).unwrap();
    run(&mut resumed);
    assert!(state(&resumed) == state(&trainer));
}

#[test]
fn a_quantised_model_is_refused() {
    let model = ModelLoader::new()
        .with_quantization(Some(Quantization::default()))
        .load(fixture("models/qwen2_tied"))
        .unwrap();
    assert_error!(
        LoRATrainer::new(&model, rows(4), None, options(full())).unwrap_err(),
        Error::InvalidOption { .. },
        [
            "`full fine-tuning`",
            "quantised weights",
            "train an adapter"
        ]
    );
    let layers = LayerSelection::Last(0);
    assert_error!(
        LoRATrainer::new(
            &small(),
            rows(4),
            None,
            options(TrainMethod::Full { layers })
        )
        .unwrap_err(),
        Error::InvalidOption { .. },
        ["`num_layers` is 0"]
    );
}
