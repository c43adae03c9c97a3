//! kill -9 over and over: of a worker with requests in flight, and of the hub. How long clients wait,
//! how soon service is back, and that nothing adds up. A few rounds are ordinary tests; the long runs
//! that `docs/RELIABILITY.md` reports are
//!
//! ```sh
//! cargo test --release --test kills -- --ignored --nocapture a_thousand
//! cargo test --release --test kills -- --ignored --nocapture two_hundred
//! ```
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use support::client::request_bytes;
use support::process::Process;
use support::test_worker::start_async;
use support::{Client, Hub, HubOptions, Random, pattern, seed, test_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    test_worker::run();
}

/// What the long runs hold the hub to.
const ANSWERED_WITHIN: Duration = Duration::from_millis(50);
const BACK_WITHIN: Duration = Duration::from_secs(1);
/// Rounds before the first count: buffers and caches have their size then.
const WARM_UP: usize = 5;

/// Durations, to be told about.
#[derive(Debug, Default)]
struct Times(Vec<Duration>);

impl Times {
    fn max(&self) -> Duration {
        self.0.iter().copied().max().unwrap_or_default()
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted
            .get(last * percent / 100)
            .copied()
            .unwrap_or_default()
    }

    fn print(&self, what: &str) {
        println!(
            "{what}: {} measured, median {:.1?}, p99 {:.1?}, max {:.1?}",
            self.0.len(),
            self.percentile(50),
            self.percentile(99),
            self.max()
        );
    }
}

/// What a process has that could leak.
#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    anonymous_kib: u64,
    mappings: usize,
    threads: usize,
}

impl Holdings {
    fn of(process: &Process) -> Holdings {
        let lines = |file: &str| {
            let path = format!("/proc/{}/{file}", process.pid());
            std::fs::read_to_string(path).expect("the process lives")
        };
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid()));
        Holdings {
            descriptors: process.descriptors(),
            anonymous_kib: process.memory_kib("RssAnon"),
            mappings: lines("maps").lines().count(),
            threads: tasks.expect("the process lives").count(),
        }
    }
}

/// Waits until the hub has let go of everything it had not at first.
fn wait_let_go(hub: &Hub, before: &Holdings) {
    wait_until("descriptors and mappings are given back", || {
        let now = Holdings::of(&hub.process);
        now.descriptors <= before.descriptors && now.mappings <= before.mappings + 4
    });
    assert_eq!(hub.slots_in_use(), 0);
    let now = Holdings::of(&hub.process);
    println!("the hub before: {before:?}, after: {now:?}");
    assert!(
        now.anonymous_kib <= before.anonymous_kib + 2048,
        "memory has grown"
    );
    assert_eq!(now.threads, before.threads);
}

#[test]
fn twenty_worker_kills() {
    worker_kills(20);
}

#[test]
#[ignore = "takes minutes: the long run of the top of the file"]
fn a_thousand_worker_kills() {
    let times = worker_kills(1000);
    let late: Vec<_> = times.0.iter().filter(|t| **t > ANSWERED_WITHIN).collect();
    println!(
        "{} answers took longer than {ANSWERED_WITHIN:?}: {late:?}",
        late.len()
    );
    assert!(late.is_empty());
}

/// Kills a worker so many times with five requests in flight; from each kill to each answer.
fn worker_kills(rounds: usize) -> Times {
    let hub = Hub::start();
    let (mut answers, mut returns) = (Times::default(), Times::default());
    let mut deaths = Times::default();
    let mut before = None;
    for round in 0..rounds + WARM_UP {
        if round == WARM_UP {
            (answers, returns) = (Times::default(), Times::default());
            wait_until("the dead worker's lanes are gone", || {
                lane_mappings(&hub.process) == 0
            });
            before = Some(Holdings::of(&hub.process));
        }
        let mut worker = hub.worker_with("demo", &["--threads", "2"]);
        // Two are with a handler, three have not been taken up; one more is being received.
        let mut waiting: Vec<Client> = (0..5).map(|_| hub.connect()).collect();
        for client in &mut waiting {
            client.request("GET", "/sleep/20000", "", b"");
        }
        let mut upload = hub.connect();
        upload.send("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        upload.send(pattern::pattern(0, 50_000));
        waiting.push(upload);
        wait_until("all are in flight", || hub.slots_in_use() >= 6);

        let readers: Vec<_> = waiting
            .into_iter()
            .map(|mut client| {
                std::thread::spawn(move || {
                    client.answer().assert_problem(502);
                    (Instant::now(), client)
                })
            })
            .collect();
        // The readers are to be asleep in the kernel, as clients are.
        wait_until("every reader waits", || sleepers_in_recv() >= 6);
        let queued = time_in_run_queues(&hub.process);
        let killed = Instant::now();
        worker.process.kill();
        let reaped = killed.elapsed();
        let ended: Vec<_> = readers.into_iter().map(|r| r.join().unwrap()).collect();
        let took = ended.iter().map(|(at, _)| at.duration_since(killed));
        let late = took.clone().max().filter(|t| *t > ANSWERED_WITHIN);
        answers.0.extend(took);
        deaths.0.push(reaped);
        drop(ended);
        if let Some(late) = late {
            // Whose fault it is: the kernel's, which had others to run, or the hub's.
            let queued = time_in_run_queues(&hub.process).saturating_sub(queued);
            println!(
                "round {round}: {late:.1?}; the worker was reaped after {reaped:.1?}; the threads of the hub stood in run queues for {queued:.1?}"
            );
        }

        let spawned = Instant::now();
        let newcomer = hub.worker_with("demo", &["--threads", "2"]);
        assert_eq!(hub.get("/hello").text(), "Hello, World!");
        returns.0.push(spawned.elapsed());
        drop(newcomer);
        wait_until("its route is 503", || hub.get("/hello").status == 503);
    }
    deaths.print("from kill -9 to the end of the process");
    answers.print("from kill -9 to the 502 at the client");
    returns.print("from a worker's start to its first answer");
    wait_let_go(&hub, &before.expect("rounds were counted"));
    answers
}

/// How long the threads of a process have been ready to run without running, all together.
fn time_in_run_queues(process: &Process) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid()));
    let times = tasks.expect("the process lives").filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(times.sum())
}

