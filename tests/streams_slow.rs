//! Clients that do not keep up: what each policy does, that it is counted and told, and that it does
//! not touch the neighbours.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::time::Instant;

use simd_json::json as value;
use simd_json::prelude::*;

use support::scratch::ScratchDir;
use support::sse::{End, Message, Sse, sse_push, stream_count, wait_subscribers};
use support::stream_worker::{Job, StreamWorker, start_reader};
use support::{Client, Hub, HubOptions, json, stream_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    stream_worker::run();
}

/// Bytes of each event: many kernel buffers' worth of them are sent.
const SIZE: usize = 32 * 1024;
/// Events between two looks; they fit a queue.
const BATCH: u64 = 5;
/// Events that may wait.
const QUEUE: &str = "8";

/// A stuck client with a neighbour that reads.
struct Pair {
    hub: Hub,
    worker: StreamWorker,
    /// Where both are connected; `None` for `/events`.
    path: Option<String>,
    stuck: Sse,
    neighbour: Sse,
    next: u64,
}

impl Pair {
    fn new(args: &[&str], path: Option<&str>) -> Pair {
        let hub = HubOptions::new()
            .args(["--sse-queue", QUEUE])
            .args(args)
            .start();
        let worker = StreamWorker::start(&hub);
        let at = path.unwrap_or("/events");
        let mut stuck = Sse::on(Client::with_small_window(hub.address), at, "");
        let mut neighbour = Sse::open(&hub, at);
        // Both have their heads, and nothing else is on its way to them.
        stuck.retry();
        neighbour.retry();
        Pair {
            worker,
            path: path.map(String::from),
            stuck,
            neighbour,
            next: 0,
            hub,
        }
    }

    /// Publishes so many; the neighbour gets each of them.
    fn publish(&mut self, count: u64) {
        let job = Job {
            path: self.path.clone(),
            count,
            first: self.next,
            size: SIZE,
            batch: 4,
            ..Job::default()
        };
        self.worker.publish(&self.hub, job);
        for number in self.next..self.next + count {
            let message = self.neighbour.next();
            assert_eq!(message.event, "tick", "the neighbour lost something");
            assert_eq!(message.number(), number, "the neighbour lost something");
        }
        self.next += count;
    }

    /// Publishes until what is counted under this name is at least `least`.
    fn publish_until(&mut self, name: &str, least: u64) {
        let start = Instant::now();
        while stream_count(&self.hub, name) < least {
            assert!(
                start.elapsed() < support::GUARD,
                "{name} stays below {least}"
            );
            self.publish(BATCH);
        }
    }
}

/// Goes through what a client was sent, first to last: what it got and what it was told it lost must
/// be everything. Returns how many were lost.
#[track_caller]
fn account(messages: &[Message]) -> u64 {
    let mut next = 0;
    let mut at = 1;
    let mut lost = 0;
    for message in messages {
        let Some(gap) = message.gap() else {
            assert_eq!(message.number(), next);
            if message.id.is_some() {
                assert_eq!(message.sequence(), at);
            }
            next += 1;
            at += 1;
            continue;
        };
        let count = gap.lost.expect("how many were lost");
        assert_eq!(gap.reason, "slow");
        assert!(count > 0);
        lost += count;
        next += count;
        if let (Some(from), Some(to)) = (&gap.from, &gap.to) {
            assert_eq!(support::sse::sequence(from), at, "{gap:?}");
            assert_eq!(support::sse::sequence(to), at + count - 1, "{gap:?}");
            assert_eq!(
                gap.id.as_ref(),
                Some(to),
                "a client lost here goes on behind it"
            );
        } else {
            assert_eq!((&gap.from, &gap.to, &gap.id), (&None, &None, &None));
        }
        at += count;
    }
    lost
}

