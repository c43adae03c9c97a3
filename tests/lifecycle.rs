//! Births and deaths: of workers, of hubs, of both at once, politely and by kill -9. What clients see
//! of it, and that nothing stays behind.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use simd_json::prelude::*;

use support::process::{Process, is_alive};
use support::scratch::ScratchDir;
use support::test_worker::start_reflector;
use support::{Client, Hub, HubOptions, StopGuard, Worker, pattern, test_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    test_worker::run();
}

/// Connections with a request each that sleeps at the worker.
fn sleepers(hub: &Hub, count: usize, ms: u32) -> Vec<Client> {
    let before = hub.slots_in_use();
    let mut clients: Vec<Client> = (0..count).map(|_| hub.connect()).collect();
    for client in &mut clients {
        client.request("GET", &format!("/sleep/{ms}"), "", b"");
    }
    wait_until("the sleepers are in flight", || {
        hub.slots_in_use() >= before + count as u64
    });
    clients
}

fn whoami(hub: &Hub) -> u32 {
    let answer = hub.get("/whoami");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text().trim().parse().expect("a pid")
}

#[test]
fn a_killed_workers_requests_are_502_at_once_then_503_then_404() {
    let hub = HubOptions::new().args(["--remember-ms", "2000"]).start();
    let mut worker = hub.worker_with("demo", &["--threads", "4"]);
    let mut waiting = sleepers(&hub, 16, 20_000);
    let start = Instant::now();
    worker.process.kill();
    for client in &mut waiting {
        let answer = client.answer();
        answer.assert_problem(502);
    }
    let took = start.elapsed();
    println!("16 requests in flight were answered 502 within {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");

    let answer = hub.get("/hello");
    answer.assert_problem(503);
    assert!(answer.field("retry-after").is_some(), "{answer:?}");
    // The connections of those who got 502 are still good.
    waiting[0].get("/hello").assert_problem(503);
    let state = hub
        .health_of("demo")
        .and_then(|w| w.get_str("state").map(String::from));
    assert_eq!(state.as_deref(), Some("gone"));
    assert_eq!(hub.slots_in_use(), 0);
    wait_until("the routes are forgotten", || {
        hub.get("/hello").status == 404
    });
    assert!(hub.health_of("demo").is_none());
}

#[test]
fn a_name_that_returns_is_served_again() {
    let hub = Hub::start();
    for _ in 0..3 {
        let mut worker = hub.worker();
        assert_eq!(whoami(&hub), worker.process.pid());
        worker.process.kill();
        wait_until("its routes are 503", || hub.get("/hello").status == 503);
    }
    let worker = hub.worker();
    assert_eq!(whoami(&hub), worker.process.pid());
}

