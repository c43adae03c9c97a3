//! Who is connected to which path of the workers' routes, and whose clients those are: an event of a
//! worker reaches no client of another, although both may have had the path's route, one after the
//! other. Delivers nothing itself.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::gateway::stream::fanout::take_out;

/// The members of all paths.
#[derive(Default)]
pub struct Paths {
    groups: HashMap<Rc<str>, Group>,
}

#[derive(Default)]
struct Group {
    members: Vec<usize>,
    /// The name of the worker that all of them are clients of; `None` where they have been clients of
    /// several. Then each is asked, which takes longer.
    worker: Option<Arc<str>>,
    /// Whether events of that worker are remembered here, as it was found with the route table of this
    /// edition.
    remembers: Option<(u64, bool)>,
}

/// Those at a path whom a sender may reach.
#[derive(Clone, Copy)]
pub struct Audience<'a> {
    /// Some or all of these,
    pub members: &'a [usize],
    /// namely those of the worker with this name, where one is given.
    pub only: Option<&'a str>,
}

impl Paths {
    /// The path as it is known here, if anybody is connected to it.
    pub fn known(&self, path: &str) -> Option<Rc<str>> {
        self.groups
            .get_key_value(path)
            .map(|(path, _)| path.clone())
    }

    /// Another client of this worker is connected to a path. Returns its place there.
    pub fn enter(&mut self, path: &Rc<str>, worker: &Arc<str>, key: usize) -> u32 {
        let group = self.groups.entry(path.clone()).or_default();
        if group.members.is_empty() {
            group.worker = Some(worker.clone());
        } else if group.worker.as_ref().is_some_and(|known| known != worker) {
            group.worker = None;
        }
        let place = group.members.len() as u32;
        group.members.push(key);
        place
    }

    /// The member at `place` has left. Returns who has that place now.
    pub fn leave(&mut self, path: &str, place: usize) -> Option<usize> {
        let group = self.groups.get_mut(path)?;
        let moved = take_out(&mut group.members, place);
        if group.members.is_empty() {
            self.groups.remove(path);
        }
        moved
    }

    /// Whom the worker `sender` may reach at a path; everybody there where it is no worker that sends.
    pub fn audience<'a>(&'a self, path: &str, sender: Option<&'a str>) -> Option<Audience<'a>> {
        let group = self.groups.get(path)?;
        let members = &group.members[..];
        match (sender, &group.worker) {
            (Some(sender), Some(worker)) if *sender != **worker => None,
            (None, _) | (_, Some(_)) => Some(Audience {
                members,
                only: None,
            }),
            (only, None) => Some(Audience { members, only }),
        }
    }

    /// Whether events for a path are remembered there, as `find` says it. It is not asked again for
    /// the same edition of the route table while all clients there are one worker's.
    pub fn remembers(&mut self, path: &str, edition: u64, find: impl FnOnce() -> bool) -> bool {
        let group = self.groups.get_mut(path);
        let Some(group) = group.filter(|group| group.worker.is_some()) else {
            return find();
        };
        match group.remembers {
            Some((known, remembers)) if known == edition => remembers,
            _ => group.remembers.insert((edition, find())).1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reached(paths: &Paths, path: &str, sender: Option<&str>) -> Option<(usize, bool)> {
        let audience = paths.audience(path, sender)?;
        Some((audience.members.len(), audience.only.is_some()))
    }

    #[test]
    fn a_worker_reaches_its_own_and_who_is_no_worker_reaches_all() {
        let (path, a, b): (Rc<str>, Arc<str>, Arc<str>) = ("/x".into(), "a".into(), "b".into());
        let mut paths = Paths::default();
        assert_eq!(paths.enter(&path, &a, 10), 0);
        assert_eq!(paths.enter(&path, &a, 11), 1);
        assert_eq!(reached(&paths, "/x", Some("a")), Some((2, false)));
        assert_eq!(reached(&paths, "/x", Some("b")), None);
        assert_eq!(reached(&paths, "/x", None), Some((2, false)));
        // Another has the route now: from here on each is asked.
        assert_eq!(paths.enter(&path, &b, 12), 2);
        assert_eq!(reached(&paths, "/x", Some("a")), Some((3, true)));
        assert_eq!(reached(&paths, "/x", Some("b")), Some((3, true)));
        assert_eq!(reached(&paths, "/x", None), Some((3, false)));
        assert_eq!(paths.leave("/x", 0), Some(12));
        assert_eq!(paths.leave("/x", 1), None);
        assert_eq!(paths.leave("/x", 0), None);
        assert!(paths.known("/x").is_none());
        paths.enter(&path, &b, 13);
        assert_eq!(reached(&paths, "/x", Some("a")), None);
    }

    #[test]
    fn what_is_remembered_is_asked_once_for_each_route_table() {
        let (path, a, b): (Rc<str>, Arc<str>, Arc<str>) = ("/x".into(), "a".into(), "b".into());
        let mut paths = Paths::default();
        paths.enter(&path, &a, 10);
        assert!(paths.remembers("/x", 1, || true));
        assert!(paths.remembers("/x", 1, || panic!("known")));
        assert!(!paths.remembers("/x", 2, || false));
        paths.enter(&path, &b, 11);
        assert!(paths.remembers("/x", 2, || true), "it depends on who sends");
        assert!(!paths.remembers("/y", 2, || false));
    }
}
