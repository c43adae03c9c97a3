//! `/events` as clients see it: heads, filters, channels, and what may be
//! published.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::collections::BTreeSet;

use simd_json::json as value;
use simd_json::prelude::*;

use support::sse::{Message, Sse, emit, post, sse_push, stream_count, try_emit, wait_subscribers};
use support::{Answer, Client, Hub, HubOptions, json};

/// What the head of every stream has, in any order; the date is checked apart.
fn assert_stream_fields(head: &Answer, more: &[(&str, &str)]) {
    let mut expected: BTreeSet<(String, String)> = [
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache, no-transform"),
        ("x-accel-buffering", "no"),
    ]
    .iter()
    .chain(more)
    .map(|(n, v)| (n.to_string(), v.to_string()))
    .collect();
    for (name, field) in &head.fields {
        let field = String::from_utf8(field.clone()).expect("text");
        let name = name.to_ascii_lowercase();
        if name == "date" {
            assert!(field.ends_with(" GMT"), "{field}");
        } else {
            assert!(
                expected.remove(&(name.clone(), field.clone())),
                "{name}: {field} in {head:?}"
            );
        }
    }
    assert!(expected.is_empty(), "{expected:?} missing in {head:?}");
}

/// Checks that the hub refuses, and names this member.
#[track_caller]
fn assert_field(answer: &Answer, field: &str) {
    answer.assert_problem(400);
    let body = json(&answer.body);
    assert_eq!(body.get_str("field"), Some(field), "{answer:?}");
}

#[test]
fn the_head_of_a_stream_is_as_documented() {
    let hub = Hub::start();
    let chunked = [("transfer-encoding", "chunked"), ("connection", "close")];
    let mut modern = Sse::open(&hub, "/events");
    assert!(modern.is_chunked());
    assert_stream_fields(&modern.head, &chunked);
    modern.retry();

    let mut client = hub.connect();
    client.send("GET /events HTTP/1.0\r\n\r\n");
    let mut old = Sse::read_head(client);
    assert!(!old.is_chunked());
    assert_stream_fields(&old.head, &[("connection", "close")]);

    let foreign = Sse::with(&hub, "/events/news", "Origin: http://page.example\r\n");
    let cors = [("access-control-allow-origin", "*")];
    assert_stream_fields(&foreign.head, &[&chunked[..], &cors].concat());

    let head = hub.request("HEAD", "/events", "", b"");
    assert_eq!(head.status, 200);
    let kept = |name: &str| head.field(name).map(str::to_string);
    assert_eq!(kept("content-type").as_deref(), Some("text/event-stream"));
    assert_eq!(
        kept("cache-control").as_deref(),
        Some("no-cache, no-transform")
    );
    assert_eq!(kept("x-accel-buffering").as_deref(), Some("no"));

    // The old client gets the same events, with nothing in between and nothing behind.
    emit(&hub, "test", "tick", "1");
    for stream in [&mut modern, &mut old] {
        let message = stream.next();
        assert_eq!(message.event, "tick");
        assert_eq!(
            message.data,
            r#"{"source":"test","event_type":"tick","data":"1"}"#
        );
        assert_eq!(message.retry, None);
    }
    wait_subscribers(&hub, 3);
}

#[test]
fn reconnection_times_differ_from_client_to_client() {
    let hub = Hub::start();
    let mut streams: Vec<Sse> = (0..24).map(|_| Sse::open(&hub, "/events")).collect();
    let times: BTreeSet<u64> = streams.iter_mut().map(Sse::retry).collect();
    assert!(
        times.iter().all(|ms| (1_000..=3_000).contains(ms)),
        "{times:?}"
    );
    // By chance a few may be equal.
    assert!(times.len() >= 16, "{times:?}");
    let spread = times.last().unwrap() - times.first().unwrap();
    assert!(spread > 500, "{times:?}");
}

