//! Choosing a device without ever panicking where there is none.

use super::threads;
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use parking_lot::ReentrantMutex;

/// Which device a model is loaded to.
///
/// # Example
///
/// ```
/// use metal_candle::backend::DeviceKind;
///
/// let device = DeviceKind::Auto.open()?;
/// println!("{}", metal_candle::backend::device::describe(&device));
/// assert_eq!(DeviceKind::from_name("cpu")?, DeviceKind::Cpu);
/// # Ok::<(), metal_candle::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum DeviceKind {
    /// Metal where there is a usable one, else CUDA where the build has it, else the CPU.
    #[default]
    Auto,
    /// The CPU, on every platform.
    Cpu,
    /// Apple's GPU; needs macOS 15 or iOS 18.
    Metal,
    /// An NVIDIA GPU; needs the `cuda` feature and a driver.
    Cuda,
}

impl DeviceKind {
    /// The kind by its name: `auto`, `cpu`, `metal` or `cuda`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOption`] for any other name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "metal" => Ok(Self::Metal),
            "cuda" => Ok(Self::Cuda),
            other => Err(Error::option(
                "device",
                format!("`{other}`"),
                "`auto`, `cpu`, `metal` or `cuda`",
            )),
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    ///
    /// [`Error::DeviceUnavailable`] with the reason where Metal or CUDA was asked for by name and
    /// is not there. `Auto` and `Cpu` do not fail.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Metal => open_metal().map_err(|reason| unavailable("metal", reason)),
            Self::Cuda => open_cuda().map_err(|reason| unavailable("cuda", reason)),
            Self::Auto => Ok(open_metal()
                .or_else(|metal| {
                    open_cuda().or_else(|cuda| {
                        tracing::debug!(%metal, %cuda, "no GPU, using the CPU");
                        Ok::<_, String>(Device::Cpu)
                    })
                })
                .unwrap_or(Device::Cpu)),
        }
    }
}

fn unavailable(device: &str, reason: String) -> Error {
    Error::DeviceUnavailable {
        device: device.to_owned(),
        reason,
    }
}

/// One word for the device: `cpu`, `metal` or `cuda`.
#[must_use]
pub fn describe(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Metal(_) => "metal",
        Device::Cuda(_) => "cuda",
    }
}

/// Runs one step of work in the surroundings that its device wants.
///
/// On the CPU that is a thread of the pool that computes: from outside, each operation would wait
/// for the pool to wake and to answer. On Apple's systems it is an autorelease pool, without which
/// memory grows by a little with every operation. And Metal takes one step at a time: a thread that
/// waits for the device makes candle forget what orders the commands that another thread encodes.
/// Under that lock nothing is given to the thread pool, whose threads may be waiting for the lock.
pub(crate) fn scoped<T: Send>(device: &Device, work: impl FnOnce() -> T + Send) -> T {
    static METAL: ReentrantMutex<()> = ReentrantMutex::new(());
    match device {
        Device::Cpu => threads::run(work),
        Device::Cuda(_) => work(),
        Device::Metal(_) => {
            let _turn = METAL.lock();
            autorelease(work)
        }
    }
}

/// Runs one step of work as [`scoped`] does, and waits until the device has done all of it.
///
/// A GPU reports a failure to who waits. Candle's readback waits for its own commands only, so what
/// failed before them would show as wrong numbers; and on Metal it keeps what orders the commands of
/// a step until such a wait.
pub(crate) fn completed<T: Send>(
    device: &Device,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    scoped(device, || {
        let result = work();
        // First, because an error of `work` may follow from the device's.
        device.synchronize()?;
        result
    })
}

/// The numbers of a vector, on the host.
pub(crate) fn to_host(vector: &Tensor) -> Result<Vec<f32>> {
    completed(vector.device(), || Ok(vector.to_vec1()?))
}

#[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
fn autorelease<T>(work: impl FnOnce() -> T) -> T {
    objc2::rc::autoreleasepool(|_| work())
}

