//! A hub that may not lock memory, and so cannot register buffers: it says so, and what to do, and its
//! streams are as good as ever.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use simd_json::json as value;
use simd_json::prelude::*;

use support::process::Process;
use support::scratch::ScratchDir;
use support::sse::{Sse, emit, sse_push, wait_subscribers};
use support::stream_worker::{Job, StreamWorker};
use support::{Client, GUARD, Hub, HubOptions, stream_worker, tools, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    stream_worker::run();
}

/// A hub under this limit on locked memory, in bytes, which holds for it even if it is root's: nothing is
/// left that would lift it.
fn with_lockable_memory(limit: u64) -> HubOptions {
    let limit = format!("--memlock={limit}:{limit}");
    let mut under = vec!["prlimit", &limit];
    if rustix::process::geteuid().is_root() {
        under.extend(["setpriv", "--bounding-set=-ipc_lock"]);
    }
    HubOptions::new().under(under).args(["--shards", "1"])
}

/// Starts a hub that is to serve. What others of the same user have locked for the moment counts against
/// it, so it may take more than one try.
fn start(options: &HubOptions) -> Hub {
    let begun = Instant::now();
    loop {
        let dir = ScratchDir::new();
        let mut process = options.spawn(&dir);
        wait_until("it serves or fails", || {
            process.ended().is_some() || serves(&process)
        });
        if process.ended().is_some() {
            process.wait();
            let log = process.stderr.text();
            let may_pass = log.contains("locked memory") && begun.elapsed() < GUARD;
            assert!(may_pass, "the hub does not start:\n{log}");
            println!("trying again: {log}");
            continue;
        }
        let address = process.wait_line("listening on http://");
        let socket = PathBuf::from(process.wait_line("workers attach at "));
        return Hub {
            process,
            dir,
            address: address.parse().expect("an address"),
            socket,
        };
    }
}

/// Enough for the rings, and for no buffers.
const FEW: u64 = 640 * 1024;

/// What `/health` says of the buffers: whether they are registered, and why not.
fn buffers(hub: &Hub) -> (bool, Option<String>) {
    let health = hub.health();
    let streams = health.get("streams").expect("streams");
    let why = streams.get_str("unregistered_because").map(str::to_string);
    (streams.get_bool("registered_buffers").expect("a flag"), why)
}

/// One after the other: what one hub has locked is counted against the next, which is the same user's.
#[test]
fn streams_do_with_what_may_be_locked() {
    let test = "streams_do_with_what_may_be_locked";
    let remedy = "apt-get install util-linux";
    if !tools::are_there(test, &["prlimit", "setpriv"], &[], remedy) {
        return;
    }
    a_hub_that_may_not_says_so_and_serves_all_the_same();
    a_hub_whose_rings_cannot_be_had_says_what_to_do();
    a_hub_that_may_lock_memory_registers_its_buffers();
}

fn a_hub_that_may_lock_memory_registers_its_buffers() {
    // What ordinary users may lock.
    let hub = start(&with_lockable_memory(8 << 20));
    wait_until("it has registered them", || {
        let log = &hub.process.stderr;
        log.contains("streams write from registered buffers")
    });
    assert_eq!(buffers(&hub), (true, None));
    let mut stream = Sse::open(&hub, "/events");
    emit(&hub, "s", "t", "1");
    assert_eq!(stream.next().number(), 1);
}

