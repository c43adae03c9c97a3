//! The HTTP policy against a real hub and a real worker: every vector is answered as stated, and what
//! follows a refusal on its connection is never taken for a request.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;
mod vectors;

use std::io::Write;

use support::{Client, Hub, HubOptions};
use vectors::Made;

/// What is pipelined behind every vector.
const FOLLOW_UP: &[u8] = b"GET /items/follow-up HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// One shard, so that an answer to one client shows that what others sent before was looked at.
fn hub() -> Hub {
    HubOptions::new().args(["--shards", "1"]).start()
}

/// Checks what comes back for a vector with the follow-up behind it.
#[track_caller]
fn check(client: &mut Client, vector: &Made, how: &str) {
    let name = &vector.name;
    let method = vector.bytes.split(|b| *b == b' ').next().unwrap();
    // To what is no request the hub answers as to GET; a refused HEAD must not have a body either.
    let method = match (vector.status, method.trim_ascii()) {
        (0, method) => String::from_utf8_lossy(method).into_owned(),
        (_, b"HEAD") => "HEAD".into(),
        _ => "GET".into(),
    };
    let answer = client.answer_to(&method);
    if vector.status != 0 {
        assert_eq!(answer.status, vector.status, "{name} {how}: {answer:?}");
        match &method[..] {
            "HEAD" => assert!(answer.body.is_empty(), "{name} {how}"),
            _ => drop(answer.assert_problem(vector.status)),
        }
        assert_eq!(answer.field("connection"), Some("close"), "{name} {how}");
        client.assert_closed();
        return;
    }
    assert!(
        matches!(answer.status, 200 | 204 | 404 | 405),
        "{name} {how}: {answer:?}"
    );
    if answer.field("connection") != Some("close") {
        assert_eq!(client.answer().text(), "follow-up", "{name} {how}");
    }
    client.assert_closed();
}

/// Sends the pieces and the follow-up. The hub may have closed before it has all of them.
fn send<'a>(client: &mut Client, pieces: impl IntoIterator<Item = &'a [u8]>) {
    for piece in pieces.into_iter().chain([FOLLOW_UP]) {
        if client.try_send(piece).is_err() {
            return;
        }
    }
}

/// Calls `f` with each vector, on a few threads.
fn for_each(vectors: &[Made], f: impl Fn(&Made) + Sync) {
    std::thread::scope(|scope| {
        for part in vectors.chunks(vectors.len().div_ceil(4)) {
            let f = &f;
            scope.spawn(move || part.iter().for_each(f));
        }
    });
}

#[test]
fn whole() {
    let hub = hub();
    let _worker = hub.worker();
    for_each(&vectors::all(), |vector| {
        let mut client = hub.connect();
        let bytes = [&vector.bytes[..], FOLLOW_UP].concat();
        // One write, so that the hub has the follow-up when it judges what is before it.
        let _ = client.try_send(bytes);
        check(&mut client, vector, "whole");
    });
    hub.wait_idle();
}

#[test]
fn byte_by_byte() {
    let hub = hub();
    let _worker = hub.worker();
    for_each(&vectors::all(), |vector| {
        let size = if vector.bytes.len() <= 600 { 1 } else { 1448 };
        let mut client = hub.connect();
        send(&mut client, vector.bytes.chunks(size));
        check(&mut client, vector, "by bytes");
    });
    hub.wait_idle();
}

#[test]
fn cut_at_every_place() {
    let hub = hub();
    let _worker = hub.worker();
    for_each(&vectors::all(), |vector| {
        // Of what is long by repetition, the places around its beginning and its end.
        let len = vector.bytes.len();
        let cuts: Vec<usize> = match len {
            0..=600 => (1..len).collect(),
            _ => (1..150).chain(len - 150..len).collect(),
        };
        for some in cuts.chunks(64) {
            let mut clients: Vec<(usize, Client)> =
                some.iter().map(|cut| (*cut, hub.connect())).collect();
            for (cut, client) in &mut clients {
                client.send(&vector.bytes[..*cut]);
            }
            assert_eq!(hub.get("/hello").status, 200);
            for (cut, client) in &mut clients {
                send(client, [&vector.bytes[*cut..]]);
                check(client, vector, &format!("cut at {cut}"));
            }
        }
    });
    hub.wait_idle();
}

/// A body that nobody reads holds a request. Whatever the hub does with the rest of it, no byte of it
/// is answered.
#[test]
fn a_body_that_is_never_read_is_never_a_request() {
    let hub = hub();
    let _worker = hub.worker();
    let hidden = b"GET /items/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    // More than a control path takes, so that each path answers at once.
    let length = 5 << 20;
    for path in ["/", "/nobody/is/here", "/health", "/events"] {
        for head in [
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"),
            format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n"
            ),
        ] {
            for count in [1, 100, 20_000] {
                let mut client = hub.connect();
                client.send(&head);
                let mut writer = client.writer();
                let rest = hidden.repeat(count);
                std::thread::scope(|scope| {
                    // The hub may close before it has taken all of it.
                    scope.spawn(move || writer.write_all(&rest).is_err());
                    let answer = client.answer();
                    assert!(answer.status < 500, "{path}: {answer:?}");
                    let text = answer.body.escape_ascii().to_string();
                    assert!(!text.contains("smuggled"), "{path}: {answer:?}");
                    // What the client still sends may be answered with a reset.
                    assert!(!matches!(client.fill(), Ok(1..)), "{path}: more came");
                });
            }
        }
    }
    hub.wait_idle();
}
