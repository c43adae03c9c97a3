//! A shard: one thread with its own ring, its own listeners, and its own lane to every worker. What
//! its tasks share lives here; other threads reach it through its mailbox alone.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};

use monoio::net::UnixStream;
use monoio::{IoUringDriver, RuntimeBuilder};

use crate::brake::Burst;
use crate::gateway::acceptor::Acceptor;
use crate::gateway::clock::Clock;
use crate::gateway::connections::Connections;
use crate::gateway::hold::Holds;
use crate::gateway::lane::{Ended, EventFrame, EventOutcome, Lane, LaneParts};
use crate::gateway::later::Later;
use crate::gateway::mailbox::{Mailbox, Sender};
use crate::gateway::plan::Scratch;
use crate::gateway::remains::Remains;
use crate::gateway::replies::{Replies, Ticket};
use crate::gateway::spilled::Spilled;
use crate::gateway::stream::{
    LaneEvents, News, Notice, Publication, Published, ReplyTo, Streams, ToStreams,
};
use crate::gateway::ticker::{Load, Ticker};
pub use crate::gateway::timing::Timing;
use crate::gateway::watch::Watches;
use crate::gateway::yields::Yields;
use crate::gateway::{ControlAnswer, ControlPlane, GatewayConfig, Routes};
use crate::http::PassedFields;
use crate::limits::{RING_ENTRIES, RING_MEMORY, STOP_MS};
use crate::sys::listen::shutdown_both;
use crate::sys::probe::UringSupport;

/// What other threads ask of a shard.
#[derive(Debug)]
pub enum Command {
    /// Serve a worker: its index, and its lane.
    AddLane(usize, LaneParts),
    /// Route by this table from now on.
    Routes(Arc<Routes>),
    /// The worker is dead, or is to be treated so.
    Dead(usize),
    /// Send the worker nothing further.
    Drain(usize),
    /// Ask the worker for a sign of life, with this number.
    Ping(usize, u32),
    /// Say whether the worker still owes a sign of life.
    CheckPing(usize),
    /// Tell a worker about one of its connections.
    Notify(Box<Notice>),
    /// Answer the control request with this ticket: this has become of its event.
    Published(usize, Published),
    /// Answer the control request with this ticket so.
    Answered(usize, ControlAnswer),
    /// Return a frame of events to the worker with this index, of this attach.
    EventsTaken(usize, u64, EventFrame, EventOutcome),
    /// The worker with this index, of this attach, has sent events that are none.
    BadEvents(usize, u64),
    /// Finish what is in flight and end.
    Stop,
}

/// What a shard tells the control plane. The first number is the shard's, the second the worker's.
#[derive(Debug)]
pub enum Report {
    /// The lane has ended; the worker broke a rule, if a reason is given.
    LaneEnded(usize, usize, Option<String>),
    /// The worker owed a sign of life when asked for one, or when checked.
    PingMissed(usize, usize),
    /// The shard has ended, with an error or as it was told.
    Stopped(usize, Option<String>),
    /// The streams thread has ended, with an error or as it was told.
    StreamsStopped(Option<String>),
}

/// What a shard is started with.
pub struct ShardParts {
    /// Its index.
    pub index: usize,
    /// Sockets to accept from.
    pub listeners: Vec<OwnedFd>,
    /// Which ring flags the kernel takes.
    pub uring: UringSupport,
    /// How to serve.
    pub config: Arc<GatewayConfig>,
    /// What answers the hub's own paths.
    pub control: Arc<dyn ControlPlane>,
    /// Where commands come from.
    pub commands: Mailbox<Command>,
    /// Where reports go.
    pub reports: Sender<Report>,
    /// The way to the streams thread.
    pub streams: Streams,
    /// How many connections there are and may be.
    pub connections: Connections,
    /// Where it says that it has all it needs; dropped without a word where it has not.
    pub ready: mpsc::Sender<()>,
}

