//! The worker's end of one lane: its rings, its arena, and the request bodies that are still
//! arriving. Every method may be called from any thread; none blocks.

pub(crate) mod events;
mod slots;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use crate::shm::descriptor::{ABORT, CLIENT_LEFT, Completion, Descriptor, END, Run, Submission};
use crate::shm::doorbell::{is_starved, should_ring};
use crate::shm::region::{Arena, LaneMemory, Slots, Word, WorkerSide};
use crate::shm::ring::Consumer;
use crate::sys::eventfd::EventFd;
use crate::sys::wake_fd::WakeFd;
use crate::worker::frame::Frame;
use crate::worker::inbox::Inbox;
use crate::worker::outbound::{Outbound, Want};
use crate::worker::session::{Session, lock};

use self::events::{EVENT_FRAME, delivery};

/// In the place of an exchange: none has this number.
const NOBODY: u32 = u32::MAX;

/// The worker's end of a lane.
#[derive(Debug)]
pub(crate) struct Lane {
    memory: LaneMemory<WorkerSide>,
    /// Wakes the hub.
    hub_bell: EventFd,
    /// Readable when the hub has rung, in eventfd mode.
    own_bell: WakeFd,
    /// What is popped is also routed under this lock, or two threads could swap two frames of a body.
    inbound: Mutex<Consumer>,
    outbound: Mutex<Outbound>,
    last_rung: AtomicU32,
    /// By exchange: where further parts of its body go. Written under the `inbound` lock.
    inboxes: Box<[Mutex<Option<Arc<Inbox>>>]>,
    /// Whether there may be any inbox.
    arriving: AtomicBool,
    /// Most of those who wait for slots that are called in one turn of the event loop, if there is one.
    most_called: Option<u32>,
    /// The number of this turn.
    turn: AtomicU32,
    /// Whether more are to be called in the next one. Written under the `outbound` lock.
    has_more: AtomicBool,
}

/// Names an exchange of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ExchangeId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A request as it came out of the ring.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) exchange: ExchangeId,
    pub(crate) frame: Frame,
    /// Length of the whole body, or [`UNKNOWN_LENGTH`](crate::shm::descriptor::UNKNOWN_LENGTH).
    pub(crate) total: u64,
    /// Where the rest of the body arrives; `None` where all of it is in the frame.
    pub(crate) inbox: Option<Arc<Inbox>>,
}

/// What a look at the submission ring brought.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The next request. `None`: the ring is empty.
    pub(crate) request: Option<Incoming>,
    /// Whether anything at all was taken.
    pub(crate) any: bool,
    /// Whether more is known to be there.
    pub(crate) more: bool,
}

/// The hub's ring index cannot be true, or the hub no longer reads: the lane is of no use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken;

impl Lane {
    /// A lane over memory that nobody has used yet.
    pub(crate) fn new(memory: LaneMemory<WorkerSide>, hub_bell: EventFd, own_bell: WakeFd) -> Lane {
        let geometry = memory.geometry();
        let slots = geometry.slots();
        Lane {
            memory,
            hub_bell,
            own_bell,
            inbound: Mutex::new(Consumer::default()),
            outbound: Mutex::new(Outbound::new(geometry)),
            last_rung: AtomicU32::new(0),
            inboxes: (0..slots).map(|_| Mutex::new(None)).collect(),
            arriving: AtomicBool::new(false),
            most_called: None,
            turn: AtomicU32::new(0),
            has_more: AtomicBool::new(false),
        }
    }

    /// The lane's memory.
    pub(crate) fn memory(&self) -> &LaneMemory<WorkerSide> {
        &self.memory
    }

    /// What can be read when the hub has rung, in eventfd mode.
    pub(crate) fn own_bell(&self) -> &WakeFd {
        &self.own_bell
    }

    /// Whether the exchange is over: its client is gone for certain, or its deadline has passed.
    pub(crate) fn is_cancelled(&self, id: ExchangeId) -> bool {
        self.memory.cancelled(id.index) == id.generation
    }

    /// Whether the exchange is over, or its client has stopped sending, as one that leaves does.
    pub(crate) fn may_be_unwanted(&self, id: ExchangeId) -> bool {
        self.memory.cancelled(id.index) & !CLIENT_LEFT == id.generation
    }

