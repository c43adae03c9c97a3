//! What processes take: descriptors, memory, threads, processor time, out of `/proc`; and what is left
//! in shared memory. Reads only.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::support::process::Process;

/// What one process has at a moment. Memory in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub fds: u64,
    pub rss: u64,
    /// Of `rss`, what belongs to no file and no shared memory: where a leak would show.
    pub anonymous: u64,
    pub threads: u64,
    pub mappings: u64,
}

impl Reading {
    /// Of a process that lives.
    pub fn of(process: &Process) -> Reading {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid()));
        let threads = std::fs::read_dir(format!("/proc/{}/task", process.pid()));
        Reading {
            fds: process.descriptors() as u64,
            rss: process.memory_kib("VmRSS"),
            anonymous: process.memory_kib("RssAnon"),
            threads: threads.expect("the process lives").count() as u64,
            mappings: maps.expect("the process lives").lines().count() as u64,
        }
    }
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "fds {} rss {} KiB (anonymous {}) threads {} mappings {}",
            self.fds, self.rss, self.anonymous, self.threads, self.mappings
        )
    }
}

/// Files in `/dev/shm`.
pub fn shared_memory_files() -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").expect("/dev/shm can be read");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("the entry can be read").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The share of one processor that a changing set of processes takes.
#[derive(Debug)]
pub struct Load {
    last: HashMap<u32, u64>,
    at: Instant,
}

impl Load {
    pub fn new() -> Load {
        Load {
            last: HashMap::new(),
            at: Instant::now(),
        }
    }

    /// Percent of one processor since the last call, these processes together.
    pub fn percent(&mut self, pids: impl Iterator<Item = u32>) -> f64 {
        let now: HashMap<u32, u64> = pids.filter_map(|pid| Some((pid, ticks(pid)?))).collect();
        let used: u64 = now
            .iter()
            .map(|(pid, ticks)| ticks - self.last.get(pid).copied().unwrap_or(0).min(*ticks))
            .sum();
        let elapsed = self.at.elapsed().max(Duration::from_millis(1));
        self.last = now;
        self.at = Instant::now();
        // Linux counts a hundred ticks a second for everybody who reads /proc.
        used as f64 / elapsed.as_secs_f64()
    }
}

/// Time in user and kernel mode.
fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let behind_name = stat.rsplit_once(") ")?.1;
    let mut fields = behind_name.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The value in the middle.
pub fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}
