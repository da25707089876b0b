//! How many objects of each protocol are alive: what leaks shows as growth.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

static LIVE: Mutex<BTreeMap<&'static str, usize>> = Mutex::new(BTreeMap::new());

fn counts() -> MutexGuard<'static, BTreeMap<&'static str, usize>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The number of living objects by protocol, such as `MTLBuffer`.
#[must_use]
pub fn live() -> BTreeMap<&'static str, usize> {
    counts().clone()
}

/// `dyn objc2_metal::buffer::MTLBuffer` -> `MTLBuffer`.
fn short(protocol: &'static str) -> &'static str {
    protocol.rsplit("::").next().unwrap_or(protocol)
}

pub(crate) fn born(protocol: &'static str) {
    *counts().entry(short(protocol)).or_default() += 1;
}

pub(crate) fn died(protocol: &'static str) {
    if let Some(count) = counts().get_mut(short(protocol)) {
        *count -= 1;
    }
}
