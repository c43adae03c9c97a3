//! What keeps streams alive and tidy: heartbeats, the end of the hub, and that clients that come and
//! go leave nothing behind.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use simd_json::json as value;

use support::process::Process;
use support::sse::{End, Sse, emit, sse_push, wait_subscribers};
use support::stream_worker::{Setup, StreamWorker};
use support::{Client, Hub, HubOptions, Random, seed, stream_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    stream_worker::run();
}

#[test]
fn a_stream_that_has_nothing_to_say_says_so() {
    let hub = HubOptions::new().args(["--sse-heartbeat", "1"]).start();
    let _worker = StreamWorker::start(&hub);
    let mut streams = [Sse::open(&hub, "/events"), Sse::open(&hub, "/rooms/7")];
    let mut old = hub.connect();
    old.send("GET /events HTTP/1.0\r\n\r\n");
    let mut old = Sse::read_head(old);
    let start = Instant::now();
    old.wait_comments(2);
    streams
        .iter_mut()
        .for_each(|stream| stream.wait_comments(2));
    let took = start.elapsed();
    println!("two heartbeats within {took:?}");
    assert!(took >= Duration::from_millis(1_000), "{took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    // They are nothing to a browser, and stand in no event's way.
    emit(&hub, "s", "t", "1");
    assert_eq!(streams[0].next().number(), 1);
    assert_eq!(old.next().number(), 1);
}

#[test]
fn a_client_that_leaves_is_noticed_without_the_sweeper() {
    let hub = HubOptions::new()
        .args(["--sse-sweep-interval-ms", "0", "--sse-heartbeat", "3600"])
        .start();
    let streams: Vec<Sse> = (0..10).map(|_| Sse::open(&hub, "/events")).collect();
    wait_subscribers(&hub, 10);
    let start = Instant::now();
    drop(streams);
    wait_subscribers(&hub, 0);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_client_that_talks_too_much_is_cut_off() {
    let hub = HubOptions::new()
        .args(["--sse-sweep-interval-ms", "50"])
        .start();
    let mut quiet = Sse::open(&hub, "/events");
    let mut talking = Sse::open(&hub, "/events");
    // A little is overlooked, and is no request.
    quiet
        .client()
        .send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    let some = vec![b'x'; 64 * 1024];
    while talking.client().try_send(&some).is_ok() {}
    wait_subscribers(&hub, 1);
    emit(&hub, "s", "t", "1");
    assert_eq!(quiet.next().number(), 1);
}

#[test]
fn a_hub_told_to_stop_ends_streams_cleanly_and_tells_the_workers() {
    for asynchronous in [false, true] {
        let mut hub = Hub::start();
        let mut setup = Setup::new(&hub, "streams");
        setup.asynchronous = asynchronous;
        let worker = setup.start(&hub);
        let mut streams: Vec<Sse> = (0..50)
            .map(|n| Sse::open(&hub, ["/events", "/rooms/7", "/plain/7"][n % 3]))
            .collect();
        let mut old = hub.connect();
        old.send("GET /rooms/7 HTTP/1.0\r\n\r\n");
        let mut old = Sse::read_head(old);
        let connected = worker.wait_connected(34);
        // Their heads are out.
        for stream in &mut streams {
            stream.retry();
        }
        old.retry();
        let start = Instant::now();
        hub.process.signal("TERM");
        for stream in &mut streams {
            assert_eq!(stream.finish(), (vec![], End::Clean));
        }
        assert_eq!(old.finish(), (vec![], End::Closed));
        assert_eq!(hub.process.wait().code(), Some(0));
        let took = start.elapsed();
        println!("the hub stopped within {took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
        let mut told: Vec<_> = worker
            .wait_disconnected(34)
            .into_iter()
            .map(|d| d.id)
            .collect();
        let mut connected: Vec<_> = connected.into_iter().map(|c| c.id).collect();
        told.sort();
        connected.sort();
        assert_eq!(told, connected);
    }
}

#[test]
fn a_stream_that_was_busy_ends_cleanly_too() {
    let mut hub = Hub::start();
    let mut stream = Sse::open(&hub, "/events");
    (0..20).for_each(|n| emit(&hub, "s", "t", &n.to_string()));
    let seen = stream.until(|m| m.number() == 19);
    assert_eq!(seen.len(), 20);
    hub.process.signal("TERM");
    assert_eq!(stream.finish(), (vec![], End::Clean));
    assert_eq!(hub.process.wait().code(), Some(0));
}

#[test]
fn events_on_their_way_arrive_before_the_hub_stops() {
    for _ in 0..50 {
        let mut hub = Hub::start();
        let mut stream = Sse::open(&hub, "/events");
        (0..20).for_each(|n| emit(&hub, "s", "t", &n.to_string()));
        hub.process.signal("TERM");
        let (seen, end) = stream.finish();
        assert_eq!((seen.len(), end), (20, End::Clean));
        assert_eq!(hub.process.wait().code(), Some(0));
    }
}

fn descriptors(process: &Process) -> usize {
    let path = format!("/proc/{}/fd", process.pid());
    std::fs::read_dir(path).unwrap().count()
}

/// What so many clients leave behind that connect and go in every way there is.
fn cycles(test: &str, count: u64) {
    const THREADS: u64 = 4;
    let hub = Hub::start();
    let worker = StreamWorker::start(&hub);
    let seed = seed(test);
    let accepted = AtomicU64::new(0);
    let run = |count: u64, round: u64| {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (hub, accepted) = (&hub, &accepted);
                let mut random = Random(seed ^ thread << 40 ^ round << 50);
                scope.spawn(move || {
                    for _ in 0..count / THREADS {
                        cycle(hub, &mut random, accepted);
                    }
                });
            }
        });
        wait_subscribers(&hub, 0);
        hub.wait_idle();
    };
    // What is allocated once.
    run((count / 10).max(400), 0);
    let tidy = |process: &Process| (descriptors(process), process.memory_kib("VmRSS"));
    wait_until("connections are closed", || descriptors(&hub.process) < 100);
    let (fds, rss) = tidy(&hub.process);
    let (worker_fds, worker_rss) = tidy(&worker.process);
    let start = Instant::now();
    run(count, 1);
    let took = start.elapsed();
    wait_until("descriptors are closed", || {
        descriptors(&hub.process) <= fds + 1
    });
    let (fds_after, rss_after) = tidy(&hub.process);
    let (worker_fds_after, worker_rss_after) = tidy(&worker.process);
    println!(
        "{count} cycles in {took:?}: hub {fds} -> {fds_after} descriptors, {rss} -> {rss_after} KiB; worker {worker_fds} -> {worker_fds_after} descriptors, {worker_rss} -> {worker_rss_after} KiB"
    );
    assert!(worker_fds_after <= worker_fds + 1);
    assert!(rss_after <= rss + 4 * 1024, "{rss} -> {rss_after} KiB");
    // Each that was accepted has ended, and each end was told.
    let count_of = |prefix| worker.process.stdout.find_all(prefix).len();
    wait_until("each end was told", || {
        count_of("connected ") == count_of("disconnected ")
    });
    let connected = count_of("connected ") as u64;
    assert!(connected >= accepted.load(Ordering::SeqCst));
    assert!(connected > count / 4, "{connected}");
    // And it all still works.
    let mut stream = Sse::open(&hub, "/rooms/7");
    let push = value!({"path": "/rooms/7", "data": "x"});
    assert_eq!(sse_push(&hub, push).status, 200);
    assert_eq!(stream.next().data, "x");
}

