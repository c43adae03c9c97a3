//! Deaths at bad moments, and surroundings that fail: half-done attaches, transfers under way, names
//! taken twice, logs that cannot be written, directories that are not there. The long runs of kills
//! are in `kills`, ordinary births and deaths in `lifecycle`.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use simd_json::prelude::*;
use slotway::worker::{
    BodyWriter, Event, Request, Response, SseRoute, Target, Worker as SdkWorker,
};

use support::hub::slotway;
use support::pattern::{Checker, pattern};
use support::process::{Process, is_alive};
use support::scratch::ScratchDir;
use support::sse::{End, Sse};
use support::{Client, GUARD, Hub, HubOptions, Random, Worker, seed, wait_until};

const MODE: &str = "SLOTWAY_TEST_MODE";
const SOCKET: &str = "SLOTWAY_TEST_SOCKET";

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    let variable = |name| std::env::var(name).ok();
    let (Some(mode), Some(socket)) = (variable(MODE), variable(SOCKET)) else {
        println!("started by hand: nothing to serve");
        return;
    };
    // The harness has begun a line.
    println!();
    match mode.as_str() {
        "once" => finishing(SdkWorker::new("once").socket(socket)),
        "once-async" => finishing_async(SdkWorker::new("once").socket(socket)),
        "signals" => signals(&socket),
        "own-before" => own_handler(&socket, true),
        "own-after" => own_handler(&socket, false),
        "leaving" => leaving(&socket),
        "publishing" => publishing(&socket),
        other => panic!("there is no mode '{other}'"),
    }
}

/// Starts this binary as a worker.
fn start(hub: &Hub, mode: &str) -> Process {
    let own = std::env::current_exe().expect("the test knows its binary");
    let mut command = Command::new(own);
    command
        .args(["worker_process", "--exact", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env_remove("SLOTWAY_SOCKET")
        .env(MODE, mode)
        .env(SOCKET, &hub.socket);
    Process::start(format!("worker '{mode}'"), command)
}

/// Waits until so many requests have their slots.
fn wait_in_flight(hub: &Hub, count: u64) {
    wait_until("the requests are in flight", || hub.slots_in_use() >= count);
}

fn lane_mappings(process: &Process) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid())).unwrap();
    maps.lines()
        .filter(|line| line.contains("memfd:slotway"))
        .count()
}

#[test]
fn a_hub_killed_while_workers_attach_finds_them_when_it_is_back() {
    let mut random = Random(seed("a_hub_killed_while_workers_attach"));
    let mut hub = Hub::start();
    for _ in 0..12 {
        let socket = hub.socket.clone();
        let names = ["one", "two", "three"];
        let spawn = |name| Worker::spawn(&hub.dir, &socket, name, &["--threads", "1"]);
        let workers = names.map(spawn);
        std::thread::sleep(Duration::from_micros(random.below(25_000)));
        hub.process.kill();
        hub = HubOptions::new().start_in(hub.into_dir());
        for (name, worker) in names.iter().zip(&workers) {
            hub.wait_attached(name, worker.process.pid());
        }
        assert_eq!(hub.get("/hello").text(), "Hello, World!");
    }
}

#[test]
fn a_worker_killed_while_it_attaches_leaves_nothing() {
    let mut random = Random(seed("a_worker_killed_while_it_attaches"));
    let hub = Hub::start();
    let stays = hub.worker_with("stays", &["--threads", "1"]);
    let (before, mapped) = (hub.process.descriptors(), lane_mappings(&hub.process));
    for _ in 0..40 {
        let mut dies = Worker::spawn(&hub.dir, &hub.socket, "dies", &["--threads", "1"]);
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        dies.process.kill();
        assert_eq!(
            hub.get("/whoami").text().trim(),
            stays.process.pid().to_string()
        );
    }
    // By hand: each of these breaks off at another place of the handshake.
    let attach = br#"{"type":"attach","abi_version":1,"wake":"futex","name":"dies","routes":[]}"#;
    let length = (attach.len() as u32).to_le_bytes();
    let whole = [length.as_slice(), attach].concat();
    for cut in [0, 1, 4, 5, whole.len() / 2, whole.len() - 1, whole.len()] {
        let mut half = UnixStream::connect(&hub.socket).unwrap();
        half.write_all(&whole[..cut]).unwrap();
    }
    wait_until("nothing is left of them", || {
        hub.process.descriptors() <= before && lane_mappings(&hub.process) == mapped
    });
    assert_eq!(hub.slots_in_use(), 0);
    let fresh = hub.worker_with("dies", &["--threads", "1"]);
    assert!(is_alive(fresh.process.pid()));
}

