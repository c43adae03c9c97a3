//! The clocks. None costs a system call; but for the one that tells nanoseconds they are coarse, a few
//! milliseconds.

use rustix::time::{ClockId, clock_getres, clock_gettime};

/// Milliseconds since some fixed point in the past; never goes back.
pub fn monotonic_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// What [`monotonic_ms`] may be behind: the latest that it is. Counted from here, a span of time is never
/// shorter than it was said to be.
pub fn latest_monotonic_ms() -> u64 {
    let step = clock_getres(ClockId::MonotonicCoarse);
    monotonic_ms() + 1 + (step.tv_nsec as u64).div_ceil(1_000_000)
}

/// Nanoseconds since some fixed point in the past; never goes back.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Seconds since 1970-01-01 00:00:00 UTC.
pub fn unix_seconds() -> u64 {
    clock_gettime(ClockId::RealtimeCoarse).tv_sec.max(0) as u64
}