fn cycle(hub: &Hub, random: &mut Random, accepted: &AtomicU64) {
    let mut client: Client = hub.connect();
    let delegated = random.below(2) == 0;
    let path = match delegated {
        true => format!("/rooms/{}", random.below(5)),
        false => "/events?source=s".to_string(),
    };
    client.request("GET", &path, "", b"");
    if random.below(2) == 0 {
        // It was connected, or this would not have come.
        let stream = Sse::read_head(client);
        accepted.fetch_add(delegated.into(), Ordering::SeqCst);
        return match random.below(2) {
            0 => stream.reset(),
            _ => drop(stream),
        };
    }
    match random.below(3) {
        0 => client.reset(),
        1 => client.finish_sending(),
        _ => drop(client),
    }
}

#[test]
fn some_thousand_connects_and_aborts_leave_nothing_behind() {
    cycles(
        "some_thousand_connects_and_aborts_leave_nothing_behind",
        4_000,
    );
}

#[test]
#[ignore = "takes long: run it with `cargo test --release --test streams_upkeep -- --ignored a_hundred`"]
fn a_hundred_thousand_connects_and_aborts_leave_nothing_behind() {
    cycles(
        "a_hundred_thousand_connects_and_aborts_leave_nothing_behind",
        100_000,
    );
}
