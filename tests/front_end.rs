//! The HTTP front end as clients meet it: framing, persistence, order and refusals, over TCP and Unix
//! sockets. Looks at bytes only, never at the crate.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use support::client::{Answer, Client, request_bytes};
use support::{Hub, HubOptions, Random, seed};

const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[track_caller]
fn assert_hello(answer: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.text(), "Hello, World!");
}

#[test]
fn hello_over_tcp() {
    let (hub, _worker) = Hub::with_worker();
    let answer = hub.get("/hello");
    assert_hello(&answer);
    assert_eq!(answer.reason, "OK");
    assert_eq!(answer.field("content-length"), Some("13"));
    let media_type = answer.field("content-type").expect("a content type");
    assert!(media_type.starts_with("text/plain"), "{media_type}");
    assert_eq!(answer.field("transfer-encoding"), None);
    // RFC 9112, section 9.3: silence means that the connection stays open.
    assert_ne!(answer.field("connection"), Some("close"));
}

#[test]
fn hello_over_a_unix_socket_that_is_removed_at_the_end() {
    let dir = support::scratch::ScratchDir::new();
    let (first, second) = (dir.path().join("a.sock"), dir.path().join("b.sock"));
    let listen = |path: &std::path::Path| format!("unix:{}", path.display());
    let mut hub = HubOptions::new()
        .args(["--listen", &listen(&first), "--listen", &listen(&second)])
        .start();
    for path in [&first, &second] {
        hub.process
            .wait_line(&format!("listening on unix:{}", path.display()));
    }
    let worker = hub.worker();
    for path in [&first, &second] {
        let mut client = Client::unix(path);
        for _ in 0..3 {
            assert_hello(&client.get("/hello"));
        }
        client.request("POST", "/echo", "", b"over a Unix socket");
        assert_eq!(client.answer().body, b"over a Unix socket");
    }
    // TCP is served beside them.
    assert_hello(&hub.get("/hello"));
    drop(worker);
    assert_eq!(hub.stop().code(), Some(0));
    assert!(!first.exists() && !second.exists(), "sockets are left");
}

#[test]
fn a_library_client_is_served() {
    let (hub, _worker) = Hub::with_worker();
    let agent = ureq::Agent::new_with_defaults();
    for round in 0..20 {
        let mut answer = agent.get(hub.url("/hello")).call().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.body_mut().read_to_string().unwrap(), "Hello, World!");

        let body = "ä".repeat(1 + round * 700);
        let mut answer = agent
            .post(hub.url("/echo"))
            .header("content-type", "text/x-round")
            .send(&body)
            .unwrap();
        assert_eq!(answer.headers()["content-type"], "text/x-round");
        assert_eq!(answer.body_mut().read_to_string().unwrap(), body);
    }
    let refused = agent.get(hub.url("/nothing/here")).call().unwrap_err();
    assert!(matches!(refused, ureq::Error::StatusCode(404)), "{refused}");
}

#[test]
fn a_connection_is_kept_for_further_requests() {
    let (hub, _worker) = Hub::with_worker();
    let mut client = hub.connect();
    for number in 0..200 {
        let answer = client.get(&format!("/items/{number}"));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.text(), number.to_string());
    }
    // Neither an error answer nor one of the hub's own ends it.
    client.get("/nothing/here").assert_problem(404);
    assert_eq!(client.get("/health").status, 200);
    client.request("DELETE", "/hello", "", b"");
    client.answer().assert_problem(405);
    assert_hello(&client.get("/hello"));
}

#[test]
fn connection_close_closes_after_the_answer() {
    let (hub, _worker) = Hub::with_worker();
    for path in ["/hello", "/nothing/here", "/health"] {
        let mut client = hub.connect();
        client.request("GET", path, "Connection: close\r\n", b"");
        let answer = client.answer();
        assert_eq!(answer.field("connection"), Some("close"), "{answer:?}");
        client.assert_closed();
    }
    // What follows a request that asked for the end is not served.
    let mut client = hub.connect();
    client.send(format!(
        "GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{HELLO}"
    ));
    assert_hello(&client.answer());
    client.assert_closed();
}

