//! Streams whose worker restarts: they stay open, and the successor is asked about each of them.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use simd_json::json as value;

use support::sse::{Sse, sse_push, stream_count, wait_subscribers};
use support::stream_worker::{Connected, Setup, StreamWorker};
use support::{Hub, HubOptions, stream_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    stream_worker::run();
}

fn push(hub: &Hub, path: &str, data: &str) {
    let answer = sse_push(hub, value!({"path": path, "data": data}));
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn ids(connected: &[Connected]) -> BTreeSet<String> {
    connected.iter().map(|c| c.id.clone()).collect()
}

/// Waits until the hub has noticed that the worker is away.
fn wait_away(hub: &Hub, path: &str) {
    wait_until("the worker is away", || {
        let mut client = hub.connect();
        client.request("GET", path, "", b"");
        client.head().expect("a head").status == 503
    });
}

fn thousand_streams_survive(asynchronous: bool) {
    const STREAMS: usize = 1_000;
    let hub = Hub::start();
    let mut setup = Setup::new(&hub, "streams");
    setup.asynchronous = asynchronous;
    let mut worker = setup.clone().start(&hub);
    let mut streams: Vec<Sse> = (0..STREAMS)
        .map(|n| {
            let fields = format!("X-Mark: {n}\r\n");
            Sse::with(&hub, &format!("/rooms/{}?n={n}", n % 10), &fields)
        })
        .collect();
    let first = worker.wait_connected(STREAMS);
    worker.process.kill();
    setup.greets_inherited = true;
    let successor = setup.start(&hub);
    let start = Instant::now();
    let second = successor.wait_connected(STREAMS);
    println!(
        "{STREAMS} streams were inherited after {:?}",
        start.elapsed()
    );
    // Each of them, once, and just as it was.
    let as_inherited = |c: &Connected| Connected {
        replayed: true,
        ..c.clone()
    };
    let mut expected: Vec<Connected> = first.iter().map(as_inherited).collect();
    let mut second = second;
    expected.sort_by(|a, b| a.id.cmp(&b.id));
    second.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(second, expected);
    // All are open, and the successor reaches each by the id that it was told.
    for stream in &mut streams {
        assert_eq!(stream.next().data, "still here");
    }
    (0..10).for_each(|room| push(&hub, &format!("/rooms/{room}"), "to all"));
    for stream in &mut streams {
        assert_eq!(stream.next().data, "to all");
    }
    assert_eq!(stream_count(&hub, "subscribers"), STREAMS as u64);
    drop(streams);
    let told = successor.wait_disconnected(STREAMS);
    let told: BTreeSet<String> = told.into_iter().map(|d| d.id).collect();
    assert_eq!(told, ids(&first));
    wait_subscribers(&hub, 0);
}

#[test]
fn a_thousand_streams_survive_the_death_of_their_worker() {
    thousand_streams_survive(false);
}

#[test]
fn a_thousand_streams_survive_the_death_of_an_async_worker() {
    thousand_streams_survive(true);
}

#[test]
fn connects_are_replayed_concurrently() {
    let hub = Hub::start();
    let mut worker = StreamWorker::start(&hub);
    let streams: Vec<Sse> = (0..7)
        .map(|n| Sse::open(&hub, &format!("/rooms/{n}")))
        .collect();
    worker.process.kill();
    let mut setup = Setup::new(&hub, "streams");
    setup.holds_inherited = true;
    let successor = setup.start(&hub);
    // None has been answered, and yet all were asked. One of its threads is left.
    successor.wait_connected(7);
    drop(streams);
    wait_subscribers(&hub, 0);
    // Who left while the successor was asked is told of behind the answer, not before.
    assert_eq!(successor.disconnected(), []);
    successor.release(&hub);
    assert_eq!(successor.wait_disconnected(7).len(), 7);
}

#[test]
fn streams_survive_a_worker_that_is_told_to_stop() {
    let hub = Hub::start();
    let mut worker = StreamWorker::start(&hub);
    let mut stream = Sse::open(&hub, "/rooms/7");
    let first = worker.wait_connected(1);
    worker.process.signal("TERM");
    assert_eq!(worker.process.wait().code(), Some(0));
    wait_away(&hub, "/rooms/7");
    // While nobody is there, the path is still one that is remembered and reached.
    push(&hub, "/rooms/7", "orphaned");
    assert_eq!(stream.next().data, "orphaned");
    let successor = StreamWorker::start(&hub);
    let second = successor.wait_connected(1);
    assert_eq!(ids(&first), ids(&second));
    assert!(second[0].replayed);
    drop(stream);
    assert_eq!(successor.wait_disconnected(1)[0].id, first[0].id);
    assert_eq!(worker.disconnected(), []);
}

#[test]
fn a_newcomer_takes_the_streams_over() {
    let hub = Hub::start();
    let mut old = StreamWorker::start(&hub);
    let mut streams: Vec<Sse> = (0..20)
        .map(|n| Sse::open(&hub, &format!("/rooms/{n}")))
        .collect();
    let first = old.wait_connected(20);
    let new = StreamWorker::start(&hub);
    let second = new.wait_connected(20);
    assert_eq!(ids(&first), ids(&second));
    assert!(second.iter().all(|c| c.replayed));
    old.process.wait();
    for (n, stream) in streams.iter_mut().enumerate() {
        push(&hub, &format!("/rooms/{n}"), "x");
        assert_eq!(stream.next().data, "x");
    }
    drop(streams);
    assert_eq!(new.wait_disconnected(20).len(), 20);
    assert_eq!(old.disconnected(), []);
}

#[test]
fn a_successor_may_refuse_some() {
    let hub = Hub::start();
    let mut worker = StreamWorker::start(&hub);
    let mut wanted = Sse::open(&hub, "/rooms/wanted");
    let mut unwanted = Sse::open(&hub, "/rooms/unwanted");
    worker.wait_connected(2);
    worker.process.kill();
    let mut setup = Setup::new(&hub, "streams");
    setup.refused = vec!["unwanted".into()];
    let successor = setup.start(&hub);
    successor.wait_connected(2);
    let (seen, _) = unwanted.finish();
    assert_eq!(seen, []);
    push(&hub, "/rooms/wanted", "x");
    assert_eq!(wanted.next().data, "x");
    wait_subscribers(&hub, 1);
    drop(wanted);
    // What it has refused is not its connection: only the other's end is told.
    let told = successor.wait_disconnected(1);
    assert_eq!(told[0].path, "/rooms/wanted");
}

#[test]
fn a_successor_without_the_route_ends_its_streams() {
    let hub = Hub::start();
    let mut worker = StreamWorker::start(&hub);
    let mut rooms = Sse::open(&hub, "/rooms/7");
    let mut plain = Sse::open(&hub, "/plain/7");
    worker.wait_connected(2);
    worker.process.kill();
    let mut setup = Setup::new(&hub, "streams");
    setup.without_rooms = true;
    let successor = setup.start(&hub);
    rooms.finish();
    assert_eq!(successor.wait_connected(1)[0].path, "/plain/7");
    push(&hub, "/plain/7", "x");
    assert_eq!(plain.next().data, "x");
    wait_subscribers(&hub, 1);
}

#[test]
fn orphans_are_closed_when_their_time_is_over() {
    let hub = HubOptions::new()
        .args(["--sse-orphan-timeout", "1.5"])
        .start();
    let mut worker = StreamWorker::start(&hub);
    let mut stream = Sse::open(&hub, "/rooms/7");
    let mut neighbour = Sse::open(&hub, "/events");
    let start = Instant::now();
    worker.process.kill();
    let (_, end) = stream.finish();
    let took = start.elapsed();
    println!("an orphan was closed after {took:?}: {end:?}");
    assert!(took >= Duration::from_millis(1_400), "{took:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
    support::sse::emit(&hub, "s", "t", "1");
    assert_eq!(neighbour.next().number(), 1);
    wait_subscribers(&hub, 1);
    // A successor hears nothing of it.
    let successor = StreamWorker::start(&hub);
    let _stream = Sse::open(&hub, "/rooms/8");
    assert_eq!(successor.wait_connected(1)[0].path, "/rooms/8");
}

#[test]
fn who_leaves_while_the_worker_is_away_is_nobodys_to_be_told() {
    let hub = Hub::start();
    let mut worker = StreamWorker::start(&hub);
    let streams: Vec<Sse> = (0..10).map(|_| Sse::open(&hub, "/rooms/left")).collect();
    let mut stays = Sse::open(&hub, "/rooms/stays");
    worker.wait_connected(11);
    worker.process.kill();
    wait_away(&hub, "/rooms/7");
    drop(streams);
    wait_subscribers(&hub, 1);
    let successor = StreamWorker::start(&hub);
    assert_eq!(successor.wait_connected(1)[0].path, "/rooms/stays");
    push(&hub, "/rooms/stays", "x");
    assert_eq!(stays.next().data, "x");
    drop(stays);
    assert_eq!(successor.wait_disconnected(1)[0].path, "/rooms/stays");
}

#[test]
fn a_successor_that_dies_over_its_inheritance_leaves_it_to_the_next() {
    const STREAMS: usize = 40;
    let hub = Hub::start();
    let mut worker = StreamWorker::start(&hub);
    let mut streams: Vec<Sse> = (0..STREAMS).map(|_| Sse::open(&hub, "/rooms/7")).collect();
    worker.wait_connected(STREAMS);
    worker.process.kill();
    for _ in 0..3 {
        let mut setup = Setup::new(&hub, "streams");
        setup.holds_inherited = true;
        let mut unlucky = setup.start(&hub);
        wait_until("it is asked", || unlucky.connected().len() >= 8);
        unlucky.process.kill();
        wait_away(&hub, "/rooms/7");
        assert_eq!(stream_count(&hub, "subscribers"), STREAMS as u64);
    }
    let successor = StreamWorker::start(&hub);
    assert!(successor.wait_connected(STREAMS).iter().all(|c| c.replayed));
    push(&hub, "/rooms/7", "x");
    for stream in &mut streams {
        assert_eq!(stream.next().data, "x");
    }
}
