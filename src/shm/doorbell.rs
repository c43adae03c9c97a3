//! When a sleeping side must be woken, and when the call can be saved.
//! Decisions on shared words only; the system calls are the caller's.
//!
//! Both directions rest on the same argument: the sleeper says that it sleeps and then looks at the
//! ring once more; the producer publishes and then looks at the sleeper's word. With a full fence
//! between the two steps on each side, at least one of them sees the other.

use crate::shm::atomics::{AtomicU32, Ordering, fence};

/// The hub's half of hub-to-worker wakes.
#[derive(Debug, Default)]
pub struct Caller {
    rings: u32,
}

impl Caller {
    /// After publishing: moves the doorbell word and says how many sleepers the worker reports.
    /// Zero means the worker is awake and will look by itself.
    pub fn call(&mut self, doorbell: &AtomicU32, sleepers: &AtomicU32) -> u32 {
        self.rings = self.rings.wrapping_add(1);
        // The word moves before the sleepers are counted: a thread between its last look at the
        // ring and its futex wait finds another value there and does not go to sleep.
        doorbell.store(self.rings, Ordering::Release);
        // SYNC POINT worker-sleep: pairs with the fence in `sleep_begin`.
        fence(Ordering::SeqCst);
        sleepers.load(Ordering::Relaxed)
    }
}

/// A worker thread (or event loop) is about to sleep. Returns the doorbell value to wait on; the
/// caller must look at the ring once more before it waits, and call [`sleep_end`] afterwards.
pub fn sleep_begin(doorbell: &AtomicU32, sleepers: &AtomicU32) -> u32 {
    sleepers.fetch_add(1, Ordering::Relaxed);
    // SYNC POINT worker-sleep: pairs with the fence in `Caller::call`.
    fence(Ordering::SeqCst);
    doorbell.load(Ordering::Acquire)
}

/// The counterpart of [`sleep_begin`].
pub fn sleep_end(sleepers: &AtomicU32) {
    sleepers.fetch_sub(1, Ordering::Relaxed);
}

/// The hub's half of worker-to-hub wakes.
#[derive(Debug, Default)]
pub struct Sleeper {
    arms: u32,
}

impl Sleeper {
    /// The hub is about to sleep: asks to be woken once. The caller must look at the ring once more
    /// before it does.
    pub fn arm(&mut self, armed: &AtomicU32) {
        self.arms = self.arms.wrapping_add(1).max(1);
        armed.store(self.arms, Ordering::Relaxed);
        // SYNC POINT hub-sleep: pairs with the fence in `should_ring`.
        fence(Ordering::SeqCst);
    }

    /// The hub is awake.
    pub fn disarm(&self, armed: &AtomicU32) {
        armed.store(0, Ordering::Relaxed);
    }
}

/// After publishing: whether the hub has asked for a wake that nobody has given yet.
///
/// `last_rung` is private to the worker and shared by its threads: each arm number is answered by
/// one call, however many threads publish.
pub fn should_ring(armed: &AtomicU32, last_rung: &AtomicU32) -> bool {
    // SYNC POINT hub-sleep: pairs with the fence in `Sleeper::arm`.
    fence(Ordering::SeqCst);
    let arm = armed.load(Ordering::Relaxed);
    arm != 0 && last_rung.swap(arm, Ordering::AcqRel) != arm
}
