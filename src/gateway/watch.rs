//! Deadlines of connections, kept coarsely: a connection notes when it is overdue, and a tick of the
//! shard sees to those that are. Who is owed nothing more has its socket shut down, and an operation in
//! the kernel then ends by itself. Who is to be told that it was too slow keeps it open: with its
//! receiving side shut, what it sends meanwhile would be answered with a reset (RFC 1122, section
//! 4.2.2.13), and the answer could be lost.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use monoio::io::{CancelHandle, Canceller};
use slab::Slab;

use crate::limits::{CROWDED_TIMEOUT_MS, FULL_TIMEOUT_MS, PRESSED_TIMEOUT_MS};
use crate::sys::listen::{reset_on_close, shutdown_both, shutdown_read, with_socket};

/// The deadlines of one connection, in milliseconds of the shard's clock.
pub struct Watch {
    socket: RawFd,
    read_ms: Cell<u64>,
    write_ms: Cell<u64>,
    /// The same while others wait for what the connection holds of the lane at this address. It serves
    /// one request at a time, so there is but one lane.
    pressed_read_ms: Cell<u64>,
    pressed_write_ms: Cell<u64>,
    lane: Cell<usize>,
    when_late: RefCell<WhenLate>,
    /// Cancels reads; kept, once there is one, for the next.
    canceller: RefCell<Option<Canceller>>,
    late: Cell<bool>,
    /// The address of the lane whose memory the connection keeps, 0 for none: that of its request, until
    /// the last word about it is said.
    keeps: Cell<usize>,
    fired: Cell<bool>,
    resting: Cell<bool>,
}

/// What is done where a client has not sent something in time.
#[derive(Default)]
enum WhenLate {
    /// Reading is shut down.
    #[default]
    Shut,
    /// The task is woken that waits for a read.
    Wake(Waker),
    /// The read is cancelled.
    Cancel,
}

impl Watch {
    /// The client must have sent something by this time; else reading is shut down, unless
    /// [`Watch::until_late`] or [`Watch::cancel_when_late`] is used.
    pub fn expect_read(&self, deadline_ms: u64) {
        self.read_ms.set(deadline_ms);
        self.pressed_read_ms.set(u64::MAX);
        self.late.set(false);
        self.when_late.take();
    }

