//! What has become of a worker's response on its way to the client.

use crate::gateway::lane::Failure;
use crate::http::WorkerHeadFault;
use crate::shm::codec::CodecError;

/// How relaying a response ended.
#[derive(Debug)]
pub enum Relayed {
    /// All of it is sent. Whether the connection can be used again.
    Whole {
        /// Whether the framing leaves the connection open.
        reusable: bool,
    },
    /// Nothing was sent: the worker will not answer.
    Failed(Failure),
    /// Nothing was sent: what the worker answered is no HTTP.
    Refused(BadHead),
    /// A part was sent and the rest will not come; the connection must be closed.
    Broken(&'static str),
    /// The client did not take it.
    ClientGone,
}

/// Why a response head was refused.
#[derive(Debug)]
pub enum BadHead {
    /// It does not follow the ABI.
    Codec(CodecError),
    /// It breaks a rule of HTTP.
    Http(WorkerHeadFault),
}

impl std::fmt::Display for BadHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BadHead::Codec(error) => error.fmt(f),
            BadHead::Http(fault) => fault.fmt(f),
        }
    }
}
