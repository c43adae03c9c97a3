//! Starts a hub: checks that it fits the machine, opens its sockets, and starts its threads. Whatever
//! fails says what it was and what to do about it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::control::default_socket;
use crate::gateway::GatewayConfig;
use crate::gateway::connections::Connections;
use crate::gateway::mailbox::mailbox;
use crate::gateway::shard::{self, Report, ShardParts};
use crate::gateway::stream::Streams;
use crate::gateway::stream::thread::{self, ThreadParts};
use crate::hub::HubConfig;
use crate::hub::descriptors::most_connections;
use crate::hub::drains::Drains;
use crate::hub::liveness::Liveness;
use crate::hub::probation::Probation;
use crate::hub::registry::Registry;
use crate::hub::state::HubState;
use crate::hub::supervisor::{Supervisor, SupervisorParts};
use crate::limits::{BIND_AGAIN_MS, BIND_PATIENCE_MS, DRAIN_GRACE_MS, LISTEN_BACKLOG, MAX_UNSENT};
use crate::sys::clock::monotonic_ms;
use crate::sys::fault_guard;
use crate::sys::listen::{local_addr, tcp_listener, unix_listener};
use crate::sys::probe::{UringUnavailable, check_io_uring};
use crate::sys::process::{effective_uid, memory_total, raise_nofile_limit};
use crate::sys::signal::{ignore_file_size_signal, is_ignored};
use crate::sys::socket_file::SocketFile;

/// Why a hub did not start.
#[derive(Debug)]
pub enum StartError {
    /// io_uring cannot be used.
    Uring(UringUnavailable),
    /// The lanes of one worker would not fit the machine's memory.
    Memory {
        /// Bytes that the lanes of one worker take.
        wanted: u64,
        /// Bytes the machine has.
        total: u64,
    },
    /// A socket could not be opened: which, why, and what to do.
    Listen(io::Error),
    /// The directory of the attach socket is not private: the socket's path, and why.
    Directory(PathBuf, io::Error),
    /// The limit on open files leaves too few for connections.
    Descriptors {
        /// The limit.
        limit: u64,
        /// Descriptors that are not for connections.
        others: u64,
        /// Connections that were asked for; `None`: there is not room for one.
        asked: Option<u64>,
    },
    /// A thread does not have all it needs.
    Thread(io::Error),
    /// A thread or descriptor could not be had: what for, and why.
    System(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Uring(error) => error.fmt(f),
            StartError::Memory { wanted, total } => write!(
                f,
                "the lanes of one worker would take {} MiB, and this machine has {} MiB: give smaller --slots or --slot-size (slots × slot size × 2 × shards must fit)",
                wanted >> 20,
                total >> 20
            ),
            StartError::Descriptors {
                limit,
                others,
                asked: None,
            } => write!(
                f,
                "the limit of {limit} open files leaves no room for connections, since the hub and its workers need {others}: raise it to {} at least (ulimit -n, or LimitNOFILE= of the service), or give fewer --shards",
                others + 1
            ),
            StartError::Descriptors {
                limit,
                others,
                asked: Some(wanted),
            } => write!(
                f,
                "{wanted} connections do not fit the limit of {limit} open files, of which the hub and its workers need {others}: raise it to {} (ulimit -n, or LimitNOFILE= of the service), or give --max-connections {} at most",
                others.saturating_add(*wanted),
                limit.saturating_sub(*others).max(1)
            ),
            // It names the address or the thread, and says what to do.
            StartError::Listen(error) | StartError::Thread(error) => error.fmt(f),
            StartError::Directory(path, error) => write!(
                f,
                "cannot put the attach socket at {}: {error}. Make its directory your own with mode 0700, or give --socket",
                path.display()
            ),
            StartError::System(what, error) => {
                write!(f, "cannot set up {what}: {error}{}", remedy(error))
            }
        }
    }
}

impl std::error::Error for StartError {}

/// A hub that serves.
pub struct RunningHub {
    /// Where it listens on TCP, with the real ports.
    pub tcp: Vec<SocketAddr>,
    /// Where workers attach.
    pub socket: PathBuf,
    state: Arc<HubState>,
    supervisor: JoinHandle<io::Result<()>>,
    stop: UnixStream,
    /// The sockets in the file system.
    files: Vec<SocketFile>,
}

