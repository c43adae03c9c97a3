//! An eventfd as a doorbell: rung by one side, heard by another. Carries no data, only the
//! fact that there is something to look at.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, write};

use super::counter;

/// A close-on-exec eventfd.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// A new doorbell, not rung.
    ///
    /// A doorbell that this process rings and a peer drains must be `nonblocking`, so that
    /// [`EventFd::ring`] returns when the peer has saturated the counter. One that an io_uring read
    /// waits on must not be: not every kernel waits then (6.18 does), some complete the read with
    /// `EAGAIN` at once.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` when no descriptor is free.
    pub fn new(nonblocking: bool) -> io::Result<Self> {
        let mut flags = EventfdFlags::CLOEXEC;
        if nonblocking {
            flags |= EventfdFlags::NONBLOCK;
        }
        Ok(Self {
            fd: eventfd(0, flags)?,
        })
    }

    /// Adds one to the counter, which wakes whoever waits on it.
    ///
    /// A saturated counter counts as success: the peer is signalled already.
    ///
    /// `O_NONBLOCK` belongs to the open file, which every process that holds a copy shares. A
    /// hostile peer could clear it and saturate the counter to make this call wait; a thread that
    /// does not trust its peer keeps the eventfd and hands out a [`WakeFd`](super::wake_fd::WakeFd).
    ///
    /// # Errors
    /// Only for a descriptor that is not an eventfd (one built with `From<OwnedFd>`).
    pub fn ring(&self) -> io::Result<()> {
        loop {
            match write(&self.fd, &1u64.to_ne_bytes()) {
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Resets the counter and says whether it had been rung. Never blocks, whether or not the
    /// eventfd is non-blocking.
    ///
    /// # Errors
    /// Only for a descriptor that is not an eventfd (one built with `From<OwnedFd>`).
    pub fn drain(&self) -> io::Result<bool> {
        Ok(counter::take(self.fd.as_fd())?.is_some())
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for EventFd {
    /// Wraps a received descriptor as it is; its kind and its flags are not checked.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<EventFd> for OwnedFd {
    fn from(event: EventFd) -> Self {
        event.fd
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use rustix::io::{FdFlags, fcntl_getfd};

    use super::*;

    #[test]
    fn rings_are_seen_once_in_either_mode() {
        for nonblocking in [true, false] {
            let event = EventFd::new(nonblocking).unwrap();
            assert!(!event.drain().unwrap());
            event.ring().unwrap();
            event.ring().unwrap();
            assert!(event.drain().unwrap());
            assert!(!event.drain().unwrap());
            assert!(fcntl_getfd(&event).unwrap().contains(FdFlags::CLOEXEC));
        }
    }

    #[test]
    fn a_saturated_counter_is_a_ring_delivered() {
        let event = EventFd::new(true).unwrap();
        write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        event.ring().unwrap();
        assert!(event.drain().unwrap());
        assert!(!event.drain().unwrap());
    }

    #[test]
    fn drain_does_not_block_after_a_peer_cleared_the_flag() {
        let event = EventFd::new(true).unwrap();
        let peer = event.as_fd().try_clone_to_owned().unwrap();
        let flags = fcntl_getfl(&peer).unwrap();
        fcntl_setfl(&peer, flags - OFlags::NONBLOCK).unwrap();
        assert!(!event.drain().unwrap());
    }

    #[test]
    fn a_waiter_is_woken_by_another_thread() {
        let event = EventFd::new(true).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| event.ring().unwrap());
            let mut polled = [PollFd::new(&event, PollFlags::IN)];
            let guard = rustix::event::Timespec {
                tv_sec: 30,
                tv_nsec: 0,
            };
            assert_eq!(poll(&mut polled, Some(&guard)).unwrap(), 1);
        });
        assert!(event.drain().unwrap());
    }

    #[test]
    fn conversions_keep_the_descriptor() {
        let event = EventFd::new(true).unwrap();
        event.ring().unwrap();
        let event = EventFd::from(OwnedFd::from(event));
        assert!(event.drain().unwrap());
    }

    #[test]
    fn a_wrong_kind_of_descriptor_is_an_error_not_a_panic() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let event = EventFd::from(reader);
        assert!(event.ring().is_err());
    }
}
