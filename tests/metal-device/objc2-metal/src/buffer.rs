//! Buffers: memory between two guard zones.

use crate::MTLResourceOptions;
use objc2::runtime::ProtocolObject;
use objc2::software::counters::{ALLOCATED, TOTALS};
use objc2::software::settings;
use objc2_foundation::{NSRange, NSString};
use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::Ordering::Relaxed;

/// What kernels find beside a buffer: as floats NaN, as indices far out of range.
const POISON: u8 = 0xFF;
/// Bytes on each side, enough for a kernel that runs over by a row or takes one dtype for another.
const GUARD: usize = 4096;
/// More than any element needs.
const ALIGNMENT: usize = 256;

pub trait MTLAllocation {}

pub trait MTLResource {
    fn setLabel(&self, label: Option<&NSString>);
}

pub trait MTLBuffer: MTLResource {
    fn contents(&self) -> NonNull<c_void>;
    fn length(&self) -> usize;
    fn didModifyRange(&self, range: NSRange);
}

pub(crate) struct Buffer {
    /// The first byte of the guard before the contents.
    start: NonNull<u8>,
    length: usize,
    is_private: bool,
}

// SAFETY: the memory is the buffer's own; who uses it when is for the commands to order.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// A buffer, or none where memory is short.
    pub(crate) fn new(length: usize, options: MTLResourceOptions) -> Option<Self> {
        let (poison, limit) = {
            let settings = settings();
            (settings.poison, settings.memory)
        };
        let layout = Self::layout(length)?;
        let before = ALLOCATED.fetch_add(length, Relaxed);
        let fits = limit.is_none_or(|limit| before + length <= limit);
        // SAFETY: the layout has the size of two guards at least.
        let start = fits
            .then(|| NonNull::new(unsafe { alloc(layout) }))
            .flatten();
        let Some(start) = start else {
            ALLOCATED.fetch_sub(length, Relaxed);
            return None;
        };
        TOTALS.buffers(1);
        TOTALS.buffer_bytes(length);
        let buffer = Self {
            start,
            length,
            is_private: options.0 & MTLResourceOptions::StorageModePrivate.0 != 0,
        };
        // SAFETY: the allocation has that size.
        unsafe { start.write_bytes(POISON, layout.size()) };
        if !poison {
            // SAFETY: the contents are within the allocation.
            unsafe { buffer.contents().write_bytes(0, length) };
        }
        Some(buffer)
    }

    fn layout(length: usize) -> Option<Layout> {
        let size = length.checked_add(2 * GUARD)?;
        Layout::from_size_align(size, ALIGNMENT).ok()
    }

    /// The first byte.
    pub(crate) fn contents(&self) -> NonNull<u8> {
        // SAFETY: the guard is part of the allocation.
        unsafe { self.start.add(GUARD) }
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// The address of `size` bytes from `offset`, where the buffer has them.
    pub(crate) fn range(&self, offset: usize, size: usize) -> Result<NonNull<u8>, String> {
        match offset.checked_add(size) {
            // SAFETY: the sum was checked to be within the contents.
            Some(end) if end <= self.length => Ok(unsafe { self.contents().add(offset) }),
            _ => Err(format!(
                "bytes {offset} to {offset}+{size} of a buffer of {}",
                self.length
            )),
        }
    }

    /// Whether the guard zones are as they were.
    pub(crate) fn is_intact(&self) -> bool {
        let zones = [0, GUARD + self.length];
        zones.iter().all(|&zone| {
            // SAFETY: both zones are within the allocation.
            let bytes = unsafe { slice::from_raw_parts(self.start.add(zone).as_ptr(), GUARD) };
            bytes.iter().all(|&byte| byte == POISON)
        })
    }

    /// Repairs the guard zones, so that a fault is reported once.
    pub(crate) fn repair(&self) {
        for zone in [0, GUARD + self.length] {
            // SAFETY: both zones are within the allocation.
            unsafe { self.start.add(zone).write_bytes(POISON, GUARD) };
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        ALLOCATED.fetch_sub(self.length, Relaxed);
        if let Some(layout) = Self::layout(self.length) {
            // SAFETY: allocated with this layout, and not freed before.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

impl MTLResource for ProtocolObject<dyn MTLBuffer> {
    fn setLabel(&self, _label: Option<&NSString>) {}
}

impl MTLBuffer for ProtocolObject<dyn MTLBuffer> {
    fn contents(&self) -> NonNull<c_void> {
        let buffer = self.implementation::<Buffer>();
        assert!(
            !buffer.is_private,
            "the host reads or writes a private buffer"
        );
        buffer.contents().cast()
    }

    fn length(&self) -> usize {
        self.implementation::<Buffer>().length
    }

    fn didModifyRange(&self, _range: NSRange) {}
}
