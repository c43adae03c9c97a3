//! Frames of events at the worker's end of a lane: the share of the arena they may take, the line of
//! those who wait for it, and what the hub says has become of them. Nothing here blocks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Broken, Lane};
use crate::shm::descriptor::{CLOSING, Completion, Descriptor, NO_CONNECTION, REFUSED, Run};
use crate::shm::region::{Arena, Slots};
use crate::worker::events::receipt::{Delivery, Outcome};
use crate::worker::outbound::Outbound;
use crate::worker::session::lock;

/// In the place of an exchange: the run is a frame of events.
pub(crate) const EVENT_FRAME: u32 = u32::MAX;

/// A place in the line of those who wait for slots for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// What events have of the arena, and who waits for more of it.
#[derive(Debug)]
pub(crate) struct EventShare {
    /// Most slots that frames of events may take at any time.
    limit: u32,
    /// Slots they have.
    held: u32,
    /// Whether there were ever any: only then do streamed answers leave them their share.
    used: bool,
    /// Slots that events leave alone, for heads and short answers.
    spare: u32,
    /// Who waits, first come first served, so that a long event is not overtaken for ever.
    line: VecDeque<(Ticket, Waker)>,
    next_ticket: u64,
    /// How many wait for an outcome.
    pub(crate) watchers: u32,
    /// By first slot: who wants to know what becomes of a frame. As long as it was ever needed.
    receipts: Vec<Option<Arc<Outcome>>>,
}

impl EventShare {
    /// The share in an arena of this many slots, with nothing taken.
    pub(crate) fn new(slots: u32) -> EventShare {
        EventShare {
            limit: event_limit(slots),
            held: 0,
            used: false,
            spare: slots / 8,
            line: VecDeque::new(),
            next_ticket: 0,
            watchers: 0,
            receipts: Vec::new(),
        }
    }

    /// Slots of the share that streamed answers must leave alone.
    pub(crate) fn unused(&self) -> u32 {
        if self.used { self.limit - self.held } else { 0 }
    }

    /// Whether anybody waits for a frame of events to come back.
    pub(crate) fn awaits_returns(&self) -> bool {
        self.watchers > 0 || !self.line.is_empty()
    }

    /// The waker of whoever is next.
    pub(crate) fn first_in_line(&self) -> Option<Waker> {
        self.line.front().map(|(_, waker)| waker.clone())
    }

    /// A frame of events has come back.
    pub(crate) fn take_back(&mut self, run: Run) -> Option<Arc<Outcome>> {
        self.held -= run.slots;
        self.receipts.get_mut(run.first as usize)?.take()
    }

    /// Everything that somebody waits for and that will not come.
    pub(crate) fn close(&mut self) -> (Vec<Waker>, Vec<Arc<Outcome>>) {
        let line = std::mem::take(&mut self.line);
        let receipts = std::mem::take(&mut self.receipts);
        (
            line.into_iter().map(|(_, waker)| waker).collect(),
            receipts.into_iter().flatten().collect(),
        )
    }
}

/// Most slots that frames of events may take of an arena of this many.
pub(crate) fn event_limit(slots: u32) -> u32 {
    (slots / 4).max(1)
}

/// What the hub said when it returned a frame of events.
pub(crate) fn delivery(d: &Descriptor) -> Delivery {
    if d.flags & REFUSED != 0 {
        tracing::error!("the hub refused an event because it breaks a rule of Server-Sent Events");
    }
    Delivery {
        reached: d.body_len,
        dropped: d.head_len,
        no_connection: d.flags & NO_CONNECTION != 0,
        closing: d.flags & CLOSING != 0,
        refused: d.flags & REFUSED != 0,
    }
}

impl Lane {
    /// Takes slots for a frame of events, if they are there and nobody waits for any.
    pub(crate) fn try_event_slots(&self, count: u32) -> Option<Slots> {
        let mut outbound = lock(&self.outbound);
        if outbound.events.line.is_empty() {
            allocate(&mut outbound, count)
        } else {
            None
        }
    }

