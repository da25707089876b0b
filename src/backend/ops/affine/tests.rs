use super::*;
use crate::backend::ops::gradcheck::{check, random};
use crate::backend::testing::{Layout, assert_agree, device, on_both, read};
use serde_json::Value;

/// All (bits, `group_size`).
fn sizes() -> impl Iterator<Item = (usize, usize)> {
    let groups = |bits| [32, 64, 128].map(|group| (bits, group));
    [4, 8].into_iter().flat_map(groups)
}

#[test]
fn numbers_are_off_by_half_a_scale_or_miss_the_end() {
    for (bits, group) in sizes() {
        let steps = if bits == 4 { 15.0 } else { 255.0 };
        // With what rounding a scale or a bias adds, as a share of it.
        for (scales, rounding) in [
            (DType::F32, 2f64.powi(-22)),
            (DType::F16, 2f64.powi(-11)),
            (DType::BF16, 2f64.powi(-8)),
        ] {
            // Around zero, on either side of it, and far from it.
            for offset in [0.0, -0.3, 0.7, -4.0] {
                let x = (random(&[7, 384], 3) + offset).unwrap();
                let x = x.to_device(device()).unwrap();
                let weight = AffineWeight::quantize(&x, bits, group, scales).unwrap();
                let back = read(&weight.dequantize(DType::F32).unwrap());
                let (_, scales, biases) = weight.parts();
                let parts: Vec<_> = read(scales).into_iter().zip(read(biases)).collect();
                for (i, (found, expected)) in back.iter().zip(read(&x)).enumerate() {
                    let (scale, bias) = parts[i / group];
                    let code = ((expected - bias) / scale).clamp(0.0, steps);
                    let missed = (code * scale + bias - expected).abs();
                    let added = (steps * scale.abs() + bias.abs()) * rounding;
                    assert!(missed <= 1.001 * scale.abs() + added);
                    let bound = missed.max(scale.abs() / 2.0) + added;
                    let what = format!("{found} for {expected}, {bits} bits, {group}");
                    assert!((found - expected).abs() <= bound, "{what}");
                }
            }
        }
    }
}

#[test]
fn groups_that_are_alike_or_zero_are_exact() {
    for (bits, group) in sizes() {
        for number in [0f32, 0.25, -3.0] {
            let x = Tensor::full(number, (2, group), device()).unwrap();
            let weight = AffineWeight::quantize(&x, bits, group, DType::F16).unwrap();
            let back = read(&weight.dequantize(DType::F32).unwrap());
            let exact = back.iter().all(|x| x - f64::from(number) == 0.0);
            assert!(exact, "{number}");
        }
    }
}

/// What mlx made of the weights of a model, and what it then takes them for.
#[test]
fn codes_are_those_of_mlx() {
    let load = |path: &str| candle_core::safetensors::load(path, device()).unwrap();
    let source = load("tests/fixtures/models/qwen2_bf16/model.safetensors");
    // mlx converts the weights to the dtype of the scales before.
    for (name, bits, scales) in [("q4", 4, DType::BF16), ("q8", 8, DType::F16)] {
        let folder = format!("tests/fixtures/mlx/{name}");
        let mlx = load(&format!("{folder}/model.safetensors"));
        let words = mlx.iter().filter(|(_, words)| words.dtype() == DType::U32);
        let mut matrices = 0;
        for (name, words) in words {
            let stem = name.strip_suffix(".weight").unwrap();
            let part = |part| &mlx[&format!("{stem}.{part}")];
            let (of_scales, of_biases) = (part("scales"), part("biases"));
            let theirs = AffineWeight::from_parts(words, of_scales, of_biases, bits, 64);
            let theirs = theirs.unwrap();
            let dense = source[name].to_dtype(scales).unwrap();
            let ours = AffineWeight::quantize(&dense, bits, 64, scales).unwrap();
            assert_eq!((ours.dims(), ours.bits()), (theirs.dims(), bits));
            assert_eq!(ours.scales.dtype(), scales);
            for (ours, theirs) in [
                (&ours.codes, &theirs.codes),
                (&ours.scales, &theirs.scales),
                (&ours.biases, &theirs.biases),
            ] {
                assert_eq!(ours.dims(), theirs.dims());
                assert!(read(ours) == read(theirs), "{name}");
            }
            matrices += 1;
        }
        assert_eq!(matrices, 15);

        let expected = std::fs::read(format!("{folder}/expected.json")).unwrap();
        let expected: Value = serde_json::from_slice(&expected).unwrap();
        for (name, expected) in expected["dequantized"].as_object().unwrap() {
            let stem = name.strip_suffix(".weight").unwrap();
            let part = |part| &mlx[&format!("{stem}.{part}")];
            let weight =
                AffineWeight::from_parts(&mlx[name], part("scales"), part("biases"), bits, 64);
            let dense = weight.unwrap().dequantize(DType::F32).unwrap();
            let numbers = read(&dense);
            let width = dense.dims()[1];
            let l2 = numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!((l2 / expected["l2"].as_f64().unwrap() - 1.0).abs() < 1e-6);
            for (key, found) in [
                ("first8", &numbers[..8]),
                ("row1_last8", &numbers[2 * width - 8..2 * width]),
            ] {
                let expected: Vec<f64> = serde_json::from_value(expected[key].clone()).unwrap();
                for (a, b) in found.iter().zip(expected) {
                    assert!((a - b).abs() < 1e-7, "{name}, {key}: {a} {b}");
                }
            }
        }
    }
}

