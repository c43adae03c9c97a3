//! What handlers see and what becomes of their answers, through a real hub and worker processes of
//! their own. The SDK is used as its documentation says.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::client::{Answer, Client};
use support::pattern::{Checker, pattern};
use support::process::Process;
use support::test_worker::{Order, Seen, start_async, start_blocking, start_reflector};
use support::{Hub, HubOptions, Random, StopGuard, seed, test_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    test_worker::run();
}

fn hub_with_blocking() -> (Hub, Process) {
    let hub = Hub::start();
    let worker = start_blocking(&hub, "blocking");
    (hub, worker)
}

fn seen(answer: &Answer) -> Seen {
    assert_eq!(answer.status, 200, "{answer:?}");
    simd_json::from_slice(&mut answer.body.clone()).expect("the reflector's JSON")
}

#[test]
fn handlers_see_the_request_as_it_was_sent() {
    let hub = Hub::start();
    let _worker = start_reflector(&hub, "mirror", &["POST /see/{a}/{*rest}"]);
    let mut client = hub.connect();
    let mut bytes = b"POST /see/a%2Fb/c/%64?q=1&q=two+words&%3D=%26&flag HTTP/1.1\r\n\
        Host: Example.test:80\r\n\
        X-Twice: first\r\n\
        x-empty:\r\n\
        X-TWICE: \t second \t\r\n\
        X-Bytes: "
        .to_vec();
    bytes.extend_from_slice(
        b"<\x80\xff\xe4>\r\nX-Twice: first\r\nContent-Length: 6\r\n\r\nbo\0\xff\r\n",
    );
    client.send(&bytes);
    let local = client.local_address().unwrap();
    let got = seen(&client.answer());

    assert_eq!(got.method, "POST");
    assert_eq!(got.version, "Http11");
    assert_eq!(got.target, b"/see/a%2Fb/c/%64?q=1&q=two+words&%3D=%26&flag");
    assert_eq!(got.path, "/see/a%2Fb/c/%64");
    assert_eq!(got.route, "/see/{a}/{*rest}");
    let params = [
        ("a".into(), b"a%2Fb".to_vec(), "a/b".into()),
        ("rest".into(), b"c/%64".to_vec(), "c/d".into()),
    ];
    assert_eq!(got.params, params);
    let raw: &[u8] = b"q=1&q=two+words&%3D=%26&flag";
    assert_eq!(got.query_raw.as_deref(), Some(raw));
    let pairs = [("q", "1"), ("q", "two words"), ("=", "&"), ("flag", "")];
    let pairs = pairs.map(|(name, value)| (name.to_string(), value.to_string()));
    assert_eq!(got.query, pairs);
    let headers: [(&str, &[u8]); 7] = [
        ("Host", b"Example.test:80"),
        ("X-Twice", b"first"),
        ("x-empty", b""),
        ("X-TWICE", b"second"),
        ("X-Bytes", b"<\x80\xff\xe4>"),
        ("X-Twice", b"first"),
        ("Content-Length", b"6"),
    ];
    assert_eq!(
        got.headers,
        headers.map(|(name, value)| (name.to_string(), value.to_vec()))
    );
    assert_eq!(got.peer, Some(local.to_string()));
    assert_eq!(got.body_length, Some(6));
    assert_eq!(got.body.as_deref(), Some(&b"bo\0\xff\r\n"[..]));
}

