//! The hub's end of a lane, for the tasks of one shard: opening exchanges, waiting for slots and for
//! frames, and the task that drives the rings. One lane joins this shard with one worker process.

mod core;
mod driver;
mod events;
mod hunger;
mod line;
mod share;
mod violation;
mod window;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use slab::Slab;

#[cfg(any(test, fuzzing))]
pub use self::core::slot_ops;
// Public for the bench that counts the instructions of a request's whole way through the hub.
pub use self::core::LaneCore;
pub use self::core::{EventFrame, EventOutcome, ExchangeId, Failure, Frame, RequestFrame};
pub use self::driver::Ended;
pub use self::share::Share;
pub use self::violation::Violation;
pub use self::window::{Permit, Window, Windows};

use self::events::CopiesOut;
use self::hunger::Hunger;
use self::line::{Line, Place};
use crate::brake::Brake;
use crate::control::WakeMode;
use crate::gateway::clock::Clock;
use crate::gateway::stats::LaneStats;
use crate::gateway::stream::Incarnation;
use crate::gateway::stream::handover::{Handover, Origin};
use crate::shm::descriptor::{ABORT, Run};
use crate::shm::layout::{Geometry, Phase};
use crate::shm::region::{HubSide, LaneMemory, Slots};

/// Everything the control plane hands to a shard for a new lane.
#[derive(Debug)]
pub struct LaneParts {
    /// The worker, and which of its attaches.
    pub worker: Incarnation,
    /// Both memories.
    pub memory: Arc<LaneMemory<HubSide>>,
    /// Where the lane counts what it does.
    pub stats: Arc<LaneStats>,
    /// The worker writes to it to wake this shard.
    pub hub_doorbell: OwnedFd,
    /// This shard writes to it to wake a worker that polls.
    pub worker_doorbell: OwnedFd,
    /// How the worker wants to be woken.
    pub wake: WakeMode,
}

/// A lane, shared by the connections of its shard.
#[derive(Debug)]
pub struct Lane {
    worker: Incarnation,
    clock: Rc<Clock>,
    core: RefCell<LaneCore>,
    geometry: Geometry,
    memory: Arc<LaneMemory<HubSide>>,
    stats: Arc<LaneStats>,
    wake: WakeMode,
    driver: RefCell<Option<Waker>>,
    /// Tasks that wait for the slots of a new exchange.
    newcomers: Line,
    /// Tasks that wait for slots for more of a body. A line of their own, since newcomers wait for
    /// more than these may: a part of the arena is kept for them.
    bodies: Line,
    /// What may be said about connections at a time.
    windows: Windows,
    /// Tasks that wait for a share, before they are newcomers.
    uploads: Line,
    /// Tasks that wait for slots to come back, in a line or not, to look at the time at each tick.
    hungry: RefCell<Slab<Waker>>,
    violation: Cell<Option<Violation>>,
    complaints: RefCell<Brake>,
    draining: Cell<bool>,
    /// When a draining lane waits for no notice any more. Milliseconds.
    drain_by_ms: Cell<u64>,
    timeout_ms: u64,
    /// Slots of requests that have not arrived: clients may be slow with the rest.
    receiving: Cell<u32>,
    /// Copies of events on their way to the streams thread,
    handover: Arc<Handover>,
    /// what tells them from those of other lanes,
    origin: Origin,
    /// and how much of them there is, in the thread's hands too.
    copies_out: Cell<CopiesOut>,
}

impl Lane {
    /// A lane to the worker with this index, and the eventfds for its [driver](Lane::drive): the hub's and
    /// the worker's. `handover` is that of the worker's namesake, where the shard has a lane to one.
    pub fn new(
        parts: LaneParts,
        clock: Rc<Clock>,
        timeout_ms: u64,
        handover: Arc<Handover>,
        index: usize,
    ) -> (Rc<Lane>, OwnedFd, OwnedFd) {
        let core = LaneCore::new(parts.memory.clone(), parts.stats.clone(), timeout_ms);
        let geometry = parts.memory.geometry();
        let origin = Origin {
            index,
            attach: parts.worker.attach,
        };
        let lane = Lane {
            worker: parts.worker,
            clock,
            core: RefCell::new(core),
            geometry,
            memory: parts.memory,
            stats: parts.stats,
            wake: parts.wake,
            driver: RefCell::new(None),
            newcomers: Line::default(),
            bodies: Line::default(),
            uploads: Line::default(),
            windows: Windows::new(geometry),
            hungry: RefCell::new(Slab::new()),
            violation: Cell::new(None),
            complaints: RefCell::default(),
            draining: Cell::new(false),
            receiving: Cell::new(0),
            handover,
            origin,
            copies_out: Cell::default(),
            drain_by_ms: Cell::new(u64::MAX),
            timeout_ms,
        };
        (Rc::new(lane), parts.hub_doorbell, parts.worker_doorbell)
    }

