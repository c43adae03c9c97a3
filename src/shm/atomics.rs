//! The one place atomics come from, so that loom can stand in for the real ones.

#[cfg(not(slotway_loom))]
pub use std::sync::atomic::{AtomicU32, Ordering, fence};

#[cfg(slotway_loom)]
pub use loom::sync::atomic::{AtomicU32, Ordering, fence};
