//! Replay on `/events`: what a client that comes back is given, without a gap that it is not told of,
//! and without a doubled event.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use simd_json::json as value;
use simd_json::prelude::*;

use support::sse::{End, Message, Sse, emit, sequence, wait_subscribers};
use support::{Hub, HubOptions, Random, seed, wait_until};

/// Checks that these are consecutive events of one hub.
#[track_caller]
fn assert_gapless(messages: &[Message]) {
    for pair in messages.windows(2) {
        assert_eq!(pair[0].sequence() + 1, pair[1].sequence(), "{pair:?}");
        assert_eq!(pair[0].number() + 1, pair[1].number(), "{pair:?}");
    }
}

#[test]
fn what_was_missed_is_replayed_once() {
    let hub = Hub::start();
    let mut stream = Sse::open(&hub, "/events");
    (0..10).for_each(|n| emit(&hub, "s", "t", &n.to_string()));
    let first = stream.until(|m| m.number() == 9);
    assert_gapless(&first);
    let id = |n: usize| first[n].id.clone().unwrap();
    let query = format!("/events?last_event_id={}", id(7));
    let mut resumed = [
        (Sse::resume(&hub, "/events", &id(3)), 4),
        (Sse::open(&hub, &query), 8),
        (Sse::resume(&hub, "/events", &id(9)), 10),
        // The field is what a browser knows better than the page that made the address.
        (Sse::resume(&hub, &query, &id(8)), 9),
        (Sse::open(&hub, "/events"), 10),
        (Sse::with(&hub, "/events", "Last-Event-ID:\r\n"), 10),
    ];
    (10..13).for_each(|n| emit(&hub, "s", "t", &n.to_string()));
    for (stream, from) in &mut resumed {
        let seen = stream.until(|m| m.number() == 12);
        assert_eq!(seen[0].number(), *from);
        assert_gapless(&seen);
    }
}

#[test]
fn a_client_that_is_cut_off_before_its_first_event_resumes_too() {
    let hub = Hub::start();
    emit(&hub, "s", "t", "0");
    let mut stream = Sse::open(&hub, "/events");
    let id = stream.opening_id().expect("a stream begins with an id");
    stream.reset();
    emit(&hub, "s", "t", "1");
    let mut resumed = Sse::resume(&hub, "/events", &id);
    assert_eq!(resumed.opening_id(), None, "it has one");
    assert_eq!(resumed.next().number(), 1);

    let hub = HubOptions::new().args(&["--sse-history", "0"]).start();
    assert_eq!(Sse::open(&hub, "/events").opening_id(), None);
}