    /// The worker's name.
    pub fn name(&self) -> &str {
        &self.worker.name
    }

    /// The worker, and which of its attaches.
    pub fn incarnation(&self) -> &Incarnation {
        &self.worker
    }

    /// The number and size of the lane's slots.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The lane's memory.
    pub fn memory(&self) -> &Arc<LaneMemory<HubSide>> {
        &self.memory
    }

    /// What may be said about connections at a time.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// Where the lane counts what it does.
    pub fn stats(&self) -> &LaneStats {
        &self.stats
    }

    /// When something was last said of the worker's answers.
    pub(in crate::gateway) fn complaints(&self) -> &RefCell<Brake> {
        &self.complaints
    }

    /// Whether the worker is gone.
    pub fn is_dead(&self) -> bool {
        self.core.borrow().is_dead()
    }

    /// Whether there is an exchange that has not ended, or the lane is to.
    pub fn is_busy(&self) -> bool {
        self.draining.get() || self.core.borrow().in_use() > 0 || !self.hungry.borrow().is_empty()
    }

    /// What the worker did to be evicted, once.
    pub fn take_violation(&self) -> Option<Violation> {
        self.violation.take()
    }

    /// Opens an exchange with its first `slots` slots; waits in line where they have run out, until
    /// `expired` says that it has waited long enough.
    ///
    /// # Errors
    /// The worker is gone, or the time is up.
    pub async fn begin(
        self: &Rc<Lane>,
        slots: usize,
        bodyless: bool,
        expired: impl Fn() -> bool,
    ) -> Result<(Exchange<'_>, Slots), Failure> {
        let attempt = |core: &mut LaneCore| core.begin(slots, bodyless);
        let (id, slots) = self.acquire(&self.newcomers, attempt, expired).await?;
        Ok((Exchange { lane: self, id }, slots))
    }

    /// Whether an exchange of so many slots can be opened at all, in an empty lane.
    pub fn may_ever_begin(&self, slots: usize) -> bool {
        slots <= LaneCore::most_to_begin(self.geometry)
    }

    /// Gives back slots that were not submitted.
    pub fn release(&self, slots: Slots) {
        self.core.borrow_mut().release(slots);
        self.wake_first_in_line();
    }

    /// Keeps only the first slots, as many as hold `bytes`.
    pub fn trim(&self, slots: Slots, bytes: usize) -> Slots {
        let slots = self.core.borrow_mut().trim(slots, bytes);
        self.wake_first_in_line();
        slots
    }

    /// Gives a response frame back to the worker.
    pub fn return_frame(&self, run: Run) {
        let starved = self.core.borrow_mut().return_frame(run);
        if self.judge(starved).unwrap_or(false) {
            self.wake_driver();
        }
    }

    /// The worker is gone, or is thrown out: everybody who waits is told.
    pub fn die(&self) {
        self.core.borrow_mut().die();
        // Else who comes and goes could leave more behind than is worked off.
        self.handover.forget(self.origin);
        self.wake_hungry();
        self.windows.wake_all();
        self.wake_driver();
    }

    /// No further request comes; the worker may finish what it has.
    pub fn drain(&self) {
        if !self.draining.replace(true) {
            self.drain_by_ms.set(self.clock.now_ms() + self.timeout_ms);
        }
        self.core.borrow_mut().set_phase(Phase::Draining);
        self.wake_driver();
    }

    /// Whether the lane was told to drain, nobody waits for an answer any more, the worker was told of
    /// the connections that have ended, and its events are with their subscribers, as far as that could
    /// be in the time a request has.
    pub fn is_drained(&self) -> bool {
        if !self.draining.get() || self.core.borrow().in_flight() > 0 {
            return false;
        }
        let has_settled = self.windows.ended.is_idle() && self.has_worked_events_off();
        has_settled || self.clock.now_ms() >= self.drain_by_ms.get()
    }

    /// Fails what is overdue at `now_ms`, has everybody who waits for slots look at the time, and the
    /// driver at the ring.
    pub fn tick(&self, now_ms: u64) {
        self.core.borrow_mut().expire(now_ms);
        if self.is_busy() {
            // A return does not ring: one that came behind the last answer is found here.
            self.wake_driver();
        }
        self.wake_hungry();
    }

    /// Asks the worker for a sign of life. Returns whether the last one is still owed.
    pub fn ping(&self, number: u32) -> bool {
        let missed = self.core.borrow_mut().send_ping(number);
        self.wake_driver();
        self.judge(missed).unwrap_or(true)
    }

