//! The data plane: one thread per shard, each with its own listener and io_uring. It carries
//! requests from clients to lanes and responses back, and knows nothing of registrations but the
//! route table it is given.

pub mod acceptor;
pub mod access;
pub mod buffers;
mod clock;
mod complaints;
mod connection;
pub mod connections;
mod exchange;
mod hold;
mod input;
pub mod lane;
mod later;
pub mod mailbox;
mod output;
mod own_paths;
mod pace;
mod plan;
pub mod problem;
mod receiver;
mod relayed;
mod remains;
mod replies;
pub mod shard;
mod spilled;
pub mod stats;
pub mod stream;
mod ticker;
mod timing;
mod upload;
mod watch;
mod yields;

use std::sync::Arc;

use crate::control::StreamOptions;
use crate::gateway::stream::{Publication, Published, ReplyTo};
use crate::limits::{
    BODY_GRACE_MS, BODY_RATE, DEFAULT_MAX_BODY, HEAD_TIMEOUT_MS, IDLE_TIMEOUT_MS, WRITE_TIMEOUT_MS,
};
use crate::message::Method;
use crate::route::RouteTable;

/// What the gateway needs to know to serve.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// How long a worker may take to answer, in milliseconds.
    pub timeout_ms: u64,
    /// How long after its start the hub lets clients of streams wait for a worker that is still to come.
    /// Milliseconds; 0: not at all.
    pub startup_grace_ms: u64,
    /// The secret that opens the control paths to peers on other machines.
    pub secret: Option<String>,
    /// Whether to log where the time of each request went.
    pub instrumentation: bool,
    /// What a client may ask for, and how slow it may be.
    pub clients: ClientLimits,
}

/// What a client may ask for, and how slow it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Most bytes of request body where the route says nothing; 0 for any number.
    pub max_body: u64,
    /// Time for a whole request head, in milliseconds.
    pub head_timeout_ms: u64,
    /// Time a connection may rest between requests, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Time by which a body may be behind `body_rate`, in milliseconds.
    pub body_grace_ms: u64,
    /// Bytes of body that must arrive in a second; 0 for any number but none.
    pub body_rate: u64,
    /// Time a client that is sent something may take none of it, in milliseconds.
    pub write_timeout_ms: u64,
}

impl Default for ClientLimits {
    fn default() -> Self {
        ClientLimits {
            max_body: DEFAULT_MAX_BODY,
            head_timeout_ms: HEAD_TIMEOUT_MS,
            idle_timeout_ms: IDLE_TIMEOUT_MS,
            body_grace_ms: BODY_GRACE_MS,
            body_rate: BODY_RATE,
            write_timeout_ms: WRITE_TIMEOUT_MS,
        }
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Index of the worker's lane in every shard.
    pub worker: usize,
    /// The route's number in the worker's registration.
    pub route: u32,
    /// The worker's name, for error messages.
    pub name: Arc<str>,
    /// Most bytes of body, 0 for any number, where the route says it.
    pub max_body: Option<u64>,
    /// Given where the hub owns the connections of the route.
    pub stream: Option<Arc<StreamRoute>>,
}

/// What is special about a route whose connections the hub owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRoute {
    /// How its streams behave.
    pub options: StreamOptions,
    /// The names of its path parameters, in order.
    pub params: Box<[Box<str>]>,
}

/// The routes as every shard sees them.
pub type Routes = RouteTable<Target>;

/// An answer of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlAnswer {
    /// Status code.
    pub status: u16,
    /// Media type of the body.
    pub content_type: &'static str,
    /// The methods the path knows, for 405.
    pub allow: Option<&'static str>,
    /// The body.
    pub body: Vec<u8>,
}

/// What a control request comes to.
#[derive(Debug)]
pub enum Control {
    /// This is the answer.
    Answer(ControlAnswer),
    /// The answer depends on what becomes of an event.
    Publish(Publication),
    /// The answer takes a while: [`ControlPlane::control_later`] brings it.
    Later,
}

/// What answers the paths that belong to the hub (`/health`, `/internal/*`).
pub trait ControlPlane: Send + Sync + 'static {
    /// Looks at one request. Called on a shard's thread, so it must not wait for anything.
    fn control(&self, method: Method, path: &str, body: &mut [u8]) -> Control;

    /// Begins with a request for which [`ControlPlane::control`] has said so. The answer comes with
    /// [`Command::Answered`](shard::Command::Answered), always.
    fn control_later(&self, path: &str, body: Vec<u8>, reply_to: ReplyTo);

    /// The answer to a request that has published an event.
    fn published(&self, publication: &Publication, published: &Published) -> ControlAnswer;
}