#[test]
fn pipelined_requests_of_every_kind_are_answered_in_order() {
    let (hub, _worker) = Hub::with_worker();
    let mut client = hub.connect();
    let large = support::pattern::pattern(0, 100_000);
    let mut bytes = Vec::new();
    bytes.extend(request_bytes("GET", "/items/first", "", b""));
    bytes.extend(request_bytes("POST", "/echo", "", b"small"));
    bytes.extend(request_bytes("GET", "/sleep/50", "", b""));
    bytes.extend(request_bytes("GET", "/nothing/here", "", b""));
    bytes.extend(request_bytes("HEAD", "/hello", "", b""));
    bytes.extend(request_bytes("GET", "/health", "", b""));
    bytes.extend(request_bytes("POST", "/echo", "", large));
    bytes.extend_from_slice(
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
          3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
    );
    bytes.extend(request_bytes("GET", "/bytes/70000", "", b""));
    bytes.extend(request_bytes("GET", "/items/last", "", b""));
    let mut writer = client.writer();
    let sending = std::thread::spawn(move || writer.write_all(&bytes));

    assert_eq!(client.answer().text(), "first");
    assert_eq!(client.answer().text(), "small");
    assert_eq!(client.answer().status, 200);
    client.answer().assert_problem(404);
    let head = client.answer_to("HEAD");
    assert_eq!(head.field("content-length"), Some("13"));
    assert!(client.answer().text().contains("\"ok\":true"));
    assert!(client.answer().body == large, "the large echo differs");
    assert_eq!(client.answer().text(), "abcdefg");
    assert_eq!(client.answer().body.len(), 70_000);
    assert_eq!(client.answer().text(), "last");
    sending.join().unwrap().unwrap();
}

#[test]
fn a_hundred_thousand_pipelined_requests_come_back_in_order() {
    const CONNECTIONS: u64 = 4;
    const EACH: u64 = 25_000;
    let (hub, _worker) = Hub::with_worker();
    let seed = seed("pipelined");
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let mut client = hub.connect();
            let mut writer = client.writer();
            scope.spawn(move || {
                let mut random = Random(seed + connection);
                let mut cuts = Random(!seed);
                let mut bytes = Vec::new();
                for number in 0..EACH {
                    let id = format!("{connection}-{number}-{:x}", random.next());
                    bytes.extend(request_bytes("GET", &format!("/items/{id}"), "", b""));
                    // Cut anywhere, so that heads arrive in pieces.
                    if bytes.len() > 20_000 {
                        let cut = cuts.below(bytes.len() as u64) as usize;
                        writer.write_all(&bytes[..cut]).unwrap();
                        bytes.drain(..cut);
                    }
                }
                writer.write_all(&bytes).unwrap();
            });
            scope.spawn(move || {
                let mut random = Random(seed + connection);
                for number in 0..EACH {
                    let id = format!("{connection}-{number}-{:x}", random.next());
                    let answer = client.answer();
                    assert_eq!((answer.status, answer.text()), (200, id.as_str()));
                }
            });
        }
    });
    hub.wait_idle();
}

