//! A hub that has just started: clients of streams wait for the workers that are still to come, and
//! everybody else is answered at once.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::time::{Duration, Instant};

use simd_json::json as value;

use support::sse::{Sse, post, sse_push, wait_subscribers};
use support::stream_worker::{Setup, StreamWorker};
use support::{Client, Hub, HubOptions, stream_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    stream_worker::run();
}

/// What an `EventSource` says it takes.
const EVENT_SOURCE: &str = "Accept: text/event-stream\r\n";

fn with_grace(seconds: &str) -> HubOptions {
    HubOptions::new().args(["--startup-grace", seconds])
}

/// A client that asks as an `EventSource` does, and has had no answer yet.
fn ask(hub: &Hub, path: &str) -> Client {
    let mut client = hub.connect();
    client.request("GET", path, EVENT_SOURCE, b"");
    client
}

#[test]
fn streams_wait_for_their_worker_and_nobody_else_does() {
    let mut hub = with_grace("600").start();
    let mut clients: Vec<Client> = (0..20).map(|n| ask(&hub, &format!("/rooms/{n}"))).collect();
    // A route of a worker that has registered and not attached is known, and yet nobody's to answer.
    let own = r#"{"name":"own","routes":[{"method":"GET","path":"/own"},{"method":"POST","path":"/rooms/{n}"}]}"#;
    assert_eq!(post(&hub, "/internal/register", own).status, 200);
    let mut own = ask(&hub, "/own");
    // Who does not ask for events, or not with GET, hears at once that there is nothing.
    for (method, fields, status) in [
        ("GET", "", 405),
        ("GET", "Accept: text/html, */*\r\n", 405),
        ("HEAD", EVENT_SOURCE, 405),
        ("POST", EVENT_SOURCE, 503),
    ] {
        let answer = hub.request(method, "/rooms/7", fields, b"");
        assert_eq!(answer.status, status, "{method} {fields} {answer:?}");
    }
    hub.get("/nowhere").assert_problem(404);
    hub.get("/own").assert_problem(503);
    hub.request("GET", "/nowhere", EVENT_SOURCE, b"body")
        .assert_problem(404);
    // What the hub itself serves never waits.
    drop(Sse::with(&hub, "/events", EVENT_SOURCE));

    let worker = StreamWorker::start(&hub);
    for (n, client) in clients.drain(..).enumerate() {
        let mut stream = Sse::read_head(client);
        let push = value!({"path": (format!("/rooms/{n}").as_str()), "data": "x"});
        assert_eq!(sse_push(&hub, push).status, 200);
        assert_eq!(stream.next().data, "x");
    }
    worker.wait_connected(20);
    // That worker has not come, and who asks for it waits to the end.
    assert_eq!(hub.stop().code(), Some(0));
    assert!(own.head().is_none());
}

#[test]
fn an_ordinary_route_serves_who_has_waited() {
    let hub = with_grace("600").start();
    let mut client = ask(&hub, "/hello");
    let mut again = ask(&hub, "/demo/ticks");
    let _worker = hub.worker();
    let answer = client.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    // The connection is as good as any.
    assert_eq!(client.get("/hello").status, 200);
    assert_eq!(again.head().expect("a head").status, 200);
}

#[test]
fn nobody_waits_longer_than_the_grace() {
    let start = Instant::now();
    let hub = with_grace("1.5").start();
    let mut client = ask(&hub, "/rooms/7");
    client.answer().assert_problem(404);
    let took = start.elapsed();
    println!("answered after {took:?}");
    assert!(took >= Duration::from_millis(1_450), "{took:?}");
    // From now on everybody hears at once; had it waited it would be that long again.
    let start = Instant::now();
    for _ in 0..20 {
        client.request("GET", "/rooms/7", EVENT_SOURCE, b"");
        client.answer().assert_problem(404);
    }
    assert!(start.elapsed() < Duration::from_secs(10));

    let hub = with_grace("0").start();
    ask(&hub, "/rooms/7").answer().assert_problem(404);
}

#[test]
fn a_hub_that_stops_lets_go_of_who_waits() {
    let mut hub = with_grace("600").start();
    let mut clients: Vec<Client> = (0..10).map(|_| ask(&hub, "/rooms/7")).collect();
    // They are all held when this, which came later, is answered.
    wait_until("all are connected", || {
        let path = format!("/proc/{}/fd", hub.process.pid());
        assert_eq!(hub.get("/health").status, 200);
        std::fs::read_dir(path).unwrap().count() > 10
    });
    assert_eq!(hub.stop().code(), Some(0));
    for client in &mut clients {
        // An answer would be the end to an `EventSource`; this is a reason to come back.
        assert!(client.head().is_none());
    }
}

/// Each client opens its stream once, the moment the hub is back, as an `EventSource` may.
fn streams_come_back_after_a_restart(asynchronous: bool) {
    const STREAMS: usize = 200;
    let hub = Hub::start();
    let port = hub.address.port();
    let mut setup = Setup::new(&hub, "streams");
    setup.asynchronous = asynchronous;
    let worker = setup.start(&hub);
    let mut streams: Vec<(String, Sse)> = (0..STREAMS)
        .map(|n| {
            let path = format!("/rooms/{n}");
            let stream = Sse::with(&hub, &path, EVENT_SOURCE);
            (path, stream)
        })
        .collect();
    let mut last = Vec::new();
    for (path, stream) in &mut streams {
        let push = value!({"path": path.as_str(), "data": "before"});
        assert_eq!(sse_push(&hub, push).status, 200);
        last.push(stream.next().id.expect("an id"));
    }
    let dir = hub.into_dir();
    for (_, stream) in &mut streams {
        stream.finish();
    }
    // Longer than by default, for machines that are busy.
    let hub = with_grace("20").port(port).start_in(dir);
    let start = Instant::now();
    let waiting: Vec<Client> = streams
        .iter()
        .zip(&last)
        .map(|((path, _), last)| {
            let fields = format!("{EVENT_SOURCE}Last-Event-ID: {last}\r\n");
            let mut client = hub.connect();
            client.request("GET", path, &fields, b"");
            client
        })
        .collect();
    for ((path, _), client) in streams.iter().zip(waiting) {
        let mut stream = Sse::read_head(client);
        let gap = stream.next().gap().expect("a gap");
        assert_eq!(gap.reason, "restart");
        let push = value!({"path": path.as_str(), "data": "after"});
        assert_eq!(sse_push(&hub, push).status, 200);
        assert_eq!(stream.next().data, "after");
    }
    println!(
        "{STREAMS} streams were back {:?} after the hub",
        start.elapsed()
    );
    assert_eq!(worker.connected().len(), 2 * STREAMS);
    wait_subscribers(&hub, 0);
}

#[test]
fn streams_come_back_by_themselves_when_the_hub_does() {
    streams_come_back_after_a_restart(false);
}

#[test]
fn streams_of_an_async_worker_come_back_when_the_hub_does() {
    streams_come_back_after_a_restart(true);
}