#[test]
fn handlers_see_what_is_missing_as_missing() {
    let dir = support::scratch::ScratchDir::new();
    let path = dir.path().join("front.sock");
    let hub = HubOptions::new()
        .args(["--listen", &format!("unix:{}", path.display())])
        .start();
    let _worker = start_reflector(&hub, "mirror", &["GET /see", "POST /see"]);
    let mut client = Client::unix(&path);
    client.send("GET /see HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let got = seen(&client.answer());
    assert_eq!(got.version, "Http10");
    assert_eq!(got.peer, None, "a Unix socket has no address");
    assert_eq!((got.query_raw, got.query.len()), (None, 0));
    assert_eq!((got.body_length, got.body), (Some(0), Some(Vec::new())));
    let got = seen(&client.get("/see?"));
    assert_eq!(got.query_raw, Some(Vec::new()), "empty is not missing");
    client.send(
        "POST /see HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
    );
    let got = seen(&client.answer());
    assert_eq!(got.body.as_deref(), Some(&b"ab"[..]));
    drop((hub, dir));
}

/// Requests with heads of many shapes: what arrives is what was sent, byte for byte.
#[test]
fn any_head_arrives_unchanged() {
    let hub = Hub::start();
    let _worker = start_reflector(&hub, "mirror", &["GET /{*rest}"]);
    let mut random = Random(seed("any head"));
    let mut client = hub.connect();
    for _ in 0..300 {
        let mut expected = vec![("Host".to_string(), b"a".to_vec())];
        let segment: String = (0..1 + random.below(60))
            .map(|_| char::from(b"abcXYZ019-._~!$&'()*+,;=:@"[random.below(26) as usize]))
            .collect();
        let mut bytes = format!("GET /{segment} HTTP/1.1\r\nHost: a\r\n").into_bytes();
        let most = if random.below(10) == 0 { 99 } else { 8 };
        for _ in 0..random.below(most) {
            let name: String = (0..1 + random.below(12))
                .map(|_| char::from(b"abcdefgXYZ-_019!#~"[random.below(18) as usize]))
                .collect();
            let name = format!("x-{name}");
            let value: Vec<u8> = (0..random.below(100))
                .map(|_| {
                    // Any byte that may stand inside a value (RFC 9110, section 5.5).
                    match random.below(256) as u8 {
                        byte @ (b'\t' | 0x21..=0x7e | 0x80..) => byte,
                        _ => b' ',
                    }
                })
                .collect();
            let trimmed = |b: &u8| *b == b' ' || *b == b'\t';
            let start = value
                .iter()
                .position(|b| !trimmed(b))
                .unwrap_or(value.len());
            let end = value
                .iter()
                .rposition(|b| !trimmed(b))
                .map_or(start, |at| at + 1);
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(b':');
            bytes.extend_from_slice(&value);
            bytes.extend_from_slice(b"\r\n");
            expected.push((name, value[start..end].to_vec()));
        }
        bytes.extend_from_slice(b"\r\n");
        client.send(&bytes);
        let got = seen(&client.answer());
        assert_eq!(got.headers, expected);
        assert_eq!(got.params[0].1, segment.as_bytes());
    }
}

#[test]
fn a_panic_is_a_500_and_the_worker_lives_on() {
    let (hub, mut worker) = hub_with_blocking();
    let mut client = hub.connect();
    // More often than there are threads.
    for _ in 0..10 {
        assert_eq!(client.get("/panic").status, 500);
        assert_eq!(client.get("/hello").text(), "Hello, World!");
    }
    assert!(
        worker.stderr.contains("on purpose"),
        "{}",
        worker.stderr.text()
    );
    for _ in 0..5 {
        let mut client = hub.connect();
        client.request("GET", "/panic-in-stream", "", b"");
        assert_eq!(client.head().expect("the head was sent").status, 200);
        client.drain_to_end();
    }
    assert_eq!(hub.get("/fail").status, 500);
    assert_eq!(client.get("/hello").text(), "Hello, World!");
    assert_eq!(worker.ended(), None);
    hub.wait_idle();
}

#[test]
fn an_answer_cut_short_does_not_look_whole() {
    let (hub, worker) = hub_with_blocking();
    for path in ["/panic-in-stream", "/too-short"] {
        let mut client = hub.connect();
        client.request("GET", path, "", b"");
        assert_eq!(client.try_answer(), None, "{path}");
        let agent = ureq::Agent::new_with_defaults();
        let mut answer = agent.get(hub.url(path)).call().unwrap();
        assert!(answer.body_mut().read_to_vec().is_err(), "{path}");
    }
    // More than announced is never sent: the client must not take it for the next answer.
    let mut client = hub.connect();
    client.request("GET", "/too-long", "", b"");
    if let Some(answer) = client.try_answer() {
        assert!(
            answer.status == 500 || answer.body.len() == 400_000,
            "{answer:?}"
        );
        assert_eq!(client.get("/hello").text(), "Hello, World!");
    }
    assert!(
        !worker.stderr.contains("evicted"),
        "{}",
        worker.stderr.text()
    );
    assert_eq!(hub.get("/hello").text(), "Hello, World!");
    hub.wait_idle();
}

#[test]
fn bad_fields_of_a_handler_are_500_and_split_nothing() {
    let (hub, _worker) = hub_with_blocking();
    let mut client = hub.connect();
    for path in [
        "/bad-name",
        "/bad-value",
        "/status/99",
        "/status/100",
        "/status/600",
    ] {
        let answer = client.get(path);
        assert!([500, 502].contains(&answer.status), "{path}: {answer:?}");
        assert_eq!(answer.field("injected"), None);
        assert_eq!(client.get("/hello").text(), "Hello, World!");
    }
}

#[test]
fn framing_belongs_to_the_hub() {
    let (hub, _worker) = hub_with_blocking();
    let mut client = hub.connect();
    for _ in 0..2 {
        let answer = client.get("/own-framing");
        assert_eq!(answer.text(), "four");
        assert_eq!(answer.field("content-length"), Some("4"));
        assert_eq!(answer.field("transfer-encoding"), None);
        assert_eq!(answer.field("upgrade"), None);
        assert_eq!(answer.field("x-kept"), Some("yes"));
    }
}

#[test]
fn fields_and_statuses_of_a_handler_arrive() {
    let (hub, _worker) = hub_with_blocking();
    let mut client = hub.connect();
    let answer = client.get("/fields");
    assert_eq!(answer.status, 203);
    let cookies: Vec<&[u8]> = answer.field_values("set-cookie").collect();
    assert_eq!(cookies, [b"a=1", b"b=2"]);
    let bytes: Vec<&[u8]> = answer.field_values("x-bytes").collect();
    assert_eq!(bytes, [&[b'<', 0x80, 0xff, b'>'][..]]);
    for status in [200, 201, 299, 301, 404, 418, 499, 500, 599] {
        let answer = client.get(&format!("/status/{status}"));
        assert_eq!((answer.status, answer.text()), (status, "as asked"));
    }
    // Without a body whatever the handler says (RFC 9110, sections 15.3.5 and 15.4.5).
    for status in [204, 304] {
        let answer = client.get(&format!("/status/{status}"));
        assert_eq!((answer.status, answer.body.len()), (status, 0));
    }
    let answer = client.get("/nothing");
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(
        answer.field("content-length"),
        None,
        "RFC 9110, section 8.6"
    );
    assert_eq!(client.get("/hello").text(), "Hello, World!");
}

fn stream_both_ways(hub: &Hub, path: &str, map: fn(u8) -> u8) {
    const PARTS: usize = 40;
    let mut client = hub.connect();
    client.send(format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    ));
    // Each part is sent only when the one before has come back: nobody waits for the end.
    let mut answer_begun = false;
    for number in 0..PARTS {
        let part = pattern(number as u64 * 1000, 900);
        client.send([b"384\r\n", part, b"\r\n"].concat());
        if !std::mem::replace(&mut answer_begun, true) {
            let head = client.head().expect("a head before the body's end");
            assert_eq!(head.field("transfer-encoding"), Some("chunked"), "{head:?}");
        }
        let mut got = Vec::new();
        while got.len() < part.len() {
            got.extend(client.chunk());
        }
        assert!(
            got.iter().copied().eq(part.iter().map(|b| map(*b))),
            "part {number}"
        );
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.chunk(), b"", "the last chunk");
    assert_eq!(client.get("/hello").text(), "Hello, World!");
}

