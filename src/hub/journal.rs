//! What the supervisor's log says of workers. Whoever may attach can cause such lines, under names of
//! its own choice and as fast as it likes; in normal operation none is left out.

use crate::brake::Burst;
use crate::sys::clock::monotonic_ms;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// A worker was registered over HTTP.
    Registered,
    /// A worker has attached.
    Attached,
    /// A worker drains.
    Draining,
    /// A worker is gone.
    Gone,
    /// A worker was evicted.
    Evicted,
    /// A worker was refused.
    Refused,
}

const ALL: [Line; 6] = [
    Line::Registered,
    Line::Attached,
    Line::Draining,
    Line::Gone,
    Line::Evicted,
    Line::Refused,
];

/// How many lines of each kind there were.
#[derive(Debug, Default)]
pub struct Journal {
    bursts: [Burst; ALL.len()],
}

impl Journal {
    /// Whether a line is to be logged. It is counted if not.
    pub fn takes(&mut self, line: Line) -> bool {
        let now_ms = monotonic_ms();
        self.sum_up(line, now_ms);
        self.bursts[line as usize].admits(now_ms)
    }

    /// Says what was left out, where the time has come for it.
    pub fn keep_time(&mut self, now_ms: u64) {
        ALL.into_iter().for_each(|line| self.sum_up(line, now_ms));
    }

    /// When [`Journal::keep_time`] has something to do next.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.bursts.iter().filter_map(Burst::ends_ms).min()
    }

    fn sum_up(&mut self, line: Line, now_ms: u64) {
        if let Some(left_out) = self.bursts[line as usize].left_out(now_ms) {
            tracing::warn!(
                left_out,
                "there were too many lines about workers that {}",
                line.what()
            );
        }
    }
}

impl Line {
    fn what(self) -> &'static str {
        match self {
            Line::Registered => "were registered over HTTP",
            Line::Attached => "attached",
            Line::Draining => "asked to drain",
            Line::Gone => "were gone",
            Line::Evicted => "were evicted",
            Line::Refused => "were refused",
        }
    }
}
