//! The hub's end of a lane as a state machine: exchanges, slots and rings. It waits for nothing,
//! makes no system call and reads no clock; every word from the worker is checked in `complete`.

mod complete;
mod exchange;
#[cfg(any(test, fuzzing))]
pub mod slot_ops;
mod submit;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use self::exchange::{EventFrame, EventOutcome, ExchangeId, Failure, Frame};
pub use self::submit::RequestFrame;

use self::exchange::{Exchange, NO_EXCHANGE, Stage, next_generation};
use crate::control::SlotState;
use crate::gateway::lane::violation::Violation;
use crate::gateway::stats::LaneStats;
use crate::limits::MIN_SLOTS;
use crate::shm::arena::SlotMap;
use crate::shm::descriptor::ABORT;
use crate::shm::doorbell::{Caller, Sleeper, is_starved};
use crate::shm::layout::{Geometry, Phase};
use crate::shm::region::{Arena, HubSide, LaneMemory, Slots, Word};
use crate::shm::ring::{Consumer, Producer};

/// What part of the arena newcomers leave free: one in this many slots.
const RESERVED_PART: usize = 8;
/// Room for so many frames of an answer is kept for the next.
const FRAMES_KEPT: usize = 4;
const _: () = assert!(
    MIN_SLOTS as usize / RESERVED_PART >= 1,
    "`LaneCore::push` counts on a reserve"
);

/// The hub's end of a lane.
#[derive(Debug)]
pub struct LaneCore {
    memory: Arc<LaneMemory<HubSide>>,
    stats: Arc<LaneStats>,
    submissions: Producer,
    completions: Consumer,
    caller: Caller,
    sleeper: Sleeper,
    /// Something was published that a sleeping worker must be told of.
    call_due: bool,
    arena: Arena,
    /// By first slot: the exchange a run was lent for, and its length; zero slots: not lent.
    lent: Box<[(u32, u32)]>,
    /// Response slots the hub holds; a taken slot is one it holds.
    held: SlotMap,
    /// By first slot: the exchange a held frame belongs to, or that it is one of events.
    held_for: Box<[ExchangeId]>,
    /// Frames of events that nobody has taken yet; never more than slots are held.
    event_frames: VecDeque<EventFrame>,
    exchanges: Box<[Exchange]>,
    free: Vec<u32>,
    /// Exchanges of which the worker has said nothing, and no look at the time has found that.
    awaited: usize,
    ping: Option<u32>,
    dead: bool,
    /// The shard's time at the last look, in milliseconds.
    now_ms: u64,
    /// How long the worker may take between two words.
    timeout_ms: u64,
}

impl LaneCore {
    /// A lane in which nothing has happened.
    pub fn new(
        memory: Arc<LaneMemory<HubSide>>,
        stats: Arc<LaneStats>,
        timeout_ms: u64,
    ) -> LaneCore {
        let slots = memory.geometry().slots();
        LaneCore {
            stats,
            submissions: Producer::default(),
            completions: Consumer::default(),
            caller: Caller::default(),
            sleeper: Sleeper::default(),
            call_due: false,
            arena: Arena::new(slots),
            lent: vec![(0, 0); slots as usize].into(),
            held: SlotMap::new(slots),
            held_for: vec![NO_EXCHANGE; slots as usize].into(),
            event_frames: VecDeque::new(),
            exchanges: (0..slots).map(|_| Exchange::new()).collect(),
            free: (0..slots).rev().collect(),
            awaited: 0,
            ping: None,
            dead: false,
            now_ms: 0,
            timeout_ms,
            memory,
        }
    }

    /// Whether the worker is gone.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Whether no more than a quarter of the response arena is left for answers that are still to come.
    pub fn is_crowded(&self) -> bool {
        self.held.free_count() <= self.held.slots() / 4
    }

