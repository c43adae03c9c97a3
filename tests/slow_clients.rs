//! Clients that send or read as slowly as they may, hundreds of them, on the worker that others want too:
//! what a lane has is never all theirs.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::io::Write;
use std::time::Instant;

use simd_json::prelude::*;
use slotway::limits::SHORT_STREAM_FRAME;
use support::client::{Client, request_bytes};
use support::pattern::pattern;
use support::{Hub, HubOptions, wait_until};

/// Clients of each kind.
const MANY: usize = 80;

/// Fewer of those who read: each has its time until it is cut off.
const READERS: usize = 32;

/// One shard, so that all of them share one lane.
fn hub() -> Hub {
    HubOptions::new().args(["--shards", "1"]).start()
}

/// Requests of all usual kinds, each answered.
#[track_caller]
fn check_served(hub: &Hub, what: &str) {
    let start = Instant::now();
    for round in 0..20 {
        let mut client = hub.connect();
        for _ in 0..3 {
            assert_eq!(client.get("/hello").text(), "Hello, World!", "{what}");
        }
        for length in [10, 3_000, 7_000, 30_000, 200_000] {
            let body = pattern(round, length);
            let mut writer = client.writer();
            let answer = std::thread::scope(|scope| {
                scope.spawn(move || writer.write_all(&request_bytes("POST", "/echo", "", body)));
                client.answer()
            });
            assert_eq!(answer.status, 200, "{what}: {answer:?}");
            assert!(
                answer.body == body,
                "{what}: {length} bytes came back changed"
            );
        }
    }
    println!("{what}: 160 requests took {:?}", start.elapsed());
}

fn slow_uploads(hub: &Hub, fields: &str, sent: &[u8]) -> Vec<Client> {
    let head = format!("POST /count HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let clients = (0..MANY).map(|_| {
        let mut client = hub.connect();
        client.send(&head);
        client.send(sent);
        client
    });
    clients.collect()
}

#[test]
fn slow_uploads_leave_room_for_others() {
    let hub = hub();
    let _worker = hub.worker();
    check_served(&hub, "alone");
    let mut slow = Vec::new();
    for (kind, fields, sent) in [
        ("small", "Content-Length: 3000\r\n", &b"0123456789"[..]),
        ("contiguous", "Content-Length: 60000\r\n", b"0123456789"),
        ("large", "Content-Length: 400000\r\n", b"0123456789"),
        ("streamed", "Content-Length: 9000000\r\n", b"0123456789"),
        (
            "chunked",
            "Transfer-Encoding: chunked\r\n",
            b"ffff\r\n0123456789",
        ),
        ("chunk sizes", "Transfer-Encoding: chunked\r\n", b"ff"),
    ] {
        slow.extend(slow_uploads(&hub, fields, sent));
        check_served(
            &hub,
            &format!("beside {} slow uploads, at last {kind}", slow.len()),
        );
    }
    drop(slow);
    hub.wait_idle();
}

#[test]
fn a_client_that_sends_little_at_once_holds_a_short_frame() {
    const SLOT: usize = 4096;
    // So many that a sixteenth of them is more than the longest frame.
    let hub = HubOptions::new()
        .args(["--shards", "1", "--slots", "1024"])
        .args(["--slot-size", &SLOT.to_string()])
        .start();
    let _worker = hub.worker();
    let short = (SHORT_STREAM_FRAME / SLOT) as u64;
    let mut client = hub.connect();
    client.send("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n");
    for _ in 0..20 {
        wait_until("a frame waits for the client", || {
            hub.slots_in_use() >= short
        });
        let held = hub.slots_in_use();
        assert!(held < 2 * short, "{held} slots, {short} are a short frame");
        client.send("0123456789");
    }
    drop(client);
    hub.wait_idle();
}

#[test]
fn slow_uploads_leave_a_thread_to_others() {
    let hub = hub();
    let _worker = hub.worker_with("demo", &["--threads", "2"]);
    let mut slow = slow_uploads(&hub, "Transfer-Encoding: chunked\r\n", b"5\r\n01234");
    check_served(&hub, "beside slow uploads for two threads");
    // Those who had to wait for a thread get one, one after the other.
    for client in &mut slow {
        client.send(b"\r\n0\r\n\r\n");
    }
    for mut client in slow {
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, "5"));
    }
    hub.wait_idle();
}

/// A client that sends bodies of this length to be echoed, one behind the other, and reads no answer.
fn asks_for_echoes(hub: &Hub, length: usize) -> Client {
    let mut client = Client::with_small_window(hub.address);
    let request = request_bytes("POST", "/echo", "", pattern(0, length));
    // The hub stops reading when its answers are not read.
    let mut writer = client.writer();
    std::thread::spawn(move || (0..20).try_for_each(|_| writer.write_all(&request)));
    client.fill().expect("an answer begins");
    client
}

#[test]
fn slow_readers_leave_room_for_others() {
    let hub = hub();
    let _worker = hub.worker();
    let mut slow = Vec::new();
    for _ in 0..READERS {
        let mut client = Client::with_small_window(hub.address);
        client.request("GET", "/bytes/50000000", "", b"");
        slow.push(client);
    }
    for client in &mut slow {
        // Those who find no memory yet wait for it, as do others behind slow readers.
        client.fill().expect("an answer begins");
    }
    check_served(&hub, "beside streams that are not read");
    // Whole answers, one behind the other on each connection.
    slow.extend((0..READERS).map(|_| asks_for_echoes(&hub, 400_000)));
    check_served(&hub, "beside whole answers that are not read");
    let answer = hub.get("/bytes/3000000");
    assert_eq!(
        answer.body.len(),
        3_000_000,
        "who reads gets a stream through"
    );
    drop(slow);
    hub.wait_idle();
}

#[test]
fn whole_answers_that_are_not_read_keep_no_exchange() {
    // More of them than there are exchanges. They hold no slot either, once they are copied, so nobody
    // cuts them off before they have had half a minute.
    let hub = HubOptions::new()
        .args(["--shards", "1", "--slots", "64"])
        .start();
    let _worker = hub.worker();
    let start = Instant::now();
    let mut slow: Vec<Client> = Vec::new();
    while slow.len() < 70 {
        slow.push(asks_for_echoes(&hub, 40_000));
        assert_eq!(hub.get("/hello").text(), "Hello, World!");
    }
    println!("with {} of them: {:?}", slow.len(), start.elapsed());
    let open = hub.health()["connections"]["open"].as_u64();
    assert!(
        open >= Some(slow.len() as u64),
        "{open:?}: some were cut off"
    );
    drop(slow);
    hub.wait_idle();
}
