//! Sends and receives bytes together with descriptors over a Unix socket. Knows nothing of what
//! the bytes mean; a descriptor that was not asked for is closed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};

/// Most descriptors one message carries (the kernel's `SCM_MAX_FD`).
pub const MAX_PASSED_FDS: usize = 253;

/// Room for the control message of [`MAX_PASSED_FDS`] descriptors.
const CONTROL_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_PASSED_FDS));

/// Sends all of `bytes`; `fds` travel with the first byte. The sender keeps its descriptors.
///
/// Meant for a blocking socket, with a send timeout where the peer is not trusted to read. When
/// this fails after part of the message has gone (`WouldBlock` included), the stream is cut in the
/// middle of a message and must be closed.
///
/// # Errors
/// `InvalidInput` for descriptors without a byte to carry them, or more than [`MAX_PASSED_FDS`];
/// `BrokenPipe` (never a signal) when the peer is gone; `ETOOMANYREFS` when too many descriptors
/// are in flight.
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_PASSED_FDS || (bytes.is_empty() && !fds.is_empty()) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "cannot send {} descriptors with {} bytes: a message carries at most {MAX_PASSED_FDS}, and needs a byte to carry them",
                fds.len(),
                bytes.len()
            ),
        ));
    }
    let mut sent = if fds.is_empty() {
        0
    } else {
        send_first(&socket, bytes, fds)?
    };
    while sent < bytes.len() {
        match send(&socket, &bytes[sent..], SendFlags::NOSIGNAL) {
            Ok(count) => sent += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Receives at most `buf.len()` bytes and at most `max_fds` descriptors (close-on-exec), in one
/// read. Returns how many bytes came, 0 at the end of the stream.
///
/// Descriptors arrive with the first byte of the message they were sent with.
///
/// # Errors
/// `InvalidData` when there were more descriptors than `max_fds`, or when some were lost on the
/// way (`MSG_CTRUNC`: no room, or this process has too many open); all that came are closed.
pub fn recv_with_fds(
    socket: impl AsFd,
    buf: &mut [u8],
    max_fds: usize,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
    let room = rustix::cmsg_space!(ScmRights(max_fds.min(MAX_PASSED_FDS)));
    let mut control = if max_fds == 0 {
        RecvAncillaryBuffer::default()
    } else {
        RecvAncillaryBuffer::new(&mut space[..room])
    };
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(
            &socket,
            &mut [IoSliceMut::new(buf)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > max_fds {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "more descriptors were sent than the {max_fds} expected here, or than this process may open (ulimit -n): {} arrived and were closed",
                fds.len()
            ),
        ));
    }
    Ok((received.bytes, fds))
}

/// Sends the descriptors with as many bytes as the socket takes in one go.
fn send_first(socket: &impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = control.push(SendAncillaryMessage::ScmRights(fds));
    assert!(fits, "the space is computed for the most descriptors");
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    })?;
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;
    use crate::sys::eventfd::EventFd;

    #[test]
    fn descriptors_arrive_in_order_and_close_on_exec() {
        let (a, b) = UnixStream::pair().unwrap();
        let events: Vec<_> = (0..5).map(|_| EventFd::new(true).unwrap()).collect();
        let borrowed: Vec<_> = events.iter().map(AsFd::as_fd).collect();
        send_with_fds(&a, b"hello", &borrowed).unwrap();
        let mut buf = [0; 64];
        let (count, fds) = recv_with_fds(&b, &mut buf, 5).unwrap();
        assert_eq!(&buf[..count], b"hello");
        assert_eq!(fds.len(), 5);
        for (sent, received) in events.iter().zip(fds) {
            assert!(fcntl_getfd(&received).unwrap().contains(FdFlags::CLOEXEC));
            let received = EventFd::from(received);
            sent.ring().unwrap();
            assert!(received.drain().unwrap());
        }
    }

    #[test]
    fn the_most_descriptors_fit_and_one_more_is_refused() {
        let (a, b) = UnixStream::pair().unwrap();
        let event = EventFd::new(true).unwrap();
        let most = vec![event.as_fd(); MAX_PASSED_FDS];
        send_with_fds(&a, b"x", &most).unwrap();
        let (count, fds) = recv_with_fds(&b, &mut [0; 8], usize::MAX).unwrap();
        assert_eq!((count, fds.len()), (1, MAX_PASSED_FDS));

        let too_many = vec![event.as_fd(); MAX_PASSED_FDS + 1];
        for (bytes, fds) in [(&b"x"[..], &too_many[..]), (b"", &most[..1])] {
            let error = send_with_fds(&a, bytes, fds).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_long_message_is_sent_whole_in_spite_of_short_writes() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let message: Vec<u8> = (0..4_000_000u32).map(|i| (i % 251) as u8).collect();
        let event = EventFd::new(true).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                send_with_fds(&a, &message, &[event.as_fd()]).unwrap();
                a.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut buf = [0; 1000];
            let (count, fds) = recv_with_fds(&b, &mut buf, 1).unwrap();
            assert_eq!(fds.len(), 1);
            let mut received = buf[..count].to_vec();
            b.read_to_end(&mut received).unwrap();
            assert!(received == message);
        });
    }

    /// Sends a pipe's write ends, has the receiver refuse them, and shows that they were closed:
    /// the read end then reports the end of the stream.
    fn refused_and_closed(sent: usize, max_fds: usize) {
        let (a, b) = UnixStream::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send_with_fds(&a, b"x", &vec![writer.as_fd(); sent]).unwrap();
        drop(writer);
        let error = recv_with_fds(&b, &mut [0; 8], max_fds).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn more_descriptors_than_expected_are_an_error_and_leak_nothing() {
        refused_and_closed(1, 0);
        // Alignment leaves room for one more than asked for: counted, not cut by the kernel.
        refused_and_closed(2, 1);
        // Cut by the kernel.
        refused_and_closed(9, 2);
        refused_and_closed(253, 252);
    }

    #[test]
    fn messages_keep_their_descriptors_apart() {
        let (a, b) = UnixStream::pair().unwrap();
        let event = EventFd::new(true).unwrap();
        send_with_fds(&a, b"one", &[event.as_fd()]).unwrap();
        send_with_fds(&a, b"two", &[event.as_fd(), event.as_fd()]).unwrap();
        let mut buf = [0; 64];
        let (count, fds) = recv_with_fds(&b, &mut buf, 2).unwrap();
        assert_eq!((&buf[..count], fds.len()), (&b"one"[..], 1));
        let (count, fds) = recv_with_fds(&b, &mut buf, 2).unwrap();
        assert_eq!((&buf[..count], fds.len()), (&b"two"[..], 2));
    }

    #[test]
    fn plain_bytes_and_the_end_of_the_stream_carry_none() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"plain").unwrap();
        drop(a);
        let mut buf = [0; 64];
        let (count, fds) = recv_with_fds(&b, &mut buf, 4).unwrap();
        assert_eq!((&buf[..count], fds.len()), (&b"plain"[..], 0));
        let (count, fds) = recv_with_fds(&b, &mut buf, 4).unwrap();
        assert_eq!((count, fds.len()), (0, 0));
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_not_a_signal() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(b);
        let event = EventFd::new(true).unwrap();
        for fds in [&[][..], &[event.as_fd()]] {
            let error = send_with_fds(&a, b"x", fds).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
