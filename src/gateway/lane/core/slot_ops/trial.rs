//! One trial: the tasks of a hub and a worker take turns as the bytes say, and after each step the
//! lane is compared with the model.

use std::cell::OnceCell;
use std::sync::Arc;
use std::task::Waker;

use super::Input;
use super::asked::{Key, Place, Refused};
use super::model::{Model, SLOT, TIMEOUT_MS};
use super::worker::Worker;
use crate::control::SlotState;
use crate::gateway::lane::core::{
    EventOutcome, ExchangeId, Failure, Frame, LaneCore, RequestFrame,
};
use crate::gateway::lane::violation::Violation;
use crate::gateway::stats::LaneStats;
use crate::shm::atomics::Ordering;
use crate::shm::descriptor::{Descriptor, Run};
use crate::shm::layout::{Geometry, Phase};
use crate::shm::region::{HubSide, LaneMemory, Slots, Word, WorkerSide};
use crate::shm::ring::{Consumer, Producer, WriteRing};
use crate::sys::memory::SharedMemory;

/// Most steps of one trial; further bytes are not looked at.
const MOST_STEPS: usize = 4_000;

/// What happened in trials, so that a test can tell whether they get anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Trials in which the worker kept every rule.
    pub honest: usize,
    /// Trials that ended with an eviction.
    pub evicted: usize,
    /// Answers taken to their end.
    pub answers: usize,
    /// Frames of events taken.
    pub events: usize,
    /// Exchanges that ran out of time.
    pub late: usize,
}

impl Seen {
    /// Adds what happened in another.
    pub fn add(&mut self, other: Seen) {
        self.honest += other.honest;
        self.evicted += other.evicted;
        self.answers += other.answers;
        self.events += other.events;
        self.late += other.late;
    }
}

/// Both ends of a lane, made once: its memory is as good as new once its words are zero.
struct Ends {
    hub: Arc<LaneMemory<HubSide>>,
    worker: LaneMemory<WorkerSide>,
}

impl Ends {
    fn new(slots: u32) -> Ends {
        let geometry = Geometry::new(slots, SLOT as u32).expect("within the limits");
        let len = geometry.memory_len();
        let (request, request_map) =
            SharedMemory::create_written_here("request", len).expect("memory");
        let (response, response_map) =
            SharedMemory::create_written_by_peer("response", len).expect("memory");
        let hub = LaneMemory::new(request_map, response_map, geometry).expect("a lane");
        let worker = LaneMemory::open(
            SharedMemory::accept_read_only(request.into(), len).expect("a request memory"),
            SharedMemory::accept_writable(response.into(), len).expect("a response memory"),
        );
        Ends {
            hub: Arc::new(hub),
            worker: worker.expect("a lane"),
        }
    }

    fn renew(&self, index: u32) {
        use Word::{Doorbell, Head, Phase, Sleep, Starved, Tail};
        for word in [Tail, Head, Doorbell, Sleep, Starved, Phase] {
            let value = if matches!(word, Tail | Head) {
                index
            } else {
                0
            };
            self.hub.own_word(word).store(value, Ordering::Relaxed);
            self.worker.own_word(word).store(value, Ordering::Relaxed);
        }
        for exchange in 0..self.hub.geometry().slots() {
            self.hub.cancel_word(exchange).store(0, Ordering::Relaxed);
        }
        for entry in 0..self.hub.geometry().ring_entries() {
            self.hub.outbound().write(entry, Descriptor::default());
            self.worker.outbound().write(entry, Descriptor::default());
        }
    }
}

thread_local! {
    static SMALL: OnceCell<Ends> = const { OnceCell::new() };
    static LARGE: OnceCell<Ends> = const { OnceCell::new() };
}

/// Runs a trial on a lane of 16 slots, or of 80.
pub fn lane_of(slots: u32, input: Input<'_>) -> Seen {
    let ends = if slots == 16 { &SMALL } else { &LARGE };
    ends.with(|ends| Trial::new(ends.get_or_init(|| Ends::new(slots)), input).run())
}

/// An exchange as one of the hub's tasks has it.
struct Task {
    id: ExchangeId,
    /// Its first slots, until they are submitted.
    preparing: Option<Slots>,
}

