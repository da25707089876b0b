use super::super::attention::{AttentionPlan, attention};
use super::super::decode::{Heads, Layer, Scratch, decode_head, decode_layer};
use super::super::linear::linear;
use super::super::matrix::Matrix;
use super::super::rms_norm::rms_norm;
use super::super::rope::{RopeTable, Rotation, rope};
use super::super::swiglu::swiglu;
use crate::backend::testing::{Inputs, Layout, on_both};
use candle_core::{Result, Tensor};

const EPS: f32 = 1e-5;
/// Weights lie in a model of any kind; what holds them begins with them, or with others.
const LAYOUTS: [Layout; 2] = [Layout::Whole, Layout::Offset];

struct Case {
    hidden: usize,
    heads: Heads,
    position: usize,
    window: Option<usize>,
    has_head_norms: bool,
    has_biases: bool,
}

/// Numbers whose sums over a row stay near 1, so that no softmax has one key only. A power of two,
/// which rounds nothing.
fn small(make: &Inputs, shape: &[usize], seed: u64) -> Result<Tensor> {
    make.tensor(shape, seed) * 0.125
}

/// A vector that is a tensor by itself, as those of models are: 16 bytes of it are read at once.
fn whole(make: &Inputs, len: usize, seed: u64) -> Result<Tensor> {
    make.tensor(&[len], seed).force_contiguous()
}

/// One operation after the other, as a layer does it; the key and value go into the cache.
fn chain(
    x: &Tensor,
    layer: &Layer<'_>,
    rotation: &Rotation,
    window: Option<usize>,
) -> Result<Tensor> {
    let Heads { query, kv, dim } = layer.heads;
    let normed = rms_norm(x, layer.input_norm, EPS.into())?;
    let [q, k, v] = layer
        .query_key_value
        .map(|(weight, bias)| linear(&normed, weight, bias));
    let (mut q, mut k) = (
        q?.reshape((1, query, 1, dim))?,
        k?.reshape((1, kv, 1, dim))?,
    );
    if let Some((query_norm, key_norm)) = layer.head_norms {
        q = rms_norm(&q, query_norm, EPS.into())?;
        k = rms_norm(&k, key_norm, EPS.into())?;
    }
    let v = v?.reshape((1, kv, 1, dim))?;
    layer
        .keys
        .slice_set(&rope(&k, rotation)?, 2, layer.position)?;
    layer.values.slice_set(&v, 2, layer.position)?;
    let [keys, values] = [layer.keys, layer.values].map(|all| all.narrow(2, 0, layer.position + 1));
    let plan = AttentionPlan::causal(layer.position, 1, window, x.device())?;
    let context = attention(&rope(&q, rotation)?, &keys?, &values?, &plan)?;
    let residual = (linear(&context.reshape((1, query * dim))?, layer.output, None)? + x)?;
    let normed = rms_norm(&residual, layer.post_norm, EPS.into())?;
    let activated = swiglu(
        &linear(&normed, layer.gate, None)?,
        &linear(&normed, layer.up, None)?,
    )?;
    linear(&activated, layer.down, None)? + residual
}

