//! Headers of safetensors files that lie, and parts of quantised matrices.

use super::{CONFIG, SHARD, WEIGHTS, assert_refused, deep, replace};
use crate::common::{copy_of, edit_json, fixture, read_json};
use candle_core::Tensor;
use serde_json::json;
use std::collections::HashMap;
use tempfile::TempDir;

/// A tensor that is as it should be.
const A: &str = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;

type Change<'a> = &'a dyn Fn(&mut HashMap<String, Tensor>);

/// A safetensors file with this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), &vec![0; data]].concat()
}

/// A header with `a` and one more tensor.
fn with_b(dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#"{{{A},"b":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}}}"#)
}

#[test]
fn safetensors_headers_that_lie() {
    let half = 1u64 << 63;
    let many = format!("[{}1]", "1,".repeat(99_999));
    let cases = [
        (
            with_b("F32", "[2]", 4, 12),
            12,
            "`b` has the offsets [4, 12]",
        ),
        (
            with_b("F32", "[2]", 9, 17),
            17,
            "`b` has the offsets [9, 17]",
        ),
        (with_b("F32", "[2]", 16, 8), 16, "`b` has the offsets"),
        (with_b("F32", "[3]", 8, 16), 16, "`b` has the offsets"),
        (with_b("F32", "[-1]", 8, 16), 16, "`b`: invalid value"),
        (with_b("F7", "[2]", 8, 16), 16, "`b`: unknown variant `F7`"),
        (with_b("F4", "[3]", 8, 9), 9, "`b` of F4 has the shape [3]"),
        (
            with_b("F32", &format!("[{half}, {half}]"), 8, 16),
            16,
            "`b`",
        ),
        (with_b("U8", &format!("[{half}]"), 8, half + 8), 8, "`b`"),
        (with_b("U8", "[0, 4294967296, 4294967296]", 8, 8), 8, "`b`"),
        (with_b("U8", &many, 8, 9), 9, "`b` has 100000 dimensions"),
        (format!("{{{A},{A}}}"), 8, "`a` is there twice"),
        (format!("{{{A}}}"), 7, "truncated"),
        (format!("{{{A}}}"), 9, "where its tensors end"),
        (
            r#"{"a":{"dtype":"F32"}}"#.to_owned(),
            0,
            "`a`: missing field",
        ),
        (r#"{"__metadata__":{"a":1}}"#.to_owned(), 0, "string"),
        ("[]".to_owned(), 0, "object"),
        (deep("{\"a\":"), 0, "`a`"),
        (deep("["), 0, "object"),
    ];
    let single = copy_of(fixture("models/qwen2_tied"));
    let sharded = copy_of(fixture("models/qwen2_tied_sharded"));
    let mlx = copy_of(fixture("mlx/q4"));
    for (model, name) in [(&single, WEIGHTS), (&sharded, SHARD), (&mlx, WEIGHTS)] {
        for (header, data, words) in &cases {
            let path = replace(model.path(), name, file(header, *data));
            assert_refused(model.path(), "InvalidFormat", &[&path, words]);
        }
        for length in [u64::MAX, 1 << 63, 1 << 40, 100_000_001, 100, 1] {
            let path = replace(
                model.path(),
                name,
                [&length.to_le_bytes()[..], b"{}"].concat(),
            );
            assert_refused(model.path(), "InvalidFormat", &[&path, "safetensors file"]);
        }
    }
}

/// Parts of MLX's matrices that are not those of the settings.
#[test]
fn quantized_parts_that_lie() {
    let name = "model.layers.0.mlp.up_proj";
    let device = candle_core::Device::Cpu;
    let cases: [(Change, &str, &str); 5] = [
        (
            &|all| drop(all.remove(&format!("{name}.biases"))),
            "MissingTensor",
            "biases",
        ),
        (
            &|all| drop(all.remove(&format!("{name}.scales"))),
            "TensorMismatch",
            "up_proj.weight",
        ),
        (
            &|all| drop(all.remove(&format!("{name}.weight"))),
            "MissingTensor",
            "up_proj.weight",
        ),
        (
            &|all| {
                let codes = all.get_mut(&format!("{name}.weight")).unwrap();
                *codes = codes.to_dtype(candle_core::DType::I64).unwrap();
            },
            "TensorMismatch",
            "dtype I64; expected U32",
        ),
        (
            &|all| {
                let scales = all.get_mut(&format!("{name}.scales")).unwrap();
                *scales = scales.narrow(0, 0, 1).unwrap();
            },
            "TensorMismatch",
            "scales` has shape [1, ",
        ),
    ];
    for (change, variant, words) in cases {
        let model: TempDir = copy_of(fixture("mlx/q4"));
        let path = model.path().join(WEIGHTS);
        let mut tensors = candle_core::safetensors::load(&path, &device).unwrap();
        change(&mut tensors);
        let new = model.path().join("new");
        candle_core::safetensors::save(&tensors, &new).unwrap();
        std::fs::rename(new, &path).unwrap();
        assert_refused(model.path(), variant, &[path.to_str().unwrap(), words]);
    }
    for (key, value) in [
        ("bits", json!(0)),
        ("bits", json!(-4)),
        ("group_size", json!(1u64 << 60)),
    ] {
        let model = copy_of(fixture("mlx/q4"));
        let path = model.path().join(CONFIG);
        let mut settings = read_json(&path)["quantization"].clone();
        settings[key] = value;
        edit_json(&path, "quantization", settings);
        assert_refused(
            model.path(),
            "InvalidConfig",
            &[path.to_str().unwrap(), &format!("`{key}`")],
        );
    }
}