impl RunningHub {
    /// Something that stops the hub when it is written to.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn stopper(&self) -> Result<UnixStream, StartError> {
        let stopper = self.stop.try_clone();
        stopper.map_err(|e| StartError::System("the way to stop it", e))
    }

    /// Has SIGTERM and SIGINT stop the hub, and SIGHUP where it is not ignored: a terminal that goes away
    /// ends the hub like a signal of somebody's own, and not under nohup.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn stop_on_signals(&self) -> Result<(), StartError> {
        let hangup = (!is_ignored(SIGHUP)).then_some(SIGHUP);
        for signal in [SIGTERM, SIGINT].into_iter().chain(hangup) {
            signal_hook::low_level::pipe::register(signal, self.stopper()?)
                .map_err(|e| StartError::System("a way for signals to stop it", e))?;
        }
        Ok(())
    }

    /// Waits until the process with this id serves as a worker. Returns whether it does before the
    /// time is up.
    pub fn wait_for_worker(&self, pid: u32, timeout: Duration) -> bool {
        self.state.wait_until(timeout, |registry| {
            registry.iter().any(|(_, r)| r.pid == Some(pid))
        })
    }

    /// Waits until the hub has stopped, and removes its sockets.
    ///
    /// # Errors
    /// What made it stop, unless it was told to.
    pub fn wait(self) -> io::Result<()> {
        let result = self.supervisor.join();
        drop(self.files);
        result.unwrap_or_else(|_| Err(panicked()))
    }
}

fn panicked() -> io::Error {
    io::Error::other("the supervisor panicked")
}

/// Starts a hub. When this returns, it serves.
///
/// # Errors
/// Why it does not.
pub fn start(config: HubConfig) -> Result<RunningHub, StartError> {
    let uring = check_io_uring().map_err(StartError::Uring)?;
    ignore_file_size_signal();
    fault_guard::install().map_err(|e| StartError::System("the handler of SIGBUS", e))?;
    let wanted = config.geometry.memory_len() as u64 * 2 * config.shards as u64;
    let total = memory_total();
    if wanted > total {
        return Err(StartError::Memory { wanted, total });
    }
    if let Err(error) = raise_nofile_limit() {
        tracing::warn!("cannot raise the limit on open files: {error}");
    }

    let mut tcp = Vec::new();
    let mut listeners: Vec<Vec<OwnedFd>> = (0..config.shards).map(|_| Vec::new()).collect();
    let mut files = Vec::new();
    for address in &config.tcp {
        // The first shard's listener settles the port that the others join.
        let mut address = *address;
        if address.port() != 0 {
            // Shared as the port is to be, another hub's would be joined without a word. A listener
            // that shares with nobody finds out.
            drop(listen_tcp(address, false)?);
        }
        for shard in &mut listeners {
            let listener = listen_tcp(address, true)?;
            address = local_addr(&listener).map_err(StartError::Listen)?;
            shard.push(listener);
        }
        tcp.push(address);
    }
    for path in &config.unix {
        let listener = listen_unix(path, 0o666)?;
        for shard in &mut listeners {
            let own = listener
                .try_clone()
                .map_err(|e| StartError::System("a listener", e))?;
            shard.push(own);
        }
        files.push(made_at(path)?);
    }
    let port = tcp.first().map_or(0, SocketAddr::port);
    let socket = match config.socket {
        Some(path) => path,
        None => {
            let path = default_socket(port);
            make_private_directory(&path).map_err(|e| StartError::Directory(path.clone(), e))?;
            path
        }
    };
    let attach = listen_unix(&socket, 0o600)?;
    files.push(made_at(&socket)?);

    let gateway = Arc::new(GatewayConfig {
        timeout_ms: config.timeout_ms,
        startup_grace_ms: config.startup_grace_ms,
        secret: config.secret,
        instrumentation: config.instrumentation,
        clients: config.clients,
    });
    let descriptors = |e| StartError::System("file descriptors", e);
    let (report, reports) = mailbox().map_err(descriptors)?;
    let (register, registrations) = mailbox().map_err(descriptors)?;
    let mut senders = Vec::new();
    let mut mailboxes = Vec::new();
    for _ in 0..config.shards {
        let (sender, commands) = mailbox().map_err(descriptors)?;
        senders.push(sender);
        mailboxes.push(commands);
    }
    let (to_streams, messages) = mailbox().map_err(descriptors)?;
    let streams = Streams::new(to_streams, uuid::Uuid::new_v4().as_fields().0);
    let listeners_each = listeners.first().map_or(0, Vec::len);
    let most = most_connections(config.shards, listeners_each, config.max_connections)?;
    let connections = Connections::new(most);
    let registry = Registry::new(config.remember_ms);
    let (ready, threads) = mpsc::channel();
    let parts = ThreadParts {
        streams: streams.clone(),
        messages,
        shards: senders.clone(),
        config: config.streams,
        uring,
        ready: ready.clone(),
    };
    let to_supervisor = report.clone();
    spawn("streams", move || {
        let failure = outcome_of(|| thread::run(parts));
        to_supervisor.send(Report::StreamsStopped(failure));
    })?;
    let state = HubState::new(
        registry,
        senders,
        register,
        streams.clone(),
        connections.clone(),
        socket.clone(),
    );
    let state = Arc::new(state);
    for (index, (listeners, commands)) in listeners.into_iter().zip(mailboxes).enumerate() {
        let parts = ShardParts {
            index,
            listeners,
            uring,
            config: gateway.clone(),
            control: state.clone(),
            commands,
            reports: report.clone(),
            streams: streams.clone(),
            connections: connections.clone(),
            ready: ready.clone(),
        };
        let report = report.clone();
        spawn(&format!("shard-{index}"), move || {
            let failure = outcome_of(|| shard::run(parts));
            report.send(Report::Stopped(index, failure));
        })?;
    }
    let (stop, stopped) = UnixStream::pair().map_err(descriptors)?;
    let liveness = Liveness::new(
        config.ping_interval_ms,
        config.ping_timeout_ms,
        monotonic_ms(),
    );
    let supervisor = Supervisor::new(SupervisorParts {
        state: state.clone(),
        listener: attach,
        reports,
        registrations,
        stop: stopped.into(),
        geometry: config.geometry,
        liveness,
        probation: Probation::new(config.evicted_pause_ms),
        drains: Drains::new(config.timeout_ms.saturating_add(DRAIN_GRACE_MS)),
    });
    let supervisor = spawn("supervisor", move || supervisor.run())?;
    // Each thread says so or ends, and then the supervisor has why.
    drop(ready);
    if threads.iter().count() <= config.shards {
        let failed = supervisor.join().unwrap_or_else(|_| Err(panicked()));
        return Err(StartError::Thread(failed.err().unwrap_or_else(panicked)));
    }
    tracing::info!(
        shards = config.shards,
        slots = config.geometry.slots(),
        slot_size = config.geometry.slot_size(),
        worker_kib = wanted >> 10,
        coop_taskrun = uring.coop_taskrun,
        single_issuer = uring.single_issuer,
        max_connections = most,
        "each worker takes {} KiB of shared memory",
        wanted >> 10
    );
    Ok(RunningHub {
        tcp,
        socket,
        state,
        supervisor,
        stop,
        files,
    })
}

