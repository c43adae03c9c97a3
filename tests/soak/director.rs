//! Who deals the blows of the soak, reads the gauges, and gives the verdict. Runs on the test's own
//! thread; the clients run beside it.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::gauge::{Load, Reading, median, shared_memory_files};
use crate::shared::{Shared, Tally};
use crate::support::process::Process;
use crate::support::sse::stream_count;
use crate::support::{Hub, HubOptions, Random, wait_until};
use crate::weather::{Blow, Weather, Whom};
use crate::{ANVILS, WORKERS};

/// How long the hub gives a worker.
const TIMEOUT: &str = "2";
/// What stays of the memory in flux: caches, arenas, and pages touched for the first time.
const MEMORY_SLACK_KIB: u64 = 2048;

/// A hub, its workers, and what was read of them.
pub struct Director {
    shared: Arc<Shared>,
    random: Random,
    hub: Option<Hub>,
    workers: Vec<Process>,
    length: Duration,
    cpu: u64,
    load: Load,
    percents: Vec<f64>,
    /// In the long calm of the hub: when, and the hub and the anvils under load.
    under_load: Vec<[Reading; 1 + ANVILS]>,
    /// The same while nobody asks anything.
    at_rest: Vec<[Reading; 1 + ANVILS]>,
    shared_memory: Vec<String>,
    /// Workers by [`Blow`], then hubs.
    blows: [u64; 5],
    slowest_return: Duration,
}

