//! Objects behind protocols, and the classes that exist.

use crate::rc::Retained;
use crate::software::live;
use std::any::{Any, type_name};
use std::ffi::CStr;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// An object of which only the address is known.
#[repr(C)]
pub struct AnyObject {
    _private: [u8; 0],
}

/// A class of the Objective-C runtime.
pub struct AnyClass;

impl AnyClass {
    /// The class by its name: all those exist that metal-candle asks for.
    #[must_use]
    pub fn get(name: &CStr) -> Option<&'static Self> {
        (name == c"MTLResidencySetDescriptor").then_some(&Self)
    }
}

/// An object known by a protocol.
///
/// The protocol is a type parameter without a value, so all protocols of an object have one layout,
/// as with Objective-C's pointers. Candle casts a reference to one into a reference to another.
#[repr(C)]
pub struct ProtocolObject<P: ?Sized> {
    object: Arc<dyn Any + Send + Sync>,
    protocol: PhantomData<P>,
}

// SAFETY: the object is `Send` and `Sync`, and no value of the protocol's type exists.
unsafe impl<P: ?Sized> Send for ProtocolObject<P> {}
// SAFETY: as above.
unsafe impl<P: ?Sized> Sync for ProtocolObject<P> {}

impl<P: ?Sized> ProtocolObject<P> {
    /// Wraps what implements the protocol. It counts as alive until the last reference is gone.
    pub fn new(object: impl Any + Send + Sync) -> Retained<Self> {
        live::born(type_name::<P>());
        Retained::new(Self {
            object: Arc::new(object),
            protocol: PhantomData,
        })
    }

    /// What implements the protocol.
    ///
    /// # Panics
    ///
    /// If another type does.
    #[must_use]
    pub fn implementation<T: Any + Send + Sync>(&self) -> Arc<T> {
        let object = Arc::clone(&self.object).downcast();
        object.unwrap_or_else(|_| panic!("a {} of another make", type_name::<P>()))
    }

    /// Keeps what implements the protocol alive.
    #[must_use]
    pub fn keep(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.object)
    }

    /// The same object known by another protocol.
    #[must_use]
    pub fn from_ref<Q: ?Sized>(object: &ProtocolObject<Q>) -> &Self {
        // SAFETY: the two types differ in a marker without size only.
        unsafe { &*std::ptr::from_ref(object).cast::<Self>() }
    }
}

impl<P: ?Sized> Drop for ProtocolObject<P> {
    fn drop(&mut self) {
        live::died(type_name::<P>());
    }
}

impl<P: ?Sized> fmt::Debug for ProtocolObject<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} {:p}>", type_name::<P>(), Arc::as_ptr(&self.object))
    }
}
