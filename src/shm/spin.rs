//! Whether a side that has nothing to do looks on for a moment before it sleeps. Waking a processor, or
//! another process on this one, takes as long as several requests; where the next thing mostly comes
//! sooner than that, looking on is quicker. Whoever looks gives up the processor each time, so it costs
//! nobody else anything. Decisions only: the clock, the looks and the yields are the caller's.

/// Longest time for which it pays to look on. Nanoseconds.
const LONGEST_NS: u64 = 200_000;
/// A sleep as short as this could have been spared. The wake itself is part of it. Nanoseconds.
const SHORT_SLEEP_NS: u64 = 250_000;
/// Short waits in a row after which to look on, at least and at most.
const FEWEST_SHORT: u32 = 8;
const MOST_SHORT: u32 = 8192;
/// After so many successes, trust grows again.
const TRUST_AFTER: u32 = 64;
/// With more than this at a time, each wake is shared, and it is better to sleep and let them gather.
const FEW: usize = 2;

/// What one side has learned of the waits between one thing and the next.
#[derive(Debug)]
pub struct Spin {
    /// Short waits in a row.
    short: u32,
    /// How many of them are asked for. Doubles with each time it looked on in vain.
    asked: u32,
    /// How often something came while it looked on.
    successes: u32,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Busy,
    /// Looking on since then.
    Looking(u64),
    /// Asleep; has had nothing to do since then.
    Asleep(u64),
}

impl Default for Spin {
    fn default() -> Self {
        Self::new()
    }
}

impl Spin {
    /// Nothing is known yet.
    pub fn new() -> Spin {
        Spin {
            short: 0,
            asked: FEWEST_SHORT,
            successes: 0,
            state: State::Busy,
        }
    }

    /// There is nothing to do, but something is expected: whether to look once more instead of sleeping.
    /// `now_ns` is of any clock that does not go back.
    pub fn looks_on(&mut self, now_ns: impl FnOnce() -> u64) -> bool {
        match self.state {
            State::Busy => {
                let looks = self.short >= self.asked;
                let now_ns = now_ns();
                self.state = if looks {
                    State::Looking(now_ns)
                } else {
                    State::Asleep(now_ns)
                };
                looks
            }
            State::Looking(since) if now_ns().saturating_sub(since) < LONGEST_NS => true,
            State::Looking(since) => {
                self.in_vain();
                self.state = State::Asleep(since);
                false
            }
            State::Asleep(_) => false,
        }
    }

    /// There is something to do: `count` at once.
    pub fn found(&mut self, count: usize, now_ns: impl FnOnce() -> u64) {
        if count > FEW {
            self.short = 0;
        }
        let state = std::mem::replace(&mut self.state, State::Busy);
        let (since, longest_ns) = match state {
            State::Busy => return,
            State::Looking(since) => (since, LONGEST_NS),
            State::Asleep(since) => (since, SHORT_SLEEP_NS),
        };
        if now_ns().saturating_sub(since) < longest_ns {
            self.short = self.short.saturating_add(1);
            if matches!(state, State::Looking(_)) {
                self.successes = self.successes.wrapping_add(1);
                if self.successes.is_multiple_of(TRUST_AFTER) {
                    self.asked = (self.asked / 2).max(FEWEST_SHORT);
                }
            }
        } else if matches!(state, State::Looking(_)) {
            // Somebody else had this processor meanwhile, and for longer than a sleeper would wait.
            self.in_vain();
        } else {
            self.short = 0;
        }
    }

    /// Nothing is expected any more. How long that lasts says nothing.
    pub fn rest(&mut self) {
        self.state = State::Busy;
    }

    fn in_vain(&mut self) {
        self.short = 0;
        self.asked = (self.asked * 2).min(MOST_SHORT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `wait_ns` pass until the next thing comes, with a look every microsecond. Returns for how
    /// long it looked on.
    fn wait(spin: &mut Spin, now_ns: &mut u64, wait_ns: u64) -> u64 {
        let (start, end) = (*now_ns, *now_ns + wait_ns);
        while *now_ns < end && spin.looks_on(|| *now_ns) {
            *now_ns += 1000;
        }
        let looked_ns = *now_ns - start;
        *now_ns = end.max(*now_ns);
        spin.found(1, || *now_ns);
        looked_ns
    }

    #[test]
    fn looks_on_when_that_would_have_spared_sleeps_and_stops_when_it_does_not() {
        let (mut spin, mut now_ns) = (Spin::new(), 5);
        for _ in 0..FEWEST_SHORT {
            assert_eq!(wait(&mut spin, &mut now_ns, 40_000), 0);
        }
        for _ in 0..1000 {
            assert_eq!(wait(&mut spin, &mut now_ns, 40_000), 40_000);
        }
        assert_eq!(wait(&mut spin, &mut now_ns, 1_000_000_000), LONGEST_NS);
        assert_eq!(wait(&mut spin, &mut now_ns, 40_000), 0);
    }

    #[test]
    fn what_comes_rarely_is_never_looked_out_for() {
        let (mut spin, mut now_ns) = (Spin::new(), 0);
        for _ in 0..1000 {
            assert_eq!(wait(&mut spin, &mut now_ns, 1_000_000), 0);
        }
    }

    #[test]
    fn vain_looks_become_rare() {
        let (mut spin, mut now_ns) = (Spin::new(), 0);
        // Sleeping, it is called soon; looking on, it finds the processor taken.
        let mut in_vain = 0;
        for _ in 0..100_000 {
            if spin.looks_on(|| now_ns) {
                in_vain += 1;
                now_ns += 3_000_000;
            } else {
                now_ns += 30_000;
            }
            spin.found(1, || now_ns);
        }
        assert!(in_vain < 30, "{in_vain}");
    }

    #[test]
    fn a_crowd_is_slept_for() {
        let (mut spin, mut now_ns) = (Spin::new(), 0);
        for _ in 0..1000 {
            assert!(!spin.looks_on(|| now_ns));
            now_ns += 10_000;
            spin.found(3, || now_ns);
        }
    }
}