    /// How many exchanges there should be in reserve for newcomers, and neither are nor will be when the
    /// worker has said its last word on those that nobody waits for any more.
    pub fn missing(&self) -> usize {
        let missing = (self.exchanges.len() / RESERVED_PART).saturating_sub(self.free.len());
        if missing == 0 {
            return 0;
        }
        let comes_back = |e: &&Exchange| e.stage != Stage::Free && e.abandoned;
        missing.saturating_sub(self.exchanges.iter().filter(comes_back).count())
    }

    /// Whether the worker waits for response slots of which the hub holds half or more.
    pub fn is_starving_worker(&self) -> bool {
        self.held.free_count() <= self.held.slots() / 2
            && is_starved(self.memory.peer_word(Word::Starved))
    }

    /// Exchanges that are not free: in flight, or kept until the worker lets go of them.
    pub fn in_use(&self) -> usize {
        self.exchanges.len() - self.free.len()
    }

    /// Exchanges whose answers may begin at any moment: neither those that have begun and whose clients
    /// take their time, nor those with which the worker or a sender takes long.
    pub fn awaited(&self) -> usize {
        self.awaited
    }

    /// Exchanges that a lane that drains still waits for.
    pub fn in_flight(&self) -> usize {
        self.exchanges
            .iter()
            .filter(|e| e.stage != Stage::Free && !e.abandoned && !e.unneeded)
            .count()
    }

    /// Has the lane drain without this exchange, which is otherwise as it was.
    pub fn let_drain(&mut self, id: ExchangeId) {
        if let Some(exchange) = self.get_mut(id) {
            exchange.unneeded = true;
        }
    }

    /// Most slots with which an exchange can be opened.
    pub fn most_to_begin(geometry: Geometry) -> usize {
        let slots = geometry.slots() as usize;
        slots - slots / RESERVED_PART
    }

    /// Opens an exchange with its first `slots` slots. `None` where either has run out. A part of the
    /// arena is left for the bodies of exchanges that are open already, or their readers could wait
    /// for ever behind newcomers that no thread of the worker is free to take.
    pub fn begin(&mut self, slots: usize, bodyless: bool) -> Option<(ExchangeId, Slots)> {
        let free = self.arena.free_count() as usize;
        let reserve = self.memory.geometry().slots() as usize / RESERVED_PART;
        if self.free.is_empty() || free < slots + reserve {
            return None;
        }
        let slots = self.allocate(slots)?;
        let index = self.free.pop()?;
        let exchange = &mut self.exchanges[index as usize];
        exchange.stage = Stage::Preparing;
        exchange.abandoned = false;
        exchange.unneeded = false;
        exchange.bodyless = bodyless;
        exchange.failure = None;
        exchange.slow = false;
        exchange.complete = false;
        exchange.reading = false;
        exchange.body_frames = 0;
        exchange.deadline_ms = u64::MAX;
        Some((
            ExchangeId {
                index,
                generation: exchange.generation,
            },
            slots,
        ))
    }

    /// Takes slots for a further frame: `most`, or fewer while there are not many left.
    pub fn allocate_up_to(&mut self, most: usize) -> Option<Slots> {
        let mut count = if self.is_roomy() {
            most
        } else {
            most.min(self.arena.free_count() as usize / 8).max(1)
        };
        loop {
            match self.allocate(count) {
                None if count > 1 => count /= 2,
                slots => return slots,
            }
        }
    }

    /// Whether most of the arena is free.
    fn is_roomy(&self) -> bool {
        self.arena.free_count() > self.memory.geometry().slots() / 2
    }

    /// Takes slots for a frame.
    pub fn allocate(&mut self, slots: usize) -> Option<Slots> {
        let slots = self.arena.allocate(slots as u32)?;
        self.stats.mark(slots.run(), SlotState::Writing);
        Some(slots)
    }

    /// Gives back slots that were not submitted.
    pub fn release(&mut self, slots: Slots) {
        self.stats.mark(slots.run(), SlotState::Free);
        self.arena.release(slots);
    }

