//! What is done to the socket of an event stream outside io_uring: its options, and looks that never
//! wait.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use socket2::SockRef;

/// Makes system calls on the socket end with `WouldBlock` instead of waiting (io_uring waits all the
/// same), and has the kernel give up a TCP peer that acknowledges nothing for `user_timeout_ms`, and keep
/// as much for it as the system's settings say. Returns whether it is one.
///
/// # Errors
/// The descriptor is no socket.
pub fn prepare(socket: impl AsFd, user_timeout_ms: u32) -> io::Result<bool> {
    ioctl_fionbio(&socket, true)?;
    match sockopt::set_tcp_user_timeout(&socket, user_timeout_ms) {
        Ok(()) => {
            // Zero stands for the system's default.
            SockRef::from(&socket).set_tcp_notsent_lowat(0)?;
            Ok(true)
        }
        // A Unix socket has no peer that could vanish without a word.
        Err(Errno::OPNOTSUPP | Errno::NOPROTOOPT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What [`discard`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discarded {
    /// So many bytes were taken and forgotten.
    Bytes(usize),
    /// Nothing has arrived.
    Nothing,
    /// The peer has closed or reset the connection.
    Ended,
}

/// Takes what a peer has sent and forgets it.
pub fn discard(socket: impl AsFd) -> Discarded {
    let mut bytes = [0u8; 1024];
    match retry_on_intr(|| recv(&socket, &mut bytes, RecvFlags::DONTWAIT)) {
        Ok((_, 0)) => Discarded::Ended,
        Ok((_, count)) => Discarded::Bytes(count),
        Err(Errno::AGAIN) => Discarded::Nothing,
        Err(_) => Discarded::Ended,
    }
}

/// Sends a few last bytes if there is room for them.
pub fn send_last(socket: impl AsFd, bytes: &[u8]) {
    // The connection closes behind them; whether they arrive decides nothing.
    let _ = send(&socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// Whether a write would be taken now, or fail at once.
pub fn is_writable(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // What cannot be polled fails when it is written to.
    retry_on_intr(|| poll(&mut fds, Some(&now))).map_or(true, |ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn both_families_are_prepared() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        prepare(&tcp, 13_000).unwrap();
        assert_eq!(sockopt::tcp_user_timeout(&tcp).unwrap(), 13_000);
        assert_eq!(SockRef::from(&tcp).tcp_notsent_lowat().unwrap(), 0);
        let (unix, _other) = UnixStream::pair().unwrap();
        prepare(&unix, 13_000).unwrap();
    }

    #[test]
    fn looks_do_not_wait() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        prepare(&ours, 1).unwrap();
        assert_eq!(discard(&ours), Discarded::Nothing);
        theirs.write_all(b"abc").unwrap();
        assert_eq!(discard(&ours), Discarded::Bytes(3));
        assert!(is_writable(&ours));
        let full = [0u8; 65536];
        while (&ours).write(&full).is_ok() {}
        assert!(!is_writable(&ours));
        send_last(&ours, b"0\r\n\r\n");
        drop(theirs);
        assert_eq!(discard(&ours), Discarded::Ended);
    }
}