/// What happens where events are dropped, whichever they are.
fn events_are_dropped(args: &[&str], path: Option<&str>, oldest: bool) {
    let mut pair = Pair::new(args, path);
    pair.publish_until("dropped", 20);
    let dropped = stream_count(&pair.hub, "dropped");
    assert_eq!(stream_count(&pair.hub, "disconnected_slow"), 0);
    // Now it reads.
    let mut seen = pair.stuck.until(|m| m.event == "sse_gap");
    let kept = seen.len() as u64 - 1;
    let gap = seen[seen.len() - 1].gap().unwrap();
    let last = pair.next - 1;
    if oldest {
        // What it gets behind the gap is the newest there is.
        seen.extend(pair.stuck.until(|m| m.number() == last));
    } else {
        // What was accepted is a prefix, and then there is nothing but the gap.
        assert_eq!(kept + gap.lost.unwrap(), pair.next);
    }
    // It keeps up from here on.
    pair.publish(1);
    pair.publish(1);
    let last = pair.next - 1;
    seen.extend(
        pair.stuck
            .until(|m| m.event == "sse_gap" || m.number() == last),
    );
    assert_eq!(account(&seen), dropped);
    assert_eq!(stream_count(&pair.hub, "dropped"), dropped);
    println!(
        "{dropped} of {} events were dropped, {kept} kept before",
        pair.next
    );
    wait_subscribers(&pair.hub, 2);
}

#[test]
fn newest_events_are_dropped_on_a_route_that_says_so() {
    let args = ["--sse-slow", "drop-oldest"];
    events_are_dropped(&args, Some("/newest/1"), false);
}

#[test]
fn newest_events_are_dropped_by_default() {
    events_are_dropped(&[], Some("/rooms/1"), false);
}

#[test]
fn oldest_events_are_dropped_on_a_route_that_says_so() {
    events_are_dropped(&[], Some("/oldest/1"), true);
}

#[test]
fn oldest_events_are_dropped_where_the_hub_is_told_so() {
    events_are_dropped(&["--sse-slow", "drop-oldest"], None, true);
}

#[test]
fn losses_without_ids_are_told_too() {
    events_are_dropped(&[], Some("/unnumbered/1"), true);
}

/// What happens where the connection is cut.
fn the_client_is_disconnected(args: &[&str], path: Option<&str>) {
    let mut pair = Pair::new(args, path);
    pair.publish_until("disconnected_slow", 1);
    assert_eq!(stream_count(&pair.hub, "disconnected_slow"), 1);
    let at = path.unwrap_or("/events").to_string();
    if path.is_some() {
        let told = pair.worker.wait_disconnected(1);
        assert_eq!(told[0].path, at);
    }
    let (mut seen, end) = pair.stuck.finish();
    assert_ne!(end, End::Clean, "what is cut must not look whole");
    let last = seen.last().and_then(|m| m.id.clone()).expect("an id");
    assert!((seen.len() as u64) < pair.next);
    // It comes back, and has lost nothing.
    let mut resumed = Sse::resume(&pair.hub, &at, &last);
    let last = pair.next - 1;
    seen.extend(resumed.until(|m| m.event == "sse_gap" || m.number() == last));
    assert_eq!(account(&seen), 0);
    wait_subscribers(&pair.hub, 2);
}

#[test]
fn a_route_may_have_slow_clients_disconnected() {
    the_client_is_disconnected(&["--sse-slow", "drop-newest"], Some("/cut/1"));
}

#[test]
fn the_hub_may_have_slow_clients_disconnected() {
    the_client_is_disconnected(&["--sse-slow", "disconnect"], None);
}

