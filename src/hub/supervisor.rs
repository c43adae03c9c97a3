//! The thread that watches over the workers: accepts them, hands them their lanes, learns of their
//! end from their socket and their pidfd, pings them, and evicts the ones that misbehave.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use crate::control::{FieldError, Registration, ToHub, ToWorker, WakeMode, WorkerState};
use crate::gateway::mailbox::Mailbox;
use crate::gateway::shard::{Command, Report};
use crate::gateway::stream::{Incarnation, ToStreams};
use crate::hub::attach::{Peer, Received};
use crate::hub::drains::Drains;
use crate::hub::journal::{Journal, Line};
use crate::hub::lanes;
use crate::hub::liveness::{Due, Liveness};
use crate::hub::peers::{Peers, not_understood};
use crate::hub::probation::Probation;
use crate::hub::readiness::{Ready, Sources};
use crate::hub::refusal::Refusal;
use crate::hub::registry::{Process, Registry};
use crate::hub::state::{Announcement, HubState, RegisterRequest};
use crate::limits::RETIRED_MS;
use crate::quote::quote;
use crate::shm::layout::{ABI_VERSION, Geometry};
use crate::sys::clock::{latest_monotonic_ms, monotonic_ms};

/// What the supervisor is started with.
pub struct SupervisorParts {
    /// The control plane's state.
    pub state: Arc<HubState>,
    /// The attach socket.
    pub listener: OwnedFd,
    /// What the shards report.
    pub reports: Mailbox<Report>,
    /// Registrations over HTTP.
    pub registrations: Mailbox<RegisterRequest>,
    /// Readable when the hub is to stop.
    pub stop: OwnedFd,
    /// Number and size of the slots in each lane.
    pub geometry: Geometry,
    /// Ping rounds.
    pub liveness: Liveness,
    /// Who has to wait before it may attach again.
    pub probation: Probation,
    /// Who drains while another has its name.
    pub drains: Drains,
}

/// The supervisor of one hub.
pub struct Supervisor {
    parts: SupervisorParts,
    /// Connections on the attach socket.
    peers: Peers,
    journal: Journal,
    /// Registrations over HTTP that wait for their turn.
    registrations: VecDeque<RegisterRequest>,
    /// When to look again for route tables that nobody uses any more.
    clear_ms: Option<u64>,
    running: usize,
    stopping: bool,
    failure: Option<String>,
}

impl Supervisor {
    /// A supervisor of workers that are still to come.
    pub fn new(parts: SupervisorParts) -> Supervisor {
        let running = parts.state.shards();
        Supervisor {
            parts,
            peers: Peers::default(),
            journal: Journal::default(),
            registrations: VecDeque::new(),
            clear_ms: None,
            running,
            stopping: false,
            failure: None,
        }
    }