#[test]
fn two_workers_that_take_one_name_at_once_leave_one() {
    let hub = Hub::start();
    let mut before = 0;
    for round in 0..15 {
        let spawn = |_| Worker::spawn(&hub.dir, &hub.socket, "twin", &["--threads", "1"]);
        let mut twins: [Worker; 3] = [0, 1, 2].map(spawn);
        wait_until("all but one have ended", || {
            let ended = twins.iter_mut().map(|t| t.process.ended());
            ended.flatten().count() == 2
        });
        let left = twins
            .iter_mut()
            .map(|t| (t.process.pid(), t.process.ended()))
            .find(|(_, ended)| ended.is_none());
        let (left, _) = left.expect("one lives");
        hub.wait_attached("twin", left);
        for twin in twins.iter_mut().filter(|t| t.process.pid() != left) {
            assert_eq!(twin.process.wait().code(), Some(1));
            let said = twin.process.stderr.text();
            assert!(said.contains("has taken"), "{said}");
        }
        for _ in 0..5 {
            assert_eq!(hub.get("/whoami").text().trim(), left.to_string());
        }
        let health = hub.health();
        assert_eq!(
            health.get_array("workers").map(Vec::len),
            Some(1),
            "{health}"
        );
        drop(twins);
        wait_until("its lanes are gone", || lane_mappings(&hub.process) == 0);
        if round == 0 {
            before = hub.process.descriptors();
        }
    }
    wait_until("descriptors of all of them are closed", || {
        hub.process.descriptors() <= before
    });
}

#[test]
fn a_hub_told_to_stop_finishes_transfers_and_ends_streams() {
    let mut hub = Hub::start();
    let _worker = hub.worker_with("demo", &["--threads", "4", "--once"]);
    let mut stream = Sse::open(&hub, "/events");
    stream.retry();
    let mut delegated = Sse::open(&hub, "/demo/ticks");
    delegated.retry();
    let total = 3_000_000;
    let mut upload = hub.connect();
    upload.send(format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {total}\r\n\r\n"
    ));
    upload.send(pattern(0, 1000));
    let mut download = hub.connect();
    download.request("GET", "/bytes/30000000", "", b"");
    assert_eq!(download.head().expect("a head").status, 200);
    wait_in_flight(&hub, 2);
    hub.process.signal("TERM");
    wait_until("it says so", || hub.process.stderr.contains("stopping"));
    // What had begun goes on.
    let mut writer = upload.writer();
    let sending = std::thread::spawn(move || {
        let mut sent = 1000;
        while sent < total {
            let part = pattern(sent, (total - sent) as usize);
            writer.write_all(part).expect("the hub takes it");
            sent += part.len() as u64;
        }
    });
    let mut checker = Checker::default();
    let answer = upload.answer_streamed("POST", |part| checker.take(part).unwrap());
    sending.join().unwrap();
    assert_eq!((answer.status, checker.seen), (200, total));
    let mut seen = 0;
    loop {
        let chunk = download.chunk();
        if chunk.is_empty() {
            break;
        }
        seen += chunk.len();
    }
    assert_eq!(seen, 30_000_000);
    for stream in [&mut stream, &mut delegated] {
        assert_eq!(stream.finish().1, End::Clean, "streams end as such");
    }
    assert_eq!(hub.process.wait().code(), Some(0));
    assert!(hub.dir.entries().is_empty(), "{:?}", hub.dir.entries());
}

#[test]
fn a_hub_told_to_stop_does_not_wait_for_ever() {
    let mut hub = Hub::start();
    let worker = hub.worker_with("demo", &["--threads", "2"]);
    let mut upload = hub.connect();
    upload.send("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nonly this");
    wait_in_flight(&hub, 1);
    hub.process.signal("TERM");
    upload.drain_to_end();
    // wait() has a guard of its own.
    assert_eq!(hub.process.wait().code(), Some(0));
    assert!(is_alive(worker.process.pid()), "it waits for the next hub");
}

