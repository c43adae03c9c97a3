//! What comes from the worker. Every descriptor is checked here, as a private copy, before anything
//! is done with it; one that no honest worker sends ends in a violation, never in a panic.

use std::task::Waker;

use super::LaneCore;
use super::exchange::{EventFrame, ExchangeId, Failure, Frame, Stage, events_in, keep_waker};
use crate::control::SlotState;
use crate::gateway::lane::violation::Violation;
use crate::limits::MAX_EVENT_FRAME;
use crate::shm::arena::SlotMap;
use crate::shm::descriptor::{Completion, Descriptor, Run, UNKNOWN_LENGTH};
use crate::shm::doorbell::{sate, starve};
use crate::shm::events::RECORD_PREFIX;
use crate::shm::layout::body_offset;
use crate::shm::region::Word;

/// What one look at the completion ring brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Completions taken.
    pub taken: usize,
    /// How many of them begin an answer: these are what was awaited.
    pub begun: usize,
    /// How many of them end an answer.
    pub answers: usize,
    /// Whether request slots, or the number of an exchange, can be used again.
    pub room_made: bool,
}

impl LaneCore {
    /// Takes up to `limit` completions from the ring. `now_ms` is the shard's time.
    ///
    /// # Errors
    /// What the worker did that no honest worker does.
    pub fn take_completions(&mut self, limit: usize, now_ms: u64) -> Result<Turn, Violation> {
        self.now_ms = now_ms;
        let mut turn = Turn::default();
        let in_use = self.in_use();
        while turn.taken < limit && !self.dead {
            let next = self.completions.pop(&self.memory.inbound());
            let Some(d) = next.map_err(|_| Violation::RingIndex)? else {
                break;
            };
            turn.taken += 1;
            match Completion::from_u8(d.kind).ok_or(Violation::UnknownKind(d.kind))? {
                kind @ (Completion::Response | Completion::Body) => {
                    let begins = kind == Completion::Response;
                    self.on_frame(&d, begins)?;
                    turn.begun += usize::from(begins);
                    turn.answers += usize::from(d.is_end());
                }
                Completion::Return => {
                    self.on_return(&d)?;
                    turn.room_made = true;
                }
                Completion::Read => self.on_read(&d),
                Completion::Event => self.on_event(&d)?,
                Completion::Pong => match self.ping.take() {
                    Some(number) if number == d.generation => {}
                    _ => return Err(Violation::UnknownPong),
                },
            }
        }
        turn.room_made |= self.in_use() < in_use;
        if turn.taken > 0 {
            self.completions.release(&self.memory.inbound());
        }
        Ok(turn)
    }

    /// The next frame of an exchange, or its failure. `None`: nothing yet, and `waker` is called
    /// when that changes.
    pub fn poll_frame(&mut self, id: ExchangeId, waker: &Waker) -> Option<Result<Frame, Failure>> {
        let Some(exchange) = self.get_mut(id) else {
            return Some(Err(Failure::WorkerGone));
        };
        if let Some(frame) = exchange.frames.pop_front() {
            return Some(Ok(frame));
        }
        if let Some(failure) = exchange.failure {
            return Some(Err(failure));
        }
        keep_waker(&mut exchange.waker, waker);
        None
    }

    /// The length of the next frame of events, if there is one.
    pub fn next_event_len(&self) -> Option<usize> {
        self.event_frames.front().map(|frame| frame.len)
    }

    /// The next frame of events, in the order they were sent. It is the caller's until
    /// [`LaneCore::return_event`], and holds the worker's slots for as long: that is what slows down a
    /// worker that sends more than is taken.
    // Called by whoever serves the streams.
    pub fn take_event_frame(&mut self) -> Option<EventFrame> {
        self.event_frames.pop_front()
    }

    /// Has `waker` called when anything happens to the exchange.
    pub fn watch(&mut self, id: ExchangeId, waker: &Waker) {
        if let Some(exchange) = self.get_mut(id) {
            keep_waker(&mut exchange.waker, waker);
        }
    }

    /// The hub is about to sleep. Returns whether something is waiting after all.
    ///
    /// # Errors
    /// The worker's ring index cannot be true.
    pub fn arm(&mut self) -> Result<bool, Violation> {
        self.sleeper.arm(self.memory.own_word(Word::Sleep));
        self.completions
            .refresh(&self.memory.inbound())
            .map_err(|_| Violation::RingIndex)
    }

    /// The hub is awake.
    pub fn disarm(&mut self) {
        self.sleeper.disarm(self.memory.own_word(Word::Sleep));
    }

    /// Says whether the hub waits for slots, so that a return is worth a wake.
    pub fn set_starved(&mut self, starved: bool) {
        let word = self.memory.own_word(Word::Starved);
        if starved {
            starve(word);
        } else {
            sate(word);
        }
    }

