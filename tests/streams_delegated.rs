//! Streams that workers delegate: who may connect, what the worker sees of it, whom pushes reach, and
//! that the end of each connection is told once.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use simd_json::json as value;
use simd_json::prelude::*;

use support::sse::{Message, Sse, post, sse_push, wait_subscribers};
use support::stream_worker::{Connected, Job, Setup, StreamWorker};
use support::{Answer, Client, Hub, HubOptions, json, stream_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    stream_worker::run();
}

/// A hub with a worker of each kind: blocking, woken by futex, and async, woken by eventfd.
fn each_kind(test: impl Fn(&Hub, &StreamWorker)) {
    for asynchronous in [false, true] {
        let hub = Hub::start();
        let mut setup = Setup::new(&hub, "streams");
        setup.asynchronous = asynchronous;
        println!("asynchronous: {asynchronous}");
        test(&hub, &setup.start(&hub));
    }
}

#[track_caller]
fn assert_delivered(answer: &Answer, count: u64) {
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = json(&answer.body);
    assert_eq!(body.get_u64("delivered"), Some(count), "{answer:?}");
    assert_eq!(body.get_u64("dropped"), Some(0), "{answer:?}");
}

/// Opens a stream, and says how the worker sees it.
fn open(hub: &Hub, worker: &StreamWorker, path: &str) -> (Sse, Connected) {
    let before = worker.connected().len();
    let stream = Sse::open(hub, path);
    let connected = worker.wait_connected(before + 1).pop().unwrap();
    (stream, connected)
}

#[test]
fn the_connect_handler_sees_the_request() {
    each_kind(|hub, worker| {
        let fields = "X-Mark: here\r\nLast-Event-ID: 00000000-5\r\n";
        let _stream = Sse::with(hub, "/rooms/caf%C3%A9?a=1&b=x%20y&a=2", fields);
        let seen = worker.wait_connected(1).pop().unwrap();
        assert!(!seen.id.is_empty());
        let pair = |n: &str, v: &str| (n.to_string(), v.to_string());
        let expected = Connected {
            id: seen.id.clone(),
            method: "GET".into(),
            path: "/rooms/caf%C3%A9".into(),
            route: "/rooms/{room}".into(),
            params: vec![pair("room", "café")],
            query: vec![pair("a", "1"), pair("b", "x y"), pair("a", "2")],
            mark: Some("here".into()),
            last: Some("00000000-5".into()),
            replayed: false,
            has_peer: true,
        };
        assert_eq!(seen, expected);
        let (_stream, seen) = open(hub, worker, "/seats/4/b?last_event_id=x-1");
        assert_eq!(seen.params, [pair("row", "4"), pair("seat", "b")]);
        assert_eq!(seen.last.as_deref(), Some("x-1"));
        assert_eq!(seen.mark, None);
        let (_stream, seen) = open(hub, worker, "/plain/x");
        assert_eq!(seen.last, None);
    });
}

#[test]
fn a_refusal_reaches_the_client_as_it_is() {
    each_kind(|hub, worker| {
        let mut client = hub.connect();
        for code in [401, 403, 404, 429, 500, 503] {
            // On one connection: a refusal does not end it.
            let answer = client.get(&format!("/rooms/7?verdict={code}"));
            assert_eq!(answer.status, code);
            assert_eq!(answer.text(), format!("not you: {code}"));
            assert_eq!(answer.field("x-why"), Some(code.to_string().as_str()));
        }
        let answer = client.get("/rooms/7?verdict=204");
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        assert_eq!(answer.field("x-why"), Some("stop"));
        assert_eq!(client.get("/rooms/7?verdict=panic").status, 500);
        worker.wait_connected(8);
        wait_subscribers(hub, 0);
        // What was refused is no connection: nobody is reached, and no end is told.
        let push = value!({"path": "/plain/7", "data": "x"});
        sse_push(hub, push).assert_problem(404);
        let (stream, connected) = open(hub, worker, "/rooms/7");
        drop(stream);
        let disconnected = worker.wait_disconnected(1);
        assert_eq!(disconnected[0].id, connected.id);
    });
}

