//! What is wrong on purpose, and since when: so that every answer can be judged by what may happen at
//! that moment, and by nothing milder.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What was done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGTERM, and started again when it had ended.
    Terminated,
    /// SIGKILL, and started again.
    Killed,
    /// A newcomer took its name.
    Replaced,
}

/// Whom it was done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    Hub,
    /// The worker with this index.
    Worker(usize),
}

#[derive(Debug)]
struct Trouble {
    whom: Whom,
    blow: Blow,
    begin: Instant,
    end: Option<Instant>,
}

/// All troubles of the run.
#[derive(Debug, Default)]
pub struct Weather(Mutex<Vec<Trouble>>);

/// Between the hub saying that a worker is attached and its last shard having heard so.
const SETTLE: Duration = Duration::from_millis(200);

impl Weather {
    /// Notes a blow that is about to fall; returns its number.
    pub fn begin(&self, whom: Whom, blow: Blow) -> usize {
        let mut troubles = self.0.lock().unwrap();
        troubles.push(Trouble {
            whom,
            blow,
            begin: Instant::now(),
            end: None,
        });
        troubles.len() - 1
    }

    /// Everything is as it was.
    pub fn end(&self, number: usize) {
        self.0.lock().unwrap()[number].end = Some(Instant::now() + SETTLE);
    }

    /// Whether such a blow was being felt at any time from `from` to `to`.
    pub fn felt(&self, whom: Whom, blows: &[Blow], from: Instant, to: Instant) -> bool {
        let troubles = self.0.lock().unwrap();
        let overlaps = |t: &&Trouble| t.begin <= to && t.end.is_none_or(|end| end >= from);
        let mut those = troubles.iter().rev().filter(overlaps);
        those.any(|t| t.whom == whom && blows.contains(&t.blow))
    }

    /// Whether this worker or the hub was dead or dying at any time from `from` to `to`.
    pub fn was_foul(&self, whom: Whom, from: Instant, to: Instant) -> bool {
        let deadly = [Blow::Killed, Blow::Terminated];
        self.felt(Whom::Hub, &deadly, from, to) || self.felt(whom, &deadly, from, to)
    }

    /// Whether this may be the answer to a request that began at `from` and has just ended, for a
    /// reason that is not the request's own.
    pub fn excuses(&self, whom: Whom, status: u16, from: Instant) -> bool {
        let felt = |whom, blows: &[Blow]| self.felt(whom, blows, from, Instant::now());
        let (killed, terminated) = ([Blow::Killed], [Blow::Terminated]);
        match status {
            // The route of a worker that is away, told apart by whether the hub remembers it. A hub
            // that stops hands out nothing new.
            503 => {
                felt(whom, &[Blow::Killed, Blow::Terminated])
                    || felt(Whom::Hub, &[Blow::Killed, Blow::Terminated])
            }
            404 => felt(Whom::Hub, &[Blow::Killed, Blow::Terminated]),
            502 => felt(whom, &killed) || felt(Whom::Hub, &terminated),
            _ => false,
        }
    }

    /// Whether a connection that was opened at `from`, or its answer, may have broken off.
    pub fn excuses_break(&self, whom: Whom, from: Instant) -> bool {
        let now = Instant::now();
        self.felt(Whom::Hub, &[Blow::Killed, Blow::Terminated], from, now)
            || self.felt(whom, &[Blow::Killed], from, now)
    }
}
