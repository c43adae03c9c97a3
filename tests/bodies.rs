//! Bodies of every size in both directions, most of them far larger than the memory they go through.
//! Every byte is checked by its place, and the hub's memory is watched.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::io::Write;

use support::client::{Answer, Client, request_bytes};
use support::pattern::{Checker, pattern};
use support::{Hub, HubOptions, Random, seed, test_worker};

const MIB: u64 = 1024 * 1024;
/// What a hub may grow by while bodies of any size go through it: buffers of connections, not bodies.
const GROWTH_KIB: u64 = 32 * 1024;

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    test_worker::run();
}

/// A hub whose lanes hold 256 KiB in each direction, and which takes bodies of any size.
fn hub_with_small_lanes() -> Hub {
    HubOptions::new()
        .args(["--slots", "64", "--slot-size", "4096", "--shards", "1"])
        .args(["--max-body", "0"])
        .start()
}

fn send_pattern(mut out: Box<dyn Write + Send>, length: u64) {
    let mut sent = 0;
    while sent < length {
        let part = pattern(sent, (length - sent).min(400_000) as usize);
        out.write_all(part).expect("the hub takes the body");
        sent += part.len() as u64;
    }
}

fn send_pattern_chunked(mut out: Box<dyn Write + Send>, length: u64, mut random: Random) {
    let mut sent = 0;
    while sent < length {
        let most = 1 + random.below(150_000);
        let part = pattern(sent, (length - sent).min(most) as usize);
        let chunk = [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
        out.write_all(&chunk).expect("the hub takes the body");
        sent += part.len() as u64;
    }
    out.write_all(b"0\r\n\r\n").expect("the hub takes the end");
}

/// Uploads the pattern to `path` and checks that it comes back.
fn echo_pattern(client: &mut Client, path: &str, length: u64) -> Answer {
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
    ));
    let writer = client.writer();
    std::thread::scope(|scope| {
        scope.spawn(move || send_pattern(writer, length));
        receive_pattern(client, length)
    })
}

/// Receives an answer whose body is the pattern.
#[track_caller]
fn receive_pattern(client: &mut Client, length: u64) -> Answer {
    let mut checker = Checker::default();
    let mut other = Vec::new();
    let answer = client.answer_streamed("GET", |part| {
        if checker.take(part).is_err() {
            other.extend_from_slice(&part[..part.len().min(400)]);
        }
    });
    assert_eq!(answer.status, 200, "{answer:?}: {}", other.escape_ascii());
    assert!(other.is_empty(), "byte {} is wrong", checker.seen);
    assert_eq!(checker.seen, length);
    answer
}

#[test]
fn echoes_around_every_boundary() {
    let hub = hub_with_small_lanes();
    let _worker = hub.worker();
    let mut client = hub.connect();
    // Around the slot, the frame, a quarter of the arena (contiguous below it) and the arena.
    for boundary in [1u64, 64, 4096, 16_384, 65_536, 262_144, MIB] {
        for length in boundary.saturating_sub(300)..=boundary + 3 {
            // Of the lengths below a boundary the nearest, and those where the head tips it over.
            if length + 3 < boundary && length % 37 != 0 {
                continue;
            }
            let body = pattern(0, length.min(1_000_000) as usize);
            let mut writer = client.writer();
            let answer = std::thread::scope(|scope| {
                scope.spawn(move || {
                    let bytes = request_bytes("POST", "/echo", "Content-Type: a/b\r\n", body);
                    writer.write_all(&bytes).unwrap();
                });
                client.answer()
            });
            assert_eq!(answer.status, 200, "{length}: {answer:?}");
            assert!(answer.body == body, "{length} bytes came back changed");
        }
    }
    hub.wait_idle();
}

#[test]
fn echoes_of_64_kib_and_1_mib_by_a_default_hub() {
    let (hub, _worker) = Hub::with_worker();
    let agent = ureq::Agent::new_with_defaults();
    for length in [64 * 1024, 1024 * 1024] {
        for round in 0..5 {
            let body = pattern(round, length.min(1_000_000));
            let mut answer = agent.post(hub.url("/echo")).send(body).unwrap();
            assert_eq!(answer.status(), 200);
            let limit = answer.body_mut().with_config().limit(4 * MIB);
            assert!(limit.read_to_vec().unwrap() == body, "{length}");
        }
    }
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = hub.connect();
                for length in [64 * 1024, MIB, 100_000] {
                    echo_pattern(&mut client, "/echo", length);
                }
            });
        }
    });
    hub.wait_idle();
}

#[test]
fn uploads_larger_than_the_lane() {
    let hub = hub_with_small_lanes();
    let _worker = hub.worker();
    let _checker = test_worker::start_blocking(&hub, "checker");
    let before = hub.process.memory_kib("VmRSS");
    for (path, length, expected) in [
        ("/count", 64 * MIB + 17, (64 * MIB + 17).to_string()),
        ("/check", 64 * MIB - 1, format!("right: {}", 64 * MIB - 1)),
    ] {
        let mut client = hub.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
        ));
        send_pattern(client.writer(), length);
        assert_eq!(client.answer().text(), expected);
        assert_eq!(client.get("/hello").text(), "Hello, World!");
    }
    assert_bounded(&hub, before);
    hub.wait_idle();
}

