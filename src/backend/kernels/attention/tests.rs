//! Every kind of instructions that this processor has, held against the definition in `f64`.

use super::*;
use crate::backend::ops::gradcheck::random;

struct Case {
    batch: usize,
    kv_heads: usize,
    per_kv: usize,
    queries: usize,
    keys: usize,
    dim: usize,
    window: Option<usize>,
}

/// Result, and gradients of queries, keys and values, as (batch, tokens, heads, dim).
type Found = [Vec<f64>; 4];

fn sizes(case: &Case) -> Sizes {
    Sizes {
        batch: case.batch,
        kv_heads: case.kv_heads,
        per_kv: case.per_kv,
        queries: case.queries,
        keys: case.keys,
        dim: case.dim,
        scores: Scores {
            scale: 0.4,
            window: case.window,
        },
    }
}

/// Numbers of (batch, tokens, heads, dim), seen as (batch, heads, tokens, dim).
fn heads(numbers: &[f32], [batch, tokens, heads, dim]: [usize; 4]) -> Heads<'_> {
    Heads {
        numbers,
        strides: [tokens * heads * dim, dim, heads * dim],
        dims: [batch, heads, tokens, dim],
    }
}

fn exact(sizes: &Sizes, [q, k, v, _, dy]: [&[f32]; 5]) -> Found {
    let (dim, scale) = (sizes.dim, f64::from(sizes.scores.scale));
    let mut found = [q.len(), q.len(), k.len(), k.len()].map(|len| vec![0f64; len]);
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
        products.sum()
    };
    for text in 0..sizes.batch {
        for (kv_head, row) in
            (0..sizes.kv_heads).flat_map(|h| (0..sizes.rows()).map(move |r| (h, r)))
        {
            let at = sizes.place(text, kv_head, row);
            let place = |key: usize| ((text * sizes.keys + key) * sizes.kv_heads + kv_head) * dim;
            let (query, dy) = (&q[at..at + dim], &dy[at..at + dim]);
            let seen = sizes.seen(row);
            let exponentials: Vec<f64> = seen
                .clone()
                .map(|key| (scale * dot(query, &k[place(key)..place(key) + dim])).exp())
                .collect();
            let total: f64 = exponentials.iter().sum();
            let p: Vec<f64> = exponentials.iter().map(|e| e / total).collect();
            let dp: Vec<f64> = seen
                .clone()
                .map(|key| dot(dy, &v[place(key)..place(key) + dim]))
                .collect();
            let along: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            for ((key, p), dp) in seen.zip(p).zip(dp) {
                let ds = scale * p * (dp - along);
                for x in 0..dim {
                    found[0][at + x] += p * f64::from(v[place(key) + x]);
                    found[1][at + x] += ds * f64::from(k[place(key) + x]);
                    found[2][place(key) + x] += ds * f64::from(query[x]);
                    found[3][place(key) + x] += p * f64::from(dy[x]);
                }
            }
        }
    }
    found
}

/// Each result is off by at most 2⁻¹⁸ of the largest: a sum over a key's queries has some hundred terms.
fn check(case: &Case) {
    let sizes = sizes(case);
    let of_queries = [case.batch, case.queries, sizes.heads(), case.dim];
    let of_keys = [case.batch, case.keys, case.kv_heads, case.dim];
    let numbers = |shape: [usize; 4], seed| {
        let x = (random(&shape, seed) * 2.0).unwrap();
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let (q, k, v) = (
        numbers(of_queries, 1),
        numbers(of_keys, 2),
        numbers(of_keys, 3),
    );
    let dy = numbers(of_queries, 4);
    let expected = exact(&sizes, [&q, &k, &v, &[], &dy]);
    for &instructions in Instructions::ALL.iter().filter(|i| i.there()) {
        let mut y = vec![f32::NAN; q.len()];
        let operands = [
            heads(&q, of_queries),
            heads(&k, of_keys),
            heads(&v, of_keys),
        ];
        forward::compute(instructions, &sizes, operands, &mut y);
        let operands = backward::Operands {
            queries: operands[0],
            keys: operands[1],
            values: operands[2],
            output: heads(&y, of_queries),
            doutput: heads(&dy, of_queries),
        };
        let mut gradients = [q.len(), k.len(), v.len()].map(|len| vec![0f32; len]);
        backward::compute(instructions, &sizes, &operands, &mut gradients);
        let [dq, dk, dv] = &gradients;
        for (found, expected) in [&y, dq, dk, dv].into_iter().zip(&expected) {
            let largest = expected.iter().fold(0f64, |max, x| max.max(x.abs()));
            assert!(largest > 0.1);
            for (found, expected) in found.iter().zip(expected) {
                let gap = (f64::from(*found) - expected).abs();
                assert!(
                    gap <= largest * 2f64.powi(-18),
                    "{instructions:?}: {found} {expected}"
                );
            }
        }
    }
}

macro_rules! cases {
    ($($name:ident: $batch:literal x $kv_heads:literal x $per_kv:literal of $dim:literal,
       $queries:literal of $keys:literal, $window:expr;)*) => {
        $(#[test]
        fn $name() {
            check(&Case {
                batch: $batch,
                kv_heads: $kv_heads,
                per_kv: $per_kv,
                queries: $queries,
                keys: $keys,
                dim: $dim,
                window: $window,
            });
        })*
    };
}

cases! {
    two_queries: 2 x 1 x 1 of 4, 2 of 2, None;
    a_group_of_three: 2 x 2 x 3 of 64, 65 of 65, None;
    a_dimension_that_fills_no_panel: 1 x 2 x 2 of 20, 33 of 33, None;
    after_others: 1 x 1 x 2 of 8, 9 of 150, None;
    a_window: 1 x 2 x 3 of 8, 120 of 120, Some(17);
    a_window_after_others: 2 x 1 x 1 of 12, 40 of 131, Some(5);
    a_window_of_two: 1 x 1 x 3 of 8, 20 of 20, Some(2);
    a_window_wider_than_the_text: 1 x 1 x 1 of 8, 40 of 40, Some(usize::MAX);
    several_blocks: 1 x 1 x 4 of 8, 300 of 300, None;
    several_blocks_with_a_window: 1 x 1 x 4 of 8, 300 of 300, Some(100);
}
