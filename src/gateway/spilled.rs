//! How much a shard holds for clients that are slow. Counts only; the bytes are the connections'.

use std::cell::Cell;
use std::rc::Rc;

use crate::limits::MAX_SPILLED;

/// Bytes of answers that a shard holds for clients that may be slow: copied out of workers' memory, or
/// long ones of the hub's own.
#[derive(Debug, Default)]
pub struct Spilled(Cell<usize>);

/// A part of them, until it is sent.
#[derive(Debug)]
pub struct Spill(Rc<Spilled>, usize);

impl Spilled {
    /// Room for so many more; `None` beyond what a shard may hold.
    pub fn take(self: &Rc<Self>, bytes: usize) -> Option<Spill> {
        let all = self.0.get() + bytes;
        (all <= MAX_SPILLED).then(|| {
            self.0.set(all);
            Spill(self.clone(), bytes)
        })
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_much_at_a_time() {
        let spilled = Rc::new(Spilled::default());
        let most = spilled.take(MAX_SPILLED - 1).expect("there is room");
        assert!(spilled.take(2).is_none());
        let last = spilled.take(1).expect("there is room");
        assert!(spilled.take(1).is_none());
        drop(most);
        assert!(spilled.take(MAX_SPILLED).is_none());
        drop(last);
        assert!(spilled.take(MAX_SPILLED).is_some());
    }
}
