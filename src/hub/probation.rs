//! Workers that were evicted for breaking the protocol, and how long each has to wait before it may
//! attach again. By name, for that is what comes back: a worker with a fault that its supervisor starts
//! again at once. Counts only; the time comes in.

use std::collections::HashMap;
use std::sync::Arc;

use crate::control::FieldError;
use crate::hub::refusal::Refusal;
use crate::limits::{MAX_EVICTED_PAUSE_MS, MAX_WORKERS};

/// Every name that was evicted of late.
#[derive(Debug)]
pub struct Probation {
    /// The first pause; 0 for none at all.
    pause_ms: u64,
    names: HashMap<Arc<str>, Sentence>,
}

#[derive(Debug)]
struct Sentence {
    /// When the name may attach again.
    until_ms: u64,
    /// How long it had to wait for that.
    pause_ms: u64,
}

impl Probation {
    /// Nobody yet; who is evicted for the first time waits for `pause_ms`.
    pub fn new(pause_ms: u64) -> Probation {
        Probation {
            pause_ms,
            names: HashMap::new(),
        }
    }

    /// A worker of this name has broken the protocol. It waits twice as long as the last time, if that
    /// is not long ago.
    pub fn evicted(&mut self, name: &Arc<str>, now_ms: u64) {
        if self.pause_ms == 0 {
            return;
        }
        self.names.retain(|_, s| !s.is_over(now_ms));
        let last = self.names.get(name).map(|s| s.pause_ms);
        let pause_ms = last.map_or(self.pause_ms, |last| 2 * last);
        let pause_ms = pause_ms.min(MAX_EVICTED_PAUSE_MS.max(self.pause_ms));
        if last.is_none() && self.names.len() >= MAX_WORKERS {
            // Names are free to choose, and whoever changes its own at every attach finds room here.
            let first = self.names.iter().min_by_key(|(_, s)| s.until_ms);
            if let Some(first) = first.map(|(name, _)| name.clone()) {
                self.names.remove(&first);
            }
        }
        let sentence = Sentence {
            until_ms: now_ms + pause_ms,
            pause_ms,
        };
        self.names.insert(name.clone(), sentence);
    }

    /// Whether a worker of this name may attach.
    ///
    /// # Errors
    /// Not now: how long it has to wait.
    pub fn check(&self, name: &str, now_ms: u64) -> Result<(), Refusal> {
        let until_ms = self.names.get(name).map_or(0, |s| s.until_ms);
        match until_ms.checked_sub(now_ms) {
            None | Some(0) => Ok(()),
            Some(left_ms) => Err(Refusal::Full(FieldError {
                field: "name".into(),
                detail: format!(
                    "a worker of this name was evicted for breaking the protocol of the lane, and may attach again in {left_ms} ms: /health says what it did"
                ),
            })),
        }
    }
}

impl Sentence {
    /// Whether it counts no more: the worker has kept the rules for as long as the longest pause.
    fn is_over(&self, now_ms: u64) -> bool {
        now_ms >= self.until_ms + MAX_EVICTED_PAUSE_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_ms(probation: &Probation, name: &str, now_ms: u64) -> Option<u64> {
        let until = |ms: &u64| probation.check(name, now_ms + ms).is_ok();
        (0..=MAX_EVICTED_PAUSE_MS).find(until).filter(|ms| *ms > 0)
    }

    #[test]
    fn a_pause_doubles_while_the_worker_goes_on_and_is_forgotten_in_the_end() {
        let mut probation = Probation::new(1_000);
        let name: Arc<str> = "w".into();
        let mut now_ms = 5;
        assert_eq!(left_ms(&probation, "w", now_ms), None);
        for pause_ms in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            probation.evicted(&name, now_ms);
            assert_eq!(left_ms(&probation, "w", now_ms), Some(pause_ms));
            assert_eq!(left_ms(&probation, "another", now_ms), None);
            now_ms += pause_ms;
        }
        now_ms += MAX_EVICTED_PAUSE_MS;
        probation.evicted(&name, now_ms);
        assert_eq!(left_ms(&probation, "w", now_ms), Some(1_000));
    }

    #[test]
    fn it_can_be_turned_off_and_is_bounded() {
        let mut probation = Probation::new(0);
        probation.evicted(&"w".into(), 0);
        assert!(probation.check("w", 0).is_ok());
        let mut probation = Probation::new(1_000);
        for number in 0..=MAX_WORKERS as u64 {
            probation.evicted(&format!("w{number}").into(), number);
        }
        assert_eq!(probation.names.len(), MAX_WORKERS);
        assert!(probation.check("w0", 1).is_ok(), "the first makes room");
        assert!(probation.check("w1", 1).is_err());
    }
}
