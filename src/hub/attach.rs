//! One connection on the attach socket: framed JSON messages, descriptors beside them, and the pidfd
//! of the process at the other end. Never blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::ioctl_fionbio;
use rustix::net::{RecvFlags, recv};

use crate::control::{FieldError, MAX_LATER_MESSAGE, MAX_MESSAGE, ToHub, ToWorker, from_object};
use crate::hub::peers::not_understood;
use crate::sys::fd_pass::send_with_fds;
use crate::sys::process::{effective_uid, peer_credentials, peer_pidfd};

/// A process on the attach socket.
#[derive(Debug)]
pub struct Peer {
    socket: OwnedFd,
    /// Readable when the process has died.
    pub pidfd: OwnedFd,
    /// The process.
    pub pid: u32,
    received: Vec<u8>,
    /// Longest message that is taken.
    longest: usize,
}

/// What a look at the socket brought.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message(ToHub),
    /// Nothing more for now.
    Nothing,
    /// The peer has sent what is no message; what is wrong.
    Nonsense(FieldError),
    /// The peer has closed; why.
    Closed(String),
}

impl Peer {
    /// Takes a connection over from the listener.
    ///
    /// # Errors
    /// `PermissionDenied` for a process of another user; otherwise the system's.
    pub fn accept(socket: OwnedFd) -> io::Result<Peer> {
        let credentials = peer_credentials(&socket)?;
        let (own, peer) = (effective_uid(), credentials.uid);
        if peer != own && peer != 0 {
            let why = format!(
                "process {} belongs to uid {peer}, and this hub to uid {own}",
                credentials.pid
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let pidfd = peer_pidfd(&socket)?;
        ioctl_fionbio(&socket, true)?;
        Ok(Peer {
            socket,
            pidfd,
            pid: credentials.pid,
            received: Vec::new(),
            longest: MAX_MESSAGE,
        })
    }

    /// It has attached: what it may still say is short.
    pub fn expect_little(&mut self) {
        self.longest = MAX_LATER_MESSAGE;
        self.received.shrink_to_fit();
    }

    /// Bytes of a message that is not complete.
    pub fn held(&self) -> usize {
        self.received.len()
    }

    /// Sends a message, with descriptors beside it.
    ///
    /// # Errors
    /// The socket's; a peer that does not read is an error too.
    pub fn send(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let json = simd_json::to_vec(message).map_err(io::Error::other)?;
        let mut bytes = (json.len() as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&json);
        send_with_fds(&self.socket, &bytes, fds)
    }

    /// The next message, if a whole one has arrived.
    pub fn receive(&mut self) -> Received {
        loop {
            match self.take_message() {
                Ok(Some(message)) => return Received::Message(message),
                Ok(None) => {}
                Err(error) => return Received::Nonsense(error),
            }
            let mut chunk = [0u8; 16 * 1024];
            match recv(&self.socket, &mut chunk[..], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => return Received::Closed("it closed the attach socket".into()),
                Ok((_, count)) => self.received.extend_from_slice(&chunk[..count]),
                Err(rustix::io::Errno::AGAIN) => return Received::Nothing,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    return Received::Closed(format!("the attach socket failed: {error}"));
                }
            }
        }
    }

    fn take_message(&mut self) -> Result<Option<ToHub>, FieldError> {
        let Some(prefix) = self.received.first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*prefix) as usize;
        if len > self.longest {
            return Err(not_understood(format!(
                "a message of {len} bytes was announced; at most {} are taken",
                self.longest
            )));
        }
        if self.received.len() < 4 + len {
            return Ok(None);
        }
        let mut json: Vec<u8> = self.received.drain(..4 + len).skip(4).collect();
        from_object("message", &mut json).map(Some)
    }
}

impl AsFd for Peer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
