//! A GPU that is opened once in a process: kernels are compiled and memory is pooled per device, and
//! tensors of two do not mix.

use super::device::scoped;
use candle_core::{DType, Device, Result, Tensor};
use parking_lot::Mutex;

/// The device, once it was asked for.
pub(super) struct SharedDevice(Mutex<Option<Device>>);

impl SharedDevice {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The device. One that was lost, or that a panic left locked, is opened anew.
    pub(super) fn open(
        &self,
        open: impl FnOnce() -> std::result::Result<Device, String>,
    ) -> std::result::Result<Device, String> {
        let mut shared = self.0.lock();
        if let Some(device) = shared.as_ref().filter(|device| probe(device).is_ok()) {
            return Ok(device.clone());
        }
        let device = open()?;
        *shared = Some(device.clone());
        Ok(device)
    }
}

/// Has the device do something.
fn probe(device: &Device) -> Result<()> {
    scoped(device, || {
        // Once more after an error, which may be the rest of one that was reported.
        device.synchronize().or_else(|_| device.synchronize())?;
        Tensor::zeros(1, DType::U8, device)?;
        device.synchronize()
    })
}