#[test]
fn a_handler_answers_while_the_body_still_arrives() {
    let (hub, _worker) = hub_with_blocking();
    stream_both_ways(&hub, "/invert", |byte| !byte);
    hub.wait_idle();
}

#[test]
fn a_body_that_is_not_read_is_no_obstacle() {
    let (hub, _worker) = hub_with_blocking();
    let mut client = hub.connect();
    for length in [10, 10_000, 100_000] {
        client.request("POST", "/ignore", "", pattern(0, length));
        assert_eq!(client.answer().text(), "not read");
    }
    // One that is never sent whole cannot be followed by another request.
    client.send("POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 60000000\r\n\r\nbegin");
    assert_eq!(client.answer().text(), "not read");
    client.drain_to_end();
    assert_eq!(hub.get("/hello").text(), "Hello, World!");
    hub.wait_idle();
}

#[test]
fn json_goes_both_ways() {
    let (hub, _worker) = hub_with_blocking();
    json_at(&hub, "/json");
}

fn json_at(hub: &Hub, path: &str) {
    let notes: Vec<String> = (0..20_000).map(|n| format!("note \u{1f600} {n}")).collect();
    for notes in [Vec::new(), vec!["ä\"\\".to_string()], notes] {
        let order = Order {
            item: "ladder".into(),
            count: 21,
            notes,
        };
        let mut body = simd_json::to_vec(&order).unwrap();
        let answer = hub.request("POST", path, "", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.field("content-type"), Some("application/json"));
        let got: Order = simd_json::from_slice(&mut answer.body.clone()).unwrap();
        assert_eq!(got, Order { count: 42, ..order });
        // Cut off, it is no JSON.
        body.pop();
        assert_eq!(hub.request("POST", path, "", &body).status, 400);
    }
    for body in [&b"null"[..], b"{\"item\":1}", b"\xff"] {
        assert_eq!(hub.request("POST", path, "", body).status, 400);
    }
}

