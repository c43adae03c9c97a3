//! Lanes whose worker is gone and of which clients still hold something: the frame of an answer that is
//! being sent, or slots of a request that is still arriving. While one of these is left, so is the
//! lane's memory, and the worker may long have another. So they have a short time, and all of them
//! together a bound. Decisions only: who is cut off is known elsewhere.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use crate::gateway::lane::Lane;
use crate::limits::{MAX_REMAINS, REMAINS_MS};

/// What is left of a lane.
#[derive(Debug)]
struct Remain {
    lane: Weak<Lane>,
    bytes: usize,
    until_ms: u64,
}

/// What is left of the lanes of a shard, the oldest first.
#[derive(Debug, Default)]
pub struct Remains(RefCell<Vec<Remain>>);

impl Remains {
    /// A lane has ended at `now_ms`.
    pub fn add(&self, lane: &Rc<Lane>, now_ms: u64) {
        self.0.borrow_mut().push(Remain {
            lane: Rc::downgrade(lane),
            bytes: 2 * lane.geometry().memory_len(),
            until_ms: now_ms + REMAINS_MS,
        });
    }

    /// The addresses of the lanes whose clients have had their time at `now_ms`, or hold too much. One
    /// lane may be as large as it is.
    pub fn overdue(&self, now_ms: u64) -> Vec<usize> {
        let mut remains = self.0.borrow_mut();
        // What is held weakly keeps its address, so no other lane can have it.
        remains.retain(|remain| remain.lane.strong_count() > 0);
        let mut held: usize = remains.iter().map(|remain| remain.bytes).sum();
        let newest = remains.len().saturating_sub(1);
        let mut overdue = Vec::new();
        for (at, remain) in remains.iter().enumerate() {
            if remain.until_ms <= now_ms || (held > MAX_REMAINS && at < newest) {
                overdue.push(remain.lane.as_ptr().addr());
                held -= remain.bytes;
            }
        }
        overdue
    }
}
