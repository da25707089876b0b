use super::*;

fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from(u16::try_from(state >> 16).unwrap()) / 32_768.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Results and what they should be: each within 8 roundings of the sum of magnitudes.
fn check(weights: &[f32], narrow: Numbers<'_>, width: usize, count: usize) {
    let x = numbers(width * count, 7);
    let rows = weights.len() / width;
    let run = |kind: &str, y: &mut [f32]| match (kind, narrow) {
        ("best", _) => dots(narrow, width, &x, y, rows),
        // SAFETY: it takes no special instructions.
        (_, Numbers::F32(weights)) => unsafe {
            Dots {
                weights,
                width,
                x: &x,
                stride: rows,
            }
            .run::<Portable>(y);
        },
        // SAFETY: as above.
        (_, Numbers::F16(weights)) => unsafe {
            Dots {
                weights,
                width,
                x: &x,
                stride: rows,
            }
            .run::<Portable>(y);
        },
        // SAFETY: as above.
        (_, Numbers::Bf16(weights)) => unsafe {
            Dots {
                weights,
                width,
                x: &x,
                stride: rows,
            }
            .run::<Portable>(y);
        },
    };
    for kind in ["best", "portable"] {
        let mut y = vec![f32::NAN; rows * count];
        run(kind, &mut y);
        for row in 0..rows {
            for i in 0..count {
                let pairs = weights[row * width..][..width].iter().zip(&x[i * width..]);
                let products = pairs.map(|(w, x)| f64::from(*w) * f64::from(*x));
                let (sum, all) =
                    products.fold((0.0, 0.0), |(sum, all), x| (sum + x, all + x.abs()));
                let found = f64::from(y[i * rows + row]);
                assert!(
                    (found - sum).abs() <= 8.0 * all * 2f64.powi(-24),
                    "{kind} {width} {row} {i}"
                );
            }
        }
    }
}

#[test]
fn products_are_those_of_f64() {
    for (rows, width, count) in [
        (9, 64, 1),
        (13, 70, 2),
        (4, 8, 3),
        (17, 33, 7),
        (3, 576, 8),
        (1, 1, 1),
        (0, 5, 7),
    ] {
        let weights = numbers(rows * width, 3);
        check(&weights, Numbers::F32(&weights), width, count);
        let narrow: Vec<f16> = weights.iter().map(|x| f16::from_f32(*x)).collect();
        let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
        check(&wide, Numbers::F16(&narrow), width, count);
        let narrow: Vec<bf16> = weights.iter().map(|x| bf16::from_f32(*x)).collect();
        let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
        check(&wide, Numbers::Bf16(&narrow), width, count);
    }
}

#[test]
fn a_row_is_the_same_alone_and_among_others() {
    let (width, weights) = (100, numbers(100 * 23, 1));
    let narrow: Vec<bf16> = weights.iter().map(|x| bf16::from_f32(*x)).collect();
    let x = numbers(width * 8, 2);
    let mut all = vec![0.0; 23 * 8];
    dots(Numbers::Bf16(&narrow), width, &x, &mut all, 23);
    for (i, x) in x.chunks_exact(width).enumerate() {
        let mut alone = vec![0.0; 23];
        dots(Numbers::Bf16(&narrow), width, x, &mut alone, 23);
        for (row, alone) in alone.iter().enumerate() {
            assert_eq!(alone.to_bits(), all[i * 23 + row].to_bits());
        }
    }
}

#[test]
fn weighted_sums_are_those_of_f64() {
    for (rows, width, count) in [(5, 64, 3), (7, 70, 1), (1, 130, 2), (0, 8, 2), (3, 3, 4)] {
        let (values, weights) = (numbers(rows * width, 1), numbers(rows * count, 2));
        let narrow: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
        let start = numbers(width * count, 3);
        let mut y = start.clone();
        add_weighted(Numbers::F16(&narrow), width, &weights, rows, &mut y);
        for i in 0..count {
            for at in 0..width {
                let first = f64::from(start[i * width + at]);
                let terms = (0..rows).map(|row| {
                    f64::from(weights[i * rows + row])
                        * f64::from(narrow[row * width + at].to_f32())
                });
                let (sum, all) = terms.fold((first, first.abs()), |(s, a), x| (s + x, a + x.abs()));
                let found = f64::from(y[i * width + at]);
                assert!((found - sum).abs() <= 8.0 * all * 2f64.powi(-24));
            }
        }
    }
}
