//! What the clients of the soak share: where the hub is, what is wrong at the moment, what was
//! counted, and how fast to go. Nothing here talks to anybody.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::Random;
use crate::support::client::{Answer, Client};
use crate::weather::{Weather, Whom};
use crate::worker::Kind;

/// Shared by every thread of the run.
pub struct Shared {
    /// When the run began.
    pub began: Instant,
    pub address: SocketAddr,
    pub workers: &'static [Kind],
    pub weather: Weather,
    pub tally: Tally,
    /// The clients are to go.
    pub stop: AtomicBool,
    /// The clients are to close what they have and wait.
    pub still: AtomicBool,
    /// Clients that do so.
    pub resting: AtomicUsize,
    /// Microseconds that a client thinks between two deeds, on average.
    pub think_us: AtomicU64,
}

impl Shared {
    /// Waits for as long as clients are to be still. Returns whether they were.
    pub fn rest(&self) -> bool {
        if !self.still.load(Ordering::SeqCst) {
            return false;
        }
        self.resting.fetch_add(1, Ordering::SeqCst);
        while self.still.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.resting.fetch_sub(1, Ordering::SeqCst);
        true
    }

    /// Whether the run is over.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether clients are to let go of what they have.
    pub fn wants_rest(&self) -> bool {
        self.still.load(Ordering::SeqCst) || self.is_over()
    }

    /// Lets a client's user think: this many times as long as usual, on average.
    pub fn think(&self, random: &mut Random, times: u64) {
        let mean = self.think_us.load(Ordering::Relaxed) * times;
        let pause = Duration::from_micros(mean / 2 + random.below(mean + 1));
        std::thread::sleep(pause.min(Duration::from_secs(5)));
    }

    /// Any of the workers.
    pub fn some_worker(&self, random: &mut Random) -> usize {
        random.below(self.workers.len() as u64) as usize
    }

    /// The name of a worker.
    pub fn name(&self, worker: usize) -> &'static str {
        self.workers[worker].name
    }

    /// A new connection; `None` where the hub is away and may be.
    pub fn connect(&self) -> Option<Line> {
        let opened = Instant::now();
        match Client::try_tcp(self.address) {
            Ok(client) => Some(Line { client, opened }),
            Err(error) => {
                if self.weather.excuses_break(Whom::Hub, opened) {
                    self.tally.count("refused");
                } else {
                    self.tally.wrong(format!("cannot connect: {error}"));
                }
                // The hub is away for tens of milliseconds.
                std::thread::sleep(Duration::from_millis(20));
                None
            }
        }
    }

    /// Judges what came of a request: whether it is an answer with this status whose body `is_right`,
    /// or else what can happen just now. Returns whether it was the answer.
    pub fn judge(
        &self,
        deed: &Deed,
        line: &Line,
        outcome: Result<Answer, String>,
        is_right: impl FnOnce(&Answer) -> bool,
    ) -> bool {
        match outcome {
            Ok(answer) if answer.status == deed.status => {
                self.tally.count(answer.status);
                if !is_right(&answer) {
                    let began = deed.began.elapsed();
                    self.tally
                        .wrong(format!("{deed}: wrong after {began:?}: {answer:?}"));
                }
                true
            }
            Ok(answer) => {
                self.tally.count(answer.status);
                if !self.weather.excuses(deed.whom, answer.status, deed.began) {
                    self.tally.wrong(format!("{deed}: {answer:?}"));
                }
                false
            }
            Err(why) => {
                self.tally.count("broken off");
                if !self.weather.excuses_break(deed.whom, line.opened) {
                    self.tally.wrong(format!("{deed}: {why}"));
                }
                false
            }
        }
    }
}

/// A connection.
pub struct Line {
    pub client: Client,
    pub opened: Instant,
}

/// A request that is to be judged.
pub struct Deed {
    pub what: String,
    pub whom: Whom,
    pub began: Instant,
    /// What the answer is to be.
    pub status: u16,
}

impl Deed {
    /// One that begins now.
    pub fn new(what: impl Into<String>, whom: Whom, status: u16) -> Deed {
        Deed {
            what: what.into(),
            whom,
            began: Instant::now(),
            status,
        }
    }
}

impl std::fmt::Display for Deed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.what, self.whom)
    }
}

/// What was counted and what was wrong.
#[derive(Debug, Default)]
pub struct Tally {
    counts: Mutex<BTreeMap<String, u64>>,
    faults: Mutex<Vec<String>>,
}

/// More of them tell nothing new.
const FAULTS_KEPT: usize = 200;

impl Tally {
    /// Counts an answer by its status, or something else that happened.
    pub fn count(&self, what: impl ToString) {
        *self
            .counts
            .lock()
            .unwrap()
            .entry(what.to_string())
            .or_default() += 1;
    }

    /// Notes what may not happen, and says so at once.
    pub fn wrong(&self, what: String) {
        let what: String = what.chars().take(1000).collect();
        println!("WRONG: {what}");
        let mut faults = self.faults.lock().unwrap();
        if faults.len() < FAULTS_KEPT {
            faults.push(what);
        }
    }

    /// Everything counted so far.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap().clone()
    }

    /// Everything that was wrong so far.
    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap().clone()
    }
}
