use super::*;
use crate::backend::ops::gradcheck::{check, random};
use crate::backend::testing::{Layout, assert_agree, device, on_both, read};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Sizes of matrices: of one block, of an odd number of rows, and for several threads and parts.
fn sizes(kind: BlockType) -> [(usize, usize); 4] {
    let len = kind.block_len();
    [(1, len), (5, 2 * len), (33, 3 * len), (519, 2048)]
}

fn random_bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; count];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Where a block has its `f16` scales and biases.
fn places_of_scales(kind: BlockType) -> &'static [usize] {
    match kind {
        BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => &[0],
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
        BlockType::Q2K => &[80, 82],
        BlockType::Q3K => &[108],
        BlockType::Q6K => &[208],
    }
}

/// Random codes with scales of weights, some below the normal numbers of an `f16`.
fn random_weight(kind: BlockType, output: usize, input: usize, device: &Device) -> BlockWeight {
    let mut bytes = random_bytes(kind.row_bytes(input) * output, 7);
    let scale = |index: usize| [0x1155u16, 0x0123, 0x94c3, 0x0bff][index % 4].to_le_bytes();
    for (index, block) in bytes.chunks_exact_mut(kind.block_bytes()).enumerate() {
        for (which, &place) in places_of_scales(kind).iter().enumerate() {
            block[place..place + 2].copy_from_slice(&scale(index + which));
        }
    }
    BlockWeight::from_bytes(bytes, kind, output, input, device).unwrap()
}

/// What candle takes the bytes for.
fn by_candle(bytes: &[u8], kind: BlockType, output: usize, input: usize) -> Tensor {
    // From an even address.
    let bytes: Arc<[u8]> = bytes.into();
    let storage = QStorage::from_data(Cow::Borrowed(&*bytes), &Device::Cpu, kind.in_candle());
    let blocks = QTensor::new(storage.unwrap(), (output, input)).unwrap();
    blocks.dequantize(&Device::Cpu).unwrap()
}

/// The bits of numbers; all that are no number alike.
fn bits(x: &Tensor) -> Vec<u32> {
    let numbers = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let bits = |x: f32| if x.is_nan() { u32::MAX } else { x.to_bits() };
    numbers.into_iter().map(bits).collect()
}

#[test]
fn types_are_those_of_ggml() {
    for kind in BlockType::ALL {
        let theirs = kind.in_candle();
        assert_eq!(kind.block_bytes(), theirs.type_size(), "{kind:?}");
        assert_eq!(kind.block_len(), theirs.block_size(), "{kind:?}");
        assert_eq!(BlockType::from_ggml_id(kind.ggml_id()), Some(kind));
        assert_eq!(kind.name().replace("_K", "K"), format!("{kind:?}"));
        assert_eq!(format!("{theirs:?}"), format!("{kind:?}"));
    }
    // Dense types, those of activations, and what there is none of.
    for id in [0, 1, 4, 5, 9, 15, 16, 30, u32::MAX] {
        assert_eq!(BlockType::from_ggml_id(id), None);
    }
}

/// Every byte a block may have, which is every code, scale and bias, and scales that are not finite.
#[test]
fn random_blocks_are_what_candle_takes_them_for() {
    for kind in BlockType::ALL {
        for (output, input) in sizes(kind) {
            let bytes = random_bytes(kind.row_bytes(input) * output, 1);
            let expected = bits(&by_candle(&bytes, kind, output, input));
            let weight = BlockWeight::from_bytes(bytes, kind, output, input, &Device::Cpu).unwrap();
            let found = bits(&weight.dequantize(DType::F32).unwrap());
            assert!(found == expected, "{kind:?}, {output} x {input}");
        }
    }
}

