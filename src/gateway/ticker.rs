//! The shard's slow pulse: deadlines are looked at every 50 ms while requests are in flight, every
//! second while there are only resting connections, and not at all while there is nothing.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::task::Waker;
use std::time::Duration;

use monoio::net::UnixStream;

use crate::limits::{TICK_MS, TICK_SLOW_MS, TICKS_TO_SLOW};
use crate::sys::timer::TimerFd;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Off,
    Slow,
    Fast,
}

/// What a shard has to look after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Nothing.
    None,
    /// Connections that rest.
    Connections,
    /// Requests in flight.
    Requests,
}

/// The pulse of one shard.
#[derive(Debug)]
pub struct Ticker {
    timer: TimerFd,
    pace: Cell<Pace>,
    calm_ticks: Cell<u32>,
    waiting: RefCell<Vec<Waker>>,
}

impl Ticker {
    /// A pulse that is off.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new() -> io::Result<Ticker> {
        Ok(Ticker {
            timer: TimerFd::new()?,
            pace: Cell::new(Pace::Off),
            calm_ticks: Cell::new(0),
            waiting: RefCell::new(Vec::new()),
        })
    }

    /// There are requests to look after. Costs a system call only when the pulse has slowed down.
    pub fn hasten(&self) {
        if self.pace.get() != Pace::Fast {
            self.set(Pace::Fast);
        }
    }

    /// There is a connection to look after.
    pub fn rouse(&self) {
        if self.pace.get() == Pace::Off {
            self.set(Pace::Slow);
        }
    }

    /// Calls `tick` at each pulse, and paces itself by the load it reports. Never ends but by error.
    ///
    /// # Errors
    /// The timer's descriptor cannot be used.
    pub async fn run(&self, mut tick: impl FnMut() -> Load) -> io::Result<()> {
        let timer = UnixStream::from_std(self.timer.as_fd().try_clone_to_owned()?.into())?;
        loop {
            timer.readable(true).await?;
            if self.timer.drain()? == 0 {
                continue;
            }
            let load = tick();
            self.calm_ticks.set(if load == Load::Requests {
                0
            } else {
                self.calm_ticks.get() + 1
            });
            let fast = self.pace.get() == Pace::Fast && self.calm_ticks.get() < TICKS_TO_SLOW;
            self.set(match load {
                Load::Requests => Pace::Fast,
                _ if fast => Pace::Fast,
                Load::Connections => Pace::Slow,
                Load::None => Pace::Off,
            });
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Has `waker` called at the next pulse.
    pub fn wake_at_next(&self, waker: &Waker) {
        self.waiting.borrow_mut().push(waker.clone());
        self.hasten();
    }

    fn set(&self, pace: Pace) {
        self.pace.set(pace);
        // Setting a timer that exists does not fail for any delay used here.
        let _ = match pace {
            Pace::Off => self.timer.disarm(),
            Pace::Slow => self.timer.set_once(Duration::from_millis(TICK_SLOW_MS)),
            Pace::Fast => self.timer.set_once(Duration::from_millis(TICK_MS)),
        };
    }
}
