//! What the black-box tests share: real hubs and workers as child processes, and a client that sends
//! bytes as they are. Never reaches into the crate: only the binary and the documented surface.
// Each test file compiles this module for itself and uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod chromium;
pub mod client;
pub mod evil_worker;
pub mod hub;
pub mod lies;
pub mod pattern;
pub mod process;
pub mod proxy;
pub mod ptrace;
pub mod push_worker;
pub mod raw_worker;
pub mod scratch;
pub mod sse;
pub mod strace;
pub mod stream_jobs;
pub mod stream_worker;
pub mod test_worker;
pub mod tools;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use client::{Answer, Client};
pub use hub::{Hub, HubOptions, Worker};

/// A wait longer than this is a hang. Never a measure of speed.
pub const GUARD: Duration = Duration::from_secs(30);

/// Returns once `condition` holds.
///
/// # Panics
/// It does not within [`GUARD`].
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(GUARD, what, condition);
}

/// As [`wait_until`], with a guard of its own.
pub fn wait_within(guard: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < guard, "waited {guard:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// A seed that differs from run to run, printed so that a failure can be run again: set
/// `SLOTWAY_TEST_SEED`.
pub fn seed(test: &str) -> u64 {
    let seed = match std::env::var("SLOTWAY_TEST_SEED") {
        Ok(text) => text.parse().expect("SLOTWAY_TEST_SEED is a decimal number"),
        Err(_) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(1, |since| since.as_nanos() as u64)
        }
    };
    println!("{test}: SLOTWAY_TEST_SEED={seed}");
    seed
}

/// SplitMix64: numbers that look random and follow from the seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Parses a JSON document.
pub fn json(bytes: &[u8]) -> simd_json::OwnedValue {
    let mut copy = bytes.to_vec();
    simd_json::to_owned_value(&mut copy)
        .unwrap_or_else(|error| panic!("no JSON ({error}): {}", bytes.escape_ascii()))
}

/// Stops the load of a test even where the test fails, so that the scope ends.
#[derive(Debug)]
pub struct StopGuard<'a>(pub &'a AtomicBool);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
