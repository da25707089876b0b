//! What computes element by element or row by row.

use super::super::dropout::dropout_mask;
use super::super::heads::{merge, split, split_rotated, split_rotated_backward};
use super::super::linear::{add_bias, add_into};
use super::super::rms_norm::{add_rms_norm, rms_norm, rms_norm_backward, rms_norm_backward_add};
use super::super::rope::{RopeTable, rope, rope_backward};
use super::super::rows::place_rows;
use super::super::swiglu::{swiglu, swiglu_backward};
use crate::backend::testing::{Layout, device, on_both, read};
use candle_core::{Device, Tensor};

const CONTIGUOUS: [Layout; 2] = [Layout::Whole, Layout::Offset];
const ANY: [Layout; 4] = [
    Layout::Whole,
    Layout::Offset,
    Layout::Columns,
    Layout::Turned,
];

/// (rows, features)
const SIZES: [[usize; 2]; 9] = [
    [1, 1],
    [1, 65],
    [3, 33],
    [33, 3],
    [65, 65],
    [33, 64],
    [5, 896],
    [3, 1025],
    [1, 6144],
];

/// Views reach only the backward: the input of the forward is contiguous by contract. The decoder
/// norms its embedding, sums and selected rows, and all of these are made anew.
#[test]
fn rms_norm_of_rows() {
    const EPS: f64 = 1e-6;
    for [rows, features] in SIZES {
        let name = format!("{rows} rows of {features}");
        on_both(&name, &CONTIGUOUS, |make| {
            let x = make.tensor(&[rows, features], 1);
            let weight = make.tensor(&[features], 2);
            let more = (make.tensor(&[rows, features], 3) * 2.0)?;
            let (sum, normed) = add_rms_norm(more.force_contiguous()?, &x, &weight, EPS)?;
            Ok([
                ("y", rms_norm(&x, &weight, EPS)?),
                ("sum", sum),
                ("y of the sum", normed),
            ])
        });
        // One feature is its own root mean square: its gradient is nothing but rounding.
        if features == 1 {
            continue;
        }
        on_both(&name, &ANY, |make| {
            let x = make.tensor(&[rows, features], 1);
            let weight = make.tensor(&[features], 2);
            let dy = make.tensor(&[rows, features], 3);
            let dx = rms_norm_backward(&x, &weight, EPS, &dy)?;
            assert_eq!(dx.dtype(), x.dtype());
            let more = make.tensor(&[rows, features], 4);
            let with_more = rms_norm_backward_add(&x, &weight, EPS, &dy, &more)?;
            Ok([("dx", dx), ("dx and more", with_more)])
        });
    }
}

#[test]
fn swiglu_of_rows() {
    for [rows, features] in SIZES {
        on_both(&format!("{rows} rows of {features}"), &ANY, |make| {
            let tensor = |seed| make.tensor(&[rows, features], seed);
            // Gates from where the sigmoid is all but 0 to where it is all but 1.
            let gate = (tensor(1) * 8.0)?;
            let (up, dy) = (tensor(2), tensor(3));
            let (dgate, dup) = swiglu_backward(&gate, &up, &dy)?;
            assert_eq!((dgate.dtype(), dup.dtype()), (up.dtype(), up.dtype()));
            Ok([
                ("y", swiglu(&gate, &up)?),
                ("y of views", swiglu(&up, &dy)?),
                ("dgate", dgate),
                ("dup", dup),
            ])
        });
    }
}

#[test]
fn a_sum_into_a_fresh_tensor() {
    for [rows, features] in SIZES {
        on_both(&format!("{rows} rows of {features}"), &ANY, |make| {
            let x = make.tensor(&[rows, features], 1);
            let fresh = (make.tensor(&[rows, features], 2) * 2.0)?;
            let sum = add_into(fresh, &x)?;
            let bias = make.tensor(&[features], 3);
            let fresh = (make.tensor(&[rows, features], 4) * 2.0)?;
            let biased = add_bias(fresh, Some(&bias))?;
            Ok([("sum", sum), ("x as before", x), ("with a bias", biased)])
        });
    }
}

