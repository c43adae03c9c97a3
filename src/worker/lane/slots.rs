//! Slots for answers: who gets some, who waits, and who is called when some have come back.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use super::{ExchangeId, Lane};
use crate::shm::codec::{RESPONSE_PREFIX_LEN, response_prefix};
use crate::shm::descriptor::{Completion, Descriptor, END};
use crate::shm::doorbell::{sate, starve};
use crate::shm::region::{Arena, Slots, Word};
use crate::worker::outbound::{Outbound, Turn, Want};
use crate::worker::session::lock;

/// Most of those who wait for slots that an event loop runs before it looks at the ring again.
const CALLED_IN_TURN: u32 = 4;

impl Lane {
    /// In an event loop: those who wait for slots are called a few at a time. Otherwise a request would
    /// have its turn behind hundreds of streams, each of which writes next to nothing, since all of them
    /// came for what there was.
    pub(crate) fn in_event_loop(self) -> Lane {
        Lane {
            most_called: Some(CALLED_IN_TURN),
            ..self
        }
    }

    /// Takes response slots, if there are any to be had.
    pub(crate) fn allocate(&self, exchange: u32, want: Want) -> Option<Slots> {
        lock(&self.outbound).allocate(exchange, want)
    }

    /// Takes response slots, or has `cx` woken when some have come back. After `Pending` the caller
    /// must look at the submission ring once more.
    pub(crate) fn poll_allocate(
        &self,
        id: ExchangeId,
        want: Want,
        cx: &Context<'_>,
    ) -> Poll<Slots> {
        let mut outbound = lock(&self.outbound);
        if let Some(slots) = outbound.allocate(id.index, want) {
            // It may have come without being called.
            outbound.stop_waiting(id);
            return Poll::Ready(slots);
        }
        outbound.wait(id, want, cx.waker());
        self.starve(&mut outbound);
        Poll::Pending
    }

    /// Whoever sends the answer of this exchange waits for slots no more. If it was called and did not
    /// come, another is.
    pub(crate) fn stop_waiting(&self, id: ExchangeId) {
        let mut outbound = lock(&self.outbound);
        outbound.stop_waiting(id);
        let waiting = self.serve_waiting(&mut outbound, id.index);
        drop(outbound);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Gives back slots that were not lent.
    pub(crate) fn release(&self, exchange: u32, slots: Slots) {
        let mut outbound = lock(&self.outbound);
        outbound.let_go(exchange, slots.run().slots);
        outbound.arena.release(slots);
        let waiting = self.serve_waiting(&mut outbound, exchange);
        drop(outbound);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Answers 500 in the place of a handler that is gone; later, where no slot is free now.
    pub(crate) fn answer_for(&self, id: ExchangeId) {
        let mut outbound = lock(&self.outbound);
        outbound.orphans.push_back(id);
        self.answer_orphans(&mut outbound);
        drop(outbound);
        self.ring_hub();
    }

    /// Everybody who was called has had a turn.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn end_turn(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
        if self.has_more() {
            let mut waiting = Vec::new();
            self.call_ready(&mut lock(&self.outbound), &mut waiting);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    /// Whether more of those who wait for slots are to be called when this turn ends.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more.load(Ordering::Acquire)
    }

    /// Who is to be called now that slots have come back, those of this exchange.
    pub(super) fn serve_waiting(&self, outbound: &mut Outbound, exchange: u32) -> Vec<Waker> {
        if !outbound.starved && !outbound.awaits_returns() {
            self.has_more.store(false, Ordering::Release);
            return Vec::new();
        }
        self.answer_orphans(outbound);
        let mut waiting = Vec::new();
        outbound.begin_round(exchange, |id| self.is_cancelled(id), &mut waiting);
        self.call_ready(outbound, &mut waiting);
        waiting.extend(outbound.events.first_in_line());
        self.sate_if_done(outbound);
        waiting
    }

    fn call_ready(&self, outbound: &mut Outbound, waiting: &mut Vec<Waker>) {
        let turn = Turn {
            number: self.turn.load(Ordering::Relaxed),
            most: self.most_called,
        };
        let has_more = outbound.take_ready(turn, waiting);
        self.has_more.store(has_more, Ordering::Release);
    }

    fn answer_orphans(&self, outbound: &mut Outbound) {
        while let Some(&id) = outbound.orphans.front() {
            let Some(mut slots) = outbound.allocate(id.index, Want::Whole(1)) else {
                return self.starve(outbound);
            };
            outbound.orphans.pop_front();
            let prefix = response_prefix(500, 0);
            self.memory.bytes_mut(&mut slots)[..RESPONSE_PREFIX_LEN].copy_from_slice(&prefix);
            let run = Arena::lend(slots);
            outbound.lent[run.first as usize] = (id.index, run.slots);
            outbound.push(
                &self.memory,
                Descriptor {
                    kind: Completion::Response as u8,
                    flags: END,
                    slots: run.slots as u16,
                    first: run.first,
                    exchange: id.index,
                    generation: id.generation,
                    head_len: RESPONSE_PREFIX_LEN as u32,
                    ..Descriptor::default()
                },
            );
        }
    }

    pub(super) fn starve(&self, outbound: &mut Outbound) {
        outbound.starved = true;
        starve(self.memory.own_word(Word::Starved));
    }

    pub(super) fn sate_if_done(&self, outbound: &mut Outbound) {
        if outbound.starved && !outbound.awaits_returns() {
            outbound.starved = false;
            sate(self.memory.own_word(Word::Starved));
        }
    }
}
