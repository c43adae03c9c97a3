//! A process that dies between any two instructions: a worker on its way from a request to its answer,
//! and a hub on its way from a request to its response. Each is stepped by ptrace and killed at step
//! N. `cargo test` takes a sample; every N is a command:
//! `cargo test --release --test kill_steps -- --ignored --nocapture each_step`.
// What the binary is built with, and where single steps are known to work.
#![cfg(all(feature = "gateway", feature = "tokio", target_arch = "x86_64"))]

mod support;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use simd_json::prelude::*;

use support::process::Process;
use support::ptrace::{Step, Tracee, thread_named};
use support::{Client, Hub, HubOptions, Random, test_worker, wait_until};

/// How long a stepped thread may wait in the kernel before it counts as asleep.
const ASLEEP: Duration = Duration::from_millis(40);
/// As [`ASLEEP`], for a shard, which wakes for its clock.
const NAP: Duration = Duration::from_millis(3);
/// Steps of a shard behind an answer: the frame goes back, the next request is waited for.
const AFTER_THE_ANSWER: u64 = 5_000;
/// How long a sample takes in an ordinary run.
const SAMPLE_TIME: Duration = Duration::from_secs(8);
const ONE_DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Hubs that are killed side by side in a full pass: most of a round is the worker's wait before it looks
/// for its hub again.
const SIDE_BY_SIDE: u64 = 8;
/// What a client may wait after its worker's death.
const PROMPT: Duration = Duration::from_millis(50);

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    test_worker::run();
}

/// At which steps to kill.
enum Plan {
    /// Random ones, for a while.
    Sample {
        random: Random,
        total: u64,
        started: Instant,
    },
    /// One after the other.
    Pass { next: u64, stride: u64, total: u64 },
}

impl Plan {
    fn sample(test: &str, total: u64) -> Plan {
        Plan::Sample {
            random: Random(support::seed(test)),
            total,
            started: Instant::now(),
        }
    }

    /// All steps, or what `SLOTWAY_STEP_STRIDE` leaves of those from `SLOTWAY_STEP_FROM` on, dealt out to
    /// `count` passes; this is the one with this index.
    fn pass(total: u64, index: u64, count: u64) -> Plan {
        let number = |name: &str, default: u64| {
            let text = std::env::var(name);
            text.map_or(default, |text| text.parse().expect("a number of steps"))
        };
        let stride = number("SLOTWAY_STEP_STRIDE", 1);
        Plan::Pass {
            next: number("SLOTWAY_STEP_FROM", 0) + index * stride,
            stride: count * stride,
            total,
        }
    }
}

impl Iterator for Plan {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        match self {
            Plan::Sample { started, .. } if started.elapsed() > SAMPLE_TIME => None,
            Plan::Sample { random, total, .. } => Some(random.below(*total + 1)),
            Plan::Pass { next, total, .. } if *next > *total => None,
            Plan::Pass { next, stride, .. } => {
                *next += *stride;
                Some(*next - *stride)
            }
        }
    }
}

/// The times that were taken, in order.
struct Waits(Vec<Duration>);

impl Waits {
    /// Says which were late, so that they can be told from what else the machine did at that moment.
    fn note(&mut self, wait: Duration, step: u64) {
        if wait > PROMPT {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |since| since.as_secs());
            println!("killed at step {step}: answered after {wait:?}, at {now} s of Unix time");
        }
        self.0.push(wait);
    }

    fn report(mut self, what: &str) -> Duration {
        self.0.sort();
        let count = self.0.len();
        let late = self.0.iter().filter(|wait| **wait > PROMPT).count();
        println!(
            "{what}: {count} times, median {:?}, p99 {:?}, slowest {:?}, {late} above {PROMPT:?}",
            self.0[count / 2],
            self.0[count * 99 / 100],
            self.0[count - 1],
        );
        self.0[count / 2]
    }
}

