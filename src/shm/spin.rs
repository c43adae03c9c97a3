//! Whether a side that has nothing to do looks on for a moment before it sleeps. Waking a processor, or
//! another process on this one, takes as long as several requests; where the next thing mostly comes
//! sooner than that, looking on is quicker. Whoever looks gives up the processor each time, so others who
//! want it have it; but then this side may be late. Decisions only: the clock, the looks and the yields
//! are the caller's.

/// Longest time for which it pays to look on. Nanoseconds.
const LONGEST_NS: u64 = 200_000;
/// A sleep as short as this could have been spared. The wake itself is part of it. Nanoseconds.
const SHORT_SLEEP_NS: u64 = 250_000;
/// Short waits in a row after which to look on.
const FEWEST_SHORT: u32 = 8;
/// With more than this at a time, each wake is shared, and it is better to sleep and let them gather.
const FEW: usize = 2;

// What looking on has gained and lost is kept as a balance, in nanoseconds.

/// A sleep that was spared, with the wake that would have ended it.
const GAIN_NS: i64 = 5_000;
/// A sleep that could have been spared: a reason to try again some time.
const HOPE_NS: i64 = 2_000;
/// Something else took the processor, or this thread's other work did, and whoever waited for this side
/// waited for that, too: each nanosecond beyond what it would have looked on for counts for so many.
const HELD_UP: u64 = 8;
/// The balance stays within these: what was gained long ago is worth no more, and what was lost neither.
const MOST_NS: i64 = 20_000_000;
const LEAST_NS: i64 = -50_000_000;