/// Routes whose answers break off when the process does.
fn leaving(socket: &str) {
    fn slowly(out: &mut BodyWriter) -> std::io::Result<()> {
        out.write_all(pattern(0, 100_000))?;
        out.flush()?;
        std::thread::sleep(Duration::from_secs(30));
        Ok(())
    }
    SdkWorker::new("leaving")
        .socket(socket)
        .threads(4)
        .route("GET", "/streamed", move |_: Request| {
            Response::ok().stream(slowly)
        })
        .route("GET", "/sized", move |_: Request| {
            Response::ok().stream_sized(200_000, slowly)
        })
        .route("POST", "/exit", |_: Request| -> Response {
            std::process::exit(7)
        })
        .run()
        .unwrap_or_else(|error| panic!("the worker failed: {error}"));
}

#[test]
fn an_answer_whose_worker_ends_never_looks_whole() {
    let hub = Hub::start();
    for kill in [true, false] {
        let mut worker = start(&hub, "leaving");
        hub.wait_attached("leaving", worker.pid());
        let ask = |request: &str| {
            let mut client = hub.connect();
            client.send(request);
            let head = client.head().expect("a head");
            assert_eq!(head.status, 200);
            (client, head)
        };
        let (mut chunked, head) = ask("GET /streamed HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(head.field("transfer-encoding"), Some("chunked"));
        let (mut sized, head) = ask("GET /sized HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(head.field("content-length"), Some("200000"));
        let (mut until_close, head) = ask("GET /streamed HTTP/1.0\r\nHost: a\r\n\r\n");
        assert_eq!(head.field("transfer-encoding"), None);
        assert_eq!(head.field("content-length"), None);
        // All of what there is has arrived before the worker ends.
        let mut seen = 0;
        while seen < 100_000 {
            let chunk = chunked.chunk();
            assert!(!chunk.is_empty(), "a last chunk");
            seen += chunk.len();
        }
        for client in [&mut sized, &mut until_close] {
            let mut checker = Checker::default();
            while checker.seen < 100_000 {
                if client.buffered().is_empty() {
                    client.fill().expect("the hub sends");
                }
                checker.take(client.buffered()).unwrap();
                client.skip(client.buffered().len());
            }
        }
        if kill {
            worker.kill();
        } else {
            let mut last = hub.connect();
            last.request("POST", "/exit", "", b"");
            assert_eq!(worker.wait().code(), Some(7));
            last.answer().assert_problem(502);
        }
        assert!(matches!(chunked.fill(), Ok(0)), "not even a last chunk");
        assert!(
            matches!(sized.fill(), Ok(0)),
            "fewer bytes than were announced"
        );
        let end = until_close.fill().expect_err("an end, and so a whole body");
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
        wait_until("the slots are free", || hub.slots_in_use() == 0);
    }
}

/// A handler that publishes late.
fn publishing(socket: &str) {
    SdkWorker::new("publishing")
        .socket(socket)
        .threads(2)
        .sse_route("/room", SseRoute::new())
        .route("POST", "/late/{n}", |request: Request| {
            let n = request.param("n").expect("the route has it").into_owned();
            println!("begun {n}");
            std::thread::sleep(Duration::from_millis(100));
            let events = request.events();
            let pushed = events.push(Target::path("/room"), Event::new(n));
            pushed.map(|()| Response::no_content())
        })
        .run()
        .unwrap_or_else(|error| panic!("the worker failed: {error}"));
}

#[test]
fn what_a_draining_worker_publishes_is_heard() {
    // The request's lane is one of two, and which is chance; the events' is always the first.
    let hub = HubOptions::new().args(["--shards", "2"]).start();
    let mut worker = start(&hub, "publishing");
    hub.wait_attached("publishing", worker.pid());
    let mut stream = Sse::open(&hub, "/room");
    for n in 0..10 {
        let mut client = hub.connect();
        client.request("POST", &format!("/late/{n}"), "", b"");
        worker.wait_line(&format!("begun {n}"));
        worker.signal("TERM");
        assert_eq!(client.answer_to("POST").status, 204);
        assert_eq!(stream.next().data, n.to_string());
        assert_eq!(worker.wait().code(), Some(0));
        worker = start(&hub, "publishing");
        hub.wait_attached("publishing", worker.pid());
    }
}

fn finishing(worker: SdkWorker) {
    let result = worker
        .reconnect(false)
        .threads(2)
        .route("GET", "/finish", |_: Request| {
            println!("begun");
            std::thread::sleep(Duration::from_millis(700));
            println!("finished");
        })
        .run();
    println!("returned: {}", result.expect_err("the hub is gone"));
}

fn finishing_async(worker: SdkWorker) {
    let worker = worker
        .reconnect(false)
        .route_async("GET", "/finish", |_: Request| async {
            println!("begun");
            tokio::time::sleep(Duration::from_millis(700)).await;
            println!("finished");
        });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let result = runtime.block_on(worker.run_async());
    println!("returned: {}", result.expect_err("the hub is gone"));
}

#[test]
fn a_worker_that_ends_with_its_hub_finishes_its_handlers() {
    for mode in ["once", "once-async"] {
        let mut hub = Hub::start();
        let mut worker = start(&hub, mode);
        hub.wait_attached("once", worker.pid());
        let mut client = hub.connect();
        client.request("GET", "/finish", "", b"");
        worker.wait_line("begun");
        hub.process.kill();
        let said = worker.wait_line("returned: ");
        assert!(said.contains("is gone"), "{said}");
        assert_eq!(worker.wait().code(), Some(0), "{mode}");
        let text = worker.stdout.text();
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{mode}: {text}"));
        assert!(at("finished") < at("returned"), "{mode}: {text}");
    }
}

/// Which of SIGTERM and SIGINT this process catches and ignores.
fn dispositions() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let mask = u64::from_str_radix(line.expect("a mask").trim(), 16).expect("a mask");
        let has = |signal: i32| mask & (1 << (signal - 1)) != 0;
        (has(15), has(2))
    };
    format!("caught {:?} ignored {:?}", of("SigCgt:"), of("SigIgn:"))
}

