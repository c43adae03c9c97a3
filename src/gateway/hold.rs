//! Clients that a hub which has just started lets wait. An `EventSource` takes an error for the end, and
//! for a moment after a restart every path of a worker would be one: whoever asks for events at a path
//! that nobody serves yet is held until somebody does, or the moment is over. Everybody else is answered
//! at once.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use slab::Slab;

use crate::gateway::shard::Shard;
use crate::limits::MAX_HELD;
use crate::message::{BodyLength, Method, RequestHead};

/// The clients that are held by one shard.
#[derive(Debug)]
pub struct Holds {
    until_ms: u64,
    waiting: RefCell<Slab<Waker>>,
}

/// Why a client is held no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// There are other routes now.
    Routes,
    /// It has waited long enough.
    Time,
    /// The hub stops.
    Stop,
}

impl Holds {
    /// Nobody, and nobody from this time on. Milliseconds of the shard's clock.
    pub fn until(until_ms: u64) -> Holds {
        Holds {
            until_ms,
            waiting: RefCell::default(),
        }
    }

    /// Whether nobody is held.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Has everybody look again.
    pub fn wake_all(&self) {
        for (_, waker) in self.waiting.borrow().iter() {
            waker.wake_by_ref();
        }
    }

    /// Has everybody look again if the time is over.
    pub fn tick(&self, now_ms: u64) {
        if now_ms >= self.until_ms {
            self.wake_all();
        }
    }
}

impl Shard {
    /// Whether a request that nobody can serve now is to be held, be it that a hub that stops lets go of it
    /// at once.
    pub(super) fn may_hold(&self, head: &RequestHead, raw: &[u8]) -> bool {
        self.clock.now_ms() < self.holds.until_ms
            && head.method == Method::Get
            && head.body == BodyLength::None
            && self.holds.waiting.borrow().len() < MAX_HELD
            && asks_for_events(head, raw)
    }

    /// Waits for other routes than those of now.
    pub(super) async fn hold(&self) -> Released {
        let seen = self.routes.borrow().clone();
        let mut place = None;
        poll_fn(|cx| {
            if !Arc::ptr_eq(&seen, &self.routes.borrow()) {
                return Poll::Ready(Released::Routes);
            }
            if self.is_stopping() {
                return Poll::Ready(Released::Stop);
            }
            if self.clock.now_ms() >= self.holds.until_ms {
                return Poll::Ready(Released::Time);
            }
            place.get_or_insert_with(|| Place::new(self, cx.waker()));
            Poll::Pending
        })
        .await
    }
}

/// A place among those who are held, left when dropped.
struct Place<'a> {
    holds: &'a Holds,
    key: usize,
}

impl<'a> Place<'a> {
    fn new(shard: &'a Shard, waker: &Waker) -> Place<'a> {
        let holds = &shard.holds;
        let key = holds.waiting.borrow_mut().insert(waker.clone());
        // For as long as somebody is held, so that the end is not noticed a second late.
        shard.hasten();
        Place { holds, key }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.holds.waiting.borrow_mut().remove(self.key);
    }
}

/// Whether the client says that it takes an event stream, as an `EventSource` does (RFC 9110, section
/// 12.5.1).
fn asks_for_events(head: &RequestHead, raw: &[u8]) -> bool {
    let of = |span: crate::message::Span| span.of(raw).unwrap_or_default();
    let accepts = head
        .fields()
        .iter()
        .filter(|field| of(field.name).eq_ignore_ascii_case(b"accept"));
    accepts
        .flat_map(|field| of(field.value).split(|byte| *byte == b','))
        .any(|range| {
            let media_type = range.split(|byte| *byte == b';').next();
            let media_type = media_type.unwrap_or_default().trim_ascii();
            media_type.eq_ignore_ascii_case(b"text/event-stream")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::parse_head;

    #[test]
    fn an_event_source_is_known_by_what_it_accepts() {
        for (fields, is_one) in [
            ("", false),
            ("Accept: text/event-stream\r\n", true),
            ("accept: text/html, Text/Event-Stream;q=0.9\r\n", true),
            ("Accept: text/html\r\nAccept: text/event-stream\r\n", true),
            ("Accept: */*\r\n", false),
            ("Accept: text/event-streams\r\n", false),
            ("X-Accept: text/event-stream\r\n", false),
        ] {
            let raw = format!("GET /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            let mut head = RequestHead::default();
            parse_head(raw.as_bytes(), &mut head).unwrap();
            assert_eq!(asks_for_events(&head, raw.as_bytes()), is_one, "{fields}");
        }
    }
}
