//! The control paths, who may use them, the command line and what it refuses.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use simd_json::OwnedValue;
use simd_json::prelude::*;

use slotway::control::{ToWorker, WakeMode};
use support::hub::slotway;
use support::process::Process;
use support::raw_worker::{attach_message, connect, framed};
use support::scratch::ScratchDir;
use support::{Client, Hub, HubOptions, json, wait_until};

const SECRET: &str = "a secret of many characters";

/// Runs the binary to its end.
fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let dir = ScratchDir::new();
    let mut command = slotway(&dir);
    command.args(args).envs(env.iter().copied());
    let mut process = Process::start(format!("slotway {}", args.join(" ")), command);
    let status = process.wait();
    let code = status.code().expect("it exits by itself");
    (code, process.stdout.text(), process.stderr.text())
}

#[test]
fn health_lists_the_workers() {
    let (hub, worker) = Hub::with_worker();
    let answer = hub.get("/health");
    assert_eq!(answer.field("content-type"), Some("application/json"));
    let health = json(&answer.body);
    assert_eq!(health.get_bool("ok"), Some(true));
    let workers = health.get_array("workers").expect("workers");
    assert_eq!(workers.len(), 1);
    let entry = &workers[0];
    assert_eq!(entry.get_str("name"), Some("demo"));
    assert!(entry.get_str("worker_id").is_some_and(|id| !id.is_empty()));
    assert!(entry.get_u64("route_count").is_some_and(|count| count >= 8));
    assert!(
        entry
            .get_str("transport")
            .is_some_and(|t| t.starts_with("shm:"))
    );
    assert_eq!(entry.get_u64("pid"), Some(worker.process.pid().into()));
    // A hub without workers is well too.
    let empty = Hub::start().health();
    assert_eq!(empty.get_bool("ok"), Some(true));
    assert_eq!(empty.get_array("workers").map(Vec::len), Some(0));
}

#[test]
fn slots_are_counted_and_listed() {
    let hub = HubOptions::new()
        .args(["--slots", "32", "--slot-size", "8192", "--shards", "2"])
        .start();
    let _worker = hub.worker_with("demo", &["--threads", "2"]);
    let check = |report: &OwnedValue| -> u64 {
        let workers = report.get_array("workers").expect("workers");
        assert_eq!(workers.len(), 1, "{report}");
        let worker = &workers[0];
        assert_eq!(worker.get_str("name"), Some("demo"));
        let number = |name: &str| worker.get_u64(name).expect(name);
        let slots = worker.get_array("slots").expect("slots");
        assert_eq!(number("total_slots"), slots.len() as u64);
        assert_eq!(
            number("total_slots"),
            64,
            "a lane of 32 for each of two shards"
        );
        assert_eq!(number("free") + number("in_use"), number("total_slots"));
        let mut free = 0;
        for (index, slot) in slots.iter().enumerate() {
            assert_eq!(slot.get_u64("index"), Some(index as u64));
            let state = slot.get_str("state").expect("a state");
            assert!(["free", "writing", "ready"].contains(&state), "{state}");
            free += u64::from(state == "free");
        }
        assert_eq!(number("free"), free);
        number("in_use")
    };
    assert_eq!(check(&hub.slots()), 0);
    let mut sleepers: Vec<Client> = (0..2).map(|_| hub.connect()).collect();
    for client in &mut sleepers {
        client.request("GET", "/sleep/3000", "", b"");
    }
    wait_until("two requests are in flight", || check(&hub.slots()) == 2);
    for client in &mut sleepers {
        assert_eq!(client.answer().status, 200);
    }
    hub.wait_idle();
    assert_eq!(check(&hub.slots()), 0);
}

