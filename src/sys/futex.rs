//! Futexes on words that two processes share. Waits are always bounded by what the caller gives
//! and may end early: the caller looks at its word again, whatever the outcome.

use std::ffi::c_void;
use std::io;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex::{self, ClockId, Flags, Wait, WaitFlags, WaitPtr, WaitvFlags};
use rustix::time::{Timespec, clock_gettime};

/// Most words one [`wait_any`] takes (the kernel's `FUTEX_WAITV_MAX`).
pub const MAX_WAIT_ANY: usize = 128;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Somebody called [`wake`] (or, rarely, the kernel woke for no reason).
    Woken,
    /// A word no longer had the expected value, so there was no sleep.
    ValueChanged,
    /// The time was up.
    TimedOut,
    /// A signal came.
    Interrupted,
}

/// Sleeps until `word` is woken, unless it differs from `expected` already.
///
/// The mapping the word lies in may be read-only and the waker another process: the futex is a
/// shared one. `None` waits without limit; a peer that can die calls for a limit.
///
/// # Errors
/// None that a caller can cause: the word is a valid reference.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> io::Result<Wake> {
    let timeout = timeout.map(timespec);
    match futex::wait(word, Flags::empty(), expected, timeout.as_ref()) {
        Ok(()) => Ok(Wake::Woken),
        Err(error) => outcome(error),
    }
}

/// Wakes at most `n` waiters of `word`, in whatever process and through whatever mapping they
/// wait; returns how many there were.
///
/// # Errors
/// None that a caller can cause: the word is a valid reference.
pub fn wake(word: &AtomicU32, n: u32) -> io::Result<usize> {
    // The kernel's count is signed.
    let n = n.min(i32::MAX as u32);
    Ok(futex::wake(word, Flags::empty(), n)?)
}

/// Sleeps until any of the words is woken, unless one differs from its expected value already.
///
/// # Errors
/// `Unsupported` where the kernel is older than 5.16 or a sandbox hides the call; `InvalidInput`
/// for no words or more than [`MAX_WAIT_ANY`].
pub fn wait_any(words: &[(&AtomicU32, u32)], timeout: Option<Duration>) -> io::Result<Wake> {
    if words.is_empty() || words.len() > MAX_WAIT_ANY {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} futex words to wait for, of 1 to {MAX_WAIT_ANY}",
                words.len()
            ),
        ));
    }
    let mut waiters = [Wait::new(); MAX_WAIT_ANY];
    for (waiter, (word, expected)) in waiters.iter_mut().zip(words) {
        waiter.val = u64::from(*expected);
        waiter.uaddr = WaitPtr::new(word.as_ptr().cast::<c_void>());
        waiter.flags = WaitFlags::SIZE_U32;
    }
    // Unlike the plain wait, this call takes a point in time.
    let deadline = timeout.map(|timeout| {
        let now = clock_gettime(rustix::time::ClockId::Monotonic);
        now.checked_add(timespec(timeout)).unwrap_or(Timespec {
            tv_sec: i64::MAX,
            tv_nsec: 0,
        })
    });
    let waiters = &waiters[..words.len()];
    match futex::waitv(
        waiters,
        WaitvFlags::empty(),
        deadline.as_ref(),
        ClockId::Monotonic,
    ) {
        Ok(_) => Ok(Wake::Woken),
        Err(Errno::NOSYS) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "futex_waitv is missing: it needs Linux 5.16 or later and a sandbox that allows it",
        )),
        Err(error) => outcome(error),
    }
}

/// Whether [`wait_any`] works here. Some sandboxes hide the call behind another error than that of
/// a kernel too old for it.
pub fn has_wait_any() -> bool {
    let word = AtomicU32::new(0);
    matches!(wait_any(&[(&word, 1)], None), Ok(Wake::ValueChanged))
}

/// A duration as the kernel takes it, cut at the largest it knows (292 billion years).
pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

