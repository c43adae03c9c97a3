//! The shard's clocks: a coarse monotonic one for deadlines, and the date as responses carry it,
//! formatted once a second.

use std::cell::Cell;

use crate::http::imf_fixdate;
use crate::sys::clock::{monotonic_ms, unix_seconds};

/// The clocks of one shard.
#[derive(Debug)]
pub struct Clock {
    date: Cell<(u64, [u8; 29])>,
}

impl Clock {
    /// A clock that shows the time.
    pub fn new() -> Clock {
        let now = unix_seconds();
        Clock {
            date: Cell::new((now, imf_fixdate(now))),
        }
    }

    /// Milliseconds since some fixed point in the past, a few milliseconds coarse.
    pub fn now_ms(&self) -> u64 {
        monotonic_ms()
    }

    /// The date and time now, as in a `Date` field (RFC 9110, section 5.6.7).
    pub fn date(&self) -> [u8; 29] {
        let now = unix_seconds();
        let (second, date) = self.date.get();
        if second == now {
            return date;
        }
        let date = imf_fixdate(now);
        self.date.set((now, date));
        date
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
