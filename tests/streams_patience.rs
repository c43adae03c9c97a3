//! Workers that are slow with what they are told of connections, or never answer: whatever becomes of
//! their streams, requests are answered, and nobody else waits for them.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use simd_json::json as value;
use simd_json::prelude::*;

use support::sse::{Sse, sse_push, stream_count, wait_subscribers};
use support::stream_worker::{Job, Setup, StreamWorker};
use support::{Client, Hub, HubOptions, stream_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    stream_worker::run();
}

/// A worker with handlers in an event loop, so that some that never answer do not keep the others from
/// running.
fn event_loop(hub: &Hub) -> Setup {
    let mut setup = Setup::new(hub, "streams");
    setup.asynchronous = true;
    setup
}

/// Opens so many streams at once.
fn open_all(hub: &Hub, count: usize, path: &str) -> Vec<Sse> {
    let ask = |_| {
        let mut client = hub.connect();
        client.request("GET", path, "", b"");
        client
    };
    let clients: Vec<Client> = (0..count).map(ask).collect();
    clients.into_iter().map(Sse::read_head).collect()
}

/// Waits until the hub knows no worker but this.
fn wait_alone(hub: &Hub, worker: &StreamWorker) {
    wait_until("the hub has let go of the worker before", || {
        let health = hub.health();
        let workers = health.get_array("workers").expect("a list of workers");
        let pids = workers.iter().map(|w| w.get_u64("pid"));
        pids.eq([Some(u64::from(worker.process.pid()))])
    });
}

#[test]
fn a_connect_that_is_never_answered_holds_up_no_successor() {
    let hub = Hub::start();
    let old = event_loop(&hub).start(&hub);
    let mut client = hub.connect();
    client.request("GET", "/plain/7?verdict=never", "", b"");
    old.wait_connected(1);
    let start = Instant::now();
    let new = event_loop(&hub).start(&hub);
    let mut stream = Sse::open(&hub, "/plain/8");
    assert_eq!(new.wait_connected(1)[0].path, "/plain/8");
    client.answer().assert_problem(504);
    wait_alone(&hub, &new);
    println!("the old lane has drained after {:?}", start.elapsed());
    sse_push(&hub, value!({"path": "/plain/8", "data": "x"}));
    assert_eq!(stream.next().data, "x");
    assert_eq!(old.disconnected(), []);
}

#[test]
fn a_successor_that_never_answers_holds_up_nobody() {
    const STREAMS: usize = 200;
    let mut hub = Hub::start();
    let mut worker = event_loop(&hub).start(&hub);
    let mut streams: Vec<Sse> = (0..STREAMS)
        .map(|n| Sse::open(&hub, &format!("/rooms/{n}")))
        .collect();
    let first = worker.wait_connected(STREAMS);
    worker.process.kill();
    let mut setup = event_loop(&hub);
    setup.holds_inherited = true;
    let silent = setup.clone().start(&hub);
    wait_until("it is asked", || silent.connected().len() >= 64);
    // Who comes new is served by it meanwhile, and who leaves is told of.
    let newcomer = Sse::open(&hub, "/plain/new");
    drop(newcomer);
    assert_eq!(silent.wait_disconnected(1)[0].path, "/plain/new");
    silent.job(&hub, "release", Job::default());

    let successor = event_loop(&hub).start(&hub);
    let second = successor.wait_connected(STREAMS);
    let ids = |connected: &[stream_worker::Connected]| -> BTreeSet<String> {
        connected.iter().map(|c| c.id.clone()).collect()
    };
    assert_eq!(ids(&first), ids(&second));
    wait_alone(&hub, &successor);
    for (n, stream) in streams.iter_mut().enumerate() {
        sse_push(
            &hub,
            value!({"path": (format!("/rooms/{n}").as_str()), "data": "x"}),
        );
        assert_eq!(stream.next().data, "x");
    }
    // Nor does a hub that is told to stop wait for such a worker.
    let silent = setup.start(&hub);
    wait_until("it is asked", || silent.connected().len() >= 64);
    let start = Instant::now();
    assert_eq!(hub.stop().code(), Some(0));
    let took = start.elapsed();
    println!("the hub stopped within {took:?}");
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn connects_that_are_never_answered_leave_room_for_requests() {
    let hub = HubOptions::new()
        .args(["--shards", "1", "--slots", "64"])
        .start();
    let worker = event_loop(&hub).start(&hub);
    // Twice as many as the lane has slots.
    let mut clients: Vec<Client> = (0..128).map(|_| hub.connect()).collect();
    for client in &mut clients {
        client.request("GET", "/plain/7?verdict=never", "", b"");
    }
    wait_until("some are asked for", || worker.connected().len() >= 32);
    let answered = |hub: &Hub| worker.job(hub, "release", Job::default());
    (0..50).for_each(|_| assert_eq!(answered(&hub), "released"));
    for client in &mut clients {
        client.answer().assert_problem(504);
    }
    // They are the worker's for good, and the rest of the lane is everybody's.
    assert_eq!(worker.connected().len(), 32);
    (0..50).for_each(|_| assert_eq!(answered(&hub), "released"));
    assert_eq!(stream_count(&hub, "subscribers"), 0);
}

#[test]
fn requests_are_answered_while_thousands_of_notices_wait() {
    const STREAMS: usize = 2_000;
    let hub = Hub::start();
    let worker = StreamWorker::start(&hub);
    let streams = open_all(&hub, STREAMS, "/rooms/7?bye=slow");
    let connected = worker.wait_connected(STREAMS);
    drop(streams);
    wait_subscribers(&hub, 0);
    let told = || worker.process.stdout.find_all("disconnected ").len();
    // Before a request stand 64 from each shard at most, and not all there are.
    const SOME: usize = 600;
    let mut answered = 0;
    loop {
        let before = told();
        if answered == 5 || before > STREAMS - SOME {
            break;
        }
        let start = Instant::now();
        let job = Job::default();
        assert_eq!(worker.job(&hub, "release", job), "released");
        let (took, after) = (start.elapsed(), told());
        println!("answered after {took:?} and {} notices", after - before);
        assert!(after - before < SOME, "{before} to {after}");
        answered += 1;
    }
    assert!(
        answered > 0,
        "the worker was told of all too fast to see it"
    );
    // And none is forgotten over it.
    let told = worker.wait_disconnected(STREAMS);
    let ids = |ids: Vec<&String>| ids.into_iter().cloned().collect::<BTreeSet<String>>();
    assert_eq!(
        ids(told.iter().map(|d| &d.id).collect()),
        ids(connected.iter().map(|c| &c.id).collect())
    );
    hub.wait_idle();
}

#[test]
fn a_worker_that_is_replaced_is_still_told_of_all_that_have_ended() {
    const STREAMS: usize = 600;
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let old = StreamWorker::start(&hub);
    let streams = open_all(&hub, STREAMS, "/rooms/7?bye=slow");
    old.wait_connected(STREAMS);
    drop(streams);
    wait_subscribers(&hub, 0);
    let new = StreamWorker::start(&hub);
    old.wait_disconnected(STREAMS);
    wait_alone(&hub, &new);
    assert_eq!((new.connected(), new.disconnected()), (vec![], vec![]));
}
