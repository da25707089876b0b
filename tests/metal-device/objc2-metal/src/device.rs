//! The device: there is one, and it makes everything else.

use crate::buffer::Buffer;
use crate::library::{Function, Library, Pipeline};
use crate::queue::Queue;
use crate::{
    MTLAllocation, MTLArchitecture, MTLBuffer, MTLCommandQueue, MTLCompileOptions,
    MTLComputePipelineState, MTLFunction, MTLLibrary, MTLResidencySetDescriptor,
    MTLResourceOptions, Object,
};
use objc2::rc::{Retained, autoreleased};
use objc2::runtime::ProtocolObject;
use objc2::software::counters::{ALLOCATED, TOTALS};
use objc2_foundation::{NSArray, NSError, NSString};
use std::any::Any;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// What a machine of 16 GB reports.
const WORKING_SET: u64 = 10 << 30;

pub trait MTLDevice {
    fn registryID(&self) -> u64;
    fn newBufferWithLength_options(
        &self,
        length: usize,
        options: MTLResourceOptions,
    ) -> Option<Object<dyn MTLBuffer>>;
    unsafe fn newBufferWithBytes_length_options(
        &self,
        bytes: NonNull<c_void>,
        length: usize,
        options: MTLResourceOptions,
    ) -> Option<Object<dyn MTLBuffer>>;
    fn newLibraryWithSource_options_error(
        &self,
        source: &NSString,
        options: Option<&MTLCompileOptions>,
    ) -> Result<Object<dyn MTLLibrary>, Retained<NSError>>;
    fn newComputePipelineStateWithFunction_error(
        &self,
        function: &ProtocolObject<dyn MTLFunction>,
    ) -> Result<Object<dyn MTLComputePipelineState>, Retained<NSError>>;
    fn newCommandQueue(&self) -> Option<Object<dyn MTLCommandQueue>>;
    fn recommendedMaxWorkingSetSize(&self) -> u64;
    fn currentAllocatedSize(&self) -> usize;
    fn architecture(&self) -> Retained<MTLArchitecture>;
    fn newFence(&self) -> Option<Object<dyn MTLFence>>;
    fn newResidencySetWithDescriptor_error(
        &self,
        descriptor: &MTLResidencySetDescriptor,
    ) -> Result<Object<dyn MTLResidencySet>, Retained<NSError>>;
}

struct Device;

/// All devices of the machine.
pub fn MTLCopyAllDevices() -> Retained<NSArray<ProtocolObject<dyn MTLDevice>>> {
    NSArray::new(vec![the_device()])
}

/// The device.
#[must_use]
pub fn MTLCreateSystemDefaultDevice() -> Option<Object<dyn MTLDevice>> {
    Some(the_device())
}

pub(crate) fn the_device() -> Object<dyn MTLDevice> {
    static DEVICE: OnceLock<Object<dyn MTLDevice>> = OnceLock::new();
    DEVICE.get_or_init(|| ProtocolObject::new(Device)).clone()
}

impl MTLDevice for ProtocolObject<dyn MTLDevice> {
    fn registryID(&self) -> u64 {
        1
    }

    fn newBufferWithLength_options(
        &self,
        length: usize,
        options: MTLResourceOptions,
    ) -> Option<Object<dyn MTLBuffer>> {
        Buffer::new(length, options).map(|buffer| ProtocolObject::new(buffer))
    }

    unsafe fn newBufferWithBytes_length_options(
        &self,
        bytes: NonNull<c_void>,
        length: usize,
        options: MTLResourceOptions,
    ) -> Option<Object<dyn MTLBuffer>> {
        let buffer = Buffer::new(length, options)?;
        TOTALS.uploaded_bytes(length);
        // SAFETY: the caller has `length` bytes there, and the buffer was made for as many.
        unsafe {
            buffer
                .contents()
                .copy_from_nonoverlapping(bytes.cast(), length)
        };
        Some(ProtocolObject::new(buffer))
    }

    fn newLibraryWithSource_options_error(
        &self,
        source: &NSString,
        _options: Option<&MTLCompileOptions>,
    ) -> Result<Object<dyn MTLLibrary>, Retained<NSError>> {
        Ok(ProtocolObject::new(Library::new(source.as_str())))
    }

    fn newComputePipelineStateWithFunction_error(
        &self,
        function: &ProtocolObject<dyn MTLFunction>,
    ) -> Result<Object<dyn MTLComputePipelineState>, Retained<NSError>> {
        let function = function.implementation::<Function>();
        Ok(ProtocolObject::new(Pipeline::new(function)))
    }

    fn newCommandQueue(&self) -> Option<Object<dyn MTLCommandQueue>> {
        Queue::start().map(|queue| ProtocolObject::new(queue))
    }

    fn recommendedMaxWorkingSetSize(&self) -> u64 {
        WORKING_SET
    }

    fn currentAllocatedSize(&self) -> usize {
        ALLOCATED.load(Relaxed)
    }

    fn architecture(&self) -> Retained<MTLArchitecture> {
        autoreleased(Retained::new(MTLArchitecture))
    }

    fn newFence(&self) -> Option<Object<dyn MTLFence>> {
        Some(ProtocolObject::new(Fence))
    }

    fn newResidencySetWithDescriptor_error(
        &self,
        _descriptor: &MTLResidencySetDescriptor,
    ) -> Result<Object<dyn MTLResidencySet>, Retained<NSError>> {
        Ok(ProtocolObject::new(ResidencySet::default()))
    }
}

/// What lets an encoder wait for another.
pub trait MTLFence {}

pub(crate) struct Fence;

pub trait MTLResidencySet {
    fn addAllocation(&self, allocation: &ProtocolObject<dyn MTLAllocation>);
    fn removeAllocation(&self, allocation: &ProtocolObject<dyn MTLAllocation>);
    fn commit(&self);
    fn requestResidency(&self);
    fn allocationCount(&self) -> usize;
}

type Allocations = HashMap<usize, Arc<dyn Any + Send + Sync>>;

/// Allocations by address, which it keeps alive as Metal does.
#[derive(Default)]
struct ResidencySet(Mutex<Allocations>);

impl ResidencySet {
    fn lock(&self) -> MutexGuard<'_, Allocations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MTLResidencySet for ProtocolObject<dyn MTLResidencySet> {
    fn addAllocation(&self, allocation: &ProtocolObject<dyn MTLAllocation>) {
        let address = std::ptr::from_ref(allocation).addr();
        let set = self.implementation::<ResidencySet>();
        set.lock().insert(address, allocation.keep());
    }

    fn removeAllocation(&self, allocation: &ProtocolObject<dyn MTLAllocation>) {
        let address = std::ptr::from_ref(allocation).addr();
        self.implementation::<ResidencySet>()
            .lock()
            .remove(&address);
    }

    fn commit(&self) {}

    fn requestResidency(&self) {}

    fn allocationCount(&self) -> usize {
        self.implementation::<ResidencySet>().lock().len()
    }
}
