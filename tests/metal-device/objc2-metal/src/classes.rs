//! Numbers and small classes of Metal.

use crate::MTLDevice;
use objc2::rc::{Retained, autoreleased};
use objc2::runtime::ProtocolObject;
use objc2::software::settings;
use objc2_foundation::{NSError, NSString, NSURL};

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident($type:ty) { $($value:ident = $number:expr),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
            pub struct $name(pub $type);

            impl $name {
                $(pub const $value: Self = Self($number);)*
            }
        )*
    };
}

numbers! {
    /// Where a buffer's memory is, and whether Metal orders the commands that use it.
    MTLResourceOptions(usize) {
        StorageModeShared = 0,
        StorageModeManaged = 1 << 4,
        StorageModePrivate = 2 << 4,
        HazardTrackingModeUntracked = 1 << 8,
    }
    /// What a barrier is for.
    MTLBarrierScope(usize) { Buffers = 1 }
    /// Whether kernels of an encoder may overlap.
    MTLDispatchType(usize) { Serial = 0, Concurrent = 1 }
    /// How far a command buffer is.
    MTLCommandBufferStatus(usize) {
        NotEnqueued = 0,
        Enqueued = 1,
        Committed = 2,
        Scheduled = 3,
        Completed = 4,
        Error = 5,
    }
    /// How exact arithmetic is. The software device is always exact.
    MTLMathMode(isize) { Safe = 0, Relaxed = 1, Fast = 2 }
    /// How exact functions such as `exp` are.
    MTLMathFloatingPointFunctions(isize) { Fast = 0, Precise = 1 }
    /// The type of a function constant.
    MTLDataType(usize) { Float = 3, UShort = 41, Bool = 53, ULong = 85 }
    /// Where a capture goes.
    MTLCaptureDestination(isize) { DeveloperTools = 1, GPUTraceDocument = 2 }
}

/// Three lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MTLSize {
    pub width: usize,
    pub height: usize,
    pub depth: usize,
}

/// What a device is called.
pub struct MTLArchitecture;

impl MTLArchitecture {
    #[must_use]
    pub fn name(&self) -> Retained<NSString> {
        autoreleased(NSString::from_str(&settings().architecture))
    }
}

/// How a library is compiled. Nothing of it changes what the software device does.
pub struct MTLCompileOptions;

impl MTLCompileOptions {
    pub fn new() -> Retained<Self> {
        Retained::new(Self)
    }

    pub fn setMathMode(&self, _mode: MTLMathMode) {}

    pub fn setMathFloatingPointFunctions(&self, _functions: MTLMathFloatingPointFunctions) {}

    pub fn setFastMathEnabled(&self, _enabled: bool) {}
}

/// How a residency set is made.
pub struct MTLResidencySetDescriptor;

impl MTLResidencySetDescriptor {
    pub fn new() -> Retained<Self> {
        Retained::new(Self)
    }
}

/// What is captured.
pub struct MTLCaptureDescriptor;

impl MTLCaptureDescriptor {
    pub fn new() -> Retained<Self> {
        Retained::new(Self)
    }

    pub fn setDestination(&self, _destination: MTLCaptureDestination) {}

    pub fn set_capture_device(&self, _device: &ProtocolObject<dyn MTLDevice>) {}

    pub fn setOutputURL(&self, _url: Option<&NSURL>) {}
}

/// Who captures: nobody.
pub struct MTLCaptureManager;

impl MTLCaptureManager {
    pub unsafe fn sharedCaptureManager() -> Retained<Self> {
        Retained::new(Self)
    }

    pub fn startCaptureWithDescriptor_error(
        &self,
        _descriptor: &MTLCaptureDescriptor,
    ) -> Result<(), Retained<NSError>> {
        Err(NSError::new("the software device captures nothing"))
    }
}
