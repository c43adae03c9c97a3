//! The data plane: one thread per shard, each with its own listener and io_uring. It carries
//! requests from clients to lanes and responses back, and knows nothing of registrations but the
//! route table it is given.

pub mod access;
pub mod buffers;
mod clock;
mod connection;
mod exchange;
mod hold;
mod input;
pub mod lane;
pub mod mailbox;
mod output;
mod plan;
pub mod problem;
pub mod shard;
pub mod stats;
pub mod stream;
mod ticker;
mod timing;
mod upload;
mod watch;

use std::sync::Arc;

use crate::control::StreamOptions;
use crate::gateway::stream::{Publication, Published};
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
}

/// What answers the paths that belong to the hub (`/health`, `/internal/*`).
pub trait ControlPlane: Send + Sync + 'static {
    /// Looks at one request. Called on a shard's thread, so it must not wait for anything.
    fn control(&self, method: Method, path: &str, body: &mut [u8]) -> Control;

    /// The answer to a request that has published an event.
    fn published(&self, publication: &Publication, published: &Published) -> ControlAnswer;
}
