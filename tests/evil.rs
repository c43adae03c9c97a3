//! Hostile workers: one that lies in every way that has a name, one that scribbles over everything it
//! can write, what the kernel refuses them, and what they never get to see. The hub never panics,
//! is never killed, never mixes clients up, and is after it what it was before.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use simd_json::prelude::*;
use slotway::control::WakeMode;

use support::lies::{self, Lie, Verdict};
use support::raw_worker::{RawWorker, breathe};
use support::{Answer, Hub, HubOptions, Random, test_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    test_worker::run();
}

/// What must be the same before and after.
#[derive(Debug, PartialEq, Eq)]
struct Footprint {
    /// How many there are of each kind.
    descriptors: BTreeMap<String, usize>,
    threads: usize,
    lane_mappings: usize,
}

impl Footprint {
    /// Of a hub at rest. Connections that have just ended take a moment to close, so the smallest of
    /// some looks counts.
    fn of_idle(hub: &Hub) -> Footprint {
        let looks = (0..100).map(|_| {
            breathe();
            Footprint::now(hub)
        });
        looks
            .min_by_key(|look| look.descriptors.values().sum::<usize>())
            .expect("some")
    }

    fn now(hub: &Hub) -> Footprint {
        let pid = hub.process.pid();
        let entries =
            |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).expect("it lives");
        let mut descriptors = BTreeMap::new();
        for entry in entries("fd").flatten() {
            // One may close while we look.
            if let Ok(target) = std::fs::read_link(entry.path()) {
                let target = target.display().to_string();
                let kind = target.split(":[").next().unwrap_or_default().to_owned();
                *descriptors.entry(kind).or_default() += 1;
            }
        }
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the hub lives");
        let lanes = maps.lines().filter(|l| l.contains("memfd:slotway"));
        Footprint {
            descriptors,
            threads: entries("task").count(),
            lane_mappings: lanes.count(),
        }
    }

    /// Waits until the hub has shed what it had taken since.
    fn wait_for(&self, hub: &Hub) {
        let mut last = Footprint::now(hub);
        let start = Instant::now();
        while last != *self {
            assert!(
                start.elapsed() < support::GUARD,
                "before {self:?}, now {last:?}"
            );
            breathe();
            last = Footprint::now(hub);
        }
    }
}

/// The hub lives, has not panicked, holds no slot, and ends well.
fn assert_unharmed(mut hub: Hub) {
    hub.wait_idle();
    let log = hub.process.stderr.text();
    for word in ["panicked", "failed: ", "overflow", "RefCell"] {
        assert!(!log.contains(word), "the hub's log:\n{log}");
    }
    assert!(hub.process.ended().is_none(), "the hub is gone:\n{log}");
    // Some times what it has after honest work.
    let memory = hub.process.memory_kib("RssAnon");
    assert!(memory < 48 * 1024, "{memory} KiB");
    assert_eq!(hub.stop().code(), Some(0), "{}", hub.process.stderr.text());
}

fn evictions(hub: &Hub) -> u64 {
    hub.health().get_u64("evictions").expect("evictions")
}

#[test]
fn each_lie_has_its_consequence_and_no_other() {
    let seed = support::seed("each lie");
    let mut random = Random(seed);
    for shards in ["1", "2"] {
        let hub = HubOptions::new()
            .args(["--shards", shards, "--slots", "64", "--timeout", "20"])
            // It comes back under its name at once.
            .args(["--evicted-pause-ms", "0"])
            .start();
        let neighbour = hub.worker();
        assert_eq!(hub.get("/hello").status, 200);
        let before = Footprint::of_idle(&hub);
        for (number, &lie) in Lie::ALL.iter().enumerate() {
            let wake = match (number + usize::from(shards == "2")) % 2 == 0
                || lie == Lie::OwnBellBlocked
            {
                true => WakeMode::Eventfd,
                false => WakeMode::Futex,
            };
            one_lie(&hub, lie, wake, &mut random);
        }
        before.wait_for(&hub);
        drop(neighbour);
        assert_unharmed(hub);
    }
}

