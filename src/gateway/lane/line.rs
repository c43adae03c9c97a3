//! A line of tasks that wait for something of a lane: first come, first served, and who leaves, from
//! wherever in the line, makes room.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::Waker;

/// A line.
#[derive(Debug, Default)]
pub struct Line {
    /// By ticket, and so in the order in which they came.
    waiting: RefCell<BTreeMap<u64, Waker>>,
    next_ticket: Cell<u64>,
}

impl Line {
    /// Has whoever is first look again.
    pub fn wake_first(&self) {
        if let Some((_, waker)) = self.waiting.borrow().first_key_value() {
            waker.wake_by_ref();
        }
    }

    /// Has everybody look again.
    pub fn wake_all(&self) {
        self.waiting.borrow().values().for_each(Waker::wake_by_ref);
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.borrow().len()
    }
}

/// A place in a line, or before one; left when dropped.
#[derive(Debug)]
pub struct Place<'a> {
    line: &'a Line,
    ticket: Option<u64>,
}

impl<'a> Place<'a> {
    /// Looks at a line without joining it.
    pub fn before(line: &'a Line) -> Place<'a> {
        Place { line, ticket: None }
    }

    /// Whether nobody is ahead.
    pub fn is_first(&self) -> bool {
        let waiting = self.line.waiting.borrow();
        waiting
            .first_key_value()
            .is_none_or(|(first, _)| Some(*first) == self.ticket)
    }

    /// Joins the line, once. Returns whether this was the time.
    pub fn join(&mut self, waker: &Waker) -> bool {
        if self.ticket.is_some() {
            return false;
        }
        let ticket = self.line.next_ticket.get();
        self.line.next_ticket.set(ticket + 1);
        let mut waiting = self.line.waiting.borrow_mut();
        waiting.insert(ticket, waker.clone());
        self.ticket = Some(ticket);
        true
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.line.waiting.borrow_mut().remove(&ticket);
            self.line.wake_first();
        }
    }
}
