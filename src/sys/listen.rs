//! Listening sockets, accepted sockets and the few things done to them outside io_uring. Never
//! removes a file that is not a dead socket.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock, open};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with,
    bind, connect, getsockname, listen, recv, shutdown, socket_with, sockopt,
};
use socket2::SockRef;

/// How long [`unix_listener`] waits for another process that is starting in the same directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How connections over loopback are kept from congesting it, which they hardly can: with the least work.
/// What a system chooses for its network, BBR above all, models the path anew at each acknowledgement and
/// paces what is sent by timers.
const LOOPBACK_CONGESTION: &[u8] = b"reno";

/// A non-blocking, close-on-exec TCP listener with `SO_REUSEADDR`. Of what is written to a connection
/// that comes from it, the kernel keeps at most about `unsent` bytes beyond what the peer's window and
/// the state of the network let it send (`TCP_NOTSENT_LOWAT`).
///
/// With `reuse_port`, several sockets (of the same user) may listen on the address and the kernel
/// spreads the connections among them; every one of them must ask for it.
///
/// # Errors
/// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied`…, naming the address and what to do.
pub fn tcp_listener(
    address: SocketAddr,
    reuse_port: bool,
    backlog: i32,
    unsent: u32,
) -> io::Result<OwnedFd> {
    bind_tcp(address, reuse_port, backlog, unsent).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                ": another process listens there; stop it or choose another port"
            }
            io::ErrorKind::PermissionDenied => {
                ": ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher port or grant it"
            }
            io::ErrorKind::AddrNotAvailable => {
                ": the address belongs to no interface of this machine"
            }
            _ => "",
        };
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {error}{advice}"),
        )
    })
}

fn bind_tcp(
    address: SocketAddr,
    reuse_port: bool,
    backlog: i32,
    unsent: u32,
) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if reuse_port {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    // Connections have it from their listener, so it costs none of them a call.
    let options = SockRef::from(&socket);
    options.set_tcp_notsent_lowat(unsent)?;
    if address.ip().is_loopback() {
        // Every kernel has it and lets everybody choose it; one that does not loses nothing but time.
        let _ = options.set_tcp_congestion(LOOPBACK_CONGESTION);
    }
    bind(&socket, &address)?;
    listen(&socket, backlog)?;
    Ok(socket)
}

/// A non-blocking, close-on-exec listener on the Unix socket `path`, whose file has exactly the
/// permission bits `mode` and at no moment wider ones.
///
/// A socket file that nobody listens on any more is replaced. The directory is locked (`flock`)
/// meanwhile, so that two processes that start together cannot both take the path.
///
/// # Errors
/// `AddrInUse` when a process listens on the path; `AlreadyExists` when it is something else than
/// a socket, which is left alone; `InvalidInput` for a path longer than a socket's may be (107
/// bytes); what the file system says otherwise. All name the path.
pub fn unix_listener(path: &Path, mode: u32, backlog: i32) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path).map_err(|_| {
        failure(
            path,
            io::ErrorKind::InvalidInput,
            "a socket's path has at most 107 bytes and no zero byte; choose a shorter one",
        )
    })?;
    let _lock = lock_directory(path)?;
    match bind_unix(path, &address, mode, backlog) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
        outcome => return outcome.map_err(|error| failure(path, error.kind(), error)),
    }
    remove_dead_socket(path, &address)?;
    bind_unix(path, &address, mode, backlog).map_err(|error| failure(path, error.kind(), error))
}

fn bind_unix(
    path: &Path,
    address: &SocketAddrUnix,
    mode: u32,
    backlog: i32,
) -> io::Result<OwnedFd> {
    let socket = unix_socket()?;
    let mode = mode & 0o777;
    // Linux gives the file the mode of the socket, less the umask; so it starts out at most as
    // wide as asked for, without touching the umask, which belongs to all threads.
    fchmod(&socket, Mode::from_raw_mode(mode))?;
    bind(&socket, address)?;
    if let Err(error) = widen(path, mode).and_then(|()| Ok(listen(&socket, backlog)?)) {
        // The file is ours and would be in the way of the next attempt.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(socket)
}

/// Gives the socket file back the bits the umask took away.
fn widen(path: &Path, mode: u32) -> io::Result<()> {
    // Through a descriptor of the very file, so that a symbolic link put in its place is not
    // followed.
    let file = open(
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let stat = rustix::fs::fstat(&file)?;
    let is_socket = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket();
    if !is_socket || stat.st_mode & 0o777 == mode {
        return Ok(());
    }
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    std::fs::set_permissions(itself, std::fs::Permissions::from_mode(mode))
}

/// Removes the file at `path` if it is a socket that nobody listens on; the directory is locked.
fn remove_dead_socket(path: &Path, address: &SocketAddrUnix) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            return Err(failure(
                path,
                io::ErrorKind::AlreadyExists,
                "something that is not a socket is there and was left alone; remove it or choose another path",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failure(path, error.kind(), error)),
    }
    match connect(unix_socket()?, address) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::NOENT) => return Ok(()),
        // Connected, or the queue of a listener is full, or a socket of another type is there.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => {
            return Err(failure(
                path,
                io::ErrorKind::AddrInUse,
                "a running process listens there; stop it or choose another path",
            ));
        }
        Err(error) => {
            return Err(failure(
                path,
                io::ErrorKind::AddrInUse,
                format!("a socket is there, and whether it is in use cannot be told ({error})"),
            ));
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failure(path, error.kind(), error))
        }
        _ => Ok(()),
    }
}