    /// Runs until the hub is told to stop and every shard has ended.
    ///
    /// # Errors
    /// A shard has failed, or the system's poll has.
    pub fn run(mut self) -> io::Result<()> {
        while self.running > 0 {
            let ready = self.wait()?;
            if ready.stop && !self.stopping {
                self.stop();
            }
            if ready.registrations {
                self.registrations.extend(self.parts.registrations.take());
            }
            if ready.reports {
                for report in self.parts.reports.take() {
                    self.take_report(report);
                }
            }
            for key in ready.peers {
                self.look_at(key);
            }
            if ready.listener {
                self.peers.accept_all(self.parts.listener.as_fd());
            }
            // One at a time: each takes a while, and workers are not to wait behind all of them.
            if let Some(request) = self.registrations.pop_front() {
                self.parts.state.register(request, &mut self.journal);
            }
            self.keep_time();
        }
        match self.failure {
            Some(why) => Err(io::Error::other(why)),
            None => Ok(()),
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let accepting = !self.stopping && self.peers.has_room();
        let sources = Sources {
            stop: (!self.stopping).then_some(self.parts.stop.as_fd()),
            reports: self.parts.reports.as_fd(),
            registrations: self.parts.registrations.as_fd(),
            listener: accepting.then_some(self.parts.listener.as_fd()),
        };
        let peers = self.peers.iter().map(|(key, connected)| {
            let peer = &connected.peer;
            (key, [peer.as_fd(), peer.pidfd.as_fd()])
        });
        sources.wait(peers, monotonic_ms(), self.next_deadline_ms())
    }

    fn next_deadline_ms(&self) -> u64 {
        if !self.registrations.is_empty() {
            return 0;
        }
        let greeting = self.peers.next_deadline_ms();
        let expiry = self.parts.state.read(|r| r.next_expiry_ms());
        let ping = self.peers.workers().next();
        let ping = ping.map(|_| self.parts.liveness.next_ms());
        let journal = self.journal.next_deadline_ms();
        let drain = self.parts.drains.next_deadline_ms();
        let all = [greeting, expiry, ping, self.clear_ms, journal, drain];
        all.into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    fn keep_time(&mut self) {
        let now_ms = monotonic_ms();
        self.peers.keep_time(now_ms);
        self.journal.keep_time(now_ms);
        while let Some(worker) = self.parts.drains.overdue(now_ms) {
            self.cut_off(worker, "it was replaced, and has not finished in time");
        }
        self.clear_ms = match self.parts.state.clear_retired() {
            true => Some(now_ms + RETIRED_MS),
            false => None,
        };
        if self
            .parts
            .state
            .read(|r| r.next_expiry_ms())
            .is_some_and(|at| at <= now_ms)
        {
            let _ = self
                .parts
                .state
                .change(|registry, _| Ok(registry.expire(now_ms)));
        }
        match self.parts.liveness.due(now_ms) {
            Some(Due::Ping(number)) => self.for_each_worker(|w| Command::Ping(w, number)),
            Some(Due::Check) => self.for_each_worker(Command::CheckPing),
            None => {}
        }
    }

    fn for_each_worker(&self, command: impl Fn(usize) -> Command) {
        for worker in self.peers.workers() {
            self.parts.state.tell_all(|| command(worker));
        }
    }

    fn look_at(&mut self, key: u64) {
        loop {
            let Some(connected) = self.peers.get_mut(key) else {
                return;
            };
            match connected.peer.receive() {
                Received::Message(message) => self.obey(key, message),
                Received::Nothing => break,
                Received::Nonsense(error) if connected.worker.is_none() => {
                    return self.peers.turn_away(key, Refusal::Wrong(error));
                }
                Received::Nonsense(error) => {
                    let why = format!("it sent a message that is not understood: {error}");
                    return self.lose(key, &why);
                }
                Received::Closed(why) => return self.lose(key, &why),
            }
        }
        self.peers.keep_size();
        let exited = self
            .peers
            .get_mut(key)
            .map(|c| crate::sys::process::process_exited(&c.peer.pidfd));
        if matches!(exited, Some(Ok(true))) {
            self.lose(key, "its process has ended");
        }
    }

    fn obey(&mut self, key: u64, message: ToHub) {
        let Some(connected) = self.peers.get_mut(key) else {
            return;
        };
        match (message, connected.worker) {
            (
                ToHub::Attach {
                    abi_version,
                    wake,
                    registration,
                    worker_id,
                },
                None,
            ) => {
                let attached = self.attach(key, abi_version, wake, &registration, worker_id);
                match attached {
                    Ok(()) => {}
                    // Who finds no room tries again, and again.
                    Err(Refusal::Full(error)) => self.peers.turn_away(key, Refusal::Full(error)),
                    Err(Refusal::Wrong(error)) => {
                        if self.journal.takes(Line::Refused) {
                            let name = quote(&registration.name);
                            tracing::warn!(name, "refused a worker: {error}");
                        }
                        self.peers.refuse(key, Refusal::Wrong(error));
                    }
                }
            }
            // Each message of a worker is taken once, so that none can keep this thread busy.
            (ToHub::Drain, Some(_)) if connected.draining => {
                self.lose(key, "it asked to drain twice")
            }
            (ToHub::Drain, Some(worker)) => {
                connected.draining = true;
                if self.journal.takes(Line::Draining) {
                    let name = self.name_of(worker);
                    tracing::info!(worker = &*name, "draining: the worker asked for it");
                }
                self.drain(worker, "the worker asked for it");
            }
            (ToHub::Attach { .. }, Some(_)) => self.lose(key, "it attached twice"),
            (ToHub::Drain, None) => {
                let error = not_understood("it has not attached: send an attach first".into());
                self.peers.turn_away(key, Refusal::Wrong(error));
            }
        }
    }

    fn attach(
        &mut self,
        key: u64,
        abi_version: u32,
        wake: WakeMode,
        registration: &Registration,
        worker_id: Option<String>,
    ) -> Result<(), Refusal> {
        if abi_version != ABI_VERSION {
            let detail = format!(
                "this hub speaks version {ABI_VERSION} of the slot ABI: build the worker from the same release"
            );
            return Err(Refusal::Wrong(FieldError {
                field: "abi_version".into(),
                detail,
            }));
        }
        // Before anything else is looked at: it may come often.
        self.parts
            .probation
            .check(&registration.name, monotonic_ms())?;
        let valid = registration.validate()?;
        let name: Arc<str> = valid.name.as_str().into();
        let geometry = self.parts.geometry;
        // Before anything is made for it.
        self.parts
            .state
            .read(|r| r.check_attach(&valid, worker_id.as_deref()))?;
        let shards = self.parts.state.shards();
        let worker = Incarnation {
            name: name.clone(),
            attach: key,
        };
        let (parts, fds) = lanes::make(shards, &worker, geometry, wake)?;
        let stats = parts.iter().map(|p| p.stats.clone()).collect();
        let Some(connected) = self.peers.get_mut(key) else {
            return Ok(());
        };
        let pid = connected.peer.pid;
        let process = Process { pid, attach: key };
        let attached = self.parts.state.change(|registry, announcement| {
            let attached = registry.attach(valid, worker_id.as_deref(), process, stats)?;
            for (shard, parts) in parts.into_iter().enumerate() {
                announcement.before(shard, Command::AddLane(attached.index, parts));
            }
            if let Some(old) = attached.replaced {
                announce_drain(announcement, shards, old);
            }
            Ok(attached)
        })?;
        connected.worker = Some(attached.index);
        connected.peer.expect_little();
        if self.journal.takes(Line::Attached) {
            let routes = registration.routes.len();
            tracing::info!(worker = &*name, pid, routes, "attached");
        }
        let told = tell_attached(&connected.peer, &attached.id, &fds);
        if let Some(old) = attached.replaced {
            self.tell(
                old,
                &ToWorker::Draining {
                    reason: "another worker has taken the name".into(),
                },
            );
        }
        if let Err(error) = told {
            self.lose(key, &format!("it does not take its lanes: {error}"));
        }
        let (drains, now_ms) = (&mut self.parts.drains, latest_monotonic_ms());
        let excess = self.parts.state.read(|r| drains.succeed(&name, r, now_ms));
        for worker in excess {
            self.cut_off(worker, "it was replaced, and so were others after it");
        }
        Ok(())
    }

    fn drain(&mut self, worker: usize, reason: &str) {
        let shards = self.parts.state.shards();
        let _ = self.parts.state.change(|registry, announcement| {
            registry.drain(worker);
            announce_drain(announcement, shards, worker);
            Ok(())
        });
        self.tell(
            worker,
            &ToWorker::Draining {
                reason: reason.into(),
            },
        );
    }

    /// A worker that drains has had its time.
    fn cut_off(&mut self, worker: usize, why: &str) {
        self.parts.drains.forget(worker);
        self.peers.remove_worker(worker);
        self.gone(worker, why);
    }

    /// A connection on the attach socket has ended, and with it the worker.
    fn lose(&mut self, key: u64, why: &str) {
        let Some(connected) = self.peers.remove(key) else {
            return;
        };
        if let Some(worker) = connected.worker {
            self.gone(worker, why);
        }
    }

    fn gone(&mut self, worker: usize, why: &str) {
        let shards = self.parts.state.shards();
        let lost = self.parts.state.change(|registry, announcement| {
            announcement.after_all(shards, || Command::Dead(worker));
            Ok(registry.gone(worker, monotonic_ms()))
        });
        self.parts.liveness.forget(worker);
        self.parts.drains.forget(worker);
        if let Ok(Some(name)) = lost
            && self.journal.takes(Line::Gone)
        {
            tracing::info!(worker = &*name, "gone: {why}");
        }
    }

    /// Throws a worker out. Returns whether it was not already: each of its lanes may find something.
    fn evict(&mut self, worker: usize, why: &str) -> bool {
        let is_news = self.parts.state.note(|r| r.evict(worker, why));
        if is_news {
            if self.journal.takes(Line::Evicted) {
                tracing::warn!(worker = &*self.name_of(worker), "evicted: {why}");
            }
            self.tell(worker, &ToWorker::Evicted { reason: why.into() });
            self.peers.remove_worker(worker);
            self.gone(worker, "evicted");
        }
        is_news
    }

    fn take_report(&mut self, report: Report) {
        match report {
            Report::LaneEnded(_, worker, violation) => {
                let ended = self.parts.state.change(|registry, announcement| {
                    let left = registry.lane_ended(worker);
                    if left == Some((1, WorkerState::Draining)) {
                        announcement.after(EVENTS_SHARD, Command::Drain(worker));
                    }
                    Ok(left)
                });
                if let Some(why) = violation {
                    // Whoever has the name by now is not to pay for it.
                    let is_replaced = self.parts.drains.knows(worker);
                    if self.evict(worker, &why) && !is_replaced {
                        let name = self.name_of(worker);
                        self.parts.probation.evicted(&name, latest_monotonic_ms());
                    }
                } else if matches!(ended, Ok(Some((0, _)))) {
                    // Drained, or dead already: either way nothing connects the two any more.
                    self.peers.remove_worker(worker);
                    self.gone(worker, "it has drained");
                }
            }
            Report::PingMissed(_, worker) => {
                if self.parts.liveness.missed(worker) && self.is_connected(worker) {
                    self.evict(worker, "it has not answered three pings in a row");
                }
            }
            Report::StreamsStopped(failure) => {
                if let Some(why) = failure {
                    tracing::error!("the streams thread failed: {why}");
                    self.failure
                        .get_or_insert(format!("the streams thread failed: {why}"));
                    self.stopping = true;
                }
                // Not before: what it has to tell workers goes through the shards.
                self.parts.state.tell_all(|| Command::Stop);
            }
            Report::Stopped(shard, failure) => {
                self.running -= 1;
                if let Some(why) = failure {
                    tracing::error!("shard {shard} failed: {why}");
                    self.failure
                        .get_or_insert(format!("shard {shard} failed: {why}"));
                    self.stop();
                }
            }
        }
    }

    fn stop(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            tracing::info!("stopping: finishing what is in flight");
            self.parts.state.streams.send(ToStreams::Stop);
        }
    }

    fn tell(&self, worker: usize, message: &ToWorker) {
        if let Some(connected) = self.peers.of_worker(worker) {
            // A worker that does not listen finds out when its lane closes.
            let _ = connected.peer.send(message, &[]);
        }
    }

    fn is_connected(&self, worker: usize) -> bool {
        self.peers.of_worker(worker).is_some()
    }

    fn name_of(&self, worker: usize) -> Arc<str> {
        let name = |r: &Registry| r.get(worker).map(|r| r.name.clone());
        self.parts.state.read(name).unwrap_or_default()
    }
}

/// The shard whose lane carries the events of all workers (`docs/SHM_ABI.md`).
const EVENTS_SHARD: usize = 0;

/// Has a worker's lanes drain. The one that carries its events is to be the last: a request on any
/// other may still publish some.
fn announce_drain(announcement: &mut Announcement, shards: usize, worker: usize) {
    let others = (0..shards).filter(|shard| *shard != EVENTS_SHARD || shards == 1);
    others.for_each(|shard| announcement.after(shard, Command::Drain(worker)));
}

fn tell_attached(peer: &Peer, worker_id: &str, fds: &[[OwnedFd; 4]]) -> io::Result<()> {
    let attached = ToWorker::Attached {
        worker_id: worker_id.to_owned(),
        lanes: fds.len() as u32,
    };
    peer.send(&attached, &[])?;
    for (index, fds) in fds.iter().enumerate() {
        let fds = fds.each_ref().map(|fd| fd.as_fd());
        peer.send(
            &ToWorker::Lane {
                index: index as u32,
            },
            &fds,
        )?;
    }
    Ok(())
}