#[test]
fn a_limit_on_the_body_is_413() {
    let (hub, _worker) = hub_with_blocking();
    for (length, status) in [(0, 200), (1000, 200), (1001, 413), (300_000, 413)] {
        let mut client = hub.connect();
        // What nobody reads may be refused while it is being sent.
        let _ = client.try_send(support::client::request_bytes(
            "POST",
            "/limited",
            "",
            pattern(0, length),
        ));
        assert_eq!(client.answer().status, status, "{length}");
    }
}

#[test]
fn streamed_answers_arrive_in_their_parts() {
    let (hub, _worker) = hub_with_blocking();
    let answer = hub.get("/chunks");
    assert_eq!(answer.text(), "abcdef");
    assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
    for n in [0u64, 1, 65_535, 65_536, 65_537, 3_000_000] {
        for path in ["/pattern", "/sized"] {
            check_pattern(&hub.get(&format!("{path}/{n}")), n);
        }
    }
    hub.wait_idle();
}

#[track_caller]
fn check_pattern(answer: &Answer, n: u64) {
    let mut checker = Checker::default();
    checker
        .take(&answer.body)
        .unwrap_or_else(|wrong| panic!("{n}: {wrong}"));
    assert_eq!(checker.seen, n);
}

#[test]
fn a_handler_learns_that_its_client_has_gone() {
    let (hub, _worker) = hub_with_blocking();
    let count = |path: &str| hub.get(path).text().parse::<u64>().unwrap();
    for round in 1..=4 {
        let mut client = hub.connect();
        client.request("GET", "/until-cancelled", "", b"");
        // A request whose client leaves before is not handled at all.
        wait_until("the handler has begun", || count("/begun") == round);
        if round % 2 == 0 {
            client.reset();
        } else {
            drop(client);
        }
        wait_until(&format!("the handler notices, round {round}"), || {
            count("/cancelled") == round
        });
        hub.wait_idle();
    }
}

#[test]
fn a_handler_learns_that_its_client_has_gone_while_others_ask_without_end() {
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let _worker = start_blocking(&hub, "blocking");
    let _others = hub.worker();
    let count = |path: &str| hub.get(path).text().parse::<u64>().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _guard = StopGuard(&stop);
        scope.spawn(|| {
            let mut clients: Vec<Client> = (0..64).map(|_| hub.connect()).collect();
            while !stop.load(Ordering::SeqCst) {
                let ask = |client: &mut Client| client.request("GET", "/hello", "", b"");
                clients.iter_mut().for_each(ask);
                for client in &mut clients {
                    assert_eq!(client.answer().status, 200);
                }
            }
        });
        for round in 1..=6 {
            let mut client = hub.connect();
            client.request("GET", "/until-cancelled", "", b"");
            wait_until("the handler has begun", || count("/begun") == round);
            drop(client);
            wait_until(&format!("the handler notices, round {round}"), || {
                count("/cancelled") == round
            });
        }
    });
    hub.wait_idle();
}

#[test]
fn a_handler_learns_that_its_time_is_up() {
    let hub = HubOptions::new().args(["--timeout", "0.4"]).start();
    let _worker = start_blocking(&hub, "blocking");
    hub.get("/until-cancelled").assert_problem(504);
    wait_until("the handler notices", || {
        hub.get("/cancelled").text() == "1"
    });
    hub.wait_idle();
}

