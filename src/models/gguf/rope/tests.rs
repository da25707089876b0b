use std::path::Path;

use super::super::testing::{Encoded, Writer, f32, fixture, llama3_factors, string};
use super::FACTORS_TENSOR;
use crate::error::{Error, Result};
use crate::models::{GgufCheckpoint, ModelConfig, RopeScaling, rope};

fn read(writer: &Writer) -> Result<ModelConfig> {
    let file = writer.write();
    GgufCheckpoint::open(file.path()).map(|checkpoint| checkpoint.config().clone())
}

fn scaling(keys: &[(&str, Encoded)]) -> Result<RopeScaling> {
    let mut writer = fixture("llama_plain");
    for (key, value) in keys {
        writer = writer.with(&format!("llama.{key}"), value.clone());
    }
    read(&writer).map(|config| config.rope_scaling)
}

/// The fixture with a tensor of factors.
fn with_factors(model: &str, factors: &[f32]) -> Writer {
    let mut writer = fixture(model);
    let bytes: Vec<u8> = factors.iter().flat_map(|n| n.to_le_bytes()).collect();
    writer.add(FACTORS_TENSOR, &[factors.len()], 0, &bytes);
    writer
}

#[test]
fn the_scaling_of_llama_3_follows_from_its_factors() {
    let path = Path::new("tests/fixtures/models/llama3_scaled/config.json");
    let original = ModelConfig::from_file(path).unwrap();
    let factors = llama3_factors(16, 1e4, 8.0, 64.0);
    assert_eq!(
        read(&with_factors("llama3_scaled", &factors)).unwrap(),
        original
    );
    // Those of the models that have them.
    for (head_dim, factor) in [(128, 8.0), (64, 32.0)] {
        let factors = llama3_factors(head_dim, 5e5, factor, 8192.0);
        let factors: Vec<_> = factors.into_iter().map(f64::from).collect();
        let found = super::llama3(&factors, 5e5).unwrap();
        assert_eq!(found["factor"], factor);
        assert_eq!(found["original_max_position_embeddings"], 8192);
    }
}

#[test]
fn other_factors_stay_as_they_are() {
    let mut factors = llama3_factors(16, 1e4, 8.0, 64.0);
    factors[1] *= 1.5;
    let config = read(&with_factors("llama3_scaled", &factors)).unwrap();
    let expected: Vec<_> = factors.iter().copied().map(f64::from).collect();
    let RopeScaling::Factors { factors: found } = &config.rope_scaling else {
        panic!("{:?}", config.rope_scaling);
    };
    assert_eq!(found, &expected);
    let (scaled, scale) = rope::frequencies(&config);
    let plain = ModelConfig {
        rope_scaling: RopeScaling::None,
        ..config
    };
    let (plain, _) = rope::frequencies(&plain);
    assert_eq!((scaled.len(), scale), (8, 1.0));
    for ((scaled, plain), factor) in scaled.iter().zip(&plain).zip(&factors) {
        assert!((scaled * factor - plain).abs() <= 1e-6 * plain);
    }
    // All the same is none of Llama's, and 1 is none at all.
    let same = read(&with_factors("llama3_scaled", &[2.0; 8])).unwrap();
    assert_eq!(
        same.rope_scaling,
        RopeScaling::Factors {
            factors: vec![2.0; 8]
        }
    );
    let none = read(&with_factors("llama3_scaled", &[1.0; 8])).unwrap();
    assert_eq!(none.rope_scaling, RopeScaling::None);
}

#[test]
fn factors_must_be_numbers_one_for_each_frequency() {
    for (factors, found) in [
        (&[1.0; 7][..], "has shape [7]; expected [8]"),
        (&[0.0; 8], "expected numbers above 0"),
        (&[f32::NAN; 8], "expected numbers above 0"),
    ] {
        let error = read(&with_factors("llama3_scaled", factors)).unwrap_err();
        assert!(matches!(error, Error::TensorMismatch { .. }), "{error}");
        assert!(error.to_string().contains(found), "{error}");
    }
    let mut writer = fixture("llama_plain");
    writer.add(FACTORS_TENSOR, &[8], 1, &[0; 16]);
    let error = read(&writer).unwrap_err().to_string();
    assert!(error.contains("has type F16; expected F32"), "{error}");
}

#[test]
fn scaling_is_by_the_keys() {
    let linear = RopeScaling::Linear { factor: 2.5 };
    let typed = [
        ("rope.scaling.type", string("linear")),
        ("rope.scaling.factor", f32(2.5)),
    ];
    assert_eq!(scaling(&typed).unwrap(), linear);
    assert_eq!(scaling(&[("rope.scale_linear", f32(2.5))]).unwrap(), linear);
    let none = [("rope.scaling.type", string("none"))];
    assert_eq!(scaling(&none).unwrap(), RopeScaling::None);
    let yarn = |more: &[(&str, Encoded)]| {
        let keys = [
            ("rope.scaling.type", string("yarn")),
            ("rope.scaling.factor", f32(4.0)),
        ];
        scaling(&[&keys, more].concat())
    };
    let found = yarn(&[
        ("rope.scaling.yarn_beta_fast", f32(16.0)),
        ("rope.scaling.yarn_beta_slow", f32(2.0)),
        ("rope.scaling.attn_factor", f32(2.0)),
        ("rope.scaling.yarn_ext_factor", f32(1.0)),
    ]);
    let expected = RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 512,
        beta_fast: 16.0,
        beta_slow: 2.0,
        attention_factor: Some(2.0 * (0.1 * 4f64.ln() + 1.0)),
    };
    assert_eq!(found.unwrap(), expected);
    for (found, expected) in [
        (
            yarn(&[("rope.scaling.yarn_ext_factor", f32(0.5))]),
            "yarn_ext_factor: 0.5",
        ),
        (
            yarn(&[("rope.scaling.yarn_log_multiplier", f32(0.1))]),
            "yarn_log_multiplier: 0.1",
        ),
        (
            scaling(&[("rope.scaling.type", string("longrope"))]),
            "rope.scaling.type: longrope",
        ),
    ] {
        let error = found.unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    let both =
        with_factors("llama_plain", &[2.0; 8]).with("llama.rope.scaling.type", string("yarn"));
    assert!(matches!(
        read(&both).unwrap_err(),
        Error::Unsupported { .. }
    ));
    let error = scaling(&typed[..1]).unwrap_err().to_string();
    assert!(error.contains("`rope_scaling.factor` is null"), "{error}");
}

#[test]
fn linear_scaling_divides_all_frequencies() {
    let mut config = read(&fixture("llama_plain")).unwrap();
    let (plain, _) = rope::frequencies(&config);
    config.rope_scaling = RopeScaling::Linear { factor: 4.0 };
    let (scaled, scale) = rope::frequencies(&config);
    let expected: Vec<_> = plain.iter().map(|frequency| frequency / 4.0).collect();
    assert_eq!((scaled, scale), (expected, 1.0));
}
