//! Adapters and training checkpoints on disk.

mod atomic;
mod peft;
mod state;

pub use state::{Checkpoint, checkpoint_path, latest};
