//! Adapters that are active on a model: what is generated with them, and while they change.

mod common;

use common::{TINY_CODER, assert_close, device, fixture, load_f32, trained_adapter};
use metal_candle::backend::DTypePolicy;
use metal_candle::inference::{BatchGenerator, Pooling};
use metal_candle::models::AdapterMix;
use metal_candle::{
    Error, GenerateOptions, Generation, Generator, LoRAAdapter, Model, ModelLoader,
};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const PROMPT: [u32; 6] = [5, 17, 100, 42, 7, 60];

fn options() -> GenerateOptions {
    GenerateOptions {
        max_tokens: 6,
        ignore_eos: true,
        ..GenerateOptions::default()
    }
}

/// The small model, with two adapters that change its texts, neither of them active.
fn model() -> Model {
    let path = fixture("models/qwen2_tied");
    let model = load_f32(&path);
    let folder = trained_adapter(&path);
    model.adapters().load("a", folder.path()).unwrap();
    let adapter = model.adapters().get("a").unwrap();
    model.adapters().insert("b", adapter).unwrap();
    model.adapters().set_weight("b", -0.75).unwrap();
    model
}

fn generate(generator: &mut Generator) -> Generation {
    generator
        .generate_from_ids(&PROMPT, &options(), |_| ControlFlow::Continue(()))
        .unwrap()
}

/// What a new generator gives with adapters of its own, whatever is active.
fn tokens_with(model: &Model, parts: &[(&str, f64)]) -> Vec<u32> {
    let parts = parts.iter();
    let parts: Vec<_> = parts
        .map(|(name, weight)| (model.adapters().get(name).unwrap(), *weight))
        .collect();
    let mut generator = Generator::new(model);
    if parts.is_empty() {
        let zero = (model.adapters().get("a").unwrap(), 0.0);
        generator
            .set_adapters(Some(AdapterMix::new(vec![zero]).unwrap()))
            .unwrap();
    } else {
        generator
            .set_adapters(Some(AdapterMix::new(parts).unwrap()))
            .unwrap();
    }
    generate(&mut generator).tokens
}

#[test]
fn the_next_generation_has_what_is_active() {
    let model = model();
    let adapters = model.adapters();
    let none = tokens_with(&model, &[]);
    let a = tokens_with(&model, &[("a", 1.0)]);
    let b = tokens_with(&model, &[("b", -0.75)]);
    let both = tokens_with(&model, &[("a", 1.0), ("b", -0.25)]);
    for (x, y) in [
        (&none, &a),
        (&none, &b),
        (&none, &both),
        (&a, &b),
        (&a, &both),
        (&b, &both),
    ] {
        assert_ne!(x, y);
    }
    let mut generator = Generator::new(&model);
    let mut check = |expected: &Vec<u32>| {
        let generation = generate(&mut generator);
        assert_eq!(&generation.tokens, expected);
        // What was read with others is of no use; what was read with these is.
        assert_eq!(generation.cached_tokens, 0);
        assert_eq!(generate(&mut generator).cached_tokens, PROMPT.len());
        assert_eq!(&generate(&mut Generator::new(&model)).tokens, expected);
    };
    check(&none);
    adapters.activate("a").unwrap();
    check(&a);
    adapters.set_active(&["b"]).unwrap();
    check(&b);
    adapters.activate("a").unwrap();
    adapters.set_weight("b", -0.25).unwrap();
    check(&both);
    adapters.deactivate("b").unwrap();
    check(&a);
    adapters.unload("a").unwrap();
    check(&none);
}

#[test]
fn what_is_not_active_changes_nothing() {
    let model = model();
    model.adapters().activate("a").unwrap();
    let mut generator = Generator::new(&model);
    let first = generate(&mut generator);
    model.adapters().set_weight("b", 3.0).unwrap();
    model.adapters().unload("b").unwrap();
    let second = generate(&mut generator);
    assert_eq!(second.cached_tokens, PROMPT.len());
    assert_eq!(second.tokens, first.tokens);
}

#[test]
fn adapters_of_its_own_come_before_those_of_the_model() {
    let model = model();
    let a = tokens_with(&model, &[("a", 1.0)]);
    let b = tokens_with(&model, &[("b", -0.75)]);
    let mut generator = Generator::new(&model);
    let own = model.adapters().get("a").unwrap();
    generator.set_adapter(Some(own)).unwrap();
    model.adapters().activate("b").unwrap();
    assert_eq!(generate(&mut generator).tokens, a);
    let mut fork = generator.fork().unwrap();
    assert_eq!(generate(&mut fork).tokens, a);
    // Without them it has those of the model again.
    generator.set_adapter(None).unwrap();
    assert_eq!(generate(&mut generator).tokens, b);
    assert_eq!(generate(&mut generator.fork().unwrap()).tokens, b);
}

