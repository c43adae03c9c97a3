//! What becomes of events that were sent with a receipt. The hub says it when it gives their slots
//! back; who wants to know before that waits.

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::worker::poll_guard;
use crate::worker::session::{Session, lock};

/// What has become of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Clients for which the event was queued.
    pub reached: u32,
    /// Clients that were too slow for it: for them it was dropped, or their connection was closed.
    pub dropped: u32,
    /// No client of the worker is connected there, and the event was not remembered for anybody
    /// either. Clients of other workers are not told apart from those that do not exist.
    pub no_connection: bool,
    /// The connection it was meant for is about to close.
    pub closing: bool,
    /// The hub found that the event breaks a rule of Server-Sent Events, and dropped it.
    pub refused: bool,
}

/// The place where an outcome arrives.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `None` inside: it will never be known.
    known: Option<Option<Delivery>>,
    waiting: Vec<Waker>,
}

impl Outcome {
    /// Notes what has become of the event; `None` where that will never be known.
    pub(crate) fn settle(&self, delivery: Option<Delivery>) {
        let mut state = lock(&self.state);
        state.known.get_or_insert(delivery);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn known(&self) -> Option<Option<Delivery>> {
        lock(&self.state).known
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Option<Delivery>> {
        let mut state = lock(&self.state);
        if let Some(known) = state.known {
            return Poll::Ready(known);
        }
        if !state.waiting.iter().any(|w| w.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Tells what has become of an event, once the hub has said it.
///
/// The hub says it when it has given the event to the queues of its subscribers. Dropping the receipt
/// changes nothing for the event.
pub struct Receipt {
    session: Arc<Session>,
    outcome: Arc<Outcome>,
}

impl Receipt {
    pub(crate) fn new(session: Arc<Session>, outcome: Arc<Outcome>) -> Receipt {
        Receipt { session, outcome }
    }

    /// Waits for the outcome, but no longer than this. `None` where the time was too short, or where
    /// the hub was lost before it said anything, which [`Receipt::is_lost`] tells apart.
    ///
    /// In an async handler it does not wait; use [`Receipt::outcome`] there.
    pub fn wait(&self, patience: Duration) -> Option<Delivery> {
        if let Some(known) = self.outcome.known() {
            return known;
        }
        if poll_guard::is_polling() {
            return None;
        }
        let deadline = Instant::now().checked_add(patience);
        let _watching = self.session.lane(0).watch_outcomes();
        let waited = self
            .session
            .block_on_until(deadline, |cx| self.poll_outcome(cx));
        waited.flatten()
    }

    /// Waits for the outcome; for async code. `None` where the hub was lost before it said anything.
    pub async fn outcome(&self) -> Option<Delivery> {
        if let Some(known) = self.outcome.known() {
            return known;
        }
        let _watching = self.session.lane(0).watch_outcomes();
        poll_fn(|cx| self.poll_outcome(cx)).await
    }

    /// Whether the hub was lost before it said what has become of the event.
    pub fn is_lost(&self) -> bool {
        match self.outcome.known() {
            Some(known) => known.is_none(),
            None => self.session.is_closed(),
        }
    }

    fn poll_outcome(&self, cx: &Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            let polled = self.outcome.poll(cx);
            if polled.is_ready() {
                return polled;
            }
            // Looked at after the waker was left there, or the call of a close could be missed.
            if self.session.is_closed() {
                return Poll::Ready(self.outcome.known().flatten());
            }
            if !self.session.pump() {
                return Poll::Pending;
            }
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receipt")
            .field(&self.outcome.known())
            .finish()
    }
}
