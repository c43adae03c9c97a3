//! The processes on the attach socket: who is there, who has yet to say what it wants, and how much of
//! the hub those may take. Never decides who attaches.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use crate::brake::Brake;
use crate::control::{FieldError, ToWorker};
use crate::hub::attach::Peer;
use crate::hub::refusal::Refusal;
use crate::limits::{ACCEPT_PAUSE_MS, GREETING_MS, MAX_GREETING_BYTES, MAX_GREETINGS};
use crate::sys::clock::monotonic_ms;
use crate::sys::listen::accept;

/// A connection on the attach socket.
#[derive(Debug)]
pub struct Connected {
    /// Who is there.
    pub peer: Peer,
    /// The worker's index once it has attached.
    pub worker: Option<usize>,
    /// Whether it has asked to drain.
    pub draining: bool,
    /// When it must have attached.
    greet_by_ms: u64,
}

/// Everybody on the attach socket, by a number of their own.
#[derive(Debug, Default)]
pub struct Peers {
    all: HashMap<u64, Connected>,
    next: u64,
    /// When connections are accepted again, after it could not be done.
    accept_again_ms: Option<u64>,
    not_accepted: Brake,
    turned_away: Brake,
}

impl Peers {
    /// Whether another may come: not while as many as may have yet to say what they want. Whoever
    /// comes then waits in the listener's queue.
    pub fn has_room(&self) -> bool {
        self.accept_again_ms.is_none() && self.greeting().count() < MAX_GREETINGS
    }

    /// When [`Peers::keep_time`] has something to do next.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let greetings = self.greeting().map(|(_, c)| c.greet_by_ms);
        greetings.chain(self.accept_again_ms).min()
    }

    /// Lets go of those that have not said what they want in time.
    pub fn keep_time(&mut self, now_ms: u64) {
        self.accept_again_ms.take_if(|at| *at <= now_ms);
        let late = self.greeting().filter(|(_, c)| c.greet_by_ms <= now_ms);
        for key in late.map(|(key, _)| key).collect::<Vec<_>>() {
            let detail =
                format!("no attach has come within {GREETING_MS} ms: send it first of all");
            // Not for good: on a busy machine a worker may come to nothing for so long.
            self.turn_away(key, Refusal::Full(not_understood(detail)));
        }
    }

    /// Accepts whoever waits and finds room.
    pub fn accept_all(&mut self, listener: BorrowedFd<'_>) {
        while self.has_room() {
            let error = match accept(listener) {
                Ok(Some((socket, _))) => match Peer::accept(socket) {
                    Ok(peer) => {
                        let connected = Connected {
                            peer,
                            worker: None,
                            draining: false,
                            greet_by_ms: monotonic_ms() + GREETING_MS,
                        };
                        self.all.insert(self.next, connected);
                        self.next += 1;
                        continue;
                    }
                    Err(error) => error,
                },
                Ok(None) => return,
                Err(error) => {
                    // Out of descriptors, most likely. The connection stays in the queue, so the
                    // listener stays readable: to look again at once would be to spin.
                    self.accept_again_ms = Some(monotonic_ms() + ACCEPT_PAUSE_MS);
                    error
                }
            };
            if let Some(left_out) = self.not_accepted.due(monotonic_ms()) {
                tracing::warn!(left_out, "cannot accept a worker: {error}");
            }
        }
    }

    /// One that has yet to attach is not understood, or finds no room: it is told, if it still listens,
    /// and is gone.
    pub fn turn_away(&mut self, key: u64, refusal: Refusal) {
        let Some(connected) = self.all.remove(&key) else {
            return;
        };
        let pid = connected.peer.pid;
        let (Refusal::Wrong(error) | Refusal::Full(error)) = &refusal;
        if let Some(left_out) = self.turned_away.due(monotonic_ms()) {
            tracing::warn!(
                pid,
                left_out,
                "refused a process on the attach socket: {error}"
            );
        }
        tell_refused(&connected.peer, refusal);
    }

    /// One that has yet to attach is refused, which was logged.
    pub fn refuse(&mut self, key: u64, refusal: Refusal) {
        if let Some(connected) = self.all.remove(&key) {
            tell_refused(&connected.peer, refusal);
        }
    }

    /// Turns those away that have sent most, until what has arrived of all attaches is no longer too
    /// much.
    pub fn keep_size(&mut self) {
        while self.greeting().map(|(_, c)| c.peer.held()).sum::<usize>() > MAX_GREETING_BYTES {
            let largest = self.greeting().max_by_key(|(_, c)| c.peer.held());
            let Some((key, _)) = largest else { return };
            let detail = "too many large registrations arrive at the same time: try again";
            self.turn_away(key, Refusal::Full(not_understood(detail.into())));
        }
    }

    /// The one with this number.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut Connected> {
        self.all.get_mut(&key)
    }

    /// Lets go of one.
    pub fn remove(&mut self, key: u64) -> Option<Connected> {
        self.all.remove(&key)
    }

    /// Lets go of a worker.
    pub fn remove_worker(&mut self, worker: usize) {
        self.all.retain(|_, c| c.worker != Some(worker));
    }

    /// The connection of a worker.
    pub fn of_worker(&self, worker: usize) -> Option<&Connected> {
        self.all.values().find(|c| c.worker == Some(worker))
    }

    /// Workers that are attached.
    pub fn workers(&self) -> impl Iterator<Item = usize> {
        self.all.values().filter_map(|c| c.worker)
    }

    /// Everybody, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Connected)> {
        self.all.iter().map(|(key, c)| (*key, c))
    }

    /// Those that have yet to say what they want.
    fn greeting(&self) -> impl Iterator<Item = (u64, &Connected)> {
        self.iter().filter(|(_, c)| c.worker.is_none())
    }
}

/// What a peer is told whose first message is none.
pub fn not_understood(detail: String) -> FieldError {
    FieldError {
        field: "message".into(),
        detail,
    }
}

fn tell_refused(peer: &Peer, refusal: Refusal) {
    let (error, temporary) = match refusal {
        Refusal::Wrong(error) => (error, false),
        Refusal::Full(error) => (error, true),
    };
    // It is told if it still listens; either way it is gone.
    let _ = peer.send(&ToWorker::Refused { error, temporary }, &[]);
}
