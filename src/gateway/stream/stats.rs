//! What the streams thread counts, for the control plane to read. Written by that thread alone, with
//! relaxed stores: nothing is decided on it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::control::StreamsHealth;

/// The counters of the streams thread.
#[derive(Debug, Default)]
pub struct StreamStats {
    /// Why buffers are not registered; empty where they are. Unset until the thread has tried.
    unregistered: OnceLock<String>,
    subscribers: AtomicU64,
    events: AtomicU64,
    deliveries: AtomicU64,
    dropped: AtomicU64,
    disconnected_slow: AtomicU64,
}

impl StreamStats {
    /// Notes whether the buffers are registered with the ring, or why not.
    pub fn set_unregistered(&self, why: Option<String>) {
        let _ = self.unregistered.set(why.unwrap_or_default());
    }

    /// Notes how many connections there are.
    pub fn set_subscribers(&self, count: usize) {
        self.subscribers.store(count as u64, Relaxed);
    }

    /// Counts an event, how many subscribers it was queued for, and how many lost one by it.
    pub fn count_event(&self, reached: u32, dropped: u32) {
        add(&self.events, 1);
        add(&self.deliveries, reached.into());
        add(&self.dropped, dropped.into());
    }

    /// Counts a subscriber that was disconnected because it is slow.
    pub fn count_disconnected_slow(&self) {
        add(&self.disconnected_slow, 1);
    }

    /// The counters as `/health` shows them.
    pub fn health(&self) -> StreamsHealth {
        let tried = self.unregistered.get();
        let why = tried.filter(|why| !why.is_empty());
        StreamsHealth {
            registered_buffers: tried.is_some() && why.is_none(),
            unregistered_because: why.cloned(),
            subscribers: self.subscribers.load(Relaxed),
            events: self.events.load(Relaxed),
            deliveries: self.deliveries.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            disconnected_slow: self.disconnected_slow.load(Relaxed),
        }
    }
}

/// Adds to a counter that one thread writes.
fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed) + count, Relaxed);
}