/// Makes the directory of a default socket, or checks that nobody else could have made it: in the
/// temp directory anybody could put one in our place, and workers would attach to their socket.
fn make_private_directory(socket: &Path) -> io::Result<()> {
    let directory = socket.parent().ok_or(io::ErrorKind::InvalidInput)?;
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = std::fs::symlink_metadata(directory)?;
    let private = found.is_dir() && found.uid() == effective_uid() && found.mode() & 0o077 == 0;
    let refused = || io::Error::other(format!("{} is open to other users", directory.display()));
    private.then_some(()).ok_or_else(refused)
}

/// What to do about a resource that has run out, to be put behind what happened.
pub(super) fn remedy(error: &io::Error) -> &'static str {
    match rustix::io::Errno::from_io_error(error) {
        Some(rustix::io::Errno::MFILE) => {
            ". Raise the limit on open files: `ulimit -n 65536`, or LimitNOFILE=65536 in a systemd unit"
        }
        Some(rustix::io::Errno::NFILE) => {
            ". The whole system has run out of open files: raise fs.file-max"
        }
        Some(rustix::io::Errno::NOMEM) => {
            ". Free memory, or raise the memory limit of the cgroup and `ulimit -l`"
        }
        Some(rustix::io::Errno::AGAIN) => {
            ". No further thread is allowed: raise `ulimit -u`, or TasksMax= in a systemd unit"
        }
        _ => "",
    }
}

/// Runs a thread's work; why it failed, if it did. A thread that panics must not leave a hub behind
/// that listens and never answers.
fn outcome_of(work: impl FnOnce() -> io::Result<()>) -> Option<String> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(ended) => ended.err().map(|e| format!("{e}{}", remedy(&e))),
        Err(_) => Some("it panicked: this is a fault of the hub, report it".into()),
    }
}

fn spawn<T: Send + 'static>(
    name: &str,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(f);
    thread.map_err(|e| StartError::System("a thread", e))
}

fn listen_tcp(address: SocketAddr, shared: bool) -> Result<OwnedFd, StartError> {
    let deadline_ms = monotonic_ms() + BIND_PATIENCE_MS;
    loop {
        match tcp_listener(address, shared, LISTEN_BACKLOG, MAX_UNSENT) {
            // The listeners of a hub that was killed live on in its ring, which the kernel takes down
            // a moment after the process.
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse && monotonic_ms() < deadline_ms =>
            {
                std::thread::sleep(Duration::from_millis(BIND_AGAIN_MS));
            }
            bound => return bound.map_err(StartError::Listen),
        }
    }
}

fn made_at(path: &Path) -> Result<SocketFile, StartError> {
    SocketFile::made_at(path).map_err(|e| StartError::System("the file of a listener", e))
}

fn listen_unix(path: &Path, mode: u32) -> Result<OwnedFd, StartError> {
    unix_listener(path, mode, LISTEN_BACKLOG).map_err(StartError::Listen)
}