/// Threads of this process that wait in the kernel for a socket.
fn sleepers_in_recv() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("there are threads");
    tasks
        .filter_map(|task| {
            let path = task.ok()?.path().join("syscall");
            // The number of the call; a running thread has none.
            let text = std::fs::read_to_string(path).ok()?;
            text.split(' ').next()?.parse::<i64>().ok()
        })
        .filter(|number| *number == RECVFROM)
        .count()
}

/// The number of the system call that a blocking read of a TCP stream is, on this machine.
const RECVFROM: i64 = if cfg!(target_arch = "x86_64") {
    45
} else {
    207
};

fn lane_mappings(process: &Process) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid())).unwrap();
    maps.lines()
        .filter(|line| line.contains("memfd:slotway"))
        .count()
}

#[test]
fn five_hub_kills() {
    hub_kills(5, 400);
}

#[test]
#[ignore = "takes minutes: the long run of the top of the file"]
fn two_hundred_hub_kills() {
    let times = hub_kills(200, 3000);
    assert!(times.max() <= BACK_WITHIN, "{:?}", times.max());
}

/// Kills the hub so many times, and leaves it dead for up to `away_ms` each time; from its return to
/// the first answer of the last of its two workers.
fn hub_kills(rounds: u64, away_ms: u64) -> Times {
    let mut random = Random(seed("hub_kills"));
    let shared_memory = shared_memory_files();
    let port = free_port(&mut random);
    let listen = "unix:clients.sock";
    let options = || HubOptions::new().args(["--listen", listen]).port(port);
    let mut hub = options().start();
    let threads = hub.worker_with("threads", &["--threads", "2"]);
    let own_routes = start_async(&hub, "event-loop");
    let workers = [&threads.process, &own_routes];
    // One of each that the other does not have.
    let paths = ["/whoami", "/pattern/10"];
    let mut before: Vec<Holdings> = Vec::new();
    let (mut returns, mut starts) = (Times::default(), Times::default());
    for round in 0..rounds + WARM_UP as u64 {
        // Some requests are under way, and a body.
        let mut waiting: Vec<Client> = (0..3).map(|_| hub.connect()).collect();
        for client in &mut waiting {
            client.send(request_bytes("GET", "/sleep/30", "", b""));
        }
        let mut upload = hub.connect();
        upload.send("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
        upload.send(pattern::pattern(0, 20_000));
        std::thread::sleep(Duration::from_micros(random.below(10_000)));
        hub.process.kill();
        waiting.push(upload);
        waiting.iter_mut().for_each(Client::drain_to_end);
        drop(waiting);
        std::thread::sleep(Duration::from_millis(random.below(away_ms)));

        let spawned = Instant::now();
        hub = options().start_in(hub.into_dir());
        let back = Instant::now();
        starts.0.push(spawned.elapsed());
        for path in paths {
            wait_until("the route answers", || hub.get(path).status == 200);
        }
        returns.0.push(back.elapsed());
        let clients = hub.dir.path().join("clients.sock");
        assert_eq!(Client::unix(&clients).get("/whoami").status, 200);
        UnixStream::connect(&hub.socket).expect("workers can attach");
        for worker in &workers {
            assert!(support::process::is_alive(worker.pid()));
        }
        if round + 1 == WARM_UP as u64 {
            before = workers.map(Holdings::of).into();
            returns = Times::default();
        }
        assert_eq!(shared_memory_files(), shared_memory);
    }
    starts.print("from a hub's start to its listening");
    returns.print("from its listening to the answers of all workers");
    for (worker, before) in workers.iter().zip(&before) {
        wait_until("what belonged to dead hubs is given back", || {
            Holdings::of(worker).descriptors <= before.descriptors
        });
        let now = Holdings::of(worker);
        println!("a worker before: {before:?}, after: {now:?}");
        assert!(now.anonymous_kib <= before.anonymous_kib + 2048);
        assert!(now.mappings <= before.mappings + 8);
    }
    // Only the sockets that it listens on, and no file of the dead.
    let mut left: Vec<_> = hub
        .dir
        .entries()
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    left.sort();
    assert_eq!(left, ["clients.sock", "hub.sock"]);
    assert_eq!(hub.stop().code(), Some(0));
    assert!(hub.dir.entries().is_empty(), "{:?}", hub.dir.entries());
    returns
}

/// Files in shared memory that could be ours.
fn shared_memory_files() -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").expect("/dev/shm can be read");
    let names = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.contains("slotway")).collect();
    names.sort();
    names
}

/// A port that no client is given for its own end, for otherwise one could take it, or meet itself
/// there, while the hub is away.
fn free_port(random: &mut Random) -> u16 {
    loop {
        let port = 20_000 + random.below(12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
