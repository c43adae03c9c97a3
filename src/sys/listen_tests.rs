//! Tests of the listeners on real sockets; each works in a directory of its own and removes it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fcntl_getfl;
use rustix::io::{FdFlags, fcntl_getfd};

use super::*;

/// A private directory, removed with all it holds when dropped.
pub(in crate::sys) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(in crate::sys) fn new(label: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("slotway-{label}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self { path }
    }

    pub(in crate::sys) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Waits until `fd` has something to accept or read, at most the 30 s of the hang guard.
fn wait_readable(fd: &impl AsFd) {
    let guard = Timespec {
        tv_sec: 30,
        tv_nsec: 0,
    };
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    assert_eq!(poll(&mut polled, Some(&guard)).unwrap(), 1, "hang");
}

/// Ends a Unix listener and leaves its file. Closing it alone might not do: a process that another test starts may hold a copy until it runs its program.
fn kill(listener: impl AsFd) {
    shutdown_both(&listener).unwrap();
    drop(listener);
}

fn mode_of(path: &Path) -> u32 {
    std::fs::symlink_metadata(path)
        .unwrap()
        .permissions()
        .mode()
        & 0o777
}

#[test]
fn a_tcp_listener_accepts_and_tells_the_peer() {
    let listener = tcp_listener(LOOPBACK, false, 16, 65_536).unwrap();
    assert!(fcntl_getfd(&listener).unwrap().contains(FdFlags::CLOEXEC));
    let address = local_addr(&listener).unwrap();
    assert_ne!(address.port(), 0);
    assert!(accept(&listener).unwrap().is_none());

    let client = TcpStream::connect(address).unwrap();
    wait_readable(&listener);
    let (socket, peer) = accept(&listener).unwrap().unwrap();
    assert_eq!(peer, Some(client.local_addr().unwrap()));
    assert!(fcntl_getfd(&socket).unwrap().contains(FdFlags::CLOEXEC));
    assert!(!fcntl_getfl(&socket).unwrap().contains(OFlags::NONBLOCK));
    let unsent = SockRef::from(&socket).tcp_notsent_lowat().unwrap();
    assert_eq!(unsent, 65_536, "it has it from its listener");
    let congestion = SockRef::from(&socket).tcp_congestion().unwrap();
    assert!(congestion.starts_with(LOOPBACK_CONGESTION));
    set_nodelay(&socket).unwrap();
    assert!(sockopt::tcp_nodelay(&socket).unwrap());
    assert!(accept(&listener).unwrap().is_none());
}

#[test]
fn ports_are_shared_only_by_those_that_ask_for_it() {
    let first = tcp_listener(LOOPBACK, true, 16, 65_536).unwrap();
    let address = local_addr(&first).unwrap();
    let second = tcp_listener(address, true, 16, 65_536).unwrap();
    assert_eq!(local_addr(&second).unwrap(), address);
    let error = tcp_listener(address, false, 16, 65_536).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn an_address_of_nobody_is_an_error_that_names_it() {
    // 192.0.2.0/24 is reserved for documentation (RFC 5737), so no interface has it.
    let address = SocketAddr::from(([192, 0, 2, 1], 0));
    let error = tcp_listener(address, false, 16, 65_536).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
    assert!(error.to_string().contains("192.0.2.1:0"), "{error}");
}

#[test]
fn ipv6_is_listened_on_where_the_machine_has_it() {
    let address = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    match tcp_listener(address, false, 16, 65_536) {
        Ok(listener) => assert!(local_addr(&listener).unwrap().is_ipv6()),
        // A machine without IPv6 says so in one of two ways.
        Err(error) => assert!(
            error.kind() == io::ErrorKind::AddrNotAvailable
                || error.to_string().contains("not supported"),
            "{error}"
        ),
    }
}

#[test]
fn the_end_of_a_connection_is_seen_without_reading() {
    let listener = tcp_listener(LOOPBACK, false, 16, 65_536).unwrap();
    let mut client = TcpStream::connect(local_addr(&listener).unwrap()).unwrap();
    wait_readable(&listener);
    let (socket, _) = accept(&listener).unwrap().unwrap();
    assert!(!recv_peek_eof(&socket));
    client.write_all(b"x").unwrap();
    wait_readable(&socket);
    assert!(!recv_peek_eof(&socket));
    drop(client);
    let mut stream = TcpStream::from(socket);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 1);
    wait_readable(&stream);
    assert!(recv_peek_eof(&stream));
    assert!(recv_peek_eof(&stream));
}

#[test]
fn shutting_down_is_seen_at_the_right_ends() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    shutdown_read(&ours).unwrap();
    assert!(recv_peek_eof(&ours));
    assert!(!recv_peek_eof(&theirs));
    shutdown_both(&ours).unwrap();
    assert_eq!(theirs.read(&mut [0; 1]).unwrap(), 0);

    let lone = socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let error = shutdown_both(&lone).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected);
}

