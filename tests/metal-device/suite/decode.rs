//! What one token may cost, however many came before it.

use super::{TINY, at_tokens, exclusive, model};
use objc2::software::{counters, live};

const LAYERS: u64 = 2;
/// Positions by which a cache grows, and keys of one threadgroup.
const GROWTH: usize = 256;

#[test]
fn a_token_takes_few_kernels_one_wait_and_no_memory_that_stays() {
    let _device = exclusive();
    // To a context whose attention takes two threadgroups, and a kernel that puts them together.
    let prompt: Vec<u32> = (0..100).collect();
    let read = || (counters(), live()["MTLBuffer"]);
    let seen = at_tokens(&model(TINY), &prompt, 210, read);
    for token in 5..seen.len() {
        let cost = seen[token].0 - seen[token - 1].0;
        let position = prompt.len() + token - 1;
        let in_a_layer = if position >= GROWTH { 6 } else { 5 };
        // The embedding, the layers and the output head.
        if position != GROWTH {
            assert_eq!(cost.dispatches, 2 + in_a_layer * LAYERS, "{token}");
            assert_eq!(cost.filled_bytes, 0, "{token}");
        }
        assert_eq!(cost.host_waits, 1, "{token}");
    }
    // Besides the parts of the two threadgroups.
    assert!(
        seen[209].1 <= seen[9].1 + 1,
        "{}, {}",
        seen[9].1,
        seen[209].1
    );
}
