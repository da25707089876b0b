//! Models, adapters, training checkpoints and sessions on disk.

mod atomic;
mod model_directory;
mod peft;
mod retention;
mod session;
mod state;

pub(crate) use atomic::replace_file;
pub use retention::{
    BestCheckpoint, best, checkpoint_path, checkpoints, latest, prune, record_best,
};
pub use session::{load_session, save_session};
pub use state::Checkpoint;