#[test]
fn a_unix_listener_has_exactly_the_mode_asked_for() {
    let directory = Directory::new("mode");
    for (index, mode) in [0o600, 0o660, 0o666, 0o777].into_iter().enumerate() {
        let path = directory.path().join(format!("s{index}"));
        let listener = unix_listener(&path, mode, 16).unwrap();
        assert_eq!(mode_of(&path), mode);
        assert!(fcntl_getfd(&listener).unwrap().contains(FdFlags::CLOEXEC));
        let _client = UnixStream::connect(&path).unwrap();
        let (_socket, peer) = accept(&listener).unwrap().unwrap();
        assert_eq!(peer, None);
        assert!(accept(&listener).unwrap().is_none());
        assert!(local_addr(&listener).is_err());
    }
}

#[test]
fn the_file_is_never_wider_than_asked_for_even_before_it_is_adjusted() {
    let directory = Directory::new("bind");
    let path = directory.path().join("s");
    let socket = unix_socket().unwrap();
    fchmod(&socket, Mode::from_raw_mode(0o600)).unwrap();
    bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    assert_eq!(mode_of(&path) & !0o600, 0);
}

#[test]
fn a_dead_socket_is_replaced() {
    let directory = Directory::new("stale");
    let path = directory.path().join("s");
    for mode in [0o600, 0o666] {
        kill(unix_listener(&path, mode, 16).unwrap());
        assert!(path.exists());
    }
    let listener = unix_listener(&path, 0o600, 16).unwrap();
    assert_eq!(mode_of(&path), 0o600);
    let _client = UnixStream::connect(&path).unwrap();
    assert!(accept(&listener).unwrap().is_some());
}

#[test]
fn a_living_socket_is_left_alone_even_when_its_queue_is_full() {
    let directory = Directory::new("alive");
    let path = directory.path().join("s");
    let listener = unix_listener(&path, 0o600, 0).unwrap();
    // With a backlog of 0 the first attempt fills the queue, the later ones find it full.
    for _ in 0..3 {
        let error = unix_listener(&path, 0o600, 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
    assert!(accept(&listener).unwrap().is_some());

    let other = directory.path().join("datagram");
    let _datagram = UnixDatagram::bind(&other).unwrap();
    let error = unix_listener(&other, 0o600, 16).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(other.exists());
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let directory = Directory::new("file");
    let file = directory.path().join("file");
    std::fs::write(&file, b"precious").unwrap();
    let folder = directory.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    // A link to a dead socket is no socket either: it may lead anywhere.
    let dead = directory.path().join("dead");
    kill(UnixListener::bind(&dead).unwrap());
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&dead, &link).unwrap();
    let dangling = directory.path().join("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();

    for path in [&file, &folder, &link, &dangling] {
        let error = unix_listener(path, 0o600, 16).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{error}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
        assert!(std::fs::symlink_metadata(path).is_ok());
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    assert!(dead.exists());
}

#[test]
fn impossible_paths_are_errors_that_name_them() {
    let directory = Directory::new("path");
    let long = directory.path().join("x".repeat(108));
    let error = unix_listener(&long, 0o600, 16).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("107 bytes"), "{error}");
    let missing = directory.path().join("missing").join("s");
    let error = unix_listener(&missing, 0o600, 16).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("missing"), "{error}");
}

#[test]
fn of_many_that_start_together_on_a_dead_socket_one_wins() {
    let directory = Directory::new("race");
    for round in 0..20 {
        let path = directory.path().join(format!("s{round}"));
        kill(UnixListener::bind(&path).unwrap());
        let barrier = std::sync::Barrier::new(4);
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        unix_listener(&path, 0o600, 16)
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        for error in lost {
            let error = error.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        }
        // The path leads to the winner.
        UnixStream::connect(&path).unwrap();
    }
}

#[test]
fn a_directory_locked_for_good_is_an_error_after_a_while() {
    let directory = Directory::new("lock");
    let lock = std::fs::File::open(directory.path()).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let error = unix_listener(&directory.path().join("s"), 0o600, 16).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("locked"), "{error}");
}