fn outcome(error: Errno) -> io::Result<Wake> {
    match error {
        Errno::AGAIN => Ok(Wake::ValueChanged),
        Errno::TIMEDOUT => Ok(Wake::TimedOut),
        Errno::INTR => Ok(Wake::Interrupted),
        error => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    use super::super::memory::{ReadOnlyMapping, SharedMemory, WritableMapping};
    use super::*;

    const HANG_GUARD: Duration = Duration::from_secs(30);

    /// The two ends of one memory: the creator's, and a peer's read-only one at another address.
    fn two_mappings() -> (WritableMapping, ReadOnlyMapping) {
        let (memory, writable) = SharedMemory::create_written_here("futex-test", 4096).unwrap();
        let copy = memory.try_clone_fd().unwrap();
        let read_only = SharedMemory::accept_read_only(copy, 4096).unwrap();
        // Pages of the heap, which stand in under ThreadSanitizer, have but one address.
        let is_same = writable.as_ptr() == read_only.as_ptr();
        assert_eq!(is_same, cfg!(slotway_heap));
        (writable, read_only)
    }

    fn writer_word(mapping: &WritableMapping, index: usize) -> &AtomicU32 {
        // SAFETY: the page is mapped for as long as the borrow, `index` words lie inside it, it is
        // aligned, and the word is only ever touched atomically.
        unsafe { AtomicU32::from_ptr(mapping.as_mut_ptr().cast::<u32>().add(index)) }
    }

    fn reader_word(mapping: &ReadOnlyMapping, index: usize) -> &AtomicU32 {
        // SAFETY: as above; this side only ever loads.
        unsafe { AtomicU32::from_ptr(mapping.as_ptr().cast::<u32>().add(index).cast_mut()) }
    }

    /// Wakes until a waiter was there to be woken, so that the test depends on no timing.
    fn wake_one_waiter(word: &AtomicU32) {
        let start = Instant::now();
        while wake(word, 1).unwrap() == 0 {
            assert!(start.elapsed() < HANG_GUARD, "no waiter came");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_waiter_on_a_read_only_mapping_is_woken_through_the_writable_one() {
        let (writable, read_only) = two_mappings();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| wait(reader_word(&read_only, 3), 0, Some(HANG_GUARD)));
            wake_one_waiter(writer_word(&writable, 3));
            assert_eq!(waiter.join().unwrap().unwrap(), Wake::Woken);
        });
    }

    #[test]
    fn wait_any_on_a_read_only_mapping_is_woken_by_either_word() {
        for woken in 0..2 {
            let (writable, read_only) = two_mappings();
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    let words = [
                        (reader_word(&read_only, 0), 0),
                        (reader_word(&read_only, 1), 0),
                    ];
                    wait_any(&words, Some(HANG_GUARD))
                });
                wake_one_waiter(writer_word(&writable, woken));
                assert_eq!(waiter.join().unwrap().unwrap(), Wake::Woken);
            });
        }
    }

    #[test]
    fn a_value_written_through_one_mapping_is_a_change_seen_through_the_other() {
        let (writable, read_only) = two_mappings();
        writer_word(&writable, 0).store(7, Ordering::Release);
        let word = reader_word(&read_only, 0);
        assert_eq!(wait(word, 6, None).unwrap(), Wake::ValueChanged);
        let words = [(reader_word(&read_only, 1), 0), (word, 6)];
        assert_eq!(wait_any(&words, None).unwrap(), Wake::ValueChanged);
    }

    #[test]
    fn waits_end_when_their_time_is_up() {
        let word = AtomicU32::new(0);
        let short = Some(Duration::from_millis(1));
        assert_eq!(wait(&word, 0, short).unwrap(), Wake::TimedOut);
        assert_eq!(
            wait(&word, 0, Some(Duration::ZERO)).unwrap(),
            Wake::TimedOut
        );
        assert_eq!(wait_any(&[(&word, 0)], short).unwrap(), Wake::TimedOut);
        assert_eq!(
            wait_any(&[(&word, 0)], Some(Duration::ZERO)).unwrap(),
            Wake::TimedOut
        );
    }

    #[test]
    fn the_longest_duration_is_not_an_error() {
        let word = AtomicU32::new(1);
        let forever = Some(Duration::MAX);
        assert_eq!(wait(&word, 0, forever).unwrap(), Wake::ValueChanged);
        assert_eq!(
            wait_any(&[(&word, 0)], forever).unwrap(),
            Wake::ValueChanged
        );
    }

    #[test]
    fn waking_nobody_wakes_nobody() {
        let word = AtomicU32::new(0);
        assert_eq!(wake(&word, u32::MAX).unwrap(), 0);
    }

    #[test]
    fn a_signal_ends_a_wait_and_unknown_errors_stay_errors() {
        assert_eq!(outcome(Errno::INTR).unwrap(), Wake::Interrupted);
        let error = outcome(Errno::FAULT).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::FAULT.raw_os_error()));
    }

    #[test]
    fn wait_any_says_how_many_words_it_takes() {
        let word = AtomicU32::new(0);
        let too_many = vec![(&word, 0); MAX_WAIT_ANY + 1];
        for words in [&[][..], &too_many] {
            let error = wait_any(words, None).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
        let most = vec![(&word, 0); MAX_WAIT_ANY];
        let timeout = Some(Duration::from_millis(1));
        assert_eq!(wait_any(&most, timeout).unwrap(), Wake::TimedOut);
    }
}
