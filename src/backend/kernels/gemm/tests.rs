//! Every kind of instructions that this processor has, held against sums in `f64`.

use super::*;
use half::{bf16, f16};
use std::any::TypeId;

/// Numbers in (-1, 1), the same each time.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f32::from_bits(0x3f80_0000 | state >> 9) * 2.0 - 3.0
    };
    (0..count).map(next).collect()
}

/// The product by its definition, and the sums of the magnitudes of what is added.
fn exact<T: Number + Into<f64>>(product: &Product<'_, T>, before: &[f32]) -> Vec<(f64, f64)> {
    fn at<T: Copy + Into<f64>>(view: &View<'_, T>, line: usize, depth: usize) -> f64 {
        let (a, b) = if view.along {
            (line, depth)
        } else {
            (depth, line)
        };
        view.numbers[a * view.stride + b].into()
    }
    let mut result = vec![];
    for row in 0..product.rows {
        for column in 0..product.columns {
            let terms = (0..product.depth)
                .map(|depth| at(&product.left, row, depth) * at(&product.right, column, depth));
            let (sum, magnitude) = terms.fold((0.0, 0.0), |(s, m), x| (s + x, m + x.abs()));
            let before = if product.add {
                f64::from(before[row * product.columns + column])
            } else {
                0.0
            };
            result.push((sum + before, magnitude + before.abs()));
        }
    }
    result
}

/// Each of n products and sums of `f32` is off by 2⁻²⁴ at most, and they are summed in at least as many
/// parts as there are lanes. A number that is rounded to `bf16` is off by 2⁻⁸ of itself, at most.
fn check<T: Number + Into<f64> + 'static>(product: &Product<'_, T>) {
    for &instructions in Instructions::ALL
        .iter()
        .filter(|instructions| instructions.there())
    {
        let before = numbers(product.rows * product.columns, 9);
        let mut found = before.clone();
        product.on(instructions, as_room(&mut found));
        #[cfg(target_arch = "x86_64")]
        let rounds = instructions == Instructions::Avx512Bf16;
        #[cfg(not(target_arch = "x86_64"))]
        let rounds = false;
        let rounding = match (rounds, TypeId::of::<T>() == TypeId::of::<bf16>()) {
            (false, _) => 0.0,
            (true, true) => 2f64.powi(-8),
            // Both are rounded.
            (true, false) => 2f64.powi(-7) + 2f64.powi(-16),
        };
        let length = f64::from(u32::try_from(product.depth + 2).unwrap());
        for (found, (expected, magnitude)) in found.iter().zip(exact(product, &before)) {
            let bound = magnitude * (rounding + length * 2f64.powi(-24));
            let gap = (f64::from(*found) - expected).abs();
            assert!(
                gap <= bound,
                "{instructions:?} {} {} {}: {found} {expected} {gap} {bound}",
                product.rows,
                product.columns,
                product.depth
            );
        }
    }
}

const SIZES: [[usize; 3]; 19] = [
    [1, 1, 1],
    [2, 3, 5],
    [4, 31, 33],
    [5, 33, 64],
    [8, 96, 100],
    [9, 40, 31],
    [16, 17, 19],
    [17, 32, 16],
    [18, 100, 130],
    [22, 65, 97],
    [31, 7, 1030],
    [64, 300, 47],
    [70, 1, 40],
    [129, 33, 1],
    [45, 48, 2100],
    [40, 8, 100],
    [50, 3, 70],
    [0, 3, 4],
    [20, 3, 0],
];

fn check_all<T: Number + Into<f64> + 'static>(round: fn(f32) -> T) {
    for [rows, columns, depth] in SIZES {
        let x = numbers(rows * depth, 1);
        let w: Vec<T> = numbers(columns * depth, 2).into_iter().map(round).collect();
        for (along, add) in [(true, false), (false, false), (true, true), (false, true)] {
            check(&multiply(&x, &w, along, [rows, columns, depth], add));
        }
    }
}

#[test]
fn products_with_f32_are_within_the_bound() {
    check_all(|x| x);
}

#[test]
fn products_with_f16_are_within_the_bound() {
    check_all(f16::from_f32);
}

#[test]
fn products_with_bf16_are_within_the_bound() {
    check_all(bf16::from_f32);
}

#[test]
fn products_of_few_columns_are_those_of_many() {
    for [rows, columns, depth] in [
        [40, 8, 100],
        [50, 3, 70],
        [17, 16, 33],
        [0, 0, 3],
        [9, 1, 0],
    ] {
        let (x, w) = (numbers(rows * depth, 1), numbers(columns * depth, 2));
        for (left_along, right_along) in [(true, true), (true, false), (false, false)] {
            let mut product = multiply(&x, &w, right_along, [rows, columns, depth], false);
            if !left_along {
                product.left.along = false;
                product.left.stride = rows;
            }
            for &instructions in Instructions::ALL
                .iter()
                .filter(|instructions| instructions.there())
            {
                let mut found = [vec![1.0; rows * columns], vec![2.0; rows * columns]];
                product.on(instructions, as_room(&mut found[0]));
                product.either_way(instructions, as_room(&mut found[1]));
                for (a, b) in found[0].iter().zip(&found[1]) {
                    assert!((a - b).abs() < 1e-4, "{instructions:?} {a} {b}");
                }
            }
        }
    }
}

#[test]
fn outer_products_are_within_the_bound() {
    for [rows, columns, depth] in SIZES {
        let (dy, x) = (numbers(depth * rows, 1), numbers(depth * columns, 2));
        let mut found = vec![0.0; rows * columns];
        outer([rows, columns, depth], &dy, &x, as_room(&mut found));
        for row in 0..rows {
            for column in 0..columns {
                let terms = (0..depth)
                    .map(|i| f64::from(dy[i * rows + row]) * f64::from(x[i * columns + column]));
                let (sum, magnitude) = terms.fold((0.0, 0.0), |(s, m), x| (s + x, m + x.abs()));
                let length = f64::from(u32::try_from(depth + 2).unwrap());
                let gap = (f64::from(found[row * columns + column]) - sum).abs();
                assert!(
                    gap <= magnitude * length * 2f64.powi(-24),
                    "{rows} {columns} {depth}"
                );
            }
        }
    }
}