#[test]
fn unknown_control_paths_and_methods_are_refused() {
    let hub = Hub::start();
    hub.get("/internal").assert_problem(404);
    hub.get("/internal/nothing").assert_problem(404);
    for (method, path) in [("POST", "/health"), ("DELETE", "/internal/slots")] {
        let answer = hub.request(method, path, "", b"");
        answer.assert_problem(405);
        assert!(
            answer
                .field("allow")
                .is_some_and(|allow| allow.contains("GET"))
        );
    }
    for (path, allow) in [
        ("/health", "GET, HEAD, OPTIONS"),
        ("/internal/slots", "GET, HEAD, OPTIONS"),
        ("/internal/emit", "POST, OPTIONS"),
    ] {
        let answer = hub.request("OPTIONS", path, "", b"");
        assert_eq!(answer.status, 204, "{path}");
        assert_eq!(answer.field("allow"), Some(allow), "{path}");
    }
    // Nobody is asked to send what will not be taken.
    let mut client = hub.connect();
    client.send(
        "POST /internal/emit HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5000000\r\n\r\n",
    );
    client.answer().assert_problem(413);
    let long = vec![b' '; 5 * 1024 * 1024];
    let mut client = hub.connect();
    client.send(format!(
        "POST /internal/register HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        long.len()
    ));
    client.answer().assert_problem(413);
    client.drain_to_end();
    // Without a length it is read as far as it may go.
    let mut client = hub.connect();
    client.send(
        "POST /internal/emit HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    client.send("3fffff\r\n");
    client.send(&long[..0x3f_ffff]);
    client.send("\r\n2\r\n");
    client.answer().assert_problem(413);
    client.drain_to_end();
}

#[test]
fn web_pages_cannot_use_the_control_paths() {
    let hub = HubOptions::new().env("HUB_SECRET", SECRET).start();
    let secret = format!("X-Hub-Secret: {SECRET}\r\n");
    for fields in [
        "Origin: https://evil.example\r\n".to_string(),
        "Origin: null\r\n".to_string(),
        "Sec-Fetch-Site: cross-site\r\n".to_string(),
        "Sec-Fetch-Site: same-site\r\n".to_string(),
        format!("{secret}Origin: https://evil.example\r\n"),
        // A page whose name was made to resolve here.
        "Host: evil.example\r\nOrigin: http://evil.example\r\n".to_string(),
    ] {
        for (method, path) in [("GET", "/internal/slots"), ("POST", "/internal/register")] {
            let answer = hub.request(method, path, &fields, b"");
            answer.assert_problem(403);
            let shared = answer.field("access-control-allow-origin");
            assert_eq!(shared, None, "{fields}: {answer:?}");
        }
    }
    // Browsers need not say the origin of a GET.
    for fields in [
        "Host: evil.example\r\n".to_string(),
        format!("Host: evil.example:{}\r\n", hub.address.port()),
        "Host: localhost.evil.example\r\n".to_string(),
        "Host: 127.0.0.1.evil.example\r\n".to_string(),
    ] {
        hub.request("GET", "/internal/slots", &fields, b"")
            .assert_problem(403);
    }
    // What is neither a GET nor says its origin is no page.
    let answer = hub.request("POST", "/internal/register", "Host: hub\r\n", b"");
    answer.assert_problem(400);
    // Nor ask in advance.
    let preflight = "Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n";
    let answer = hub.request("OPTIONS", "/internal/register", preflight, b"");
    answer.assert_problem(403);
    assert_eq!(answer.field("access-control-allow-origin"), None);
    // A name that resolves here is no matter for those who hold the secret.
    let fields = format!("Host: hub.example\r\n{secret}");
    assert_eq!(
        hub.request("GET", "/internal/slots", &fields, b"").status,
        200
    );
    // The hub's own page, and programs.
    let own = format!("Host: {0}\r\nOrigin: http://{0}\r\n", hub.address);
    assert_eq!(hub.request("GET", "/internal/slots", &own, b"").status, 200);
    assert_eq!(hub.get("/internal/slots").status, 200);
}

#[test]
fn a_wrong_secret_is_refused_even_here() {
    let hub = HubOptions::new().env("HUB_SECRET", SECRET).start();
    let with = |secret: &str| {
        let fields = format!("X-Hub-Secret: {secret}\r\n");
        hub.request("GET", "/internal/slots", &fields, b"").status
    };
    assert_eq!(with(SECRET), 200);
    for wrong in [
        "",
        "x",
        &SECRET[1..],
        &format!("{SECRET}x"),
        &SECRET.to_uppercase(),
    ] {
        assert_eq!(with(wrong), 403, "{wrong}");
    }
}

#[test]
fn a_bind_to_the_network_needs_a_secret() {
    for bind in ["0.0.0.0", "::"] {
        let (code, stdout, stderr) = run(&["serve", "--port", "0", "--bind", bind], &[]);
        assert_ne!(code, 0, "{bind} {stdout}");
        assert!(!stdout.contains("listening"), "{stdout}");
        assert!(stderr.contains("HUB_SECRET"), "{stderr}");
    }
    let env = [("HUB_BIND", "0.0.0.0")];
    let (code, _, stderr) = run(&["serve", "--port", "0"], &env);
    assert!(
        code != 0 && stderr.contains("HUB_SECRET"),
        "HUB_BIND: {stderr}"
    );
    let short = [("HUB_SECRET", "fifteen letters")];
    for bind in ["0.0.0.0", "127.0.0.1"] {
        let (code, _, stderr) = run(&["serve", "--port", "0", "--bind", bind], &short);
        assert_ne!(code, 0, "{bind}");
        assert!(stderr.contains("16"), "the least length is named: {stderr}");
    }
    let hub = HubOptions::new()
        .args(["--bind", "0.0.0.0"])
        .env("HUB_SECRET", SECRET)
        .start();
    let mut client = Client::tcp(([127, 0, 0, 1], hub.address.port()).into());
    assert_eq!(client.get("/health").status, 200);
}

#[test]
fn nonsense_geometry_is_refused_with_what_is_possible() {
    for (args, range) in [
        (&["--slots", "0"][..], "16"),
        (&["--slots", "15"], "16"),
        (&["--slots", "1000000"], "32768"),
        (&["--slots", "many"], "many"),
        (&["--slot-size", "0"], "4096"),
        (&["--slot-size", "1000"], "4096"),
        (&["--slot-size", "4097"], "4096"),
        (&["--slot-size", "2097152"], "1048576"),
        (&["--shards", "0"], "1"),
        (&["--shards", "65"], "64"),
        (&["--ping-interval-ms", "18446744073709551615"], "86400000"),
        (&["--ping-timeout-ms", "0"], "1"),
        (&["--remember-ms", "9223372036854775807"], "86400000"),
        (&["--sse-sweep-interval-ms", "86400001"], "86400000"),
        // More than an arena, and more than the machine.
        (&["--slots", "32768", "--slot-size", "1048576"], ""),
    ] {
        for command in ["serve", "demo"] {
            let all = [&[command, "--port", "0"], args].concat();
            let (code, stdout, stderr) = run(&all, &[]);
            assert_eq!(code, 2, "{all:?}: {stdout}{stderr}");
            assert!(!stdout.contains("listening"), "{all:?}: {stdout}");
            assert!(stderr.contains(range), "{all:?}: {stderr}");
        }
    }
    for args in [
        &["serve", "--no-such-option"][..],
        &["no-such-command"],
        &["serve", "--port", "65536"],
        &["serve", "--timeout", "-1"],
        &["serve", "--timeout", "soon"],
        &["serve", "--listen", "tcp:somewhere"],
        &["serve", "--bind", "not an address"],
    ] {
        let (code, _, stderr) = run(args, &[]);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        assert!(!stderr.trim().is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_version_are_there() {
    let (code, stdout, _) = run(&["--help"], &[]);
    assert_eq!(code, 0);
    for command in ["serve", "demo", "demo-worker", "status"] {
        assert!(stdout.contains(command), "{command}: {stdout}");
    }
    let (code, stdout, _) = run(&["serve", "--help"], &[]);
    assert_eq!(code, 0);
    for option in [
        "--port",
        "--bind",
        "--listen",
        "--socket",
        "--timeout",
        "--slots",
        "--slot-size",
        "--shards",
        "--instrumentation",
        "--sse-sweep-interval-ms",
        "HUB_BIND",
        "HUB_SECRET",
    ] {
        assert!(stdout.contains(option), "{option}: {stdout}");
    }
    let (code, stdout, _) = run(&["--version"], &[]);
    assert!(
        code == 0 && stdout.contains(env!("CARGO_PKG_VERSION")),
        "{stdout}"
    );
}

/// Starts a hub that must fail, and returns what it says.
fn failed_start(args: &[&str]) -> String {
    let dir = ScratchDir::new();
    let mut command = slotway(&dir);
    command.arg("serve").args(args);
    let mut process = Process::start(format!("slotway serve {}", args.join(" ")), command);
    let status = process.wait();
    let stderr = process.stderr.text();
    assert_eq!(status.code(), Some(1), "{stderr}");
    stderr
}

#[test]
fn a_port_that_is_taken_is_named() {
    let hub = Hub::start();
    let port = hub.address.port().to_string();
    let stderr = failed_start(&["--port", &port]);
    assert!(stderr.contains(&port), "{stderr}");
    assert_eq!(hub.get("/health").status, 200);
    // So is one that another program has.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port().to_string();
    let stderr = failed_start(&["--port", &port]);
    assert!(stderr.contains(&port), "{stderr}");
}

#[test]
fn a_socket_that_is_taken_is_named_and_left_alone() {
    let dir = ScratchDir::new();
    let front = dir.path().join("front.sock");
    let listen = format!("unix:{}", front.display());
    let hub = HubOptions::new().args(["--listen", &listen]).start();
    let socket = hub.socket.to_str().unwrap();
    let stderr = failed_start(&["--port", "0", "--socket", socket]);
    assert!(stderr.contains(socket), "{stderr}");
    let stderr = failed_start(&["--port", "0", "--listen", &listen]);
    assert!(stderr.contains(front.to_str().unwrap()), "{stderr}");
    // The first hub is not disturbed.
    let _worker = hub.worker();
    assert_eq!(Client::unix(&front).get("/hello").status, 200);
}

#[test]
fn a_file_in_the_way_of_a_socket_is_not_removed() {
    let dir = ScratchDir::new();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let path = file.to_str().unwrap();
    for (option, value) in [
        ("--socket", path.to_string()),
        ("--listen", format!("unix:{path}")),
    ] {
        let stderr = failed_start(&["--port", "0", option, &value]);
        assert!(stderr.contains(path), "{option}: {stderr}");
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    }
}

#[test]
fn a_worker_without_a_hub_says_so() {
    let args = ["demo-worker", "--socket", "/nonexistent/hub.sock", "--once"];
    let (code, _, stderr) = run(&args, &[]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("/nonexistent/hub.sock"), "{stderr}");
}

#[test]
fn sockets_are_private() {
    let hub = Hub::start();
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path)
            .expect("it exists")
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(mode(&hub.socket), 0o600);

    // Without --socket it is in a private directory of the user's runtime directory.
    let dir = ScratchDir::new();
    let mut command = slotway(&dir);
    command.args(["serve", "--port", "0"]);
    let mut process = Process::start("a hub without --socket", command);
    let socket = process.wait_line("workers attach at ");
    let socket = std::path::Path::new(&socket);
    assert!(socket.starts_with(dir.path()), "{}", socket.display());
    assert_eq!(mode(socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()) & 0o077, 0);
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0));
    assert!(!socket.exists(), "the socket is left");
}

#[test]
fn the_demo_is_one_command() {
    let dir = ScratchDir::new();
    let mut hub = HubOptions::new().demo().start_in(dir);
    let line = hub.process.wait_line("demo worker attached (pid ");
    let pid: u32 = line.trim_end_matches(')').parse().expect("a pid");
    let page = hub.process.wait_line("or open ");
    assert_eq!(page, format!("{} in a browser", hub.url("/")));
    assert_eq!(hub.get("/hello").text(), "Hello, World!");
    assert_eq!(hub.get("/whoami").text().trim(), pid.to_string());
    assert_eq!(hub.stop().code(), Some(0));
    wait_until("the worker ends with its hub", || {
        !support::process::is_alive(pid)
    });
    assert!(!hub.socket.exists(), "the socket is left");
}

#[test]
fn the_demo_worker_answers_as_documented() {
    let (hub, worker) = Hub::with_worker();
    let text = |path: &str| hub.get(path).text().trim_end().to_string();
    assert_eq!(text("/hello"), "Hello, World!");
    assert_eq!(text("/items/abc"), "abc");
    assert_eq!(text("/whoami"), worker.process.pid().to_string());
    assert_eq!(hub.get("/sleep/1").status, 200);
    assert_eq!(hub.get("/bytes/0").body.len(), 0);
    assert_eq!(hub.get("/bytes/100001").body.len(), 100_001);
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = hub.request(method, "/", "", b"");
        assert_eq!(answer.status, 200, "{method}: {answer:?}");
        assert!(
            (1..200).contains(&answer.body.len()),
            "{method}: {answer:?}"
        );
    }
    let answer = hub.request("POST", "/echo", "Content-Type: image/x\r\n", b"\0\x01\xff");
    assert_eq!(answer.field("content-type"), Some("image/x"));
    assert_eq!(answer.body, b"\0\x01\xff");
    let answer = hub.request("POST", "/count", "", &[7; 12_345]);
    assert_eq!(answer.text().trim_end(), "12345");
    for path in ["/sleep/x", "/bytes/-1", "/bytes/99999999999999999999999"] {
        let status = hub.get(path).status;
        assert!((400..500).contains(&status), "{path}: {status}");
    }
}

