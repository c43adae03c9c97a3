//! Waiting for any of several descriptors. Level-triggered; it reads nothing.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::futex::timespec;

/// Waits until one of the descriptors can be read, has failed or has ended. Returns which; none
/// where the time was up or a signal came.
///
/// # Errors
/// `EINVAL` for more descriptors than the process may open; `ENOMEM`.
pub fn readable(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    let timeout = timeout.map(timespec);
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => Ok(polled.iter().map(|p| !p.revents().is_empty()).collect()),
        Err(Errno::INTR) => Ok(vec![false; fds.len()]),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::eventfd::EventFd;

    #[test]
    fn says_which_descriptor_is_readable() {
        let events = [EventFd::new(true).unwrap(), EventFd::new(true).unwrap()];
        let fds = [events[0].as_fd(), events[1].as_fd()];
        assert_eq!(
            readable(&fds, Some(Duration::ZERO)).unwrap(),
            [false, false]
        );
        events[1].ring().unwrap();
        assert_eq!(readable(&fds, None).unwrap(), [false, true]);
    }
}
