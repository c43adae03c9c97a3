//! What the supervisor's thread sleeps on. Says who is ready, and nothing of what that means.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The descriptors beside those of the workers; `None` for one that is not listened to now.
pub struct Sources<'a> {
    /// Readable when the hub is to stop.
    pub stop: Option<BorrowedFd<'a>>,
    /// Readable when a shard or the streams thread has reported something.
    pub reports: BorrowedFd<'a>,
    /// Readable when there are registrations over HTTP.
    pub registrations: BorrowedFd<'a>,
    /// Readable when a worker wants to attach.
    pub listener: Option<BorrowedFd<'a>>,
}

/// Which of them are ready.
pub struct Ready {
    /// The hub is to stop.
    pub stop: bool,
    /// There are reports.
    pub reports: bool,
    /// There are registrations over HTTP.
    pub registrations: bool,
    /// A worker wants to attach.
    pub listener: bool,
    /// These workers have said something, or have ended.
    pub peers: Vec<u64>,
}

impl Sources<'_> {
    /// Waits until one of them is ready, or one of the `peers`, each with a socket and a pidfd; but
    /// not beyond `deadline_ms`. Both times are of the monotonic clock, which says `now_ms` now.
    ///
    /// # Errors
    /// The system's poll has failed.
    pub fn wait<'p>(
        &self,
        peers: impl Iterator<Item = (u64, [BorrowedFd<'p>; 2])>,
        now_ms: u64,
        deadline_ms: u64,
    ) -> io::Result<Ready> {
        let timeout = (deadline_ms != u64::MAX).then(|| {
            // One more millisecond, for the clock is coarse and must have passed the deadline.
            Duration::from_millis(deadline_ms.saturating_sub(now_ms) + 1)
        });
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs() as i64,
            tv_nsec: t.subsec_nanos() as i64,
        });
        let mut fds = vec![
            watch(self.stop.unwrap_or(self.reports), self.stop.is_some()),
            watch(self.reports, true),
            watch(self.registrations, true),
            watch(
                self.listener.unwrap_or(self.reports),
                self.listener.is_some(),
            ),
        ];
        let fixed = fds.len();
        let mut keys = Vec::new();
        for (key, both) in peers {
            keys.push(key);
            fds.extend(both.map(|fd| watch(fd, true)));
        }
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let up = |at: usize| !fds[at].revents().is_empty();
        let is_ready = |number: usize| up(fixed + 2 * number) || up(fixed + 2 * number + 1);
        let ready = keys
            .iter()
            .enumerate()
            .filter(|(number, _)| is_ready(*number));
        Ok(Ready {
            stop: self.stop.is_some() && up(0),
            reports: up(1),
            registrations: up(2),
            listener: self.listener.is_some() && up(3),
            peers: ready.map(|(_, key)| *key).collect(),
        })
    }
}

fn watch(fd: BorrowedFd<'_>, wanted: bool) -> PollFd<'_> {
    let flags = if wanted {
        PollFlags::IN
    } else {
        PollFlags::empty()
    };
    PollFd::from_borrowed_fd(fd, flags)
}