#[test]
fn downloads_larger_than_the_lane() {
    let hub = hub_with_small_lanes();
    let _worker = hub.worker();
    let _checker = test_worker::start_blocking(&hub, "checker");
    let before = hub.process.memory_kib("VmRSS");
    let length = 64 * MIB + 5;
    let mut client = hub.connect();
    let mut seen = 0;
    client.request("GET", &format!("/bytes/{length}"), "", b"");
    client.answer_streamed("GET", |part| seen += part.len() as u64);
    assert_eq!(seen, length);

    client.request("GET", &format!("/pattern/{length}"), "", b"");
    let answer = receive_pattern(&mut client, length);
    assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
    client.request("GET", &format!("/sized/{length}"), "", b"");
    let answer = receive_pattern(&mut client, length);
    assert_eq!(answer.field("content-length"), Some(&*length.to_string()));
    assert_bounded(&hub, before);
    hub.wait_idle();
}

#[test]
fn both_directions_at_once_larger_than_the_lane() {
    let hub = hub_with_small_lanes();
    let _worker = hub.worker();
    let _checker = test_worker::start_blocking(&hub, "checker");
    let before = hub.process.memory_kib("VmRSS");
    echo_pattern(&mut hub.connect(), "/echo", 64 * MIB + 3);
    echo_pattern(&mut hub.connect(), "/relay", 64 * MIB + 3);
    assert_bounded(&hub, before);
    hub.wait_idle();
}

#[test]
fn a_quarter_gibibyte_each_way_in_bounded_memory() {
    let hub = hub_with_small_lanes();
    let worker = hub.worker();
    let before = hub.process.memory_kib("VmRSS");
    let worker_before = worker.process.memory_kib("VmRSS");
    let length = 256 * MIB;
    let mut client = hub.connect();
    client.send(format!(
        "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
    ));
    send_pattern(client.writer(), length);
    assert_eq!(client.answer().text(), length.to_string());
    let mut seen = 0;
    client.request("GET", &format!("/bytes/{length}"), "", b"");
    client.answer_streamed("GET", |part| seen += part.len() as u64);
    assert_eq!(seen, length);
    assert_bounded(&hub, before);
    let grown = worker
        .process
        .memory_kib("VmHWM")
        .saturating_sub(worker_before);
    assert!(grown < GROWTH_KIB, "the worker grew by {grown} KiB");
}

#[test]
fn chunked_uploads_of_unknown_length() {
    let hub = hub_with_small_lanes();
    let _worker = hub.worker();
    let _checker = test_worker::start_blocking(&hub, "checker");
    let seed = seed("chunked uploads of unknown length");
    let mut client = hub.connect();
    for (round, length) in [0, 1, 4095, 4097, 70_000, 300_000, 10 * MIB]
        .into_iter()
        .enumerate()
    {
        for path in ["/check", "/relay"] {
            client.send(format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            ));
            let writer = client.writer();
            let random = Random(seed + round as u64);
            std::thread::scope(|scope| {
                scope.spawn(move || send_pattern_chunked(writer, length, random));
                if path == "/check" {
                    assert_eq!(client.answer().text(), format!("right: {length}"));
                } else {
                    receive_pattern(&mut client, length);
                }
            });
        }
    }
    hub.wait_idle();
}

#[test]
fn many_transfers_share_a_small_lane() {
    let hub = hub_with_small_lanes();
    let _worker = hub.worker_with("demo", &["--threads", "4"]);
    let before = hub.process.memory_kib("VmRSS");
    std::thread::scope(|scope| {
        for index in 0..12u64 {
            let hub = &hub;
            scope.spawn(move || {
                let mut client = hub.connect();
                for round in 0..3 {
                    echo_pattern(&mut client, "/echo", 200_000 * (1 + (index + round) % 5));
                    assert_eq!(client.get("/hello").text(), "Hello, World!");
                }
            });
        }
    });
    assert_bounded(&hub, before);
    hub.wait_idle();
}

/// Uploads that wait for a thread of the worker must not take the memory that those who have one
/// need to finish.
#[test]
fn more_large_uploads_than_threads_all_finish() {
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let _worker = hub.worker_with("demo", &["--threads", "2"]);
    std::thread::scope(|scope| {
        for index in 0..24 {
            let hub = &hub;
            scope.spawn(move || {
                let length = 3 * MIB + index;
                let mut client = hub.connect();
                client.send(format!(
                    "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"
                ));
                send_pattern(client.writer(), length);
                assert_eq!(client.answer().text(), length.to_string());
            });
        }
    });
    hub.wait_idle();
}

/// A transfer whose client does not read must not keep the worker from other clients.
#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    let hub = hub_with_small_lanes();
    let _worker = hub.worker_with("demo", &["--threads", "4"]);
    let mut lazy: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = hub.connect();
            client.request("GET", &format!("/bytes/{}", 64 * MIB), "", b"");
            client
        })
        .collect();
    for client in &mut lazy {
        assert_eq!(client.head().expect("a head").status, 200);
    }
    for _ in 0..50 {
        assert_eq!(hub.get("/hello").text(), "Hello, World!");
    }
    drop(lazy);
    hub.wait_idle();
}

