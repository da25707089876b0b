use super::super::attention::{AttentionPlan, attention, attention_backward};
use crate::backend::testing::{Layout, device, on_both, read};
use candle_core::{DType, Tensor};

/// Keys and values come from the decoder's split of heads, from a cache, or contiguous. Queries and
/// gradients are made contiguous by the operation itself.
const LAYOUTS: [Layout; 4] = [Layout::Whole, Layout::Offset, Layout::Cached, Layout::Split];

struct Case {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    offset: usize,
    queries: usize,
    window: Option<usize>,
}

fn check(case: &Case) {
    let &Case {
        batch,
        heads,
        kv_heads,
        head_dim,
        offset,
        queries,
        window,
    } = case;
    let name = format!(
        "{batch} x {heads}/{kv_heads} heads of {head_dim}, {offset} + {queries}, window {window:?}"
    );
    on_both(&name, &LAYOUTS, |make| {
        let keys = [batch, kv_heads, offset + queries, head_dim];
        let q = make.tensor(&[batch, heads, queries, head_dim], 1);
        let (k, v) = (make.tensor(&keys, 2), make.tensor(&keys, 3));
        let dy = make.tensor(&[batch, heads, queries, head_dim], 4);
        let plan = AttentionPlan::causal(offset, queries, window, make.device)?;
        let y = attention(&q, &k, &v, &plan)?;
        let (dq, dk, dv) = attention_backward(&q, &k, &v, &plan, &y, &dy)?;
        Ok([("y", y), ("dq", dq), ("dk", dk), ("dv", dv)])
    });
}

macro_rules! cases {
    ($($name:ident: $batch:literal, $heads:literal / $kv_heads:literal of $head_dim:literal,
       $offset:literal + $queries:literal, $window:expr;)*) => {
        $(#[test]
        fn $name() {
            check(&Case {
                batch: $batch,
                heads: $heads,
                kv_heads: $kv_heads,
                head_dim: $head_dim,
                offset: $offset,
                queries: $queries,
                window: $window,
            });
        })*
    };
}

// Batch, heads / key heads of a dimension, positions before + queries, window.
cases! {
    a_head_for_every_query_head:  1, 4/4 of 64,   0 + 3,   None;
    grouped_queries:              2, 4/2 of 32,   0 + 33,  None;
    grouped_queries_of_80:        2, 8/2 of 80,   3 + 5,   None;
    one_key_head_in_a_batch:      2, 4/1 of 32,   0 + 7,   None;
    one_key_head_and_a_window:    3, 2/1 of 64,   2 + 7,   Some(3);
    a_window:                     2, 4/2 of 32,   3 + 9,   Some(4);
    one_token_after_others:       1, 4/2 of 64,   9 + 1,   None;
    one_token_with_a_window:      1, 4/2 of 80,   9 + 1,   Some(4);
    one_token_in_a_batch:         2, 4/2 of 32,   5 + 1,   None;
    two_blocks_and_a_window:      1, 2/1 of 32,   5 + 300, Some(40);
    three_blocks_the_last_of_one: 1, 4/2 of 32,   0 + 513, None;
    a_block_after_a_long_context: 2, 2/2 of 32, 600 + 3,   None;
}

/// Two thousand keys with the same score: a softmax in sixteen bits stops counting them on the way.
#[test]
fn many_keys_that_are_alike() {
    let device = device();
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let keys = Tensor::ones((1, 1, 2000, 32), dtype, device).unwrap();
        let query = keys.narrow(2, 0, 1).unwrap().contiguous().unwrap();
        let plan = AttentionPlan::causal(1999, 1, None, device).unwrap();
        let mean = attention(&query, &keys, &keys, &plan).unwrap();
        for number in read(&mean) {
            // The CPU adds the products of `f16` in `f16`.
            assert!((number - 1.0).abs() < 0.05, "{dtype:?}: {number}");
        }
    }
}