fn a_hub_that_may_not_says_so_and_serves_all_the_same() {
    let hub = start(&with_lockable_memory(FEW).args(["--sse-queue", "8"]));
    wait_until("it has tried", || {
        hub.process.stderr.contains("streams write from")
    });
    for said in ["plain buffers", "640 KiB", "ulimit -l", "LimitMEMLOCK="] {
        assert!(
            hub.process.stderr.contains(said),
            "{said}: {}",
            hub.process.stderr.text()
        );
    }
    let (registered, why) = buffers(&hub);
    assert!(!registered);
    assert!(why.is_some_and(|why| why.contains("lockable memory")));

    // Many clients at once, in both forms, and events longer than a buffer.
    let worker = StreamWorker::start(&hub);
    let mut streams: Vec<Sse> = (0..100)
        .map(|n| Sse::open(&hub, ["/events", "/rooms/7"][n % 2]))
        .collect();
    let mut old = hub.connect();
    old.send("GET /rooms/7 HTTP/1.0\r\n\r\n");
    let mut old = Sse::read_head(old);
    worker.wait_connected(51);
    let large = "0123456789abcdef".repeat(16 * 1024);
    for round in 0..3 {
        emit(&hub, "s", "t", &round.to_string());
        let push = value!({"path": "/rooms/7", "data": round});
        assert_eq!(sse_push(&hub, push).status, 200);
        let push = value!({"path": "/rooms/7", "data": large.as_str()});
        assert_eq!(sse_push(&hub, push).status, 200);
        for stream in streams.iter_mut().skip(1).step_by(2).chain([&mut old]) {
            assert_eq!(stream.next().number(), round);
            assert!(stream.next().data == large, "round {round}");
        }
    }
    let sequences: Vec<u64> = (0..3).map(|_| streams[0].next().sequence()).collect();
    for stream in streams.iter_mut().skip(2).step_by(2) {
        let numbers: Vec<u64> = (0..3).map(|_| stream.next().sequence()).collect();
        assert_eq!(numbers, sequences);
    }
    // What the worker sends comes in order, and who comes back gets what it has missed.
    let job = |first| Job {
        path: Some("/rooms/7".into()),
        count: 500,
        first,
        batch: 50,
        ..Job::default()
    };
    worker.publish(&hub, job(0));
    let seen = streams[1].until(|m| m.number() == 499);
    let numbers: Vec<u64> = seen.iter().map(support::sse::Message::number).collect();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
    let last = seen[249].id.as_deref().expect("an id");
    let mut back = Sse::resume(&hub, "/rooms/7", last);
    assert_eq!(back.until(|m| m.number() == 499), seen[250..]);
    // One that is stuck is cut off from nothing but what it cannot take.
    drop(streams);
    drop((back, old));
    wait_subscribers(&hub, 0);
    let mut stuck = Sse::on(Client::with_small_window(hub.address), "/oldest/7", "");
    let mut reads = Sse::open(&hub, "/oldest/7");
    for number in 0..120u64 {
        let data = format!("{number} {}", &large[..64 * 1024]);
        let push = value!({"path": "/oldest/7", "data": data.as_str()});
        assert_eq!(sse_push(&hub, push).status, 200);
        assert_eq!(reads.next().number(), number);
    }
    let seen = stuck.until(|m| m.event != "sse_gap" && m.number() == 119);
    assert!(seen.iter().any(|m| m.gap().is_some()));
    let whole = || seen.iter().filter(|m| m.event != "sse_gap");
    assert!(whole().count() >= 8);
    assert!(whole().all(|m| m.data.ends_with(&large[..64 * 1024])));
    drop((stuck, reads));
    wait_subscribers(&hub, 0);
}

fn a_hub_whose_rings_cannot_be_had_says_what_to_do() {
    let dir = ScratchDir::new();
    // Where the kernel does not count rings, this hub serves.
    let mut process = with_lockable_memory(200 * 1024).spawn(&dir);
    wait_until("it serves or fails", || {
        process.ended().is_some() || serves(&process)
    });
    if process.ended().is_some() {
        assert_eq!(process.wait().code(), Some(1));
        let says = process.stderr.contains("limit on locked memory");
        assert!(says, "{}", process.stderr.text());
        assert!(process.stderr.contains("ulimit -l"));
    }
}

/// Whether it answers. It may fail at any moment.
fn serves(process: &Process) -> bool {
    let Some(address) = process.stdout.find("listening on http://") else {
        return false;
    };
    let mut answer = [0; 12];
    let asked = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")?;
        stream.read_exact(&mut answer)
    });
    asked.is_ok() && answer == *b"HTTP/1.1 200"
}
