//! Threads that go through one program together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A program in phases, each of which is cut into chunks. All threads run the whole program; a chunk is
/// done by whoever claims it, and a phase is over when all its chunks are done.
///
/// No thread is waited for but those that are at work: one that comes late, because it was busy elsewhere,
/// finds what is done, and takes part from there. Between phases threads wait without sleeping, because a
/// token has some hundred phases of a few microseconds.
pub(super) struct Team {
    phases: Box<[Phase]>,
}

/// In a cache line of its own, so that threads that claim do not slow those that wait.
#[repr(align(128))]
#[derive(Default)]
struct Phase {
    claimed: AtomicUsize,
    done: AtomicUsize,
}

/// Counts a chunk as done, even one that panicked: nobody waits for it then, and the panic comes out of
/// [`Team::run`].
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl Team {
    /// Runs a program of so many phases on all threads of the pool.
    pub fn run(phases: usize, program: impl Fn(&Self) + Sync) {
        let team = Self {
            phases: (0..phases).map(|_| Phase::default()).collect(),
        };
        let (team, program) = (&team, &program);
        rayon::scope(|scope| {
            for _ in 1..rayon::current_num_threads() {
                scope.spawn(move |_| program(team));
            }
            program(team);
        });
    }

    /// Does chunks of a phase until all are done; `work` gets the number of each.
    pub fn phase(&self, index: usize, chunks: usize, mut work: impl FnMut(usize)) {
        /// Turns after which a thread lets others have its processor: there may be fewer of those than
        /// threads.
        const PATIENCE: usize = 1 << 12;
        let Some(Phase { claimed, done }) = self.phases.get(index) else {
            return;
        };
        while claimed.load(Ordering::Relaxed) < chunks {
            let chunk = claimed.fetch_add(1, Ordering::Relaxed);
            if chunk < chunks {
                let _done = Done(done);
                work(chunk);
            }
        }
        let mut turns = 0;
        while done.load(Ordering::Acquire) < chunks {
            turns += 1;
            if turns % PATIENCE == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn each_chunk_is_done_once_and_before_the_next_phase() {
        let sums: Vec<AtomicU64> = (0..50).map(|_| AtomicU64::new(0)).collect();
        Team::run(50, |team| {
            for (phase, sum) in sums.iter().enumerate() {
                team.phase(phase, 7, |chunk| {
                    if phase > 0 {
                        assert_eq!(sums[phase - 1].load(Ordering::Relaxed), 28);
                    }
                    sum.fetch_add(chunk as u64 + 1, Ordering::Relaxed);
                });
            }
        });
        assert!(sums.iter().all(|sum| sum.load(Ordering::Relaxed) == 28));
    }

    #[test]
    fn a_panic_comes_out_and_nobody_waits() {
        let found = std::panic::catch_unwind(|| {
            Team::run(2, |team| {
                team.phase(0, 3, |chunk| assert!(chunk != 1, "chunk 1"));
                team.phase(1, 3, |_| {});
            });
        });
        assert!(found.is_err());
    }
}
