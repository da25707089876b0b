//! The queue, its command buffers, and the thread that runs them.

use crate::command::Command;
use crate::device::the_device;
use crate::encoder::{BlitEncoder, ComputeEncoder, Recording, Shared};
use crate::schedule::schedule;
use crate::{
    MTLBlitCommandEncoder, MTLCommandBufferStatus, MTLComputeCommandEncoder, MTLDevice,
    MTLDispatchType, MTLResidencySet, Object,
};
use block2::Block;
use objc2::rc::{Retained, autoreleased, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2::software::counters::TOTALS;
use objc2::software::{Order, settings};
use objc2_foundation::{NSError, NSString};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

pub trait MTLCommandQueue {
    fn commandBuffer(&self) -> Option<Object<dyn MTLCommandBuffer>>;
    fn device(&self) -> Object<dyn MTLDevice>;
    fn addResidencySet(&self, set: &ProtocolObject<dyn MTLResidencySet>);
    fn setLabel(&self, label: Option<&NSString>);
}

type Handler = Arc<dyn Fn(NonNull<ProtocolObject<dyn MTLCommandBuffer>>)>;

pub trait MTLCommandBuffer {
    fn computeCommandEncoderWithDispatchType(
        &self,
        dispatch_type: MTLDispatchType,
    ) -> Option<Object<dyn MTLComputeCommandEncoder>>;
    fn blitCommandEncoder(&self) -> Option<Object<dyn MTLBlitCommandEncoder>>;
    fn commit(&self);
    fn enqueue(&self);
    fn setLabel(&self, label: Option<&NSString>);
    fn status(&self) -> MTLCommandBufferStatus;
    fn error(&self) -> Option<Retained<NSError>>;
    fn waitUntilCompleted(&self);
    fn device(&self) -> Object<dyn MTLDevice>;
    unsafe fn addCompletedHandler(
        &self,
        block: *mut Block<NonNull<ProtocolObject<dyn MTLCommandBuffer>>>,
    );
}

/// The queue as its user holds it. When it is gone, its thread runs what is left and ends.
pub(crate) struct Queue(Arc<Work>);

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

/// What is committed and not run.
struct Work {
    state: Mutex<WorkState>,
    changed: Condvar,
}

#[derive(Default)]
struct WorkState {
    /// With the number of each.
    pending: VecDeque<(u64, Arc<CommandBuffer>)>,
    /// The highest number that the host waits for.
    wanted: u64,
    is_closed: bool,
}

impl Work {
    fn lock(&self) -> MutexGuard<'_, WorkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The command buffers to run next, or none when the queue is gone.
    fn next(&self) -> Option<Vec<Arc<CommandBuffer>>> {
        let mut state = self.lock();
        loop {
            let in_flight = settings().in_flight.max(1);
            let wanted = if state.is_closed {
                u64::MAX
            } else {
                state.wanted
            };
            let due = state
                .pending
                .iter()
                .take_while(|(number, _)| *number <= wanted);
            let count = if state.pending.len() >= in_flight {
                in_flight
            } else {
                due.count()
            };
            if count > 0 {
                let taken = state.pending.drain(..count);
                return Some(taken.map(|(_, buffer)| buffer).collect());
            }
            if state.is_closed {
                return None;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Queue {
    pub(crate) fn start() -> Option<Self> {
        let work = Arc::new(Work {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let shared = Arc::clone(&work);
        let run = move || {
            while let Some(batch) = shared.next() {
                autoreleasepool(|_| run(&batch));
            }
        };
        let thread = thread::Builder::new().name("metal-device".to_owned());
        thread.spawn(run).ok().map(|_| Self(work))
    }
}

struct CommandBuffer {
    work: Arc<Work>,
    state: Mutex<BufferState>,
    finished: Condvar,
}

struct BufferState {
    status: MTLCommandBufferStatus,
    recordings: Vec<Shared>,
    handlers: Vec<Handler>,
    /// Its place among all that were committed in this process.
    number: u64,
    error: Option<String>,
    /// Whether the handlers have been called.
    is_finished: bool,
}

// SAFETY: a handler is called on another thread, here as by Metal, so who adds one vouches for it. Those of
// candle hold nothing but a lock and numbers.
unsafe impl Send for BufferState {}

impl CommandBuffer {
    fn new(work: Arc<Work>) -> Self {
        Self {
            work,
            state: Mutex::new(BufferState {
                status: MTLCommandBufferStatus::NotEnqueued,
                recordings: Vec::new(),
                handlers: Vec::new(),
                number: 0,
                error: None,
                is_finished: false,
            }),
            finished: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BufferState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new encoder's recording.
    fn record(&self) -> Shared {
        TOTALS.encoders(1);
        let recording = Shared::default();
        let mut state = self.lock();
        if state.status.0 >= MTLCommandBufferStatus::Committed.0 {
            state.fail("an encoder after the commit");
        }
        if let Some(last) = state.recordings.last()
            && !last.lock().has_ended
        {
            state.fail("an encoder before the last one ended");
        }
        state.recordings.push(recording.clone());
        recording
    }

    /// Sets the status, calls the handlers and wakes who waits, whatever the handlers do.
    fn finish(self: &Arc<Self>) {
        let handlers = {
            let mut state = self.lock();
            state.status = match state.error {
                None => MTLCommandBufferStatus::Completed,
                Some(_) => MTLCommandBufferStatus::Error,
            };
            std::mem::take(&mut state.handlers)
        };
        let object: Object<dyn MTLCommandBuffer> = ProtocolObject::new(Arc::clone(self));
        for handler in handlers {
            let call = AssertUnwindSafe(|| handler(NonNull::from(&*object)));
            if catch_unwind(call).is_err() {
                let mut state = self.lock();
                state.fail("a completed handler panicked");
                state.status = MTLCommandBufferStatus::Error;
            }
        }
        self.lock().is_finished = true;
        self.finished.notify_all();
    }
}

impl BufferState {
    fn fail(&mut self, error: impl Into<String>) {
        self.error.get_or_insert_with(|| error.into());
    }
}

/// Runs command buffers that are in flight together.
fn run(in_flight: &[Arc<CommandBuffer>]) {
    let settings = settings().clone();
    // What a command buffer holds is let go when it is done, as Metal does.
    let mut recordings: Vec<(&CommandBuffer, Shared)> = Vec::new();
    for buffer in in_flight {
        let mut state = buffer.lock();
        let number = state.number;
        if settings.lost_after.is_some_and(|count| number > count) {
            state.fail("the device was lost (simulated)");
        }
        if settings.fail == Some(number) {
            state.fail(format!("command buffer {number} failed (simulated)"));
        }
        let taken = std::mem::take(&mut state.recordings).into_iter();
        recordings.extend(taken.map(|recording| (&**buffer, recording)));
    }
    {
        let locked: Vec<_> = recordings
            .iter()
            .map(|(_, recording)| recording.lock())
            .collect();
        let all: Vec<&Recording> = locked.iter().map(|recording| &**recording).collect();
        for index in schedule(&all, settings.order) {
            let buffer = recordings[index].0;
            if buffer.lock().error.is_some() {
                continue;
            }
            let result = catch_unwind(AssertUnwindSafe(|| run_one(all[index], settings.order)));
            if let Err(error) = result.unwrap_or_else(|_| Err("a command panicked".to_owned())) {
                buffer.lock().fail(error);
            }
        }
    }
    drop(recordings);
    for buffer in in_flight {
        buffer.finish();
    }
}

fn run_one(recording: &Recording, order: Order) -> Result<(), String> {
    if let Some(fault) = &recording.fault {
        return Err(fault.clone());
    }
    for group in &recording.groups {
        match order {
            Order::Encoded => group.iter().try_for_each(Command::run)?,
            Order::Reversed => group.iter().rev().try_for_each(Command::run)?,
        }
    }
    Ok(())
}

impl MTLCommandQueue for ProtocolObject<dyn MTLCommandQueue> {
    fn commandBuffer(&self) -> Option<Object<dyn MTLCommandBuffer>> {
        let work = Arc::clone(&self.implementation::<Queue>().0);
        let buffer = Arc::new(CommandBuffer::new(work));
        Some(autoreleased(ProtocolObject::new(buffer)))
    }

    fn device(&self) -> Object<dyn MTLDevice> {
        the_device()
    }

    fn addResidencySet(&self, _set: &ProtocolObject<dyn MTLResidencySet>) {}

    fn setLabel(&self, _label: Option<&NSString>) {}
}

/// What implements a command buffer: shared, because the thread that runs it holds it too.
fn implementation(object: &ProtocolObject<dyn MTLCommandBuffer>) -> Arc<CommandBuffer> {
    Arc::clone(&object.implementation::<Arc<CommandBuffer>>())
}

impl MTLCommandBuffer for ProtocolObject<dyn MTLCommandBuffer> {
    fn computeCommandEncoderWithDispatchType(
        &self,
        dispatch_type: MTLDispatchType,
    ) -> Option<Object<dyn MTLComputeCommandEncoder>> {
        let recording = implementation(self).record();
        let is_serial = dispatch_type == MTLDispatchType::Serial;
        let encoder = ComputeEncoder::new(recording, is_serial);
        Some(autoreleased(ProtocolObject::new(encoder)))
    }

    fn blitCommandEncoder(&self) -> Option<Object<dyn MTLBlitCommandEncoder>> {
        let encoder = BlitEncoder::new(implementation(self).record());
        Some(autoreleased(ProtocolObject::new(encoder)))
    }

    fn commit(&self) {
        static COMMITTED: AtomicU64 = AtomicU64::new(0);
        let buffer = implementation(self);
        let number = {
            let mut state = buffer.lock();
            if state.status.0 >= MTLCommandBufferStatus::Committed.0 {
                return state.fail("a second commit");
            }
            if state
                .recordings
                .iter()
                .any(|recording| !recording.lock().has_ended)
            {
                state.fail("commit before an encoder ended");
            }
            state.status = MTLCommandBufferStatus::Committed;
            state.number = COMMITTED.fetch_add(1, Relaxed) + 1;
            TOTALS.command_buffers(1);
            state.number
        };
        let work = Arc::clone(&buffer.work);
        work.lock().pending.push_back((number, buffer));
        work.changed.notify_all();
    }

    fn enqueue(&self) {
        let buffer = implementation(self);
        let mut state = buffer.lock();
        if state.status == MTLCommandBufferStatus::NotEnqueued {
            state.status = MTLCommandBufferStatus::Enqueued;
        }
    }

    fn setLabel(&self, _label: Option<&NSString>) {}

    fn status(&self) -> MTLCommandBufferStatus {
        implementation(self).lock().status
    }

    fn error(&self) -> Option<Retained<NSError>> {
        let error = implementation(self).lock().error.clone();
        error.map(|error| autoreleased(NSError::new(error)))
    }

    fn waitUntilCompleted(&self) {
        TOTALS.host_waits(1);
        let buffer = implementation(self);
        let number = buffer.lock().number;
        {
            let mut work = buffer.work.lock();
            work.wanted = work.wanted.max(number);
        }
        buffer.work.changed.notify_all();
        let mut state = buffer.lock();
        while !state.is_finished {
            state = buffer
                .finished
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn device(&self) -> Object<dyn MTLDevice> {
        the_device()
    }

    unsafe fn addCompletedHandler(
        &self,
        block: *mut Block<NonNull<ProtocolObject<dyn MTLCommandBuffer>>>,
    ) {
        // SAFETY: the caller's block lives until this method returns; it is copied as Metal does.
        let handler = unsafe { &*block }.copy();
        implementation(self).lock().handlers.push(handler);
    }
}