    /// Takes descriptors up to and including the next request.
    pub(crate) fn take(&self, session: &Arc<Session>, number: usize) -> Result<Taken, Broken> {
        let ring = self.memory.inbound();
        let mut taken = Taken::default();
        let mut consumer = lock(&self.inbound);
        while !session.is_closed()
            && let Some(d) = consumer.pop(&ring).map_err(|_| Broken)?
        {
            taken.any = true;
            match Submission::from_u8(d.kind) {
                Some(Submission::Request) => {
                    taken.request = self.open(session, number, &d);
                    if taken.request.is_some() {
                        break;
                    }
                }
                Some(Submission::Body) => self.route_body(session, number, &d),
                Some(Submission::Return) => self.take_back(&d)?,
                Some(Submission::Ping) => {
                    let kind = Completion::Pong as u8;
                    let generation = d.generation;
                    self.push(Descriptor {
                        kind,
                        generation,
                        ..Descriptor::default()
                    })?;
                }
                // Kinds of a later version: not for this worker.
                None => {}
            }
        }
        consumer.release(&ring);
        taken.more = consumer.seen() > 0;
        Ok(taken)
    }

    /// Whether something is in the ring.
    pub(crate) fn is_ready(&self) -> bool {
        // A bad index counts as something: the next `take` reports it.
        lock(&self.inbound)
            .refresh(&self.memory.inbound())
            .unwrap_or(true)
    }

    /// Gives a request frame back to the hub.
    pub(crate) fn return_frame(&self, run: Run) {
        let d = Descriptor {
            kind: Completion::Return as u8,
            slots: run.slots as u16,
            first: run.first,
            ..Descriptor::default()
        };
        let mut outbound = lock(&self.outbound);
        if !outbound.push(&self.memory, d) {
            return;
        }
        drop(outbound);
        if is_starved(self.memory.peer_word(Word::Starved)) {
            self.ring_hub();
        }
    }

    /// Publishes a completion and wakes the hub if it sleeps.
    pub(crate) fn push(&self, d: Descriptor) -> Result<(), Broken> {
        if !lock(&self.outbound).push(&self.memory, d) {
            return Err(Broken);
        }
        self.ring_hub();
        Ok(())
    }

    /// Tells the hub that somebody reads the body of a request.
    pub(crate) fn ask_for_body(&self, id: ExchangeId) -> Result<(), Broken> {
        self.push(Descriptor {
            kind: Completion::Read as u8,
            exchange: id.index,
            generation: id.generation,
            ..Descriptor::default()
        })
    }

    /// Hands a response frame to the hub. `d` says everything but where the frame stands.
    pub(crate) fn lend(&self, slots: Slots, d: Descriptor) -> Result<(), Broken> {
        self.lend_under(lock(&self.outbound), slots, d)
    }

    /// As [`Lane::allocate`] and [`Lane::lend`] at once, for a frame that `fill` does not take long to
    /// write. `None`, with nothing done, where there are no slots to be had.
    pub(crate) fn lend_filled(
        &self,
        want: Want,
        d: Descriptor,
        fill: impl FnOnce(&mut [u8]),
    ) -> Option<Result<(), Broken>> {
        let mut outbound = lock(&self.outbound);
        let mut slots = outbound.allocate(d.exchange, want)?;
        fill(self.memory.bytes_mut(&mut slots));
        Some(self.lend_under(outbound, slots, d))
    }

    fn lend_under(
        &self,
        mut outbound: MutexGuard<'_, Outbound>,
        slots: Slots,
        d: Descriptor,
    ) -> Result<(), Broken> {
        let run = Arena::lend(slots);
        outbound.lent[run.first as usize] = (d.exchange, run.slots);
        if !outbound.push(
            &self.memory,
            Descriptor {
                first: run.first,
                slots: run.slots as u16,
                ..d
            },
        ) {
            return Err(Broken);
        }
        drop(outbound);
        self.ring_hub();
        Ok(())
    }

    /// Forgets the inbox of an exchange whose body nobody reads any more.
    pub(crate) fn forget_inbox(&self, id: ExchangeId) {
        let mut place = lock(&self.inboxes[id.index as usize]);
        if place
            .as_ref()
            .is_some_and(|inbox| inbox.generation() == id.generation)
        {
            *place = None;
        }
    }