#[test]
fn rows_at_their_places() {
    for [rows, features] in SIZES {
        on_both(&format!("{rows} rows of {features}"), &CONTIGUOUS, |make| {
            let x = make.tensor(&[rows, features], 1);
            let last = u32::try_from(2 * rows).unwrap();
            let positions: Vec<u32> = (0..last).rev().step_by(2).collect();
            let positions = Tensor::new(positions, make.device)?;
            Ok([("placed", place_rows(&x, &positions, 2 * rows + 1)?)])
        });
    }
}

#[test]
fn heads_of_rows() {
    // (batch, positions, heads, key heads, head_dim)
    for [batch, len, heads, kv_heads, dim] in [
        [1, 1, 1, 1, 32],
        [2, 5, 4, 2, 64],
        [1, 33, 14, 2, 64],
        [3, 7, 3, 1, 80],
        [2, 3, 2, 1, 6],
    ] {
        let name = format!("{batch} x {len} rows of {heads}/{kv_heads} heads of {dim}");
        on_both(&name, &CONTIGUOUS, |make| {
            #[allow(clippy::cast_precision_loss, reason = "half a head fits f32")]
            let inv_freq = (0..dim / 2).map(|i| 0.7f32.powf(i as f32)).collect();
            let table = RopeTable::new(inv_freq, 1.2, make.dtype, make.device);
            let rotation = table.rotation(5, len)?;
            let rows = |heads, seed| make.tensor(&[batch * len, heads * dim], seed);
            let parts = [rows(heads, 1), rows(kv_heads, 2), rows(kv_heads, 3)];
            let [q, k, v] = split_rotated(parts.each_ref(), &rotation, batch)?;
            let heads_of = |heads, seed| make.tensor(&[batch, heads, len, dim], seed);
            let dy = [
                heads_of(heads, 4),
                heads_of(kv_heads, 5),
                heads_of(kv_heads, 6),
            ];
            let [dq, dk, dv] = split_rotated_backward(dy.each_ref(), &rotation)?;
            Ok([
                ("q", q),
                ("k", k),
                ("v", v),
                ("dq", dq),
                ("dk", dk),
                ("dv", dv),
                ("split", split(&parts[0], batch, dim)?),
                ("merged", merge(&dy[0])?),
            ])
        });
    }
}

#[test]
fn rope_of_heads() {
    // (batch, heads, offset, positions, head_dim)
    for [batch, heads, offset, positions, head_dim] in [
        [1, 1, 0, 1, 32],
        [2, 3, 0, 5, 64],
        [1, 4, 7, 33, 80],
        [2, 2, 300, 3, 32],
        [1, 2, 1000, 1, 64],
    ] {
        let name = format!("{batch} x {heads} heads of {head_dim}, {offset} + {positions}");
        let half = head_dim / 2;
        let layouts = [&ANY[..], &[Layout::Cached, Layout::Split]].concat();
        on_both(&name, &layouts, |make| {
            #[allow(clippy::cast_precision_loss, reason = "half a head fits f32")]
            let inv_freq = (0..half)
                .map(|i| 1e4f32.powf(-(i as f32) / half as f32))
                .collect();
            let table = RopeTable::new(inv_freq, 1.2, make.dtype, make.device);
            let rotation = table.rotation(offset, positions)?;
            let x = make.tensor(&[batch, heads, positions, head_dim], 1);
            let dy = make.tensor(&[batch, heads, positions, head_dim], 2);
            Ok([
                ("y", rope(&x, &rotation)?),
                ("dx", rope_backward(&dy, &rotation)?),
            ])
        });
    }
}

#[test]
fn a_dropout_mask_is_the_same_on_every_device() {
    for shape in [&[1, 1][..], &[3, 33], &[65, 1025]] {
        let here = dropout_mask(shape, 0.3, 7, &Device::Cpu).unwrap();
        let there = dropout_mask(shape, 0.3, 7, device()).unwrap();
        assert!(there.device().same_device(device()));
        assert_eq!(read(&there), read(&here), "{shape:?}");
    }
}
