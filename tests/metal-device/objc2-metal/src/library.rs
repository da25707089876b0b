//! Libraries of kernels, and the functions and pipelines made of them.

use crate::kernel::{Kernels, MAX_THREADS};
use crate::{MTLDataType, Object, compiler};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSError, NSString};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub trait MTLLibrary {
    fn newFunctionWithName(&self, name: &NSString) -> Option<Object<dyn MTLFunction>>;
    fn newFunctionWithName_constantValues_error(
        &self,
        name: &NSString,
        constants: &MTLFunctionConstantValues,
    ) -> Result<Object<dyn MTLFunction>, Retained<NSError>>;
}

pub trait MTLFunction {}

pub trait MTLComputePipelineState {
    fn maxTotalThreadsPerThreadgroup(&self) -> usize;
}

/// Values of function constants, by index.
pub(crate) type Constants = Vec<(usize, Vec<u8>)>;

/// What a function is specialised with.
pub struct MTLFunctionConstantValues(Mutex<Constants>);

impl MTLFunctionConstantValues {
    pub fn new() -> Retained<Self> {
        Retained::new(Self(Mutex::new(Constants::new())))
    }

    /// # Safety
    ///
    /// `value` points to a value of the type.
    pub unsafe fn setConstantValue_type_atIndex(
        &self,
        value: NonNull<c_void>,
        data_type: MTLDataType,
        index: usize,
    ) {
        let size = match data_type {
            MTLDataType::Bool => 1,
            MTLDataType::UShort => 2,
            MTLDataType::Float => 4,
            _ => 8,
        };
        // SAFETY: the caller has a value of that size there.
        let bytes = unsafe { slice::from_raw_parts(value.as_ptr().cast::<u8>(), size) };
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        values.push((index, bytes.to_vec()));
    }

    fn get(&self) -> Constants {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// A source; its functions are compiled when they are first asked for.
pub(crate) struct Library(String);

/// A kernel and the constants it is specialised with.
pub(crate) struct Function {
    pub(crate) kernels: Arc<Kernels>,
    pub(crate) name: String,
    pub(crate) constants: Constants,
}

/// A function ready to be run.
pub(crate) struct Pipeline {
    pub(crate) function: Arc<Function>,
}

impl Pipeline {
    pub(crate) fn new(function: Arc<Function>) -> Self {
        Self { function }
    }
}

impl Library {
    pub(crate) fn new(source: &str) -> Self {
        Self(source.to_owned())
    }

    fn function(&self, name: &str, constants: Constants) -> Result<Function, String> {
        let kernels = load(&self.0, name)?;
        if !kernels.has(name) {
            return Err(format!("no function `{name}` in the library"));
        }
        Ok(Function {
            kernels,
            name: name.to_owned(),
            constants,
        })
    }
}

/// A compiled library once a process, however many devices candle opens.
fn load(source: &str, function: &str) -> Result<Arc<Kernels>, String> {
    type Slot = Arc<Mutex<Option<Arc<Kernels>>>>;
    static LOADED: OnceLock<Mutex<HashMap<compiler::Unit, Slot>>> = OnceLock::new();
    let unit = compiler::Unit::of(source, function);
    let slot = {
        let loaded = LOADED.get_or_init(Mutex::default);
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(loaded.entry(unit.clone()).or_default())
    };
    // The lock is of this unit only, so that others compile at the same time.
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kernels) = &*slot {
        return Ok(Arc::clone(kernels));
    }
    let kernels = Arc::new(Kernels::open(&unit.compile(source)?)?);
    *slot = Some(Arc::clone(&kernels));
    Ok(kernels)
}

impl MTLLibrary for ProtocolObject<dyn MTLLibrary> {
    fn newFunctionWithName(&self, name: &NSString) -> Option<Object<dyn MTLFunction>> {
        let function = self
            .implementation::<Library>()
            .function(name.as_str(), Constants::new());
        match function {
            Ok(function) => Some(ProtocolObject::new(function)),
            Err(error) => {
                // The interface has no place for the reason.
                eprintln!("software Metal device: {error}");
                None
            }
        }
    }

    fn newFunctionWithName_constantValues_error(
        &self,
        name: &NSString,
        constants: &MTLFunctionConstantValues,
    ) -> Result<Object<dyn MTLFunction>, Retained<NSError>> {
        self.implementation::<Library>()
            .function(name.as_str(), constants.get())
            .map(|function| ProtocolObject::new(function))
            .map_err(NSError::new)
    }
}

impl MTLComputePipelineState for ProtocolObject<dyn MTLComputePipelineState> {
    fn maxTotalThreadsPerThreadgroup(&self) -> usize {
        MAX_THREADS
    }
}
