//! How one thread of a worker sleeps until another thread of the same worker wakes it. The word is
//! private to the process; the hub never sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Wake;

use crate::sys::eventfd::EventFd;
use crate::sys::futex;

const QUIET: u32 = 0;
const NOTIFIED: u32 = 1;

/// A thread's place to sleep at. Its [`Waker`](std::task::Waker) may be called from any thread.
#[derive(Debug)]
pub(crate) struct Parker {
    word: AtomicU32,
    /// Present where the thread sleeps in `poll` instead of on the word.
    bell: Option<EventFd>,
}

impl Parker {
    /// A parker for a thread that sleeps on futex words.
    pub(crate) fn on_futex() -> Arc<Parker> {
        Arc::new(Parker {
            word: AtomicU32::new(QUIET),
            bell: None,
        })
    }

    /// A parker for a thread that sleeps in `poll`. Where no eventfd can be had it has no bell, and
    /// its thread must look at its word from time to time.
    pub(crate) fn on_eventfd() -> Arc<Parker> {
        Arc::new(Parker {
            word: AtomicU32::new(QUIET),
            bell: EventFd::new(true).ok(),
        })
    }

    /// Forgets earlier calls. Whatever the thread waits for must be looked at after this.
    pub(crate) fn reset(&self) {
        if self.word.swap(QUIET, Ordering::AcqRel) == NOTIFIED
            && let Some(bell) = &self.bell
        {
            // It is an eventfd, and so can be drained.
            let _ = bell.drain();
        }
    }

    /// Whether the waker was called since the last [`Parker::reset`].
    pub(crate) fn is_notified(&self) -> bool {
        self.word.load(Ordering::Acquire) == NOTIFIED
    }

    /// The word to wait on, and the value it has while nobody has called.
    pub(crate) fn word(&self) -> (&AtomicU32, u32) {
        (&self.word, QUIET)
    }

    /// The descriptor to poll.
    pub(crate) fn bell(&self) -> Option<&EventFd> {
        self.bell.as_ref()
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.word.swap(NOTIFIED, Ordering::AcqRel) == NOTIFIED {
            return;
        }
        // Neither call can fail in a way that the sleeper could be told of.
        match &self.bell {
            None => drop(futex::wake(&self.word, 1)),
            Some(bell) => drop(bell.ring()),
        }
    }
}
