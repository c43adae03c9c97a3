//! When workers are pinged, and when one has missed too many. Counts only; the time comes in.

use std::collections::HashMap;

use crate::limits::PING_MISSES;

/// The ping rounds of all workers.
#[derive(Debug)]
pub struct Liveness {
    interval_ms: u64,
    timeout_ms: u64,
    next_round_ms: u64,
    check_ms: Option<u64>,
    round: u32,
    /// By worker: misses in a row, and the round of the last one.
    misses: HashMap<usize, (u32, u32)>,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send every worker a ping of this number.
    Ping(u32),
    /// See which pings are unanswered.
    Check,
}

impl Liveness {
    /// Rounds every `interval_ms`, each with `timeout_ms` to answer, beginning one interval after
    /// `now_ms`.
    pub fn new(interval_ms: u64, timeout_ms: u64, now_ms: u64) -> Liveness {
        Liveness {
            interval_ms,
            timeout_ms,
            next_round_ms: now_ms + interval_ms,
            check_ms: None,
            round: 0,
            misses: HashMap::new(),
        }
    }

    /// When [`Liveness::due`] has something to say next.
    pub fn next_ms(&self) -> u64 {
        self.next_round_ms.min(self.check_ms.unwrap_or(u64::MAX))
    }

    /// What is due at `now_ms`, once.
    pub fn due(&mut self, now_ms: u64) -> Option<Due> {
        if self.check_ms.is_some_and(|at| at <= now_ms) {
            self.check_ms = None;
            return Some(Due::Check);
        }
        if self.next_round_ms > now_ms {
            return None;
        }
        // A worker without a miss in the round that ends now starts from zero again.
        let ended = self.round;
        self.misses.retain(|_, (_, round)| *round == ended);
        self.round = self.round.wrapping_add(1).max(1);
        self.next_round_ms = now_ms + self.interval_ms;
        self.check_ms = Some(now_ms + self.timeout_ms);
        Some(Due::Ping(self.round))
    }

    /// A worker owes an answer. Returns whether that is once too often. However many of its lanes
    /// report it, it counts once a round.
    pub fn missed(&mut self, worker: usize) -> bool {
        let round = self.round;
        let (count, last) = self.misses.entry(worker).or_insert((0, 0));
        if *last != round {
            *last = round;
            *count += 1;
        }
        *count >= PING_MISSES
    }

    /// The worker is no longer there.
    pub fn forget(&mut self, worker: usize) {
        self.misses.remove(&worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_rounds_in_a_row_are_too_many() {
        let mut liveness = Liveness::new(10, 2, 0);
        assert_eq!(liveness.due(9), None);
        for (round, verdict) in [(1, false), (2, false), (3, true)] {
            let start = round as u64 * 10;
            assert_eq!(liveness.due(start), Some(Due::Ping(round)));
            assert_eq!(liveness.next_ms(), start + 2);
            assert_eq!(liveness.due(start + 2), Some(Due::Check));
            assert_eq!(liveness.missed(7), verdict);
            assert_eq!(liveness.missed(7), verdict, "counted once a round");
        }
    }

    #[test]
    fn an_answer_in_between_starts_over() {
        let mut liveness = Liveness::new(10, 2, 0);
        for round in 1..=9 {
            assert_eq!(liveness.due(round * 10), Some(Due::Ping(round as u32)));
            assert_eq!(liveness.due(round * 10 + 2), Some(Due::Check));
            if round % 3 != 0 {
                assert!(!liveness.missed(1));
            }
        }
    }
}
