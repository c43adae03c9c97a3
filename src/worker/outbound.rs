//! What a worker's end of a lane sends: the producer of its ring, and the slots of its arena, shared
//! out so that no stream takes them all. Touches the ring only to push; waking is the lane's.

use std::collections::VecDeque;
use std::task::Waker;

use crate::limits::{MAX_STREAM_FRAME, STREAM_WINDOW};
use crate::shm::descriptor::Descriptor;
use crate::shm::layout::Geometry;
use crate::shm::region::{Arena, LaneMemory, Slots, WorkerSide};
use crate::shm::ring::Producer;
use crate::worker::lane::ExchangeId;
use crate::worker::lane::events::EventShare;

/// How many slots a frame needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    /// A whole answer in one piece.
    Whole(u32),
    /// The first frame of a streamed answer: at least the first number, at most the second.
    Opening(u32, u32),
    /// A further frame of a streamed answer: at most so many.
    Further(u32),
}

/// Bounds that keep one stream from taking the arena for itself.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Most slots in one streamed frame.
    frame: u32,
    /// Most slots one exchange may have under way.
    window: u32,
    /// Slots that streams leave alone, for heads and short answers.
    reserve: u32,
}

/// What goes to the hub: the ring, and the arena its frames are taken from.
#[derive(Debug)]
pub(crate) struct Outbound {
    producer: Producer,
    pub(super) arena: Arena,
    /// By first slot: the exchange a run belongs to, or
    /// [`EVENT_FRAME`](crate::worker::lane::events::EVENT_FRAME), and its length; zero slots: not lent.
    pub(super) lent: Box<[(u32, u32)]>,
    /// By exchange: how many slots it has under way.
    pub(super) held: Box<[u32]>,
    /// Who waits for slots.
    pub(super) waiting: Vec<Waker>,
    /// Exchanges that lost their handler when no slot was free to say so.
    pub(super) orphans: VecDeque<ExchangeId>,
    /// What events have of the arena.
    pub(super) events: EventShare,
    /// Whether the hub was told that somebody waits for slots.
    pub(super) starved: bool,
    broken: bool,
    limits: Limits,
}

impl Outbound {
    /// A ring and an arena that nobody has used yet.
    pub(super) fn new(geometry: Geometry) -> Outbound {
        let slots = geometry.slots();
        let frame = (geometry.slots_for(MAX_STREAM_FRAME) as u32).min((slots / 8).max(1));
        let limits = Limits {
            frame,
            window: (frame * STREAM_WINDOW as u32).min(slots / 4).max(1),
            reserve: slots / 4,
        };
        Outbound {
            producer: Producer::default(),
            arena: Arena::new(slots),
            lent: vec![(0, 0); slots as usize].into(),
            held: vec![0; slots as usize].into(),
            waiting: Vec::new(),
            orphans: VecDeque::new(),
            events: EventShare::new(slots),
            starved: false,
            broken: false,
            limits,
        }
    }

    /// Queues and publishes; `false` where the hub cannot be talked to any more.
    pub(super) fn push(&mut self, memory: &LaneMemory<WorkerSide>, d: Descriptor) -> bool {
        let ring = memory.outbound();
        self.broken |= self.broken || self.producer.push(&ring, d).is_err();
        self.producer.publish(&ring);
        !self.broken
    }

    /// Whether anybody waits for the hub to return something.
    pub(super) fn awaits_returns(&self) -> bool {
        !self.waiting.is_empty() || !self.orphans.is_empty() || self.events.awaits_returns()
    }

    /// Takes slots for a frame of this exchange, if it may have them now.
    pub(super) fn allocate(&mut self, exchange: u32, want: Want) -> Option<Slots> {
        let limits = self.limits;
        let free = self.arena.free_count();
        let held = self.held[exchange as usize];
        let streamed = |at_most: u32| {
            let spare = free.saturating_sub(limits.reserve + self.events.unused());
            // The less is left, the less any one may have under way: clients that do not read would
            // otherwise hold all of it when there are but a few of them.
            let window = limits.window.min((spare / 8).max(1)).saturating_sub(held);
            (free / 8)
                .max(1)
                .min(at_most)
                .min(limits.frame)
                .min(window)
                .min(spare)
        };
        let slots = match want {
            Want::Whole(count) => self.arena.allocate(count),
            Want::Opening(at_least, at_most) => {
                let count = streamed(at_most).max(at_least);
                self.arena
                    .allocate(count)
                    .or_else(|| self.arena.allocate(at_least))
            }
            Want::Further(at_most) => {
                let count = streamed(at_most);
                // Fragments are no reason to wait: any single slot carries the stream on.
                self.arena
                    .allocate(count)
                    .or_else(|| self.arena.allocate(count.min(1)))
            }
        }?;
        self.held[exchange as usize] += slots.run().slots;
        Some(slots)
    }
}
