//! What goes to the worker: frames of requests, the ends of their bodies, returned frames, pings, and
//! the calls that wake it. Nothing here waits for room in the ring: a full one is a violation.

use std::sync::atomic::Ordering;

use super::LaneCore;
use super::exchange::{EventOutcome, ExchangeId, NO_EXCHANGE, Stage, events_in};
use crate::control::SlotState;
use crate::gateway::lane::violation::Violation;
use crate::shm::descriptor::{CLIENT_LEFT, Descriptor, END, Run, Submission, UNKNOWN_LENGTH};
use crate::shm::doorbell::is_starved;
use crate::shm::layout::Phase;
use crate::shm::region::{Arena, Slots, Word};
use crate::shm::ring::PushError;

/// What the worker is told about a part of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestFrame {
    /// Bytes of encoded head at the start of the frame; zero in all but the first.
    pub head_len: usize,
    /// Bytes of body.
    pub body_len: usize,
    /// Length of the whole body; `None` where it is not known.
    pub total: Option<u64>,
    /// Combination of [`END`](crate::shm::descriptor::END) and [`ABORT`](crate::shm::descriptor::ABORT).
    pub flags: u8,
}

impl LaneCore {
    /// Whether a further part of the body may be submitted: somebody reads it, and no more than
    /// `window` frames of it are with the worker, or than one while slots are short.
    pub fn may_submit(&self, id: ExchangeId, window: usize) -> bool {
        let window = if self.is_roomy() { window as u32 } else { 1 };
        self.get(id)
            .is_none_or(|e| (e.reading && e.body_frames < window) || e.stage == Stage::Ended)
    }

    /// Hands a frame to the worker. The first of an exchange carries its head.
    ///
    /// # Errors
    /// The worker does not read its ring.
    pub fn submit(
        &mut self,
        id: ExchangeId,
        slots: Slots,
        frame: RequestFrame,
        deadline_ms: u64,
    ) -> Result<(), Violation> {
        let Some(exchange) = self.exchanges.get_mut(id.index as usize) else {
            self.release(slots);
            return Ok(());
        };
        let first = exchange.stage == Stage::Preparing;
        if self.dead || exchange.generation != id.generation || exchange.stage == Stage::Ended {
            self.release(slots);
            return Ok(());
        }
        if first {
            exchange.stage = Stage::Waiting;
            self.awaited += 1;
            self.stats.count_request();
        }
        exchange.lent += 1;
        exchange.complete = frame.flags & END != 0;
        exchange.expect_word_by(deadline_ms);
        if first {
            exchange.head_slot = Some(slots.run().first);
        } else {
            exchange.body_frames += 1;
        }
        self.stats.mark(slots.run(), SlotState::Ready);
        let run = Arena::lend(slots);
        self.lent[run.first as usize] = (id.index, run.slots);
        self.push(Descriptor {
            kind: if first {
                Submission::Request
            } else {
                Submission::Body
            } as u8,
            flags: frame.flags,
            slots: run.slots as u16,
            first: run.first,
            exchange: id.index,
            generation: id.generation,
            head_len: frame.head_len as u32,
            body_len: frame.body_len as u32,
            total: frame.total.unwrap_or(UNKNOWN_LENGTH),
        })?;
        self.call_due = true;
        Ok(())
    }

    /// Ends a request body, without a further frame; with [`ABORT`](crate::shm::descriptor::ABORT) it
    /// will never be complete.
    ///
    /// # Errors
    /// The worker does not read its ring.
    pub fn end_body(
        &mut self,
        id: ExchangeId,
        abort: u8,
        deadline_ms: u64,
    ) -> Result<(), Violation> {
        let dead = self.dead;
        let Some(exchange) = self.get_mut(id) else {
            return Ok(());
        };
        if dead
            || exchange.complete
            || !matches!(exchange.stage, Stage::Waiting | Stage::Responding)
        {
            return Ok(());
        }
        exchange.complete = true;
        exchange.expect_word_by(deadline_ms);
        self.push(Descriptor {
            kind: Submission::Body as u8,
            flags: END | abort,
            exchange: id.index,
            generation: id.generation,
            total: UNKNOWN_LENGTH,
            ..Descriptor::default()
        })?;
        self.call_due = true;
        Ok(())
    }

    /// Whether a part of the request body is still to be submitted.
    pub fn is_uploading(&self, id: ExchangeId) -> bool {
        self.get(id).is_some_and(|e| !e.complete)
    }

    /// Tells the worker that the client has stopped sending and may be gone. The answer is still
    /// relayed, in case it is not.
    pub fn client_left(&self, id: ExchangeId) {
        if self
            .get(id)
            .is_some_and(|e| matches!(e.stage, Stage::Waiting | Stage::Responding))
        {
            let word = id.generation | CLIENT_LEFT;
            self.memory
                .cancel_word(id.index)
                .store(word, Ordering::Release);
        }
    }

