//! Keeps a line of the log that strangers can cause from filling it. Counts only; the time comes in.

use crate::limits::REFUSALS_LOG_MS;

/// One kind of line.
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
}
