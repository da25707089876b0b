//! The part of `objc2` that candle and metal-candle use, without an Objective-C runtime.
//!
//! [`runtime`] and [`rc`] have the real crate's names and meaning. [`software`] is what tests have
//! beyond it: counters, and settings of the device.

pub mod rc;
pub mod runtime;
pub mod software;

/// The software device is as new as any system that is asked for.
#[macro_export]
macro_rules! available {
    ($($versions:tt)*) => {
        true
    };
}

/// Candle sends one message by hand, and only to learn whether the answer is null. It is not.
#[macro_export]
macro_rules! msg_send {
    [$object:expr, $selector:ident] => {{
        std::ptr::from_ref($object).cast::<$crate::runtime::AnyObject>()
    }};
}
