//! Deadlines of connections, kept coarsely: a connection notes when it is overdue, and a tick of the
//! shard shuts down the sockets of those that are. An operation in the kernel then ends by itself,
//! so none has to be cancelled.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::rc::Rc;

use slab::Slab;

use crate::limits::PRESSED_TIMEOUT_MS;
use crate::sys::listen::{reset_on_close, shutdown_both, shutdown_read, with_socket};

/// The deadlines of one connection, in milliseconds of the shard's clock.
#[derive(Debug)]
pub struct Watch {
    socket: RawFd,
    read_ms: Cell<u64>,
    write_ms: Cell<u64>,
    /// The same while others wait for what the connection holds of the lane at this address. It serves
    /// one request at a time, so there is but one lane.
    pressed_read_ms: Cell<u64>,
    pressed_write_ms: Cell<u64>,
    lane: Cell<usize>,
    /// The address of the lane whose memory the connection keeps, 0 for none: that of its request, until
    /// the last word about it is said.
    keeps: Cell<usize>,
    fired: Cell<bool>,
    resting: Cell<bool>,
}

impl Watch {
    /// The client must have sent something by this time; else reading is shut down, and the client
    /// can still be told.
    pub fn expect_read(&self, deadline_ms: u64) {
        self.read_ms.set(deadline_ms);
    }

    /// As [`Watch::expect_read`], of a request that holds something of the lane with this address since
    /// `now_ms`; 0 for none. While others wait for that, the client has less time.
    pub fn expect_body(&self, deadline_ms: u64, lane: usize, now_ms: u64) {
        self.read_ms.set(deadline_ms);
        self.pressed_read_ms.set(pressed_ms(lane, now_ms));
        self.lane.set(lane);
    }

    /// The client must have taken something by this time; else the socket is shut down. `lane` and
    /// `now_ms` are as for [`Watch::expect_body`].
    pub fn expect_write(&self, deadline_ms: u64, lane: usize, now_ms: u64) {
        self.write_ms.set(deadline_ms);
        self.pressed_write_ms.set(pressed_ms(lane, now_ms));
        if lane != 0 {
            self.lane.set(lane);
        }
    }

    /// Nothing is owed by the sending client.
    pub fn clear_read(&self) {
        self.read_ms.set(u64::MAX);
        self.pressed_read_ms.set(u64::MAX);
    }

    /// Nothing is owed by the receiving client.
    pub fn clear_write(&self) {
        self.write_ms.set(u64::MAX);
        self.pressed_write_ms.set(u64::MAX);
    }

    /// Notes the lane whose memory the connection keeps, by its address; 0 for none.
    pub fn keep_lane(&self, address: usize) {
        self.keeps.set(address);
    }

    /// The connection's socket under a descriptor of its own.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        with_socket(self.socket, |socket| socket.try_clone_to_owned())
    }

    /// Has the client see a reset when the connection is dropped, and not an end.
    pub fn reset_on_close(&self) {
        // A socket that is gone already ends in no way at all.
        let _ = with_socket(self.socket, |socket| reset_on_close(socket));
    }

    /// Whether the connection was overdue, or was stopped.
    pub fn fired(&self) -> bool {
        self.fired.get()
    }

    /// Notes whether the connection rests between requests.
    pub fn set_resting(&self, resting: bool) {
        self.resting.set(resting);
    }

    fn check(&self, now_ms: u64, pressed: &[Pressure]) {
        let on_it = |on: fn(&Pressure) -> bool| {
            pressed
                .iter()
                .any(|pressure| pressure.lane == self.lane.get() && on(pressure))
        };
        let must_write = self.pressed_write_ms.get() <= now_ms && on_it(|p| p.on_readers);
        let must_read = self.pressed_read_ms.get() <= now_ms && on_it(|p| p.on_senders);
        if self.write_ms.get() <= now_ms || must_write {
            self.stop();
        } else if self.read_ms.get() <= now_ms || must_read {
            self.stop_reading();
        }
    }

    /// Ends whatever the connection waits for its client to do. Where that is nothing, nobody keeps
    /// anything because of the client.
    fn cut_off(&self) {
        if self.write_ms.get() != u64::MAX {
            self.stop();
        } else if self.read_ms.get() != u64::MAX {
            self.stop_reading();
        }
    }

    fn stop(&self) {
        self.fired.set(true);
        self.clear_write();
        // A socket that is gone already has nothing left to shut down.
        let _ = with_socket(self.socket, |socket| shutdown_both(socket));
    }

    fn stop_reading(&self) {
        self.fired.set(true);
        self.clear_read();
        let _ = with_socket(self.socket, |socket| shutdown_read(socket));
    }
}

fn pressed_ms(lane: usize, now_ms: u64) -> u64 {
    match lane {
        0 => u64::MAX,
        _ => now_ms + PRESSED_TIMEOUT_MS,
    }
}

/// Of a lane: whether others wait for what clients hold of it that send, or read, slowly.
#[derive(Clone, Copy, Debug)]
pub struct Pressure {
    /// Its address.
    pub lane: usize,
    /// Slots of requests, or exchanges.
    pub on_senders: bool,
    /// Slots of answers, or exchanges.
    pub on_readers: bool,
}

/// The connections of a shard.
#[derive(Debug, Default)]
pub struct Watches(RefCell<Slab<Rc<Watch>>>);

impl Watches {
    /// Adds a connection. It must leave before its socket is closed.
    pub fn enter(self: &Rc<Self>, socket: RawFd) -> Entered {
        let watch = Rc::new(Watch {
            socket,
            read_ms: Cell::new(u64::MAX),
            write_ms: Cell::new(u64::MAX),
            pressed_read_ms: Cell::new(u64::MAX),
            pressed_write_ms: Cell::new(u64::MAX),
            lane: Cell::new(0),
            keeps: Cell::new(0),
            fired: Cell::new(false),
            resting: Cell::new(false),
        });
        let key = self.0.borrow_mut().insert(watch.clone());
        Entered {
            watches: self.clone(),
            key,
            watch,
        }
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Shuts down what is overdue at `now_ms`. `pressed` are the lanes of which slow clients hold what
    /// others wait for.
    pub fn tick(&self, now_ms: u64, pressed: &[Pressure]) {
        for (_, watch) in self.0.borrow().iter() {
            watch.check(now_ms, pressed);
        }
    }

    /// Cuts off the clients for whom the memory of these lanes is kept, that do not send or read what is
    /// waited for.
    pub fn cut_off(&self, lanes: &[usize]) {
        if lanes.is_empty() {
            return;
        }
        for (_, watch) in self.0.borrow().iter() {
            if lanes.contains(&watch.keeps.get()) {
                watch.cut_off();
            }
        }
    }

    /// Ends every connection that rests between requests.
    pub fn stop_resting(&self) {
        for (_, watch) in self.0.borrow().iter().filter(|(_, w)| w.resting.get()) {
            watch.stop_reading();
        }
    }
}

/// A connection's place among the [`Watches`], left when dropped.
#[derive(Debug)]
pub struct Entered {
    watches: Rc<Watches>,
    key: usize,
    /// Its deadlines.
    pub watch: Rc<Watch>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.watches.0.borrow_mut().remove(self.key);
    }
}