#[test]
fn a_client_that_vanishes_while_uploading_leaves_no_slot_in_use() {
    let hub = hub_with_small_lanes();
    let _worker = hub.worker_with("demo", &["--threads", "4"]);
    let heads = [
        // Streamed, contiguous, of unknown length.
        "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n",
        "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
    ];
    for head in heads {
        for sent in [0, 10, 5_000, 29_000, 100_000] {
            for abrupt in [false, true] {
                let mut client = hub.connect();
                client.send(head);
                // An echo is answered meanwhile; what fits the buffers of the kernel goes out.
                let fits = if head.contains("30000") { 29_000 } else { sent };
                client.send(pattern(0, sent.min(fits)));
                if abrupt {
                    client.reset();
                } else {
                    drop(client);
                }
            }
        }
        hub.wait_idle();
    }
    assert_eq!(hub.get("/hello").text(), "Hello, World!");
}

#[test]
fn a_client_that_vanishes_while_downloading_leaves_no_slot_in_use() {
    let hub = hub_with_small_lanes();
    let _worker = hub.worker_with("demo", &["--threads", "4"]);
    let _checker = test_worker::start_blocking(&hub, "checker");
    for path in ["/bytes/100000000", "/pattern/100000000", "/sized/100000000"] {
        for wanted in [0, 1, 100_000, 2_000_000] {
            for abrupt in [false, true] {
                let mut client = hub.connect();
                client.request("GET", path, "", b"");
                let mut got = 0;
                while got < wanted {
                    got += client.fill().expect("the body goes on");
                    let all = client.buffered().len();
                    client.skip(all);
                }
                if abrupt {
                    client.reset();
                } else {
                    drop(client);
                }
            }
        }
        hub.wait_idle();
    }
    assert_eq!(hub.get("/hello").text(), "Hello, World!");
}

#[track_caller]
fn assert_bounded(hub: &Hub, before_kib: u64) {
    let peak = hub.process.memory_kib("VmHWM");
    let grown = peak.saturating_sub(before_kib);
    println!("the hub grew by {grown} KiB at most");
    assert!(grown < GROWTH_KIB, "from {before_kib} KiB to {peak} KiB");
}

#[test]
fn an_echo_answers_what_it_has_before_it_waits_for_more() {
    for args in [&[][..], &["--threads", "1"]] {
        let hub = Hub::start();
        let _worker = hub.worker_with("demo", args);
        let mut client = hub.connect();
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let parts = ["a question", "another", "the last"];
        for (index, part) in parts.into_iter().enumerate() {
            client.send(format!("{:x}\r\n{part}\r\n", part.len()));
            if index == 0 {
                assert_eq!(client.head().expect("an answer").status, 200);
            }
            // In one chunk or in several, as it happened to be received.
            let mut echoed = Vec::new();
            while echoed.len() < part.len() {
                let chunk = client.chunk();
                assert!(!chunk.is_empty(), "{args:?}: it ends within {part:?}");
                echoed.extend_from_slice(&chunk);
            }
            assert_eq!(echoed, part.as_bytes(), "{args:?}");
        }
        client.send("0\r\n\r\n");
        assert_eq!(client.chunk(), b"");
    }
}

#[test]
fn a_request_whose_body_is_late_is_not_mixed_up_with_what_comes_meanwhile() {
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let _worker = hub.worker();
    let many: String = (0..60)
        .map(|n| format!("field-{n}: some value\r\n"))
        .collect();
    // What the shard parses between a head and its body: wholly, in part, and not at all.
    for other in [
        format!("GET /whoami HTTP/1.1\r\nHost: a\r\n{many}\r\n"),
        format!("PUT /hello/there?a=b HTTP/1.1\r\nHost: a\r\n{many}bad name: x\r\n\r\n"),
        format!("GET /hello HTTP/1.1\r\nHost: a\r\n{many}Host: b\r\n\r\n"),
        format!("GET /hello HTTP/1.1\r\n{many}\r\n"),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
        "DELETE /no/such/path HTTP/1.0\r\nhost : a\r\n\r\n".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
        "POST /internal/emit HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}".to_owned(),
    ] {
        for length in [1000, 100_000] {
            let body = pattern(7, length);
            let mut client = hub.connect();
            let fields = "X-One: 1\r\nX-Two: 2\r\nX-Three: 3\r\n";
            let request = request_bytes("POST", "/echo", fields, body);
            let (first, rest) = request.split_at(request.len() - length / 2);
            client.send(first);
            // Its head has been planned when an answer to what was sent behind it is there.
            for _ in 0..2 {
                let mut between = hub.connect();
                between.send(&other);
                between.answer();
            }
            client.send(rest);
            let answer = client.answer();
            assert_eq!(answer.status, 200, "behind {other}: {answer:?}");
            assert!(answer.body == body, "behind {other}: it came back changed");
        }
    }
}