#[test]
fn more_requests_than_threads_wait_their_turn() {
    let (hub, _worker) = hub_with_blocking();
    let mut clients: Vec<Client> = (0..100).map(|_| hub.connect()).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        client.request("POST", "/relay", "", format!("request {index}").as_bytes());
    }
    for (index, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.answer().text(), format!("request {index}"));
    }
}

#[test]
fn async_handlers_run_side_by_side() {
    let hub = Hub::start();
    let worker = start_async(&hub, "async");
    let start = Instant::now();
    let mut clients: Vec<Client> = (0..100).map(|_| hub.connect()).collect();
    for client in &mut clients {
        client.request("GET", "/sleep/1000", "", b"");
    }
    for client in &mut clients {
        assert_eq!(client.answer().text(), "slept");
    }
    let took = start.elapsed();
    assert!(
        took < Duration::from_secs(25),
        "one after the other: {took:?}"
    );
    // Handlers that block do it elsewhere.
    let mut blocking = hub.connect();
    blocking.request("GET", "/blocking/500", "", b"");
    for _ in 0..20 {
        assert_eq!(hub.get("/hello").text(), "Hello, World!");
    }
    assert_eq!(blocking.answer().text(), "blocked");
    drop(worker);
}

#[test]
fn async_handlers_stream_parse_and_panic() {
    let hub = HubOptions::new().args(["--slots", "64"]).start();
    let mut worker = start_async(&hub, "async");
    json_at(&hub, "/json");
    stream_both_ways(&hub, "/invert", |byte| !byte);
    for n in [0, 1, 70_000, 5_000_000] {
        check_pattern(&hub.get(&format!("/pattern/{n}")), n);
        let body = pattern(0, (n as usize).min(1_000_000));
        for path in ["/relay", "/collect", "/check"] {
            let mut client = hub.connect();
            let mut writer = client.writer();
            let answer = std::thread::scope(|scope| {
                scope.spawn(move || {
                    let bytes = support::client::request_bytes("POST", path, "", body);
                    writer.write_all(&bytes).unwrap();
                });
                client.answer()
            });
            if path == "/check" {
                assert_eq!(answer.text(), format!("right: {}", body.len()));
            } else {
                assert_eq!(answer.status, 200, "{path} {n}: {answer:?}");
                assert!(answer.body == body, "{path} {n}");
            }
        }
        assert_eq!(hub.get("/panic").status, 500);
    }
    assert_eq!(worker.ended(), None);
    hub.wait_idle();
}

#[test]
fn a_worker_whose_registration_is_bad_says_so_and_ends() {
    let hub = Hub::start();
    let mut worker = support::Worker::spawn(&hub.dir, &hub.socket, "a/b", &[]);
    assert_eq!(worker.process.wait().code(), Some(1));
    let log = worker.process.stderr.text();
    assert!(log.contains("name"), "{log}");
}

#[test]
fn an_answer_that_is_no_http_is_502_and_counts_against_the_worker() {
    let hub = Hub::start();
    let _worker = test_worker::start_blocking(&hub, "checker");
    let violations = || {
        use simd_json::prelude::*;
        let worker = hub.health_of("checker").expect("it is there");
        worker
            .get("traffic")
            .unwrap()
            .get_u64("violations")
            .unwrap()
    };
    assert_eq!(violations(), 0);
    let mut client = hub.connect();
    for round in 1..=3 {
        client.get("/fields/101").assert_problem(502);
        // The worker and the connection go on.
        assert_eq!(client.get("/fields/90").field("x-89"), Some("y"));
        assert_eq!(violations(), round);
    }
}

#[test]
fn fields_that_speak_of_the_workers_connection_stay_there() {
    let hub = Hub::start();
    let _worker = test_worker::start_blocking(&hub, "checker");
    let mut client = hub.connect();
    for _ in 0..2 {
        let answer = client.get("/nominated");
        assert_eq!(answer.text(), "nominated");
        assert_eq!(answer.field("x-hop"), None, "{answer:?}");
        assert_eq!(answer.field("connection"), None, "{answer:?}");
        assert_eq!(answer.field("x-end"), Some("3"));
    }
}
