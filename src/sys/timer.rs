//! A timerfd on the monotonic clock. Says that time has passed, never what time it is.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::counter;

/// A close-on-exec timer that becomes readable when it expires. It is disarmed until it is set.
#[derive(Debug)]
pub struct TimerFd {
    fd: OwnedFd,
}

impl TimerFd {
    /// A disarmed timer. The descriptor is a blocking one, so that an io_uring read waits for the
    /// next expiry; [`TimerFd::drain`] does not block all the same.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` when no descriptor is free.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            fd: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?,
        })
    }

    /// Expires after `period` and again after each further `period`, in place of what was set.
    ///
    /// # Errors
    /// `InvalidInput` for a period of zero, which the kernel would take as "never".
    pub fn set_interval(&self, period: Duration) -> io::Result<()> {
        let period = positive(period)?;
        self.set(period, period)
    }

    /// Expires once, after `delay`, in place of what was set. A delay of zero expires at once.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn set_once(&self, delay: Duration) -> io::Result<()> {
        // The kernel reads a zero delay as "disarm", so the shortest delay stands for it.
        let delay = positive(delay.max(Duration::from_nanos(1)))?;
        self.set(Timespec::default(), delay)
    }

    /// Stops the timer. What has expired and was not drained is forgotten.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn disarm(&self) -> io::Result<()> {
        self.set(Timespec::default(), Timespec::default())
    }

    /// The number of expiries since the last call; 0 when there was none. Never blocks.
    ///
    /// # Errors
    /// None that a caller can cause.
    pub fn drain(&self) -> io::Result<u64> {
        Ok(counter::take(self.fd.as_fd())?.unwrap_or(0))
    }

    fn set(&self, interval: Timespec, first: Timespec) -> io::Result<()> {
        let setting = Itimerspec {
            it_interval: interval,
            it_value: first,
        };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &setting)?;
        Ok(())
    }
}

impl AsFd for TimerFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<TimerFd> for OwnedFd {
    fn from(timer: TimerFd) -> Self {
        timer.fd
    }
}

fn positive(duration: Duration) -> io::Result<Timespec> {
    if duration.is_zero() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a timer's period must be longer than zero; use disarm() to stop it",
        ));
    }
    Ok(super::futex::timespec(duration))
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    /// Waits for the next expiry, at most the 30 s of the hang guard.
    fn wait(timer: &TimerFd) -> u64 {
        let mut polled = [PollFd::new(timer, PollFlags::IN)];
        let guard = Timespec {
            tv_sec: 30,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut polled, Some(&guard)).unwrap(), 1, "never expired");
        timer.drain().unwrap()
    }

    #[test]
    fn a_disarmed_timer_has_not_expired() {
        let timer = TimerFd::new().unwrap();
        assert_eq!(timer.drain().unwrap(), 0);
    }

    #[test]
    fn an_interval_expires_again_and_again() {
        let timer = TimerFd::new().unwrap();
        timer.set_interval(Duration::from_millis(1)).unwrap();
        for _ in 0..3 {
            assert!(wait(&timer) >= 1);
        }
    }

    #[test]
    fn a_single_shot_expires_once() {
        let timer = TimerFd::new().unwrap();
        for delay in [Duration::ZERO, Duration::from_micros(50)] {
            timer.set_once(delay).unwrap();
            assert_eq!(wait(&timer), 1);
            assert_eq!(timer.drain().unwrap(), 0);
        }
    }

    #[test]
    fn disarming_forgets_an_expiry() {
        let timer = TimerFd::new().unwrap();
        timer.set_once(Duration::ZERO).unwrap();
        let mut polled = [PollFd::new(&timer, PollFlags::IN)];
        assert_eq!(poll(&mut polled, None).unwrap(), 1);
        timer.disarm().unwrap();
        assert_eq!(timer.drain().unwrap(), 0);
    }

    #[test]
    fn a_period_of_zero_is_refused_and_a_huge_one_taken() {
        let timer = TimerFd::new().unwrap();
        let error = timer.set_interval(Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        timer.set_interval(Duration::MAX).unwrap();
        assert_eq!(timer.drain().unwrap(), 0);
    }
}
