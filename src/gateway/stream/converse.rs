//! One thing said to a worker about a connection, and its answer: an ordinary exchange, for which the
//! lane has a window. It is heard to its end even where nobody waits for it any more; but nothing ever
//! depends on a worker that does not answer.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use crate::gateway::lane::{Exchange, Failure, Frame, Permit, RequestFrame};
use crate::gateway::shard::Shard;
use crate::gateway::stream::connect::Shown;
use crate::limits::{CONNECT_TIMEOUT_MS, MAX_REFUSAL};
use crate::shm::codec::{MAX_ENCODED_RESPONSE, decode_response};
use crate::shm::descriptor::END;
use crate::shm::layout::body_offset;

/// A worker's answer.
#[derive(Debug)]
pub enum Said {
    /// This status, these fields, this body.
    Answer {
        /// Status code, as the worker gave it.
        status: u16,
        /// Its field section.
        fields: Vec<u8>,
        /// Its body.
        body: Vec<u8>,
    },
    /// Nothing: it is gone.
    Gone,
    /// Something that is no answer.
    Nonsense,
}

/// How long something depends on an answer.
pub enum Patience<'a> {
    /// As long as somebody wants it. It is not asked for any more where that ends before there is a slot;
    /// else it is heard however late.
    UntilUnwanted(&'a Cell<bool>),
    /// As long as a client would wait. It is heard however late.
    Connect,
    /// As long as for a request. It is not heard later.
    Request,
}

impl Patience<'_> {
    /// Whether nobody wants the answer any more.
    fn has_ended(&self) -> bool {
        matches!(self, Patience::UntilUnwanted(unwanted) if unwanted.get())
    }
}

impl Shard {
    /// Says it, and hears the whole answer.
    pub(super) async fn converse(
        &self,
        shown: &Shown,
        permit: Permit,
        patience: Patience<'_>,
    ) -> Said {
        let lane = &shown.lane;
        let geometry = lane.geometry();
        let body_at = body_offset(shown.head.len());
        let len = body_at + shown.body.len();
        let count = geometry.slots_for(len);
        if !lane.may_ever_begin(count) {
            // Whoever waits in front of the line for what never comes holds up everybody.
            return Said::Nonsense;
        }
        let begun = lane.begin(count, false, || patience.has_ended()).await;
        let Ok((exchange, mut slots)) = begun else {
            return Said::Gone;
        };
        let room = lane.memory().bytes_mut(&mut slots);
        if room.len() < len {
            lane.release(slots);
            return Said::Nonsense;
        }
        room[..shown.head.len()].copy_from_slice(&shown.head);
        room[body_at..len].copy_from_slice(&shown.body);
        let frame = RequestFrame {
            head_len: shown.head.len(),
            body_len: shown.body.len(),
            total: Some(shown.body.len() as u64),
            flags: END,
        };
        // Counted from here: a notice may have waited in the hub for long.
        let now_ms = self.clock.now_ms();
        exchange.submit(
            slots,
            frame,
            match patience {
                Patience::Request => now_ms + self.config.timeout_ms,
                Patience::UntilUnwanted(_) | Patience::Connect => u64::MAX,
            },
        );
        let due_ms = match patience {
            Patience::Connect => now_ms + CONNECT_TIMEOUT_MS,
            Patience::UntilUnwanted(_) | Patience::Request => u64::MAX,
        };
        let mut hearing = Hearing {
            shard: self,
            exchange: &exchange,
            permit,
            patience,
            due_ms,
            is_overdue: false,
        };
        let (mut head, mut body) = (Vec::new(), Vec::new());
        loop {
            let Ok(frame) = hearing.next_frame().await else {
                return Said::Gone;
            };
            let memory = lane.memory();
            let fits = frame.head_len <= MAX_ENCODED_RESPONSE
                && body.len() + frame.body_len <= MAX_REFUSAL;
            let copied = fits
                && memory.copy_response(frame.run, 0, frame.head_len, &mut head)
                && memory.copy_response(frame.run, frame.body_at, frame.body_len, &mut body);
            lane.return_frame(frame.run);
            if !copied || frame.abort {
                return Said::Nonsense;
            }
            if frame.end {
                break;
            }
        }
        match decode_response(&head) {
            Ok((status, fields)) => Said::Answer {
                status,
                fields: fields.to_vec(),
                body,
            },
            _ => Said::Nonsense,
        }
    }
}

/// An answer that is listened to. When it is overdue, nothing waits for it any more: neither a lane that
/// drains, nor who is to be told of something next.
struct Hearing<'a> {
    shard: &'a Shard,
    exchange: &'a Exchange<'a>,
    permit: Permit,
    patience: Patience<'a>,
    due_ms: u64,
    is_overdue: bool,
}

impl Hearing<'_> {
    async fn next_frame(&mut self) -> Result<Frame, Failure> {
        let mut frame = pin!(self.exchange.next_frame());
        poll_fn(|cx| {
            if let Poll::Ready(frame) = frame.as_mut().poll(cx) {
                return Poll::Ready(frame);
            }
            if self.is_overdue || matches!(self.patience, Patience::Request) {
                return Poll::Pending;
            }
            if self.patience.has_ended() || self.shard.clock.now_ms() >= self.due_ms {
                self.is_overdue = true;
                self.exchange.let_drain();
                self.permit.is_overdue();
            } else {
                self.shard.wake_at_next_tick(cx.waker());
            }
            Poll::Pending
        })
        .await
    }
}
