//! What the hub keeps of one exchange, and the names and frames by which its two ends speak of it.
//! Records only: nothing here reads what the worker wrote.

use std::collections::VecDeque;
use std::task::Waker;

use crate::shm::descriptor::{CLIENT_LEFT, Run};

/// Names one exchange of a lane. The generation keeps a late answer from reaching a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// What a held frame is held for where that is no exchange: neither number is ever given out.
pub(super) const NO_EXCHANGE: ExchangeId = ExchangeId {
    index: u32::MAX,
    generation: 0,
};
/// As [`NO_EXCHANGE`], for a frame of events: its length stands where a generation would, so that
/// only the whole frame is taken for it.
pub(super) const fn events_in(run: Run) -> ExchangeId {
    ExchangeId {
        index: u32::MAX - 1,
        generation: run.slots,
    }
}

/// A frame of events as announced, its numbers checked against the arena. What the records say is not
/// checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventFrame {
    /// Where it stands in the response arena.
    pub run: Run,
    /// Bytes of records, from the start of the frame.
    pub len: usize,
    /// How many records there are, as the worker says; they need not be as many.
    pub records: u64,
}

/// What has become of the events of one frame, all records together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventOutcome {
    /// Deliveries that were queued: subscribers reached, counted once for each event.
    pub reached: u32,
    /// Deliveries that were dropped because a client was slow.
    pub dropped: u32,
    /// Combination of [`NO_CONNECTION`](crate::shm::descriptor::NO_CONNECTION),
    /// [`CLOSING`](crate::shm::descriptor::CLOSING) and
    /// [`REFUSED`](crate::shm::descriptor::REFUSED).
    pub flags: u8,
}

/// A response frame as announced, its numbers checked against the arena and the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it stands in the response arena; empty where nothing is carried.
    pub run: Run,
    /// Bytes of response head at its start; zero in all but the first frame.
    pub head_len: usize,
    /// Offset of the body part in the frame.
    pub body_at: usize,
    /// Bytes of the body part.
    pub body_len: usize,
    /// Length of the whole body; `None` while it is not known.
    pub total: Option<u64>,
    /// Whether the body ends here.
    pub end: bool,
    /// Whether the worker gave the body up.
    pub abort: bool,
}

/// Why an exchange will get no further frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The worker is gone.
    WorkerGone,
    /// The worker did not answer in time.
    Deadline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not in use.
    Free,
    /// Its first frame is being filled; the worker knows nothing of it.
    Preparing,
    /// The worker has it and has not answered.
    Waiting,
    /// The response has begun.
    Responding,
    /// The worker has said its last word.
    Ended,
}

/// One exchange, free or not.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) generation: u32,
    pub(super) stage: Stage,
    /// Nobody waits for the answer any more: frames go straight back.
    pub(super) abandoned: bool,
    /// Somebody still listens to the answer, but a lane that drains does not wait for it.
    pub(super) unneeded: bool,
    /// Whether the answer may carry a body at all (no: HEAD).
    pub(super) bodyless: bool,
    /// Bytes of response body still to come, or [`UNKNOWN_LENGTH`].
    pub(super) remaining: u64,
    /// Request frames the worker holds.
    pub(super) lent: u32,
    /// How many of them carry body alone.
    pub(super) body_frames: u32,
    /// First slot of the frame with the head, while the worker holds it.
    pub(super) head_slot: Option<u32>,
    /// Whether somebody in the worker reads the body.
    pub(super) reading: bool,
    /// Response frames the hub holds. While there is one, the worker may be waiting for its slots,
    /// and is not late.
    pub(super) held: u32,
    /// Whether the end of the request body was submitted.
    pub(super) complete: bool,
    /// Frames that arrived and nobody has taken yet.
    pub(super) frames: VecDeque<Frame>,
    pub(super) failure: Option<Failure>,
    pub(super) waker: Option<Waker>,
    /// Whether a look at the time has found its answer incomplete.
    pub(super) slow: bool,
    /// Time at which the worker's next word is overdue; milliseconds of the shard's clock.
    pub(super) deadline_ms: u64,
}

impl Exchange {
    /// An exchange that is free.
    pub(super) fn new() -> Exchange {
        Exchange {
            generation: 1,
            stage: Stage::Free,
            abandoned: false,
            unneeded: false,
            bodyless: false,
            remaining: 0,
            lent: 0,
            body_frames: 0,
            head_slot: None,
            reading: false,
            held: 0,
            complete: false,
            frames: VecDeque::new(),
            failure: None,
            waker: None,
            slow: false,
            deadline_ms: u64::MAX,
        }
    }

    /// The worker is late from `deadline_ms` on, unless it may be waiting for the hub, or nobody
    /// waits for it.
    pub(super) fn expect_word_by(&mut self, deadline_ms: u64) {
        self.deadline_ms = if self.held == 0 && !self.abandoned {
            deadline_ms
        } else {
            u64::MAX
        };
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        if !matches!(self.stage, Stage::Free | Stage::Ended) {
            self.failure.get_or_insert(failure);
            self.deadline_ms = u64::MAX;
            self.wake();
        }
    }
}

/// Generations count from 1 and leave the bit of [`CLIENT_LEFT`] alone.
pub(super) fn next_generation(generation: u32) -> u32 {
    ((generation + 1) & !CLIENT_LEFT).max(1)
}

pub(super) fn keep_waker(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(kept) if kept.will_wake(waker) => {}
        _ => *place = Some(waker.clone()),
    }
}
