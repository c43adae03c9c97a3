//! What the model of a lane knows of one exchange.

use std::collections::{BTreeMap, VecDeque};

use crate::gateway::lane::core::exchange::{Failure, Frame};

/// Index and generation of an exchange.
pub(super) type Key = (u32, u32);

/// The worker did what no honest worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// Who has a request slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Free,
    Hub,
    Worker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Preparing,
    Waiting,
    Responding,
    Ended,
}

/// An exchange that is not free.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) stage: Stage,
    /// Nobody waits for it any more.
    pub(super) abandoned: bool,
    pub(super) bodyless: bool,
    /// What the response still owes, where that is known.
    pub(super) owed: Option<u64>,
    /// The end of the request body was submitted.
    pub(super) complete: bool,
    pub(super) reading: bool,
    /// Request frames with the worker, by first slot: whether it is the one with the head.
    pub(super) lent: BTreeMap<u32, bool>,
    /// Response frames with the hub.
    pub(super) held: u32,
    pub(super) frames: VecDeque<Frame>,
    pub(super) failure: Option<Failure>,
    pub(super) due_ms: Option<u64>,
    /// Whether a look at the time has found it without its whole answer.
    pub(super) slow: bool,
}

impl Asked {
    pub(super) fn expect_word_by(&mut self, due_ms: u64) {
        self.due_ms = (self.held == 0 && !self.abandoned).then_some(due_ms);
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        if self.stage != Stage::Ended {
            self.failure.get_or_insert(failure);
            self.due_ms = None;
        }
    }
}