#[test]
fn the_fields_of_one_who_accepts_go_out_with_the_stream() {
    each_kind(|hub, _| {
        let mut stream = Sse::open(hub, "/rooms/7?verdict=fields");
        let head = &stream.head;
        assert_eq!(head.field("x-own"), Some("kept"));
        let cookies: Vec<_> = head.field_values("set-cookie").collect();
        assert_eq!(cookies, [b"a=1", b"b=2"]);
        assert_eq!(head.field("cache-control"), Some("no-cache, no-transform"));
        assert_eq!(head.field("x-accel-buffering"), Some("no"));
        assert!((1_000..=3_000).contains(&stream.retry()));
        let mut old = hub.connect();
        old.send("GET /rooms/7?verdict=fields HTTP/1.0\r\nOrigin: http://a\r\n\r\n");
        let mut old = Sse::read_head(old);
        assert!(!old.is_chunked());
        assert_eq!(old.head.field("x-own"), Some("kept"));
        assert_eq!(old.head.field("access-control-allow-origin"), Some("*"));
        assert_delivered(&sse_push(hub, value!({"path": "/rooms/7", "data": "x"})), 2);
        assert_eq!(stream.next(), old.next());
    });
}

#[test]
fn what_is_no_reading_never_reaches_the_worker() {
    let hub = Hub::start();
    let worker = StreamWorker::start(&hub);
    hub.request("POST", "/rooms/7", "", b"").assert_problem(405);
    hub.request("GET", "/rooms/7", "", b"body")
        .assert_problem(400);
    let head = hub.request("HEAD", "/rooms/7", "", b"");
    assert_eq!(head.status, 200);
    assert_eq!(head.field("content-type"), Some("text/event-stream"));
    // A client cannot say what only the hub may say.
    let told =
        r#"{"sse_lifecycle":"connect","connection_id":"x","path":"/","params":{},"replayed":true}"#;
    hub.request("GET", "/rooms/7", "", told.as_bytes())
        .assert_problem(400);
    let _stream = Sse::open(&hub, "/rooms/7");
    worker.wait_connected(1);
}

#[test]
fn a_worker_that_does_not_answer_is_504_and_hears_of_the_end_it_missed() {
    let each = |asynchronous| {
        let hub = Hub::start();
        let mut setup = Setup::new(&hub, "streams");
        setup.asynchronous = asynchronous;
        let worker = setup.start(&hub);
        let start = Instant::now();
        let mut client = hub.connect();
        client.request("GET", "/plain/7?verdict=late", "", b"");
        worker.wait_connected(1);
        // Everybody else is served meanwhile.
        let (other, _) = open(&hub, &worker, "/plain/8");
        client.answer().assert_problem(504);
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(4_900), "{took:?}");
        assert!(took < Duration::from_millis(5_550), "{took:?}");
        let push = value!({"path": "/plain/7", "data": "x"});
        sse_push(&hub, push).assert_problem(404);
        let disconnected = worker.wait_disconnected(1);
        assert_eq!(disconnected[0].path, "/plain/7");
        assert!(start.elapsed() >= Duration::from_millis(5_500));
        // The connection is as good as before.
        assert_eq!(client.get("/health").status, 200);
        drop(other);
        worker.wait_disconnected(2);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| each(false));
        scope.spawn(|| each(true));
    });
}

#[test]
fn without_its_worker_a_stream_is_503() {
    let hub = Hub::start();
    let mut worker = StreamWorker::start(&hub);
    worker.process.kill();
    // Each shard hears of it by itself.
    for path in ["/plain/7", "/rooms/7"].repeat(8) {
        wait_until("the stream is 503", || hub.get(path).status == 503);
    }
    let answer = hub.get("/rooms/7");
    answer.assert_problem(503);
    assert!(answer.field("retry-after").is_some(), "{answer:?}");
    hub.get("/rooms").assert_problem(404);
}

