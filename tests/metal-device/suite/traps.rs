//! Mistakes that candle lets one make on Metal, each made on purpose: the device shows every one.
//!
//! A test that fails after a change of candle says that a trap is gone.

use super::{exclusive, metal, numbers, to_vec};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{D, DType, Device, Module, Result, Tensor, Var};
use objc2::software::counters;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a computation gives on the device, beside what it gives on the CPU.
#[derive(Debug, PartialEq)]
enum Outcome {
    Right,
    Wrong,
    Fails(String),
}

fn outcome(compute: impl Fn(&Device) -> Result<Tensor>) -> Outcome {
    let expected = to_vec(&compute(&Device::Cpu).unwrap());
    let device = metal();
    let found = compute(&device).and_then(|tensor| {
        device.synchronize()?;
        Ok(to_vec(&tensor))
    });
    match found {
        Err(error) => Outcome::Fails(error.to_string()),
        Ok(found) => {
            assert_eq!(found.len(), expected.len());
            let mut pairs = found.into_iter().zip(expected);
            if pairs.all(|(found, expected)| (found - expected).abs() < 1e-3) {
                Outcome::Right
            } else {
                Outcome::Wrong
            }
        }
    }
}

/// Asserts that the first is wrong on the device, and the second, which avoids the trap, right.
fn assert_wrong(
    wrong: impl Fn(&Device) -> Result<Tensor>,
    right: impl Fn(&Device) -> Result<Tensor>,
) {
    let _device = exclusive();
    assert_eq!(outcome(right), Outcome::Right);
    assert_eq!(outcome(wrong), Outcome::Wrong);
}