    /// Gives a response frame back to the worker. Returns whether the worker waits for slots and is
    /// to be called.
    ///
    /// # Errors
    /// The worker does not read its ring.
    pub fn return_frame(&mut self, run: Run) -> Result<bool, Violation> {
        if run.is_empty() || self.dead {
            return Ok(false);
        }
        let was_held = self.held.release(run);
        debug_assert!(was_held, "a frame is returned once");
        let (now_ms, timeout_ms) = (self.now_ms, self.timeout_ms);
        let id = self.held_for[run.first as usize];
        if let Some(exchange) = self.get_mut(id) {
            exchange.held = exchange.held.saturating_sub(1);
            if exchange.stage == Stage::Responding && exchange.complete {
                exchange.expect_word_by(now_ms + timeout_ms);
            }
        }
        self.push_return(run, EventOutcome::default())
    }

    /// Gives a frame of events back to the worker and says what has become of them. A run that is no
    /// such frame, as one that was returned already, is left alone. Returns whether the worker waits
    /// for slots, or for the outcome, and is to be called.
    ///
    /// # Errors
    /// The worker does not read its ring.
    // Called by whoever serves the streams.
    pub fn return_event(&mut self, run: Run, outcome: EventOutcome) -> Result<bool, Violation> {
        let held_for = self.held_for.get_mut(run.first as usize);
        let Some(held_for) = held_for.filter(|id| **id == events_in(run)) else {
            return Ok(false);
        };
        if self.dead || !self.held.release(run) {
            return Ok(false);
        }
        *held_for = NO_EXCHANGE;
        self.push_return(run, outcome)
    }

    fn push_return(&mut self, run: Run, outcome: EventOutcome) -> Result<bool, Violation> {
        self.push(Descriptor {
            kind: Submission::Return as u8,
            flags: outcome.flags,
            slots: run.slots as u16,
            first: run.first,
            head_len: outcome.dropped,
            body_len: outcome.reached,
            ..Descriptor::default()
        })?;
        self.submissions.publish(&self.memory.outbound());
        let starved = is_starved(self.memory.peer_word(Word::Starved));
        self.call_due |= starved;
        Ok(starved)
    }

    /// Asks for a sign of life. Returns whether the one before is still unanswered.
    ///
    /// # Errors
    /// The worker does not read its ring.
    pub fn send_ping(&mut self, number: u32) -> Result<bool, Violation> {
        let missed = self.ping.is_some();
        if !missed {
            self.ping = Some(number);
            let kind = Submission::Ping as u8;
            self.push(Descriptor {
                kind,
                generation: number,
                ..Descriptor::default()
            })?;
            self.call_due = true;
        }
        Ok(missed)
    }

    /// Whether a ping is unanswered.
    pub fn ping_pending(&self) -> bool {
        self.ping.is_some()
    }

    /// Tells the worker what will become of the lane.
    pub fn set_phase(&mut self, phase: Phase) {
        self.memory
            .own_word(Word::Phase)
            .store(phase as u32, Ordering::Release);
    }

    /// Shows the worker what was submitted. Returns whether it sleeps and must be woken.
    pub fn publish(&mut self) -> bool {
        self.submissions.publish(&self.memory.outbound());
        if !std::mem::take(&mut self.call_due) {
            return false;
        }
        let doorbell = self.memory.own_word(Word::Doorbell);
        let sleeps = self
            .caller
            .call(doorbell, self.memory.peer_word(Word::Sleep))
            > 0;
        if sleeps {
            self.stats.count_wake_to_worker();
        }
        sleeps
    }

    /// Queues a descriptor. With S slots, and so S exchanges, a worker that answers only what it has
    /// read can leave unread at most
    ///
    /// * S `REQUEST`s and `BODY`s with slots, since their slots come back only once they were read;
    /// * S `RETURN`s, of answers and of events, since the worker lends those slots again only once it
    ///   has read them;
    /// * S + S - R `BODY`s without slots, where R slots are kept from newcomers: each generation of an
    ///   exchange has at most one, and a generation is followed by the next but one only after the
    ///   `REQUEST` of the next was read, which stands behind what the first left;
    /// * one `PING`, since no other is sent before it was answered.
    ///
    /// The ring has at least 4 S entries and R is at least one, so only a liar finds it full.
    pub(super) fn push(&mut self, d: Descriptor) -> Result<(), Violation> {
        let pushed = self.submissions.push(&self.memory.outbound(), d);
        pushed.map_err(|e| match e {
            PushError::Full => Violation::RingNotRead,
            PushError::BadIndex => Violation::RingIndex,
        })
    }
}
