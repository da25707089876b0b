//! What the device was asked to do since the process started.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The bytes of all buffers that are alive.
pub static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A reading of all counters; the difference of two is what happened between them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Names and values, in order.
            #[must_use]
            pub fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }

        impl Sub for Counters {
            type Output = Self;

            fn sub(self, earlier: Self) -> Self {
                Self { $($name: self.$name - earlier.$name),* }
            }
        }

        /// The counters themselves.
        #[derive(Default)]
        pub struct Totals {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Totals {
            $(
                /// Adds to the counter.
                pub fn $name(&self, count: usize) {
                    self.$name.fetch_add(count as u64, Relaxed);
                }
            )*
        }

        /// Where the device counts.
        pub static TOTALS: Totals = Totals { $($name: AtomicU64::new(0)),* };

        /// Reads the counters.
        #[must_use]
        pub fn counters() -> Counters {
            Counters { $($name: TOTALS.$name.load(Relaxed)),* }
        }
    };
}

counters! {
    /// Kernels that were encoded.
    dispatches,
    /// Barriers between kernels of one encoder.
    barriers,
    /// Encoders of kernels, and of copies and fills.
    encoders,
    /// Command buffers that were committed.
    command_buffers,
    /// Times that the host waited for the device.
    host_waits,
    /// Buffers that were made.
    buffers,
    /// Bytes of these buffers.
    buffer_bytes,
    /// Bytes that came from the host with a new buffer.
    uploaded_bytes,
    /// Bytes that the device copied from buffer to buffer.
    copied_bytes,
    /// Bytes that the device filled with a value.
    filled_bytes,
    /// Operations of a simdgroup whose threads had parted ways; undefined on Apple's hardware.
    divergent_operations,
}
