//! What the kernel knows about processes: who is at the other end of a socket, whether it lives,
//! and what this process may use.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, geteuid, getrlimit, pidfd_open, setrlimit,
};

/// Who connected (or bound) the other end of a Unix socket, as of that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// The process id, in this process's pid namespace; 0 when the peer is not visible in it (a
    /// peer in another container).
    pub pid: u32,
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
}

/// Credentials of the process at the other end of a connected Unix socket (`SO_PEERCRED`).
///
/// # Errors
/// `NotConnected` for a socket without a peer; `ENOTSOCK` for what is no socket.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<PeerCredentials> {
    // rustix has this call, but its pid cannot be 0, and the kernel's can.
    let raw: libc::ucred = socket_option(&socket, libc::SO_PEERCRED)?;
    if raw.uid == u32::MAX {
        // What the kernel gives for a socket that was never connected.
        return Err(io::Error::new(
            io::ErrorKind::NotConnected,
            "the socket has no peer whose credentials could be read",
        ));
    }
    Ok(PeerCredentials {
        pid: u32::try_from(raw.pid).unwrap_or(0),
        uid: raw.uid,
        gid: raw.gid,
    })
}

/// A close-on-exec pidfd of the process at the other end of a connected Unix socket.
///
/// `SO_PEERPIDFD` (Linux 6.5) names exactly the process that connected. Older kernels get
/// `pidfd_open` on the pid of `SO_PEERCRED`, and then a check that the socket is still open at the
/// other end: if the process that connected were dead and its pid taken by a stranger, its end
/// would be closed, unless it had given the socket to a child before. In that last case the pidfd
/// belongs to a stranger; only the moment of death would be misjudged by it, and the socket's end
/// of file still tells it.
///
/// # Errors
/// `ESRCH` when the peer is dead already (the newest kernels give a pidfd for which
/// [`process_exited`] is true instead); `Unsupported` when the peer has no pid here.
pub fn peer_pidfd(socket: impl AsFd) -> io::Result<OwnedFd> {
    match socket_option::<RawFd>(&socket, libc::SO_PEERPIDFD) {
        Ok(fd) if fd >= 0 => {
            // SAFETY: the kernel has just made this descriptor for us; nobody else knows of it.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        }
        Err(error) if error.raw_os_error() != Some(libc::ENOPROTOOPT) => Err(error),
        _ => peer_pidfd_by_pid(&socket),
    }
}

fn peer_pidfd_by_pid(socket: &impl AsFd) -> io::Result<OwnedFd> {
    let peer = peer_credentials(socket)?;
    let pid = i32::try_from(peer.pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::Unsupported,
                "the peer has no process id here (it is in another pid namespace), and this kernel lacks SO_PEERPIDFD (Linux 6.5)",
            )
        })?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    if ready(socket, PollFlags::RDHUP)?.intersects(PollFlags::HUP | PollFlags::RDHUP) {
        return Err(Errno::SRCH.into());
    }
    Ok(pidfd)
}

/// Whether the process of `pidfd` has ended (also while nobody has waited for it). Does not block.
///
/// # Errors
/// None that a caller with a pidfd can cause.
pub fn process_exited(pidfd: impl AsFd) -> io::Result<bool> {
    Ok(!ready(&pidfd, PollFlags::IN)?.is_empty())
}

/// The effective user id of this process.
pub fn effective_uid() -> u32 {
    geteuid().as_raw()
}

/// Bytes of memory in the machine (not in its swap, and without regard to cgroups).
pub fn memory_total() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// A limit of the kernel on this process; `u64::MAX` stands for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The limit in force.
    pub soft: u64,
    /// What the soft limit may be raised to without privilege.
    pub hard: u64,
}

/// How many descriptors this process may have open (`RLIMIT_NOFILE`).
pub fn nofile_limit() -> Limit {
    limit(Resource::Nofile)
}

/// How many descriptors this process has open; those of the standard streams at least.
pub fn open_descriptors() -> u64 {
    // The one that reads the directory is counted too.
    std::fs::read_dir("/proc/self/fd").map_or(3, |entries| entries.count() as u64)
}

/// Raises the soft limit on open descriptors to the hard one and returns the limit now in force.
///
/// # Errors
/// `EPERM` when a sandbox forbids it.
pub fn raise_nofile_limit() -> io::Result<Limit> {
    let raw = getrlimit(Resource::Nofile);
    if raw.current != raw.maximum {
        let raised = Rlimit {
            current: raw.maximum,
            maximum: raw.maximum,
        };
        setrlimit(Resource::Nofile, raised)?;
    }
    Ok(nofile_limit())
}