/// Steps a thread `count` times. Returns how many steps that were: fewer where it went to sleep, or
/// the time was up.
fn step(thread: &mut Tracee, count: u64, until: Instant) -> u64 {
    for done in 0..count {
        if done.is_multiple_of(64) && Instant::now() > until {
            return done;
        }
        match thread.step(ASLEEP).expect("it can be stepped") {
            Step::Done => {}
            Step::Asleep => return done,
            Step::Gone => panic!("it ended by itself"),
        }
    }
    count
}

/// When to be done with counting: a full pass needs every step, a sample takes what a busy machine
/// gets done.
fn count_until(every: bool) -> Instant {
    Instant::now() + if every { ONE_DAY } else { SAMPLE_TIME / 2 }
}

/// As [`count_until`], for the way to one kill.
fn step_until(every: bool) -> Instant {
    Instant::now() + if every { ONE_DAY } else { SAMPLE_TIME / 4 }
}

// ---- workers ----

/// Two clients with a request each, for a worker of one thread that is stopped: the first is what it
/// is stepped through, the second waits behind it.
fn two_requests(hub: &Hub, number: u64) -> [(Client, String); 2] {
    ["first", "second"].map(|which| {
        let token = format!("{which}-{number}");
        let mut client = hub.connect();
        client.request(
            "POST",
            &format!("/token/{token}"),
            "x-padding: 0123456789\r\n",
            format!("the body of {token}").as_bytes(),
        );
        (client, token)
    })
}

/// Checks an answer of the worker's, which is right or a 502.
fn check_answer(client: &mut Client, token: &str) -> u16 {
    let answer = client.answer();
    match answer.status {
        200 => assert_eq!(answer.text(), format!("{token}:the body of {token}")),
        _ => drop(answer.assert_problem(502)),
    }
    answer.status
}

fn stepping_options() -> HubOptions {
    HubOptions::new().args(["--shards", "1", "--slots", "16"])
}

fn stepping_hub() -> Hub {
    stepping_options().start()
}

/// How many steps the worker's thread takes from being called until it sleeps again.
fn count_worker_steps(every: bool) -> u64 {
    let hub = stepping_hub();
    let worker = test_worker::start_token(&hub, "stepped");
    // A first request, so that what is done once is done.
    let mut warm = hub.connect();
    warm.request("POST", "/token/warm", "", b"the body of warm");
    assert_eq!(check_answer(&mut warm, "warm"), 200);
    let mut thread = Tracee::stop(thread_named(worker.pid(), "stepped-0")).expect("ptrace");
    let mut requests = two_requests(&hub, 0);
    wait_until("both are in flight", || hub.slots_in_use() == 2);
    let total = step(&mut thread, u64::MAX, count_until(every));
    if every {
        for (client, token) in &mut requests {
            assert_eq!(check_answer(client, token), 200, "stepping changes nothing");
        }
    }
    thread.kill(worker.pid());
    total
}