impl Task {
    fn key(&self) -> Key {
        (self.id.index, self.id.generation)
    }
}

struct Trial<'a> {
    input: Input<'a>,
    core: LaneCore,
    stats: Arc<LaneStats>,
    model: Model,
    worker: Worker<'a>,
    tasks: Vec<Task>,
    /// Slots for further frames that are not submitted yet.
    spare: Vec<Slots>,
    /// Frames of answers on their way to clients.
    sending: Vec<Run>,
    /// Frames of events on their way to clients, and some that came back already.
    events: Vec<Run>,
    /// Exchanges that are over.
    past: Vec<ExchangeId>,
    now_ms: u64,
    pings: u32,
    seen: Seen,
}

impl<'a> Trial<'a> {
    fn new(ends: &'a Ends, mut input: Input<'a>) -> Trial<'a> {
        let geometry = ends.hub.geometry();
        // Indices and generations wrap; often they are about to.
        let index = [0, u32::MAX - 20][input.below(2)];
        let oldest = [1, 0x7FFF_FFFE][input.below(2)];
        ends.renew(index);
        let stats = Arc::new(LaneStats::new(geometry.slots()));
        let mut core = LaneCore::new(ends.hub.clone(), stats.clone(), TIMEOUT_MS);
        core.submissions = Producer::starting_at(index);
        core.completions = Consumer::starting_at(index);
        for exchange in &mut core.exchanges {
            exchange.generation = oldest;
        }
        Trial {
            input,
            core,
            stats,
            model: Model::new(
                vec![oldest; geometry.slots() as usize],
                geometry.ring_entries() as usize,
                index,
            ),
            worker: Worker::new(&ends.worker, index),
            tasks: Vec::new(),
            spare: Vec::new(),
            sending: Vec::new(),
            events: Vec::new(),
            past: Vec::new(),
            now_ms: 0,
            pings: 0,
            seen: Seen::default(),
        }
    }

    fn run(mut self) -> Seen {
        for _ in 0..MOST_STEPS {
            if self.input.is_empty() {
                break;
            }
            self.step();
            self.compare();
        }
        self.seen.honest += usize::from(self.worker.honest);
        self.seen.evicted += usize::from(self.model.dead);
        self.wind_up()
    }

    fn step(&mut self) {
        match self.input.below(32) {
            0..3 => self.begin(),
            3..6 => self.submit(),
            6 => self.end_body(),
            7..10 => self.poll(),
            10 | 11 => self.return_frame(),
            12 => self.finish(),
            13 => self.take_event(),
            14 => self.return_event(),
            15 => self.expire(),
            16 => self.ping(),
            17..20 => self.take_completions(),
            20 => self.publish(),
            21 => self.sleep_and_wake(),
            22 => self.trim_or_release(),
            23 => self.of_the_past(),
            _ => self.worker.step(&mut self.input, &mut self.model),
        }
    }

    /// The lane dies of a violation. An honest worker commits none.
    #[track_caller]
    fn judge<T: PartialEq + std::fmt::Debug>(
        &mut self,
        said: Result<T, Violation>,
        expected: Result<T, Refused>,
    ) -> Option<T> {
        match (said, expected) {
            (Ok(said), Ok(expected)) => {
                assert_eq!(said, expected);
                return Some(said);
            }
            (Err(violation), Err(Refused)) => {
                assert!(!self.worker.honest, "{violation}, but the worker is honest");
            }
            (said, expected) => panic!("the lane says {said:?}, the model {expected:?}"),
        }
        self.core.die();
        self.model.die();
        None
    }

    fn begin(&mut self) {
        let (count, bodyless) = (1 + self.input.below(6), self.input.below(8) == 0);
        if self.model.dead {
            return;
        }
        let all = self.model.request.len();
        let may = self.model.exchanges.len() < all && self.model.free_slots() >= count + all / 8;
        let expected = self.model.first_fit(count).filter(|_| may);
        let begun = self.core.begin(count, bodyless);
        let first = begun.as_ref().map(|(_, slots)| slots.run().first as usize);
        assert_eq!(first, expected, "{count} slots for a newcomer");
        if let Some((id, slots)) = begun {
            self.model.pass(slots.run(), Place::Free, Place::Hub);
            self.model.begin((id.index, id.generation), bodyless);
            self.tasks.push(Task {
                id,
                preparing: Some(slots),
            });
        }
    }

    fn submit(&mut self) {
        let Some(at) = self.any_task() else { return };
        let (id, key) = (self.tasks[at].id, self.tasks[at].key());
        let first = self.tasks[at].preparing.is_some();
        if !first {
            let asked = self.model.exchanges.get(&key);
            if asked.is_none_or(|asked| asked.complete) {
                return;
            }
            let window = 1 + self.input.below(4);
            let may = self.core.may_submit(id, window);
            assert_eq!(may, self.model.may_submit(key, window));
            if !may || !self.allocate() {
                return;
            }
        }
        let slots = match self.tasks[at].preparing.take() {
            Some(slots) => slots,
            None => self.spare.pop().expect("just allocated"),
        };
        let (frame, run) = (self.request_frame(first), slots.run());
        let due_ms = self.due_ms();
        let d = Descriptor {
            kind: 0,
            flags: frame.flags,
            slots: run.slots as u16,
            first: run.first,
            exchange: key.0,
            generation: key.1,
            head_len: frame.head_len as u32,
            body_len: frame.body_len as u32,
            total: frame.total.unwrap_or(u64::MAX),
        };
        let expected = self.model.submit(key, d, due_ms);
        let said = self.core.submit(id, slots, frame, due_ms);
        self.judge(said, expected);
    }

    fn request_frame(&mut self, first: bool) -> RequestFrame {
        let len = self.input.below(300);
        RequestFrame {
            head_len: if first { 1 + len } else { 0 },
            body_len: len,
            total: self.input.coin().then_some(len as u64),
            flags: u8::from(self.input.coin()),
        }
    }

    /// Takes slots for a further frame into `spare`; whether there were any.
    fn allocate(&mut self) -> bool {
        let most = 1 + self.input.below(16);
        let free = self.model.free_slots();
        let slots = self.core.allocate_up_to(most);
        assert_eq!(slots.is_some(), free > 0, "{most} of {free} slots");
        let Some(slots) = slots else { return false };
        let run = slots.run();
        assert!((1..=most as u32).contains(&run.slots));
        if free > self.model.request.len() / 2 && self.model.first_fit(most).is_some() {
            assert_eq!(run.slots, most as u32, "there is room");
        }
        assert_eq!(
            self.model.first_fit(run.slots as usize),
            Some(run.first as usize)
        );
        self.model.pass(run, Place::Free, Place::Hub);
        self.spare.push(slots);
        true
    }

    fn trim_or_release(&mut self) {
        if self.input.coin() && !self.model.dead {
            self.allocate();
        }
        let Some(slots) = self.input.take(&mut self.spare) else {
            return;
        };
        let run = slots.run();
        if self.input.coin() {
            self.core.release(slots);
            self.model.pass(run, Place::Hub, Place::Free);
            return;
        }
        let bytes = self.input.below(40_000);
        let keep = (bytes.div_ceil(SLOT) as u32).clamp(1, run.slots);
        let slots = self.core.trim(slots, bytes);
        let kept = Run { slots: keep, ..run };
        assert_eq!(slots.run(), kept);
        let rest = Run {
            first: run.first + keep,
            slots: run.slots - keep,
        };
        self.model.pass(rest, Place::Hub, Place::Free);
        self.spare.push(slots);
    }

    fn end_body(&mut self) {
        let Some(at) = self.any_task() else { return };
        let (abort, due_ms) = (if self.input.coin() { 2 } else { 0 }, self.due_ms());
        let task = &self.tasks[at];
        if task.preparing.is_none() {
            let expected = self.model.end_body(task.key(), abort, due_ms);
            let said = self.core.end_body(task.id, abort, due_ms);
            self.judge(said, expected);
        }
    }

    fn poll(&mut self) {
        let Some(at) = self.any_task() else { return };
        let task = &self.tasks[at];
        if task.preparing.is_some() {
            return;
        }
        let polled = self.core.poll_frame(task.id, Waker::noop());
        assert_eq!(polled, self.model.poll(task.key()), "{:?}", task.id);
        match polled {
            None => {}
            Some(Ok(frame)) => {
                self.look_at(&frame);
                if frame.end {
                    self.seen.answers += 1;
                    self.finish_at(at);
                }
            }
            Some(Err(failure)) => {
                self.seen.late += usize::from(failure == Failure::Deadline);
                self.finish_at(at);
            }
        }
    }

    /// A frame that was accepted lies in the arena, with both its parts.
    fn look_at(&mut self, frame: &Frame) {
        if !frame.run.is_empty() {
            let memory = &self.core.memory;
            let head = memory.response_part(frame.run, 0, frame.head_len);
            let body = memory.response_part(frame.run, frame.body_at, frame.body_len);
            assert!(head.is_some());
            assert!(body.is_some() || frame.body_len == 0);
            self.sending.push(frame.run);
        }
    }

    fn return_frame(&mut self) {
        if let Some(run) = self.input.take(&mut self.sending) {
            let expected = self.model.return_frame(run);
            let said = self.core.return_frame(run);
            self.judge(said, expected);
        }
    }

    fn finish(&mut self) {
        if let Some(at) = self.any_task() {
            self.finish_at(at);
        }
    }

    fn finish_at(&mut self, at: usize) {
        let task = self.tasks.swap_remove(at);
        let expected = self.model.finish(task.key());
        let said = self.core.finish(task.id);
        self.judge(said, expected);
        if let Some(slots) = task.preparing {
            self.model.pass(slots.run(), Place::Hub, Place::Free);
            self.core.release(slots);
        }
        self.past.push(task.id);
    }

    fn take_event(&mut self) {
        let taken = self.core.take_event_frame();
        assert_eq!(taken, self.model.events.pop_front());
        if let Some(frame) = taken {
            let part = self.core.memory.response_part(frame.run, 0, frame.len);
            assert!(part.is_some(), "{frame:?}");
            self.events.push(frame.run);
            self.seen.events += 1;
        }
    }

    /// Of events, what was returned already, or never was one, is left alone.
    fn return_event(&mut self) {
        let run = match self.input.below(8) {
            0 => Run {
                first: self.input.number(),
                slots: self.input.number(),
            },
            again => {
                let Some(run) = self.input.take(&mut self.events) else {
                    return;
                };
                if again == 1 {
                    self.events.push(run);
                }
                run
            }
        };
        let outcome = EventOutcome {
            reached: self.input.number(),
            dropped: self.input.number(),
            flags: self.input.next() & 28,
        };
        let expected = self.model.return_event(run, outcome);
        let said = self.core.return_event(run, outcome);
        self.judge(said, expected);
    }

    fn expire(&mut self) {
        self.now_ms += self.input.below(2_000) as u64;
        let late = self.core.expire(self.now_ms);
        assert_eq!(late, self.model.expire(self.now_ms));
    }

    fn ping(&mut self) {
        self.pings += 1;
        let expected = self.model.send_ping(self.pings);
        let said = self.core.send_ping(self.pings);
        self.judge(said, expected);
        assert_eq!(self.core.ping_pending(), self.model.ping.is_some());
    }

    fn take_completions(&mut self) {
        let limit = 1 + self.input.below(40);
        self.take(limit);
    }

    fn take(&mut self, limit: usize) -> usize {
        let expected = self.model.take(limit, self.now_ms);
        let said = self.core.take_completions(limit, self.now_ms);
        let said = said.map(|turn| (turn.taken, turn.room_made));
        self.judge(said, expected).map_or(0, |(taken, _)| taken)
    }

    fn publish(&mut self) {
        assert_eq!(self.core.publish(), self.model.publish());
    }

    fn sleep_and_wake(&mut self) {
        self.core.set_starved(self.input.coin());
        let expected = self.model.refresh();
        let said = self.core.arm();
        self.judge(said, expected);
        self.core.disarm();
        let phase = [Phase::Open, Phase::Draining][self.input.below(2)];
        self.core.set_phase(phase);
    }

    /// What a task may still do with an exchange that is over: nothing comes of it.
    fn of_the_past(&mut self) {
        let Some(id) = self.input.take(&mut self.past) else {
            return;
        };
        let key = (id.index, id.generation);
        if self.model.exchanges.contains_key(&key) {
            return self.past.push(id);
        }
        let gone = Some(Err(Failure::WorkerGone));
        assert_eq!(self.core.poll_frame(id, Waker::noop()), gone);
        self.core.client_left(id);
        assert_eq!(self.core.end_body(id, 0, 0), Ok(()));
        assert_eq!(self.core.finish(id), Ok(false));
        assert!(!self.core.is_uploading(id));
    }

    fn any_task(&mut self) -> Option<usize> {
        match self.tasks.len() {
            0 => None,
            len => Some(self.input.below(len)),
        }
    }

    fn due_ms(&mut self) -> u64 {
        match self.input.below(4) {
            0 => u64::MAX,
            _ => self.now_ms + self.input.below(3_000) as u64,
        }
    }

    /// The lane is where the model is.
    fn compare(&self) {
        let asked = self.model.exchanges.values();
        assert_eq!(self.core.in_use(), self.model.exchanges.len());
        assert_eq!(
            self.core.in_flight(),
            asked.filter(|asked| !asked.abandoned).count()
        );
        assert_eq!(self.core.is_dead(), self.model.dead);
        if self.model.dead {
            return;
        }
        for (slot, (place, state)) in
            (self.model.request.iter().zip(self.stats.slot_states())).enumerate()
        {
            let expected = match place {
                Place::Free => SlotState::Free,
                Place::Hub => SlotState::Writing,
                Place::Worker => SlotState::Ready,
            };
            assert_eq!(state, expected, "slot {slot}");
        }
        let free = self.core.arena.free_count() as usize;
        assert_eq!(free, self.model.free_slots());
        let held = self.model.held.iter().filter(|held| !**held).count();
        assert_eq!(self.core.held.free_count() as usize, held);
    }

    /// The tasks let go of everything; then the worker, if it lives, gives back what it has.
    fn wind_up(mut self) -> Seen {
        while !self.tasks.is_empty() {
            self.finish_at(0);
        }
        while let Some(slots) = self.spare.pop() {
            self.model.pass(slots.run(), Place::Hub, Place::Free);
            self.core.release(slots);
        }
        // What was shown, and what was not, is taken first, whatever comes of it.
        self.worker.show(&mut self.model);
        while !self.model.dead && self.take(usize::MAX) > 0 {}
        while let Some(run) = self.sending.pop() {
            let expected = self.model.return_frame(run);
            let said = self.core.return_frame(run);
            self.judge(said, expected);
        }
        while let Some(frame) = self.core.take_event_frame() {
            self.events.push(frame.run);
        }
        while let Some(run) = self.events.pop() {
            let expected = self.model.return_event(run, EventOutcome::default());
            let said = self.core.return_event(run, EventOutcome::default());
            self.judge(said, expected);
        }
        self.publish();
        self.compare();
        assert_eq!(self.core.in_flight(), 0, "nobody waits any more");
        assert_eq!(self.core.expire(u64::MAX - 1), 0, "nothing is due any more");
        if !self.model.dead {
            self.settle();
        }
        self.seen
    }

    fn settle(&mut self) {
        // The worker that never lied knows how to end by itself what it has read.
        if self.worker.honest {
            self.worker.read(&mut self.model, usize::MAX);
        }
        let shown = self.core.memory.own_word(Word::Head);
        let shown = shown.load(Ordering::Relaxed);
        self.worker.settle(&mut self.model, shown);
        let said = self.core.take_completions(usize::MAX, self.now_ms);
        said.expect("the last words of all exchanges are true");
        assert_eq!(self.core.in_use(), 0, "every exchange is free");
        assert!(!self.core.ping_pending());
        assert!(self.core.event_frames.is_empty());
        let slots = self.model.request.len();
        assert_eq!(self.core.held.free_count() as usize, slots);
        let all = self.core.allocate(slots).expect("every slot is free");
        self.core.release(all);
    }
}