    /// Keeps only the first slots, as many as hold `bytes`.
    pub fn trim(&mut self, slots: Slots, bytes: usize) -> Slots {
        let (slots, rest) = self
            .arena
            .trim(slots, self.memory.geometry().slots_for(bytes) as u32);
        self.stats.mark(rest, SlotState::Free);
        slots
    }

    /// The waiting side is done with an exchange: answered, given up, or never submitted. Frames
    /// nobody took go back, a request body that is not complete is given up, and what the worker
    /// still has to say is not listened to. Returns whether the worker is to be called.
    ///
    /// # Errors
    /// The worker does not read its ring.
    pub fn finish(&mut self, id: ExchangeId) -> Result<bool, Violation> {
        let Some(exchange) = self.get_mut(id) else {
            return Ok(false);
        };
        exchange.abandoned = true;
        exchange.waker = None;
        exchange.deadline_ms = u64::MAX;
        let unanswered = matches!(exchange.stage, Stage::Waiting | Stage::Responding);
        if exchange.stage == Stage::Preparing {
            exchange.stage = Stage::Ended;
        }
        if unanswered {
            self.memory
                .cancel_word(id.index)
                .store(id.generation, Ordering::Release);
        }
        let mut call = unanswered && self.is_uploading(id) && !self.dead;
        if call {
            self.end_body(id, ABORT, u64::MAX)?;
        }
        let frames = |core: &mut LaneCore| core.exchanges[id.index as usize].frames.pop_front();
        while let Some(frame) = frames(self) {
            call |= self.return_frame(frame.run)?;
        }
        // The next exchange with this number finds a queue, but not what a large answer left of one.
        self.exchanges[id.index as usize]
            .frames
            .shrink_to(FRAMES_KEPT);
        self.free_if_done(id.index);
        Ok(call)
    }

    /// Fails every exchange that is overdue at `now_ms`, and calls those that wait and were not known to be
    /// slow. Returns how many are overdue.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        // Nobody looks at the ring while a slow client is served; deadlines that begin when it is
        // done are counted from here.
        self.now_ms = now_ms;
        let mut overdue = 0;
        for exchange in &mut self.exchanges {
            if exchange.deadline_ms <= now_ms {
                exchange.fail(Failure::Deadline);
                overdue += 1;
            } else if !exchange.slow && matches!(exchange.stage, Stage::Waiting | Stage::Responding)
            {
                exchange.slow = true;
                self.awaited -= usize::from(exchange.stage == Stage::Waiting);
                exchange.wake();
            }
        }
        overdue
    }

    /// Whether the exchange is known to be slow.
    pub fn is_slow(&self, id: ExchangeId) -> bool {
        self.get(id).is_some_and(|e| e.slow)
    }

    /// The worker is gone: fails every exchange, and nothing it left in the rings is looked at.
    pub fn die(&mut self) {
        if !std::mem::replace(&mut self.dead, true) {
            self.set_phase(Phase::Closed);
            self.stats.clear();
            self.event_frames = VecDeque::new();
            self.exchanges
                .iter_mut()
                .for_each(|e| e.fail(Failure::WorkerGone));
        }
    }

    /// An exchange's number may be used again once nobody waits for it, the worker has said its last
    /// word and holds none of its frames.
    fn free_if_done(&mut self, index: u32) {
        let exchange = &mut self.exchanges[index as usize];
        if exchange.abandoned && exchange.stage == Stage::Ended && exchange.lent == 0 {
            exchange.stage = Stage::Free;
            exchange.generation = next_generation(exchange.generation);
            exchange.held = 0;
            exchange.waker = None;
            self.free.push(index);
        }
    }

    fn get(&self, id: ExchangeId) -> Option<&Exchange> {
        self.exchanges
            .get(id.index as usize)
            .filter(|e| e.generation == id.generation)
    }

    fn get_mut(&mut self, id: ExchangeId) -> Option<&mut Exchange> {
        self.exchanges
            .get_mut(id.index as usize)
            .filter(|e| e.generation == id.generation)
    }
}
