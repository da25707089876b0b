//! Whether the system gives memory, asked before much of it is used.
//!
//! Rust's allocator ends the process where it gets none, and candle allocates tensors of the CPU with it.
//! So what a caller can make large is asked for first, and given back, which costs a system call: no page
//! is touched. GPUs answer for themselves.

use candle_core::{Device, Error, Result};

/// A process that gets less than this is about to end anyway.
const LARGE: usize = 1 << 20;

/// What an optimizer makes of each trained number, in `f32`: the number itself, its gradient, two moments
/// and one more while a step computes.
pub(crate) const TRAINED_BYTES: usize = 5 * 4;

/// Fails where the system refuses memory for `count` numbers of `size` bytes.
///
/// # Errors
///
/// [`Error::Msg`] that says what the memory is for, also where there are more bytes than can be counted.
pub(crate) fn check(device: &Device, count: usize, size: usize, what: &str) -> Result<()> {
    let refused = || {
        Error::Msg(format!(
            "{what}: the system has no memory for {count} times {size} bytes"
        ))
    };
    let bytes = count.checked_mul(size).ok_or_else(refused)?;
    if !device.is_cpu() || bytes < LARGE {
        return Ok(());
    }
    let mut room = Vec::<u8>::new();
    room.try_reserve_exact(bytes).map_err(|_| refused())?;
    // What is not used may not be allocated at all.
    std::hint::black_box(&mut room);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_system_has_is_refused() {
        assert!(check(&Device::Cpu, 1 << 20, 4, "a little").is_ok());
        for (count, size) in [(usize::MAX, 1), (usize::MAX, 4), (1 << 62, 2), (1 << 60, 4)] {
            let error = check(&Device::Cpu, count, size, "too much").unwrap_err();
            assert!(error.to_string().starts_with("too much: "), "{error}");
        }
    }
}
