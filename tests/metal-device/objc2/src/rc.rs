//! Reference counts and autorelease pools.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A counted reference to an object; two are equal when they are of one object.
pub struct Retained<T: ?Sized>(Arc<T>);

impl<T> Retained<T> {
    /// The first reference to an object.
    pub fn new(object: T) -> Self {
        Self(Arc::new(object))
    }
}

impl<T: ?Sized> Retained<T> {
    /// The object's address.
    #[must_use]
    pub fn as_ptr(this: &Self) -> *const T {
        Arc::as_ptr(&this.0)
    }
}

impl<T: ?Sized> Clone for Retained<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: ?Sized> Deref for Retained<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> AsRef<T> for Retained<T> {
    fn as_ref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Retained<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for Retained<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: ?Sized> PartialEq for Retained<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T: ?Sized> Eq for Retained<T> {}

impl<T: ?Sized> Hash for Retained<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Self::as_ptr(self).cast::<()>().hash(state);
    }
}

type Pool = Vec<Box<dyn Any>>;

thread_local! {
    /// The thread's pools, the innermost last. The first is the one that a thread has without asking,
    /// which is emptied only when the thread ends.
    static POOLS: RefCell<Vec<Pool>> = RefCell::new(vec![Pool::new()]);
}

/// The pool that a closure of [`autoreleasepool`] runs in.
#[derive(Clone, Copy)]
pub struct AutoreleasePool(());

/// Runs a closure, then releases what was autoreleased in it.
pub fn autoreleasepool<T>(work: impl FnOnce(AutoreleasePool) -> T) -> T {
    struct Drain;
    impl Drop for Drain {
        fn drop(&mut self) {
            let pool = POOLS.with_borrow_mut(Vec::pop);
            drop(pool);
        }
    }
    POOLS.with_borrow_mut(|pools| pools.push(Pool::new()));
    let _drain = Drain;
    work(AutoreleasePool(()))
}

/// Keeps a reference until the innermost pool of this thread ends, as a method does whose name does
/// not begin with `new`. A host that has no pool around its work so keeps every such object.
#[must_use]
pub fn autoreleased<T: ?Sized + 'static>(object: Retained<T>) -> Retained<T> {
    let kept: Box<dyn Any> = Box::new(object.clone());
    // A thread that is ending has no pools left; its objects may go at once.
    let _ = POOLS.try_with(|pools| {
        if let Some(pool) = pools.borrow_mut().last_mut() {
            pool.push(kept);
        }
    });
    object
}