#[test]
fn transfers_under_way_when_a_worker_is_killed_end() {
    let hub = HubOptions::new()
        .args(["--slots", "64", "--shards", "1", "--max-body", "0"])
        .start();
    let mut worker = hub.worker_with("demo", &["--threads", "4"]);
    let mut download = hub.connect();
    download.request("GET", "/bytes/1000000000", "", b"");
    assert_eq!(download.head().expect("a head").status, 200);
    let mut upload = hub.connect();
    upload.send("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
    upload.send(pattern::pattern(0, 100_000));
    wait_until("both are in flight", || hub.slots_in_use() >= 1);
    worker.process.kill();
    // An answer that has begun cannot become another one: it is cut off.
    download.drain_to_end();
    upload.answer().assert_problem(502);
    upload.drain_to_end();
    wait_until("the routes are 503", || hub.get("/hello").status == 503);
}

#[test]
fn a_stopped_worker_times_out_is_evicted_and_may_come_back() {
    let hub = HubOptions::new()
        .args([
            "--timeout",
            "0.6",
            "--ping-interval-ms",
            "400",
            "--ping-timeout-ms",
            "200",
        ])
        .start();
    let mut stuck = hub.worker();
    let _neighbour = start_reflector(&hub, "neighbour", &["GET /neighbour"]);
    stuck.process.signal("STOP");
    let start = Instant::now();
    let mut waiting = hub.connect();
    waiting.request("GET", "/hello", "", b"");
    for _ in 0..20 {
        assert_eq!(hub.get("/neighbour").status, 200, "the neighbour suffers");
    }
    let answer = waiting.answer();
    let took = start.elapsed();
    println!("the deadline of 0.6 s fired after {took:?}");
    answer.assert_problem(504);
    assert!(took >= Duration::from_millis(590), "too early: {took:?}");

    wait_until("it is evicted", || hub.get("/hello").status == 503);
    assert!(
        hub.process.stderr.contains("evicted"),
        "{}",
        hub.process.stderr.text()
    );
    assert_eq!(hub.get("/neighbour").status, 200);
    assert_eq!(hub.slots_in_use(), 0);

    stuck.process.signal("CONT");
    hub.wait_attached("demo", stuck.process.pid());
    assert_eq!(whoami(&hub), stuck.process.pid());
}

#[test]
fn a_deadline_is_504_and_the_worker_lives_on() {
    let hub = HubOptions::new().args(["--timeout", "0.3"]).start();
    let worker = hub.worker_with("demo", &["--threads", "2"]);
    let mut client = hub.connect();
    let start = Instant::now();
    client.request("GET", "/sleep/2000", "", b"");
    client.answer().assert_problem(504);
    assert!(start.elapsed() >= Duration::from_millis(290));
    // On the same connection, and with the late answer still to come.
    assert_eq!(client.get("/hello").text(), "Hello, World!");
    hub.wait_idle();
    for _ in 0..20 {
        assert_eq!(client.get("/hello").text(), "Hello, World!");
    }
    assert_eq!(whoami(&hub), worker.process.pid());
}

#[test]
fn a_deadline_counts_from_the_end_of_a_head_that_was_slow() {
    let hub = HubOptions::new().args(["--timeout", "0.6"]).start();
    let _worker = hub.worker();
    let mut client = hub.connect();
    client.send("GET /sleep/5000 HTTP/1.1\r\nHost: h\r\n");
    // Longer than the worker may take, and shorter than the pulse of a hub without requests.
    std::thread::sleep(Duration::from_millis(900));
    let start = Instant::now();
    client.send("\r\n");
    client.answer().assert_problem(504);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(590), "too early: {took:?}");
}

#[test]
fn a_newcomer_takes_the_name_and_the_old_one_finishes() {
    let hub = Hub::start();
    let mut old = hub.worker_with("demo", &["--threads", "4"]);
    let mut waiting = sleepers(&hub, 4, 1500);
    let stop = AtomicBool::new(false);
    let answers = AtomicU64::new(0);
    let new = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = hub.connect();
                while !stop.load(Ordering::SeqCst) {
                    // Nobody notices the change: no 502, no 503.
                    let answer = client.get("/hello");
                    assert_eq!(answer.status, 200, "{answer:?}");
                    answers.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let new = hub.worker_with("demo", &["--threads", "4"]);
        let now = answers.load(Ordering::SeqCst);
        wait_until("some more answers", || {
            answers.load(Ordering::SeqCst) > now + 100
        });
        stop.store(true, Ordering::SeqCst);
        new
    });
    assert_eq!(whoami(&hub), new.process.pid());
    for client in &mut waiting {
        assert_eq!(client.answer().status, 200, "finished by the old one");
    }
    let status = old.process.wait();
    println!("the old worker ended: {status}");
    assert!(status.code().is_some(), "it was killed: {status}");
    assert_eq!(whoami(&hub), new.process.pid());
    let health = hub.health();
    let workers = health.get_array("workers").expect("workers");
    assert_eq!(workers.len(), 1, "one name, one worker: {health}");
}

#[test]
fn a_worker_finds_a_hub_that_was_killed_and_started_again() {
    let mut hub = Hub::start();
    let worker = hub.worker();
    let socket = hub.socket.clone();
    for _ in 0..2 {
        let mut waiting = sleepers(&hub, 1, 200);
        hub.process.kill();
        waiting[0].drain_to_end();
        assert!(socket.exists(), "a killed hub cannot have removed it");
        // The socket that is left is no obstacle.
        hub = HubOptions::new().start_in(hub.into_dir());
        assert_eq!(hub.socket, socket);
        hub.wait_attached("demo", worker.process.pid());
        assert_eq!(whoami(&hub), worker.process.pid());
    }
}