#[cfg(not(any(feature = "metal", target_os = "macos", target_os = "ios")))]
fn autorelease<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
fn open_metal() -> std::result::Result<Device, String> {
    use super::shared_device::SharedDevice;
    static SHARED: SharedDevice = SharedDevice::new();
    SHARED.open(new_metal)
}

/// Candle's constructor panics without a GPU, and on systems before macOS 15 where the class that it
/// looks up does not exist. So both are asked for first.
#[cfg(any(feature = "metal", target_os = "macos", target_os = "ios"))]
fn new_metal() -> std::result::Result<Device, String> {
    if objc2::runtime::AnyClass::get(c"MTLResidencySetDescriptor").is_none() {
        return Err("Metal needs macOS 15 or iOS 18".to_owned());
    }
    if candle_metal_kernels::metal::Device::all().is_empty() {
        return Err("this machine has no Metal device".to_owned());
    }
    Device::new_metal(0).map_err(|error| error.to_string())
}

#[cfg(not(any(feature = "metal", target_os = "macos", target_os = "ios")))]
fn open_metal() -> std::result::Result<Device, String> {
    Err("this build has no Metal backend".to_owned())
}

#[cfg(feature = "cuda")]
fn open_cuda() -> std::result::Result<Device, String> {
    use super::shared_device::SharedDevice;
    static SHARED: SharedDevice = SharedDevice::new();
    SHARED.open(new_cuda)
}

/// Candle's constructor panics where the driver library cannot be loaded, so that is tried first.
#[cfg(feature = "cuda")]
fn new_cuda() -> std::result::Result<Device, String> {
    use candle_core::cuda_backend::cudarc::driver::sys;
    #[allow(unsafe_code, reason = "the probe is a foreign function")]
    // SAFETY: only tries to open the driver library by its own name; no pointer is involved.
    if !unsafe { sys::is_culib_present() } {
        return Err("the NVIDIA driver (libcuda) is not installed".to_owned());
    }
    // One stream for all threads, so that what one computes is there for the next. Candle's usual one is
    // another for each thread, and nothing orders them.
    let device = Device::new_cuda_with_stream(0).map_err(|error| error.to_string())?;
    let cuda = device.as_cuda_device().map_err(|error| error.to_string())?;
    #[allow(unsafe_code, reason = "candle's settings for streams and memory")]
    // SAFETY: with one stream there are no events to wait for. The attribute is a number of 64 bits, read
    // during the call; where a call fails, memory is given back at every wait, as before.
    unsafe {
        cuda.disable_event_tracking();
        let mut pool = std::ptr::null_mut();
        let mut keep = u64::MAX;
        if sys::cuDeviceGetDefaultMemPool(&raw mut pool, 0) == sys::CUresult::CUDA_SUCCESS {
            let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            let _ = sys::cuMemPoolSetAttribute(pool, threshold, (&raw mut keep).cast());
        }
    }
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda() -> std::result::Result<Device, String> {
    Err("this build has no CUDA backend; it needs the `cuda` feature".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_always_opens() {
        DeviceKind::Auto.open().unwrap();
    }

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for (name, kind) in [
            ("auto", DeviceKind::Auto),
            ("cpu", DeviceKind::Cpu),
            ("metal", DeviceKind::Metal),
            ("cuda", DeviceKind::Cuda),
        ] {
            assert_eq!(DeviceKind::from_name(name).unwrap(), kind);
        }
        let message = DeviceKind::from_name("tpu").unwrap_err().to_string();
        assert!(
            message.contains("`tpu`") && message.contains("`metal`"),
            "{message}"
        );
    }

    #[cfg(not(any(
        feature = "cuda",
        feature = "metal",
        target_os = "macos",
        target_os = "ios"
    )))]
    #[test]
    fn a_missing_gpu_is_an_error_not_a_panic() {
        for kind in [DeviceKind::Metal, DeviceKind::Cuda] {
            assert!(matches!(kind.open(), Err(Error::DeviceUnavailable { .. })));
        }
    }
}