/// What the tasks of a shard share.
pub struct Shard {
    pub(super) config: Arc<GatewayConfig>,
    pub(super) control: Arc<dyn ControlPlane>,
    pub(super) clock: Rc<Clock>,
    pub(super) watches: Rc<Watches>,
    pub(super) spilled: Rc<Spilled>,
    pub(super) later: Rc<Later>,
    pub(super) yields: Yields,
    pub(super) passed: Rc<RefCell<PassedFields>>,
    pub(super) routes: RefCell<Arc<Routes>>,
    pub(super) scratch: RefCell<Scratch>,
    pub(super) streams: Streams,
    pub(super) holds: Holds,
    pub(super) acceptor: Acceptor,
    /// Lines about answers of workers that are no good.
    pub(super) complaints: RefCell<Burst>,
    /// Control requests that wait to hear from another thread.
    replies: Replies,
    index: usize,
    reports: Sender<Report>,
    lanes: RefCell<Vec<Option<Rc<Lane>>>>,
    remains: Remains,
    ticker: Ticker,
    stopping: Cell<bool>,
    stop_by_ms: Cell<u64>,
    /// Ends of connections that are still to be told to a worker.
    notices: Cell<usize>,
    main: RefCell<Option<Waker>>,
}

/// Runs a shard on this thread until it is told to stop.
///
/// # Errors
/// The ring or a socket cannot be set up.
pub fn run(parts: ShardParts) -> io::Result<()> {
    let mut uring = io_uring::IoUring::builder();
    if parts.uring.coop_taskrun {
        uring.setup_coop_taskrun();
    }
    if parts.uring.single_issuer {
        uring.setup_single_issuer();
    }
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(uring)
        .build()
        .map_err(explained)?;
    let clock = Rc::new(Clock::new());
    let shard = Rc::new(Shard {
        holds: Holds::until(clock.now_ms() + parts.config.startup_grace_ms),
        config: parts.config,
        control: parts.control,
        clock,
        watches: Rc::new(Watches::default()),
        spilled: Rc::new(Spilled::default()),
        later: Rc::new(Later::new()?),
        yields: Yields::default(),
        passed: Rc::default(),
        routes: RefCell::new(Arc::new(Routes::default())),
        scratch: RefCell::new(Scratch::default()),
        streams: parts.streams,
        acceptor: Acceptor::new(parts.connections),
        complaints: RefCell::default(),
        replies: Replies::default(),
        index: parts.index,
        reports: parts.reports,
        lanes: RefCell::new(Vec::new()),
        remains: Remains::default(),
        ticker: Ticker::new()?,
        stopping: Cell::new(false),
        stop_by_ms: Cell::new(u64::MAX),
        notices: Cell::new(0),
        main: RefCell::new(None),
    });
    // Nothing is missing any more. Nobody may be interested.
    let _ = parts.ready.send(());
    drop(parts.ready);
    let result = runtime.block_on(shard.main(parts.listeners, parts.commands));
    // Operations may still be under way, on the doorbells at the least, and dropping the runtime
    // frees their buffers without waiting for the kernel. A shard ends once in a process.
    std::mem::forget(runtime);
    result
}

/// Why a ring cannot be set up, where others could: they were smaller, or there were fewer.
fn explained(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::OutOfMemory {
        return error;
    }
    io::Error::other(format!(
        "its ring cannot be had ({error}). Kernels before 5.12 and from 6.14 on count the {} KiB of each shard into the limit on locked memory: raise it with `ulimit -l unlimited` (LimitMEMLOCK=infinity in a systemd unit), or give fewer --shards",
        RING_MEMORY >> 10
    ))
}

impl Shard {
    /// Whether the shard has been told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// The lane to a worker, if it is alive. Whoever asks is about to use it, so the pulse quickens.
    pub(super) fn lane(&self, worker: usize) -> Option<Rc<Lane>> {
        let lane = self.lanes.borrow().get(worker)?.clone()?;
        self.ticker.hasten();
        Some(lane)
    }

