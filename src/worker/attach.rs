//! The attach socket from the worker's end: the handshake that brings the lanes, and what the hub
//! says afterwards.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::control::{FieldError, MAX_MESSAGE, ToHub, ToWorker, WakeMode};
use crate::limits::MAX_SHARDS;
use crate::shm::layout::ABI_VERSION;
use crate::shm::region::LaneMemory;
use crate::sys::eventfd::EventFd;
use crate::sys::fd_pass::{recv_with_fds, send_with_fds};
use crate::sys::memory::SharedMemory;
use crate::sys::wake_fd::WakeFd;
use crate::worker::error::Error;
use crate::worker::lane::Lane;
use crate::worker::service::Service;
use crate::worker::session::{Session, Sleep};

/// How long the hub may take for any step of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const FDS_PER_LANE: usize = 4;

/// The attach socket, with what was read from it and not understood yet.
#[derive(Debug)]
pub(crate) struct Control {
    socket: UnixStream,
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    bytes_read: u64,
}

/// Connects to the hub, registers and maps the lanes.
///
/// # Errors
/// [`Error::Connect`], [`Error::Attach`], [`Error::Full`] and [`Error::Refused`]; only the last is for
/// good.
pub(crate) fn attach(
    path: &Path,
    service: &Arc<Service>,
    sleep: Sleep,
) -> Result<(Control, Arc<Session>), Error> {
    let socket = UnixStream::connect(path).map_err(|source| Error::Connect {
        socket: path.to_owned(),
        source,
    })?;
    handshake(socket, service, sleep).map_err(|error| match error {
        HandshakeError::Refused(error) => Error::Refused(error),
        HandshakeError::Full(error) => Error::Full(error),
        HandshakeError::Io(source) => Error::Attach {
            socket: path.to_owned(),
            source,
        },
    })
}

enum HandshakeError {
    Refused(FieldError),
    Full(FieldError),
    Io(io::Error),
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        HandshakeError::Io(error)
    }
}

fn handshake(
    socket: UnixStream,
    service: &Arc<Service>,
    sleep: Sleep,
) -> Result<(Control, Arc<Session>), HandshakeError> {
    socket.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    socket.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
    let mut control = Control {
        socket,
        bytes: Vec::new(),
        fds: VecDeque::new(),
        bytes_read: 0,
    };
    let sent = control.send(&ToHub::Attach {
        abi_version: ABI_VERSION,
        wake: if sleep == Sleep::Futex {
            WakeMode::Futex
        } else {
            WakeMode::Eventfd
        },
        registration: service.registration(),
        worker_id: None,
    });
    // A hub that refuses before it has read all says why all the same.
    let said = control
        .wait_message()
        .map_err(|e| sent.err().unwrap_or(e))?;
    let count = match said {
        ToWorker::Attached { worker_id, lanes } => {
            tracing::debug!(worker_id, lanes, "the hub has accepted the registration");
            lanes as usize
        }
        ToWorker::Refused { error, temporary } if temporary => {
            return Err(HandshakeError::Full(error));
        }
        ToWorker::Refused { error, .. } => return Err(HandshakeError::Refused(error)),
        other => return Err(unexpected(&other).into()),
    };
    if count == 0 || count > MAX_SHARDS {
        return Err(invalid(format!(
            "the hub announced {count} lanes, not 1 to {MAX_SHARDS}"
        ))
        .into());
    }
    let mut lanes = Vec::with_capacity(count);
    for expected in 0..count {
        match control.wait_message()? {
            ToWorker::Lane { index } if index as usize == expected => {
                lanes.push(control.take_lane()?);
            }
            other => return Err(unexpected(&other).into()),
        }
    }
    control.socket.set_read_timeout(None)?;
    let session = Session::new(lanes, service.clone(), sleep, control.socket.try_clone()?);
    Ok((control, session))
}

impl Control {
    /// The socket, to wait on.
    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Bytes received so far.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Says something to the hub.
    pub(crate) fn send(&mut self, message: &ToHub) -> io::Result<()> {
        let json = simd_json::to_vec(message).map_err(|e| invalid(e.to_string()))?;
        let mut framed = (json.len() as u32).to_le_bytes().to_vec();
        framed.extend_from_slice(&json);
        send_with_fds(&self.socket, &framed, &[])
    }

    /// Reads once. `false` at the end of the stream.
    pub(crate) fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let (count, fds) = recv_with_fds(&self.socket, &mut buffer, FDS_PER_LANE)?;
        self.bytes.extend_from_slice(&buffer[..count]);
        self.fds.extend(fds);
        self.bytes_read += count as u64;
        Ok(count > 0)
    }

    /// The next message of those read.
    pub(crate) fn next_message(&mut self) -> io::Result<Option<ToWorker>> {
        let Some((length, rest)) = self.bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_MESSAGE {
            return Err(invalid(format!(
                "a message of {length} bytes is above {MAX_MESSAGE}"
            )));
        }
        if rest.len() < length {
            return Ok(None);
        }
        let mut json = rest[..length].to_vec();
        self.bytes.drain(..4 + length);
        let message = simd_json::from_slice(&mut json)
            .map_err(|e| invalid(format!("a message of the hub cannot be understood: {e}")))?;
        Ok(Some(message))
    }

    fn wait_message(&mut self) -> io::Result<ToWorker> {
        loop {
            if let Some(message) = self.next_message()? {
                return Ok(message);
            }
            match self.receive() {
                Ok(true) => {}
                Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let detail = format!("the hub was silent for {HANDSHAKE_TIMEOUT:?}");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, detail));
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn take_lane(&mut self) -> io::Result<Lane> {
        if self.fds.len() < FDS_PER_LANE {
            return Err(invalid(format!(
                "a lane came with {} descriptors instead of {FDS_PER_LANE}",
                self.fds.len()
            )));
        }
        let mut next = || self.fds.pop_front().expect("they were counted");
        let (request, response, hub_bell, own_bell) = (next(), next(), next(), next());
        // The identity in the memory says how long both are; that is compared when it is opened.
        let request = File::from(request);
        let len = usize::try_from(request.metadata()?.len()).unwrap_or(usize::MAX);
        let request = SharedMemory::accept_read_only(request.into(), len)?;
        let response = SharedMemory::accept_writable(response, len)?;
        let memory = LaneMemory::open(request, response)?;
        Ok(Lane::new(
            memory,
            EventFd::from(hub_bell),
            WakeFd::from(own_bell),
        ))
    }
}

fn unexpected(message: &ToWorker) -> io::Error {
    invalid(format!("the hub said this out of turn: {message:?}"))
}

fn invalid(detail: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail)
}
