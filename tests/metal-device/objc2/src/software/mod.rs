//! The software device as tests see it: what happened on it, what lives on it, how it behaves.

pub mod counters;
pub mod live;
pub mod settings;

pub use counters::{Counters, counters};
pub use live::live;
pub use settings::{Order, Settings, settings};