#[test]
fn extreme_scales_are_what_candle_takes_them_for() {
    for kind in BlockType::ALL {
        let (output, input) = (3, kind.block_len());
        let bytes = random_bytes(kind.row_bytes(input) * output, 2);
        // Zeros, the smallest number, the largest below the normal ones, the smallest of these, the largest.
        for scale in [0u16, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff] {
            let mut bytes = bytes.clone();
            for block in bytes.chunks_exact_mut(kind.block_bytes()) {
                for &place in places_of_scales(kind) {
                    block[place..place + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
            let expected = by_candle(&bytes, kind, output, input);
            let weight = BlockWeight::from_bytes(bytes, kind, output, input, &Device::Cpu).unwrap();
            let found = weight.dequantize(DType::F32).unwrap();
            assert!(bits(&found) == bits(&expected), "{kind:?}, {scale:x}");
            let x = random(&[1, input], 3);
            let (y, expected) = (weight.forward(&x).unwrap(), found.matmul(&x.t().unwrap()));
            let size = found.abs().unwrap().sum_all().unwrap().to_scalar::<f32>();
            for (a, b) in read(&y).iter().zip(read(&expected.unwrap())) {
                let bound = 1e-6 * f64::from(*size.as_ref().unwrap());
                assert!(a.is_finite() && (a - b).abs() <= bound, "{kind:?}: {a} {b}");
            }
        }
    }
}

/// Numbers are off by what steps of that size leave, in the mean of squares; small ones may be off by more,
/// where that makes large ones better.
#[test]
fn quantised_numbers_are_those_of_candle_and_near() {
    // From -1 to 1.
    for (kind, step) in [
        (BlockType::Q4_0, 1.0 / 8.0),
        (BlockType::Q4_1, 2.0 / 15.0),
        (BlockType::Q5_0, 1.0 / 16.0),
        (BlockType::Q5_1, 2.0 / 31.0),
        (BlockType::Q8_0, 1.0 / 127.0),
        (BlockType::Q2K, 2.0 / 3.0),
        (BlockType::Q3K, 1.0 / 4.0),
        (BlockType::Q4K, 2.0 / 15.0),
        (BlockType::Q5K, 2.0 / 31.0),
        (BlockType::Q6K, 1.0 / 32.0),
    ] {
        let assert_near = |found: &Tensor, expected: &Tensor| {
            let (found, expected) = (read(found), read(expected));
            let squares = found.iter().zip(&expected).map(|(a, b)| (a - b).powi(2));
            let off =
                (squares.sum::<f64>() / f64::from(u32::try_from(found.len()).unwrap())).sqrt();
            let usual: f64 = step / 12f64.sqrt();
            assert!(
                off > 0.1 * usual && off < 1.5 * usual,
                "{kind:?}: {off}, {usual}"
            );
        };
        for (output, input) in sizes(kind) {
            let dense = random(&[output, input], 4);
            let weight = BlockWeight::quantize(&dense, kind).unwrap();
            let theirs = QTensor::quantize(&dense, kind.in_candle()).unwrap();
            assert!(weight.bytes().unwrap() == theirs.data().unwrap());
            let found = weight.dequantize(DType::F32).unwrap();
            let expected = theirs.dequantize(&Device::Cpu).unwrap();
            assert!(bits(&found) == bits(&expected), "{kind:?}");
            assert_near(&found, &dense);
        }
        // Of sixteen bits, out of wider rows.
        let wide = random(&[4, 512], 5).to_dtype(DType::BF16).unwrap();
        let part = wide.narrow(1, 256, 256).unwrap();
        let weight = BlockWeight::quantize(&part, kind).unwrap();
        assert_near(&weight.dequantize(DType::F32).unwrap(), &part);
    }
}

#[test]
fn numbers_are_the_same_on_every_device() {
    for kind in BlockType::ALL {
        for (output, input) in sizes(kind) {
            let host = random_weight(kind, output, input, &Device::Cpu);
            let weight = random_weight(kind, output, input, device());
            assert!(weight.device().same_device(device()));
            let what = format!("{kind:?}, {output} x {input}");
            let dense = weight.dequantize(DType::F32).unwrap();
            assert!(dense.device().same_device(device()));
            let expected = host.dequantize(DType::F32).unwrap();
            assert_agree(&what, &dense, &expected, on_metal(0.0));

            // Some rows, the last among them, of ids out of more ids.
            let last = u32::try_from(output).unwrap() - 1;
            let ids = Tensor::new(&[9, last, 0, last / 2, last], device()).unwrap();
            let found = weight.rows(&ids.narrow(0, 1, 4).unwrap()).unwrap();
            let ids = Tensor::new(&[last, 0, last / 2, last], &Device::Cpu).unwrap();
            let expected = expected.index_select(&ids, 0).unwrap();
            assert_eq!(found.dtype(), DType::F32);
            assert_agree(&what, &found, &expected, on_metal(0.0));
        }
    }
}

/// What numbers may be off by where candle's kernels for Metal decode them, which use `f16` on the way; and
/// elsewhere.
fn on_metal(elsewhere: f64) -> f64 {
    if device().is_metal() { 2e-3 } else { elsewhere }
}

#[test]
fn products_agree_with_those_of_the_numbers_on_every_device() {
    for kind in BlockType::ALL {
        // One row, as many as four, and more than go straight from the blocks.
        // Results of 4 x 512 fill a buffer, so that a kernel which writes beyond them is found.
        for (rows, output, blocks) in [(1, 33, 3), (4, 512, 1), (7, 5, 2), (18, 65, 2)] {
            let input = blocks * kind.block_len();
            let name = format!("{rows} rows, {input} to {output}, {kind:?}");
            // Rows of a product must be whole.
            let layouts = [Layout::Whole, Layout::Offset, Layout::Turned];
            on_both(&name, &layouts, |make| {
                let weight = random_weight(kind, output, input, make.device);
                let dense = random_weight(kind, output, input, &Device::Cpu);
                let dense = dense.dequantize(DType::F32)?.to_device(make.device)?;
                let (x, dy) = (
                    make.tensor(&[rows, input], 2),
                    make.tensor(&[rows, output], 3),
                );
                let (y, dx) = (weight.forward(&x)?, weight.backward(&dy)?);
                assert_eq!((y.dtype(), dx.dtype()), (x.dtype(), x.dtype()));
                // On the CPU in f32 from whole inputs, the products are those of the dense matrix.
                let wide = |x: &Tensor| x.to_dtype(DType::F32)?.force_contiguous();
                let bound = if make.dtype == DType::F32 {
                    1e-5
                } else {
                    1.6e-2
                };
                let expected = wide(&x)?.matmul(&dense.t()?)?;
                assert_agree(&name, &y, &expected, on_metal(bound).max(bound));
                let expected = wide(&dy)?.matmul(&dense)?;
                assert_agree(&name, &dx, &expected, on_metal(bound).max(bound));
                Ok([])
            });
        }
    }
}

/// Parts of a matrix, one after the other, and rows on several threads.
#[test]
fn large_products_agree_with_those_of_the_numbers() {
    for kind in [BlockType::Q4_0, BlockType::Q5_1, BlockType::Q6K] {
        let (output, input) = (1537, 1024);
        let weight = random_weight(kind, output, input, device());
        assert!(device().is_metal() || weight.parts().count() == 2);
        let dense = random_weight(kind, output, input, &Device::Cpu);
        let dense = dense.dequantize(DType::F32).unwrap();
        let name = kind.name();
        for rows in [1, 3, 9, 33] {
            let (x, dy) = (random(&[rows, input], 2), random(&[rows, output], 3));
            let y = weight.forward(&x.to_device(device()).unwrap()).unwrap();
            let expected = x.matmul(&dense.t().unwrap()).unwrap();
            assert_agree(name, &y, &expected, on_metal(1e-5));
            let dx = weight.backward(&dy.to_device(device()).unwrap()).unwrap();
            assert_agree(name, &dx, &dy.matmul(&dense).unwrap(), on_metal(1e-5));
        }
    }
}

/// Products of activations in eight bits, on one thread and on several, in parts that are not alike.
///
/// Numbers in (-1, 1) have steps of 1/127 and so are off by 0.4 % of their size in the mean of squares, at random.
/// Then so are sums of products, of the size that they have where signs are random; five sums may be off by
/// twice as much.
#[test]
fn inference_agrees_with_the_exact_product() {
    for kind in BlockType::ALL {
        for (rows, output, input) in [(1, 5, 256), (6, 33, 256), (1, 1037, 1024), (9, 515, 1024)] {
            let weight = random_weight(kind, output, input, device());
            let x = random(&[rows + 1, input], 1).narrow(0, 1, rows).unwrap();
            let x = x.to_device(device()).unwrap();
            let (found, exact) = (weight.infer(&x).unwrap(), weight.forward(&x).unwrap());
            assert_eq!(found.dims(), [rows, output]);
            let (found, exact) = (read(&found), read(&exact));
            let squares = weight.dequantize(DType::F32).unwrap().sqr().unwrap();
            let size = x.sqr().unwrap().matmul(&squares.t().unwrap()).unwrap();
            let size: f64 = read(&size).iter().sum();
            let off = found.iter().zip(&exact).map(|(a, b)| (a - b).powi(2));
            let off = (off.sum::<f64>() / size).sqrt();
            assert!(off < 0.01, "{kind:?}, {rows} rows: {off}");
            let is_rounded = device().is_cpu() && kernels::takes_block_product(rows);
            assert!((off > 1e-4) == is_rounded, "{kind:?}: {off}");
        }
    }
    // In the dtype of the activations, and what does not fit is refused.
    let weight = random_weight(BlockType::Q8_0, 3, 64, device());
    let x = random(&[2, 64], 1).to_device(device()).unwrap();
    let half = weight.infer(&x.to_dtype(DType::BF16).unwrap()).unwrap();
    assert_eq!(
        (half.dtype(), half.dims()),
        (DType::BF16, [2, 3].as_slice())
    );
    let narrow = x.narrow(1, 0, 32).unwrap();
    assert!(weight.infer(&narrow).is_err());
}

#[test]
fn forward_agrees_with_finite_differences() {
    for (kind, rows) in [(BlockType::Q8_0, 3), (BlockType::Q4K, 18)] {
        let weight = BlockWeight::quantize(&random(&[5, 256], 1), kind).unwrap();
        let (x, dy) = (random(&[rows, 256], 2), random(&[rows, 5], 3));
        let dx = weight.backward(&dy).unwrap();
        check("x", &x, &dx, &dy, |x| weight.forward(x));
    }
}

#[test]
fn bytes_make_the_same_matrix_again() {
    for kind in BlockType::ALL {
        let input = 2 * kind.block_len();
        let weight = random_weight(kind, 5, input, device());
        let bytes = weight.bytes().unwrap().into_owned();
        assert_eq!(bytes.len(), weight.size_in_bytes());
        assert!(bytes == *random_weight(kind, 5, input, &Device::Cpu).bytes().unwrap());
        let again = BlockWeight::from_bytes(bytes, kind, 5, input, device()).unwrap();
        assert_eq!((again.dims(), again.kind()), ((5, input), kind));
        assert!(again.device().same_device(device()));
        let numbers = |weight: &BlockWeight| weight.dequantize(DType::F32).unwrap();
        assert_agree(kind.name(), &numbers(&again), &numbers(&weight), 0.0);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let from = |len, kind, output, input| {
        BlockWeight::from_bytes(vec![0; len], kind, output, input, device())
    };
    let with = |number: f32| {
        let row = Tensor::full(number, (1, 32), &Device::Cpu).unwrap();
        BlockWeight::quantize(&row, BlockType::Q8_0)
    };
    let weight = from(36, BlockType::Q4_0, 2, 32).unwrap();
    for (result, expected) in [
        (
            from(35, BlockType::Q4_0, 2, 32),
            "35 bytes of Q4_0 for 2 x 32 weights; expected 36",
        ),
        (
            from(37, BlockType::Q4_0, 2, 32),
            "37 bytes of Q4_0 for 2 x 32 weights; expected 36",
        ),
        (from(0, BlockType::Q4_0, 0, 32), "no outputs"),
        (
            from(0, BlockType::Q4_0, 2, 0),
            "0 inputs in Q4_0; expected a multiple of 32",
        ),
        (
            from(36, BlockType::Q4_0, 2, 33),
            "33 inputs in Q4_0; expected a multiple of 32",
        ),
        (
            from(144, BlockType::Q4K, 1, 128),
            "128 inputs in Q4_K; expected a multiple of 256",
        ),
        (
            from(36, BlockType::Q4_0, usize::MAX, 64),
            "expected more than there can be",
        ),
        (
            from(36, BlockType::Q5_1, 1 << 40, 1 << 40),
            "expected more than there can be",
        ),
        (with(f32::NAN), "not finite, or not within 3.2768e4"),
        (with(f32::INFINITY), "not finite, or not within 3.2768e4"),
        (with(-40_000.0), "not finite, or not within 3.2768e4"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let x = |shape: &[usize]| random(shape, 1).to_device(device()).unwrap();
    let ids = |ids: &[u32]| Tensor::new(ids, device()).unwrap();
    for (result, expected) in [
        (
            weight.forward(&x(&[1, 64])),
            "linear of 64 inputs with weights for 32",
        ),
        (
            weight.forward(&x(&[40, 64])),
            "linear of 64 inputs with weights for 32",
        ),
        (weight.forward(&x(&[32])), "unexpected rank"),
        (
            weight.backward(&x(&[9, 32])),
            "gradients of 32 outputs with weights for 2",
        ),
        (weight.rows(&x(&[2])), "ids of F32; expected U32"),
        (
            weight.rows(&ids(&[0, 1]).unsqueeze(0).unwrap()),
            "unexpected rank",
        ),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    // Beyond the last row there is none, and on a device none is read.
    let found = weight.rows(&ids(&[1, 2]));
    if device().is_cpu() {
        assert!(
            found
                .unwrap_err()
                .to_string()
                .contains("row 2 of a matrix of 2")
        );
    } else {
        assert_agree(
            "the last row",
            &found.unwrap(),
            &weight.rows(&ids(&[1, 1])).unwrap(),
            0.0,
        );
    }
    assert_eq!(weight.rows(&ids(&[])).unwrap().dims(), &[0, 32]);
}

#[test]
fn nothing_of_the_bytes_is_printed() {
    let weight = random_weight(BlockType::Q4_0, 300, 64, &Device::Cpu);
    let text = format!("{weight:?}");
    assert!(text.contains("Q4_0") && text.len() < 100, "{text}");
}