fn kill_workers(test: &str, every: bool) {
    let total = count_worker_steps(every);
    println!("{test}: a worker takes {total} steps for two requests");
    let hub = stepping_hub();
    let bystander = hub.worker();
    let mut waits = Waits(Vec::new());
    let (mut answered, mut refused, mut pid) = (0, 0, 0);
    let plan = match every {
        true => Plan::pass(total, 0, 1),
        false => Plan::sample(test, total),
    };
    for number in plan {
        let mut worker = test_worker::start_token(&hub, "stepped");
        assert_ne!(std::mem::replace(&mut pid, worker.pid()), worker.pid());
        let mut warm = hub.connect();
        warm.request("POST", "/token/warm", "", b"the body of warm");
        assert_eq!(check_answer(&mut warm, "warm"), 200, "at step {number}");
        let mut thread = Tracee::stop(thread_named(worker.pid(), "stepped-0")).expect("ptrace");
        let mut requests = two_requests(&hub, number);
        wait_until("both are in flight", || in_use(&hub, "stepped") == 2);
        step(&mut thread, number, step_until(every));

        let killed = Instant::now();
        thread.kill(worker.pid());
        for (client, token) in &mut requests {
            match check_answer(client, token) {
                200 => answered += 1,
                _ => {
                    refused += 1;
                    waits.note(killed.elapsed(), number);
                }
            }
        }
        worker.wait();
        wait_until("no slot is left taken", || hub.slots_in_use() == 0);
        assert_eq!(
            hub.get("/hello").text(),
            "Hello, World!",
            "at step {number}"
        );
    }
    assert_eq!(hub.get("/health").status, 200);
    drop(bystander);
    println!("{test}: {answered} answered, {refused} answered 502");
    assert!(refused > 0, "nobody was killed in time");
    let median = waits.report("from the kill of a worker to its clients' 502");
    // One that a busy machine held up proves nothing; half of them would.
    assert!(median < PROMPT, "{median:?}");
    assert!(!hub.process.stderr.contains("panicked"));
}

fn in_use(hub: &Hub, name: &str) -> u64 {
    let report = hub.slots();
    let workers = report.get_array("workers").expect("a list of workers");
    let of_name = workers.iter().find(|w| w.get_str("name") == Some(name));
    of_name.map_or(0, |w| w.get_u64("in_use").expect("in_use"))
}

#[test]
fn a_worker_killed_at_some_step_leaves_nothing_behind() {
    kill_workers("some steps of a worker", false);
}

#[test]
#[ignore = "takes long: run by name, in a release build"]
fn a_worker_killed_at_each_step_leaves_nothing_behind() {
    kill_workers("each step of a worker", true);
}

// ---- hubs ----

/// Steps a shard until it has answered what the client asked, and some way on, or `most` steps.
/// Returns how many steps that were. It also sleeps while the worker works, and wakes for its clock,
/// which comes round all the time for one that is stepped. Stops also when the time is up.
fn step_shard(thread: &mut Tracee, client: &Client, most: u64, until: Instant) -> u64 {
    let (mut done, mut most) = (0, most);
    let mut answered = false;
    while done < most {
        if done.is_multiple_of(64) && Instant::now() > until {
            return done;
        }
        if !answered && done.is_multiple_of(64) && client.has_input() {
            answered = true;
            most = most.min(done + AFTER_THE_ANSWER);
        }
        match thread.step(NAP).expect("it can be stepped") {
            Step::Done => done += 1,
            Step::Asleep if client.has_input() => return done,
            Step::Asleep => {}
            Step::Gone => panic!("it ended by itself"),
        }
    }
    done
}

/// How many steps the shard takes from a request's arrival until it has answered and sleeps again.
fn count_hub_steps(every: bool) -> u64 {
    let hub = stepping_hub();
    let _worker = test_worker::start_token(&hub, "steady");
    let (mut client, thread) = stopped_shard(&hub);
    let mut thread = thread;
    send_token(&mut client, "counted");
    let total = step_shard(&mut thread, &client, u64::MAX, count_until(every));
    if every {
        assert_eq!(check_answer(&mut client, "counted"), 200);
    }
    thread.kill(hub.process.pid());
    total
}

/// A connection that has been used, and the shard's thread, stopped.
fn stopped_shard(hub: &Hub) -> (Client, Tracee) {
    let mut client = hub.connect();
    send_token(&mut client, "warm");
    assert_eq!(check_answer(&mut client, "warm"), 200);
    let thread = Tracee::stop(thread_named(hub.process.pid(), "shard-0")).expect("ptrace");
    (client, thread)
}

fn send_token(client: &mut Client, token: &str) {
    let body = format!("the body of {token}");
    client.request("POST", &format!("/token/{token}"), "", body.as_bytes());
}

