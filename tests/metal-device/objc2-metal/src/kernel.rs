//! A compiled library in this process, and how one of its kernels runs.
//!
//! The types with C's layout are those that the compiler's runtime declares.

use crate::command::Dispatch;
use libc::{RTLD_LOCAL, RTLD_NOW, dlerror, dlopen, dlsym};
use objc2::software::counters::TOTALS;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// How many buffers and threadgroup allotments a kernel can have.
pub(crate) const SLOTS: usize = 31;
/// Threads from which a grid is worth a second thread of the CPU.
const SHARED: usize = 2048;
/// The longest message of a fault.
const MESSAGE: usize = 512;
/// Metal's limit, of static and dynamic threadgroup memory together.
const THREADGROUP_MEMORY: usize = 32 << 10;
const THREADGROUP_ALIGNMENT: usize = 64;
/// The most threads of a threadgroup.
pub(crate) const MAX_THREADS: usize = 1024;

#[repr(C)]
struct MslFunction {
    name: *const c_char,
    entry: *const c_void,
    fibers: i32,
}

#[repr(C)]
struct MslConstant {
    name: *const c_char,
    index: i32,
    address: *mut u8,
    size: u64,
}

#[repr(C)]
struct MslDispatch {
    buffers: [*mut c_void; SLOTS],
    threadgroup_offsets: [u32; SLOTS],
    threadgroup_bytes: u32,
    threads_per_grid: [u32; 3],
    threadgroups_per_grid: [u32; 3],
    threads_per_threadgroup: [u32; 3],
}

type MslRun = unsafe extern "C" fn(
    function: *const MslFunction,
    dispatch: *const MslDispatch,
    first: u64,
    last: u64,
    diverged: *mut u64,
    error: *mut c_char,
    error_size: u64,
) -> i32;

/// The kernels of one compiled library.
pub(crate) struct Kernels {
    functions: HashMap<String, *const MslFunction>,
    constants: Vec<*const MslConstant>,
    run: MslRun,
    /// Held while a kernel runs that reads constants, which are variables of the library.
    specialised: Mutex<()>,
}

// SAFETY: the tables are constant; what the constants' addresses point to is written and read under the
// lock.
unsafe impl Send for Kernels {}
// SAFETY: as above.
unsafe impl Sync for Kernels {}

impl Kernels {
    /// Loads a compiled library, for as long as the process lives.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
        // SAFETY: the library was made by the compiler of this device and runs nothing when loaded.
        let library = unsafe { dlopen(name.as_ptr(), RTLD_NOW | RTLD_LOCAL) };
        if library.is_null() {
            // SAFETY: a failed dlopen leaves a message.
            return Err(unsafe { CStr::from_ptr(dlerror()) }
                .to_string_lossy()
                .into_owned());
        }
        let symbol = |name: &CStr| {
            // SAFETY: the handle is that of an open library.
            let address = unsafe { dlsym(library, name.as_ptr()) };
            if address.is_null() {
                return Err(format!(
                    "{} has no {}",
                    path.display(),
                    name.to_string_lossy()
                ));
            }
            Ok(address)
        };
        let functions = symbol(c"msl_functions")?.cast::<MslFunction>();
        let constants = symbol(c"msl_constants")?.cast::<MslConstant>();
        // SAFETY: the compiler gives the symbol this type.
        let run = unsafe { std::mem::transmute::<*mut c_void, MslRun>(symbol(c"msl_run")?) };
        // SAFETY: the two tables end with an entry without a name.
        let (functions, constants) = unsafe {
            (
                entries(functions, |function| (*function).name),
                entries(constants, |constant| (*constant).name),
            )
        };
        let functions = functions.into_iter().map(|function| {
            // SAFETY: an entry has a name, which lives as long as the library.
            let name = unsafe { CStr::from_ptr((*function).name) };
            (name.to_string_lossy().into_owned(), function)
        });
        Ok(Self {
            functions: functions.collect(),
            constants,
            run,
            specialised: Mutex::new(()),
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.functions.contains_key(name)
    }

    /// Runs a kernel over its grid. Arguments that nobody set are at `unbound`.
    pub(crate) fn run(&self, dispatch: &Dispatch, unbound: *mut c_void) -> Result<(), String> {
        let function = &dispatch.pipeline.function;
        let entry = self.functions[&function.name];
        let raw = raw(dispatch, unbound)
            .map_err(|error| format!("kernel `{}`: {error}", function.name))?;
        let count: usize = dispatch.threadgroups.iter().product();
        let _specialised = (!self.constants.is_empty()).then(|| {
            let guard = self
                .specialised
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.set_constants(&function.constants);
            guard
        });
        let group: usize = dispatch.threads_per_threadgroup.iter().product();
        let threads = if count * group < SHARED {
            1
        } else {
            thread::available_parallelism()
                .map_or(1, usize::from)
                .min(count)
        };
        let job = Job {
            run: self.run,
            entry,
            dispatch: &raw,
            next: AtomicUsize::new(0),
            count,
            share: (count / (threads * 8)).max(1),
            failed: AtomicBool::new(false),
            fault: Mutex::new(None),
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| job.work());
            }
            job.work();
        });
        let fault = job
            .fault
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        fault.map_or(Ok(()), Err)
    }

    fn set_constants(&self, values: &[(usize, Vec<u8>)]) {
        for &constant in &self.constants {
            // SAFETY: the entry describes a variable of its size; the lock is held.
            unsafe {
                let MslConstant {
                    index,
                    address,
                    size,
                    ..
                } = *constant;
                let size = size as usize;
                address.write_bytes(0, size);
                let value = values
                    .iter()
                    .find(|(at, _)| i32::try_from(*at) == Ok(index));
                if let Some((_, bytes)) = value {
                    address.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len().min(size));
                }
            }
        }
    }
}