fn one_lie(hub: &Hub, lie: Lie, wake: WakeMode, random: &mut Random) {
    let evicted_before = evictions(hub);
    let mut liar = RawWorker::attach(&hub.socket, "liar", &["GET /lie/{token}"], wake).unwrap();
    hub.wait_attached("liar", std::process::id());
    let mut client = hub.connect();
    let target = format!("/lie/token-{:016x}", random.next());
    client.request("GET", &target, "", b"");
    let (lane, claim) = liar.wait_claim();
    assert_eq!(claim.target, target);
    lies::tell(lie, &mut liar.lanes[lane], &claim, random);
    let answer = client.try_answer();
    match lie.verdict() {
        Verdict::Evicted(expected) => {
            if let Some(answer) = answer {
                // What was right before the lie may have been sent.
                if answer.status == 200 {
                    assert_eq!(answer.text(), target, "{lie:?}");
                } else {
                    answer.assert_problem(502);
                }
            }
            assert_evicted(hub, &mut liar, lie, expected);
            assert_eq!(evictions(hub), evicted_before + 1, "{lie:?}");
            hub.get(&target).assert_problem(503);
        }
        Verdict::CutShort => {
            assert_eq!(answer, None, "{lie:?}");
            assert_stays(hub, liar, lie);
        }
        Verdict::Refused => {
            let answer = answer.unwrap_or_else(|| panic!("{lie:?}: no answer"));
            answer.assert_problem(502);
            let health = hub.health_of("liar").expect("it is attached");
            let traffic = health.get("traffic").expect("traffic");
            assert_eq!(traffic.get_u64("violations"), Some(1), "{lie:?}");
            assert_stays(hub, liar, lie);
        }
        Verdict::Answered => {
            let answer = answer.unwrap_or_else(|| panic!("{lie:?}: no answer"));
            assert_eq!((answer.status, answer.text()), (200, &*target), "{lie:?}");
            assert_stays(hub, liar, lie);
        }
        Verdict::DependsOnKernel(expected) => {
            if evictions(hub) > evicted_before {
                assert_evicted(hub, &mut liar, lie, expected);
            } else {
                assert_stays(hub, liar, lie);
            }
        }
    }
    assert_eq!(hub.get("/hello").text(), "Hello, World!", "{lie:?}");
    assert_eq!(hub.slots_in_use(), 0, "{lie:?}");
}

/// The worker was told why, and everybody who asks is.
fn assert_evicted(hub: &Hub, liar: &mut RawWorker, lie: Lie, expected: &str) {
    let reason = liar.wait_lost().unwrap_or_default();
    assert!(reason.contains(expected), "{lie:?}: {reason}");
    wait_until("the log says why", || {
        hub.process.stderr.contains(&format!("evicted: {reason}"))
    });
    let health = hub.health_of("liar").expect("it is remembered");
    assert_eq!(health.get_str("state"), Some("gone"), "{lie:?}");
    assert_eq!(health.get_str("evicted"), Some(reason.as_str()), "{lie:?}");
}

/// The worker is served on, until it leaves.
fn assert_stays(hub: &Hub, mut liar: RawWorker, lie: Lie) {
    let evicted_before = evictions(hub);
    let mut client = hub.connect();
    client.request("GET", "/lie/another", "", b"");
    let (lane, claim) = liar.wait_claim();
    liar.lanes[lane].answer(&claim, 200, claim.target.as_bytes());
    assert_eq!(client.answer().text(), "/lie/another", "{lie:?}");
    assert_eq!(evictions(hub), evicted_before, "{lie:?}");
    drop(liar);
    wait_until("the liar is gone", || {
        let health = hub.health_of("liar").expect("it is remembered");
        health.get_str("state") == Some("gone")
    });
}

/// What the clients of one run have seen.
#[derive(Debug, Default)]
struct Tally {
    right: AtomicU64,
    garbled: AtomicU64,
    crossed: AtomicU64,
    refused: AtomicU64,
    closed: AtomicU64,
    neighbourly: Mutex<Vec<Duration>>,
}

