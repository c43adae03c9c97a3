//! Connections that have ended, and whose worker has not said yet that it knows: whoever still sends to
//! one of them is told so. Nothing here takes longer the more of them there are.

use std::collections::HashMap;
use std::rc::Rc;

use crate::gateway::stream::{Incarnation, Notice};

/// All of them.
#[derive(Default)]
pub struct Closings {
    by_number: HashMap<u64, Closing>,
    /// How many were made to each path.
    by_path: HashMap<Rc<str>, usize>,
}

struct Closing {
    path: Rc<str>,
    /// What the worker is told, and through which shard, once it has taken the connection.
    held_back: Option<(usize, Notice)>,
}

impl Closings {
    /// A connection has ended. What is held back is [taken](Closings::release) later.
    pub fn insert(&mut self, number: u64, path: Rc<str>, held_back: Option<(usize, Notice)>) {
        *self.by_path.entry(path.clone()).or_default() += 1;
        self.by_number.insert(number, Closing { path, held_back });
    }

    /// The worker knows, or never will.
    pub fn remove(&mut self, number: u64) {
        let Some(Closing { path, .. }) = self.by_number.remove(&number) else {
            return;
        };
        if let Some(count) = self.by_path.get_mut(&path) {
            *count -= 1;
            if *count == 0 {
                self.by_path.remove(&path);
            }
        }
    }

    /// What was held back of a connection until this worker has taken it.
    pub fn release(&mut self, number: u64, worker: &Incarnation) -> Option<(usize, Notice)> {
        let closing = self.by_number.get_mut(&number)?;
        // Another successor may have been asked before this one.
        closing
            .held_back
            .take_if(|(_, notice)| notice.worker == *worker)
    }

    /// Whether the connection with this number is one of them.
    pub fn has_number(&self, number: u64) -> bool {
        self.by_number.contains_key(&number)
    }

    /// Whether any of them was made to this path.
    pub fn has_path(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_closing_as_long_as_one_of_its_connections_is() {
        let mut closings = Closings::default();
        closings.insert(1, "/a".into(), None);
        closings.insert(2, "/a".into(), None);
        closings.insert(3, "/b".into(), None);
        closings.remove(1);
        closings.remove(1);
        assert!(closings.has_path("/a") && closings.has_path("/b"));
        assert!(!closings.has_number(1) && closings.has_number(2));
        closings.remove(2);
        assert!(!closings.has_path("/a") && closings.has_path("/b"));
        closings.remove(3);
        assert!(closings.by_path.is_empty() && closings.by_number.is_empty());
    }
}
