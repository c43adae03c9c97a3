//! Tasks that cannot go on before slots come back.

use std::task::Waker;

use super::Lane;

/// While one of these exists, the worker wakes the hub for returned slots too, and the task looks at
/// the time at each tick.
pub(super) struct Hunger<'a> {
    lane: &'a Lane,
    key: usize,
}

impl<'a> Hunger<'a> {
    /// From now on.
    pub(super) fn new(lane: &'a Lane, waker: &Waker) -> Hunger<'a> {
        let first = lane.hungry.borrow().is_empty();
        let key = lane.hungry.borrow_mut().insert(waker.clone());
        if first {
            lane.core.borrow_mut().set_starved(true);
        }
        // A return that came before the worker could know is seen by this look at the ring.
        lane.wake_driver();
        Hunger { lane, key }
    }
}

impl Drop for Hunger<'_> {
    fn drop(&mut self) {
        let mut hungry = self.lane.hungry.borrow_mut();
        hungry.remove(self.key);
        if hungry.is_empty() {
            self.lane.core.borrow_mut().set_starved(false);
        }
    }
}
