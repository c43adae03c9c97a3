//! The one place atomics come from, so that loom can stand in for the real ones.

#[cfg(not(slotway_loom))]
pub use std::sync::atomic::{AtomicU32, Ordering, fence};

#[cfg(slotway_loom)]
pub use loom::sync::atomic::{AtomicU32, Ordering, fence};

/// Loads a word, with acquire ordering, from a page that may be read-only. Of all atomic operations only
/// relaxed loads are promised to work on such pages, so the ordering is that of a fence.
#[inline]
pub fn load_acquire(word: &AtomicU32) -> u32 {
    // ThreadSanitizer knows no fences; its pages come from the heap.
    if cfg!(slotway_heap) {
        return word.load(Ordering::Acquire);
    }
    let value = word.load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    value
}