#[test]
fn filters_hold_for_what_is_replayed() {
    let hub = Hub::start();
    let mut stream = Sse::open(&hub, "/events");
    for n in 0..30 {
        let source = ["a", "b", "c"][n % 3];
        let event_type = ["t", "u"][n % 2];
        let data = format!(r#"{{"n":{n},"channel":"k{}"}}"#, n % 5);
        emit(&hub, source, event_type, &data);
    }
    let seen: Vec<Message> = (0..30).map(|_| stream.next()).collect();
    let first = seen[0].id.clone().unwrap();
    let wanted = |wants: &dyn Fn(usize) -> bool| -> Vec<Message> {
        let missed = seen.iter().enumerate().skip(1);
        missed
            .filter(|(n, _)| wants(*n))
            .map(|(_, m)| m.clone())
            .collect()
    };
    let cases: [(&str, &dyn Fn(usize) -> bool); 4] = [
        ("/events?source=a", &|n| n % 3 == 0),
        ("/events?source=b&type=u", &|n| n % 3 == 1 && n % 2 == 1),
        ("/events/k2", &|n| n % 5 == 2),
        ("/events/k0?type=t", &|n| n % 5 == 0 && n % 2 == 0),
    ];
    for (path, wants) in cases {
        let mut stream = Sse::resume(&hub, path, &first);
        for expected in wanted(wants) {
            assert_eq!(stream.next(), expected, "{path}");
        }
        // Then it is live, and nothing stood in between.
        let data = r#"{"channel":"k2","live":1}"#;
        for data in [data, &data.replace("k2", "k0")] {
            for event_type in ["t", "u"] {
                emit(&hub, "a", event_type, data);
                emit(&hub, "b", event_type, data);
            }
        }
        assert!(stream.next().data.contains("live"), "{path}");
    }
}

#[test]
fn what_is_no_longer_remembered_is_a_gap() {
    let hub = HubOptions::new().args(["--sse-history", "16"]).start();
    let mut stream = Sse::open(&hub, "/events");
    (0..40).for_each(|n| emit(&hub, "s", "t", &n.to_string()));
    let seen = stream.until(|m| m.number() == 39);
    assert_gapless(&seen);
    let epoch = seen[0].id.clone().unwrap()[..8].to_string();
    // The oldest that is remembered has the number 24; who has seen 23 misses nothing.
    let mut resumed = Sse::resume(&hub, "/events", seen[23].id.as_ref().unwrap());
    let replayed = resumed.until(|m| m.number() == 39);
    assert_eq!(replayed, seen[24..]);
    for last in [0, 5, 22] {
        let id = seen[last].id.clone().unwrap();
        let mut resumed = Sse::resume(&hub, "/events", &id);
        let gap = resumed.next().gap().expect("a gap");
        assert_eq!(gap.reason, "history");
        assert_eq!(gap.from, seen[last + 1].id);
        assert_eq!(gap.to, seen[23].id);
        assert_eq!(gap.id, seen[23].id, "a client lost here goes on rightly");
        assert_eq!(resumed.until(|m| m.number() == 39), seen[24..]);
    }
    for strange in [
        "nonsense".to_string(),
        format!("{epoch}-041"),
        format!("{epoch}-1000000"),
        format!("{epoch}-18446744073709551615"),
        format!("{epoch}-18446744073709551616"),
        "\u{ff}".repeat(300),
    ] {
        let mut resumed = Sse::resume(&hub, "/events", &strange);
        let gap = resumed.next().gap().expect("a gap");
        assert_eq!(gap.reason, "unknown", "{strange}");
        assert_eq!(resumed.until(|m| m.number() == 39), seen[24..]);
    }
}

#[test]
fn without_history_nothing_is_replayed() {
    let hub = HubOptions::new().args(["--sse-history", "0"]).start();
    let mut stream = Sse::open(&hub, "/events");
    (0..3).for_each(|n| emit(&hub, "s", "t", &n.to_string()));
    let first = stream.next().id.unwrap_or("00000000-1".into());
    let mut resumed = Sse::resume(&hub, "/events", &first);
    emit(&hub, "s", "t", "3");
    assert_eq!(resumed.next().number(), 3);
}

#[test]
fn another_run_of_the_hub_is_a_gap_and_no_wrong_replay() {
    let mut hub = Hub::start();
    let mut stream = Sse::open(&hub, "/events");
    (0..5).for_each(|n| emit(&hub, "old", "t", &n.to_string()));
    let seen = stream.until(|m| m.number() == 4);
    let port = hub.address.port();
    hub.process.kill();
    let (rest, end) = stream.finish();
    assert!(rest.is_empty() && end != End::Clean, "{rest:?} {end:?}");
    // The kernel takes the killed hub's sockets out of its rings after the process is gone.
    let start = Instant::now();
    wait_until("the port is free", || {
        TcpListener::bind(hub.address).is_ok()
    });
    println!("the port was free after {:?}", start.elapsed());
    let hub = HubOptions::new().port(port).start_in(hub.into_dir());
    // The new run has events of the same sequences.
    (0..8).for_each(|n| emit(&hub, "new", "t", &n.to_string()));
    let mut resumed = Sse::resume(&hub, "/events", seen[1].id.as_ref().unwrap());
    let gap = resumed.next().gap().expect("a gap");
    assert_eq!(gap.reason, "restart");
    let epoch = |id: &str| id[..8].to_string();
    let gap_id = gap.id.expect("where to go on");
    assert_ne!(epoch(&gap_id), epoch(seen[1].id.as_ref().unwrap()));
    assert_eq!(sequence(&gap_id), 0, "nothing of this run was lost");
    let replayed = resumed.until(|m| m.number() == 7);
    assert_eq!(replayed.len(), 8);
    assert!(replayed.iter().all(|m| m.member("source") == "new"));
    // With the gap's own id it is no gap any more.
    let mut again = Sse::resume(&hub, "/events", &gap_id);
    assert_eq!(again.until(|m| m.number() == 7), replayed);
}

#[test]
fn clients_that_come_and_go_see_every_event_once() {
    let hub = HubOptions::new().args(["--sse-history", "100000"]).start();
    let seed = seed("clients_that_come_and_go_see_every_event_once");
    let stop = AtomicBool::new(false);
    let connects = AtomicU64::new(0);
    const EVENTS: u64 = 3_000;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|index| {
                let (hub, stop, connects) = (&hub, &stop, &connects);
                let mut random = Random(seed ^ index << 40);
                let path = [
                    "/events",
                    "/events/k",
                    "/events?source=s",
                    "/events?type=tick",
                ];
                let path = path[index as usize];
                let mut stream = Sse::open(hub, path);
                scope.spawn(move || {
                    let mut seen: Vec<Message> = Vec::new();
                    let mut left = random.below(60);
                    while seen.last().is_none_or(|m| m.member("data") != DATA_LAST) {
                        if left > 0 || seen.is_empty() || stop.load(Ordering::SeqCst) {
                            seen.push(stream.next());
                            left = left.saturating_sub(1);
                            continue;
                        }
                        // Wherever it is cut, also within an event.
                        let last = seen.last().and_then(|m| m.id.clone()).unwrap();
                        match random.below(2) {
                            0 => stream.reset(),
                            _ => drop(stream),
                        }
                        connects.fetch_add(1, Ordering::SeqCst);
                        stream = Sse::resume(hub, path, &last);
                        left = random.below(60);
                    }
                    seen
                })
            })
            .collect();
        wait_subscribers(&hub, 4);
        let mut publisher = hub.connect();
        let mut send = |data: &str| {
            let body = value!({"source": "s", "event_type": "tick", "data": data}).encode();
            publisher.request("POST", "/internal/emit", "", body.as_bytes());
            assert_eq!(publisher.answer().text(), "{}");
        };
        for n in 0..EVENTS {
            send(&format!(r#"{{"channel":"k","n":{n}}}"#));
        }
        stop.store(true, Ordering::SeqCst);
        send(DATA_LAST);
        for client in clients {
            let seen = client.join().unwrap();
            assert_eq!(seen.len() as u64, EVENTS + 1);
            for (n, pair) in seen.windows(2).enumerate() {
                assert_eq!(pair[0].sequence() + 1, pair[1].sequence(), "{pair:?}");
                assert!(
                    pair[0].data.contains(&format!(r#"\"n\":{n}}}"#)),
                    "{pair:?}"
                );
            }
        }
    });
    let connects = connects.load(Ordering::SeqCst);
    println!("{connects} reconnects while {EVENTS} events were published");
    assert!(connects >= 50, "{connects}");
    wait_subscribers(&hub, 0);
}

const DATA_LAST: &str = r#"{"channel":"k","last":true}"#;
