//! When a sleeping side must be woken, and when the call can be saved.
//! Decisions on shared words only; the system calls are the caller's.
//!
//! Both directions rest on the same argument: the sleeper says that it sleeps and then looks at the
//! ring once more; the producer publishes and then looks at the sleeper's word. With a full fence
//! between the two steps on each side, at least one of them sees the other.

use crate::shm::atomics::{AtomicU32, Ordering, fence, load_acquire};

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
    load_acquire(doorbell)
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

/// After publishing: whether the hub has asked for a wake that nobody has given yet. The caller that
/// gets `true` rings, and nobody else does.
///
/// `last_rung` is private to the worker and shared by its threads: each arm number is answered by
/// one ring, however many threads publish and however late one of them gets here.
pub fn should_ring(armed: &AtomicU32, last_rung: &AtomicU32) -> bool {
    // SYNC POINT hub-sleep: pairs with the fence in `Sleeper::arm`.
    fence(Ordering::SeqCst);
    // SYNC POINT last-rung: an arm number that another thread has answered is acquired before
    // `armed` is loaded, so the load finds that number or a later one, and `last_rung` only ever
    // grows: a thread that was held up cannot put an older number back and have the next publisher
    // ring a second time.
    let rung = last_rung.load(Ordering::Acquire);
    let arm = armed.load(Ordering::Relaxed);
    // Who finds the number answered, or loses the exchange, need not ring. Either the winner has
    // answered this very number; or the hub fenced for a later arm after this thread's fence, and
    // sees in its last look what this thread has published; or the winner answers an older number
    // while the hub sleeps under this one, which wakes it as well.
    arm != 0
        && arm != rung
        && last_rung
            .compare_exchange(rung, arm, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
}

/// The owner of `starved` waits for slots to come back. It must look at its inbound ring once more
/// before it sleeps on that.
pub fn starve(starved: &AtomicU32) {
    starved.store(1, Ordering::Relaxed);
    // SYNC POINT starved: pairs with the fence in `is_starved`.
    fence(Ordering::SeqCst);
}

/// The counterpart of [`starve`]: returned slots are worth no wake any more.
pub fn sate(starved: &AtomicU32) {
    starved.store(0, Ordering::Relaxed);
}

/// After publishing a return: whether the other side waits for it and must be woken by the means of
/// its direction, [`Caller::call`] or [`should_ring`].
pub fn is_starved(starved: &AtomicU32) -> bool {
    // SYNC POINT starved: pairs with the fence in `starve`.
    fence(Ordering::SeqCst);
    starved.load(Ordering::Relaxed) != 0
}
