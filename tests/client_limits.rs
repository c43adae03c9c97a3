//! What clients may ask for and how slow they may be: lengths of bodies, deadlines, and the number of
//! connections. Waits for what must happen; nothing here must happen soon.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::time::{Duration, Instant};

use simd_json::prelude::*;
use support::client::Client;
use support::pattern::pattern;
use support::scratch::ScratchDir;
use support::{Hub, HubOptions, test_worker, wait_until};

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    test_worker::run();
}

fn head(path: &str, fields: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// Requests that the worker with this name was handed.
fn requests(hub: &Hub, name: &str) -> u64 {
    let worker = hub.health_of(name).expect("the worker is there");
    worker.get("traffic").unwrap().get_u64("requests").unwrap()
}

/// What `/health` says of connections, asked on this one, which is one of them.
fn connections(client: &mut Client, what: &str) -> u64 {
    let health = support::json(&client.get("/health").body);
    health.get("connections").unwrap().get_u64(what).unwrap()
}

/// A connection to ask on, when it is the only one.
fn only_connection(hub: &Hub) -> Client {
    let mut client = hub.connect();
    wait_until("every other connection is gone", || {
        connections(&mut client, "open") == 1
    });
    client
}

#[test]
fn a_body_that_is_known_to_be_too_long_never_reaches_the_worker() {
    let hub = HubOptions::new().args(["--max-body", "64K"]).start();
    let _worker = test_worker::start_blocking(&hub, "checker");
    for (path, limit) in [
        ("/swallow", 64 * 1024),
        ("/short", 1000),
        ("/long", u64::MAX),
    ] {
        if limit < u64::MAX {
            let before = requests(&hub, "checker");
            for (length, expectation) in [
                (limit + 1, ""),
                // The longest that is a length at all.
                (i64::MAX as u64, ""),
                (limit + 1, "Expect: 100-continue\r\n"),
            ] {
                let mut client = hub.connect();
                let fields = format!("{expectation}Content-Length: {length}\r\n");
                client.send(head(path, &fields));
                // No interim answer comes before it.
                let answer = client.head().expect("an answer");
                assert_eq!(answer.status, 413, "{path} {length}: {answer:?}");
                assert_eq!(answer.field("connection"), Some("close"));
            }
            assert_eq!(requests(&hub, "checker"), before, "{path}");
        }
        let length = limit.min(300_000);
        let answer = hub.request("POST", path, "", pattern(0, length as usize));
        assert_eq!(answer.text(), length.to_string(), "{path}");
    }
    let health = hub.health_of("checker").unwrap();
    let routes = health.get_array("routes").unwrap();
    let limit_of = |path| {
        let route = routes.iter().find(|r| r.get_str("path") == Some(path));
        route.unwrap().get_u64("max_body")
    };
    assert_eq!(limit_of("/swallow"), None);
    assert_eq!(limit_of("/short"), Some(1000));
    assert_eq!(limit_of("/long"), Some(0));
    hub.wait_idle();
}

#[test]
fn a_body_of_unknown_length_ends_where_it_becomes_too_long() {
    let hub = HubOptions::new().args(["--max-body", "64K"]).start();
    let _worker = test_worker::start_blocking(&hub, "checker");
    for (path, limit) in [("/swallow", 64 * 1024), ("/short", 1000)] {
        // The chunk that is announced is too long, alone or with what came before.
        for body in [
            format!("{:x}\r\n", limit + 1),
            "ffffffffffffffff\r\n".to_string(),
            format!("1\r\n\0\r\n{limit:x}\r\n"),
            "1\r\nx\r\n".repeat(limit + 1),
        ] {
            let mut client = hub.connect();
            client.send(head(path, CHUNKED));
            let _ = client.try_send(body);
            let answer = client.answer();
            answer.assert_problem(413);
            assert_eq!(answer.field("connection"), Some("close"));
        }
        // As long as it may be, in two chunks.
        let (first, second) = (pattern(0, limit - 7), pattern(limit as u64 - 7, 7));
        let mut client = hub.connect();
        client.send(head(path, CHUNKED));
        client.send([format!("{:x}\r\n", first.len()).as_bytes(), first, b"\r\n"].concat());
        client.send([b"7\r\n", second, b"\r\n0\r\n\r\n"].concat());
        assert_eq!(client.answer().text(), limit.to_string(), "{path}");
    }
    let body = pattern(0, 500_000);
    let mut client = hub.connect();
    client.send(head("/long", CHUNKED));
    client.send(
        [
            format!("{:x}\r\n", body.len()).as_bytes(),
            body,
            b"\r\n0\r\n\r\n",
        ]
        .concat(),
    );
    assert_eq!(client.answer().text(), "500000");
    hub.wait_idle();
}

#[test]
fn a_route_registered_over_http_may_have_a_limit() {
    let hub = Hub::start();
    let register = |extra: &str| {
        let body = format!(
            r#"{{"name":"later","routes":[{{"method":"GET","path":"/x","max_body":5{extra}}}]}}"#
        );
        hub.request("POST", "/internal/register", "", body.as_bytes())
    };
    assert_eq!(register("").status, 200);
    let health = hub.health_of("later").unwrap();
    let routes = health.get_array("routes").unwrap();
    assert_eq!(routes[0].get_u64("max_body"), Some(5));
    let detail = register(r#","sse":true"#).assert_problem(400);
    assert!(detail.contains("takes no bodies"), "{detail}");
}

/// Sends `piece` again and again until the hub has answered, and returns the answer's status.
#[track_caller]
fn drip(client: &mut Client, piece: &[u8], pause: Duration) -> u16 {
    let mut writer = client.writer();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while stopped.recv_timeout(pause).is_err() {
                if writer.write_all(piece).is_err() {
                    return;
                }
            }
        });
        let status = client.answer().status;
        let _ = stop.send(());
        status
    })
}