/// Stops the load also where the test fails, so that its scope ends.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// How long the evil worker goes on: a few seconds, or `SLOTWAY_EVIL_SECONDS`.
fn evil_time(default_ms: u64) -> Duration {
    match std::env::var("SLOTWAY_EVIL_SECONDS") {
        Ok(text) => Duration::from_secs(text.parse().expect("a number of seconds")),
        Err(_) => Duration::from_millis(default_ms),
    }
}

#[test]
fn scribbling_over_everything_harms_nobody_else() {
    evil_under_load("scribbling", true, 3_000);
}

#[test]
fn without_crossing_answers_no_client_gets_anothers() {
    let tally = evil_under_load("not crossing", false, 2_000);
    assert_eq!(tally.crossed.into_inner(), 0);
}

fn evil_under_load(what: &str, crossing: bool, default_ms: u64) -> Tally {
    let seed = support::seed(what);
    let time = evil_time(default_ms);
    let hub = HubOptions::new()
        .args(["--shards", "2", "--slots", "64", "--timeout", "0.4"])
        .args(["--evicted-pause-ms", "0"])
        .start();
    let honest = hub.worker_with("demo", &["--threads", "3"]);
    assert_eq!(hub.get("/hello").status, 200);
    let before = Footprint::of_idle(&hub);
    let tally = Tally::default();
    let stop = AtomicBool::new(false);
    let mut evil = test_worker::start_evil(&hub, "evil", seed, time, crossing);
    std::thread::scope(|scope| {
        let _stop_on_drop = StopOnDrop(&stop);
        for number in 0..4 {
            let (hub, tally, stop) = (&hub, &tally, &stop);
            scope.spawn(move || evil_client(hub, tally, stop, Random(seed ^ number)));
        }
        for number in 4..7 {
            let (hub, tally, stop) = (&hub, &tally, &stop);
            scope.spawn(move || neighbour_client(hub, tally, stop, Random(seed ^ number)));
        }
        let (hub, tally, stop) = (&hub, &tally, &stop);
        scope.spawn(move || pipelining_client(hub, tally, stop, Random(seed ^ 8)));
        std::thread::sleep(time);
        evil.wait_line("evil: done");
    });
    println!(
        "{what}: {} s of\n{}",
        time.as_secs_f32(),
        evil.stdout.text()
    );
    assert_eq!(evil.wait().code(), Some(0), "{}", evil.stderr.text());
    let mut waits = tally.neighbourly.lock().unwrap().clone();
    waits.sort();
    assert!(waits.len() > 100, "the neighbour was hardly asked");
    println!(
        "{what}: answers right {:?}, garbled {:?}, crossed {:?}, refused {:?}, closed {:?}; {} answers of the neighbour, p50 {:?}, p99 {:?}, slowest {:?}; {} evictions",
        tally.right,
        tally.garbled,
        tally.crossed,
        tally.refused,
        tally.closed,
        waits.len(),
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
        waits[waits.len() - 1],
        evictions(&hub),
    );
    assert!(
        waits[waits.len() - 1] < Duration::from_secs(5),
        "a neighbour's client hung"
    );
    assert!(
        tally.right.load(Ordering::SeqCst) > 0,
        "the evil worker never served"
    );
    assert!(evictions(&hub) > 0);
    assert!(hub.process.stderr.contains("evicted: "));
    before.wait_for(&hub);
    drop(honest);
    assert_unharmed(hub);
    tally
}

fn token(kind: &str, random: &mut Random) -> String {
    format!("{kind}-{:016x}", random.next())
}

/// Asks the evil worker. What comes back is what it was asked for, an error of the hub, or garbage of
/// the worker's own making; never a word of the neighbour's.
fn evil_client(hub: &Hub, tally: &Tally, stop: &AtomicBool, mut random: Random) {
    let mut client = hub.connect();
    while !stop.load(Ordering::SeqCst) {
        let token = token("evil", &mut random);
        let magnitude = random.below(11);
        let times = 1 + random.below(1 << magnitude);
        let target = format!("/evil/{token}?n={times}");
        let body = match random.below(3) {
            0 => token.repeat(random.below(600) as usize),
            _ => String::new(),
        };
        let method = if body.is_empty() { "GET" } else { "POST" };
        let sent = support::client::request_bytes(method, &target, "", body.as_bytes());
        let answer = client
            .try_send(sent)
            .ok()
            .and_then(|()| client.try_answer());
        if judge(tally, answer.as_ref(), &token, times, &body) {
            client = hub.connect();
        }
    }
}