    /// Whether a ping is unanswered.
    pub fn ping_pending(&self) -> bool {
        self.core.borrow().ping_pending()
    }

    /// Waits in a line until `attempt` yields something.
    async fn acquire<T>(
        &self,
        line: &Line,
        mut attempt: impl FnMut(&mut LaneCore) -> Option<T>,
        expired: impl Fn() -> bool,
    ) -> Result<T, Failure> {
        let mut place = Place::before(line);
        let mut hunger = None;
        poll_fn(|cx| {
            let mut core = self.core.borrow_mut();
            if core.is_dead() {
                return Poll::Ready(Err(Failure::WorkerGone));
            }
            if place.is_first()
                && let Some(taken) = attempt(&mut core)
            {
                return Poll::Ready(Ok(taken));
            }
            if expired() {
                return Poll::Ready(Err(Failure::Deadline));
            }
            drop(core);
            if place.join(cx.waker()) {
                hunger = Some(Hunger::new(self, cx.waker()));
            }
            Poll::Pending
        })
        .await
    }

    fn wake_first_in_line(&self) {
        self.bodies.wake_first();
        self.newcomers.wake_first();
    }

    fn wake_hungry(&self) {
        for (_, waker) in self.hungry.borrow().iter() {
            waker.wake_by_ref();
        }
    }

    fn wake_driver(&self) {
        if let Some(waker) = &*self.driver.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Takes note of a violation and lets the lane die of it.
    fn judge<T>(&self, result: Result<T, Violation>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(violation) => {
                if self.violation.get().is_none() {
                    self.violation.set(Some(violation));
                }
                self.die();
                None
            }
        }
    }
}

/// One request and its response, from the side that waits. Dropping it gives up whatever is left.
#[derive(Debug)]
pub struct Exchange<'a> {
    lane: &'a Rc<Lane>,
    id: ExchangeId,
}