/// The entries of a table.
///
/// # Safety
///
/// The table ends with an entry for which `name` gives null.
unsafe fn entries<T>(
    mut table: *const T,
    name: impl Fn(*const T) -> *const c_char,
) -> Vec<*const T> {
    let mut found = Vec::new();
    while !name(table).is_null() {
        found.push(table);
        // SAFETY: this is not the last entry.
        table = unsafe { table.add(1) };
    }
    found
}

/// A dispatch as the runtime takes it.
fn raw(dispatch: &Dispatch, unbound: *mut c_void) -> Result<MslDispatch, String> {
    let group: usize = dispatch.threads_per_threadgroup.iter().product();
    if !(1..=MAX_THREADS).contains(&group) {
        return Err(format!(
            "a threadgroup of {group} threads; 1 to {MAX_THREADS} are possible"
        ));
    }
    let mut offsets = [0; SLOTS];
    let mut top = 0;
    for (offset, length) in offsets.iter_mut().zip(dispatch.threadgroup_lengths) {
        *offset = small(top)?;
        top += length.next_multiple_of(THREADGROUP_ALIGNMENT);
    }
    if top > THREADGROUP_MEMORY {
        return Err(format!(
            "{top} bytes of threadgroup memory; there are {THREADGROUP_MEMORY}"
        ));
    }
    let three = |[x, y, z]: [usize; 3]| Ok::<_, String>([small(x)?, small(y)?, small(z)?]);
    let mut buffers = [ptr::null_mut(); SLOTS];
    for (buffer, binding) in buffers.iter_mut().zip(&dispatch.bindings) {
        *buffer = binding.address(unbound);
    }
    Ok(MslDispatch {
        buffers,
        threadgroup_offsets: offsets,
        threadgroup_bytes: small(top)?,
        threads_per_grid: three(dispatch.threads)?,
        threadgroups_per_grid: three(dispatch.threadgroups)?,
        threads_per_threadgroup: three(dispatch.threads_per_threadgroup)?,
    })
}

fn small(number: usize) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("{number} is too large"))
}

/// A grid that threads of the CPU take shares of.
struct Job<'a> {
    run: MslRun,
    entry: *const MslFunction,
    dispatch: &'a MslDispatch,
    next: AtomicUsize,
    count: usize,
    share: usize,
    failed: AtomicBool,
    fault: Mutex<Option<String>>,
}

// SAFETY: the entry is constant; what the kernel does to its buffers is the kernel's concern, as on a GPU.
unsafe impl Sync for Job<'_> {}

impl Job<'_> {
    fn work(&self) {
        while !self.failed.load(Relaxed) {
            let first = self.next.fetch_add(self.share, Relaxed);
            if first >= self.count {
                break;
            }
            let last = (first + self.share).min(self.count);
            let mut diverged = 0;
            let mut message = [0 as c_char; MESSAGE];
            // SAFETY: entry and dispatch are what the runtime takes, and the message has that size.
            let status = unsafe {
                (self.run)(
                    self.entry,
                    self.dispatch,
                    first as u64,
                    last as u64,
                    &raw mut diverged,
                    message.as_mut_ptr(),
                    MESSAGE as u64,
                )
            };
            TOTALS.divergent_operations(usize::try_from(diverged).unwrap_or(usize::MAX));
            if status != 0 {
                // SAFETY: the runtime ends its message with a NUL.
                let message = unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy();
                let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
                fault.get_or_insert(message.into_owned());
                self.failed.store(true, Relaxed);
            }
        }
    }
}