#[test]
fn a_hub_told_to_stop_finishes_what_is_in_flight() {
    let mut hub = Hub::start();
    let mut worker = hub.worker_with("demo", &["--threads", "4", "--once"]);
    let mut idle = hub.connect();
    assert_eq!(idle.get("/hello").status, 200);
    let mut waiting = sleepers(&hub, 4, 800);
    hub.process.signal("TERM");
    for client in &mut waiting {
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{answer:?}");
        client.assert_closed();
    }
    idle.assert_closed();
    assert_eq!(hub.process.wait().code(), Some(0));
    assert!(TcpStream::connect(hub.address).is_err(), "it still listens");
    assert!(!hub.socket.exists(), "the socket is left");
    let status = worker.process.wait();
    assert!(
        status.code().is_some(),
        "--once ends with the hub: {status}"
    );
}

#[test]
fn a_terminal_that_goes_away_ends_a_hub_and_not_under_nohup() {
    let hup = |disposition: &str| {
        let env = HubOptions::new().under(["env", disposition]);
        let mut hub = env.start();
        let worker = hub.worker();
        let mut waiting = sleepers(&hub, 1, 300);
        hub.process.signal("HUP");
        assert_eq!(waiting[0].answer().status, 200);
        (hub, worker)
    };
    let (mut hub, _worker) = hup("--default-signal=HUP");
    assert_eq!(hub.process.wait().code(), Some(0));
    assert!(!hub.socket.exists(), "the socket is left");
    let (mut hub, _worker) = hup("--ignore-signal=HUP");
    assert_eq!(hub.get("/hello").status, 200);
    assert_eq!(hub.stop().code(), Some(0));
}

#[test]
fn the_port_of_a_hub_is_free_when_it_is_gone() {
    let mut hub = Hub::start();
    let port = hub.address.port();
    for _ in 0..5 {
        // One that rests, and one that the hub owns.
        let mut resting = hub.connect();
        assert_eq!(resting.get("/health").status, 200);
        let mut stream = hub.connect();
        stream.request("GET", "/events", "", b"");
        assert_eq!(stream.head().expect("a head").status, 200);
        assert_eq!(hub.stop().code(), Some(0));
        hub = HubOptions::new().port(port).start_in(hub.into_dir());
        assert_eq!(hub.address.port(), port);
    }
}

#[test]
fn a_worker_told_to_stop_finishes_what_is_in_flight() {
    let hub = Hub::start();
    let mut worker = hub.worker_with("demo", &["--threads", "4"]);
    let mut waiting = sleepers(&hub, 4, 800);
    worker.process.signal("TERM");
    // It gets nothing new from now on, or soon.
    wait_until("new requests are 503", || hub.get("/hello").status == 503);
    for client in &mut waiting {
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(worker.process.wait().code(), Some(0));
    assert_eq!(hub.get("/hello").status, 503);
    assert_eq!(hub.slots_in_use(), 0);
}

#[test]
fn one_workers_death_is_not_its_neighbours() {
    let hub = Hub::start();
    let mut demo = hub.worker();
    let _neighbour = start_reflector(&hub, "neighbour", &["GET /neighbour", "GET /hello"]);
    let mut client = hub.connect();
    assert_eq!(client.get("/neighbour").status, 200);
    demo.process.kill();
    for _ in 0..100 {
        assert_eq!(client.get("/neighbour").status, 200);
    }
    wait_until("the demo's routes are 503", || {
        hub.get("/whoami").status == 503
    });
}

fn shared_memory_files() -> BTreeSet<String> {
    // Programs beside this test may have files of their own there.
    let ours = |name: &String| {
        ["slotway", "hub", "demo"]
            .iter()
            .any(|part| name.contains(part))
    };
    let entries = std::fs::read_dir("/dev/shm").expect("/dev/shm can be read");
    let names = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(ours).collect()
}

/// Files in shared memory that a process holds by name.
fn named_memory(process: &Process) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid())).unwrap();
    let maps = maps
        .lines()
        .filter(|line| line.contains("/dev/shm/"))
        .map(String::from);
    let fds = std::fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap();
    let fds = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    let fds = fds.map(|path| path.display().to_string());
    maps.chain(fds.filter(|path| path.contains("/dev/shm/")))
        .collect()
}