impl<'a> Exchange<'a> {
    /// The lane it runs on.
    pub fn lane(&self) -> &'a Rc<Lane> {
        self.lane
    }

    /// Hands a frame to the worker; the first carries the head. The worker hears of it when the
    /// tasks that are ready now have had their turn.
    pub fn submit(&self, slots: Slots, frame: RequestFrame, deadline_ms: u64) {
        let result = self
            .lane
            .core
            .borrow_mut()
            .submit(self.id, slots, frame, deadline_ms);
        self.lane.judge(result);
        self.lane.wake_driver();
    }

    /// Ends the request body without a further frame.
    pub fn end(&self, deadline_ms: u64) {
        self.end_body(0, deadline_ms);
    }

    /// Tells the worker that the request body will never be complete. What it still has to say is
    /// due at `deadline_ms`.
    pub fn abort(&self, deadline_ms: u64) {
        self.end_body(ABORT, deadline_ms);
    }

    fn end_body(&self, abort: u8, deadline_ms: u64) {
        let result = self
            .lane
            .core
            .borrow_mut()
            .end_body(self.id, abort, deadline_ms);
        self.lane.judge(result);
        self.lane.wake_driver();
    }

    /// Whether a part of the request body is still to be submitted.
    pub fn is_uploading(&self) -> bool {
        self.lane.core.borrow().is_uploading(self.id)
    }

    /// Whether a tick has found it unanswered.
    pub fn is_slow(&self) -> bool {
        self.lane.core.borrow().is_slow(self.id)
    }

    /// Tells the worker that the client has stopped sending and may be gone.
    pub fn client_left(&self) {
        self.lane.core.borrow().client_left(self.id);
    }

    /// The answer is still listened to, but nothing depends on it any more: the lane may drain without
    /// it.
    pub fn let_drain(&self) {
        self.lane.core.borrow_mut().let_drain(self.id);
        self.lane.wake_driver();
    }

    /// Waits until somebody reads the body and fewer than `window` frames of it are with the worker,
    /// then takes slots for another: `most`, or fewer while there are not many left.
    ///
    /// # Errors
    /// The worker is gone, or the time is up.
    pub async fn allocate(
        &self,
        most: usize,
        window: usize,
        expired: impl Fn() -> bool,
    ) -> Result<Slots, Failure> {
        let lane = &self.lane;
        let mut hunger = None;
        poll_fn(|cx| {
            let mut core = lane.core.borrow_mut();
            if core.is_dead() {
                return Poll::Ready(Err(Failure::WorkerGone));
            }
            if core.may_submit(self.id, window) {
                return Poll::Ready(Ok(()));
            }
            if expired() {
                return Poll::Ready(Err(Failure::Deadline));
            }
            core.watch(self.id, cx.waker());
            drop(core);
            hunger.get_or_insert_with(|| Hunger::new(lane, cx.waker()));
            Poll::Pending
        })
        .await?;
        drop(hunger);
        let attempt = |core: &mut LaneCore| core.allocate_up_to(most);
        lane.acquire(&lane.bodies, attempt, expired).await
    }

    /// Nothing more of the exchange is needed, as when it is dropped.
    pub fn finish(&self) {
        let call = self.lane.core.borrow_mut().finish(self.id);
        let call = self.lane.judge(call).unwrap_or(false);
        self.lane.wake_first_in_line();
        if call || self.lane.draining.get() {
            self.lane.wake_driver();
        }
    }

    /// Waits for the next response frame. The frame is the caller's to [return](Lane::return_frame).
    ///
    /// # Errors
    /// Why none will come.
    pub async fn next_frame(&self) -> Result<Frame, Failure> {
        poll_fn(
            |cx| match self.lane.core.borrow_mut().poll_frame(self.id, cx.waker()) {
                Some(result) => Poll::Ready(result),
                None => Poll::Pending,
            },
        )
        .await
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use super::*;
    use crate::sys::eventfd::EventFd;
    use crate::sys::memory::SharedMemory;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn lane() -> Rc<Lane> {
        let geometry = Geometry::new(16, 4096).unwrap();
        let len = geometry.memory_len();
        let (_, request) = SharedMemory::create_written_here("test-request", len).unwrap();
        let (_, response) = SharedMemory::create_written_by_peer("test-response", len).unwrap();
        let parts = LaneParts {
            worker: Incarnation {
                name: "test".into(),
                attach: 1,
            },
            memory: Arc::new(LaneMemory::new(request, response, geometry).unwrap()),
            stats: Arc::new(LaneStats::new(16)),
            hub_doorbell: EventFd::new(false).unwrap().into(),
            worker_doorbell: EventFd::new(true).unwrap().into(),
            wake: WakeMode::Futex,
        };
        Lane::new(parts, Rc::new(Clock::new()), 1000, Arc::default(), 0).0
    }

    #[test]
    fn who_waits_for_the_window_looks_at_the_time_at_each_tick() {
        let lane = lane();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let cx = &mut Context::from_waker(&waker);
        let Poll::Ready(Ok((exchange, slots))) = pin!(lane.begin(1, false, || false)).poll(cx)
        else {
            panic!("an empty lane has slots");
        };
        let frame = RequestFrame {
            head_len: 64,
            body_len: 0,
            total: None,
            flags: 0,
        };
        exchange.submit(slots, frame, u64::MAX);
        let late = Cell::new(false);
        // The one frame fills the window, and the worker does not return it.
        let mut allocate = pin!(exchange.allocate(1, 1, || late.get()));
        assert!(allocate.as_mut().poll(cx).is_pending());
        assert!(lane.is_busy());
        // The first one calls for something else, too: it finds the exchange slow.
        lane.tick(1);
        assert!(allocate.as_mut().poll(cx).is_pending());
        count.0.store(0, Ordering::Relaxed);
        late.set(true);
        lane.tick(2);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        let Poll::Ready(Err(failure)) = allocate.as_mut().poll(cx) else {
            panic!("it is late");
        };
        assert_eq!(failure, Failure::Deadline);
        assert!(lane.hungry.borrow().is_empty());
    }

    #[test]
    fn a_lane_drains_without_what_nothing_depends_on() {
        let lane = lane();
        let cx = &mut Context::from_waker(Waker::noop());
        let frame = RequestFrame {
            head_len: 64,
            body_len: 0,
            total: Some(0),
            flags: crate::shm::descriptor::END,
        };
        let mut exchanges = Vec::new();
        for _ in 0..2 {
            let Poll::Ready(Ok((exchange, slots))) = pin!(lane.begin(1, false, || false)).poll(cx)
            else {
                panic!("an empty lane has slots");
            };
            exchange.submit(slots, frame, u64::MAX);
            exchanges.push(exchange);
        }
        lane.drain();
        assert!(!lane.is_drained());
        exchanges[0].let_drain();
        assert!(!lane.is_drained(), "the other is still needed");
        exchanges[1].let_drain();
        assert!(lane.is_drained());
        // An end that is still to be told is waited for, too.
        let entering = pin!(lane.windows().ended.enter(|| false));
        let Poll::Ready(Some(permit)) = entering.poll(cx) else {
            panic!("nobody else is there");
        };
        assert!(!lane.is_drained());
        drop(permit);
        assert!(lane.is_drained());
        // It can still be heard that the worker is gone.
        lane.die();
        let Poll::Ready(Err(failure)) = pin!(exchanges[0].next_frame()).poll(cx) else {
            panic!("nothing comes any more");
        };
        assert_eq!(failure, Failure::WorkerGone);
    }
}
