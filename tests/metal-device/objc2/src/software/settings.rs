//! How the device behaves. Every setting starts from an environment variable, so that C programs can
//! be run under it too, and can be changed by a test while the device runs.

use std::env;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// In which of the orders that Metal allows commands run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As they were encoded.
    Encoded,
    /// As late as barriers and fences permit before what was encoded earlier. Two commands that need an
    /// order and have none always run the wrong way round.
    #[default]
    Reversed,
}

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `METAL_DEVICE_ORDER`: `reversed`, or `encoded`.
    pub order: Order,
    /// `METAL_DEVICE_IN_FLIGHT`: how many command buffers run together, so that encoders of different ones
    /// can change places. Fewer run when the host waits.
    pub in_flight: usize,
    /// `METAL_DEVICE_POISON`: whether bytes of new buffers are 0xFF, which is NaN as a float, rather than
    /// zero. Metal zeroes new buffers, but candle keeps buffers and hands them out again as they are.
    pub poison: bool,
    /// `METAL_DEVICE_MEMORY`: the bytes of all buffers; one that would exceed them is not made.
    pub memory: Option<usize>,
    /// `METAL_DEVICE_LOST_AFTER`: the number of command buffers after which the device is lost.
    pub lost_after: Option<u64>,
    /// `METAL_DEVICE_FAIL`: the number of the one command buffer that fails, from 1.
    pub fail: Option<u64>,
    /// `METAL_DEVICE_NAME`: the architecture, from which candle chooses the tiles of matrix products.
    pub architecture: String,
    /// `METAL_DEVICE_TRACE`: whether each kernel is named on stderr when it runs.
    pub trace: bool,
}

/// The settings, to be read or changed.
///
/// # Panics
///
/// If a variable has a value that is none of those named.
pub fn settings() -> MutexGuard<'static, Settings> {
    static SETTINGS: OnceLock<Mutex<Settings>> = OnceLock::new();
    SETTINGS
        .get_or_init(|| Mutex::new(Settings::from_environment()))
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

impl Settings {
    fn from_environment() -> Self {
        Self {
            order: match variable::<String>("METAL_DEVICE_ORDER").as_deref() {
                None | Some("reversed") => Order::Reversed,
                Some("encoded") => Order::Encoded,
                Some(other) => panic!("METAL_DEVICE_ORDER is `{other}`, not reversed or encoded"),
            },
            in_flight: variable("METAL_DEVICE_IN_FLIGHT").unwrap_or(3),
            poison: variable("METAL_DEVICE_POISON") != Some(0_u8),
            memory: variable("METAL_DEVICE_MEMORY"),
            lost_after: variable("METAL_DEVICE_LOST_AFTER"),
            fail: variable("METAL_DEVICE_FAIL"),
            architecture: variable("METAL_DEVICE_NAME")
                .unwrap_or_else(|| "applegpu_g13g".to_owned()),
            trace: variable("METAL_DEVICE_TRACE") == Some(1_u8),
        }
    }
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok()?;
    let value = text.parse().ok();
    assert!(value.is_some(), "{name} is `{text}`");
    value
}
