//! Threads, and the memory that they share.

use rayon::prelude::*;
use std::cell::Cell;
use std::thread::LocalKey;

/// Multiplications below which one thread is faster than several.
pub(in crate::backend::kernels) const PARALLEL: usize = 1 << 18;

/// How many threads so much work is for.
pub(in crate::backend::kernels) fn threads(multiplications: usize) -> usize {
    if multiplications < PARALLEL {
        1
    } else {
        rayon::current_num_threads()
    }
}

/// Does tasks on the threads of the pool, which take the next as they are free.
pub(in crate::backend::kernels) fn each(
    threads: usize,
    tasks: usize,
    work: impl Fn(usize) + Send + Sync,
) {
    if threads == 1 || tasks == 1 {
        (0..tasks).for_each(work);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(work);
    }
}

/// Numbers of which each task writes its own.
#[derive(Clone, Copy)]
pub(in crate::backend::kernels) struct Shared(pub(in crate::backend::kernels) *mut f32);

// SAFETY: tasks write disjoint parts, and only read what was written before they began.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// What lies so many numbers further on.
    ///
    /// # Safety
    ///
    /// The offset lies within the numbers.
    #[inline(always)]
    pub(in crate::backend::kernels) unsafe fn at(self, offset: usize) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { self.0.add(offset) })
    }
}

/// Words in a line of the cache, to which buffers are aligned.
pub(in crate::backend::kernels) const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(align(64))]
pub(in crate::backend::kernels) struct Line(
    #[expect(dead_code, reason = "it is read through pointers")] [u32; LINE],
);

/// Where a thread keeps a [`Buffer`].
pub(in crate::backend::kernels) type Kept = Cell<Vec<Line>>;

/// Memory of a thread that is kept from product to product. Who takes it while it is taken, because a
/// thread that waits took up other work, gets some of its own.
pub(in crate::backend::kernels) struct Buffer {
    lines: Vec<Line>,
    from: &'static LocalKey<Kept>,
}

impl Buffer {
    /// At least so many words.
    pub(in crate::backend::kernels) fn take(from: &'static LocalKey<Kept>, words: usize) -> Self {
        let mut lines = from.take();
        let count = words.div_ceil(LINE);
        if lines.len() < count {
            lines.clear();
            lines.resize(count, Line([0; LINE]));
        }
        Self { lines, from }
    }

    pub(in crate::backend::kernels) fn words(&mut self) -> *mut u32 {
        self.lines.as_mut_ptr().cast()
    }

    /// Its memory in parts of the given lengths, of which there is room for the sum.
    #[inline(always)]
    pub(in crate::backend::kernels) fn split<const PARTS: usize>(
        &mut self,
        lengths: [usize; PARTS],
    ) -> [&mut [f32]; PARTS] {
        let count = self.lines.len() * LINE;
        // SAFETY: the lines are so many words, and all bits are numbers.
        let mut rest = unsafe { std::slice::from_raw_parts_mut(self.words().cast::<f32>(), count) };
        lengths.map(|length| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            part
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.from.set(std::mem::take(&mut self.lines));
    }
}