#[test]
fn http_1_0_closes_unless_asked_to_stay() {
    let (hub, _worker) = Hub::with_worker();
    let mut client = hub.connect();
    client.send("GET /hello HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert_hello(&answer);
    assert_ne!(answer.field("connection"), Some("keep-alive"));
    client.assert_closed();

    let mut client = hub.connect();
    for _ in 0..3 {
        client.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.answer();
        assert_hello(&answer);
        // An HTTP/1.0 client needs to be told.
        let connection = answer.field("connection").unwrap_or_default();
        assert!(connection.eq_ignore_ascii_case("keep-alive"), "{answer:?}");
    }
    client.send("POST /echo HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(client.answer().text(), "body");
    client.assert_closed();
}

#[test]
fn http_1_0_never_gets_chunks() {
    let (hub, _worker) = Hub::with_worker();
    for fields in ["", "Connection: keep-alive\r\n"] {
        let mut client = hub.connect();
        client.send(format!("GET /bytes/300000 HTTP/1.0\r\n{fields}\r\n"));
        let answer = client.answer();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.field("transfer-encoding"), None, "{answer:?}");
        assert_eq!(answer.body.len(), 300_000);
    }
}

#[test]
fn head_is_get_without_the_body() {
    let (hub, _worker) = Hub::with_worker();
    let mut client = hub.connect();
    for path in ["/hello", "/items/abc", "/nothing/here", "/health"] {
        let get = client.get(path);
        client.request("HEAD", path, "", b"");
        let head = client.answer_to("HEAD");
        assert_eq!(head.status, get.status, "{path}");
        assert!(head.body.is_empty());
        for name in ["content-type", "content-length"] {
            assert_eq!(head.field(name), get.field(name), "{path}: {name}");
        }
    }
    // No byte of a body is in the way of the next answer, streamed bodies included.
    client.request("HEAD", "/bytes/1000000", "", b"");
    assert_eq!(client.answer_to("HEAD").status, 200);
    assert_hello(&client.get("/hello"));
    hub.wait_idle();
}

/// Seconds since 1970 of an IMF-fixdate (RFC 9110, section 5.6.7).
fn parse_date(text: &str) -> u64 {
    let names = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let number = |range: std::ops::Range<usize>| text[range].parse::<u64>().expect("digits");
    assert_eq!(text.len(), 29, "{text}");
    let month = months
        .iter()
        .position(|m| *m == &text[8..11])
        .expect("a month") as u64;
    let (year, day) = (number(12..16), number(5..7));
    let divides = |n: u64, y: u64| y.is_multiple_of(n);
    let is_leap = |y: u64| (divides(4, y) && !divides(100, y)) || divides(400, y);
    let mut days: u64 = (1970..year).map(|y| 365 + u64::from(is_leap(y))).sum();
    for earlier in 0..month {
        days += match earlier {
            1 => 28 + u64::from(is_leap(year)),
            3 | 5 | 8 | 10 => 30,
            _ => 31,
        };
    }
    days += day - 1;
    assert_eq!(
        &text[..5],
        format!("{}, ", names[(days % 7) as usize]),
        "{text}"
    );
    assert_eq!(&text[25..], " GMT", "{text}");
    days * 86_400 + number(17..19) * 3600 + number(20..22) * 60 + number(23..25)
}

#[test]
fn every_answer_has_the_current_date() {
    let (hub, _worker) = Hub::with_worker();
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let mut client = hub.connect();
    for path in ["/hello", "/nothing/here", "/health"] {
        let before = now();
        let answer = client.get(path);
        let date = parse_date(answer.field("date").expect("a Date"));
        assert!(date + 2 >= before && date <= now() + 2, "{answer:?}");
    }
    let mut client = hub.connect();
    client.send("nonsense\r\n\r\n");
    parse_date(client.answer().field("date").expect("a Date"));
    // The clock of a hub that has rested goes on.
    let first = parse_date(hub.get("/hello").field("date").unwrap());
    support::wait_until("the date moves on", || {
        parse_date(hub.get("/hello").field("date").unwrap()) > first
    });
}

#[test]
fn a_client_that_waits_is_told_to_continue() {
    let (hub, _worker) = Hub::with_worker();
    let small: &[u8] = b"after 100";
    let large = support::pattern::pattern(7, 900_000);
    for body in [small, large] {
        let mut client = hub.connect();
        for _ in 0..2 {
            let length = body.len();
            client.send(format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
            ));
            let interim = client.head().expect("an interim answer");
            assert_eq!(interim.status, 100, "{interim:?}");
            let mut writer = client.writer();
            let answer = std::thread::scope(|scope| {
                scope.spawn(move || writer.write_all(body).unwrap());
                client.answer()
            });
            assert!(answer.body == body, "{answer:?}");
        }
    }
    let mut client = hub.connect();
    client.send("POST /count HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 100);
    client.send("5\r\nabcde\r\n0\r\n\r\n");
    assert_eq!(client.answer().text(), "5");
    // The interim answer may be left out for a client that does not wait, but nothing else.
    client.send(
        "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    );
    assert_eq!(client.answer().text(), "hi");
}

#[test]
fn a_client_that_waits_is_spared_a_body_nobody_wants() {
    let (hub, _worker) = Hub::with_worker();
    for (path, status) in [("/nothing/here", 404), ("/hello", 405)] {
        let mut client = hub.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
        ));
        let head = client.head().expect("an answer");
        assert_eq!(head.status, status, "no interim answer comes first");
    }
    let mut client = hub.connect();
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: a-miracle\r\nContent-Length: 1\r\n\r\n");
    client.answer().assert_problem(417);
}