/// Counts an answer of the evil worker. Returns whether the connection is at its end.
fn judge(tally: &Tally, answer: Option<&Answer>, token: &str, times: u64, body: &str) -> bool {
    let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::SeqCst);
    let Some(answer) = answer else {
        count(&tally.closed);
        return true;
    };
    let said = String::from_utf8_lossy(&answer.body);
    assert!(!said.contains("good-"), "a neighbour's bytes: {answer:?}");
    assert!(
        !said.contains("from the grave"),
        "out of a lane that is over: {answer:?}"
    );
    for (name, value) in &answer.fields {
        let value = String::from_utf8_lossy(value);
        assert!(
            !value.contains("good-"),
            "a neighbour's bytes in {name}: {answer:?}"
        );
    }
    let by_hub = answer
        .field_values("content-type")
        .any(|v| v == b"application/problem+json");
    if by_hub {
        // 404 is for the time before it first attached.
        assert!([404, 502, 503, 504].contains(&answer.status), "{answer:?}");
        count(&tally.refused);
    } else if answer.body == token.repeat(times as usize).as_bytes()
        || (!body.is_empty() && answer.body == body.as_bytes())
    {
        count(&tally.right);
    } else {
        let others = said.match_indices("evil-").filter(|(at, _)| {
            let found = said.get(*at..at + token.len());
            // Noise may have changed a token, but does not make one of sixteen digits.
            found.is_some_and(|found| found != token && is_token(found))
                && !is_near(found.unwrap_or_default(), token)
        });
        match others.count() {
            0 => count(&tally.garbled),
            _ => count(&tally.crossed),
        };
    }
    answer.field_values("connection").any(|v| v == b"close")
}

fn is_token(text: &str) -> bool {
    let digits = text.strip_prefix("evil-");
    digits.is_some_and(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether two tokens are one that was written over in a place or two.
fn is_near(a: &str, b: &str) -> bool {
    a.bytes().zip(b.bytes()).filter(|(a, b)| a != b).count() <= 4
}

/// Asks the honest neighbour, whose answers are always right.
fn neighbour_client(hub: &Hub, tally: &Tally, stop: &AtomicBool, mut random: Random) {
    let mut client = hub.connect();
    while !stop.load(Ordering::SeqCst) {
        let magnitude = random.below(12);
        let times = 1 + random.below(1 << magnitude);
        let body = token("good", &mut random).repeat(times as usize);
        let start = Instant::now();
        client.request("POST", "/echo", "", body.as_bytes());
        let answer = client.answer();
        tally.neighbourly.lock().unwrap().push(start.elapsed());
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            answer.body == body.as_bytes(),
            "not what was sent: {answer:?}"
        );
    }
}

/// Asks both in one breath: the neighbour's answer is right behind whatever the evil one says.
fn pipelining_client(hub: &Hub, tally: &Tally, stop: &AtomicBool, mut random: Random) {
    let mut client = hub.connect();
    while !stop.load(Ordering::SeqCst) {
        let (evil, good) = (token("evil", &mut random), token("good", &mut random));
        let mut sent = support::client::request_bytes("GET", &format!("/evil/{evil}?n=3"), "", b"");
        let echo = support::client::request_bytes("POST", "/echo", "", good.as_bytes());
        sent.extend_from_slice(&echo);
        let answer = client
            .try_send(&sent)
            .ok()
            .and_then(|()| client.try_answer());
        if judge(tally, answer.as_ref(), &evil, 3, "") {
            client = hub.connect();
            continue;
        }
        // An answer that its worker gave up behind its last byte ends the connection.
        match client.try_answer() {
            Some(answer) => {
                assert_eq!((answer.status, answer.text()), (200, &*good), "{answer:?}");
            }
            None => {
                tally.closed.fetch_add(1, Ordering::SeqCst);
                client = hub.connect();
            }
        }
    }
}
