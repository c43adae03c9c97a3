//! Connections that have ended, and whose worker has not said yet that it knows: whoever still sends to
//! one of them is told so. Nothing here takes longer the more of them there are.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::gateway::stream::{Incarnation, Notice};

/// All of them.
#[derive(Default)]
pub struct Closings {
    by_number: HashMap<u64, Closing>,
    /// How many clients of which worker each path had. It is seldom more than one worker.
    by_path: HashMap<Rc<str>, Vec<(Arc<str>, usize)>>,
}

struct Closing {
    path: Rc<str>,
    /// The name of its worker.
    name: Arc<str>,
    /// What the worker is told, and through which shard, once it has taken the connection.
    held_back: Option<(usize, Notice)>,
}

impl Closings {
    /// A connection has ended. What is held back is [taken](Closings::release) later.
    pub fn insert(
        &mut self,
        number: u64,
        path: Rc<str>,
        name: Arc<str>,
        held_back: Option<(usize, Notice)>,
    ) {
        let counts = self.by_path.entry(path.clone()).or_default();
        match counts.iter_mut().find(|(of, _)| *of == name) {
            Some((_, count)) => *count += 1,
            None => counts.push((name.clone(), 1)),
        }
        let closing = Closing {
            path,
            name,
            held_back,
        };
        self.by_number.insert(number, closing);
    }

    /// The worker knows, or never will.
    pub fn remove(&mut self, number: u64) {
        let Some(Closing { path, name, .. }) = self.by_number.remove(&number) else {
            return;
        };
        if let Some(counts) = self.by_path.get_mut(&path) {
            let of_name = counts.iter_mut().filter(|(of, _)| *of == name);
            of_name.for_each(|(_, count)| *count -= 1);
            counts.retain(|(_, count)| *count > 0);
            if counts.is_empty() {
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

    /// Whether the connection with this number is one of them, and of the worker `sender` if that is
    /// who asks.
    pub fn has_number(&self, number: u64, sender: Option<&str>) -> bool {
        let closing = self.by_number.get(&number);
        closing.is_some_and(|c| sender.is_none_or(|sender| *sender == *c.name))
    }

    /// Whether any of them was made to this path, and is of the worker `sender` if that is who asks.
    pub fn has_path(&self, path: &str, sender: Option<&str>) -> bool {
        let mut counts = self.by_path.get(path).into_iter().flatten();
        counts.any(|(name, _)| sender.is_none_or(|sender| *sender == **name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_closing_as_long_as_one_of_its_connections_is() {
        let mut closings = Closings::default();
        closings.insert(1, "/a".into(), "w".into(), None);
        closings.insert(2, "/a".into(), "w".into(), None);
        closings.insert(3, "/b".into(), "v".into(), None);
        closings.remove(1);
        closings.remove(1);
        assert!(closings.has_path("/a", None) && closings.has_path("/b", None));
        assert!(!closings.has_number(1, None) && closings.has_number(2, None));
        closings.remove(2);
        assert!(!closings.has_path("/a", None) && closings.has_path("/b", None));
        closings.remove(3);
        assert!(closings.by_path.is_empty() && closings.by_number.is_empty());
    }

    #[test]
    fn a_worker_hears_of_its_own_alone() {
        let mut closings = Closings::default();
        closings.insert(1, "/a".into(), "w".into(), None);
        closings.insert(2, "/a".into(), "v".into(), None);
        let asked = |closings: &Closings, who: &str| {
            let number = |number| closings.has_number(number, Some(who));
            (number(1), number(2), closings.has_path("/a", Some(who)))
        };
        assert_eq!(asked(&closings, "w"), (true, false, true));
        assert_eq!(asked(&closings, "v"), (false, true, true));
        assert_eq!(asked(&closings, "u"), (false, false, false));
        closings.remove(2);
        assert_eq!(asked(&closings, "v"), (false, false, false));
        assert_eq!(asked(&closings, "w"), (true, false, true));
    }
}
