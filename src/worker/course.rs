//! What becomes of a worker when the hub speaks or falls silent. Decisions only: no I/O, no clock.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Duration;

use crate::control::ToWorker;
use crate::worker::error::Error;

/// What the hub has said so far, and what the worker wants.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// The worker has asked to stop.
    pub(crate) stopping: bool,
    /// It has asked twice, or waited long enough: what is unfinished stays so.
    pub(crate) forced: bool,
    replaced: Option<String>,
    evicted: Option<String>,
}

impl Course {
    /// Takes note of a message.
    pub(crate) fn on_message(&mut self, message: ToWorker) {
        match message {
            ToWorker::Draining { reason } if self.stopping => {
                tracing::info!(reason, "draining");
            }
            ToWorker::Draining { reason } => {
                tracing::warn!(reason, "no further requests come: finishing what there is");
                self.replaced = Some(reason);
            }
            ToWorker::Evicted { reason } => {
                tracing::error!(reason, "the hub has thrown this worker out");
                self.evicted = Some(reason);
            }
            other => tracing::warn!(?other, "the hub said something out of turn"),
        }
    }

    /// The hub's end of the socket is closed. `None`: connect again.
    pub(crate) fn on_end(&mut self, reconnect: bool, socket: PathBuf) -> Option<Result<(), Error>> {
        if self.stopping {
            return Some(Ok(()));
        }
        if let Some(reason) = self.replaced.take() {
            return Some(Err(Error::Replaced { reason }));
        }
        let evicted = self.evicted.take();
        if reconnect {
            tracing::warn!("the hub is gone: connecting again");
            return None;
        }
        Some(Err(match evicted {
            Some(reason) => Error::Evicted { reason },
            None => Error::HubGone { socket },
        }))
    }
}

/// Waiting times between attempts to connect: the first is short, for a hub that is only restarting;
/// later ones double up to half a second, and each is cut by chance, so that many workers do not come all
/// at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    random: u64,
    warned: bool,
}

const FIRST_DELAY: Duration = Duration::from_millis(20);
/// Half of the second within which a worker is to be back after the hub's return: the other half is
/// for the handshake, on a machine that is busy.
const LONGEST_DELAY: Duration = Duration::from_millis(500);

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff {
            next: FIRST_DELAY,
            random: RandomState::new().hash_one(0),
            warned: false,
        }
    }

    /// Logs why an attempt has failed. A hub that is there and has no room is for somebody to see to,
    /// so the first time of that is a warning.
    pub(crate) fn log(&mut self, error: &Error) {
        match error {
            Error::Full(full) if !std::mem::replace(&mut self.warned, true) => {
                tracing::warn!(
                    "the hub does not take this worker now, which will ask again: {full}"
                );
            }
            error => tracing::debug!(%error, "trying again"),
        }
    }

    /// How long to wait before the next attempt.
    pub(crate) fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(LONGEST_DELAY);
        // xorshift64; zero would stay zero.
        let mut x = self.random | 1;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        delay / 2 + delay.mul_f64((x >> 11) as f64 / (1u64 << 53) as f64 / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_cap_and_differ() {
        let mut backoff = Backoff::new();
        let delays: Vec<_> = (0..50).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] <= FIRST_DELAY);
        assert!(
            delays
                .iter()
                .all(|d| *d <= LONGEST_DELAY && *d >= FIRST_DELAY / 2)
        );
        assert!(delays[10..].iter().all(|d| *d >= LONGEST_DELAY / 2));
        assert!(delays[10..].windows(2).any(|w| w[0] != w[1]));
    }

    #[test]
    fn an_end_means_what_was_said_before_it() {
        let socket = PathBuf::from("/s");
        let draining = || ToWorker::Draining {
            reason: "name taken".into(),
        };
        let mut course = Course::default();
        assert!(course.on_end(true, socket.clone()).is_none());
        assert!(matches!(
            course.on_end(false, socket.clone()),
            Some(Err(Error::HubGone { .. }))
        ));
        course.on_message(draining());
        assert!(matches!(
            course.on_end(true, socket.clone()),
            Some(Err(Error::Replaced { .. }))
        ));
        course.on_message(ToWorker::Evicted {
            reason: "lied".into(),
        });
        assert!(matches!(
            course.on_end(false, socket.clone()),
            Some(Err(Error::Evicted { .. }))
        ));
        course.stopping = true;
        course.on_message(draining());
        assert!(matches!(course.on_end(true, socket), Some(Ok(()))));
    }
}