fn run(make: &Inputs, case: &Case) -> Result<[(&'static str, Tensor); 3]> {
    let &Case {
        hidden,
        heads,
        position,
        window,
        ..
    } = case;
    let Heads { query, kv, dim } = heads;
    let intermediate = hidden + 16;
    let weight = |out: usize, width: usize, seed| small(make, &[out, width], seed);
    let q = weight(query * dim, hidden, 1)?;
    let k = weight(kv * dim, hidden, 2)?;
    let v = weight(kv * dim, hidden, 3)?;
    let biases = [query, kv, kv].map(|heads| make.tensor(&[heads * dim], 4));
    let bias = |index: usize| case.has_biases.then_some(&biases[index]);
    let norms = [whole(make, hidden, 5)?, whole(make, hidden, 6)?];
    let head_norms = [7, 8].map(|seed| make.tensor(&[dim], seed));
    let output = weight(hidden, query * dim, 9)?;
    let gate = weight(intermediate, hidden, 10)?;
    let up = weight(intermediate, hidden, 11)?;
    let down = weight(hidden, intermediate, 12)?;
    // A place after the token's holds what is no number to be used.
    let cache = |seed| {
        make.tensor(&[1, kv, position + 2, dim], seed)
            .force_contiguous()
    };
    let (keys, values) = (cache(13)?, cache(14)?);
    let frequencies = (0..dim / 2).map(|i| 0.9_f32.powi(i32::try_from(i).unwrap()));
    let table = RopeTable::new(frequencies.collect(), 1.0, make.dtype, make.device);
    let rotation = table.rotation(position, 1)?;
    let (cos, sin) = rotation.parts();
    let x = make.tensor(&[1, hidden], 15);
    let layer = Layer {
        heads,
        eps: EPS,
        input_norm: &norms[0],
        head_norms: case
            .has_head_norms
            .then_some((&head_norms[0], &head_norms[1])),
        query_key_value: [(&q, bias(0)), (&k, bias(1)), (&v, bias(2))],
        output: &output,
        post_norm: &norms[1],
        gate: &gate,
        up: &up,
        down: &down,
        cos,
        sin,
        keys: &keys,
        values: &values,
        position,
        oldest: window.map_or(0, |window| (position + 1).saturating_sub(window)),
    };
    let y = if make.device.is_metal() {
        let scratch = Scratch::new(&x, &heads, position + 1)?.expect("kernels for these heads");
        decode_layer(&x, &layer, &scratch)?.expect("kernels for this layer")
    } else {
        chain(&x, &layer, &rotation, window)?
    };
    let written = |all: &Tensor| all.narrow(2, position, 1)?.force_contiguous();
    Ok([
        ("y", y),
        ("key", written(&keys)?),
        ("value", written(&values)?),
    ])
}

macro_rules! layers {
    ($($name:ident: $hidden:literal, $query:literal / $kv:literal of $dim:literal, $position:literal, $window:expr,
       norms $norms:literal, biases $biases:literal;)*) => {
        $(#[test]
        fn $name() {
            let heads = Heads { query: $query, kv: $kv, dim: $dim };
            let case = Case {
                hidden: $hidden,
                heads,
                position: $position,
                window: $window,
                has_head_norms: $norms,
                has_biases: $biases,
            };
            on_both(stringify!($name), &LAYOUTS, |make| run(make, &case));
        })*
    };
}

// Hidden, query / key heads of a dimension, position, window.
layers! {
    the_first_token_of_all:          72, 4/2 of 16,    0, None,     norms false, biases false;
    a_token_with_biases:            264, 4/2 of 64,    9, None,     norms false, biases true;
    normed_heads_of_128:             72, 4/2 of 128,  40, None,     norms true,  biases false;
    heads_of_96_and_one_key_head:    72, 2/1 of 96,   70, None,     norms true,  biases true;
    heads_of_256:                    72, 2/2 of 256,  33, None,     norms false, biases false;
    a_window_of_few:                 72, 4/2 of 32,  300, Some(40), norms false, biases false;
    the_last_key_of_a_threadgroup:   72, 4/2 of 64,  255, None,     norms false, biases true;
    one_key_more_than_a_threadgroup: 72, 4/2 of 64,  256, None,     norms false, biases true;
    several_threadgroups:            72, 6/2 of 64,  800, None,     norms true,  biases false;
    a_window_of_several:             72, 2/1 of 128, 700, Some(520), norms false, biases false;
}

#[test]
fn logits_of_rows_that_fill_no_threadgroup() {
    for hidden in [8, 72, 520] {
        on_both(&format!("{hidden} wide"), &LAYOUTS, |make| {
            let x = make.tensor(&[1, hidden], 1);
            let norm = whole(make, hidden, 2)?;
            let head = Matrix::Dense(small(make, &[37, hidden], 3)?);
            let logits = if make.device.is_metal() {
                decode_head(&x, &norm, EPS, &head)?.expect("kernels for this head")
            } else {
                head.forward(&rms_norm(&x, &norm, EPS.into())?)?
            };
            Ok([("logits", logits)])
        });
    }
}
