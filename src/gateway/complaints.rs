//! What the log says of workers whose answers are no good. A worker decides how many there are, and the
//! line is written by the thread that serves everybody, so there are few: the first of each lane, then
//! one in a while that counts those before it, and no flood of first ones from lane after lane.

use std::fmt::Display;

use crate::gateway::lane::Lane;
use crate::gateway::shard::Shard;

impl Shard {
    /// Logs what is wrong with an answer, unless enough was said.
    pub(super) fn complain(&self, lane: &Lane, what: &str, why: impl Display) {
        let now_ms = self.clock.now_ms();
        let Some(left_out) = lane.complaints().borrow_mut().due(now_ms) else {
            return;
        };
        let mut complaints = self.complaints.borrow_mut();
        if let Some(left_out) = complaints.left_out(now_ms) {
            tracing::warn!(left_out, "there were too many lines about bad answers");
        }
        if complaints.admits(now_ms) {
            tracing::warn!(worker = lane.name(), left_out, "{what}: {why}");
        }
    }
}
