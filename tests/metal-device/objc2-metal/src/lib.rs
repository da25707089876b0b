//! The part of `objc2-metal` that candle uses, executed on the CPU.
//!
//! Encoders record ([`encoder`]); a queue runs what was recorded on a thread of its own, in the order
//! that barriers and fences leave it ([`queue`], [`schedule`]); kernels come from Metal's language through
//! a compiler ([`compiler`], [`kernel`]). What candle must not do, and a Mac may forgive, becomes the error
//! of its command buffer.
#![allow(
    non_snake_case,
    non_upper_case_globals,
    clippy::missing_safety_doc,
    reason = "names and unsafety are those of Apple's interface"
)]

pub mod buffer;
mod classes;
mod command;
mod compiler;
pub mod device;
pub mod encoder;
mod kernel;
pub mod library;
pub mod queue;
mod schedule;

pub use buffer::{MTLAllocation, MTLBuffer, MTLResource};
pub use classes::*;
pub use device::{
    MTLCopyAllDevices, MTLCreateSystemDefaultDevice, MTLDevice, MTLFence, MTLResidencySet,
};
pub use encoder::{MTLBlitCommandEncoder, MTLCommandEncoder, MTLComputeCommandEncoder};
pub use library::{MTLComputePipelineState, MTLFunction, MTLFunctionConstantValues, MTLLibrary};
pub use queue::{MTLCommandBuffer, MTLCommandQueue};

use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;

/// A reference to an object known by a protocol.
type Object<P> = Retained<ProtocolObject<P>>;