    /// Waits for a read until the client is late, and for no longer: `None`, and the read goes on. Its
    /// socket is left as it is.
    pub async fn until_late<T>(&self, read: impl Future<Output = T>) -> Option<T> {
        let mut read = pin!(read);
        poll_fn(|cx| {
            if let Poll::Ready(done) = read.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if self.late.get() {
                return Poll::Ready(None);
            }
            match &mut *self.when_late.borrow_mut() {
                WhenLate::Wake(waker) => waker.clone_from(cx.waker()),
                other => *other = WhenLate::Wake(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }

    /// Cancels the read that is given this when the client is late, and leaves its socket as it is.
    pub fn cancel_when_late(&self) -> CancelHandle {
        self.when_late.replace(WhenLate::Cancel);
        let mut canceller = self.canceller.borrow_mut();
        canceller.get_or_insert_default().handle()
    }

    /// Gives up what is kept for the next request. No read may be under way that can be cancelled.
    pub fn shrink(&self) {
        self.canceller.take();
    }

    /// Whether the client was late for what was expected last.
    pub fn is_late(&self) -> bool {
        self.late.get()
    }

    /// As [`Watch::expect_read`], of a request that holds something of the lane with this address since
    /// `now_ms`; 0 for none. While others wait for that, the client has less time.
    pub fn expect_body(&self, deadline_ms: u64, lane: usize, now_ms: u64) {
        self.expect_read(deadline_ms);
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

    /// Whether something is being sent.
    pub fn awaits_reader(&self) -> bool {
        self.write_ms.get() != u64::MAX
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

    /// Whether the socket was shut down because the connection was overdue, or was stopped.
    pub fn fired(&self) -> bool {
        self.fired.get()
    }

    /// Notes whether the connection rests between requests.
    pub fn set_resting(&self, resting: bool) {
        self.resting.set(resting);
    }

    /// Ends what is overdue. Returns the lane that has something back because of that, where others
    /// wait for it.
    fn check(&self, now_ms: u64, pressed: &[Pressure]) -> Option<usize> {
        let pressure = pressed.iter().find(|p| p.lane == self.lane.get());
        let must_write =
            pressure.is_some_and(|p| p.on_readers && self.pressed_write_ms.get() <= now_ms);
        let must_read =
            pressure.is_some_and(|p| p.on_senders && self.pressed_read_ms.get() <= now_ms);
        let relieved = pressure.map(|p| p.lane);
        let relieved = relieved.filter(|lane| self.waits_since_ms(*lane).is_some());
        if self.write_ms.get() <= now_ms || must_write {
            self.stop();
        } else if self.read_ms.get() <= now_ms || must_read {
            self.give_reader_up();
        } else {
            return None;
        }
        relieved
    }

    /// When the client began to keep waiting what it has of this lane.
    fn waits_since_ms(&self, lane: usize) -> Option<u64> {
        let pressed_ms = self.pressed_write_ms.get().min(self.pressed_read_ms.get());
        let waits = pressed_ms != u64::MAX && self.lane.get() == lane;
        waits.then(|| pressed_ms - PRESSED_TIMEOUT_MS)
    }

    /// Ends what the client has kept waiting for longest.
    fn give_up(&self) {
        if self.pressed_write_ms.get() <= self.pressed_read_ms.get() {
            self.stop();
        } else {
            self.give_reader_up();
        }
    }

    fn give_reader_up(&self) {
        self.late.set(true);
        match self.when_late.take() {
            WhenLate::Shut => self.stop_reading(),
            WhenLate::Wake(waker) => {
                self.clear_read();
                waker.wake();
            }
            WhenLate::Cancel => {
                self.clear_read();
                // What was cancelled once cancels whatever it is given.
                let canceller = self.canceller.take();
                debug_assert!(canceller.is_some(), "the read can be cancelled");
                if let Some(canceller) = canceller {
                    canceller.cancel();
                }
            }
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
        self.clear_read();
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
    /// How many exchanges are to be had back at once, for next to none is left: from those clients that
    /// have kept theirs waiting for longest.
    pub wanted: usize,
    /// How many newcomers wait for one; for these sooner than for those who may come.
    pub in_line: usize,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("socket", &self.socket)
            .field("read_ms", &self.read_ms)
            .field("write_ms", &self.write_ms)
            .field("late", &self.late)
            .field("fired", &self.fired)
            .field("resting", &self.resting)
            .finish_non_exhaustive()
    }
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
            when_late: RefCell::default(),
            canceller: RefCell::default(),
            late: Cell::new(false),
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
        let watches = self.0.borrow();
        let mut relieved = Vec::new();
        for (_, watch) in watches.iter() {
            relieved.extend(watch.check(now_ms, pressed));
        }
        for pressure in pressed {
            let had_back = relieved.iter().filter(|l| **l == pressure.lane).count();
            let wanted = pressure.wanted.saturating_sub(had_back);
            if wanted > 0 {
                give_up_slowest(&watches, pressure, wanted, now_ms);
            }
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

/// Gives so many clients up of those that have kept something of this lane waiting for a while: those
/// that did so for longest.
fn give_up_slowest(watches: &Slab<Rc<Watch>>, pressure: &Pressure, wanted: usize, now_ms: u64) {
    let since = |(_, w): (usize, &Rc<Watch>)| Some((w.waits_since_ms(pressure.lane)?, w.clone()));
    let mut slow: Vec<_> = watches.iter().filter_map(since).collect();
    slow.sort_by_key(|(since_ms, _)| *since_ms);
    for (place, (since_ms, watch)) in slow.iter().take(wanted).enumerate() {
        let patience_ms = match place < pressure.in_line {
            true => FULL_TIMEOUT_MS,
            false => CROWDED_TIMEOUT_MS,
        };
        if since_ms + patience_ms <= now_ms {
            watch.give_up();
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    const LANE: usize = 0x1000;

    fn pressure(wanted: usize, in_line: usize) -> Pressure {
        Pressure {
            lane: LANE,
            on_senders: true,
            on_readers: true,
            wanted,
            in_line,
        }
    }

    /// A connection that has kept the lane's memory waiting since `now_ms`.
    fn reader(
        watches: &Rc<Watches>,
        lane: usize,
        now_ms: u64,
    ) -> (Entered, UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let entered = watches.enter(ours.as_raw_fd());
        entered.watch.expect_write(now_ms + 30_000, lane, now_ms);
        (entered, ours, theirs)
    }

    fn is_ended(theirs: &UnixStream) -> bool {
        (&mut &*theirs).read(&mut [0]).is_ok_and(|count| count == 0)
    }

    #[test]
    fn where_exchanges_are_wanted_the_slowest_give_theirs_back() {
        let watches = Rc::new(Watches::default());
        let start_ms = 10_000;
        // In another order than that of their times, and one of another lane.
        let since_ms = [40, 10, 30, 20, 450].map(|ms| start_ms + ms);
        let clients = since_ms.map(|ms| reader(&watches, LANE, ms));
        let other = reader(&watches, 2 * LANE, start_ms);
        let ended = || clients.each_ref().map(|(_, _, theirs)| is_ended(theirs));
        let early_ms = start_ms + FULL_TIMEOUT_MS;
        watches.tick(early_ms, &[pressure(5, 5)]);
        assert_eq!(ended(), [false; 5], "nobody was slow for long enough");
        watches.tick(early_ms + 100, &[pressure(0, 5)]);
        assert_eq!(ended(), [false; 5], "there is enough");
        watches.tick(early_ms + 100, &[pressure(5, 1)]);
        assert_eq!(ended(), [false, true, false, false, false], "one waits");
        watches.tick(start_ms + CROWDED_TIMEOUT_MS + 100, &[pressure(1, 0)]);
        assert_eq!(ended(), [false, true, false, true, false]);
        watches.tick(start_ms + CROWDED_TIMEOUT_MS + 100, &[pressure(9, 0)]);
        assert_eq!(ended(), [true, true, true, true, false], "one is not slow");
        assert!(!is_ended(&other.2));
    }

    #[test]
    fn what_comes_back_anyway_is_not_asked_of_others() {
        let watches = Rc::new(Watches::default());
        let start_ms = 10_000;
        let overdue = reader(&watches, LANE, start_ms);
        let slow = reader(&watches, LANE, start_ms + 1_000);
        let late_ms = start_ms + PRESSED_TIMEOUT_MS;
        watches.tick(late_ms, &[pressure(1, 1)]);
        assert!(is_ended(&overdue.2) && !is_ended(&slow.2));
        watches.tick(late_ms, &[pressure(1, 1)]);
        assert!(is_ended(&slow.2));
    }
}
