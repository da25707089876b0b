//! Encoders: they record commands, and what these wait for.

use crate::buffer::Buffer;
use crate::command::{Binding, Command, Dispatch, Place};
use crate::device::Fence;
use crate::kernel::SLOTS;
use crate::library::Pipeline;
use crate::{MTLBarrierScope, MTLBuffer, MTLComputePipelineState, MTLFence, MTLSize};
use objc2::runtime::ProtocolObject;
use objc2::software::counters::TOTALS;
use objc2_foundation::{NSRange, NSString};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Metal's limit of `setBytes`.
const MAX_BYTES: usize = 4096;
/// What the length of threadgroup memory must be a multiple of.
const THREADGROUP_UNIT: usize = 16;

/// What an encoder recorded.
#[derive(Default)]
pub(crate) struct Recording {
    /// Fences that it waits for before its commands.
    pub(crate) waits: Vec<Arc<Fence>>,
    /// Fences that it updates after its commands.
    pub(crate) updates: Vec<Arc<Fence>>,
    /// Commands between barriers: those of a group may run in any order.
    pub(crate) groups: Vec<Vec<Command>>,
    /// Use that Metal forbids; the first of it.
    pub(crate) fault: Option<String>,
    pub(crate) has_ended: bool,
}

impl Recording {
    fn push(&mut self, command: Command) {
        self.check(!self.has_ended, || "a command after endEncoding".to_owned());
        if self.groups.is_empty() {
            self.barrier();
        }
        if let Some(group) = self.groups.last_mut() {
            group.push(command);
        }
    }

    fn barrier(&mut self) {
        self.groups.push(Vec::new());
    }

    fn end(&mut self) {
        let is_open = !self.has_ended;
        self.check(is_open, || "a second endEncoding".to_owned());
        self.has_ended = true;
    }

    fn check(&mut self, is_allowed: bool, fault: impl FnOnce() -> String) {
        if !is_allowed {
            self.fault.get_or_insert_with(fault);
        }
    }
}

/// A recording that its encoder and its command buffer share.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Recording>>);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Recording> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct ComputeEncoder {
    recording: Shared,
    is_serial: bool,
    state: Mutex<State>,
}

/// What the next kernel runs with.
struct State {
    pipeline: Option<Arc<Pipeline>>,
    bindings: [Binding; SLOTS],
    threadgroup_lengths: [usize; SLOTS],
}

