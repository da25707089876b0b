//! Stopping long work from another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Asks a running generation or training to stop; any thread may hold one.
///
/// The work stops before its next token or step. A request made while nothing runs has no effect.
///
/// # Example
///
/// ```
/// use metal_candle::{Generator, ModelLoader};
///
/// let model = ModelLoader::new().load("assets/tiny-coder")?;
/// let generator = Generator::new(&model);
/// let cancel = generator.cancel_handle();
/// std::thread::spawn(move || cancel.cancel());
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct CancelHandle {
    requested: Arc<AtomicBool>,
}

impl CancelHandle {
    /// Requests the stop.
    pub fn cancel(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    pub(crate) fn reset(&self) {
        self.requested.store(false, Ordering::Relaxed);
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }
}
