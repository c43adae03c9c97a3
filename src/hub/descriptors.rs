//! How many connections the limit on open files leaves room for. Counts what is open and what is still
//! to be opened; opens nothing.

use crate::hub::StartError;
use crate::limits::{
    MAX_SPARE_DESCRIPTORS, MIN_SPARE_DESCRIPTORS, REFUSALS_AT_ONCE, SPARE_DESCRIPTORS_PART,
};
use crate::sys::process::{nofile_limit, open_descriptors};

/// What each shard opens: its ring, its two timers twice each, its mailbox's bell, the spare one, and the
/// connections it refuses; and each of its listeners once more.
const OF_A_SHARD: u64 = 7 + REFUSALS_AT_ONCE as u64;
/// What the streams thread, the supervisor and the signals open.
const OF_THE_HUB: u64 = 13;

/// Most connections there may be: as many as were asked for, or as the limit leaves beside a reserve.
/// To be called when the hub's listeners and mailboxes are open, and its threads are not started.
///
/// # Errors
/// There is no room for as many as were asked for, or for a single one.
pub fn most_connections(
    shards: usize,
    listeners_each: usize,
    asked: Option<usize>,
) -> Result<usize, StartError> {
    let limit = nofile_limit().soft;
    let spare =
        (limit / SPARE_DESCRIPTORS_PART).clamp(MIN_SPARE_DESCRIPTORS, MAX_SPARE_DESCRIPTORS);
    let others = open_descriptors()
        + OF_THE_HUB
        + shards as u64 * (OF_A_SHARD + listeners_each as u64)
        + spare;
    let possible = limit.saturating_sub(others);
    let asked = asked.map(|asked| asked as u64);
    if asked.unwrap_or(1).max(1) > possible {
        return Err(StartError::Descriptors {
            limit,
            others,
            // More room for connections is of no use where there is none at all.
            asked: asked.filter(|_| possible > 0),
        });
    }
    // Descriptors are numbered with 31 bits.
    Ok(asked.unwrap_or(possible.min(i32::MAX as u64)) as usize)
}