#[test]
fn a_head_has_one_deadline_however_often_something_comes() {
    let hub = HubOptions::new().args(["--head-timeout", "0.3"]).start();
    let mut client = hub.connect();
    client.send("GET /hello HTTP/1.1\r\nHost: a\r\nX: ");
    assert_eq!(drip(&mut client, b"x", Duration::from_millis(20)), 408);
    client.assert_closed();
    // So does one that begins behind another request.
    let mut client = hub.connect();
    client.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET ");
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer().status, 408);
    client.assert_closed();
}

#[test]
fn a_connection_that_rests_for_too_long_is_closed_without_a_word() {
    let hub = HubOptions::new().args(["--idle-timeout", "0.2"]).start();
    let _worker = hub.worker();
    hub.connect().assert_closed();
    let mut client = hub.connect();
    assert_eq!(client.get("/hello").status, 200);
    client.assert_closed();
}

#[test]
fn a_body_has_a_least_rate() {
    let hub = HubOptions::new()
        .args(["--body-grace", "0.3", "--body-rate", "1000000"])
        .start();
    let _worker = test_worker::start_blocking(&hub, "checker");
    // Small, in slots, streamed, and in chunks; stalled, and dripping.
    for fields in [
        "Content-Length: 3000\r\n",
        "Content-Length: 50000\r\n",
        "Content-Length: 50000000\r\n",
        CHUNKED,
    ] {
        let mut client = hub.connect();
        client.send(head("/swallow", fields));
        if fields == CHUNKED {
            client.send("3000000\r\n");
        }
        client.send(b"\0");
        client.answer().assert_problem(408);
        client.assert_closed();
        let mut client = hub.connect();
        client.send(head("/swallow", fields));
        if fields == CHUNKED {
            client.send("3000000\r\n");
        }
        assert_eq!(
            drip(&mut client, b"x", Duration::from_millis(20)),
            408,
            "{fields}"
        );
    }
    let mut client = hub.connect();
    client.send(head("/internal/register", "Content-Length: 3000\r\n"));
    assert_eq!(drip(&mut client, b"x", Duration::from_millis(20)), 408);
    // Who is fast is served, however much it is.
    let body = pattern(0, 1_000_000);
    let answer = hub.request("POST", "/swallow", "", body);
    assert_eq!(answer.text(), "1000000");
    hub.wait_idle();
}

#[test]
fn a_client_that_takes_nothing_is_cut_off() {
    let hub = HubOptions::new().args(["--write-timeout", "0.3"]).start();
    let _worker = test_worker::start_blocking(&hub, "checker");
    let mut clients: Vec<Client> = (0..4)
        .map(|index| {
            let mut client = Client::with_small_window(hub.address);
            let path = ["/pattern/50000000", "/sized/50000000"][index % 2];
            client.request("GET", path, "", b"");
            client
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.head().expect("a head").status, 200);
    }
    only_connection(&hub);
    for client in &mut clients {
        client.drain_to_end();
    }
    hub.wait_idle();
}