impl Director {
    pub fn new(random: &mut Random, length: Duration, cpu: u64) -> Director {
        let shared_memory = shared_memory_files();
        let mut random = Random(random.next());
        let hub = options(free_port(&mut random)).start();
        let workers = WORKERS.iter().map(|kind| kind.start(&hub)).collect();
        let shared = Shared {
            began: Instant::now(),
            address: hub.address,
            workers: WORKERS,
            weather: Weather::default(),
            tally: Tally::default(),
            stop: false.into(),
            still: false.into(),
            resting: 0.into(),
            think_us: 20_000.into(),
        };
        Director {
            shared: Arc::new(shared),
            random,
            hub: Some(hub),
            workers,
            length,
            cpu,
            load: Load::new(),
            percents: Vec::new(),
            under_load: Vec::new(),
            at_rest: Vec::new(),
            shared_memory,
            blows: [0; 5],
            slowest_return: Duration::ZERO,
        }
    }

    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// The whole run: hubs that are killed, a long time with one hub, hubs that are killed.
    pub fn run(&mut self, clients: usize) {
        let start = Instant::now();
        let at = |part: f64| start + self.length.mul_f64(part);
        let (calm_begins, calm_ends, end) = (at(0.15), at(0.85), at(1.0));
        // Clients that notice the run's end need a moment each.
        let hub_every = (self.length / 30).clamp(Duration::from_secs(5), Duration::from_secs(120));
        let line_every = (self.length / 60).clamp(Duration::from_secs(5), Duration::from_secs(60));
        let still_every =
            (self.length / 20).clamp(Duration::from_secs(10), Duration::from_secs(180));
        let (mut hub_at, mut worker_at) = (start + hub_every, start + Duration::from_secs(2));
        let (mut line_at, mut look_at) = (start + line_every, start + Duration::from_secs(1));
        let mut still_at = calm_begins;
        let mut was_calm = false;
        while Instant::now() < end && !self.shared.is_over() {
            let now = Instant::now();
            let is_calm = now >= calm_begins && now < calm_ends;
            if is_calm != was_calm {
                println!(
                    "the hub is {} from here on",
                    if is_calm { "left alone" } else { "restarted" }
                );
                was_calm = is_calm;
                hub_at = now + hub_every;
            }
            if now >= worker_at {
                self.strike_a_worker();
                worker_at = Instant::now() + Duration::from_millis(1500 + self.random.below(3000));
            }
            if !is_calm && now >= hub_at {
                self.strike_the_hub();
                hub_at = Instant::now() + hub_every;
            }
            if is_calm && now >= still_at {
                self.hold_still(clients);
                still_at = Instant::now() + still_every;
            }
            if now >= look_at {
                self.look(is_calm);
                look_at = now + Duration::from_secs(1);
            }
            if now >= line_at {
                self.print_line(start.elapsed());
                line_at = now + line_every;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if !self.shared.is_over() {
            self.hold_still(clients);
            // That one was another hub's.
            self.at_rest.pop();
        }
    }

    fn hub(&self) -> &Hub {
        self.hub.as_ref().expect("there is a hub")
    }

    fn strike_a_worker(&mut self) {
        let moths = WORKERS.len() - ANVILS;
        let index = ANVILS + self.random.below(moths as u64) as usize;
        let shared = self.shared.clone();
        let blow = [Blow::Killed, Blow::Terminated, Blow::Replaced][self.random.below(3) as usize];
        let number = shared.weather.begin(Whom::Worker(index), blow);
        let kind = &WORKERS[index];
        self.blows[blow as usize] += 1;
        let before = Instant::now();
        match blow {
            Blow::Killed => self.workers[index].kill(),
            Blow::Terminated => {
                self.workers[index].signal("TERM");
                let status = self.workers[index].wait();
                assert_eq!(status.code(), Some(0), "{} after SIGTERM", kind.name);
            }
            Blow::Replaced => {}
        }
        let newcomer = kind.start(self.hub());
        let mut old = std::mem::replace(&mut self.workers[index], newcomer);
        if blow == Blow::Replaced {
            let status = old.wait();
            assert_eq!(status.code(), Some(0), "{} when replaced", kind.name);
        }
        shared.weather.end(number);
        self.examine(&old);
        let took = before.elapsed();
        if took > Duration::from_secs(5) {
            println!("{} was {blow:?} and back after {took:?}", kind.name);
        }
    }

    fn strike_the_hub(&mut self) {
        let shared = self.shared.clone();
        let blow = [Blow::Killed, Blow::Terminated][self.random.below(2) as usize];
        let number = shared.weather.begin(Whom::Hub, blow);
        let mut hub = self.hub.take().expect("there is a hub");
        self.blows[3 + blow as usize] += 1;
        if blow == Blow::Killed {
            hub.process.kill();
        } else {
            assert_eq!(hub.stop().code(), Some(0), "the hub after SIGTERM");
        }
        self.examine(&hub.process);
        let hub = options(shared.address.port()).start_in(hub.into_dir());
        let back = Instant::now();
        for (kind, worker) in WORKERS.iter().zip(&self.workers) {
            hub.wait_attached(kind.name, worker.pid());
        }
        let took = back.elapsed();
        self.slowest_return = self.slowest_return.max(took);
        shared.weather.end(number);
        self.hub = Some(hub);
    }

    /// Has every client let go, and reads the gauges when nothing is left of them.
    fn hold_still(&mut self, clients: usize) {
        let shared = self.shared.clone();
        shared.still.store(true, Ordering::SeqCst);
        wait_until("every client rests", || {
            shared.resting.load(Ordering::SeqCst) == clients || shared.is_over()
        });
        let hub = self.hub();
        wait_until("no stream is open", || {
            stream_count(hub, "subscribers") == 0
        });
        hub.wait_idle();
        // Sockets are closed a moment after the last byte. They are as few as ever where they were
        // as few before; the first time nobody knows how few that is.
        let floor = self.at_rest.iter().map(|all| all[0].fds).min();
        let patience = Instant::now() + Duration::from_secs(10);
        let mut last = (hub.process.descriptors() as u64, Instant::now());
        while Instant::now() < patience {
            let fds = hub.process.descriptors() as u64;
            if fds != last.0 {
                last = (fds, Instant::now());
            }
            let settled = last.1.elapsed() > Duration::from_secs(3);
            if floor.map_or(settled, |floor| fds <= floor) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let readings = self.readings();
        let [hub, ..] = readings;
        println!("at rest: hub {hub}");
        self.at_rest.push(readings);
        shared.still.store(false, Ordering::SeqCst);
    }

    fn readings(&self) -> [Reading; 1 + ANVILS] {
        std::array::from_fn(|n| match n {
            0 => Reading::of(&self.hub().process),
            n => Reading::of(&self.workers[n - 1]),
        })
    }

    /// Once a second: reads the gauges, and has the clients go faster or slower.
    fn look(&mut self, is_calm: bool) {
        if is_calm {
            self.under_load.push(self.readings());
        }
        let workers = self.workers.iter().map(Process::pid);
        let all = workers.chain([self.hub().process.pid(), std::process::id()]);
        let percent = self.load.percent(all);
        self.percents.push(percent);
        let think = self.shared.think_us.load(Ordering::Relaxed) as f64;
        // Slowly, so that a second of large bodies does not count for much.
        let wanted = think * (percent.max(1.0) / self.cpu as f64).clamp(0.8, 1.25);
        let wanted = wanted.clamp(200.0, 500_000.0) as u64;
        self.shared.think_us.store(wanted, Ordering::Relaxed);
        for process in self.workers.iter().chain([&self.hub().process]) {
            self.examine(process);
        }
    }

    /// Nobody may have panicked or been thrown out.
    fn examine(&self, process: &Process) {
        for text in ["panicked", "evicted", "ERROR"] {
            if process.stderr.contains(text) && !self.shared.is_over() {
                self.shared
                    .tally
                    .wrong(format!("a log says '{text}':\n{}", process.stderr.text()));
                self.shared.stop.store(true, Ordering::SeqCst);
            }
        }
    }

    fn print_line(&self, elapsed: Duration) {
        let shared = &self.shared;
        let percents = &self.percents[self.percents.len().saturating_sub(60)..];
        let percent = percents.iter().sum::<f64>() / percents.len().max(1) as f64;
        let hub = self.hub();
        let streams = stream_count(hub, "subscribers");
        let slots = hub.slots_in_use();
        let [hub, anvils @ ..] = self.readings();
        let faults = shared.tally.faults().len();
        println!(
            "{:>5} s: {:?}; cpu {percent:.0} %, think {} us; hub: {hub}, slots in use {slots}, streams {streams}, workers {}",
            elapsed.as_secs(),
            shared.tally.counts(),
            shared.think_us.load(Ordering::Relaxed),
            self.workers.len(),
        );
        for (kind, reading) in WORKERS.iter().zip(anvils) {
            println!("         {}: {reading}", kind.name);
        }
        let left = self.new_in_shared_memory();
        println!("         /dev/shm: {left:?} new; wrong so far: {faults}");
    }

    fn new_in_shared_memory(&self) -> Vec<String> {
        let now = shared_memory_files();
        now.into_iter()
            .filter(|name| !self.shared_memory.contains(name))
            .collect()
    }

    /// Ends everything, and gives the verdict.
    pub fn finish(mut self) {
        let mut hub = self.hub.take().expect("there is a hub");
        for worker in &mut self.workers {
            worker.signal("TERM");
            assert_eq!(worker.wait().code(), Some(0), "a worker at the end");
        }
        assert_eq!(hub.stop().code(), Some(0), "the hub at the end");
        let log = hub.process.stderr.text();
        assert!(!log.contains("panicked"), "{log}");
        let left = hub.dir.entries();
        assert!(left.is_empty(), "left behind: {left:?}");
        let new = self.new_in_shared_memory();
        let new: Vec<_> = new.iter().filter(|name| name.contains("slotway")).collect();
        assert!(new.is_empty(), "left in /dev/shm: {new:?}");

        let [terminated, killed, replaced, hub_terminated, hub_killed] = self.blows;
        println!(
            "\nworkers killed {killed}, told to stop {terminated}, replaced {replaced}; hubs killed {hub_killed}, told to stop {hub_terminated}"
        );
        println!(
            "workers were back at most {:?} after the hub",
            self.slowest_return
        );
        println!("counts: {:#?}", self.shared.tally.counts());
        let mut verdict = Vec::new();
        self.compare("under load", &self.under_load, &mut verdict);
        self.compare("at rest", &self.at_rest, &mut verdict);
        // At rest descriptors are a matter of counting.
        let first = self.at_rest.first().map(|all| all.map(|r| r.fds));
        for all in &self.at_rest {
            if first.is_some_and(|first| all[0].fds > first[0]) {
                verdict.push(format!(
                    "descriptors at rest: {first:?}, later {:?}",
                    all[0].fds
                ));
            }
        }
        verdict.extend(self.shared.tally.faults());
        println!(
            "verdict: {}",
            if verdict.is_empty() {
                "passed"
            } else {
                "FAILED"
            }
        );
        assert!(verdict.is_empty(), "{verdict:#?}");
    }

    /// The last quarter against the first one behind the warm-up, which is a tenth.
    fn compare(&self, when: &str, all: &[[Reading; 1 + ANVILS]], verdict: &mut Vec<String>) {
        let all = &all[all.len() / 10..];
        let quarter = (all.len() / 4).max(1).min(all.len());
        let names = ["hub"].into_iter().chain(WORKERS.iter().map(|k| k.name));
        println!(
            "{when}: medians of the first and the last quarter, of {} readings",
            all.len()
        );
        for (n, name) in names.take(1 + ANVILS).enumerate() {
            let gauge =
                |what: &str, get: fn(&Reading) -> u64, slack: u64, verdict: &mut Vec<String>| {
                    let of = |part: &[[Reading; 1 + ANVILS]]| {
                        median(part.iter().map(|r| get(&r[n])).collect())
                    };
                    let (first, last) = (of(&all[..quarter]), of(&all[all.len() - quarter..]));
                    println!("  {name:<14} {what:<15} {first:>8} {last:>8}");
                    if last > first + slack {
                        verdict.push(format!("{name} {when}: {what} grew from {first} to {last}"));
                    }
                };
            gauge("descriptors", |r| r.fds, 8, verdict);
            gauge("rss KiB", |r| r.rss, 2 * MEMORY_SLACK_KIB, verdict);
            gauge("anonymous KiB", |r| r.anonymous, MEMORY_SLACK_KIB, verdict);
            gauge("threads", |r| r.threads, 2, verdict);
            gauge("mappings", |r| r.mappings, 16, verdict);
        }
    }
}

/// Two shards, so that every worker has two lanes; histories that are full soon.
fn options(port: u16) -> HubOptions {
    HubOptions::new()
        .args(["--timeout", TIMEOUT, "--shards", "2"])
        .args(["--sse-heartbeat", "1", "--sse-history", "256"])
        .port(port)
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
