//! Keeps lines of the log that strangers can cause from filling it. Counts only; the time comes in.

use crate::limits::{LOG_BURST, REFUSALS_LOG_MS};

/// One kind of line, of which the first says it all.
#[derive(Debug, Default)]
pub struct Brake {
    logged_ms: Option<u64>,
    left_out: u64,
}

impl Brake {
    /// There is something to log. Returns whether it is to be, and then how many before it were not.
    pub fn due(&mut self, now_ms: u64) -> Option<u64> {
        if self
            .logged_ms
            .is_some_and(|logged| now_ms < logged + REFUSALS_LOG_MS)
        {
            self.left_out += 1;
            return None;
        }
        self.logged_ms = Some(now_ms);
        Some(std::mem::take(&mut self.left_out))
    }
}

/// One kind of line, of which each says something else, and many may rightly come at once.
#[derive(Debug, Default)]
pub struct Burst {
    /// When the lines that are counted began.
    began_ms: Option<u64>,
    logged: u32,
    left_out: u64,
}

impl Burst {
    /// There is something to log. Returns whether it is to be.
    pub fn admits(&mut self, now_ms: u64) -> bool {
        if self
            .began_ms
            .is_none_or(|began| now_ms >= began + REFUSALS_LOG_MS)
        {
            (self.began_ms, self.logged) = (Some(now_ms), 0);
        }
        if self.logged == LOG_BURST {
            self.left_out += 1;
            return false;
        }
        self.logged += 1;
        true
    }

    /// How many lines were left out, once the time in which there were too many is over.
    pub fn left_out(&mut self, now_ms: u64) -> Option<u64> {
        self.ends_ms().filter(|at| *at <= now_ms)?;
        Some(std::mem::take(&mut self.left_out))
    }

    /// When [`Burst::left_out`] has something to say.
    pub fn ends_ms(&self) -> Option<u64> {
        let began = self.began_ms.filter(|_| self.left_out > 0)?;
        Some(began + REFUSALS_LOG_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_at_most_so_often_and_counts_what_was_left_out() {
        let mut brake = Brake::default();
        assert_eq!(brake.due(0), Some(0));
        for now_ms in 1..=5 {
            assert_eq!(brake.due(now_ms), None);
        }
        assert_eq!(brake.due(REFUSALS_LOG_MS - 1), None);
        assert_eq!(brake.due(REFUSALS_LOG_MS), Some(6));
        assert_eq!(brake.due(2 * REFUSALS_LOG_MS), Some(0));
    }

    #[test]
    fn a_burst_is_logged_whole_and_what_is_beyond_it_is_counted() {
        let mut burst = Burst::default();
        let (begin, end) = (5, 5 + REFUSALS_LOG_MS);
        for _ in 0..LOG_BURST {
            assert!(burst.admits(begin));
        }
        assert_eq!((burst.ends_ms(), burst.left_out(end)), (None, None));
        assert!(!burst.admits(begin));
        assert!(!burst.admits(end - 1));
        assert_eq!(burst.ends_ms(), Some(end));
        assert_eq!(burst.left_out(end - 1), None);
        assert_eq!(burst.left_out(end), Some(2));
        assert_eq!(burst.left_out(end), None, "said once");
        assert!(burst.admits(end));
    }
}