/// What one side has learned of the waits between one thing and the next.
#[derive(Debug)]
pub struct Spin {
    /// Short waits in a row.
    short: u32,
    balance_ns: i64,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Busy,
    /// Looking on since then.
    Looking(u64),
    /// Asleep; what is waited for has not come since then.
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
            balance_ns: 0,
            state: State::Busy,
        }
    }

    /// There is nothing to do, but something is expected: whether to look once more instead of sleeping.
    /// `now_ns` is of any clock that does not go back.
    pub fn looks_on(&mut self, now_ns: impl FnOnce() -> u64) -> bool {
        match self.state {
            State::Busy => {
                let looks = self.short >= FEWEST_SHORT && self.balance_ns >= 0;
                let now_ns = now_ns();
                self.state = if looks {
                    State::Looking(now_ns)
                } else {
                    State::Asleep(now_ns)
                };
                looks
            }
            State::Looking(since) => {
                let waited_ns = now_ns().saturating_sub(since);
                let goes_on = waited_ns < LONGEST_NS;
                if !goes_on {
                    self.in_vain(waited_ns - LONGEST_NS);
                    self.state = State::Asleep(since);
                }
                goes_on
            }
            State::Asleep(_) => false,
        }
    }

    /// There is something to do: `count` at once.
    pub fn found(&mut self, count: usize, now_ns: impl FnOnce() -> u64) {
        let is_crowd = count > FEW;
        match std::mem::replace(&mut self.state, State::Busy) {
            State::Looking(since) => {
                let waited_ns = now_ns().saturating_sub(since);
                match waited_ns.checked_sub(LONGEST_NS) {
                    // The longer it was held up, the more has gathered.
                    Some(beyond_ns) => self.in_vain(beyond_ns),
                    None if is_crowd => self.short = 0,
                    None => self.not_in_vain(self.balance_ns + GAIN_NS),
                }
            }
            _ if is_crowd => self.short = 0,
            State::Busy => {}
            State::Asleep(since) if now_ns().saturating_sub(since) < SHORT_SLEEP_NS => {
                // Hope pays losses back, but earns nothing that could be lost.
                let with_hope = (self.balance_ns + HOPE_NS).min(0);
                self.not_in_vain(self.balance_ns.max(with_hope));
            }
            State::Asleep(_) => self.short = 0,
        }
    }

    /// There is something to do, but it is not what is waited for, and would have ended no sleep. Working
    /// it off is no hold-up, but while there is so much of it, what is waited for is not about to come.
    pub fn found_other(&mut self, now_ns: impl FnOnce() -> u64) {
        if let State::Looking(since) = self.state
            && now_ns().saturating_sub(since) >= LONGEST_NS
        {
            self.in_vain(0);
            self.state = State::Asleep(since);
        }
    }

    /// Nothing is expected any more. How long that lasts says nothing.
    pub fn rest(&mut self) {
        self.state = State::Busy;
    }

    fn not_in_vain(&mut self, balance_ns: i64) {
        self.short = self.short.saturating_add(1);
        self.balance_ns = balance_ns.min(MOST_NS);
    }

    /// It has looked on in vain, and for `beyond_ns` longer than it wanted to.
    fn in_vain(&mut self, beyond_ns: u64) {
        self.short = 0;
        let loss_ns = LONGEST_NS.saturating_add(beyond_ns.saturating_mul(HELD_UP));
        let loss_ns = i64::try_from(loss_ns).unwrap_or(i64::MAX);
        self.balance_ns = self.balance_ns.saturating_sub(loss_ns).max(LEAST_NS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets `wait_ns` pass until the next `count` things come, with a look every microsecond. Returns
    /// for how long it looked on.
    fn wait_for(count: usize, spin: &mut Spin, now_ns: &mut u64, wait_ns: u64) -> u64 {
        let (start, end) = (*now_ns, *now_ns + wait_ns);
        while *now_ns < end && spin.looks_on(|| *now_ns) {
            *now_ns += 1000;
        }
        let looked_ns = *now_ns - start;
        *now_ns = end.max(*now_ns);
        spin.found(count, || *now_ns);
        looked_ns
    }

    fn wait(spin: &mut Spin, now_ns: &mut u64, wait_ns: u64) -> u64 {
        wait_for(1, spin, now_ns, wait_ns)
    }

    /// One look, during which somebody else has the processor for `held_up_ns`, and `count` things come.
    fn be_held_up(count: usize, spin: &mut Spin, now_ns: &mut u64, held_up_ns: u64) {
        assert!(spin.looks_on(|| *now_ns));
        *now_ns += held_up_ns;
        spin.found(count, || *now_ns);
    }

    /// How many short waits it sleeps through before it looks on again.
    fn slept_through(spin: &mut Spin, now_ns: &mut u64) -> u32 {
        let sleeps = (0..1_000_000).take_while(|_| wait(spin, now_ns, 40_000) == 0);
        sleeps.count() as u32
    }

    #[test]
    fn looks_on_when_that_would_have_spared_sleeps_and_stops_when_it_does_not() {
        let (mut spin, mut now_ns) = (Spin::new(), 5);
        assert_eq!(slept_through(&mut spin, &mut now_ns), FEWEST_SHORT);
        for _ in 0..1000 {
            assert_eq!(wait(&mut spin, &mut now_ns, 40_000), 40_000);
        }
        assert_eq!(wait(&mut spin, &mut now_ns, 1_000_000_000), LONGEST_NS);
        assert_eq!(wait(&mut spin, &mut now_ns, 40_000), 0);
    }

    #[test]
    fn the_end_of_a_burst_is_paid_for_by_what_was_gained_in_it() {
        let (mut spin, mut now_ns) = (Spin::new(), 0);
        for _ in 0..100 {
            assert_eq!(slept_through(&mut spin, &mut now_ns), FEWEST_SHORT);
            for _ in 0..LONGEST_NS / GAIN_NS as u64 {
                assert_eq!(wait(&mut spin, &mut now_ns, 40_000), 40_000);
            }
            assert_eq!(wait(&mut spin, &mut now_ns, 1_000_000_000), LONGEST_NS);
        }
    }

    #[test]
    fn what_comes_rarely_is_never_looked_out_for() {
        let (mut spin, mut now_ns) = (Spin::new(), 0);
        for _ in 0..1000 {
            assert_eq!(wait(&mut spin, &mut now_ns, 1_000_000), 0);
        }
    }

    #[test]
    fn where_somebody_else_wants_the_processor_looks_become_rare() {
        let (mut spin, mut now_ns) = (Spin::new(), 0);
        // Sleeping, it is called soon; looking on, it finds the processor taken.
        let mut held_up = 0;
        for _ in 0..100_000 {
            if spin.looks_on(|| now_ns) {
                held_up += 1;
                now_ns += 3_000_000;
            } else {
                now_ns += 30_000;
            }
            spin.found(1, || now_ns);
        }
        assert!((1..30).contains(&held_up), "{held_up}");
    }

    #[test]
    fn being_held_up_once_ends_it_only_where_little_was_gained() {
        // What comes in crowds because it was held up is no less late.
        for count in [1, FEW + 1] {
            let (mut spin, mut now_ns) = (Spin::new(), 0);
            slept_through(&mut spin, &mut now_ns);
            be_held_up(count, &mut spin, &mut now_ns, 2_000_000);
            assert!(slept_through(&mut spin, &mut now_ns) > 1000);
            for _ in 0..10_000 {
                wait(&mut spin, &mut now_ns, 40_000);
            }
            be_held_up(count, &mut spin, &mut now_ns, 2_000_000);
            assert_eq!(slept_through(&mut spin, &mut now_ns), FEWEST_SHORT);
        }
    }

    #[test]
    fn however_much_was_lost_it_tries_again() {
        let (mut spin, mut now_ns) = (Spin::new(), 0);
        slept_through(&mut spin, &mut now_ns);
        be_held_up(1, &mut spin, &mut now_ns, u64::MAX / 2);
        let slept = slept_through(&mut spin, &mut now_ns);
        assert_eq!(i64::from(slept), -LEAST_NS / HOPE_NS);
    }

    #[test]
    fn short_sleeps_alone_earn_nothing_that_could_be_lost() {
        let (mut spin, mut now_ns) = (Spin::new(), 0);
        for _ in 0..10_000 {
            // Never enough of them in a row to look on.
            for _ in 1..FEWEST_SHORT {
                assert_eq!(wait(&mut spin, &mut now_ns, 40_000), 0);
            }
            assert_eq!(wait(&mut spin, &mut now_ns, 1_000_000), 0);
        }
        slept_through(&mut spin, &mut now_ns);
        be_held_up(1, &mut spin, &mut now_ns, 2_000_000);
        assert!(slept_through(&mut spin, &mut now_ns) > 1000);
    }

    #[test]
    fn what_is_not_waited_for_neither_earns_nor_is_charged_as_a_hold_up() {
        let (mut spin, mut now_ns) = (Spin::new(), 0);
        for _ in 0..10 * FEWEST_SHORT {
            assert!(!spin.looks_on(|| now_ns));
            spin.found_other(|| now_ns);
            now_ns += 1000;
        }
        spin.rest();
        assert_eq!(slept_through(&mut spin, &mut now_ns), FEWEST_SHORT);
        // A look begins, and for 5 ms there is other work without a pause.
        assert!(spin.looks_on(|| now_ns));
        for _ in 0..500 {
            now_ns += 10_000;
            spin.found_other(|| now_ns);
        }
        assert!(!spin.looks_on(|| now_ns));
        spin.found(1, || now_ns);
        let in_vain = LONGEST_NS as i64 - GAIN_NS;
        let slept = slept_through(&mut spin, &mut now_ns);
        assert_eq!(
            i64::from(slept),
            (in_vain as u64).div_ceil(HOPE_NS as u64) as i64
        );
    }

    #[test]
    fn a_crowd_is_slept_for() {
        let (mut spin, mut now_ns) = (Spin::new(), 0);
        for _ in 0..1000 {
            assert_eq!(wait_for(FEW + 1, &mut spin, &mut now_ns, 10_000), 0);
        }
        slept_through(&mut spin, &mut now_ns);
        assert_eq!(wait_for(FEW + 1, &mut spin, &mut now_ns, 10_000), 10_000);
        assert_eq!(wait_for(FEW + 1, &mut spin, &mut now_ns, 10_000), 0);
    }
}
