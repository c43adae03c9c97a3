//! The hub's end of a lane as a state machine: exchanges, slots and rings. It waits for nothing,
//! makes no system call and reads no clock; every word from the worker is checked here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use crate::control::SlotState;
use crate::gateway::lane::violation::Violation;
use crate::gateway::stats::LaneStats;
use crate::shm::arena::SlotMap;
use crate::shm::descriptor::{
    CLIENT_LEFT, Completion, Descriptor, END, Run, Submission, UNKNOWN_LENGTH,
};
use crate::shm::doorbell::{Caller, Sleeper, is_starved, sate, starve};
use crate::shm::layout::{Phase, body_offset};
use crate::shm::region::{Arena, HubSide, LaneMemory, Slots, Word};
use crate::shm::ring::{Consumer, Producer, PushError};

/// What part of the arena newcomers leave free: one in this many slots.
const RESERVED_PART: usize = 8;

/// Names one exchange of a lane. The generation keeps a late answer from reaching a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExchangeId {
    index: u32,
    generation: u32,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
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

#[derive(Debug)]
struct Exchange {
    generation: u32,
    stage: Stage,
    /// Nobody waits for the answer any more: frames go straight back.
    abandoned: bool,
    /// Whether the answer may carry a body at all (no: HEAD).
    bodyless: bool,
    /// Bytes of response body still to come, or [`UNKNOWN_LENGTH`].
    remaining: u64,
    /// Request frames the worker holds.
    lent: u32,
    /// How many of them carry body alone.
    body_frames: u32,
    /// First slot of the frame with the head, while the worker holds it.
    head_slot: Option<u32>,
    /// Whether somebody in the worker reads the body.
    reading: bool,
    /// Response frames the hub holds. While there is one, the worker may be waiting for its slots,
    /// and is not late.
    held: u32,
    /// Whether the end of the request body was submitted.
    complete: bool,
    /// Frames that arrived and nobody has taken yet.
    frames: VecDeque<Frame>,
    failure: Option<Failure>,
    waker: Option<Waker>,
    /// Time at which the worker's next word is overdue; milliseconds of the shard's clock.
    deadline_ms: u64,
}

