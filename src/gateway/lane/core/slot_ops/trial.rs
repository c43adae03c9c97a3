//! One trial: the tasks of a hub and a worker take turns as the bytes say, and after each step the
//! lane is compared with the model.

mod turns;

use std::cell::OnceCell;
use std::sync::Arc;
use std::task::Waker;

use super::Input;
use super::asked::{Key, Place, Refused};
use super::model::{Model, SLOT, TIMEOUT_MS};
use super::worker::Worker;
use crate::control::SlotState;
use crate::gateway::lane::core::{EventOutcome, ExchangeId, Failure, LaneCore};
use crate::gateway::lane::violation::Violation;
use crate::gateway::stats::LaneStats;
use crate::shm::atomics::Ordering;
use crate::shm::descriptor::{Descriptor, Run};
use crate::shm::layout::Geometry;
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
        assert_eq!(self.core.awaited(), self.model.awaited());
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