#[test]
fn nothing_stays_behind_when_both_are_killed() {
    let before = shared_memory_files();
    let dir = ScratchDir::new();
    let mut hub = HubOptions::new().start_in(dir);
    let mut worker = hub.worker_with("demo", &["--threads", "4"]);
    let waiting = sleepers(&hub, 4, 20_000);
    assert_eq!(named_memory(&hub.process), [""; 0]);
    assert_eq!(named_memory(&worker.process), [""; 0]);
    assert_eq!(shared_memory_files(), before);
    hub.process.kill();
    worker.process.kill();
    drop(waiting);
    assert_eq!(shared_memory_files(), before);
    let socket = hub.socket.clone();
    let dir = hub.into_dir();
    // Only the socket, and what guards it, can be left of a hub that was killed.
    for path in dir.entries() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("hub.sock"), "{}", path.display());
    }
    // Neither is in the way of the next ones, which take everything along.
    let mut hub = HubOptions::new().start_in(dir);
    assert_eq!(hub.socket, socket);
    let worker = hub.worker();
    assert_eq!(hub.get("/hello").status, 200);
    drop(worker);
    assert_eq!(hub.stop().code(), Some(0));
    let left = hub.dir.entries();
    assert!(
        left.iter().all(|path| !path.ends_with("hub.sock")),
        "{left:?}"
    );
    let path = hub.dir.path().to_path_buf();
    drop(hub);
    assert!(!path.exists());
    assert_eq!(shared_memory_files(), before);
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.pid()))
        .unwrap()
        .count()
}

fn lane_mappings(process: &Process) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid())).unwrap();
    maps.lines()
        .filter(|line| line.contains("memfd:slotway"))
        .count()
}

#[test]
fn the_memory_and_descriptors_of_dead_workers_are_given_back() {
    let hub = Hub::start();
    let round = |kind: usize| {
        let mut worker = hub.worker_with("demo", &["--threads", "2"]);
        let waiting = sleepers(&hub, 3, 20_000);
        match kind % 2 {
            0 => worker.process.kill(),
            _ => {
                // One that died while a newcomer was there already.
                let mut newcomer = hub.worker_with("demo", &["--threads", "2"]);
                worker.process.kill();
                newcomer.process.kill();
            }
        }
        drop(waiting);
        wait_until("its lanes are unmapped", || {
            lane_mappings(&hub.process) == 0
        });
    };
    round(0);
    wait_until("connections are closed", || hub.health_of("demo").is_some());
    let before = descriptors(&hub.process);
    (0..6).for_each(round);
    wait_until("descriptors are closed", || {
        descriptors(&hub.process) <= before
    });
    assert_eq!(hub.get("/health").status, 200);
}

/// The answers of a load that goes on while workers come and go.
#[derive(Default)]
struct Tally {
    statuses: Mutex<BTreeMap<u16, u64>>,
    good: AtomicU64,
    slowest_ms: AtomicU64,
}

impl Tally {
    fn note(&self, status: u16, took: Duration) {
        *self.statuses.lock().unwrap().entry(status).or_default() += 1;
        if status == 200 {
            self.good.fetch_add(1, Ordering::SeqCst);
        }
        self.slowest_ms
            .fetch_max(took.as_millis() as u64, Ordering::SeqCst);
    }
}

