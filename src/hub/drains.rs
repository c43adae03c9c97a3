//! Workers that drain while another has their name: how many of one name there may be, and for how
//! long. One that never finishes would keep its place and its lanes for ever, and could be followed by
//! one like it again and again. Decides only; the time comes in.

use std::sync::Arc;

use crate::control::WorkerState;
use crate::hub::registry::Registry;
use crate::limits::MAX_DRAINING_NAMESAKES;

/// All of them, those that were replaced first in front.
#[derive(Debug)]
pub struct Drains {
    patience_ms: u64,
    all: Vec<Drain>,
}

#[derive(Debug)]
struct Drain {
    worker: usize,
    name: Arc<str>,
    /// When it must have finished.
    by_ms: u64,
}

impl Drains {
    /// Nobody yet; each has `patience_ms` from its replacement on.
    pub fn new(patience_ms: u64) -> Drains {
        Drains {
            patience_ms,
            all: Vec::new(),
        }
    }

    /// A worker of this name has attached: its predecessors have so much time from now on. Returns
    /// those that are too many, the oldest.
    pub fn succeed(&mut self, name: &Arc<str>, registry: &Registry, now_ms: u64) -> Vec<usize> {
        for (worker, record) in registry.iter() {
            let drains = record.state == WorkerState::Draining && record.name == *name;
            if drains && self.all.iter().all(|d| d.worker != worker) {
                self.all.push(Drain {
                    worker,
                    name: name.clone(),
                    by_ms: now_ms.saturating_add(self.patience_ms),
                });
            }
        }
        let namesakes = || self.all.iter().filter(|d| d.name == *name);
        let excess = namesakes().count().saturating_sub(MAX_DRAINING_NAMESAKES);
        namesakes().take(excess).map(|d| d.worker).collect()
    }

    /// Whether the worker was replaced, and is not gone.
    pub fn knows(&self, worker: usize) -> bool {
        self.all.iter().any(|d| d.worker == worker)
    }

    /// The worker is gone.
    pub fn forget(&mut self, worker: usize) {
        self.all.retain(|d| d.worker != worker);
    }

    /// One whose time is up.
    pub fn overdue(&self, now_ms: u64) -> Option<usize> {
        let first = self.all.first().filter(|d| d.by_ms <= now_ms);
        first.map(|d| d.worker)
    }

    /// When the next one must have finished.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.all.first().map(|d| d.by_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Registration;
    use crate::hub::registry::Process;

    fn attach(registry: &mut Registry, name: &str, attach: u64) -> usize {
        let valid = Registration {
            name: name.into(),
            routes: Vec::new(),
        };
        let process = Process { pid: 1, attach };
        let attached = registry.attach(valid.validate().unwrap(), None, process, Vec::new());
        attached.unwrap().index
    }

    #[test]
    fn the_oldest_goes_where_there_are_too_many_and_each_when_its_time_is_up() {
        let mut registry = Registry::new(0);
        let mut drains = Drains::new(100);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let other = attach(&mut registry, "b", 0);
        // One that was told to stop has all the time it takes, until another has its name.
        registry.drain(other);
        assert!(drains.succeed(&a, &registry, 0).is_empty());
        assert_eq!(drains.next_deadline_ms(), None);
        let mut workers = Vec::new();
        for number in 0..=MAX_DRAINING_NAMESAKES as u64 {
            workers.push(attach(&mut registry, "a", number));
            assert!(drains.succeed(&a, &registry, number).is_empty());
        }
        attach(&mut registry, "b", 9);
        assert!(drains.succeed(&b, &registry, 9).is_empty());
        attach(&mut registry, "a", 10);
        assert_eq!(drains.succeed(&a, &registry, 10), [workers[0]]);
        registry.gone(workers[0], 10);
        drains.forget(workers[0]);
        assert!(drains.succeed(&a, &registry, 11).is_empty());
        // The second was replaced when the third came.
        assert_eq!(drains.next_deadline_ms(), Some(102));
        assert_eq!(drains.overdue(101), None);
        assert_eq!(drains.overdue(102), Some(workers[1]));
        drains.forget(workers[1]);
        assert_eq!(drains.overdue(102), None);
        assert_eq!(drains.overdue(103), Some(workers[2]));
    }
}