#[test]
fn the_demo_has_a_page_for_browsers_alone() {
    for args in [&[][..], &["--threads", "1"]] {
        let hub = Hub::start();
        let _worker = hub.worker_with("demo", args);
        let accept = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n";
        let page = hub.request("GET", "/", accept, b"");
        assert_eq!(page.status, 200, "{page:?}");
        assert_eq!(
            page.field("content-type"),
            Some("text/html; charset=utf-8"),
            "{page:?}"
        );
        let policy = page.field("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        let (_, rest) = policy.split_once("script-src 'nonce-").expect("a nonce");
        let (nonce, _) = rest.split_once('\'').expect("a whole nonce");
        let allowed = format!("<script nonce=\"{nonce}\">");
        assert!(page.text().contains(&allowed), "{policy}");
        let again = hub.request("GET", "/", accept, b"");
        assert_ne!(again.field("content-security-policy"), Some(policy));
        for (method, accept) in [
            ("GET", ""),
            ("GET", "Accept: */*\r\n"),
            ("POST", "Accept: text/html\r\n"),
        ] {
            let line = hub.request(method, "/", accept, b"");
            let expected = format!("{method} / answered by the slotway demo worker\n");
            assert_eq!(line.text(), expected);
        }
    }
}

fn status(args: &[&str]) -> Output {
    let dir = ScratchDir::new();
    let mut command = slotway(&dir);
    command.arg("status").args(args);
    command.output().expect("the binary runs")
}

#[test]
fn status_shows_workers_routes_and_slots() {
    let hub = HubOptions::new()
        .args(["--slots", "48", "--shards", "1"])
        .start();
    let port = hub.address.port().to_string();
    let _worker = hub.worker_with("shop", &[]);
    let table = status(&["--port", &port]);
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(table.status.success(), "{text}");
    for part in ["shop", "attached", "48", "GET", "/hello", "/items/{id}"] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    let by_url = status(&["--url", &hub.url("")]);
    assert!(by_url.status.success());
    assert!(String::from_utf8_lossy(&by_url.stdout).contains("shop"));

    let report = status(&["--port", &port, "--json"]);
    assert!(report.status.success());
    let report = json(&report.stdout).to_string();
    for part in ["shop", "/hello", "48", "in_use"] {
        assert!(report.contains(part), "{part} is missing: {report}");
    }
}

#[test]
fn status_without_a_hub_says_so() {
    let mut hub = Hub::start();
    let port = hub.address.port().to_string();
    hub.stop();
    let output = status(&["--port", &port]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(&port), "{stderr}");
    assert_eq!(status(&["--port", &port, "--json"]).status.code(), Some(1));
}

#[test]
fn instrumentation_logs_where_time_went() {
    let hub = HubOptions::new().args(["--instrumentation"]).start();
    let _worker = hub.worker();
    let before = hub.process.stderr.text().lines().count();
    assert_eq!(hub.get("/hello").status, 200);
    wait_until("a line for the request", || {
        hub.process.stderr.text().lines().skip(before).any(|line| {
            line.contains("worker")
                && (line.contains("us") || line.contains("µs") || line.contains("ns"))
        })
    });
}

#[test]
fn wakes_and_requests_are_counted() {
    let (hub, _worker) = Hub::with_worker();
    let traffic = || {
        let worker = hub.health_of("demo").expect("the worker");
        let traffic = worker.get("traffic").expect("traffic").clone();
        let number = |name: &str| traffic.get_u64(name).expect(name);
        (
            number("requests"),
            number("wakes_to_worker"),
            number("wakes_to_hub"),
        )
    };
    let (before, ..) = traffic();
    for _ in 0..20 {
        hub.get("/hello");
    }
    let (after, to_worker, to_hub) = traffic();
    assert_eq!(after - before, 20);
    // One client at a time finds everybody asleep now and then, and never needs two wakes.
    assert!(to_worker > 0 && to_hub > 0, "{to_worker} {to_hub}");
}

#[test]
fn what_is_wrong_with_json_is_said_plainly() {
    let hub = Hub::start();
    let refused = |path: &str, body: &str| {
        let answer = hub.request("POST", path, "", body.as_bytes());
        answer.assert_problem(400);
        let problem = json(&answer.body);
        let member = |name: &str| problem.get_str(name).expect(name).to_owned();
        (member("field"), member("detail"))
    };
    for (path, body, field, detail) in [
        ("/internal/emit", "{}", "source", "'source' is missing"),
        ("/internal/emit", "", "body", "ends before"),
        ("/internal/emit", "{\"source\":", "body", ""),
        (
            "/internal/emit",
            " [\"s\",\"a\",1]",
            "body",
            "an array stands where an object is expected",
        ),
        (
            "/internal/sse-push",
            "[\"/a\",null,{},null,\"e\",1,null,null]",
            "body",
            "an array stands where an object is expected",
        ),
        (
            "/internal/register",
            "[\"a\",[]]",
            "body",
            "an array stands where an object is expected",
        ),
        (
            "/internal/emit",
            "{\"source\":1,\"event_type\":\"a\",\"data\":1}",
            "body",
            "string",
        ),
        (
            "/internal/register",
            "{\"name\":\"a\"}",
            "routes",
            "'routes' is missing",
        ),
        (
            "/internal/register",
            "{\"name\":\"a\",\"routes\":3}",
            "body",
            "",
        ),
        ("/internal/register", "nonsense", "body", ""),
        (
            "/internal/sse-push",
            "{\"path\":\"\",\"data\":1}",
            "path",
            "starts with a slash",
        ),
        (
            "/internal/sse-push",
            "{\"path\":\"a b\",\"data\":1}",
            "path",
            "starts with a slash",
        ),
    ] {
        let (found, said) = refused(path, body);
        assert_eq!(found, field, "{body}: {said}");
        assert!(said.contains(detail), "{body}: {said}");
        let internals = [
            "Serde",
            "Eof",
            "character 0",
            "Expected",
            "`",
            "(",
            "Syntax",
        ];
        assert!(
            !internals.iter().any(|i| said.contains(i)),
            "{body}: {said}"
        );
    }
    let answer = hub.request(
        "POST",
        "/internal/sse-push",
        "",
        b"{\"path\":\"/nobody\",\"data\":1}",
    );
    let said = answer.assert_problem(404);
    assert!(said.contains("path /nobody"), "{said}");
}

/// A registration of as many routes as one may have.
fn large_registration(name: &str) -> String {
    let routes: Vec<String> = (0..16 * 1024)
        .map(|n| format!("{{\"method\":\"GET\",\"path\":\"/{name}/{{a}}/{n}\"}}"))
        .collect();
    format!("{{\"name\":\"{name}\",\"routes\":[{}]}}", routes.join(","))
}

#[test]
fn registrations_over_http_have_a_bound_and_keep_no_worker_out() {
    let hub = HubOptions::new().args(["--slots", "16"]).start();
    let mut client = hub.connect();
    let mut register = |body: &str| {
        client.request("POST", "/internal/register", "", body.as_bytes());
        client.answer()
    };
    for n in 0..512 {
        let body = format!("{{\"name\":\"r{n}\",\"routes\":[]}}");
        assert_eq!(register(&body).status, 200, "{n}");
    }
    let body = "{\"name\":\"more\",\"routes\":[]}";
    let said = register(body).assert_problem(503);
    assert!(said.contains("wait for their workers"), "{said}");
    let _worker = hub.worker_with("demo", &[]);
    // The same for routes; a worker that comes meanwhile is told to come again.
    for n in 0..4 {
        let answer = register(&large_registration(&format!("r{n}")));
        let expected = if n < 3 { 200 } else { 503 };
        assert_eq!(answer.status, expected, "{answer:?}");
    }
    let rest = 65536
        - 3 * 16384
        - hub
            .health_of("demo")
            .unwrap()
            .get_usize("route_count")
            .unwrap();
    let routes: Vec<String> = (0..rest)
        .map(|n| format!("{{\"method\":\"GET\",\"path\":\"/rest/{n}\"}}"))
        .collect();
    let body = format!("{{\"name\":\"r3\",\"routes\":[{}]}}", routes.join(","));
    assert_eq!(register(&body).status, 200);
    let attach = attach_message("late", &["GET /late"], WakeMode::Futex);
    let attach = framed(&simd_json::to_vec(&attach).expect("JSON"));
    match said_to(&hub, &attach) {
        Some(ToWorker::Refused { error, temporary }) => {
            assert_eq!(error.field, "routes", "{error}");
            assert!(temporary, "it may come again");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(register("{\"name\":\"r3\",\"routes\":[]}").status, 200);
    let attached = said_to(&hub, &attach);
    assert!(
        matches!(attached, Some(ToWorker::Attached { .. })),
        "{attached:?}"
    );
}

/// What the hub answers to the first bytes on its attach socket.
fn said_to(hub: &Hub, bytes: &[u8]) -> Option<ToWorker> {
    let mut socket = connect(&hub.socket).expect("the attach socket");
    // It may refuse before it has read all.
    let _ = socket.write_all(bytes);
    let mut length = [0; 4];
    socket.read_exact(&mut length).ok()?;
    let mut json = vec![0; u32::from_le_bytes(length) as usize];
    socket.read_exact(&mut json).expect("the whole message");
    Some(simd_json::from_slice(&mut json).expect("a message"))
}

#[test]
fn what_is_not_understood_on_the_attach_socket_is_answered_and_logged() {
    let hub = Hub::start();
    let attach = |from: &str, to: &str| {
        let message = attach_message("x", &["GET /x"], WakeMode::Futex);
        let text = simd_json::to_string(&message).expect("JSON");
        assert!(text.contains(from), "{text}");
        framed(text.replace(from, to).as_bytes())
    };
    for (bytes, field, detail) in [
        (attach("\"futex\"", "\"x\""), "message", "futex"),
        (
            attach("\"abi_version\":1", "\"abi_version\":-1"),
            "message",
            "",
        ),
        (
            attach("\"abi_version\":1", "\"abi_version\":2"),
            "abi_version",
            "version 1",
        ),
        (
            attach("\"registration\"", "\"other\""),
            "registration",
            "missing",
        ),
        (framed(b"{"), "message", ""),
        (framed(b""), "message", "empty"),
        (framed(b"\xff\xfe"), "message", ""),
        (framed(b"{\"type\":\"nope\"}"), "message", "nope"),
        (framed(b"{\"type\":\"drain\"}"), "message", "attach first"),
        (framed(&b"[".repeat(200_000)), "message", ""),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "message", "at most"),
    ] {
        let what = bytes[..bytes.len().min(200)].escape_ascii().to_string();
        match said_to(&hub, &bytes) {
            Some(ToWorker::Refused { error, temporary }) => {
                assert_eq!(error.field, field, "{what}: {error}");
                assert!(error.detail.contains(detail), "{what}: {error}");
                assert!(!temporary, "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    let logged = || {
        let lines = [hub.process.stderr.text(), hub.process.stdout.text()].concat();
        let mut found = lines
            .lines()
            .filter(|l| l.contains("refused a process on the attach socket"));
        (found.next().map(str::to_owned), found.count())
    };
    wait_until("it is logged", || logged().0.is_some());
    let (first, others) = logged();
    let pid = format!("pid={}", std::process::id());
    assert!(
        first
            .as_ref()
            .is_some_and(|l| l.contains(&pid) && l.contains("WARN")),
        "{first:?}"
    );
    assert!(
        others <= 3,
        "ten at once are not ten lines, but {others} more"
    );
}

#[test]
fn who_says_nothing_on_the_attach_socket_takes_little() {
    let hub = HubOptions::new().args(["--slots", "16"]).start();
    let before = hub.process.descriptors();
    let silent: Vec<_> = (0..300)
        .map(|_| connect(&hub.socket).expect("a place in the queue"))
        .collect();
    wait_until("some are let in", || {
        hub.process.descriptors() >= before + 64
    });
    // Each has a socket and a pidfd; a hub that has just started opens a few for itself.
    let taken = hub.process.descriptors() - before;
    assert!(taken < 3 * 64, "{taken} descriptors");
    drop(silent);
    let _worker = hub.worker_with("demo", &[]);

    // Half of a long message each: those that have sent most are turned away.
    let most = 4 * 1024 * 1024u32;
    let mut long: Vec<_> = (0..8)
        .map(|_| {
            let mut socket = connect(&hub.socket).expect("the attach socket");
            socket.write_all(&most.to_le_bytes()).expect("the length");
            socket
        })
        .collect();
    let part = vec![b' '; most as usize - 1];
    for socket in &mut long {
        // It may be turned away meanwhile.
        let _ = socket.write_all(&part);
        socket.set_nonblocking(true).expect("an open socket");
    }
    let mut told = vec![0; long.len()];
    wait_until("those beyond 16 MiB are turned away", || {
        for (socket, told) in long.iter_mut().zip(&mut told) {
            let mut bytes = [0; 512];
            *told += socket.read(&mut bytes).unwrap_or(0);
        }
        told.iter().filter(|told| **told > 0).count() >= 4
    });
}