#[test]
fn chunked_uploads_in_every_shape() {
    let (hub, _worker) = Hub::with_worker();
    let mut random = Random(seed("chunked uploads"));
    let head =
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: x/y\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = hub.connect();
    for body in [
        "0\r\n\r\n",
        "00000\r\n\r\n",
        "0;last\r\nX-Trailer: x\r\n\r\n",
    ] {
        client.send(format!("{head}{body}"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{body:?}");
    }
    for round in 0..50 {
        let mut bytes = head.as_bytes().to_vec();
        let mut expected = Vec::new();
        for _ in 0..random.below(20) {
            let len = 1 + random.below(if round % 5 == 0 { 30_000 } else { 40 }) as usize;
            let part = support::pattern::pattern(random.next(), len);
            let extension =
                ["", ";a=b", ";name=\"quoted;\\\"text\"", ";x"][random.below(4) as usize];
            let size = match random.below(3) {
                0 => format!("{len:x}"),
                1 => format!("{len:X}"),
                _ => format!("000{len:x}"),
            };
            bytes.extend_from_slice(format!("{size}{extension}\r\n").as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
            expected.extend_from_slice(part);
        }
        let trailer = ["", "X-Checksum: 1\r\n"][random.below(2) as usize];
        bytes.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
        let mut writer = client.writer();
        let answer = std::thread::scope(|scope| {
            let cut = random.below(bytes.len() as u64) as usize;
            scope.spawn(move || {
                writer.write_all(&bytes[..cut]).unwrap();
                std::thread::yield_now();
                writer.write_all(&bytes[cut..]).unwrap();
            });
            client.answer()
        });
        assert_eq!(answer.status, 200, "round {round}: {answer:?}");
        assert_eq!(answer.field("content-type"), Some("x/y"));
        assert!(answer.body == expected, "round {round}");
    }
}

#[test]
fn broken_chunks_end_the_connection() {
    let (hub, _worker) = Hub::with_worker();
    for body in [
        "x\r\n",
        "-1\r\n",
        "5\nabcde\r\n",
        "5\r\nabcdeX",
        "\r\n",
        "0x5\r\n",
        "ffffffffffffffffff\r\n",
        "0\r\nbad line\r\n\r\n",
    ] {
        let mut client = hub.connect();
        client.send(format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
        ));
        // The worker may have begun to answer; if not, the client is told what was wrong.
        if let Some(answer) = client.try_answer() {
            answer.assert_problem(400);
            client.assert_closed();
        }
    }
    assert_hello(&hub.get("/hello"));
    hub.wait_idle();
}

#[test]
fn a_request_may_be_cut_at_every_byte() {
    let (hub, _worker) = Hub::with_worker();
    let get = b"GET /items/a%20b?c=d HTTP/1.1\r\nHost: localhost\r\nX-Some: thing\r\n\r\n".to_vec();
    let post = request_bytes("POST", "/echo", "", b"the body");
    let chunked = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3;x=y\r\nabc\r\n5\r\ndefgh\r\n0\r\nT: v\r\n\r\n"
        .to_vec();
    let cases = [
        (get, None),
        (post, Some("the body")),
        (chunked, Some("abcdefgh")),
    ];
    for (bytes, expected) in &cases {
        let check = |answer: Answer, cut: usize| {
            assert_eq!(answer.status, 200, "cut at {cut}: {answer:?}");
            match expected {
                Some(expected) => assert_eq!(answer.text(), *expected, "cut at {cut}"),
                None => assert!(["a b", "a%20b"].contains(&answer.text()), "{answer:?}"),
            }
        };
        // Several at a time, so that the second halves come after the hub has seen the first.
        let cuts: Vec<usize> = (1..bytes.len()).collect();
        for some in cuts.chunks(32) {
            let mut clients: Vec<(usize, Client)> =
                some.iter().map(|&cut| (cut, hub.connect())).collect();
            for (cut, client) in &mut clients {
                client.send(&bytes[..*cut]);
            }
            // An answer to this says that the hub has read what was sent before, on a hub of one shard;
            // with more of them it is likely.
            assert_hello(&hub.get("/hello"));
            for (cut, client) in &mut clients {
                client.send(&bytes[*cut..]);
            }
            for (cut, client) in &mut clients {
                check(client.answer(), *cut);
                // The connection is in order afterwards.
                assert_hello(&client.get("/hello"));
            }
        }
        let mut client = hub.connect();
        for byte in bytes.chunks(1) {
            client.send(byte);
        }
        check(client.answer(), 0);
    }
}

#[test]
fn a_client_that_has_finished_sending_gets_its_answer() {
    let (hub, _worker) = Hub::with_worker();
    let upload = request_bytes("POST", "/echo", "", support::pattern::pattern(0, 50_000));
    let requests: [&[u8]; 3] = [
        HELLO.as_bytes(),
        b"GET /sleep/100 HTTP/1.1\r\nHost: a\r\n\r\n",
        &upload,
    ];
    for (index, request) in requests.into_iter().enumerate() {
        let mut client = hub.connect();
        client.send(request);
        client.finish_sending();
        let answer = client.answer();
        assert_eq!(answer.status, 200, "request {index}: {answer:?}");
        client.assert_closed();
    }
    // So does one that had pipelined.
    let mut client = hub.connect();
    client.send(HELLO.repeat(50));
    client.finish_sending();
    for _ in 0..50 {
        assert_hello(&client.answer());
    }
    client.assert_closed();
    hub.wait_idle();
}

#[test]
fn what_is_no_request_is_refused_and_the_connection_closed() {
    let (hub, _worker) = Hub::with_worker();
    let long_target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9_000));
    let long_field = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "a".repeat(17_000)
    );
    let endless = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "a".repeat(17_000));
    let many_fields = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(101)
    );
    let cases: &[(&str, u16)] = &[
        ("GET /hello HTTP/1.1\r\n\r\n", 400),
        ("GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET /hello HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET /hello HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (
            "GET /hello HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n",
            400,
        ),
        ("GET /hello HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
        ("GET /hello HTTP/1.1\nHost: a\n\n", 400),
        ("GET  /hello HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET hello HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("/hello\r\n\r\n", 400),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
            400,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
            400,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (
            "POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        (&long_target, 414),
        (&long_field, 431),
        (&endless, 431),
        (&many_fields, 431),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
            501,
        ),
        ("BREW /hello HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("get /hello HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
        ("GET /hello HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ];
    for (bytes, status) in cases {
        let mut client = hub.connect();
        client.send(bytes);
        let answer = client.answer();
        let shown = &bytes[..bytes.len().min(80)];
        assert_eq!(answer.status, *status, "{shown:?}: {answer:?}");
        answer.assert_problem(*status);
        assert_eq!(answer.field("connection"), Some("close"), "{shown:?}");
        client.assert_closed();
    }
    assert_hello(&hub.get("/hello"));
    hub.wait_idle();
}

#[test]
fn many_connections_are_served_at_once() {
    let (hub, _worker) = Hub::with_worker();
    let mut clients: Vec<Client> = (0..300).map(|_| hub.connect()).collect();
    for round in 0..3 {
        for (index, client) in clients.iter_mut().enumerate() {
            client.request("GET", &format!("/items/{index}-{round}"), "", b"");
        }
        for (index, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.answer().text(), format!("{index}-{round}"));
        }
    }
}

#[test]
fn a_sleeping_request_keeps_nobody_waiting() {
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let _worker = hub.worker_with("demo", &["--threads", "2"]);
    let mut slow = hub.connect();
    slow.request("GET", "/sleep/5000", "", b"");
    let start = std::time::Instant::now();
    for _ in 0..50 {
        assert_hello(&hub.get("/hello"));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "they waited");
    drop(slow);
}
