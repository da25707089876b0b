//! What an encoder records, and how one command runs.

use crate::buffer::Buffer;
use crate::kernel::SLOTS;
use crate::library::Pipeline;
use objc2::software::settings;
use std::ffi::c_void;
use std::sync::Arc;

/// Words that a kernel finds where nothing is bound.
const UNBOUND: usize = 8192;

/// What a kernel finds at an index.
#[derive(Clone)]
pub(crate) enum Binding {
    /// Nothing: zeros, since kernels with absent constants read arguments that nobody set.
    Unbound,
    Buffer(Arc<Buffer>, usize),
    Bytes(Arc<[u64]>),
}

impl Binding {
    /// Bytes, aligned for any element.
    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        });
        // A kernel may read a vector where it was given less.
        Self::Bytes(words.chain([0, 0]).collect())
    }

    /// Where the kernel finds it; `unbound` is where it finds nothing.
    pub(crate) fn address(&self, unbound: *mut c_void) -> *mut c_void {
        match self {
            Self::Unbound => unbound,
            // The offset was checked when the buffer was bound.
            Self::Buffer(buffer, offset) => buffer.contents().as_ptr().wrapping_add(*offset).cast(),
            Self::Bytes(words) => words.as_ptr().cast_mut().cast(),
        }
    }
}

/// A kernel with its arguments and its grid.
pub(crate) struct Dispatch {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) bindings: [Binding; SLOTS],
    pub(crate) threadgroup_lengths: [usize; SLOTS],
    pub(crate) threads: [usize; 3],
    pub(crate) threadgroups: [usize; 3],
    pub(crate) threads_per_threadgroup: [usize; 3],
}

/// Bytes of a buffer.
pub(crate) struct Place {
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) offset: usize,
}

pub(crate) enum Command {
    Dispatch(Box<Dispatch>),
    Copy { from: Place, to: Place, size: usize },
    Fill { to: Place, size: usize, value: u8 },
}

impl Command {
    /// Runs the command. An error says what is wrong with it.
    pub(crate) fn run(&self) -> Result<(), String> {
        match self {
            Self::Dispatch(dispatch) => dispatch.run(),
            Self::Copy { from, to, size } => {
                let source = from.buffer.range(from.offset, *size);
                let target = to.buffer.range(to.offset, *size);
                let source = source.map_err(|error| format!("copy from {error}"))?;
                let target = target.map_err(|error| format!("copy to {error}"))?;
                // SAFETY: both ranges were checked; they may overlap.
                unsafe { target.copy_from(source, *size) };
                Ok(())
            }
            Self::Fill { to, size, value } => {
                let target = to.buffer.range(to.offset, *size);
                let target = target.map_err(|error| format!("fill of {error}"))?;
                // SAFETY: the range was checked.
                unsafe { target.write_bytes(*value, *size) };
                Ok(())
            }
        }
    }
}

impl Dispatch {
    fn run(&self) -> Result<(), String> {
        let function = &self.pipeline.function;
        if settings().trace {
            eprintln!(
                "{} {:?} x {:?}",
                function.name, self.threadgroups, self.threads_per_threadgroup
            );
        }
        let mut unbound = vec![0_u64; UNBOUND];
        function.kernels.run(self, unbound.as_mut_ptr().cast())?;
        if unbound.iter().any(|&word| word != 0) {
            return Err(format!(
                "kernel `{}` wrote to an argument that is not bound",
                function.name
            ));
        }
        for (index, binding) in self.bindings.iter().enumerate() {
            if let Binding::Buffer(buffer, _) = binding
                && !buffer.is_intact()
            {
                buffer.repair();
                return Err(format!(
                    "kernel `{}` wrote outside the buffer of {} bytes at index {index}",
                    function.name,
                    buffer.length()
                ));
            }
        }
        Ok(())
    }
}