/// Holds the directory of `path` against other processes in [`unix_listener`] until dropped.
pub(super) fn lock_directory(path: &Path) -> io::Result<OwnedFd> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = open(directory, flags, Mode::empty()).map_err(|error| {
        let error = io::Error::from(error);
        let message = format!("its directory cannot be opened: {error}");
        failure(path, error.kind(), message)
    })?;
    let start = Instant::now();
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::INTR) => {}
            // The holder is about to finish. It is not waited for without end: any process that
            // may read the directory could hold the lock.
            Err(Errno::AGAIN) if start.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::AGAIN) => {
                return Err(failure(
                    path,
                    io::ErrorKind::AddrInUse,
                    "another process has its directory locked; try again, or choose another directory",
                ));
            }
            Err(error) => {
                let error = io::Error::from(error);
                return Err(failure(path, error.kind(), error));
            }
        }
    }
}

fn unix_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn failure(path: &Path, kind: io::ErrorKind, message: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        kind,
        format!("cannot listen on unix:{}: {message}", path.display()),
    )
}

/// Takes one connection that waits on a non-blocking listener; `None` when there is none. The
/// socket is close-on-exec and blocking, as io_uring wants it. The address is that of a TCP peer.
///
/// # Errors
/// `EMFILE` or `ENFILE` when no descriptor is free: the connection stays in the queue.
pub fn accept(listener: impl AsFd) -> io::Result<Option<(OwnedFd, Option<SocketAddr>)>> {
    loop {
        match acceptfrom_with(&listener, SocketFlags::CLOEXEC) {
            Ok((socket, peer)) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                return Ok(Some((socket, peer)));
            }
            Err(Errno::AGAIN) => return Ok(None),
            // The peer gave up while it was in the queue, and is out of it.
            Err(Errno::CONNABORTED | Errno::INTR | Errno::PROTO) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether an operation failed because this process, or the machine, has no descriptor left.
pub fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}

/// Sends small segments at once (`TCP_NODELAY`).
///
/// # Errors
/// `EOPNOTSUPP` on a socket that is not TCP.
pub fn set_nodelay(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_tcp_nodelay(socket, true)?)
}

/// Ends the receiving side: reads that wait return the end of the stream. A TCP
/// peer is not told; a Unix peer's writes fail from then on.
///
/// # Errors
/// `NotConnected` when a TCP connection is gone already.
pub fn shutdown_read(socket: impl AsFd) -> io::Result<()> {
    Ok(shutdown(socket, Shutdown::Read)?)
}

/// Ends both sides: the peer sees the end of the stream, and operations that wait return.
///
/// # Errors
/// `NotConnected` when a TCP connection is gone already.
pub fn shutdown_both(socket: impl AsFd) -> io::Result<()> {
    Ok(shutdown(socket, Shutdown::Both)?)
}

/// Has the kernel reset the connection when the socket is closed, in place of ending it as if all had
/// been said. What it has not sent yet is dropped. Only TCP knows the difference.
///
/// # Errors
/// The descriptor is no socket.
pub fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_linger(socket, Some(Duration::ZERO))?)
}

/// Lends a socket known by its number alone.
///
/// The caller knows that it is open: a number that was closed and given out again would name
/// somebody else's socket, which is then the one that is used, though never freed or invalid memory.
pub fn with_socket<R>(socket: RawFd, f: impl FnOnce(BorrowedFd<'_>) -> R) -> R {
    // SAFETY: the caller has the socket open for the length of this call.
    f(unsafe { BorrowedFd::borrow_raw(socket) })
}

/// Whether the peer has closed or reset the connection and all it sent has been read. Does not
/// block and takes nothing from the stream. False while there are bytes to read.
pub fn recv_peek_eof(socket: impl AsFd) -> bool {
    let mut byte = [0u8; 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match rustix::io::retry_on_intr(|| recv(&socket, &mut byte, flags)) {
        Ok((_, count)) => count == 0,
        Err(error) => error != Errno::AGAIN,
    }
}

/// The address a TCP socket is bound to; tells the port chosen for port 0.
///
/// # Errors
/// `InvalidInput` for a socket that is not of an internet family.
pub fn local_addr(socket: impl AsFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(getsockname(socket)?).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket has no internet address: it is a Unix socket or the like",
        )
    })
}

#[cfg(test)]
#[path = "listen_tests.rs"]
pub(super) mod tests;
