//! A subscriber's socket on the streams thread. Writes go through the ring; what the socket is ready
//! for is learned from the runtime's epoll, so that an idle subscriber has no operation under way.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::gateway::connections::Place;
use crate::limits::STREAM_USER_TIMEOUT_MS;
use crate::sys::listen::{recv_peek_eof, shutdown_both, with_socket};
use crate::sys::stream_socket::{Discarded, discard, is_writable, prepare, send_last};

/// A socket of any family.
#[derive(Debug)]
pub struct Socket {
    fd: AsyncFd<OwnedFd>,
    /// Whether the kernel gives up a peer that takes nothing.
    watched: bool,
    /// Left when the socket is closed.
    _place: Place,
}

impl Socket {
    /// Takes over a connected socket. Must be called on the streams thread.
    ///
    /// # Errors
    /// It is no stream socket, or cannot be watched.
    // The successor of this constructor is unsafe, and newer than the oldest tokio that serves here.
    // What it asks for holds: the socket is owned by the `AsyncFd`, and nobody replaces it.
    #[allow(deprecated)]
    pub fn new(fd: OwnedFd, place: Place) -> io::Result<Socket> {
        let watched = prepare(&fd, STREAM_USER_TIMEOUT_MS)?;
        let fd = AsyncFd::with_interest(fd, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Socket {
            fd,
            watched,
            _place: place,
        })
    }

    /// Whether the kernel gives up a peer that takes nothing.
    pub fn is_watched(&self) -> bool {
        self.watched
    }

    /// Takes and forgets what the peer sends, `room` bytes at most. Ready when it has closed, or has
    /// sent more than that: nobody who listens to events sends much.
    pub fn poll_ended(&self, room: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // It can only fail when the runtime is shut down.
            let Ok(mut readable) = ready!(self.fd.poll_read_ready(cx)) else {
                return Poll::Ready(());
            };
            match self.with(|socket| discard(socket)) {
                Discarded::Ended => return Poll::Ready(()),
                Discarded::Bytes(count) => match room.checked_sub(count) {
                    Some(left) => *room = left,
                    None => return Poll::Ready(()),
                },
                Discarded::Nothing => readable.clear_ready(),
            }
        }
    }

    /// Waits until a write that was refused for want of room would be taken.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(mut writable) = ready!(self.fd.poll_write_ready(cx)) else {
                return Poll::Ready(());
            };
            // The readiness may be from before the write.
            if self.with(|socket| is_writable(socket)) {
                return Poll::Ready(());
            }
            writable.clear_ready();
        }
    }

    /// Whether the peer has gone without the runtime's noticing.
    pub fn has_ended(&self) -> bool {
        self.with(|socket| recv_peek_eof(socket))
    }

    /// Ends the connection; `farewell` is sent before if there is room.
    pub fn close(&self, farewell: &[u8]) {
        self.with(|socket| {
            if !farewell.is_empty() {
                send_last(socket, farewell);
            }
            // It may have been reset already.
            let _ = shutdown_both(socket);
        });
    }

    fn with<R>(&self, f: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> R) -> R {
        with_socket(self.fd.as_raw_fd(), f)
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
