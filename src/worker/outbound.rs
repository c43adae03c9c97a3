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
use crate::worker::waiting::{Need, Waiting};

/// One streamed answer may have this part of what streams may still take: with four it leaves most to
/// others, and sixteen at a time have frames of 64 KiB in an arena of 2 MiB.
const STREAM_PART: u32 = 4;

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

impl Want {
    /// What it takes for somebody with so many slots under way to go on.
    fn need(self, held: u32) -> Need {
        match self {
            Want::Whole(least) | Want::Opening(least, _) => Need::Beginning(least),
            Want::Further(_) => Need::Further(held),
        }
    }
}

/// A turn of whoever runs those that are called: between two of them all of these have gone on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) number: u32,
    /// How many may be called in it; `None` where all are threads, between which nobody stands.
    pub(super) most: Option<u32>,
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
    held: Box<[u32]>,
    waiting: Waiting,
    /// How many were called in this turn of the event loop, and its number.
    called: (u32, u32),
    /// How many slots are left for those who are still to be called in this round.
    left: u32,
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
            waiting: Waiting::default(),
            called: (0, 0),
            left: 0,
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

    /// Whether anybody waits for slots.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(super) fn is_waited_for(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes slots for a frame of this exchange, if it may have them now.
    pub(super) fn allocate(&mut self, exchange: u32, want: Want) -> Option<Slots> {
        let free = self.arena.free_count();
        let slots = match want {
            Want::Whole(count) => self.arena.allocate(count),
            Want::Opening(at_least, at_most) => {
                let count = self.streamed(exchange, at_most, free).max(at_least);
                self.arena
                    .allocate(count)
                    .or_else(|| self.arena.allocate(at_least))
            }
            Want::Further(at_most) => {
                let count = self.streamed(exchange, at_most, free);
                // Fragments are no reason to wait: any single slot carries the stream on.
                self.arena
                    .allocate(count)
                    .or_else(|| self.arena.allocate(count.min(1)))
            }
        }?;
        self.hold(exchange, |held| held + slots.run().slots);
        Some(slots)
    }

    /// So many slots of this exchange are not under way any more.
    pub(super) fn let_go(&mut self, exchange: u32, slots: u32) {
        self.hold(exchange, |held| held - slots);
    }

    fn hold(&mut self, exchange: u32, change: impl FnOnce(u32) -> u32) {
        let held = &mut self.held[exchange as usize];
        *held = change(*held);
        self.waiting.has_under_way(exchange, *held);
    }

    /// Notes who is to be called when the slots may be had.
    pub(super) fn wait(&mut self, id: ExchangeId, want: Want, waker: &Waker) {
        let need = want.need(self.held[id.index as usize]);
        self.waiting.put(id, need, waker);
    }

    /// The exchange waits for nothing any more.
    pub(super) fn stop_waiting(&mut self, id: ExchangeId) {
        self.waiting.remove(id);
    }

    /// Takes out those who can go on: as many as there are slots for, for each of a thousand streams
    /// would find nothing after the first few; and only so many in one turn. Returns whether there are
    /// more.
    pub(super) fn take_ready(&mut self, turn: Turn, called: &mut Vec<Waker>) -> bool {
        if self.called.1 != turn.number {
            self.called = (0, turn.number);
        }
        // Those who were called may not have come yet.
        let mut free = self.arena.free_count().min(self.left);
        let has_more = loop {
            let window = self.window(self.spare(free));
            let fits = |need| match need {
                Need::Beginning(least) => least <= free,
                Need::Further(held) => held < window,
            };
            let Some(next) = self.waiting.next(fits) else {
                break false;
            };
            if let Some(most) = turn.most {
                if self.called.0 == most {
                    break true;
                }
                self.called.0 += 1;
            }
            free -= next.0.least();
            called.extend(self.waiting.take(next));
        };
        self.left = free;
        has_more
    }

    /// Slots have come back. Takes out those of which `is_over` says that their exchange is, if they have
    /// this number; of the others some at each call.
    pub(super) fn begin_round(
        &mut self,
        exchange: u32,
        is_over: impl Fn(ExchangeId) -> bool,
        called: &mut Vec<Waker>,
    ) {
        self.waiting.take_over(exchange, is_over, called);
        self.waiting.begin_round();
        self.left = self.arena.free_count();
    }

    /// Takes out those of which `is_over` says that their exchange is.
    pub(super) fn take_all_over(&mut self, is_over: impl Fn(ExchangeId) -> bool) -> Vec<Waker> {
        self.waiting.take_all_over(is_over)
    }

    /// Takes out everybody.
    pub(super) fn take_all_waiters(&mut self) -> Vec<Waker> {
        self.waiting.take_all()
    }

    /// How many of the free slots streams may take.
    fn spare(&self, free: u32) -> u32 {
        free.saturating_sub(self.limits.reserve + self.events.unused())
    }

    /// How many slots one streamed answer may have under way when streams may take so many. The less is
    /// left, the less: clients that do not read would otherwise hold all of it when there are but a few
    /// of them.
    fn window(&self, spare: u32) -> u32 {
        let part = (spare / STREAM_PART).max(1);
        self.limits.window.min(part).min(spare)
    }

    /// How many slots the next frame of a streamed answer may have when so many are free.
    fn streamed(&self, exchange: u32, at_most: u32, free: u32) -> u32 {
        let spare = self.spare(free);
        let held = self.held[exchange as usize];
        at_most
            .min(self.limits.frame)
            .min(self.window(spare).saturating_sub(held))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn id(index: u32) -> ExchangeId {
        ExchangeId {
            index,
            generation: 1,
        }
    }

    #[test]
    fn a_slot_that_comes_back_calls_one_of_many_who_wait() {
        let geometry = Geometry::new(64, 4096).unwrap();
        let mut outbound = Outbound::new(geometry);
        let mut taken = Vec::new();
        for exchange in 0..64 {
            taken.extend(outbound.allocate(exchange, Want::Further(16)));
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let (first, last) = (40, 64);
        for exchange in first..last {
            assert!(outbound.allocate(exchange, Want::Further(1)).is_none());
            outbound.wait(id(exchange), Want::Further(1), &waker);
            outbound.wait(id(exchange), Want::Further(1), &waker);
        }
        let turn = Turn {
            number: 1,
            most: None,
        };
        let called = |outbound: &mut Outbound, over: Option<u32>| {
            let mut wakers = Vec::new();
            outbound.begin_round(u32::MAX, |id| Some(id.index) == over, &mut wakers);
            assert!(!outbound.take_ready(turn, &mut wakers));
            wakers.into_iter().for_each(Waker::wake);
            count.0.swap(0, Ordering::Relaxed)
        };
        assert_eq!(called(&mut outbound, None), 0, "nothing is free");
        let back = taken.pop().expect("some were to be had");
        let room = back.run().slots as usize;
        outbound.arena.release(back);
        assert_eq!(called(&mut outbound, None), room);
        // Whose client has gone is called whatever there is, in its turn.
        outbound.arena.allocate(room as u32).expect("it is free");
        let looks = (last - first).div_ceil(8);
        let gone = (0..=looks).map(|_| called(&mut outbound, Some(last - 1)));
        assert_eq!(gone.sum::<usize>(), 1);
        let left = (last - first) as usize - room - 1;
        outbound.stop_waiting(id(last - 2));
        assert_eq!(outbound.take_all_waiters().len(), left - 1);
    }

    #[test]
    fn only_so_many_are_called_in_a_turn() {
        let mut outbound = Outbound::new(Geometry::new(64, 4096).unwrap());
        let all = outbound.arena.allocate(64).expect("it is free");
        for exchange in 0..30 {
            outbound.wait(id(exchange), Want::Further(1), Waker::noop());
        }
        outbound.arena.release(all);
        outbound.begin_round(u32::MAX, |_| false, &mut Vec::new());
        let turn = |number| Turn {
            number,
            most: Some(8),
        };
        let mut called = |number| {
            let mut wakers = Vec::new();
            let has_more = outbound.take_ready(turn(number), &mut wakers);
            (wakers.len(), has_more)
        };
        let turns = [1, 1, 2, 3, 4, 4].map(&mut called);
        let expected = [
            (8, true),
            (0, true),
            (8, true),
            (8, true),
            (6, false),
            (0, false),
        ];
        assert_eq!(turns, expected);
    }
}
