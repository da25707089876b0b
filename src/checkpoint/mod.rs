//! Models, adapters, training checkpoints and sessions on disk.

mod adapter_directory;
mod atomic;
mod gguf;
mod mlx;
mod model_directory;
mod peft;
#[cfg(feature = "training")]
mod retention;
mod session;
#[cfg(feature = "training")]
mod state;
mod tensor_file;
mod text_files;

pub use adapter_directory::AdapterFormat;
pub(crate) use atomic::replace_file;
pub use gguf::GgufType;
pub use session::{load_session, save_session};
#[cfg(feature = "training")]
pub(crate) use {retention::clear_unfinished, state::Progress};
#[cfg(feature = "training")]
pub use {
    retention::{BestCheckpoint, best, checkpoint_path, checkpoints, latest, prune, record_best},
    state::Checkpoint,
};