/// Asserts that the first fails on the device with this in its message, and the second is right.
fn assert_fails(
    message: &str,
    wrong: impl Fn(&Device) -> Result<Tensor>,
    right: impl Fn(&Device) -> Result<Tensor>,
) {
    let _device = exclusive();
    assert_eq!(outcome(right), Outcome::Right);
    match outcome(wrong) {
        Outcome::Fails(found) => assert!(found.contains(message), "no `{message}` in: {found}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sort_of_more_than_1024() {
    let sorted =
        |length| move |device: &Device| numbers(&[2, length], device).arg_sort_last_dim(true);
    assert_fails("threadgroup of 2048", sorted(1100), sorted(1000));
}

/// Asserts that a computation on a transposed matrix, which the CPU refuses, is wrong on the device.
fn assert_transposed_is_wrong(compute: impl Fn(&Tensor) -> Result<Tensor>) {
    let _device = exclusive();
    let transposed = |device: &Device| numbers(&[5, 4], device).t().unwrap();
    assert!(compute(&transposed(&Device::Cpu)).is_err());
    let right = compute(&transposed(&Device::Cpu).contiguous().unwrap()).unwrap();
    let device = metal();
    let found = compute(&transposed(&device));
    // A kernel that takes the number of elements for that of dimensions may also divide by zero.
    match device.synchronize() {
        Ok(()) => assert_ne!(to_vec(&found.unwrap()), to_vec(&right), "the trap is gone"),
        Err(error) => assert!(error.to_string().contains("division by zero"), "{error}"),
    }
}

#[test]
fn a_transposed_source_of_index_select() {
    assert_transposed_is_wrong(|source| {
        source.index_select(&Tensor::new(&[2u32, 0, 3], source.device())?, 0)
    });
}

#[test]
fn a_transposed_source_of_gather() {
    assert_transposed_is_wrong(|source| {
        let ids = [[2u32, 0], [1, 3], [4, 4], [0, 1]];
        source.gather(&Tensor::new(&ids, source.device())?, 1)
    });
}

#[test]
fn an_id_outside_the_table() {
    // The CPU refuses it; on Metal it reads some other row.
    let _device = exclusive();
    let select = |device: &Device| {
        let selected = numbers(&[5, 4], device).index_select(&Tensor::new(&[9u32], device)?, 0)?;
        device.synchronize()?;
        Ok::<_, candle_core::Error>(selected)
    };
    assert!(select(&Device::Cpu).is_err());
    let found = to_vec(&select(&metal()).unwrap());
    assert_eq!(found, to_vec(&numbers(&[5, 4], &Device::Cpu))[16..]);
}

#[test]
fn a_batched_product_with_a_part_that_is_broadcast() {
    let product = |device: &Device, force: bool| {
        let lhs = numbers(&[2, 3, 4, 5], device);
        let rhs = numbers(&[2, 1, 5, 6], device).broadcast_as((2, 3, 5, 6))?;
        lhs.matmul(&if force { rhs.contiguous()? } else { rhs })
    };
    assert_wrong(
        move |device| {
            // The CPU refuses the layout; what it should be is the same.
            product(device, device.is_cpu())
        },
        move |device| product(device, true),
    );
}

/// Attention with candle's fused kernel, or on the CPU from its parts.
fn attention(device: &Device, queries: usize, mask: &Tensor) -> Result<Tensor> {
    let part = |length: usize, shift: f64| numbers(&[1, 2, length, 32], device) + shift;
    let (q, k, v) = (part(queries, 0.0)?, part(8, 0.1)?, part(8, 0.2)?);
    if device.is_cpu() {
        let scores = (q.matmul(&k.t()?)? * 0.2)?.broadcast_add(mask)?;
        return candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v);
    }
    candle_nn::ops::sdpa(&q, &k, &v, Some(mask), false, 0.2, 1.0)
}

/// Zero and -4 in turn, (1, 2, rows, 8).
fn mask(rows: usize, device: &Device) -> Result<Tensor> {
    let mask = numbers(&[1, 2, rows, 8], device).gt(0f32)?;
    mask.to_dtype(DType::F32)? * -4.0
}

#[test]
fn a_narrowed_mask_of_sdpa() {
    assert_wrong(
        |device| attention(device, 8, &mask(12, device)?.narrow(2, 3, 8)?),
        |device| {
            let mask = mask(12, device)?.narrow(2, 3, 8)?;
            attention(device, 8, &mask.force_contiguous()?)
        },
    );
}

#[test]
fn a_mask_of_sdpa_for_one_query() {
    assert_wrong(
        |device| attention(device, 1, &mask(1, device)?),
        |device| attention(device, 1, &mask(1, device)?.zeros_like()?),
    );
}

#[test]
fn a_copy_that_is_none() {
    let write = |device: &Device, copy: fn(&Tensor) -> Result<Tensor>| {
        let original = numbers(&[4, 4], device);
        copy(&original)?.slice_set(&Tensor::zeros((2, 4), DType::F32, device)?, 0, 1)?;
        Ok(original)
    };
    assert_wrong(
        move |device| write(device, Tensor::copy),
        move |device| write(device, Tensor::force_contiguous),
    );
}

fn quantized(device: &Device, x: &Tensor) -> Result<Tensor> {
    let weight = numbers(&[64, 256], &Device::Cpu);
    let weight = QTensor::quantize_onto(&weight, GgmlDType::Q8_0, device)?;
    // Rounded to 8 bits on one device and to half precision on the other.
    (QMatMul::from_qtensor(weight)?.forward(x)? * 1e-2)?.to_dtype(DType::F32)
}

#[test]
fn a_quantized_product_of_a_view_with_an_offset() {
    assert_wrong(
        |device| quantized(device, &numbers(&[6, 256], device).narrow(0, 2, 3)?),
        |device| quantized(device, &numbers(&[6, 256], device).narrow(0, 0, 3)?),
    );
}

#[test]
fn a_quantized_product_of_half_precision() {
    let _device = exclusive();
    let product = |rows| {
        let x = numbers(&[rows, 256], &metal())
            .to_dtype(DType::F16)
            .unwrap();
        quantized(x.device(), &x).map(|y| to_vec(&y))
    };
    let x = numbers(&[1, 256], &Device::Cpu);
    let right = to_vec(&quantized(&Device::Cpu, &x).unwrap());
    let worst = |found: Vec<f32>| {
        let pairs = found.iter().zip(&right);
        !pairs.map(|(a, b)| (a - b).abs()).all(|error| error < 0.1)
    };
    assert!(
        product(1).is_err() || product(1).is_ok_and(worst),
        "one row is right"
    );
    let many = catch_unwind(AssertUnwindSafe(|| product(3)));
    assert!(!matches!(many, Ok(Ok(_))), "three rows are computed");
}

#[test]
fn gradients_that_fused_operations_lose() {
    let _device = exclusive();
    let device = metal();
    let weight = Tensor::ones(8, DType::F32, &device).unwrap();
    type Op<'a> = &'a dyn Fn(&Tensor) -> Result<Tensor>;
    let (fused, composed): ([Op; 2], [Op; 2]) = (
        [&|x| candle_nn::ops::softmax_last_dim(x), &|x| {
            candle_nn::ops::rms_norm(x, &weight, 1e-5)
        }],
        [&|x| candle_nn::ops::softmax(x, D::Minus1), &|x| {
            candle_nn::ops::rms_norm_slow(x, &weight, 1e-5)
        }],
    );
    let has_gradient = |op: Op| {
        let x = Var::from_tensor(&numbers(&[3, 8], &device)).unwrap();
        let loss = op(x.as_tensor()).unwrap().sqr().unwrap().sum_all().unwrap();
        loss.backward().unwrap().get(x.as_tensor()).is_some()
    };
    assert!(composed.iter().all(|&op| has_gradient(op)));
    assert!(!fused.iter().any(|&op| has_gradient(op)));
}

#[test]
fn operands_of_two_dtypes() {
    let add = |dtype| {
        move |device: &Device| {
            let x = numbers(&[4, 4], device);
            let other = if device.is_cpu() { DType::F32 } else { dtype };
            &x + x.to_dtype(other)?
        }
    };
    assert_fails("dtype mismatch", add(DType::BF16), add(DType::F32));
}

#[test]
fn an_operation_without_a_kernel() {
    let recip = |transpose: bool| {
        move |device: &Device| {
            let x = (numbers(&[4, 5], device) + 2.0)?;
            if transpose { x.t()?.recip() } else { x.recip() }
        }
    };
    assert_fails("recip", recip(true), recip(false));
}

#[test]
fn a_view_that_is_read_back_with_all_of_its_buffer() {
    let _device = exclusive();
    let device = metal();
    let x = numbers(&[1000, 8], &device);
    let copied = |tensor: &Tensor| {
        let before = counters();
        to_vec(tensor);
        (counters() - before).copied_bytes
    };
    let last = x.narrow(0, 999, 1).unwrap();
    assert_eq!(copied(&last), 32_000);
    assert!(copied(&last.force_contiguous().unwrap()) < 200);
}
