//! Why a worker cannot run, or has stopped. Each says what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::control::FieldError;

/// Why [`Worker::run`](crate::worker::Worker::run) has returned without having been asked to.
pub enum Error {
    /// The worker's name or one of its routes is wrong; found before anybody was asked.
    Registration(FieldError),
    /// The hub did not take the registration.
    Refused(FieldError),
    /// The hub has had no room for the worker for as long as the worker was told to wait.
    Full(FieldError),
    /// Nobody answers on the hub's socket.
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody answers on the socket, but not as a hub of this version does.
    Attach {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Another worker has registered with the same name and taken over.
    Replaced {
        /// What the hub said.
        reason: String,
    },
    /// The hub threw the worker out, and the worker was told not to come back.
    Evicted {
        /// What the hub said.
        reason: String,
    },
    /// The hub is gone, and the worker was told not to wait for it.
    HubGone {
        /// The socket.
        socket: PathBuf,
    },
    /// [`Worker::run`](crate::worker::Worker::run) was called with an async handler.
    AsyncRoute {
        /// The method and path of the first such route.
        route: String,
    },
    /// The system refused what the worker needs to run at all.
    System {
        /// What it was needed for.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// As it is displayed: this is what shows when `main` returns it.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Registration(error) => write!(f, "the worker cannot be registered: {error}"),
            Error::Refused(error) => write!(f, "the hub refused the worker: {error}"),
            Error::Full(error) => write!(
                f,
                "the hub does not take the worker now: {error}; start the worker again later, or give it more patience"
            ),
            Error::Connect { socket, source } => write!(
                f,
                "cannot connect to the hub's socket {}: {source}; is the hub running, as the same user? Start it with `slotway serve`, or name its socket with SLOTWAY_SOCKET or Worker::socket (`slotway status` shows it)",
                socket.display()
            ),
            Error::Attach { socket, source } => write!(
                f,
                "cannot attach through {}: {source}; build the hub and the worker from the same release, and look into the hub's log",
                socket.display()
            ),
            Error::Replaced { reason } => write!(
                f,
                "another worker has taken this one's name ({reason}): give each worker a name of its own, unless this was meant as a replacement"
            ),
            Error::Evicted { reason } => {
                write!(
                    f,
                    "the hub threw this worker out: {reason}; the hub's log says more"
                )
            }
            Error::HubGone { socket } => write!(
                f,
                "the hub on {} is gone, and this worker was told not to wait for its return",
                socket.display()
            ),
            Error::AsyncRoute { route } => write!(
                f,
                "the handler of {route} is async and needs an event loop: call Worker::run_async on tokio instead of Worker::run"
            ),
            Error::System { what, source } => write!(f, "cannot {what}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Registration(error) | Error::Refused(error) | Error::Full(error) => Some(error),
            Error::Connect { source, .. }
            | Error::Attach { source, .. }
            | Error::System { source, .. } => Some(source),
            _ => None,
        }
    }
}