impl ComputeEncoder {
    pub(crate) fn new(recording: Shared, is_serial: bool) -> Self {
        Self {
            recording,
            is_serial,
            state: Mutex::new(State {
                pipeline: None,
                bindings: [const { Binding::Unbound }; SLOTS],
                threadgroup_lengths: [0; SLOTS],
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bind(&self, index: usize, binding: Binding) {
        if let Some(slot) = self.state().bindings.get_mut(index) {
            *slot = binding;
        } else {
            let fault = || format!("an argument at index {index}; the last is {}", SLOTS - 1);
            self.recording.lock().check(false, fault);
        }
    }

    fn dispatch(&self, threads: [usize; 3], threadgroups: [usize; 3], size: [usize; 3]) {
        let state = self.state();
        let mut recording = self.recording.lock();
        let Some(pipeline) = &state.pipeline else {
            recording.check(false, || "a dispatch without a pipeline".to_owned());
            return;
        };
        TOTALS.dispatches(1);
        recording.push(Command::Dispatch(Box::new(Dispatch {
            pipeline: Arc::clone(pipeline),
            bindings: state.bindings.clone(),
            threadgroup_lengths: state.threadgroup_lengths,
            threads,
            threadgroups,
            threads_per_threadgroup: size,
        })));
        if self.is_serial {
            recording.barrier();
        }
    }
}

pub trait MTLCommandEncoder {
    fn endEncoding(&self);
    fn setLabel(&self, label: Option<&NSString>);
    fn pushDebugGroup(&self, label: &NSString);
    fn popDebugGroup(&self);
}

pub trait MTLComputeCommandEncoder {
    unsafe fn setThreadgroupMemoryLength_atIndex(&self, length: usize, index: usize);
    fn dispatchThreads_threadsPerThreadgroup(&self, threads: MTLSize, size: MTLSize);
    fn dispatchThreadgroups_threadsPerThreadgroup(&self, threadgroups: MTLSize, size: MTLSize);
    fn memoryBarrierWithScope(&self, scope: MTLBarrierScope);
    unsafe fn setBuffer_offset_atIndex(
        &self,
        buffer: Option<&ProtocolObject<dyn MTLBuffer>>,
        offset: usize,
        index: usize,
    );
    unsafe fn setBytes_length_atIndex(&self, bytes: NonNull<c_void>, length: usize, index: usize);
    fn setComputePipelineState(&self, pipeline: &ProtocolObject<dyn MTLComputePipelineState>);
    fn waitForFence(&self, fence: &ProtocolObject<dyn MTLFence>);
    fn updateFence(&self, fence: &ProtocolObject<dyn MTLFence>);
}

pub trait MTLBlitCommandEncoder {
    fn waitForFence(&self, fence: &ProtocolObject<dyn MTLFence>);
    fn updateFence(&self, fence: &ProtocolObject<dyn MTLFence>);
    unsafe fn copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
        &self,
        source: &ProtocolObject<dyn MTLBuffer>,
        source_offset: usize,
        destination: &ProtocolObject<dyn MTLBuffer>,
        destination_offset: usize,
        size: usize,
    );
    fn fillBuffer_range_value(
        &self,
        buffer: &ProtocolObject<dyn MTLBuffer>,
        range: NSRange,
        value: u8,
    );
}

impl MTLCommandEncoder for ProtocolObject<dyn MTLComputeCommandEncoder> {
    fn endEncoding(&self) {
        self.implementation::<ComputeEncoder>()
            .recording
            .lock()
            .end();
    }

    fn setLabel(&self, _label: Option<&NSString>) {}

    fn pushDebugGroup(&self, _label: &NSString) {}

    fn popDebugGroup(&self) {}
}

impl MTLComputeCommandEncoder for ProtocolObject<dyn MTLComputeCommandEncoder> {
    unsafe fn setThreadgroupMemoryLength_atIndex(&self, length: usize, index: usize) {
        let encoder = self.implementation::<ComputeEncoder>();
        let is_allowed = length.is_multiple_of(THREADGROUP_UNIT) && index < SLOTS;
        encoder.recording.lock().check(is_allowed, || {
            format!("{length} bytes of threadgroup memory at index {index}")
        });
        if let Some(slot) = encoder.state().threadgroup_lengths.get_mut(index) {
            *slot = length;
        }
    }

    fn dispatchThreads_threadsPerThreadgroup(&self, threads: MTLSize, size: MTLSize) {
        let (threads, size) = (three(threads), three(size));
        let mut threadgroups = [0; 3];
        for ((groups, threads), size) in threadgroups.iter_mut().zip(threads).zip(size) {
            *groups = threads.div_ceil(size.max(1));
        }
        self.implementation::<ComputeEncoder>()
            .dispatch(threads, threadgroups, size);
    }

    fn dispatchThreadgroups_threadsPerThreadgroup(&self, threadgroups: MTLSize, size: MTLSize) {
        let (threadgroups, size) = (three(threadgroups), three(size));
        let mut threads = threadgroups;
        for (threads, size) in threads.iter_mut().zip(size) {
            *threads *= size;
        }
        self.implementation::<ComputeEncoder>()
            .dispatch(threads, threadgroups, size);
    }

    fn memoryBarrierWithScope(&self, _scope: MTLBarrierScope) {
        TOTALS.barriers(1);
        self.implementation::<ComputeEncoder>()
            .recording
            .lock()
            .barrier();
    }

    unsafe fn setBuffer_offset_atIndex(
        &self,
        buffer: Option<&ProtocolObject<dyn MTLBuffer>>,
        offset: usize,
        index: usize,
    ) {
        let encoder = self.implementation::<ComputeEncoder>();
        let Some(buffer) = buffer else {
            return encoder.bind(index, Binding::Unbound);
        };
        let buffer = buffer.implementation::<Buffer>();
        let length = buffer.length();
        encoder.recording.lock().check(offset <= length, || {
            format!("offset {offset} of a buffer of {length} bytes at index {index}")
        });
        encoder.bind(index, Binding::Buffer(buffer, offset.min(length)));
    }

    unsafe fn setBytes_length_atIndex(&self, bytes: NonNull<c_void>, length: usize, index: usize) {
        let encoder = self.implementation::<ComputeEncoder>();
        encoder.recording.lock().check(length <= MAX_BYTES, || {
            format!("setBytes of {length} bytes; {MAX_BYTES} are possible")
        });
        // SAFETY: the caller has `length` bytes there.
        let bytes = unsafe { slice::from_raw_parts(bytes.as_ptr().cast::<u8>(), length) };
        encoder.bind(index, Binding::bytes(bytes));
    }

    fn setComputePipelineState(&self, pipeline: &ProtocolObject<dyn MTLComputePipelineState>) {
        let pipeline = pipeline.implementation::<Pipeline>();
        self.implementation::<ComputeEncoder>().state().pipeline = Some(pipeline);
    }

    fn waitForFence(&self, fence: &ProtocolObject<dyn MTLFence>) {
        wait(&self.implementation::<ComputeEncoder>().recording, fence);
    }

    fn updateFence(&self, fence: &ProtocolObject<dyn MTLFence>) {
        update(&self.implementation::<ComputeEncoder>().recording, fence);
    }
}

fn three(size: MTLSize) -> [usize; 3] {
    [size.width, size.height, size.depth]
}

fn wait(recording: &Shared, fence: &ProtocolObject<dyn MTLFence>) {
    recording.lock().waits.push(fence.implementation());
}

fn update(recording: &Shared, fence: &ProtocolObject<dyn MTLFence>) {
    recording.lock().updates.push(fence.implementation());
}

pub(crate) struct BlitEncoder {
    recording: Shared,
}

impl BlitEncoder {
    pub(crate) fn new(recording: Shared) -> Self {
        Self { recording }
    }

    /// Commands of a blit encoder run one after the other.
    fn push(&self, command: Command) {
        let mut recording = self.recording.lock();
        recording.push(command);
        recording.barrier();
    }
}

impl MTLCommandEncoder for ProtocolObject<dyn MTLBlitCommandEncoder> {
    fn endEncoding(&self) {
        self.implementation::<BlitEncoder>().recording.lock().end();
    }

    fn setLabel(&self, _label: Option<&NSString>) {}

    fn pushDebugGroup(&self, _label: &NSString) {}

    fn popDebugGroup(&self) {}
}

impl MTLBlitCommandEncoder for ProtocolObject<dyn MTLBlitCommandEncoder> {
    fn waitForFence(&self, fence: &ProtocolObject<dyn MTLFence>) {
        wait(&self.implementation::<BlitEncoder>().recording, fence);
    }

    fn updateFence(&self, fence: &ProtocolObject<dyn MTLFence>) {
        update(&self.implementation::<BlitEncoder>().recording, fence);
    }

    unsafe fn copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
        &self,
        source: &ProtocolObject<dyn MTLBuffer>,
        source_offset: usize,
        destination: &ProtocolObject<dyn MTLBuffer>,
        destination_offset: usize,
        size: usize,
    ) {
        TOTALS.copied_bytes(size);
        self.implementation::<BlitEncoder>().push(Command::Copy {
            from: Place {
                buffer: source.implementation(),
                offset: source_offset,
            },
            to: Place {
                buffer: destination.implementation(),
                offset: destination_offset,
            },
            size,
        });
    }

    fn fillBuffer_range_value(
        &self,
        buffer: &ProtocolObject<dyn MTLBuffer>,
        range: NSRange,
        value: u8,
    ) {
        TOTALS.filled_bytes(range.length);
        self.implementation::<BlitEncoder>().push(Command::Fill {
            to: Place {
                buffer: buffer.implementation(),
                offset: range.location,
            },
            size: range.length,
            value,
        });
    }
}
