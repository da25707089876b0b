//! What two Rust libraries in one program could spoil for each other: panics and their hook, hash maps
//! with their random keys, threads and what is local to them.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{catch_unwind, set_hook};
use std::sync::atomic::{AtomicUsize, Ordering};

static SEEN: AtomicUsize = AtomicUsize::new(0);

thread_local!(static LAST: Cell<usize> = const { Cell::new(0) });

/// Panics in so many threads, catches every panic, and gives how many its own hook saw.
#[no_mangle]
pub extern "C" fn neighbour_panics(threads: usize) -> usize {
    set_hook(Box::new(|_| {
        SEEN.fetch_add(1, Ordering::SeqCst);
    }));
    let running: Vec<_> = (0..threads)
        .map(|index| {
            std::thread::spawn(move || {
                LAST.with(|last| last.set(index));
                catch_unwind(|| panic!("thread {index}")).is_err()
                    && LAST.with(Cell::get) == index
            })
        })
        .collect();
    let caught: HashMap<usize, bool> = running
        .into_iter()
        .map(|thread| thread.join().unwrap_or(false))
        .enumerate()
        .collect();
    if caught.len() == threads && caught.values().all(|caught| *caught) {
        SEEN.load(Ordering::SeqCst)
    } else {
        0
    }
}