    fn on_frame(&mut self, d: &Descriptor, first: bool) -> Result<(), Violation> {
        let geometry = self.memory.geometry();
        let exchange = self.exchanges.get_mut(d.exchange as usize);
        let exchange = exchange
            .filter(|e| e.generation == d.generation)
            .ok_or(Violation::NoSuchExchange)?;
        match exchange.stage {
            Stage::Waiting if first => {}
            Stage::Responding if !first => {}
            Stage::Waiting | Stage::Responding => return Err(Violation::OutOfOrder),
            _ => return Err(Violation::NoSuchExchange),
        }
        if d.is_abort() && !d.is_end() {
            return Err(Violation::OutOfOrder);
        }
        let (head_len, body_len) = (d.head_len as usize, d.body_len as usize);
        let body_at = body_offset(head_len);
        let size = d.slots as usize * geometry.slot_size();
        if (head_len > 0) != first
            || head_len > size
            // Only slots bound how many frames can queue up here; the end comes but once.
            || (d.slots == 0 && !d.is_end())
            || body_len > size.saturating_sub(body_at)
        {
            return Err(Violation::BadFrame);
        }
        if d.slots > 0 {
            hold(&mut self.held, d.run())?;
        }
        if first {
            exchange.stage = Stage::Responding;
            self.awaited -= usize::from(!exchange.slow);
            exchange.remaining = d.total;
        }
        if exchange.bodyless {
            if body_len > 0 {
                return Err(Violation::BodyLength);
            }
        } else if exchange.remaining != UNKNOWN_LENGTH {
            let rest = exchange.remaining.checked_sub(body_len as u64);
            exchange.remaining = rest.ok_or(Violation::BodyLength)?;
            if d.is_end() && !d.is_abort() && exchange.remaining > 0 {
                return Err(Violation::BodyLength);
            }
        }
        if d.slots > 0 {
            exchange.held += 1;
            self.held_for[d.first as usize] = ExchangeId {
                index: d.exchange,
                generation: d.generation,
            };
        }
        // The hub has a frame of it now, or has heard its last word.
        exchange.deadline_ms = u64::MAX;
        if d.is_end() {
            exchange.stage = Stage::Ended;
        }
        if exchange.abandoned {
            self.return_frame(d.run())?;
            self.free_if_done(d.exchange);
            return Ok(());
        }
        exchange.frames.push_back(Frame {
            run: match d.slots {
                0 => Run::default(),
                _ => d.run(),
            },
            head_len,
            body_at,
            body_len,
            total: (d.total != UNKNOWN_LENGTH).then_some(d.total),
            end: d.is_end(),
            abort: d.is_abort(),
        });
        exchange.wake();
        Ok(())
    }

    /// Events belong to no exchange, so nothing but their frame can be wrong here; the records are
    /// for whoever takes it.
    fn on_event(&mut self, d: &Descriptor) -> Result<(), Violation> {
        if d.exchange != 0 || d.generation != 0 {
            return Err(Violation::NoSuchExchange);
        }
        if d.flags != 0 {
            return Err(Violation::OutOfOrder);
        }
        let len = d.body_len as usize;
        if d.head_len > 0
            || len > d.slots as usize * self.memory.geometry().slot_size()
            || len > MAX_EVENT_FRAME
            || d.total == 0
            || d.total > (len / RECORD_PREFIX) as u64
        {
            return Err(Violation::BadFrame);
        }
        hold(&mut self.held, d.run())?;
        self.held_for[d.first as usize] = events_in(d.run());
        self.event_frames.push_back(EventFrame {
            run: d.run(),
            len,
            records: d.total,
        });
        Ok(())
    }

    /// A reader may outlive its exchange, so one that is over is no violation.
    fn on_read(&mut self, d: &Descriptor) {
        let id = ExchangeId {
            index: d.exchange,
            generation: d.generation,
        };
        if let Some(exchange) = self.get_mut(id) {
            exchange.reading = true;
            exchange.wake();
        }
    }

    fn on_return(&mut self, d: &Descriptor) -> Result<(), Violation> {
        let run = d.run();
        let lent = self
            .lent
            .get_mut(run.first as usize)
            .ok_or(Violation::NotLent)?;
        let (index, slots) = *lent;
        if slots == 0 || slots != run.slots {
            return Err(Violation::NotLent);
        }
        *lent = (0, 0);
        let freed = self.arena.take_back(run);
        debug_assert!(freed, "what is lent is taken");
        self.stats.mark(run, SlotState::Free);
        let exchange = &mut self.exchanges[index as usize];
        exchange.lent -= 1;
        if exchange.head_slot == Some(run.first) {
            // From here on the slot may carry body like any other.
            exchange.head_slot = None;
        } else {
            exchange.body_frames -= 1;
        }
        exchange.wake();
        self.free_if_done(index);
        Ok(())
    }
}

/// Notes that the hub holds a run of response slots.
fn hold(held: &mut SlotMap, run: Run) -> Result<(), Violation> {
    if held.take(run) {
        return Ok(());
    }
    // Empty, past the arena, or over a frame that has not been returned.
    let past = run.first as u64 + run.slots as u64 > held.slots() as u64;
    Err(if run.is_empty() || past {
        Violation::BadFrame
    } else {
        Violation::Overlap
    })
}
