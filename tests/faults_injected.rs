//! System calls that fail while a real hub starts, serves and takes workers: each failure is said, with
//! what to do about it, and what can go on goes on, by itself, once the call works again.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use simd_json::prelude::*;
use support::hub::slotway;
use support::process::{Process, slotway_binary};
use support::scratch::ScratchDir;
use support::strace::{self, Fault};
use support::{Client, Hub, HubOptions, Worker, json, wait_until};

/// A hub of one shard, so that it is clear whose calls fail.
fn hub() -> Hub {
    HubOptions::new().args(["--shards", "1"]).start()
}

fn descriptors(hub: &Hub) -> usize {
    let path = format!("/proc/{}/fd", hub.process.pid());
    std::fs::read_dir(path).expect("the hub lives").count()
}

/// Worker's whole log, once it has ended as a failure.
fn failure_of(worker: &mut Worker) -> String {
    let status = worker.process.wait();
    assert!(!status.success(), "the worker was to fail: {status}");
    worker.process.stderr.text()
}

#[test]
fn a_hub_that_cannot_start_says_why_and_what_to_do() {
    if !strace::is_there("a_hub_that_cannot_start_says_why_and_what_to_do") {
        return;
    }
    let uring = "io_uring cannot be used";
    let files = "Too many open files";
    for (inject, what, remedy) in [
        (
            "io_uring_setup:error=EPERM",
            uring,
            "kernel.io_uring_disabled",
        ),
        ("io_uring_setup:error=EPERM", uring, "seccomp"),
        ("io_uring_setup:error=ENOMEM", uring, "ulimit -l"),
        ("io_uring_setup:error=EMFILE", uring, "ulimit -n"),
        ("io_uring_register:error=ENOMEM", uring, "ulimit -l"),
        (
            "epoll_create1:error=EMFILE",
            "the streams thread failed",
            files,
        ),
        (
            "epoll_create1:error=EMFILE",
            "the streams thread failed",
            "ulimit -n",
        ),
        ("timerfd_create:error=EMFILE", "shard 0 failed", "ulimit -n"),
        ("fcntl:error=EMFILE", files, "ulimit -n"),
        (
            "eventfd2:error=EMFILE",
            "cannot set up file descriptors",
            "ulimit -n",
        ),
        (
            "socketpair:error=EMFILE",
            "cannot set up file descriptors",
            "ulimit -n",
        ),
        ("clone3:error=EAGAIN", "cannot set up a thread", "ulimit -u"),
        ("listen:error=EADDRINUSE", "in use", "another port"),
    ] {
        println!("{inject}");
        let dir = ScratchDir::new();
        let mut hub = strace::start_hub_with(&dir, inject);
        let status = hub.wait();
        let log = hub.stderr.text();
        assert_eq!(status.code(), Some(1), "{inject}: {log}");
        let said = log.lines().find(|line| line.starts_with("slotway: "));
        let said = said.unwrap_or_else(|| panic!("{inject}: no last word in {log}"));
        for part in [what, remedy] {
            assert!(said.contains(part), "{inject}: '{part}' is not in '{said}'");
        }
        let said = hub.stdout.text();
        assert!(
            !said.contains("listening"),
            "{inject}: it never served: {said}"
        );
        let panicked = log.contains("panicked");
        assert!(!panicked, "{inject}: {log}");
        // The next start must not find what this one left.
        let left = dir.path().join("hub.sock").exists();
        assert!(!left, "{inject}: the attach socket was left behind");
    }
}

