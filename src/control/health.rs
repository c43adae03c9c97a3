//! What the hub reports of itself: `/health` and `/internal/slots`. Types only.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::RouteSpec;

/// The answer of `GET /health`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always true: a hub that answers is well.
    pub ok: bool,
    /// The hub's version.
    #[serde(default)]
    pub version: String,
    /// The workers it knows.
    pub workers: Vec<WorkerHealth>,
    /// Workers thrown out since its start, for breaking the rules of the shared memory or for not
    /// answering pings.
    #[serde(default)]
    pub evictions: u64,
    /// The event streams it owns.
    #[serde(default)]
    pub streams: StreamsHealth,
    /// The connections of clients, event streams among them.
    #[serde(default)]
    pub connections: ConnectionsHealth,
}

/// The connections of clients in [`Health`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsHealth {
    /// Connections there are now, the one that asks among them.
    pub open: usize,
    /// Connections there may be.
    pub limit: usize,
    /// Connections that were refused since the hub's start, because there were as many.
    pub refused: u64,
}

/// The event streams in [`Health`]. Counts are since the hub's start, but for `subscribers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamsHealth {
    /// Whether streams are written from buffers that are registered with the kernel.
    pub registered_buffers: bool,
    /// Why they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unregistered_because: Option<String>,
    /// Connections there are now.
    pub subscribers: u64,
    /// Events published.
    pub events: u64,
    /// Times an event was queued for a subscriber.
    pub deliveries: u64,
    /// Times an event was lost to a subscriber because that was slow.
    pub dropped: u64,
    /// Subscribers that were disconnected because they were slow.
    pub disconnected_slow: u64,
}

/// One worker in [`Health`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerHealth {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub worker_id: String,
    /// How many routes it registered.
    pub route_count: usize,
    /// `shm:` and its identity.
    pub transport: String,
    /// Where it is in its life.
    #[serde(default)]
    pub state: WorkerState,
    /// Its process, once attached.
    #[serde(default)]
    pub pid: Option<u32>,
    /// Why it was thrown out, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evicted: Option<String>,
    /// Requests handed to it and wakes that took, in each direction.
    #[serde(default)]
    pub traffic: Traffic,
    /// Its routes.
    #[serde(default)]
    pub routes: Vec<RouteSpec>,
}

/// How much went through the lanes of one worker, all shards together, since it attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Requests handed to the worker.
    pub requests: u64,
    /// Times the hub woke the worker.
    pub wakes_to_worker: u64,
    /// Times the worker woke the hub.
    pub wakes_to_hub: u64,
    /// Answers that broke the rules and became 502.
    pub violations: u64,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Registered over HTTP; nobody has attached yet.
    #[default]
    Registered,
    /// Attached and answering.
    Attached,
    /// Finishing what it has; it gets nothing new.
    Draining,
    /// Gone; its routes answer 503 until they are forgotten.
    Gone,
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkerState::Registered => "registered",
            WorkerState::Attached => "attached",
            WorkerState::Draining => "draining",
            WorkerState::Gone => "gone",
        })
    }
}

/// The answer of `GET /internal/slots`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsReport {
    /// One entry for each attached worker.
    pub workers: Vec<WorkerSlots>,
}

/// The request slots of one worker, all its lanes together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSlots {
    /// The worker's name.
    pub name: String,
    /// Number of slots.
    pub total_slots: usize,
    /// How many are free.
    pub free: usize,
    /// How many are not.
    pub in_use: usize,
    /// Each slot; lane after lane.
    pub slots: Vec<SlotReport>,
}

/// One slot in [`WorkerSlots`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotReport {
    /// Its index, counted over all lanes of the worker.
    pub index: usize,
    /// What it is used for.
    pub state: SlotState,
}

/// What a request slot is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum SlotState {
    /// Nothing.
    #[default]
    Free = 0,
    /// The hub fills it: a head was copied or a body is being received.
    Writing = 1,
    /// The worker has it.
    Ready = 2,
}

impl SlotState {
    /// The state with this number; an unknown one counts as free.
    pub const fn from_u8(value: u8) -> SlotState {
        match value {
            1 => SlotState::Writing,
            2 => SlotState::Ready,
            _ => SlotState::Free,
        }
    }
}