/// How many bytes this process may lock in memory (`RLIMIT_MEMLOCK`), registered buffers included.
pub fn memlock_limit() -> Limit {
    limit(Resource::Memlock)
}

fn limit(resource: Resource) -> Limit {
    let raw = getrlimit(resource);
    Limit {
        soft: raw.current.unwrap_or(u64::MAX),
        hard: raw.maximum.unwrap_or(u64::MAX),
    }
}

/// What is ready on `fd` right now, of `events` and the kernel's own (`HUP`, `ERR`).
fn ready(fd: &impl AsFd, events: PollFlags) -> io::Result<PollFlags> {
    let mut polled = [PollFd::new(fd, events)];
    rustix::io::retry_on_intr(|| poll(&mut polled, Some(&Timespec::default())))?;
    Ok(polled[0].revents())
}

/// A type the kernel fills in and for which every pattern of bits is a value.
trait PlainOption: Copy {}
impl PlainOption for libc::ucred {}
impl PlainOption for RawFd {}

/// Reads an option of `SOL_SOCKET` whose value is exactly a `T`.
fn socket_option<T: PlainOption>(socket: &impl AsFd, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `value`.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            value.as_mut_ptr().cast(),
            &mut len,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    if len as usize != size_of::<T>() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the kernel gave {len} bytes for socket option {option}"),
        ));
    }
    // SAFETY: zeroed at first, then filled by the kernel; `PlainOption` takes any bits.
    Ok(unsafe { value.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::process::{Command, Stdio};

    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;

    #[test]
    fn the_peer_of_a_socket_pair_is_this_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = peer_credentials(&ours).unwrap();
        assert_eq!(peer.pid, std::process::id());
        assert_eq!(peer.uid, effective_uid());
        for pidfd in [
            peer_pidfd(&ours).unwrap(),
            peer_pidfd_by_pid(&ours).unwrap(),
        ] {
            assert!(!process_exited(&pidfd).unwrap());
            assert!(fcntl_getfd(&pidfd).unwrap().contains(FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn sockets_without_a_peer_are_errors() {
        let (lone, other) = UnixStream::pair().unwrap();
        // The pair's other end is closed: who it was is still known, its pidfd by pid is refused.
        // Shut down before, as a process that another test starts may hold a copy for a moment.
        other.shutdown(std::net::Shutdown::Both).unwrap();
        drop(other);
        assert_eq!(peer_credentials(&lone).unwrap().pid, std::process::id());
        let error = peer_pidfd_by_pid(&lone).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));

        let never = rustix::net::socket(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            None,
        )
        .unwrap();
        assert_eq!(
            peer_credentials(&never).unwrap_err().kind(),
            io::ErrorKind::NotConnected
        );
        assert!(peer_pidfd(&never).is_err());

        let file = std::fs::File::open("/dev/null").unwrap();
        let error = peer_credentials(&file).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn a_listener_knows_who_connected() {
        let name = format!("slotway-peer-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let _client = UnixStream::connect_addr(&address).unwrap();
        let accepted = listener.accept().unwrap().0;
        assert_eq!(peer_credentials(&accepted).unwrap().pid, std::process::id());
        peer_pidfd(&accepted).unwrap();
    }

    #[test]
    fn a_pidfd_tells_the_end_of_its_process_before_anyone_waits_for_it() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        assert!(!process_exited(&pidfd).unwrap());
        drop(child.stdin.take());
        let mut rest = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
        let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
        let guard = Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut polled, Some(&guard)).unwrap(), 1);
        assert!(process_exited(&pidfd).unwrap());
        child.wait().unwrap();
        assert!(process_exited(&pidfd).unwrap());
    }

    #[test]
    fn the_machine_has_memory_and_limits() {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        let kib: u64 = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .and_then(|number| number.trim().parse().ok())
            .unwrap();
        assert_eq!(memory_total(), kib * 1024);
        let memlock = memlock_limit();
        assert!(memlock.soft <= memlock.hard);
    }

    #[test]
    fn the_descriptor_limit_rises_to_the_hard_one() {
        let before = nofile_limit();
        let after = raise_nofile_limit().unwrap();
        assert_eq!(after.hard, before.hard);
        assert_eq!(after.soft, after.hard);
        assert_eq!(nofile_limit(), after);
        assert_eq!(raise_nofile_limit().unwrap(), after);
    }
}
