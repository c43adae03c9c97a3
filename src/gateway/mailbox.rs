//! Messages between threads that sleep on file descriptors: a queue, and an eventfd that is written
//! when it is no longer empty. Not for the request path.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::PoisonError;
#[cfg(not(slotway_loom))]
use std::sync::{Arc, Mutex};

// `tests/loom_mailbox.rs` compiles this file.
#[cfg(slotway_loom)]
use loom::sync::{Arc, Mutex};

use crate::sys::eventfd::EventFd;

/// The sending end; clones share it.
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving end.
pub struct Mailbox<T>(Arc<Shared<T>>);

struct Shared<T> {
    queue: Mutex<Vec<T>>,
    bell: EventFd,
}

/// A mailbox and the way to send to it.
///
/// # Errors
/// No file descriptor is left.
pub fn mailbox<T>() -> io::Result<(Sender<T>, Mailbox<T>)> {
    let bell = EventFd::new(true)?;
    let shared = Arc::new(Shared {
        queue: Mutex::new(Vec::new()),
        bell,
    });
    Ok((Sender(shared.clone()), Mailbox(shared)))
}

impl<T> Sender<T> {
    /// Puts a message into the mailbox.
    pub fn send(&self, message: T) {
        let is_first = {
            let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.push(message);
            queue.len() == 1
        };
        // Behind the lock: on a processor that both share, the receiver runs as soon as the bell rings,
        // and would go to sleep again over a lock that is held. Whoever comes in between leaves the
        // ringing to who was first, and a ring for what has been taken already wakes in vain.
        if is_first {
            // A bell that cannot be rung has been rung often enough.
            let _ = self.0.bell.ring();
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mailbox")
    }
}

impl<T> Mailbox<T> {
    /// Takes everything that has arrived, and silences the bell.
    pub fn take(&self) -> Vec<T> {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.0.bell.drain();
        std::mem::take(&mut *queue)
    }

    /// A descriptor of its own that is readable while something is in the mailbox.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn bell(&self) -> io::Result<OwnedFd> {
        self.0.bell.as_fd().try_clone_to_owned()
    }
}

impl<T> AsFd for Mailbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}