    async fn main(
        self: Rc<Self>,
        listeners: Vec<OwnedFd>,
        commands: Mailbox<Command>,
    ) -> io::Result<()> {
        let listeners: Vec<_> = listeners.into_iter().map(Rc::new).collect();
        for listener in &listeners {
            let ready = UnixStream::from_std(listener.try_clone()?.into())?;
            monoio::spawn(self.clone().accept_from(listener.clone(), ready));
        }
        let ticking = self.clone();
        monoio::spawn(async move {
            let result = ticking.ticker.run(|| ticking.tick()).await;
            ticking.timer_ended(result);
        });
        let waking = self.clone();
        monoio::spawn(async move { waking.yields.run().await });
        let calling = self.clone();
        monoio::spawn(async move {
            let result = calling.later.run().await;
            calling.timer_ended(result);
        });
        let bell = UnixStream::from_std(commands.bell()?.into())?;
        loop {
            for command in commands.take() {
                self.obey(command);
            }
            if self.stopping.get() {
                break;
            }
            bell.readable(true).await?;
        }
        // Closing them is not enough: the ring holds on to them until after the process has ended, and
        // for so long nobody else could have the port.
        for listener in &listeners {
            let _ = shutdown_both(listener);
        }
        poll_fn(|cx| {
            *self.main.borrow_mut() = Some(cx.waker().clone());
            let late = self.clock.now_ms() >= self.stop_by_ms.get();
            if self.is_done() || late {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        Ok(())
    }

    fn timer_ended(&self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::error!("a timer of shard {} failed: {error}", self.index);
        }
    }

    fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::AddLane(worker, parts) => self.add_lane(worker, parts),
            Command::Routes(routes) => {
                *self.routes.borrow_mut() = routes;
                self.holds.wake_all();
            }
            Command::Dead(worker) => self.with_lane(worker, Lane::die),
            Command::Drain(worker) => self.with_lane(worker, Lane::drain),
            Command::Ping(worker, number) => self.with_lane(worker, |lane| {
                if lane.ping(number) {
                    self.reports.send(Report::PingMissed(self.index, worker));
                }
            }),
            Command::CheckPing(worker) => self.with_lane(worker, |lane| {
                if lane.ping_pending() {
                    self.reports.send(Report::PingMissed(self.index, worker));
                }
            }),
            Command::Notify(notice) => self.begin_notice(*notice),
            Command::Published(ticket, published) => self.replies.publish(ticket, published),
            Command::Answered(ticket, answer) => self.replies.answer(ticket, answer),
            Command::EventsTaken(worker, attach, frame, outcome) => {
                self.with_attach(worker, attach, |lane| lane.return_event(frame, outcome));
            }
            Command::BadEvents(worker, attach) => {
                self.with_attach(worker, attach, |lane| lane.refuse_events());
            }
            Command::Stop => {
                self.stopping.set(true);
                self.stop_by_ms.set(self.clock.now_ms() + STOP_MS);
                // The streams thread has answered what it was asked, and has ended.
                self.replies.close();
                self.watches.stop_resting();
                self.holds.wake_all();
                self.ticker.hasten();
            }
        }
    }

    fn with_lane(&self, worker: usize, f: impl FnOnce(&Lane)) {
        let lane = self.lanes.borrow().get(worker).cloned().flatten();
        if let Some(lane) = lane {
            f(&lane);
        }
    }

    /// Tells a worker about a connection, in a task that a stopping shard waits for if the connection has
    /// ended: of the others no worker has to know any more.
    pub(super) fn begin_notice(self: &Rc<Self>, notice: Notice) {
        let shard = self.clone();
        let counts = usize::from(matches!(notice.news, News::Ended(_)));
        self.notices.set(self.notices.get() + counts);
        monoio::spawn(async move {
            shard.notify(notice).await;
            shard.notices.set(shard.notices.get() - counts);
            shard.wake_if_done();
        });
    }

    /// A frame of events may come back when the worker's place has been taken by another.
    fn with_attach(&self, worker: usize, attach: u64, f: impl FnOnce(&Lane)) {
        self.with_lane(worker, |lane| {
            if lane.incarnation().attach == attach {
                f(lane);
            }
        });
    }

    /// Publishes an event for a control request. Waits until it is queued for whom it is for.
    pub(super) async fn publish(&self, publication: Publication) -> Published {
        if self.stopping.get() {
            return Published::closing();
        }
        let ticket = self.replies.ticket();
        let reply_to = self.reply_to(&ticket);
        self.streams
            .send(ToStreams::Publish(Box::new(publication), reply_to));
        ticket.published().await
    }

