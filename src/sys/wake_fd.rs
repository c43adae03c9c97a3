//! What a process waits on that is woken by another, and cannot reach that other's end.
//!
//! `O_NONBLOCK` and the counter of an eventfd belong to the open file. Who shares it with the process
//! that rings can fill the counter and clear the flag just when the ring is under way; the ringing thread
//! then sleeps in the kernel, also where the write is an operation of its io_uring, which looks at the
//! flag before the eventfd does. So the eventfd stays with who rings it, and who waits gets an epoll
//! instance that watches it: nothing done to that reaches the eventfd.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::eventfd::EventFd;

/// A close-on-exec epoll instance that can be read when its eventfd has been rung.
#[derive(Debug)]
pub struct WakeFd {
    fd: OwnedFd,
}

impl WakeFd {
    /// What is woken by `bell`, which lives on its own.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` when no descriptor is free; `ENOMEM`; `ENOSPC` beyond the system's limit on
    /// watches (`fs.epoll.max_user_watches`).
    pub fn new(bell: &EventFd) -> io::Result<WakeFd> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Edge-triggered: each ring wakes, and nobody ever reads the counter.
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&fd, bell, epoll::EventData::new_u64(0), edge).map_err(|error| {
            if error != Errno::NOSPC {
                return io::Error::from(error);
            }
            let what =
                "this user watches as many files as fs.epoll.max_user_watches allows: raise it";
            io::Error::new(io::ErrorKind::QuotaExceeded, what)
        })?;
        Ok(WakeFd { fd })
    }

    /// Forgets the rings so far, and says whether there were any. Never blocks.
    ///
    /// A waiter that is told of changes only, as by an edge-triggered epoll instance of its own, need
    /// not do this: each ring is a change.
    ///
    /// # Errors
    /// Only for a descriptor that is no epoll instance (one built with `From<OwnedFd>`).
    pub fn drain(&self) -> io::Result<bool> {
        self.take(Some(&Timespec::default()))
    }

    /// Sleeps until there is a ring, and forgets it.
    ///
    /// # Errors
    /// As [`WakeFd::drain`].
    pub fn wait(&self) -> io::Result<()> {
        self.take(None).map(drop)
    }

    fn take(&self, timeout: Option<&Timespec>) -> io::Result<bool> {
        let mut events = [MaybeUninit::uninit()];
        loop {
            match epoll::wait(&self.fd, &mut events, timeout) {
                Ok((heard, _)) => return Ok(!heard.is_empty()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for WakeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for WakeFd {
    /// Wraps a received descriptor as it is; its kind is not checked.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<WakeFd> for OwnedFd {
    fn from(wake: WakeFd) -> Self {
        wake.fd
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    use super::*;
    use crate::sys::poll::readable;

    fn is_readable(wake: &WakeFd) -> bool {
        readable(&[wake.as_fd()], Some(Duration::ZERO)).unwrap()[0]
    }

    #[test]
    fn every_ring_is_seen_once() {
        let bell = EventFd::new(true).unwrap();
        let wake = WakeFd::new(&bell).unwrap();
        assert!(!is_readable(&wake) && !wake.drain().unwrap());
        for _ in 0..3 {
            bell.ring().unwrap();
            bell.ring().unwrap();
            assert!(is_readable(&wake) && wake.drain().unwrap());
            assert!(!is_readable(&wake) && !wake.drain().unwrap());
        }
    }

    #[test]
    fn who_watches_for_changes_need_not_drain() {
        let bell = EventFd::new(true).unwrap();
        let wake = WakeFd::new(&bell).unwrap();
        let watching = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&watching, &wake, epoll::EventData::new_u64(0), edge).unwrap();
        let watching = WakeFd::from(watching);
        assert!(!watching.drain().unwrap());
        for _ in 0..3 {
            bell.ring().unwrap();
            assert!(watching.drain().unwrap());
            assert!(!watching.drain().unwrap());
        }
    }

    #[test]
    fn nothing_done_to_it_reaches_the_bell() {
        let bell = EventFd::new(true).unwrap();
        let wake = WakeFd::new(&bell).unwrap();
        let flags = fcntl_getfl(&wake).unwrap();
        fcntl_setfl(&wake, flags - OFlags::NONBLOCK).unwrap();
        assert!(rustix::io::write(&wake, &u64::MAX.to_ne_bytes()).is_err());
        let mut count = [0; 8];
        assert!(rustix::io::read(&wake, &mut count).is_err());
        assert!(fcntl_getfl(&bell).unwrap().contains(OFlags::NONBLOCK));
        bell.ring().unwrap();
        drop(wake);
        bell.ring().unwrap();
    }
}
