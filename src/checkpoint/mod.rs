//! Models, adapters, training checkpoints and sessions on disk.

mod adapter_directory;
mod atomic;
mod gguf;
mod mlx;
mod model_directory;
mod peft;
mod retention;
mod session;
mod state;
mod tensor_file;
mod text_files;

pub use adapter_directory::AdapterFormat;
pub(crate) use atomic::replace_file;
pub use gguf::GgufType;
pub(crate) use retention::clear_unfinished;
pub use retention::{
    BestCheckpoint, best, checkpoint_path, checkpoints, latest, prune, record_best,
};
pub use session::{load_session, save_session};
pub use state::Checkpoint;
pub(crate) use state::Progress;
