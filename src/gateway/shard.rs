//! A shard: one thread with its own ring, its own listeners, and its own lane to every worker. What
//! its tasks share lives here; other threads reach it through its mailbox alone.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use monoio::net::UnixStream;
use monoio::{IoUringDriver, RuntimeBuilder};

use crate::gateway::clock::Clock;
use crate::gateway::connection::serve;
use crate::gateway::lane::{Ended, Lane, LaneParts};
use crate::gateway::mailbox::{Mailbox, Sender};
use crate::gateway::plan::Scratch;
use crate::gateway::ticker::{Load, Ticker};
pub use crate::gateway::timing::Timing;
use crate::gateway::watch::Watches;
use crate::gateway::{ControlPlane, GatewayConfig, Routes};
use crate::limits::{RING_ENTRIES, STOP_MS};
use crate::sys::listen::{accept, set_nodelay};
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
}

/// What the tasks of a shard share.
pub struct Shard {
    pub(super) config: Arc<GatewayConfig>,
    pub(super) control: Arc<dyn ControlPlane>,
    pub(super) clock: Rc<Clock>,
    pub(super) watches: Rc<Watches>,
    pub(super) routes: RefCell<Arc<Routes>>,
    pub(super) scratch: RefCell<Scratch>,
    index: usize,
    reports: Sender<Report>,
    lanes: RefCell<Vec<Option<Rc<Lane>>>>,
    ticker: Ticker,
    stopping: Cell<bool>,
    stop_by_ms: Cell<u64>,
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
        .build()?;
    let shard = Rc::new(Shard {
        config: parts.config,
        control: parts.control,
        clock: Rc::new(Clock::new()),
        watches: Rc::new(Watches::default()),
        routes: RefCell::new(Arc::new(Routes::default())),
        scratch: RefCell::new(Scratch::default()),
        index: parts.index,
        reports: parts.reports,
        lanes: RefCell::new(Vec::new()),
        ticker: Ticker::new()?,
        stopping: Cell::new(false),
        stop_by_ms: Cell::new(u64::MAX),
        main: RefCell::new(None),
    });
    runtime.block_on(shard.main(parts.listeners, parts.commands))
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
        for listener in listeners {
            monoio::spawn(self.clone().accept_from(listener));
        }
        let ticking = self.clone();
        monoio::spawn(async move {
            let result = ticking.ticker.run(|| ticking.tick()).await;
            if let Err(error) = result {
                tracing::error!("the timer of shard {} failed: {error}", ticking.index);
            }
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
        poll_fn(|cx| {
            *self.main.borrow_mut() = Some(cx.waker().clone());
            let late = self.clock.now_ms() >= self.stop_by_ms.get();
            if self.watches.is_empty() || late {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        Ok(())
    }

    fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::AddLane(worker, parts) => self.add_lane(worker, parts),
            Command::Routes(routes) => *self.routes.borrow_mut() = routes,
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
            Command::Stop => {
                self.stopping.set(true);
                self.stop_by_ms.set(self.clock.now_ms() + STOP_MS);
                self.watches.stop_resting();
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

    fn add_lane(self: &Rc<Self>, worker: usize, parts: LaneParts) {
        let (lane, hub_bell, worker_bell) =
            Lane::new(parts, self.clock.clone(), self.config.timeout_ms);
        let mut lanes = self.lanes.borrow_mut();
        if lanes.len() <= worker {
            lanes.resize(worker + 1, None);
        }
        lanes[worker] = Some(lane.clone());
        let shard = self.clone();
        monoio::spawn(async move {
            let ended = lane.clone().drive(hub_bell, worker_bell).await;
            let violation = lane.take_violation();
            if ended == Ended::Drained {
                // Whatever is left of it is nobody's business any more.
                lane.die();
            }
            let mut lanes = shard.lanes.borrow_mut();
            if let Some(place) = lanes.get_mut(worker)
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
        });
    }

    async fn accept_from(self: Rc<Self>, listener: OwnedFd) {
        let Ok(ready) = listener
            .try_clone()
            .and_then(|fd| UnixStream::from_std(fd.into()))
        else {
            return;
        };
        while !self.stopping.get() {
            match accept(listener.as_fd()) {
                Ok(Some((socket, peer))) => {
                    if peer.is_some() {
                        let _ = set_nodelay(&socket);
                    }
                    let shard = self.clone();
                    monoio::spawn(async move {
                        // Not before the task runs: a tick that came first would find no connection
                        // and turn the pulse off again.
                        shard.ticker.rouse();
                        serve(shard.clone(), socket, peer).await;
                        shard.connection_ended();
                    });
                }
                Ok(None) => {
                    if ready.readable(true).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // Out of descriptors, most likely: clients wait in the backlog until one is free.
                    tracing::warn!("cannot accept a connection: {error}");
                    self.pause().await;
                }
            }
        }
    }

    fn connection_ended(&self) {
        if self.stopping.get()
            && self.watches.is_empty()
            && let Some(main) = &*self.main.borrow()
        {
            main.wake_by_ref();
        }
    }

    /// Waits for the next pulse.
    async fn pause(&self) {
        let mut waited = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            self.ticker.wake_at_next(cx.waker());
            Poll::Pending
        })
        .await;
    }

    fn tick(&self) -> Load {
        let now_ms = self.clock.now_ms();
        self.watches.tick(now_ms);
        let mut busy = false;
        for lane in self.lanes.borrow().iter().flatten() {
            lane.tick(now_ms);
            busy |= lane.is_busy();
        }
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
