//! The control plane: which workers there are, where they attach, what becomes of them, and what the
//! hub tells of itself. One thread beside the shards; nothing of it is on the way of a request.

mod api;
mod attach;
mod descriptors;
mod drains;
mod events;
mod journal;
mod lanes;
mod liveness;
mod peers;
mod probation;
mod readiness;
mod refusal;
mod registry;
mod start;
mod state;
mod supervisor;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use self::start::{RunningHub, StartError, start};

pub use crate::gateway::ClientLimits;
pub use crate::gateway::stream::StreamConfig;
use crate::shm::layout::Geometry;

/// What a hub is started with. Every value has been checked on its own; whether they fit the machine
/// is found out by [`start`].
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// TCP addresses to listen on.
    pub tcp: Vec<SocketAddr>,
    /// Unix sockets to listen on for HTTP.
    pub unix: Vec<PathBuf>,
    /// The Unix socket workers attach through; `None` for the default that follows from the port.
    pub socket: Option<PathBuf>,
    /// Number and size of the slots in each lane.
    pub geometry: Geometry,
    /// Number of shards.
    pub shards: usize,
    /// How long a worker may take to answer, in milliseconds.
    pub timeout_ms: u64,
    /// How long after its start the hub lets clients of streams wait for a worker, in milliseconds.
    pub startup_grace_ms: u64,
    /// The secret that opens the control paths to peers on other machines.
    pub secret: Option<String>,
    /// Whether to log where the time of each request went.
    pub instrumentation: bool,
    /// What a client may ask for, and how slow it may be.
    pub clients: ClientLimits,
    /// Most connections at one time; `None` for what the limit on open files leaves.
    pub max_connections: Option<usize>,
    /// Time between two pings of a worker, in milliseconds.
    pub ping_interval_ms: u64,
    /// Time a worker has to answer a ping, in milliseconds.
    pub ping_timeout_ms: u64,
    /// How long a worker that was evicted for breaking the protocol waits at first before it may attach
    /// again, in milliseconds; 0 for not at all.
    pub evicted_pause_ms: u64,
    /// How event streams are served.
    pub streams: StreamConfig,
    /// How long the routes of a worker that is gone are remembered, in milliseconds.
    pub remember_ms: u64,
}