/// Connects until there is no more room on this side or `count` is reached, and returns who was
/// served.
fn crowd(hub: &Hub, count: usize) -> (Vec<Client>, usize) {
    let mut served = Vec::new();
    let mut refused = 0;
    for _ in 0..count {
        let mut client = hub.connect();
        let _ = client.try_send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.answer();
        if answer.status == 200 {
            served.push(client);
            continue;
        }
        answer.assert_problem(503);
        assert_eq!(answer.field("connection"), Some("close"));
        assert!(answer.field("retry-after").is_some(), "{answer:?}");
        assert!(!matches!(client.fill(), Ok(1..)), "more came");
        refused += 1;
    }
    (served, refused)
}

/// A hub that is full answers everybody, uses no processor time, and serves again once there is room.
fn check_full(hub: &Hub) {
    let mut asking = only_connection(hub);
    let limit = connections(&mut asking, "limit") as usize;
    let idle_files = hub.process.descriptors();
    let (mut served, refused) = crowd(hub, 300);
    // The one that asks has a place too.
    assert_eq!((served.len() + 1, refused), (limit, 301 - limit));
    let (start, before_ms) = (Instant::now(), hub.process.cpu_ms());
    std::thread::sleep(Duration::from_secs(1));
    let used_ms = hub.process.cpu_ms() - before_ms;
    let took_ms = start.elapsed().as_millis() as u64;
    println!("a full hub used {used_ms} ms of processor time in {took_ms} ms");
    assert!(used_ms * 5 < took_ms, "{used_ms} ms of {took_ms} ms");
    // Who has a place is served meanwhile.
    for client in &mut served {
        assert_eq!(client.get("/hello").status, 200);
    }
    assert_eq!(connections(&mut asking, "refused"), refused as u64);
    drop(served);
    wait_until("all places are free", || {
        connections(&mut asking, "open") == 1
    });
    let (served, refused) = crowd(hub, limit - 1);
    assert_eq!((served.len(), refused), (limit - 1, 0), "it serves again");
    drop(served);
    wait_until("all descriptors came back", || {
        hub.process.descriptors() <= idle_files
    });
    let lines = hub.process.stderr.text();
    let lines = lines.lines().filter(|l| l.contains("with 503")).count();
    assert!((1..=10).contains(&lines), "{lines} lines of log");
}

#[test]
fn at_the_limit_on_open_files_who_comes_is_told() {
    let hub = HubOptions::new()
        .args(["--shards", "1"])
        .open_files(100)
        .start();
    let _worker = hub.worker();
    check_full(&hub);
    // A worker finds descriptors while clients have all of theirs.
    let (served, refused) = crowd(&hub, 100);
    assert!(served.len() >= 10 && refused > 0, "{}", served.len());
    let _second = support::Worker::spawn(&hub.dir, &hub.socket, "second", &[]);
    let log = || hub.process.stderr.text();
    wait_until("a second worker attaches", || {
        log()
            .lines()
            .any(|l| l.contains("attached") && l.contains("second"))
    });
}

#[test]
fn the_number_of_connections_may_be_chosen() {
    let hub = HubOptions::new().args(["--max-connections", "20"]).start();
    let _worker = hub.worker();
    assert_eq!(connections(&mut hub.connect(), "limit"), 20);
    check_full(&hub);
}

/// Where the process has no descriptor at all, whoever comes still hears so, and the thread rests.
#[test]
fn without_any_descriptor_who_comes_is_told() {
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let _worker = hub.worker();
    let mut asking = only_connection(&hub);
    // What is free below this is soon taken.
    set_open_files(&hub, 60);
    let before_ms = hub.process.cpu_ms();
    let start = Instant::now();
    let (served, refused) = crowd(&hub, 100);
    assert!(refused >= 40, "{} were served", served.len());
    std::thread::sleep(Duration::from_secs(1));
    let used_ms = hub.process.cpu_ms() - before_ms;
    let took_ms = start.elapsed().as_millis() as u64;
    println!("without descriptors it used {used_ms} ms of processor time in {took_ms} ms");
    assert!(used_ms * 5 < took_ms, "{used_ms} ms of {took_ms} ms");
    assert_eq!(connections(&mut asking, "refused"), refused as u64);
    set_open_files(&hub, 1000);
    assert_eq!(hub.get("/hello").text(), "Hello, World!");
    drop(served);
}