/// What one look at the completion ring brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Completions taken.
    pub taken: usize,
    /// Whether request slots came back.
    pub slots_returned: bool,
}

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
    /// By first slot: the exchange a held frame belongs to.
    held_for: Box<[ExchangeId]>,
    exchanges: Box<[Exchange]>,
    free: Vec<u32>,
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
        let exchange = || Exchange {
            generation: 1,
            stage: Stage::Free,
            abandoned: false,
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
            deadline_ms: u64::MAX,
        };
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
            held_for: vec![
                ExchangeId {
                    index: 0,
                    generation: 0
                };
                slots as usize
            ]
            .into(),
            exchanges: (0..slots).map(|_| exchange()).collect(),
            free: (0..slots).rev().collect(),
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

    /// Exchanges that are not free: in flight, or kept until the worker lets go of them.
    pub fn in_use(&self) -> usize {
        self.exchanges.len() - self.free.len()
    }

    /// Exchanges somebody still waits for.
    pub fn in_flight(&self) -> usize {
        self.exchanges
            .iter()
            .filter(|e| e.stage != Stage::Free && !e.abandoned)
            .count()
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
        exchange.bodyless = bodyless;
        exchange.failure = None;
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
            self.stats.count_request();
        }
        exchange.lent += 1;
        exchange.complete = frame.flags & END != 0;
        exchange.deadline_ms = deadline_ms;
        self.stats.mark(slots.run(), SlotState::Ready);
        let run = Arena::lend(slots);
        self.lent[run.first as usize] = (id.index, run.slots);
        let exchange = &mut self.exchanges[id.index as usize];
        if first {
            exchange.head_slot = Some(run.first);
        } else {
            exchange.body_frames += 1;
        }
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
        exchange.deadline_ms = deadline_ms;
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

    /// Has `waker` called when anything happens to the exchange.
    pub fn watch(&mut self, id: ExchangeId, waker: &Waker) {
        if let Some(exchange) = self.get_mut(id) {
            keep_waker(&mut exchange.waker, waker);
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
            if exchange.stage == Stage::Responding && exchange.complete && exchange.held == 0 {
                exchange.deadline_ms = now_ms + timeout_ms;
            }
        }
        self.push(Descriptor {
            kind: Submission::Return as u8,
            slots: run.slots as u16,
            first: run.first,
            ..Descriptor::default()
        })?;
        self.submissions.publish(&self.memory.outbound());
        let starved = is_starved(self.memory.peer_word(Word::Starved));
        self.call_due |= starved;
        Ok(starved)
    }

    /// The waiting side is done with an exchange: answered, given up, or never submitted. Frames
    /// nobody took go back, and what the worker still has to say is not listened to.
    ///
    /// # Errors
    /// The worker does not read its ring.
    pub fn finish(&mut self, id: ExchangeId) -> Result<(), Violation> {
        let Some(exchange) = self.get_mut(id) else {
            return Ok(());
        };
        exchange.abandoned = true;
        exchange.waker = None;
        exchange.deadline_ms = u64::MAX;
        let frames = std::mem::take(&mut exchange.frames);
        let unanswered = matches!(exchange.stage, Stage::Waiting | Stage::Responding);
        if exchange.stage == Stage::Preparing {
            exchange.stage = Stage::Ended;
        }
        if unanswered {
            self.memory
                .cancel_word(id.index)
                .store(id.generation, Ordering::Release);
        }
        for frame in &frames {
            self.return_frame(frame.run)?;
        }
        self.free_if_done(id.index);
        Ok(())
    }

    /// Takes up to `limit` completions from the ring. `now_ms` is the shard's time.
    ///
    /// # Errors
    /// What the worker did that no honest worker does.
    pub fn take_completions(&mut self, limit: usize, now_ms: u64) -> Result<Turn, Violation> {
        self.now_ms = now_ms;
        let mut turn = Turn::default();
        while turn.taken < limit && !self.dead {
            let next = self.completions.pop(&self.memory.inbound());
            let Some(d) = next.map_err(|_| Violation::RingIndex)? else {
                break;
            };
            turn.taken += 1;
            match Completion::from_u8(d.kind).ok_or(Violation::UnknownKind(d.kind))? {
                Completion::Response => self.on_frame(&d, true)?,
                Completion::Body => self.on_frame(&d, false)?,
                Completion::Return => {
                    self.on_return(&d)?;
                    turn.slots_returned = true;
                }
                Completion::Read => self.on_read(&d),
                Completion::Pong => match self.ping.take() {
                    Some(number) if number == d.generation => {}
                    _ => return Err(Violation::UnknownPong),
                },
            }
        }
        if turn.taken > 0 {
            self.completions.release(&self.memory.inbound());
        }
        Ok(turn)
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

    /// Fails every exchange that is overdue at `now_ms`. Returns how many that were.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let overdue = self
            .exchanges
            .iter_mut()
            .filter(|e| e.deadline_ms <= now_ms);
        overdue.map(|e| e.fail(Failure::Deadline)).count()
    }

    /// The worker is gone: fails every exchange, and nothing it left in the rings is looked at.
    pub fn die(&mut self) {
        if !std::mem::replace(&mut self.dead, true) {
            self.set_phase(Phase::Closed);
            self.stats.clear();
            self.exchanges
                .iter_mut()
                .for_each(|e| e.fail(Failure::WorkerGone));
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
            || body_at > size.max(head_len)
            || body_len > size.saturating_sub(body_at)
        {
            return Err(Violation::BadFrame);
        }
        if d.slots > 0 && !self.held.take(d.run()) {
            // Either past the arena or over a frame that has not been returned.
            let past = d.first as u64 + d.slots as u64 > geometry.slots() as u64;
            return Err(if past {
                Violation::BadFrame
            } else {
                Violation::Overlap
            });
        }
        if first {
            exchange.stage = Stage::Responding;
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
        exchange.deadline_ms = match d.slots {
            0 if exchange.complete => self.now_ms + self.timeout_ms,
            _ => u64::MAX,
        };
        if d.is_end() {
            exchange.stage = Stage::Ended;
            exchange.deadline_ms = u64::MAX;
        }
        if exchange.abandoned {
            self.return_frame(d.run())?;
            self.free_if_done(d.exchange);
            return Ok(());
        }
        exchange.frames.push_back(Frame {
            run: d.run(),
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

    fn push(&mut self, d: Descriptor) -> Result<(), Violation> {
        self.submissions
            .push(&self.memory.outbound(), d)
            .map_err(|e| match e {
                PushError::Full => Violation::RingNotRead,
                PushError::BadIndex => Violation::RingIndex,
            })
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

impl Exchange {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn fail(&mut self, failure: Failure) {
        if !matches!(self.stage, Stage::Free | Stage::Ended) {
            self.failure.get_or_insert(failure);
            self.deadline_ms = u64::MAX;
            self.wake();
        }
    }
}

/// Generations count from 1 and leave the bit of [`CLIENT_LEFT`] alone.
fn next_generation(generation: u32) -> u32 {
    ((generation + 1) & !CLIENT_LEFT).max(1)
}

fn keep_waker(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(kept) if kept.will_wake(waker) => {}
        _ => *place = Some(waker.clone()),
    }
}