#[test]
fn a_publisher_is_told_that_its_only_client_is_slow() {
    let mut pair = Pair::new(&[], Some("/newest/1"));
    pair.publish_until("dropped", 1);
    let path = || Some("/newest/1".to_string());
    let stuck = pair.worker.connected()[0].id.clone();
    let to_stuck = Job {
        connection: Some(stuck.clone()),
        size: SIZE,
        ..Job::default()
    };
    assert_eq!(pair.worker.try_push(&pair.hub, to_stuck), "0 1 false false");
    let to_both = Job {
        path: path(),
        first: pair.next,
        ..Job::default()
    };
    assert_eq!(pair.worker.try_push(&pair.hub, to_both), "1 1 false false");
    let push = value!({"connection_id": stuck.as_str(), "data": "x"});
    sse_push(&pair.hub, push).assert_problem(503);
    let push = value!({"path": "/newest/1", "data": "x"});
    let answer = sse_push(&pair.hub, push);
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = json(&answer.body);
    assert_eq!(body.get_u64("delivered"), Some(1));
    assert_eq!(body.get_u64("dropped"), Some(1));
}

#[test]
fn a_stopped_client_is_told_when_it_goes_on() {
    let hub = HubOptions::new().args(["--sse-queue", QUEUE]).start();
    let worker = StreamWorker::start(&hub);
    let mut reader = start_reader(&hub, "/rooms/1");
    reader.wait_line("reading");
    reader.signal("STOP");
    let job = |first, count| Job {
        path: Some("/rooms/1".into()),
        count,
        first,
        size: SIZE,
        ..Job::default()
    };
    let mut next = 0;
    while stream_count(&hub, "dropped") == 0 {
        worker.publish(&hub, job(next, BATCH));
        next += BATCH;
        wait_until("the hub has taken them", || {
            stream_count(&hub, "events") == next
        });
    }
    let dropped = stream_count(&hub, "dropped");
    reader.signal("CONT");
    let told = reader.wait_line("sse_gap: ");
    assert!(
        told.contains(&format!(r#""lost":{dropped},"#)),
        "{told} of {dropped}"
    );
    worker.publish(&hub, job(next, 1));
    wait_until("it goes on", || {
        reader.stdout.contains(&format!("tick: {next}"))
    });
    let got = reader.stdout.find_all("tick: ").len() as u64;
    assert_eq!(got + dropped, next + 1);
}

/// A write for which there is no room must not wait for any, on whatever socket.
#[test]
fn one_that_never_reads_on_a_unix_socket_holds_nobody_up() {
    let dir = ScratchDir::new();
    let front = dir.path().join("front.sock");
    let listen = format!("unix:{}", front.display());
    let mut hub = HubOptions::new()
        .args(["--listen", &listen, "--write-timeout", "2"])
        .start_in(dir);
    let mut stuck = Sse::on(Client::unix(&front), "/events", "");
    stuck.retry();
    let mut neighbour = Sse::open(&hub, "/events");
    neighbour.retry();
    let mut publisher = hub.connect();
    // Many times what the kernel keeps for a Unix socket.
    let data = "x".repeat(5_000);
    for number in 0..400 {
        let body = format!(
            r#"{{"source":"s","event_type":"t","data":{{"number":{number},"rest":"{data}"}}}}"#
        );
        publisher.request("POST", "/internal/emit", "", body.as_bytes());
        assert_eq!(publisher.answer().status, 200);
        assert_eq!(neighbour.next().event, "t");
    }
    Sse::open(&hub, "/events").retry();
    // It goes by itself, and a newcomer like it does not keep the hub from stopping.
    wait_subscribers(&hub, 1);
    let mut another = Sse::on(Client::unix(&front), "/events", "");
    another.retry();
    for _ in 0..100 {
        let body = format!(r#"{{"source":"s","event_type":"t","data":"{data}"}}"#);
        publisher.request("POST", "/internal/emit", "", body.as_bytes());
        assert_eq!(publisher.answer().status, 200);
    }
    assert_eq!(hub.stop().code(), Some(0));
}

#[test]
fn a_client_that_never_reads_is_gone_within_half_a_minute() {
    let mut pair = Pair::new(&[], Some("/newest/1"));
    pair.publish_until("dropped", 1);
    let start = Instant::now();
    wait_subscribers(&pair.hub, 1);
    println!("gone after {:?}", start.elapsed());
    assert_eq!(pair.worker.wait_disconnected(1).len(), 1);
    pair.publish(1);
}