#[test]
fn the_kernel_agrees_with_the_chain() {
    // A single row, and enough of them for several threads.
    for (output, input) in [(1, 128), (3, 384), (300, 640)] {
        for (bits, group) in sizes() {
            for scales in [DType::F32, DType::F16, DType::BF16] {
                let dense = random(&[output, input], 1);
                let weight = AffineWeight::quantize(&dense, bits, group, scales).unwrap();
                let kernel = kernels::affine_dequantize(&weight).unwrap();
                let chain = weight.dequantize_by_chain().unwrap();
                assert_eq!(kernel.dims(), chain.dims());
                assert!(read(&kernel) == read(&chain), "{bits} bits, {group}");
            }
        }
    }
}

#[test]
fn products_agree_with_those_of_the_numbers_on_every_device() {
    for (rows, output, input) in [(1, 33, 128), (4, 5, 256), (9, 65, 384)] {
        for (bits, group) in sizes() {
            let name = format!("{rows} rows, {input} to {output}, {bits} bits, {group}");
            // Rows of a product must be whole; the weights are copied in any case.
            on_both(
                &name,
                &[Layout::Whole, Layout::Offset, Layout::Turned],
                |make| {
                    let dense = make.tensor(&[output, input], 1);
                    let weight = AffineWeight::quantize(&dense, bits, group, DType::BF16)?;
                    let x = make.tensor(&[rows, input], 2);
                    let dy = make.tensor(&[rows, output], 3);
                    let (y, dx) = (weight.forward(&x)?, weight.backward(&dy)?);
                    assert_eq!((y.dtype(), dx.dtype()), (x.dtype(), x.dtype()));
                    assert!(weight.parts().0.device().same_device(x.device()));
                    Ok([("W", weight.dequantize(x.dtype())?), ("y", y), ("dx", dx)])
                },
            );
        }
    }
}

#[test]
fn forward_agrees_with_finite_differences() {
    for (bits, rows) in [(4, 3), (8, 6)] {
        let weight = random(&[5, 64], 1);
        let weight = AffineWeight::quantize(&weight, bits, 32, DType::F32).unwrap();
        let (x, dy) = (random(&[rows, 64], 2), random(&[rows, 5], 3));
        let dx = weight.backward(&dy).unwrap();
        check("x", &x, &dx, &dy, |x| weight.forward(x));
    }
}

#[test]
fn parts_make_the_same_matrix_again() {
    let dense = random(&[6, 128], 1).to_device(device()).unwrap();
    for (bits, group) in sizes() {
        let weight = AffineWeight::quantize(&dense, bits, group, DType::F16).unwrap();
        let (codes, scales, biases) = weight.parts();
        assert_eq!(codes.dims(), &[6, 16 * bits]);
        assert_eq!(weight.size_in_bytes(), 6 * (16 * bits + 4 * 128 / group));
        // Parts of files are often columns or rows of something.
        let wide = |x: &Tensor| Tensor::cat(&[x, x], 1)?.narrow(1, 0, x.dims()[1]);
        let [codes, scales, biases] = [codes, scales, biases].map(|x| wide(x).unwrap());
        let again = AffineWeight::from_parts(&codes, &scales, &biases, bits, group).unwrap();
        assert_eq!((again.bits(), again.group_size()), (bits, group));
        let (a, b) = (
            again.dequantize(DType::F32).unwrap(),
            weight.dequantize(DType::F32).unwrap(),
        );
        assert_agree("the matrix of its parts", &a, &b, 0.0);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let dense = random(&[2, 96], 1);
    let quantize = |bits, group, scales| AffineWeight::quantize(&dense, bits, group, scales);
    let with = |number: f32| {
        let row = vec![number; 96];
        let row = Tensor::from_vec(row, (1, 96), &Device::Cpu).unwrap();
        AffineWeight::quantize(&row, 4, 32, DType::F16)
    };
    let weight = quantize(4, 32, DType::F16).unwrap();
    let (codes, scales, biases) = weight.parts();
    let parts = |codes: &Tensor, scales: &Tensor, biases: &Tensor| {
        AffineWeight::from_parts(codes, scales, biases, 4, 32)
    };
    let wide = scales.to_dtype(DType::F32).unwrap();
    for (result, expected) in [
        (quantize(3, 32, DType::F32), "bits is 3; expected 4 or 8"),
        (quantize(4, 48, DType::F32), "group_size is 48; expected 32"),
        (
            quantize(4, 64, DType::F32),
            "96 inputs; expected a multiple",
        ),
        (quantize(4, 32, DType::U8), "scales of U8; expected F32"),
        (with(f32::NAN), "not finite, or not within 3.2768e4"),
        (with(f32::INFINITY), "not finite, or not within 3.2768e4"),
        (with(-40_000.0), "not finite, or not within 3.2768e4"),
        (parts(&wide, scales, biases), "codes of F32; expected U8"),
        (
            parts(&codes.narrow(1, 0, 40).unwrap(), scales, biases),
            "80 inputs; expected a multiple",
        ),
        (
            parts(&codes.narrow(0, 0, 1).unwrap(), scales, biases),
            "scales of shape [2, 3]; expected [1, 3]",
        ),
        (
            parts(codes, scales, &biases.narrow(1, 0, 2).unwrap()),
            "biases of shape [2, 2]; expected [2, 3]",
        ),
        (parts(codes, scales, &wide), "biases of F32; expected F16"),
        (parts(codes, codes, codes), "scales of U8; expected F32"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(weight.forward(&random(&[1, 64], 2)).is_err());
    assert!(weight.forward(&random(&[9, 64], 2)).is_err());
    assert!(weight.backward(&random(&[9, 96], 2)).is_err());
}
