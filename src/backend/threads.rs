//! The threads that compute on the CPU.
//!
//! There is one pool for all models, of which each step of work takes what is free. It is `rayon`'s own,
//! the one of the process, until a [count](set_count) is set, and then one of this library.

use crate::error::{Error, Result};
use parking_lot::RwLock;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;

/// The most threads that can be asked for.
pub const MAX_COUNT: usize = 1024;

/// The pool of this library, where a count was set.
static POOL: RwLock<Option<Arc<ThreadPool>>> = RwLock::new(None);

/// Sets how many threads compute on the CPU, in the whole process; 0 is the default: as many as the
/// environment variable `RAYON_NUM_THREADS` says, or one for each logical CPU.
///
/// It may be called at any time. What runs goes on with the threads that it has to the end of its token
/// or batch, and takes up the new ones then; threads that are not needed end. A program that is written
/// in Rust and calls this library inside a `rayon` pool of its own computes on the threads of that.
///
/// Losses of training may differ in the last bits between two counts, because each thread sums a share
/// of the rows. Not all threads can be set: those of Apple's Accelerate are the system's, and a few
/// operations of candle have threads of their own, as many as `CANDLE_NUM_THREADS` says when the first of
/// them runs.
///
/// # Errors
///
/// [`Error::InvalidOption`] for more than [`MAX_COUNT`], and where the system does not start so many. All
/// then is as before.
///
/// # Example
///
/// ```
/// use metal_candle::backend::threads;
///
/// threads::set_count(2)?;
/// assert_eq!(threads::count(), 2);
/// # threads::set_count(0)?;
/// # Ok::<(), metal_candle::Error>(())
/// ```
pub fn set_count(count: usize) -> Result<()> {
    let pool = match count {
        0 => None,
        1..=MAX_COUNT => {
            let builder = ThreadPoolBuilder::new()
                .num_threads(count)
                .thread_name(|index| format!("candle-{index}"));
            let pool = builder.build().map_err(|reason| {
                let found = format!("{count}, and the system does not start them ({reason})");
                Error::option("thread_count", found, "fewer threads")
            })?;
            Some(Arc::new(pool))
        }
        _ => {
            let expected = format!("0 to {MAX_COUNT}");
            return Err(Error::option("thread_count", count, expected));
        }
    };
    *POOL.write() = pool;
    tracing::debug!(count, "the number of threads was set; 0 is the default");
    Ok(())
}

/// How many threads compute on the CPU. Where none do yet, and no count was set, they are started.
#[must_use]
pub fn count() -> usize {
    run(rayon::current_num_threads)
}

/// Runs work on the threads that compute. What runs on threads of a pool stays there.
pub(crate) fn run<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let own = match rayon::current_thread_index() {
        Some(_) => None,
        None => POOL.read().clone(),
    };
    match own {
        Some(pool) => pool.install(work),
        None => rayon::scope(|_| work()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::testing::in_own_process;

    /// The count is of the process, and other tests compare sums to the last bit.
    #[test]
    fn a_count_can_be_set_at_any_time() {
        if !in_own_process("backend::threads::tests::a_count_can_be_set_at_any_time") {
            return;
        }
        let default = count();
        assert_eq!(default, rayon::current_num_threads());
        set_count(3).unwrap();
        assert_eq!(count(), 3);
        let nested = run(|| {
            set_count(2).unwrap();
            (
                rayon::current_num_threads(),
                run(rayon::current_num_threads),
            )
        });
        assert_eq!(nested, (3, 3), "work stays where it began");
        assert_eq!(count(), 2);

        let host = ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        assert_eq!(host.install(count), 5);
        for (wrong, expected) in [(MAX_COUNT + 1, "0 to 1024"), (usize::MAX, "0 to 1024")] {
            let message = set_count(wrong).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(count(), 2);
        set_count(0).unwrap();
        assert_eq!(count(), default);
    }
}