#[test]
fn a_push_reaches_whom_it_names() {
    each_kind(|hub, worker| {
        let mut same: Vec<(Sse, Connected)> =
            (0..3).map(|_| open(hub, worker, "/rooms/7")).collect();
        // Written differently, it is the same path.
        same.push(open(hub, worker, "/rooms/%37?x=1"));
        let (mut other, _) = open(hub, worker, "/rooms/8");
        let (mut seat, _) = open(hub, worker, "/seats/4/b%20c");
        let ids: BTreeSet<&String> = same.iter().map(|(_, c)| &c.id).collect();
        assert_eq!(ids.len(), 4);

        let push = value!({"path": "/rooms/7", "event_type": "all", "data": "x", "retry": 5000});
        assert_delivered(&sse_push(hub, push), 4);
        let first: Vec<Message> = same.iter_mut().map(|(s, _)| s.next()).collect();
        assert!(first.iter().all(|m| *m == first[0]), "{first:?}");
        assert_eq!(
            (first[0].event.as_str(), first[0].retry),
            ("all", Some(5000))
        );
        for (n, (stream, connected)) in same.iter_mut().enumerate() {
            let id = connected.id.as_str();
            let push = value!({"connection_id": id, "event_type": "one", "data": n});
            assert_delivered(&sse_push(hub, push), 1);
            let message = stream.next();
            assert_eq!(
                (message.event.as_str(), message.number()),
                ("one", n as u64)
            );
            // Only what everybody on the path may replay has a number.
            assert_eq!(message.id, None);
        }
        let push = |params| {
            let pattern = "/seats/{row}/{seat}";
            sse_push(
                hub,
                value!({"pattern": pattern, "params": params, "data": {"n": [1]}}),
            )
        };
        assert_delivered(&push(value!({"row": 4, "seat": "b c"})), 1);
        assert_eq!(seat.next().data, r#"{"n":[1]}"#);
        // Remembered for whoever comes, with nobody there.
        assert_delivered(&push(value!({"row": 4, "seat": "d"})), 0);
        let push = value!({"path": "/rooms/8", "data": "last"});
        assert_delivered(&sse_push(hub, push), 1);
        assert_eq!(other.next().data, "last");
        // Nobody got anything else.
        let push = value!({"path": "/rooms/7", "data": "end"});
        assert_delivered(&sse_push(hub, push), 4);
        assert!(same.iter_mut().all(|(s, _)| s.next().data == "end"));
        // The worker reaches them in the same way.
        worker.publish(
            hub,
            Job {
                path: Some("/rooms/7".into()),
                count: 3,
                ..Job::default()
            },
        );
        let job = Job {
            connection: Some(same[2].1.id.clone()),
            first: 9,
            ..Job::default()
        };
        assert_eq!(worker.try_push(hub, job), "1 0 false false");
        for (n, (stream, _)) in same.iter_mut().enumerate() {
            let numbers: Vec<u64> = (0..3).map(|_| stream.next().number()).collect();
            assert_eq!(numbers, [0, 1, 2]);
            if n == 2 {
                assert_eq!(stream.next().number(), 9);
            }
        }
    });
}

#[test]
fn data_of_several_lines_arrives_as_such() {
    let hub = Hub::start();
    let _worker = StreamWorker::start(&hub);
    let mut chunked = Sse::open(&hub, "/plain/7");
    let mut client = hub.connect();
    client.send("GET /plain/7 HTTP/1.0\r\n\r\n");
    let mut plain = Sse::read_head(client);
    for (data, arrives) in [
        ("a\nb", "a\nb"),
        ("a\rb", "a\nb"),
        ("a\r\nb", "a\nb"),
        ("a\n\r\nb\r\rc", "a\n\nb\n\nc"),
        ("\n", "\n"),
        ("", ""),
        (" leading", " leading"),
        (
            "\u{feff}bom\n:no comment\nid: 5\n\ndata: x",
            "\u{feff}bom\n:no comment\nid: 5\n\ndata: x",
        ),
        ("trailing\r", "trailing\n"),
        ("\u{0}\u{2028}", "\u{0}\u{2028}"),
    ] {
        let push = value!({"path": "/plain/7", "event_type": "e: f", "id": " i", "data": data});
        assert_delivered(&sse_push(&hub, push), 2);
        let message = chunked.next();
        assert_eq!(message.data, arrives);
        assert_eq!(message.event, "e: f");
        assert_eq!(message.id.as_deref(), Some(" i"));
        assert_eq!(plain.next(), message);
    }
    let large = "0123456789abcdef".repeat(16 * 1024);
    let push = value!({"path": "/plain/7", "data": large.as_str()});
    assert_delivered(&sse_push(&hub, push), 2);
    assert_eq!(chunked.next().data, large);
    assert_eq!(plain.next().data, large);
}

#[test]
fn who_is_not_there_is_404_and_who_is_leaving_410() {
    let hub = Hub::start();
    let worker = StreamWorker::start(&hub);
    for push in [
        value!({"path": "/plain/7", "data": "x"}),
        value!({"path": "/nowhere", "data": "x"}),
        value!({"connection_id": "nobody", "data": "x"}),
        value!({"connection_id": "00000000.1", "data": "x"}),
    ] {
        sse_push(&hub, push).assert_problem(404);
    }
    let gone = Job {
        connection: Some("00000000.1".into()),
        ..Job::default()
    };
    assert_eq!(worker.try_push(&hub, gone), "0 0 true false");
    // The worker's handler is busy with its end.
    let (stream, connected) = open(&hub, &worker, "/plain/7?bye=hold");
    drop(stream);
    worker.wait_disconnected(1);
    let id = connected.id.as_str();
    sse_push(&hub, value!({"connection_id": id, "data": "x"})).assert_problem(410);
    sse_push(&hub, value!({"path": "/plain/7", "data": "x"})).assert_problem(410);
    let leaving = Job {
        connection: Some(id.into()),
        ..Job::default()
    };
    assert_eq!(worker.try_push(&hub, leaving), "0 0 false true");
    worker.release(&hub);
    wait_until("it is forgotten", || {
        sse_push(&hub, value!({"connection_id": id, "data": "x"})).status == 404
    });
}

#[test]
fn what_is_pushed_while_a_client_connects_is_not_lost() {
    each_kind(|hub, _| {
        for round in 0..25 {
            let path = format!("/rooms/{round}?verdict=push");
            let mut stream = Sse::open(hub, &path);
            let data: Vec<String> = (0..3).map(|_| stream.next().data).collect();
            assert_eq!(data, ["to me", "to all", "to me again"]);
            let mut stream = Sse::open(hub, &format!("/plain/{round}?verdict=after"));
            let numbers: Vec<u64> = (0..20).map(|_| stream.next().number()).collect();
            assert_eq!(numbers, (0..20).collect::<Vec<_>>());
        }
    });
}

#[test]
fn the_end_of_each_connection_is_told_once() {
    each_kind(|hub, worker| {
        let start = Instant::now();
        let (closing, first) = open(hub, worker, "/rooms/a");
        let (resetting, second) = open(hub, worker, "/rooms/b%2Fc");
        let (mut half, third) = open(hub, worker, "/rooms/c");
        wait_until("some time has passed", || {
            start.elapsed() > Duration::from_millis(150)
        });
        drop(closing);
        assert_eq!(worker.wait_disconnected(1)[0].id, first.id);
        resetting.reset();
        assert_eq!(worker.wait_disconnected(2)[1].id, second.id);
        // One that says it will send no more is gone too: no browser does so and stays.
        half.client().finish_sending();
        let told = worker.wait_disconnected(3);
        assert_eq!(told[2].id, third.id);
        let passed = start.elapsed().as_millis() as u64;
        for told in &told {
            assert!((50..=passed).contains(&told.lasted_ms), "{told:?}");
        }
        assert_eq!(told[1].path, "/rooms/b%2Fc");
        assert_eq!(told[1].room.as_deref(), Some("b/c"));

        // Many at once, in each way.
        let mut streams: Vec<Sse> = (0..200)
            .map(|n| Sse::open(hub, &format!("/rooms/{}", n % 7)))
            .collect();
        let connected = worker.wait_connected(203);
        let push = value!({"path": "/rooms/3", "data": "unread"});
        sse_push(hub, push);
        while let Some(stream) = streams.pop() {
            match streams.len() % 2 {
                0 => stream.reset(),
                _ => drop(stream),
            }
        }
        let told = worker.wait_disconnected(203);
        let ids = |ids: Vec<&String>| ids.into_iter().cloned().collect::<BTreeSet<String>>();
        let connected = ids(connected.iter().map(|c| &c.id).collect());
        assert_eq!(connected.len(), 203);
        assert_eq!(ids(told.iter().map(|d| &d.id).collect()), connected);
        wait_subscribers(hub, 0);
        // None of them a second time, for the next is told after them.
        drop(open(hub, worker, "/rooms/last"));
        assert_eq!(
            worker.wait_disconnected(204).last().unwrap().path,
            "/rooms/last"
        );
    });
}

#[test]
fn a_path_is_replayed_to_who_comes_back() {
    let hub = HubOptions::new().args(["--sse-history", "16"]).start();
    let worker = StreamWorker::start(&hub);
    let push = |path: &str, n: u64| {
        sse_push(&hub, value!({"path": path, "data": n.to_string()}));
    };
    let (mut stream, connected) = open(&hub, &worker, "/rooms/7");
    let (mut other, _) = open(&hub, &worker, "/rooms/8");
    for n in 0..10 {
        push("/rooms/7", n);
        push("/rooms/8", 100 + n);
        let id = connected.id.as_str();
        sse_push(
            &hub,
            value!({"connection_id": id, "id": "own", "data": "to one"}),
        );
    }
    let mut seen = stream.until(|m| m.data == "9");
    // Events for one connection are not for others, and move nobody's place.
    seen.retain(|m| m.data != "to one");
    assert_eq!(seen.len(), 10);
    assert!(
        other
            .until(|m| m.data == "109")
            .iter()
            .all(|m| m.number() >= 100)
    );
    drop(stream);
    // Nobody is there, and yet it is remembered.
    worker.wait_disconnected(1);
    (10..14).for_each(|n| push("/rooms/7", n));
    let last = seen[4].id.as_deref().unwrap();
    let mut stream = Sse::resume(&hub, "/rooms/7", last);
    let connected = worker.wait_connected(3).pop().unwrap();
    assert_eq!(connected.last.as_deref(), Some(last));
    let replayed = stream.until(|m| m.data == "13");
    let numbers: Vec<u64> = replayed.iter().map(Message::number).collect();
    assert_eq!(numbers, (5..14).collect::<Vec<_>>());
    assert_eq!(replayed[..5], seen[5..]);
    // More than is remembered.
    (14..40).for_each(|n| push("/rooms/7", n));
    let live = stream.until(|m| m.data == "39");
    assert_eq!(live.len(), 26);
    let mut late = Sse::resume(&hub, "/rooms/7", last);
    let gap = late.next().gap().expect("a gap");
    assert_eq!((gap.reason.as_str(), &gap.to), ("history", &live[9].id));
    assert_eq!(late.until(|m| m.data == "39"), live[10..]);
    // A route without replay has no ids, and no gaps.
    let mut plain = Sse::resume(&hub, "/plain/7", last);
    push("/plain/7", 1);
    let message = plain.next();
    assert_eq!((message.id, message.data.as_str()), (None, "1"));
}

#[test]
fn a_unix_socket_serves_streams_too() {
    let hub = HubOptions::new()
        .args(["--listen", "unix:web.sock"])
        .start();
    let worker = StreamWorker::start(&hub);
    let client = Client::unix(&hub.dir.path().join("web.sock"));
    let mut stream = Sse::on(client, "/rooms/7", "");
    assert!(!worker.wait_connected(1)[0].has_peer);
    assert_delivered(
        &sse_push(&hub, value!({"path": "/rooms/7", "data": "x"})),
        1,
    );
    assert_eq!(stream.next().data, "x");
    drop(stream);
    worker.wait_disconnected(1);
    post(&hub, "/internal/sse-push", "{}").assert_problem(400);
}
