//! What a lane counts and which state its slots are in, for the control plane to read from another
//! thread. Written by the lane's shard alone, with relaxed stores: nothing is decided on it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::control::{SlotState, Traffic};
use crate::shm::descriptor::Run;

/// The counters and slot states of one lane.
#[derive(Debug)]
pub struct LaneStats {
    slots: Box<[AtomicU8]>,
    requests: AtomicU64,
    wakes_to_worker: AtomicU64,
    wakes_to_hub: AtomicU64,
    violations: AtomicU64,
}

impl LaneStats {
    /// Counters at zero, over `slots` free slots.
    pub fn new(slots: u32) -> LaneStats {
        LaneStats {
            slots: (0..slots)
                .map(|_| AtomicU8::new(SlotState::Free as u8))
                .collect(),
            requests: AtomicU64::new(0),
            wakes_to_worker: AtomicU64::new(0),
            wakes_to_hub: AtomicU64::new(0),
            violations: AtomicU64::new(0),
        }
    }

    /// The state of each slot.
    pub fn slot_states(&self) -> impl Iterator<Item = SlotState> + '_ {
        self.slots
            .iter()
            .map(|s| SlotState::from_u8(s.load(Relaxed)))
    }

    /// The counters.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Relaxed),
            wakes_to_worker: self.wakes_to_worker.load(Relaxed),
            wakes_to_hub: self.wakes_to_hub.load(Relaxed),
            violations: self.violations.load(Relaxed),
        }
    }

    /// Notes the state of a run of slots.
    pub fn mark(&self, run: Run, state: SlotState) {
        let range = run.first as usize..(run.first + run.slots) as usize;
        for slot in self.slots.get(range).unwrap_or_default() {
            slot.store(state as u8, Relaxed);
        }
    }

    /// Notes that every slot is free.
    pub fn clear(&self) {
        self.slots
            .iter()
            .for_each(|slot| slot.store(SlotState::Free as u8, Relaxed));
    }

    /// Counts a request handed to the worker.
    pub fn count_request(&self) {
        bump(&self.requests);
    }

    /// Counts a wake of the worker.
    pub fn count_wake_to_worker(&self) {
        bump(&self.wakes_to_worker);
    }

    /// Counts a wake of the hub.
    pub fn count_wake_to_hub(&self) {
        bump(&self.wakes_to_hub);
    }

    /// Counts an answer that broke the rules of HTTP.
    pub fn count_violation(&self) {
        bump(&self.violations);
    }
}

/// Adds one to a counter that one thread writes: cheaper than an atomic read-modify-write.
fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}
