//! How fast a request body must come: an account of time that runs down while the client is waited for
//! and is filled up by what arrives. Reads no clock.

use crate::gateway::ClientLimits;

/// The account of one body.
///
/// It begins with the grace and never holds more, so that no client can pay in advance for a long
/// silence; each byte is worth the time it may take. Time in which the hub does not wait for the client,
/// because the worker is slower, costs nothing.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Bytes in a second. 0: any byte fills the account.
    rate: u64,
    /// The account, and what it holds at most: thousandths of a byte, or milliseconds where the rate
    /// is 0.
    credit: u64,
    most: u64,
    waiting_since_ms: u64,
}

impl Pace {
    /// A full account.
    pub fn new(limits: &ClientLimits) -> Pace {
        let most = limits.body_grace_ms * limits.body_rate.max(1);
        Pace {
            rate: limits.body_rate,
            credit: most,
            most,
            waiting_since_ms: 0,
        }
    }

    /// The client is waited for from now on. Returns when the account will be empty.
    pub fn wait(&mut self, now_ms: u64) -> u64 {
        self.waiting_since_ms = now_ms;
        now_ms + self.credit / self.rate.max(1)
    }

    /// So many bytes have come.
    pub fn receive(&mut self, bytes: usize, now_ms: u64) {
        let waited_ms = now_ms.saturating_sub(self.waiting_since_ms);
        let spent = waited_ms.saturating_mul(self.rate.max(1));
        let earned = match self.rate {
            0 => self.most,
            _ => (bytes as u64).saturating_mul(1000),
        };
        let credit = self.credit.saturating_sub(spent).saturating_add(earned);
        self.credit = credit.min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(grace_ms: u64, rate: u64) -> Pace {
        Pace::new(&ClientLimits {
            body_grace_ms: grace_ms,
            body_rate: rate,
            ..ClientLimits::default()
        })
    }

    /// How long a client that sends `bytes` every `every_ms` is borne with, up to an hour.
    fn borne(mut pace: Pace, bytes: usize, every_ms: u64) -> u64 {
        let mut now_ms = 5_000;
        let start = now_ms;
        while now_ms - start < 3_600_000 {
            let deadline_ms = pace.wait(now_ms);
            if now_ms + every_ms >= deadline_ms {
                return deadline_ms - start;
            }
            now_ms += every_ms;
            pace.receive(bytes, now_ms);
        }
        now_ms - start
    }

    #[test]
    fn who_keeps_the_rate_is_borne_with() {
        assert!(borne(pace(20_000, 500), 500, 1_000) >= 3_600_000);
        assert!(borne(pace(20_000, 500), 9_000, 15_000) >= 3_600_000);
        assert!(borne(pace(20_000, 500), 1, 1) >= 3_600_000);
    }

    #[test]
    fn who_does_not_has_the_grace() {
        assert_eq!(borne(pace(20_000, 500), 0, 30_000), 20_000);
        // One byte a second earns two milliseconds of each.
        let dripping = borne(pace(20_000, 500), 1, 1_000);
        assert!((20_000..20_100).contains(&dripping), "{dripping}");
        let half = borne(pace(20_000, 500), 250, 1_000);
        assert!((39_000..=41_000).contains(&half), "{half}");
    }

    #[test]
    fn nobody_pays_in_advance() {
        let mut pace = pace(20_000, 500);
        pace.wait(0);
        pace.receive(1 << 40, 1);
        assert_eq!(pace.wait(1), 20_001);
    }

    #[test]
    fn time_in_which_nobody_waits_costs_nothing() {
        let mut pace = pace(10_000, 100);
        assert_eq!(pace.wait(0), 10_000);
        pace.receive(1, 4_000);
        assert_eq!(pace.wait(900_000), 906_010);
    }

    #[test]
    fn without_a_rate_only_silence_counts() {
        let pace = pace(10_000, 0);
        assert!(borne(pace, 1, 9_000) >= 3_600_000);
        assert_eq!(borne(pace, 1, 10_001), 10_000);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut pace = pace(86_400_000, crate::limits::MAX_BODY_RATE);
        pace.wait(u64::MAX / 2);
        pace.receive(usize::MAX, u64::MAX);
        pace.wait(0);
        pace.receive(usize::MAX, u64::MAX);
    }
}