#[test]
fn what_is_no_reading_is_refused() {
    let hub = Hub::start();
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer = hub.request(method, "/events", "", b"");
        answer.assert_problem(405);
        assert_eq!(answer.field("allow"), Some("GET, HEAD"));
    }
    hub.request("GET", "/events", "", b"body")
        .assert_problem(400);
    let chunked = "Transfer-Encoding: chunked\r\n";
    hub.request("GET", "/events/a", chunked, b"")
        .assert_problem(400);
    hub.get("/events/a/b").assert_problem(404);
    let answer = hub.request("OPTIONS", "/events", "", b"");
    assert_eq!(answer.field("allow"), Some("GET, HEAD, OPTIONS"));
    let preflight = "Origin: http://a.example\r\nAccess-Control-Request-Method: GET\r\n";
    let answer = hub.request("OPTIONS", "/events", preflight, b"");
    assert_eq!(answer.field("access-control-allow-origin"), Some("*"));
    assert_eq!(stream_count(&hub, "subscribers"), 0);
    // A path that only begins alike is nobody's.
    hub.get("/eventsource").assert_problem(404);
}

#[test]
fn filters_and_channels_let_pass_what_they_name() {
    let hub = Hub::start();
    let mut all = Sse::open(&hub, "/events");
    let mut from_a = Sse::open(&hub, "/events?source=a");
    let mut of_x = Sse::open(&hub, "/events?type=x%20y");
    let mut both = Sse::open(&hub, "/events?type=x%20y&source=b&unknown=1");
    let mut news = Sse::open(&hub, "/events/news");
    let mut cafe = Sse::open(&hub, "/events/caf%C3%A9");
    let mut news_from_a = Sse::open(&hub, "/events/news?source=a");
    for (source, event_type, data) in [
        ("a", "x y", "1"),
        ("b", "x y", "2"),
        ("b", "z", "3"),
        ("a", "z", "4 not JSON"),
        ("ab", "x", "5"),
    ] {
        emit(&hub, source, event_type, data);
    }
    // A channel is a string member of an object, and nothing else.
    for (source, data) in [
        ("a", r#"{"channel":"news","n":1}"#),
        ("b", r#" {"n":2, "channel" : "news"}"#),
        ("b", r#"{"channel":"café","n":3}"#),
        ("b", r#"{"channel":7,"n":4}"#),
        ("b", r#"[{"channel":"news"}]"#),
        ("b", r#"{"deeper":{"channel":"news"}}"#),
        ("b", r#"{"channel":"news""#),
        ("b", r#""channel":"news""#),
        ("b", r#"{"channel":"NEWS"}"#),
    ] {
        emit(&hub, source, "c", data);
    }
    // An object in the request is the same as its text.
    let body = r#"{"source":"c","event_type":"c","data":{"channel":"news","n":5}}"#;
    assert_eq!(post(&hub, "/internal/emit", body).text(), "{}");
    // What everybody waits for.
    for (source, event_type) in [("a", "end"), ("b", "x y")] {
        emit(
            &hub,
            source,
            event_type,
            r#"{"channel":"news","last":true}"#,
        );
    }
    emit(
        &hub,
        "b",
        "c",
        r#"{"channel":"caf\u00e9","escaped":"is the same","last":true}"#,
    );
    let last = |m: &Message| m.data.contains(r#"\"last\""#);
    let data = |stream: &mut Sse| -> Vec<String> {
        let seen = stream.until(last);
        let data = seen.iter().map(|m| m.member("data"));
        data.filter(|d| !d.contains("last")).collect()
    };
    assert_eq!(
        data(&mut from_a),
        ["1", "4 not JSON", r#"{"channel":"news","n":1}"#]
    );
    assert_eq!(data(&mut of_x), ["1", "2"]);
    assert_eq!(data(&mut both), ["2"]);
    assert_eq!(
        data(&mut news),
        [
            r#"{"channel":"news","n":1}"#,
            r#" {"n":2, "channel" : "news"}"#,
            r#"{"channel":"news","n":5}"#
        ]
    );
    assert_eq!(data(&mut news_from_a), [r#"{"channel":"news","n":1}"#]);
    assert_eq!(data(&mut cafe), [r#"{"channel":"café","n":3}"#]);
    let everything = data(&mut all);
    assert_eq!(everything.len(), 15, "{everything:?}");
}

#[test]
fn an_event_has_one_id_for_everybody() {
    let hub = HubOptions::new()
        .args(["--listen", "unix:web.sock"])
        .start();
    let unix = Client::unix(&hub.dir.path().join("web.sock"));
    let mut streams = [
        Sse::open(&hub, "/events"),
        Sse::open(&hub, "/events/one"),
        Sse::open(&hub, "/events?source=s"),
        Sse::on(unix, "/events", ""),
    ];
    assert_stream_fields(
        &streams[3].head.clone(),
        &[("transfer-encoding", "chunked"), ("connection", "close")],
    );
    for _ in 0..20 {
        emit(&hub, "s", "t", r#"{"channel":"one"}"#);
    }
    let mut before = 0;
    for _ in 0..20 {
        let messages: Vec<Message> = streams.iter_mut().map(Sse::next).collect();
        assert!(messages.iter().all(|m| *m == messages[0]), "{messages:?}");
        let sequence = messages[0].sequence();
        assert!(sequence > before);
        before = sequence;
    }
    assert_eq!(stream_count(&hub, "events"), 20);
    assert_eq!(stream_count(&hub, "deliveries"), 80);
}

#[test]
fn names_and_ids_that_would_split_an_event_are_refused() {
    let hub = Hub::start();
    let mut stream = Sse::open(&hub, "/events");
    let long = "n".repeat(257);
    for name in ["a\nb", "a\rb", "\r\n", "a\ndata: forged\n\n", &long] {
        assert_field(&try_emit(&hub, "s", name, "x"), "event_type");
        let push = value!({"path": "/x", "event_type": name, "data": "x"});
        assert_field(&sse_push(&hub, push), "event_type");
    }
    for id in ["1\n2", "1\r", "1\u{0}2", &long] {
        let push = value!({"path": "/x", "data": "x", "id": id});
        assert_field(&sse_push(&hub, push), "id");
    }
    let huge = "x".repeat(256 * 1024 + 1);
    let push = value!({"path": "/x", "data": huge.as_str()});
    assert_field(&sse_push(&hub, push), "data");
    // Each of them is a line, and a line takes seven bytes.
    let push = value!({"path": "/x", "data": ("\n".repeat(100_000).as_str())});
    assert_field(&sse_push(&hub, push), "data");
    for body in ["", "{", "[]", r#"{"source":"s"}"#] {
        post(&hub, "/internal/emit", body).assert_problem(400);
        post(&hub, "/internal/sse-push", body).assert_problem(400);
    }
    for push in [
        value!({"data": "x"}),
        value!({"path": "/x", "connection_id": "y", "data": "x"}),
        value!({"pattern": "/x/{y}", "path": "/x", "data": "x"}),
    ] {
        assert_field(&sse_push(&hub, push), "path");
    }
    let push = value!({"pattern": "/x/{y}/{z}", "params": {"y": "1"}, "data": "x"});
    assert_field(&sse_push(&hub, push), "params.z");
    let push = value!({"pattern": "/x/{y", "params": {}, "data": "x"});
    assert_field(&sse_push(&hub, push), "pattern");
    // Nothing of all that has reached anybody.
    emit(&hub, "s", "", "fine");
    let message = stream.next();
    assert_eq!(
        (message.event.as_str(), message.member("data")),
        ("message", "fine".to_string())
    );
    assert_eq!(message.sequence(), 1);
}

#[test]
fn streams_belong_to_get_routes() {
    let hub = Hub::start();
    for (route, field) in [
        (
            r#"{"method":"GET","path":"/a","replay":true}"#,
            "routes[0].replay",
        ),
        (
            r#"{"method":"GET","path":"/a","slow":"drop_oldest"}"#,
            "routes[0].slow",
        ),
        (
            r#"{"method":"POST","path":"/a","sse":true}"#,
            "routes[0].method",
        ),
    ] {
        let body = format!(r#"{{"name":"w","pid":1,"routes":[{route}]}}"#);
        let answer = post(&hub, "/internal/register", &body);
        assert_eq!(answer.status, 400, "{answer:?}");
        assert_field(&answer, field);
    }
    let unknown =
        r#"{"name":"w","pid":1,"routes":[{"method":"GET","path":"/a","sse":true,"slow":"drop"}]}"#;
    post(&hub, "/internal/register", unknown).assert_problem(400);
    let fine = r#"{"name":"w","pid":1,"routes":[{"method":"GET","path":"/a","sse":true,"slow":"disconnect","replay":true}]}"#;
    let answer = post(&hub, "/internal/register", fine);
    assert_eq!(answer.status, 200, "{answer:?}");
}
