//! The soak: an hour of everything at once on one hub, with workers and hubs that are killed, stopped
//! and replaced meanwhile. Every answer is checked against what may happen at that moment, and what
//! the processes take must stay flat. Not among the ordinary tests; run it with
//!
//! ```sh
//! cargo test --release --test soak -- --ignored --nocapture soak
//! ```
//!
//! `SLOTWAY_SOAK_SECONDS` (3600) is how long, `SLOTWAY_SOAK_CPU` (25) the percent of one processor that
//! clients, hub and workers are to take together, and `SLOTWAY_TEST_SEED` repeats a run's chances.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod director;
mod gauge;
mod shared;
mod streams;
mod weather;
mod worker;

use std::sync::atomic::Ordering;
use std::time::Duration;

use director::Director;
use shared::Shared;
use streams::Topic;
use support::Random;
use weather::Whom;
use worker::Kind;

#[test]
#[ignore = "the worker process of the soak, which starts it"]
fn worker_process() {
    worker::run();
}

/// The first two live as long as the run does; the others die all the time.
const WORKERS: &[Kind] = &[
    Kind {
        name: "anvil-threads",
        tokio: false,
    },
    Kind {
        name: "anvil-tokio",
        tokio: true,
    },
    Kind {
        name: "moth-threads",
        tokio: false,
    },
    Kind {
        name: "moth-tokio",
        tokio: true,
    },
    Kind {
        name: "moth-more",
        tokio: false,
    },
];

/// Of [`WORKERS`], those that live on.
const ANVILS: usize = 2;

/// What a client does until the run is over.
type Job<'a> = Box<dyn FnOnce(&Shared, Random) + Send + 'a>;

fn number_of(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
        Err(_) => default,
    }
}

#[test]
#[ignore = "takes an hour: see the top of the file"]
fn soak() {
    let length = Duration::from_secs(number_of("SLOTWAY_SOAK_SECONDS", 3600));
    let cpu = number_of("SLOTWAY_SOAK_CPU", 25);
    println!("\nsoak of {length:?} at {cpu} % of one processor");
    let mut random = Random(support::seed("soak"));
    let mut director = Director::new(&mut random, length, cpu);
    let shared = director.shared();
    let topics = topics(&shared);
    let jobs = jobs(&topics);
    let clients = jobs.len();
    std::thread::scope(|scope| {
        for job in jobs {
            let (shared, random) = (&*shared, Random(random.next()));
            scope.spawn(move || {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    job(shared, random);
                }));
                if ended.is_err() {
                    // The message is above, in the log.
                    shared.tally.wrong("a client panicked".into());
                    shared.stop.store(true, Ordering::SeqCst);
                }
            });
        }
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            director.run(clients);
        }));
        shared.stop.store(true, Ordering::SeqCst);
        if let Err(panic) = run {
            std::panic::resume_unwind(panic);
        }
    });
    director.finish();
}

fn jobs(topics: &[Topic]) -> Vec<Job<'_>> {
    let mut jobs: Vec<Job<'_>> = Vec::new();
    for _ in 0..4 {
        jobs.push(Box::new(clients::small));
    }
    for _ in 0..2 {
        jobs.push(Box::new(clients::echo));
        jobs.push(Box::new(clients::fresh));
        jobs.push(Box::new(clients::leaving));
    }
    jobs.push(Box::new(clients::slow));
    jobs.push(Box::new(clients::garbage));
    for topic in topics {
        jobs.push(Box::new(move |shared, random| {
            streams::publish(shared, topic, random);
        }));
        for _ in 0..2 {
            jobs.push(Box::new(move |shared, random| {
                streams::subscribe(shared, topic, random);
            }));
        }
    }
    jobs
}

fn topics(shared: &Shared) -> Vec<Topic> {
    let mut topics: Vec<Topic> = (0..WORKERS.len())
        .map(|worker| Topic::room(shared, worker, "rooms", 1))
        .collect();
    topics.push(Topic::room(shared, 0, "plain", 1));
    topics.push(Topic::room(shared, 3, "plain", 1));
    topics.push(Topic::broadcast(shared, 1));
    topics.push(Topic::broadcast(shared, 2));
    topics.push(Topic::channel());
    assert!(topics.iter().any(|topic| topic.whom == Whom::Hub));
    topics
}