#[test]
fn twenty_kills_under_load_leave_no_request_without_an_answer() {
    let hub = Hub::start();
    let stop = AtomicBool::new(false);
    let tally = Tally::default();
    std::thread::scope(|scope| {
        for index in 0..6 {
            let (hub, stop, tally) = (&hub, &stop, &tally);
            scope.spawn(move || {
                let body = pattern::pattern(index, 1 + index as usize * 6_000);
                let mut client = hub.connect();
                let mut number = index;
                while !stop.load(Ordering::SeqCst) {
                    number += 1;
                    let start = Instant::now();
                    match number % 3 {
                        0 => client.request("GET", "/hello", "", b""),
                        1 => client.request("POST", "/echo", "", body),
                        _ => client.request("GET", "/sleep/3", "", b""),
                    }
                    let answer = client.answer();
                    tally.note(answer.status, start.elapsed());
                    match answer.status {
                        200 if number % 3 == 1 => assert!(answer.body == body, "changed"),
                        200 | 404 => {}
                        status => drop(answer.assert_problem(status)),
                    }
                    if answer.field("connection") == Some("close") {
                        client.assert_closed();
                        client = hub.connect();
                    }
                }
            });
        }
        let guard = StopGuard(&stop);
        for _ in 0..20 {
            let before = tally.good.load(Ordering::SeqCst);
            let mut worker = hub.worker_with("demo", &["--threads", "3"]);
            wait_until("some requests succeed", || {
                tally.good.load(Ordering::SeqCst) > before + 20
            });
            worker.process.kill();
        }
        drop(guard);
    });
    let statuses = tally.statuses.into_inner().unwrap();
    let slowest = tally.slowest_ms.into_inner();
    println!("answers {statuses:?}, the slowest after {slowest} ms");
    // 404 is for the time before the first worker came.
    for status in statuses.keys() {
        assert!([200, 404, 502, 503].contains(status), "{statuses:?}");
    }
    assert!(
        statuses.contains_key(&502) || statuses.contains_key(&503),
        "{statuses:?}"
    );
    assert!(slowest < 5_000, "a request hung for {slowest} ms");
    assert_eq!(hub.slots_in_use(), 0);
}

#[test]
fn a_worker_waits_for_a_hub_that_is_about_to_start() {
    let dir = ScratchDir::new();
    let worker = Worker::spawn(&dir, &dir.path().join("hub.sock"), "early", &[]);
    let hub = HubOptions::new().start_in(dir);
    hub.wait_attached("early", worker.process.pid());
    assert_eq!(whoami(&hub), worker.process.pid());
}

#[test]
fn many_workers_at_once() {
    let hub = HubOptions::new()
        .args(["--slots", "16", "--shards", "2"])
        .start();
    let names: Vec<String> = (0..20).map(|n| format!("worker-{n}")).collect();
    let workers: Vec<Process> = std::thread::scope(|scope| {
        let starting: Vec<_> = names
            .iter()
            .map(|name| {
                let hub = &hub;
                scope.spawn(move || {
                    start_reflector(hub, name, &[&format!("GET /{name}"), "GET /shared"])
                })
            })
            .collect();
        starting.into_iter().map(|s| s.join().unwrap()).collect()
    });
    for name in &names {
        assert_eq!(hub.get(&format!("/{name}")).status, 200, "{name}");
    }
    // What several have registered is served for as long as one of them lives.
    let last = workers.len() - 1;
    for (index, worker) in workers.into_iter().enumerate() {
        drop(worker);
        let expected = if index < last { 200 } else { 503 };
        wait_until(
            &format!("{expected} after the end of worker {index}"),
            || hub.get("/shared").status == expected,
        );
    }
    // A shard may have learned of the last one's end before the supervisor.
    wait_until("nobody's slots are left", || {
        hub.slots().get_array("workers").map(Vec::len) == Some(0)
    });
}

#[test]
fn processes_of_tests_do_not_outlive_them() {
    let (hub, worker) = Hub::with_worker();
    let pids = [hub.process.pid(), worker.process.pid()];
    let dir = hub.dir.path().to_path_buf();
    drop((worker, hub));
    for pid in pids {
        assert!(!is_alive(pid), "process {pid} is left");
    }
    assert!(!dir.exists());
}