#[test]
fn a_generation_ends_with_what_it_began_with() {
    let model = model();
    let none = tokens_with(&model, &[]);
    let a = tokens_with(&model, &[("a", 1.0)]);
    let mut generator = Generator::new(&model);
    let mut count = 0;
    let running = generator
        .generate_from_ids(&PROMPT, &options(), |_| {
            count += 1;
            match count {
                1 => model.adapters().activate("a").unwrap(),
                3 => model.adapters().unload("a").unwrap(),
                _ => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(running.tokens, none);

    // A batch has texts of both, since each has what was active when it was pushed.
    let folder = trained_adapter(&fixture("models/qwen2_tied"));
    model.adapters().load("a", folder.path()).unwrap();
    let mut batch = BatchGenerator::new(&model, 4).unwrap();
    batch.push_ids(&PROMPT, &options()).unwrap();
    model.adapters().activate("a").unwrap();
    batch.push_ids(&PROMPT, &options()).unwrap();
    model.adapters().deactivate("a").unwrap();
    batch.push_ids(&PROMPT, &options()).unwrap();
    let mut results = batch.run(|_| ControlFlow::Continue(()));
    results.sort_by_key(|(sequence, _)| *sequence);
    let found: Vec<_> = results
        .into_iter()
        .map(|(_, r)| r.unwrap().tokens)
        .collect();
    assert_eq!(found, [none.clone(), a, none]);
}

#[test]
fn scores_and_sessions_follow() {
    let model = model();
    let mut generator = Generator::new(&model);
    let mut own = Generator::new(&model);
    own.set_adapter(Some(model.adapters().get("a").unwrap()))
        .unwrap();
    let before = generator.next_logits(&PROMPT).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let session = folder.path().join("x.session");
    generator.save_session(&session).unwrap();
    model.adapters().activate("a").unwrap();
    let wide = |numbers: Vec<f32>| numbers.into_iter().map(f64::from).collect::<Vec<_>>();
    let with = generator.next_logits(&PROMPT).unwrap();
    assert_ne!(with, before);
    assert_close(
        "logits",
        &wide(with),
        &wide(own.next_logits(&PROMPT).unwrap()),
        1e-5,
    );
    let logprobs = [&mut generator, &mut own].map(|g| wide(g.logprobs(&PROMPT).unwrap()));
    assert_close("logprobs", &logprobs[0], &logprobs[1], 1e-5);
    let scores = [&mut generator, &mut own].map(|g| g.perplexity(&PROMPT, 4, 2).unwrap().sum_nll);
    assert!((scores[0] - scores[1]).abs() < 1e-4, "{scores:?}");
    let vectors =
        [&mut generator, &mut own].map(|g| wide(g.embed(&PROMPT, Pooling::Mean, true).unwrap()));
    assert_close("embedding", &vectors[0], &vectors[1], 1e-5);

    assert_error!(
        generator.load_session(&session).unwrap_err(),
        Error::Incompatible { .. },
        ["adapter"]
    );
    model.adapters().deactivate("a").unwrap();
    generator.load_session(&session).unwrap();
    assert_eq!(generator.context(), PROMPT);
}

#[test]
fn adapters_are_loaded_from_both_formats_and_named_where_they_cannot() {
    let model = load_f32(TINY_CODER);
    let adapters = model.adapters();
    adapters.load("peft", fixture("lora/small_dora")).unwrap();
    adapters.load("mlx", fixture("mlx/lora_adapter")).unwrap();
    let list = adapters.list();
    let found: Vec<_> = list
        .iter()
        .map(|info| (info.name.as_str(), info.rank, info.use_dora, info.active))
        .collect();
    assert_eq!(found, [("mlx", 4, false, false), ("peft", 2, true, false)]);
    assert_error!(
        adapters
            .load("mlx", fixture("lora/small_dora"))
            .unwrap_err(),
        Error::InvalidOption { .. },
        ["`name`", "`mlx`", "loaded already"]
    );
    assert_error!(
        adapters
            .load("x", fixture("models/qwen2_tied"))
            .unwrap_err(),
        Error::FileNotFound { .. },
        ["adapter_model.safetensors"]
    );
    assert_eq!(adapters.list(), list);
}

/// Every text is that of one of the sets which were active, however they change meanwhile.
#[test]
fn threads_generate_while_another_changes_the_adapters() {
    const ENOUGH: usize = if cfg!(all(feature = "metal", not(target_vendor = "apple"))) {
        8
    } else {
        80
    };
    let model = ModelLoader::new()
        .with_device(device())
        .with_dtype(DTypePolicy::F32)
        .load(fixture("models/qwen2_tied"))
        .unwrap();
    let folder = trained_adapter(&fixture("models/qwen2_tied"));
    let adapter = LoRAAdapter::load(folder.path(), &model).unwrap();
    let adapters = model.adapters();
    adapters.insert("a", adapter.clone()).unwrap();
    adapters.insert("b", adapter.clone()).unwrap();
    let allowed = [
        tokens_with(&model, &[]),
        tokens_with(&model, &[("a", 1.0)]),
        tokens_with(&model, &[("b", -0.75)]),
        tokens_with(&model, &[("a", 1.0), ("b", -0.75)]),
    ];
    adapters.set_weight("b", -0.75).unwrap();
    let seen = [const { AtomicUsize::new(0) }; 4];
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut generator = Generator::new(&model);
                while !is_done.load(Ordering::Relaxed) {
                    let tokens = generate(&mut generator).tokens;
                    let which = allowed.iter().position(|allowed| *allowed == tokens);
                    // All end where one found a text of no set.
                    is_done.fetch_or(which.is_none(), Ordering::Relaxed);
                    seen[which.expect("a text of no set")].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut changes = 0;
        let count = |seen: &AtomicUsize| seen.load(Ordering::Relaxed);
        while !is_done.load(Ordering::Relaxed)
            && (seen.iter().map(count).sum::<usize>() < ENOUGH
                || seen.iter().any(|s| count(s) == 0))
        {
            match changes % 5 {
                0 => adapters.activate("a").unwrap(),
                1 => adapters.activate("b").unwrap(),
                2 => adapters.unload("a").unwrap(),
                3 => adapters.load("a", folder.path()).unwrap(),
                _ => adapters.set_active(&[]).unwrap(),
            }
            changes += 1;
            std::thread::sleep(std::time::Duration::from_millis(5));
            // Beside nobody who reads the list.
            assert!(adapters.list().len() <= 2);
        }
        is_done.store(true, Ordering::Relaxed);
    });
}
