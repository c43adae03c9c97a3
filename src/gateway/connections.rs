//! How many connections there are and may be, all shards and event streams together, so that the
//! descriptors that workers and the hub itself need are never used up by clients. Never on the way of a
//! request: a connection is counted when it comes and when it goes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::control::ConnectionsHealth;
use crate::limits::REFUSALS_LOG_MS;

/// The count; clones share it.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    limit: usize,
    open: AtomicUsize,
    refused: AtomicU64,
    /// Refused when that was last logged, and when that was.
    refused_logged: AtomicU64,
    logged_ms: AtomicU64,
}

/// The place of one connection, left when dropped.
#[derive(Debug)]
pub struct Place(Connections);

impl Connections {
    /// No connections, of which there may be `limit`.
    pub fn new(limit: usize) -> Connections {
        Connections(Arc::new(Counts {
            limit,
            open: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            refused_logged: AtomicU64::new(0),
            logged_ms: AtomicU64::new(0),
        }))
    }

    /// A place for a connection; `None` where there are as many as there may be.
    pub fn enter(&self) -> Option<Place> {
        let place = self.enter_beyond();
        // Threads that come at the same time may both be refused the last place; neither gets one
        // too many.
        (self.0.open.load(Relaxed) <= self.0.limit).then_some(place)
    }

    /// A place whether or not there is one: for a connection that changes hands and is, for a moment,
    /// open twice.
    pub fn enter_beyond(&self) -> Place {
        self.0.open.fetch_add(1, Relaxed);
        Place(self.clone())
    }

    /// Counts a connection that was refused. `now_ms` is any monotonic time, in milliseconds. Returns
    /// how many were since the last time this was worth a line in the log, if it is now.
    pub fn refuse(&self, now_ms: u64) -> Option<u64> {
        let refused = self.0.refused.fetch_add(1, Relaxed) + 1;
        let logged_ms = self.0.logged_ms.load(Relaxed);
        let is_due = logged_ms == 0 || now_ms >= logged_ms + REFUSALS_LOG_MS;
        let is_mine = is_due
            && self
                .0
                .logged_ms
                .compare_exchange(logged_ms, now_ms.max(1), Relaxed, Relaxed)
                .is_ok();
        is_mine.then(|| refused - self.0.refused_logged.swap(refused, Relaxed).min(refused))
    }

    /// The counts as `/health` shows them.
    pub fn health(&self) -> ConnectionsHealth {
        ConnectionsHealth {
            open: self.0.open.load(Relaxed),
            limit: self.0.limit,
            refused: self.0.refused.load(Relaxed),
        }
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.0.open.load(Relaxed), self.0.limit)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_up_to_the_limit_and_come_back() {
        let connections = Connections::new(2);
        let first = connections.enter().unwrap();
        let second = connections.enter().unwrap();
        assert!(connections.enter().is_none());
        assert_eq!(connections.health().open, 2);
        let moved = connections.enter_beyond();
        drop(first);
        assert!(connections.enter().is_none(), "one is open twice");
        drop(moved);
        let third = connections.enter().unwrap();
        drop((second, third));
        assert_eq!(connections.health().open, 0);
    }

    #[test]
    fn refusals_are_counted_and_logged_now_and_then() {
        let connections = Connections::new(0);
        assert_eq!(connections.refuse(5), Some(1));
        assert_eq!(connections.refuse(6), None);
        assert_eq!(connections.refuse(5 + REFUSALS_LOG_MS - 1), None);
        assert_eq!(connections.refuse(5 + REFUSALS_LOG_MS), Some(3));
        assert_eq!(connections.health().refused, 4);
    }
}
