//! The part of `block2` that candle uses: a block is a shared closure of one argument.

use std::sync::Arc;

/// What a pointer to a block points to.
pub struct Block<A>(Arc<dyn Fn(A)>);

impl<A> Block<A> {
    /// The closure, as `Block_copy` would keep it.
    #[must_use]
    pub fn copy(&self) -> Arc<dyn Fn(A)> {
        Arc::clone(&self.0)
    }
}

/// A block that its owner holds.
pub struct RcBlock<A>(Box<Block<A>>);

impl<A> RcBlock<A> {
    /// A block of a closure.
    pub fn new(closure: impl Fn(A) + 'static) -> Self {
        Self(Box::new(Block(Arc::new(closure))))
    }

    /// The pointer that is passed to Objective-C; it lives as long as the owner.
    #[must_use]
    pub fn as_ptr(this: &Self) -> *mut Block<A> {
        std::ptr::from_ref(&*this.0).cast_mut()
    }
}