/// Has the kernel refuse the registration of buffers, which strace cannot tell from the question that
/// comes before it, in another thread.
fn forbid_registration(command: &mut Command) {
    const OPCODE: u32 = 24; // Where the low half of the second argument stands.
    const REGISTER_BUFFERS: u32 = 0;
    let statement = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let give = libc::BPF_RET | libc::BPF_K;
    let mut filter = [
        statement(load, 0),
        libc::sock_filter {
            jf: 3,
            ..statement(equal, libc::SYS_io_uring_register as u32)
        },
        statement(load, OPCODE),
        libc::sock_filter {
            jf: 1,
            ..statement(equal, REGISTER_BUFFERS)
        },
        statement(give, libc::SECCOMP_RET_ERRNO | libc::ENOMEM as u32),
        statement(give, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        // SAFETY: both calls take plain numbers, and a program that outlives the call.
        let refused = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
        };
        match refused {
            true => Err(std::io::Error::last_os_error()),
            false => Ok(()),
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls and nothing else.
    unsafe { command.pre_exec(install) };
}

#[test]
fn streams_go_on_with_plain_buffers_where_none_can_be_registered() {
    let dir = ScratchDir::new();
    let mut command = slotway(&dir);
    command.args(["serve", "--port", "0", "--shards", "1", "--socket"]);
    command.arg(dir.path().join("hub.sock"));
    forbid_registration(&mut command);
    let mut process = Process::start("the hub", command);
    let address = process.wait_line("listening on http://").parse().unwrap();
    let health = || json(&Client::tcp(address).get("/health").body);
    wait_until("/health says that buffers are plain", || {
        let said = health();
        let said = simd_json::to_string(&said).unwrap();
        said.contains("Cannot allocate memory")
    });
    wait_until("the log says so, and what to do", || {
        let log = process.stderr.text();
        log.contains("plain buffers") && log.contains("ulimit -l")
    });

    let mut subscriber = Client::tcp(address);
    subscriber.send("GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(subscriber.head().expect("a stream").status, 200);
    let event = br#"{"source":"s","event_type":"t","data":"through plain buffers"}"#;
    let mut publisher = Client::tcp(address);
    publisher.request("POST", "/internal/emit", "", event);
    assert_eq!(publisher.answer().status, 200);
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("through plain buffers") {
        read.extend(subscriber.chunk());
    }
}

#[test]
fn a_hub_without_descriptors_for_clients_recovers_by_itself() {
    if !strace::is_there("a_hub_without_descriptors_for_clients_recovers_by_itself") {
        return;
    }
    let hub = hub();
    for error in ["EMFILE", "ENFILE", "ENOMEM"] {
        println!("{error}");
        let fault = Fault::new(&hub, "shard-0", &format!("accept4:error={error}"));
        let mut clients: Vec<_> = (0..3).map(|_| hub.connect()).collect();
        for client in &mut clients {
            client.request("GET", "/health", "", b"");
        }
        fault.wait(2);
        // Not a measure of speed: a loop that spins makes thousands of calls in this time.
        let before = fault.count();
        std::thread::sleep(Duration::from_millis(500));
        let tries = fault.count() - before;
        assert!(tries < 100, "{error}: {tries} tries in half a second");
        let failures = fault.end();
        let answers: Vec<_> = clients.iter_mut().map(Client::answer).collect();
        // Without a descriptor the hub tries twice, the second time with its spare one. Where the fault
        // ended between the two, that one has taken a client, who is told that there is no place.
        let between = error != "ENOMEM" && failures % 2 == 1;
        let refused = answers.iter().filter(|a| a.status == 503).count();
        let served = answers.iter().filter(|a| a.status == 200).count();
        println!("{failures} failures, {refused} refused");
        assert!(refused <= usize::from(between), "{error}");
        assert_eq!(served + refused, 3, "{error}: {answers:?}");
    }
    // A client that left the queue is no reason to wait with the next.
    let fault = Fault::new(&hub, "shard-0", "accept4:error=ECONNABORTED:when=1..5");
    assert_eq!(hub.get("/health").status, 200);
    assert_eq!(fault.count(), 5);
    fault.end();
    assert_eq!(hub.get("/health").status, 200);
}

#[test]
fn a_hub_without_descriptors_for_workers_takes_them_later() {
    if !strace::is_there("a_hub_without_descriptors_for_workers_takes_them_later") {
        return;
    }
    let hub = hub();
    let fault = Fault::new(&hub, "supervisor", "accept4:error=EMFILE");
    let worker = Worker::spawn(&hub.dir, &hub.socket, "late", &[]);
    fault.wait(2);
    assert_eq!(hub.get("/health").status, 200);
    fault.end();
    hub.wait_attached("late", worker.process.pid());
    assert_eq!(hub.get("/hello").status, 200);
}

#[test]
fn a_worker_whose_lanes_cannot_be_made_says_why_and_waits() {
    if !strace::is_there("a_worker_whose_lanes_cannot_be_made_says_why_and_waits") {
        return;
    }
    let hub = hub();
    // What is made for the first worker ever is no leak.
    drop(hub.worker_with("first", &[]));
    let quiet = |hub: &Hub| {
        wait_until("nobody is attached", || {
            let health = hub.health();
            let workers = health.get_array("workers").unwrap();
            workers
                .iter()
                .all(|w| w.get_str("state") != Some("attached"))
        });
    };
    quiet(&hub);
    let before = descriptors(&hub);
    for (inject, said) in [
        ("memfd_create:error=EMFILE", "ulimit -n"),
        ("memfd_create:error=ENOMEM", "Cannot allocate memory"),
        ("ftruncate:error=ENOSPC", "fewer or smaller slots"),
        ("fallocate:error=ENOSPC", "fewer or smaller slots"),
        ("mmap:error=ENOMEM", "Cannot allocate memory"),
        ("mmap:error=ENOMEM:when=2", "Cannot allocate memory"),
        ("eventfd2:error=EMFILE", "ulimit -n"),
        ("eventfd2:error=EMFILE:when=2", "ulimit -n"),
        ("epoll_create1:error=EMFILE", "ulimit -n"),
        ("epoll_ctl:error=ENOSPC", "max_user_watches"),
        ("fcntl:error=EMFILE", "ulimit -n"),
        ("fcntl:error=EPERM", "Operation not permitted"),
    ] {
        println!("{inject}");
        let fault = Fault::new(&hub, "supervisor", inject);
        let mut worker = Worker::spawn(&hub.dir, &hub.socket, "unlucky", &[]);
        // What may pass is waited for.
        let is_final = inject.ends_with("EPERM");
        let log = if is_final {
            failure_of(&mut worker)
        } else {
            let stderr = &worker.process.stderr;
            wait_until("the worker says why it waits", || {
                stderr.text().contains("will ask again")
            });
            stderr.text()
        };
        assert!(log.contains("lanes"), "{inject}: {log}");
        assert!(log.contains(said), "{inject}: '{said}' is not in: {log}");
        assert!(fault.count() > 0, "{inject}");
        assert_eq!(hub.get("/health").status, 200, "{inject}");
        fault.end();
        if is_final {
            worker = hub.worker_with("unlucky", &[]);
        }
        hub.wait_attached("unlucky", worker.process.pid());
        assert_eq!(hub.get("/hello").status, 200, "{inject}");
        drop(worker);
        quiet(&hub);
        wait_until("no descriptor is kept", || descriptors(&hub) <= before);
    }
}

#[test]
fn a_stream_without_a_descriptor_is_refused_and_the_next_is_not() {
    if !strace::is_there("a_stream_without_a_descriptor_is_refused_and_the_next_is_not") {
        return;
    }
    let hub = hub();
    let request = "GET /events HTTP/1.1\r\nHost: h\r\n\r\n";
    let mut first = hub.connect();
    first.send(request);
    assert_eq!(first.head().expect("a stream").status, 200);
    let before = descriptors(&hub);
    let fault = Fault::new(&hub, "shard-0", "fcntl:error=EMFILE");
    let mut client = hub.connect();
    client.send(request);
    // Nothing was promised yet: an answer or the end, but no wait.
    if let Some(answer) = client.try_answer() {
        assert_eq!(answer.status, 503);
    }
    drop(client);
    fault.wait(1);
    fault.end();
    let mut client = hub.connect();
    client.send(request);
    assert_eq!(client.head().expect("a stream").status, 200);
    drop(client);
    wait_until("no descriptor is kept", || descriptors(&hub) <= before);
}

/// Standard output and error on a device that is always full.
#[test]
fn a_full_disk_for_the_log_stops_nobody() {
    let dir = ScratchDir::new();
    let socket = dir.path().join("hub.sock");
    let http = dir.path().join("http.sock");
    let mut shell = Command::new("sh");
    let mut inner = slotway(&dir);
    inner.env("RUST_LOG", "trace");
    shell
        .args(["-c", "exec \"$@\" >/dev/full 2>/dev/full", "sh"])
        .arg(slotway_binary())
        .args(["serve", "--port", "0", "--shards", "1", "--socket"])
        .arg(&socket)
        .arg("--listen")
        .arg(format!("unix:{}", http.display()))
        .envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .current_dir(dir.path());
    let mut hub = Process::start("the hub with a full disk", shell);
    wait_until("the hub listens", || {
        assert_eq!(hub.ended(), None, "the hub has ended");
        std::os::unix::net::UnixStream::connect(&http).is_ok()
    });
    let worker = Worker::spawn(&dir, &socket, "demo", &[]);
    wait_until("the worker serves", || {
        Client::unix(&http).get("/hello").status == 200
    });
    for bad in ["GET / HTTP/9.9\r\n\r\n", "\0", "GET  / HTTP/1.1\r\n\r\n"] {
        let mut client = Client::unix(&http);
        client.send(bad);
        client.drain_to_end();
    }
    drop(worker);
    wait_until("the worker is gone", || {
        Client::unix(&http).get("/hello").status == 503
    });
    hub.signal("TERM");
    assert_eq!(hub.wait().code(), Some(0));

    // A hub that cannot start has nothing to say it with, and still ends as it should.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" >/dev/full 2>/dev/full", "sh"]);
    shell.arg(slotway_binary());
    shell.args(["serve", "--port", &port, "--socket"]);
    shell.arg(dir.path().join("other.sock"));
    let mut hub = Process::start("a hub that cannot start", shell);
    assert_eq!(hub.wait().code(), Some(1));
}