    /// The hub is gone: everybody who waits is woken, and what has arrived is let go.
    pub(crate) fn close(&self) {
        // Whoever pops now sees that the session is closed; whoever popped before has finished.
        drop(lock(&self.inbound));
        for place in &self.inboxes {
            if let Some(inbox) = lock(place).take() {
                inbox.fail();
            }
        }
        let mut outbound = lock(&self.outbound);
        let waiting = outbound.take_all_waiters();
        let (line, receipts) = outbound.events.close();
        drop(outbound);
        receipts.iter().for_each(|receipt| receipt.settle(None));
        waiting.into_iter().chain(line).for_each(Waker::wake);
    }

    /// Whether somebody waits for a client, whose end comes without a call.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn awaits_clients(&self) -> bool {
        self.arriving.load(Ordering::Acquire) || lock(&self.outbound).is_waited_for()
    }

    /// Wakes whoever waits for slots, or for a part of a body, in an exchange that is over; and those who
    /// can have slots, in case somebody was called for them and has other things to do.
    pub(crate) fn fail_cancelled(&self) {
        let mut outbound = lock(&self.outbound);
        let mut waiting = outbound.take_all_over(|id| self.is_cancelled(id));
        waiting.extend(self.serve_waiting(&mut outbound, NOBODY));
        drop(outbound);
        waiting.into_iter().for_each(Waker::wake);
        if !self.arriving.swap(false, Ordering::AcqRel) {
            return;
        }
        for (index, place) in self.inboxes.iter().enumerate() {
            if let Some(inbox) = &*lock(place) {
                self.arriving.store(true, Ordering::Release);
                let id = ExchangeId {
                    index: index as u32,
                    generation: inbox.generation(),
                };
                if self.is_cancelled(id) {
                    inbox.fail();
                }
            }
        }
    }

    fn open(&self, session: &Arc<Session>, number: usize, d: &Descriptor) -> Option<Incoming> {
        let frame = Frame::new(session.clone(), number, d)?;
        let exchange = ExchangeId {
            index: d.exchange,
            generation: d.generation,
        };
        let place = self.inboxes.get(d.exchange as usize)?;
        let inbox = (!d.is_end()).then(|| Arc::new(Inbox::new(d.generation)));
        if let Some(inbox) = &inbox {
            *lock(place) = Some(inbox.clone());
            self.arriving.store(true, Ordering::Release);
        }
        Some(Incoming {
            exchange,
            frame,
            total: d.total,
            inbox,
        })
    }

    fn route_body(&self, session: &Arc<Session>, number: usize, d: &Descriptor) {
        let frame = Frame::new(session.clone(), number, d);
        let Some(place) = self.inboxes.get(d.exchange as usize) else {
            return;
        };
        let mut place = lock(place);
        let Some(inbox) = place.clone().filter(|i| i.generation() == d.generation) else {
            return;
        };
        if d.is_end() {
            *place = None;
        }
        drop(place);
        inbox.deliver(frame, d.is_end(), d.is_abort());
    }

    fn take_back(&self, d: &Descriptor) -> Result<(), Broken> {
        let run = d.run();
        let mut outbound = lock(&self.outbound);
        let lent = outbound.lent.get_mut(run.first as usize).ok_or(Broken)?;
        let (exchange, slots) = *lent;
        if slots == 0 || slots != run.slots {
            return Err(Broken);
        }
        *lent = (0, 0);
        let receipt = if exchange == EVENT_FRAME {
            outbound.events.take_back(run)
        } else {
            outbound.let_go(exchange, slots);
            None
        };
        outbound.arena.take_back(run);
        let waiting = self.serve_waiting(&mut outbound, exchange);
        drop(outbound);
        if exchange == EVENT_FRAME {
            let delivery = delivery(d);
            if let Some(receipt) = receipt {
                receipt.settle(Some(delivery));
            }
        }
        waiting.into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn ring_hub(&self) {
        if should_ring(self.memory.peer_word(Word::Sleep), &self.last_rung) {
            // A hub that cannot be woken is one that is gone, and that is noticed elsewhere.
            let _ = self.hub_bell.ring();
        }
    }
}

/// The last word of an exchange whose body will not be complete.
pub(crate) fn abort(id: ExchangeId, total: u64) -> Descriptor {
    Descriptor {
        kind: Completion::Body as u8,
        flags: END | ABORT,
        exchange: id.index,
        generation: id.generation,
        total,
        ..Descriptor::default()
    }
}