    /// Takes slots for a frame of events, or has `cx` woken when it is this one's turn and there may
    /// be enough. After `Pending` the caller must look at the submission ring once more, and must
    /// [leave the line](Lane::leave_event_line) if it gives up.
    pub(crate) fn poll_event_slots(
        &self,
        ticket: &mut Option<Ticket>,
        count: u32,
        cx: &Context<'_>,
    ) -> Poll<Slots> {
        let mut outbound = lock(&self.outbound);
        let first = outbound.events.line.front().map(|(first, _)| *first);
        let is_next = first.is_none() || first == *ticket;
        if is_next && let Some(slots) = allocate(&mut outbound, count) {
            let next = if ticket.take().is_some() {
                outbound.events.line.pop_front();
                outbound.events.first_in_line()
            } else {
                None
            };
            self.sate_if_done(&mut outbound);
            drop(outbound);
            if let Some(next) = next {
                next.wake();
            }
            return Poll::Ready(slots);
        }
        let events = &mut outbound.events;
        let place = events.line.iter_mut().find(|(t, _)| Some(*t) == *ticket);
        match place {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => {
                let new = Ticket(events.next_ticket);
                events.next_ticket += 1;
                events.line.push_back((new, cx.waker().clone()));
                *ticket = Some(new);
            }
        }
        self.starve(&mut outbound);
        Poll::Pending
    }

    /// Gives a place in the line up.
    pub(crate) fn leave_event_line(&self, ticket: Ticket) {
        let mut outbound = lock(&self.outbound);
        outbound.events.line.retain(|(t, _)| *t != ticket);
        let next = outbound.events.first_in_line();
        self.sate_if_done(&mut outbound);
        drop(outbound);
        // It may have been the turn of the one who left.
        if let Some(next) = next {
            next.wake();
        }
    }

    /// Hands a frame of events to the hub; `receipt` is told what becomes of them.
    pub(crate) fn send_events(
        &self,
        slots: Slots,
        len: usize,
        records: usize,
        receipt: Option<Arc<Outcome>>,
    ) -> Result<(), Broken> {
        let mut outbound = lock(&self.outbound);
        let run = Arena::lend(slots);
        let first = run.first as usize;
        outbound.lent[first] = (EVENT_FRAME, run.slots);
        if receipt.is_some() {
            let receipts = &mut outbound.events.receipts;
            if receipts.len() <= first {
                receipts.resize(first + 1, None);
            }
            receipts[first] = receipt;
        }
        let pushed = outbound.push(
            &self.memory,
            Descriptor {
                kind: Completion::Event as u8,
                slots: run.slots as u16,
                first: run.first,
                body_len: len as u32,
                total: records as u64,
                ..Descriptor::default()
            },
        );
        drop(outbound);
        if !pushed {
            return Err(Broken);
        }
        self.ring_hub();
        Ok(())
    }

    /// Has the hub call when it returns a frame of events, until the guard is dropped. The submission
    /// ring must be looked at once more after this.
    pub(crate) fn watch_outcomes(&self) -> Watching<'_> {
        let mut outbound = lock(&self.outbound);
        outbound.events.watchers += 1;
        self.starve(&mut outbound);
        Watching(self)
    }
}

/// While this exists, returned frames of events are worth a call.
#[derive(Debug)]
pub(crate) struct Watching<'a>(&'a Lane);

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let mut outbound = lock(&self.0.outbound);
        outbound.events.watchers -= 1;
        self.0.sate_if_done(&mut outbound);
    }
}

fn allocate(outbound: &mut Outbound, count: u32) -> Option<Slots> {
    let events = &mut outbound.events;
    events.used = true;
    let fits =
        count <= events.limit - events.held && outbound.arena.free_count() >= count + events.spare;
    let slots = fits.then(|| outbound.arena.allocate(count)).flatten()?;
    events.held += count;
    Some(slots)
}