/// Sets the limit on descriptors of a running hub.
fn set_open_files(hub: &Hub, limit: usize) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let pid = Pid::from_raw(hub.process.pid() as i32);
    let limit = Rlimit {
        current: Some(limit as u64),
        maximum: Some(1000),
    };
    prlimit(pid, Resource::Nofile, limit).expect("the limit can be set");
}

#[test]
fn streams_count_as_connections() {
    let hub = HubOptions::new().args(["--max-connections", "10"]).start();
    let mut asking = only_connection(&hub);
    let streams: Vec<Client> = (0..8)
        .map(|_| {
            let mut client = hub.connect();
            client.request("GET", "/events", "", b"");
            assert_eq!(client.head().expect("a head").status, 200);
            client
        })
        .collect();
    wait_until("each is counted once", || {
        connections(&mut asking, "open") == 9
    });
    let mut last = hub.connect();
    last.request("GET", "/health", "", b"");
    assert_eq!(last.answer().status, 200);
    let mut refused = hub.connect();
    let _ = refused.try_send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    refused.answer().assert_problem(503);
    drop((last, streams));
    wait_until("they are gone", || connections(&mut asking, "open") == 1);
}

#[test]
fn more_connections_than_open_files_are_refused_at_the_start() {
    let dir = support::scratch::ScratchDir::new();
    let options = HubOptions::new()
        .args(["--max-connections", "500"])
        .open_files(200);
    let mut process = options.spawn(&dir);
    assert_eq!(process.wait().code(), Some(1));
    let said = process.stderr.text();
    assert!(
        said.contains("ulimit -n") && said.contains("--max-connections"),
        "{said}"
    );
}

#[test]
fn too_few_open_files_for_any_connection_are_said_to_be_so() {
    let dir = support::scratch::ScratchDir::new();
    for args in [&["--shards", "1"][..], &["--max-connections", "5"]] {
        let mut process = HubOptions::new().args(args).open_files(50).spawn(&dir);
        assert_eq!(process.wait().code(), Some(1));
        let said = process.stderr.text();
        assert!(
            said.contains("no room for connections") && said.contains("ulimit -n"),
            "{said}"
        );
        assert!(!said.contains("--max-connections 0"), "{said}");
    }
}

#[test]
fn a_body_is_kept_only_for_who_may_control_the_hub() {
    let hub = Hub::start();
    for (method, path, status) in [
        ("POST", "/health", 405),
        ("GET", "/health", 200),
        ("PUT", "/health/anything", 404),
    ] {
        let mut client = hub.connect();
        client.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4194304\r\n\r\n0123456789"
        ));
        // Without the rest of the body.
        let answer = client.answer();
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.field("connection"), Some("close"), "{method} {path}");
        client.assert_closed();
    }
}

#[test]
fn an_answer_that_does_not_want_the_body_says_that_the_connection_closes() {
    let (hub, _worker) = Hub::with_worker();
    for (fields, part) in [
        (CHUNKED, "5\r\nabcde\r\n"),
        ("Content-Length: 9000000\r\n", "abcde"),
    ] {
        let mut client = hub.connect();
        client.send(format!(
            "GET /hello HTTP/1.1\r\nHost: a\r\n{fields}\r\n{part}"
        ));
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, "Hello, World!"));
        assert_eq!(answer.field("connection"), Some("close"), "{fields}");
        client.assert_closed();
    }
}

#[test]
fn who_sends_too_long_a_head_may_finish_and_read_the_answer() {
    let hub = Hub::start();
    let mut client = hub.connect();
    // With an empty line before it the head fills the buffer to its last byte.
    client.send("\r\nGET / HTTP/1.1\r\nHost: a\r\nlong: ");
    client.send(vec![b'a'; 40_000]);
    assert_eq!(client.answer().status, 431);
    for _ in 0..3 {
        let sent = client.try_send([b'a'; 1000]);
        sent.expect("a reset could take the answer from who has not read it yet");
    }
}