fn signals(socket: &str) {
    println!("before: {}", dispositions());
    for name in ["first", "second"] {
        let worker = SdkWorker::new(name).socket(socket).threads(1);
        worker
            .route("GET", "/", |_: Request| ())
            .run()
            .expect("stopped");
        println!("after {name}: {}", dispositions());
    }
    std::thread::sleep(GUARD);
}

#[test]
fn signals_do_what_they_did_when_a_worker_has_returned() {
    let hub = Hub::start();
    let mut process = start(&hub, "signals");
    let before = process.wait_line("before: ");
    // What is ignored depends on who started the tests: a shell's background jobs ignore SIGINT.
    assert!(before.starts_with("caught (false, false) "), "{before}");
    for name in ["first", "second"] {
        hub.wait_attached(name, process.pid());
        process.signal("TERM");
        assert_eq!(process.wait_line(&format!("after {name}: ")), before);
    }
    process.signal("TERM");
    assert_eq!(process.wait().signal(), Some(15), "it could not be ended");
}

/// A program that has a handler of its own for SIGTERM, from before its worker runs or from later.
fn own_handler(socket: &str, before: bool) {
    let called = Arc::new(AtomicBool::new(false));
    let register = {
        let called = called.clone();
        move || signal_hook::flag::register(signal_hook::consts::SIGTERM, called).unwrap()
    };
    let worker = SdkWorker::new("own").socket(socket).threads(1);
    let worker = worker.route("GET", "/", |_: Request| ());
    let run = if before {
        register();
        std::thread::spawn(move || worker.run())
    } else {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let worker = worker.route("GET", "/ready", move |_: Request| {
            ready.send(()).unwrap();
        });
        let run = std::thread::spawn(move || worker.run());
        is_ready.recv_timeout(GUARD).expect("the test asks");
        register();
        run
    };
    println!("registered");
    run.join().unwrap().expect("stopped");
    wait_until("the own handler was called, too", || {
        called.swap(false, Ordering::SeqCst)
    });
    println!("returned");
    wait_until("the own handler is called again", || {
        called.swap(false, Ordering::SeqCst)
    });
}

#[test]
fn a_handler_of_the_programs_own_is_called_too_and_kept() {
    let hub = Hub::start();
    for mode in ["own-before", "own-after"] {
        let mut process = start(&hub, mode);
        hub.wait_attached("own", process.pid());
        if mode == "own-after" {
            assert_eq!(hub.get("/ready").status, 204);
        }
        process.wait_line("registered");
        process.signal("TERM");
        process.wait_line("returned");
        process.signal("TERM");
        assert_eq!(process.wait().code(), Some(0), "{mode}");
    }
}