/// Descriptors and lanes that a process holds.
fn holdings(process: &Process) -> (usize, usize) {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.pid()));
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid()));
    let maps = maps.expect("the process lives");
    let lanes = maps.lines().filter(|l| l.contains("memfd:slotway"));
    (
        descriptors.expect("the process lives").count(),
        lanes.count(),
    )
}

fn named_shared_memory() -> usize {
    let entries = std::fs::read_dir("/dev/shm").expect("/dev/shm can be read");
    let names = entries.flatten().map(|e| e.file_name());
    names
        .filter(|n| n.to_string_lossy().contains("slotway"))
        .count()
}

/// What became of the hubs that were killed, and of their clients.
#[derive(Default)]
struct Fates {
    answered: u64,
    broken: u64,
    /// From the return of a hub to that of its worker.
    returns: Vec<Duration>,
}

/// Kills one hub after the other, in one directory and with one worker.
fn kill_one_after_the_other(plan: Plan, every: bool) -> Fates {
    let named_before = named_shared_memory();
    let mut hub = stepping_hub();
    let worker = test_worker::start_token(&hub, "steady");
    let (mut client, thread) = stopped_shard(&hub);
    let mut thread = Some(thread);
    let before = holdings(&worker);
    let mut fates = Fates::default();
    for number in plan {
        let token = format!("step-{number}");
        let mut stopped = thread.take().expect("the shard is stopped");
        send_token(&mut client, &token);
        step_shard(&mut stopped, &client, number, step_until(every));
        stopped.kill(hub.process.pid());
        hub.process.wait();
        match client.try_answer() {
            Some(answer) => {
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(answer.text(), format!("{token}:the body of {token}"));
                fates.answered += 1;
            }
            None => fates.broken += 1,
        }
        assert_eq!(named_shared_memory(), named_before, "at step {number}");

        let dir = hub.into_dir();
        for path in dir.entries() {
            let name = path.file_name().expect("a name").to_string_lossy();
            assert!(name.starts_with("hub.sock"), "{} is left", path.display());
        }
        hub = stepping_options().start_in(dir);
        let returned = Instant::now();
        hub.wait_attached("steady", worker.pid());
        fates.returns.push(returned.elapsed());
        let next = stopped_shard(&hub);
        client = next.0;
        thread = Some(next.1);
        wait_until("the worker has let go of the old lanes", || {
            holdings(&worker) == before
        });
    }
    fates
}

fn kill_hubs(test: &str, every: bool) {
    let total = count_hub_steps(every);
    println!("{test}: a shard takes {total} steps for a request");
    let fates = if every {
        // A thread for each: ptrace answers only to the thread that has attached.
        std::thread::scope(|scope| {
            let hubs = (0..SIDE_BY_SIDE).map(|index| {
                let plan = Plan::pass(total, index, SIDE_BY_SIDE);
                scope.spawn(move || kill_one_after_the_other(plan, true))
            });
            let hubs: Vec<_> = hubs.collect();
            let ends = hubs.into_iter().map(|hub| hub.join().expect("all held"));
            ends.fold(Fates::default(), |mut sum, one| {
                sum.answered += one.answered;
                sum.broken += one.broken;
                sum.returns.extend(one.returns);
                sum
            })
        })
    } else {
        kill_one_after_the_other(Plan::sample(test, total), false)
    };
    println!(
        "{test}: {} answered, {} connections broken",
        fates.answered, fates.broken
    );
    assert!(fates.broken > 0, "no hub was killed in time");
    let median = Waits(fates.returns).report("from a hub's return to its worker's");
    assert!(median < Duration::from_secs(1), "{median:?}");
}

#[test]
fn a_hub_killed_at_some_step_leaves_nothing_behind() {
    kill_hubs("some steps of a hub", false);
}

#[test]
#[ignore = "takes long: run by name, in a release build"]
fn a_hub_killed_at_each_step_leaves_nothing_behind() {
    kill_hubs("each step of a hub", true);
}