#[test]
fn who_was_too_slow_may_go_on_and_read_the_answer() {
    let dir = ScratchDir::new();
    let front = dir.path().join("front.sock");
    let listen = format!("unix:{}", front.display());
    let hub = HubOptions::new()
        .args(["--head-timeout", "0.2", "--body-grace", "0.2"])
        .args(["--listen", &listen])
        .start_in(dir);
    let _worker = test_worker::start_blocking(&hub, "checker");
    // A head; a body behind its head, in slots, and in frames.
    for (what, begin) in [
        (
            "head",
            "GET /hello HTTP/1.1\r\nHost: a\r\nlong: ".to_string(),
        ),
        (
            "HEAD",
            "HEAD /hello HTTP/1.1\r\nHost: a\r\nlong: ".to_string(),
        ),
        ("small", head("/swallow", "Content-Length: 3000\r\n")),
        ("whole", head("/swallow", "Content-Length: 50000\r\n")),
        ("streamed", head("/swallow", "Content-Length: 50000000\r\n")),
        (
            "control",
            head("/internal/register", "Content-Length: 3000\r\n"),
        ),
    ] {
        for by_unix in [false, true] {
            let mut client = match by_unix {
                false => hub.connect(),
                true => Client::unix(&front),
            };
            client.send(&begin);
            client.send("x");
            let answer = client.answer_to(if what == "HEAD" { "HEAD" } else { "GET" });
            assert_eq!(answer.status, 408, "{what}");
            assert_eq!(answer.field("connection"), Some("close"), "{what}");
            for _ in 0..3 {
                let sent = client.try_send([b'a'; 1000]);
                sent.expect("a reset could take the answer from who has not read it yet");
                // Answers on another connection: what was sent has arrived by then.
                assert_eq!(hub.get("/health").status, 200);
            }
            client.finish_sending();
            client.assert_closed();
        }
    }
    hub.wait_idle();
}

#[test]
fn an_empty_line_behind_a_request_begins_no_head() {
    let hub = HubOptions::new()
        .args(["--head-timeout", "0.2", "--idle-timeout", "1"])
        .start();
    let _worker = hub.worker();
    // With the request and behind the answer; the client is silent then, and may go on.
    for late in [false, true] {
        for goes_on in [false, true] {
            let mut client = hub.connect();
            let request = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n";
            match late {
                false => client.send(format!("{request}\r\n")),
                true => client.send(request),
            }
            assert_eq!(client.answer().text(), "Hello, World!");
            if late {
                client.send("\r\n");
            }
            if goes_on {
                assert_eq!(client.get("/hello").text(), "Hello, World!");
            }
            // Without a word, and so without 408.
            client.assert_closed();
        }
    }
}

#[test]
fn what_nobody_reads_is_not_received_without_end() {
    let hub = Hub::start();
    let mut client = hub.connect();
    client.send(head("/nobody/is/here", "Content-Length: 60000000\r\n"));
    client.answer().assert_problem(404);
    let mut sent = 0;
    while client.try_send([b'a'; 64 * 1024]).is_ok() {
        sent += 64 * 1024;
        // What the hub reads, and what both kernels hold.
        assert!(sent < 40_000_000, "the hub goes on reading");
    }
    // One that sends nothing more is not waited for either.
    let mut client = hub.connect();
    client.send(head("/nobody/is/here", "Content-Length: 60000000\r\n"));
    client.answer().assert_problem(404);
    client.assert_closed();
    hub.wait_idle();
}

#[test]
fn long_answers_that_nobody_reads_have_a_bound() {
    const ROUTES: usize = 16_000;
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let routes: Vec<_> = (0..ROUTES)
        .map(|number| {
            let rest = "x".repeat(100);
            format!(r#"{{"method":"GET","path":"/many/{number}/{rest}"}}"#)
        })
        .collect();
    let body = format!(r#"{{"name":"many","routes":[{}]}}"#, routes.join(","));
    let answer = hub.request("POST", "/internal/register", "", body.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    let length = hub.get("/health").body.len();
    let room = 64 * 1024 * 1024 / length;
    let mut clients: Vec<Client> = (0..room + 20)
        .map(|_| Client::with_small_window(hub.address))
        .collect();
    for client in &mut clients {
        client.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    let mut statuses: Vec<u16> = Vec::new();
    for client in &mut clients {
        let answer = client.answer();
        statuses.push(answer.status);
        match answer.status {
            // Its counters have more digits by and by.
            200 => assert!(answer.body.len() >= length),
            _ => drop(answer.assert_problem(503)),
        }
    }
    assert!(
        statuses.contains(&503),
        "nothing bounds them: {length} bytes each"
    );
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(served >= room / 2, "{served} of {}", statuses.len());
    assert_eq!(hub.get("/health").status, 200);
}