/// A hub whose standard output and error are what the shell makes of `redirection`.
fn hub_with(dir: &ScratchDir, redirection: &str) -> (Process, SocketAddr) {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    let binary = slotway(dir).get_program().to_owned();
    let mut command = slotway(dir);
    // The same environment and directory, by way of a shell.
    let environment: Vec<_> = command
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned)))
        .collect();
    command = Command::new("bash");
    for (name, value) in environment {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .current_dir(dir.path())
        .args(["-c", &format!("exec \"$0\" \"$@\" {redirection}")])
        .arg(binary)
        .args(["serve", "--socket", "hub.sock", "--shards", "1", "--port"])
        .arg(port.port().to_string());
    let process = Process::start(format!("the hub with {redirection}"), command);
    wait_until("the hub listens", || Client::try_tcp(port).is_ok());
    (process, port)
}

#[test]
fn a_hub_serves_whatever_becomes_of_its_log() {
    let redirections = [
        ">/dev/full 2>/dev/full",
        ">&- 2>&-",
        // Pipes whose readers are gone.
        "> >(true) 2> >(true)",
    ];
    for redirection in redirections {
        let dir = ScratchDir::new();
        let (mut hub, address) = hub_with(&dir, redirection);
        let socket = dir.path().join("hub.sock");
        // Each of them has the supervisor and the shards write to the log.
        for _ in 0..3 {
            let mut worker = Worker::spawn(&dir, &socket, "demo", &["--threads", "2"]);
            wait_until("the worker serves", || {
                let mut client = Client::tcp(address);
                client.get("/hello").status == 200
            });
            let mut download = Client::tcp(address);
            download.request("GET", "/bytes/1000000000", "", b"");
            assert_eq!(download.head().expect("a head").status, 200);
            worker.process.kill();
            download.drain_to_end();
            wait_until("the hub has noticed", || {
                Client::tcp(address).get("/hello").status == 503
            });
        }
        assert_eq!(hub.ended(), None, "{redirection}");
        hub.signal("TERM");
        assert_eq!(hub.wait().code(), Some(0), "{redirection}");
        assert!(dir.entries().is_empty(), "{:?}", dir.entries());
    }
}

#[test]
fn a_start_that_fails_is_told_even_where_nobody_can_read_it() {
    let dir = ScratchDir::new();
    let mut command = Command::new("bash");
    command
        .args([
            "-c",
            "exec \"$0\" serve --port 0 --socket /proc/x.sock >/dev/full 2>/dev/full",
        ])
        .arg(slotway(&dir).get_program());
    let mut process = Process::start("the hub", command);
    // A panic would be 101.
    assert_eq!(process.wait().code(), Some(1));
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let dir = ScratchDir::new();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().expect("a path of ASCII");
    let open = dir.path().join("open");
    std::fs::create_dir_all(open.join("slotway")).unwrap();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(open.join("slotway"), everybody).unwrap();
    let open = open.to_str().expect("a path of ASCII");
    let cases = [
        // Where the default socket would be: missing, unwritable, no directory, open to others.
        (Some("/nowhere/at/all"), "/nowhere/at/all"),
        (Some("/sys"), "/sys/slotway"),
        (Some(file), file),
        (Some(open), open),
        (None, "/nowhere/temporary"),
    ];
    for (runtime_dir, named) in cases {
        let mut command = slotway(&dir);
        command
            .args(["serve", "--port", "0"])
            .env_remove("HOME")
            .env("TMPDIR", "/nowhere/temporary");
        match runtime_dir {
            Some(path) => command.env("XDG_RUNTIME_DIR", path),
            None => command.env_remove("XDG_RUNTIME_DIR"),
        };
        let mut process = Process::start("the hub", command);
        let status = process.wait();
        let said = process.stderr.text();
        assert_eq!(status.code(), Some(1), "{runtime_dir:?}: {said}");
        assert!(said.contains(named), "{runtime_dir:?}: {said}");
        assert!(said.contains("--socket"), "{runtime_dir:?}: {said}");
    }
    // A socket that was asked for: the message names it.
    for path in ["/nowhere/at/all/hub.sock", "/sys/hub.sock"] {
        let mut process = HubOptions::new().args(["--socket", path]).spawn(&dir);
        let status = process.wait();
        let said = process.stderr.text();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(path), "{said}");
    }
}