    /// Leaves a control request to the control plane's own thread, and waits for the answer.
    pub(super) async fn control_later(&self, path: &str, body: Vec<u8>) -> ControlAnswer {
        let ticket = self.replies.ticket();
        let reply_to = self.reply_to(&ticket);
        self.control.control_later(path, body, reply_to);
        ticket.answer().await
    }

    fn reply_to(&self, ticket: &Ticket<'_>) -> ReplyTo {
        ReplyTo {
            shard: self.index,
            ticket: ticket.number(),
        }
    }

    /// Its index.
    pub fn index(&self) -> usize {
        self.index
    }

    /// There is something that must not be noticed late.
    pub(super) fn hasten(&self) {
        self.ticker.hasten();
    }

    /// There is a connection to look after.
    pub(super) fn rouse(&self) {
        self.ticker.rouse();
    }

    /// Has `waker` called at the next pulse.
    pub(super) fn wake_at_next_tick(&self, waker: &Waker) {
        self.ticker.wake_at_next(waker);
    }

    fn add_lane(self: &Rc<Self>, worker: usize, parts: LaneParts) {
        let mut lanes = self.lanes.borrow_mut();
        // Its events are not to overtake those of whom it replaces.
        let namesake = lanes.iter().flatten();
        let namesake = namesake.rev().find(|l| l.name() == &*parts.worker.name);
        let handover = namesake.map(|l| l.handover().clone()).unwrap_or_default();
        let timeout_ms = self.config.timeout_ms;
        let (lane, hub_bell, worker_bell) =
            Lane::new(parts, self.clock.clone(), timeout_ms, handover, worker);
        if lanes.len() <= worker {
            lanes.resize(worker + 1, None);
        }
        lanes[worker] = Some(lane.clone());
        let shard = self.clone();
        monoio::spawn(async move {
            let publish = || {
                shard.streams.send(ToStreams::Events(LaneEvents {
                    shard: shard.index,
                    worker: lane.incarnation().name.clone(),
                    handover: lane.handover().clone(),
                }));
            };
            let (later, yields) = (&shard.later, &shard.yields);
            let driver = lane.clone();
            let ended = driver
                .drive(hub_bell, worker_bell, later, yields, publish)
                .await;
            let violation = lane.take_violation();
            if ended == Ended::Drained {
                // Whatever is left of it is nobody's business any more.
                lane.die();
            }
            if let Some(place) = shard.lanes.borrow_mut().get_mut(worker)
                && place
                    .as_ref()
                    .is_some_and(|current| Rc::ptr_eq(current, &lane))
            {
                *place = None;
            }
            let reason = violation.map(|v| v.to_string());
            shard
                .reports
                .send(Report::LaneEnded(shard.index, worker, reason));
            let now_ms = shard.clock.now_ms();
            shard.remains.add(&lane, now_ms);
            drop(lane);
            shard.watches.cut_off(&shard.remains.overdue(now_ms));
        });
    }

    /// Whether nothing is left that a stopping shard waits for: clients with a request in flight, and
    /// workers that are told of the end of their streams.
    fn is_done(&self) -> bool {
        self.watches.is_empty() && self.notices.get() == 0
    }

    pub(super) fn wake_if_done(&self) {
        if self.stopping.get()
            && self.is_done()
            && let Some(main) = &*self.main.borrow()
        {
            main.wake_by_ref();
        }
    }

    fn tick(&self) -> Load {
        let now_ms = self.clock.now_ms();
        self.holds.tick(now_ms);
        let mut busy = !self.holds.is_empty();
        // Empty but in need, so nothing is allocated.
        let mut pressed = Vec::new();
        for lane in self.lanes.borrow().iter().flatten() {
            lane.tick(now_ms);
            busy |= lane.is_busy();
            let pressure = lane.pressure();
            if pressure.on_senders || pressure.on_readers {
                pressed.push(pressure);
            }
        }
        self.watches.tick(now_ms, &pressed);
        self.watches.cut_off(&self.remains.overdue(now_ms));
        if self.stopping.get() {
            self.watches.stop_resting();
            if let Some(main) = &*self.main.borrow() {
                main.wake_by_ref();
            }
        }
        if busy || self.stopping.get() {
            Load::Requests
        } else if self.watches.is_empty() {
            Load::None
        } else {
            Load::Connections
        }
    }
}
