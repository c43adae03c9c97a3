//! The shard's clocks: a coarse monotonic one for deadlines, and the date as responses carry it,
//! formatted once a second.

use std::cell::Cell;

use crate::http::imf_fixdate;
use crate::sys::clock::{monotonic_ms, unix_seconds};

/// The clocks of one shard.
#[derive(Debug)]
pub struct Clock {
    /// What was read last.
    recent_ms: Cell<u64>,
    date: Cell<Date>,
}

#[derive(Clone, Copy, Debug)]
struct Date {
    /// The monotonic time at which it was compared with the wall clock.
    checked_ms: u64,
    second: u64,
    text: [u8; 29],
}

impl Clock {
    /// A clock that shows the time.
    pub fn new() -> Clock {
        let (now_ms, second) = (monotonic_ms(), unix_seconds());
        Clock {
            recent_ms: Cell::new(now_ms),
            date: Cell::new(Date {
                checked_ms: now_ms,
                second,
                text: imf_fixdate(second),
            }),
        }
    }

    /// Milliseconds since some fixed point in the past, a few milliseconds coarse.
    pub fn now_ms(&self) -> u64 {
        let now_ms = monotonic_ms();
        self.recent_ms.set(now_ms);
        now_ms
    }

    /// What somebody was told last: as good as now right behind a request's head and behind an answer of a
    /// worker, where the connection and the lane's driver have asked. Anywhere else it may be as old as
    /// the last tick, a second.
    pub fn recent_ms(&self) -> u64 {
        self.recent_ms.get()
    }

    /// The date and time at [`recent_ms`](Clock::recent_ms), as in a `Date` field (RFC 9110, section
    /// 5.6.7).
    pub fn date(&self) -> [u8; 29] {
        let recent_ms = self.recent_ms();
        let mut date = self.date.get();
        if date.checked_ms != recent_ms {
            let second = unix_seconds();
            if date.second != second {
                date.second = second;
                date.text = imf_fixdate(second);
            }
            date.checked_ms = recent_ms;
            self.date.set(date);
        }
        date.text
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
