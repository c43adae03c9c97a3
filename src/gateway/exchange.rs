//! One request and its response on a lane: the request body into slots, the response out of them.
//! A body that fits is received whole, by the kernel, into the slots behind its head; any other goes
//! frame by frame while the response may already be under way.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use crate::gateway::buffers::SlotBuffer;
use crate::gateway::connection::{BodyFault, Connection, Next};
use crate::gateway::input::{Departure, ReadDone};
use crate::gateway::lane::{Exchange, Failure, RequestFrame};
use crate::gateway::output::Manner;
use crate::gateway::plan::Dispatch;
use crate::gateway::problem::Problem;
use crate::gateway::receiver::Receiver;
use crate::gateway::relayed::Relayed;
use crate::gateway::shard::Timing;
use crate::gateway::upload::{Unfinished, Upload, UploadEnd};
use crate::http::{CONTINUE, HeadBounds};
use crate::message::{BodyLength, Method, Version};
use crate::shm::descriptor::END;
use crate::shm::layout::{Geometry, body_offset};
use crate::shm::region::Slots;

impl<F: Future<Output = ReadDone>> Connection<'_, F> {
    /// Hands a request to a worker and relays its answer. `None`, with the head still buffered, where
    /// the worker was lost while the request waited for a slot: another may have its route by now.
    pub(super) async fn dispatch(
        &mut self,
        dispatch: &Dispatch,
        mut manner: Manner,
        body: BodyLength,
        expects_continue: bool,
        bounds: HeadBounds,
    ) -> Option<Next> {
        let lane = &dispatch.lane;
        let mut timing = Timing::start(&self.shard.config);
        let geometry = lane.geometry();
        let body_at = body_offset(dispatch.head_len);
        let mut whole = match body {
            BodyLength::None => Some(0),
            BodyLength::Known(n) => contiguous(n, body_at, geometry),
            BodyLength::Chunked => None,
        };
        // What has not arrived may be long in coming, and slots are for those who are served.
        let mut share = None;
        if let Some(len) = whole
            && bounds.end + len > self.input.buffered().len()
        {
            share = lane.share_at_once(geometry.slots_for(body_at + len));
            whole = share.as_ref().map(|_| len);
        }
        let shard = self.shard;
        // From when it has to wait, which few have to.
        let deadline_ms = Cell::new(None);
        let expired = || {
            let now_ms = shard.clock.now_ms();
            let latest_ms = deadline_ms
                .get()
                .unwrap_or(now_ms + shard.config.timeout_ms);
            deadline_ms.set(Some(latest_ms));
            now_ms >= latest_ms
        };
        if whole.is_none() {
            let slots = geometry.slots_for(dispatch.head_len);
            match lane.wait_for_share(slots, expired).await {
                Ok(head_share) => share = Some(head_share),
                Err(Failure::WorkerGone) => return None,
                Err(Failure::Deadline) => {
                    self.input.consume(bounds.end);
                    let problem = Problem::busy(lane.name());
                    return Some(self.refuse_unread(problem, manner, body).await);
                }
            }
        }
        let first_len = match whole {
            Some(n @ 1..) => body_at + n,
            _ => dispatch.head_len,
        };
        let bodyless = manner.method == Method::Head;
        let begun = lane
            .begin(geometry.slots_for(first_len), bodyless, expired)
            .await;
        let (exchange, mut slots) = match begun {
            Ok(begun) => begun,
            Err(Failure::WorkerGone) => return None,
            Err(Failure::Deadline) => {
                self.input.consume(bounds.end);
                return Some(
                    self.refuse_unread(Problem::busy(lane.name()), manner, body)
                        .await,
                );
            }
        };
        let raw = &self.input.buffered()[bounds.start..bounds.end];
        let room = lane.memory().bytes_mut(&mut slots);
        let Some(head_len) = self.shard.encode_planned(dispatch, raw, self.peer, room) else {
            lane.release(slots);
            return None;
        };
        timing.describe(raw);
        self.input.consume(bounds.end);
        if expects_continue
            && self.input.buffered().is_empty()
            && body != BodyLength::None
            && self.output.send_raw(CONTINUE).await.is_err()
        {
            lane.release(slots);
            return Some(Next::Drop);
        }
        let began = Cell::new(None);
        let relayed = match whole {
            Some(body_len) => {
                if body_len > 0 {
                    slots = match self
                        .receive_whole(&exchange, slots, body_at, body_len)
                        .await
                    {
                        Ok(slots) => slots,
                        // The client may have been cut off because of that.
                        Err(_) if lane.is_dead() => {
                            manner.keep_alive = false;
                            let problem = Problem::failed(Failure::WorkerGone, lane.name());
                            return Some(self.refuse(problem, manner).await);
                        }
                        Err(fault) => return Some(self.refuse_body(fault, manner).await),
                    };
                }
                let total = Some(body_len as u64);
                let frame = RequestFrame {
                    head_len,
                    body_len,
                    total,
                    flags: END,
                };
                let now_ms = match body_len {
                    // Right behind the head.
                    0 => self.shard.clock.recent_ms(),
                    _ => self.shard.clock.now_ms(),
                };
                let due_ms = now_ms + self.shard.config.timeout_ms;
                exchange.submit(slots, frame, due_ms);
                drop(share);
                timing.submitted();
                self.relay_watching(&exchange, manner, &began, &mut timing)
                    .await
            }
            None => {
                let total = match body {
                    BodyLength::Known(n) => Some(n),
                    _ => None,
                };
                let frame = RequestFrame {
                    head_len,
                    body_len: 0,
                    total,
                    flags: 0,
                };
                exchange.submit(slots, frame, u64::MAX);
                timing.submitted();
                let unfinished = Unfinished {
                    length: body,
                    most: dispatch.max_body,
                    share,
                };
                match self
                    .relay_uploading(&exchange, manner, unfinished, &began, &mut timing)
                    .await
                {
                    Ok(relayed) => relayed,
                    Err(fault) => {
                        exchange.abort(u64::MAX);
                        if began.get().is_some() {
                            // Else an answer that ends with the connection would look whole.
                            if manner.version == Version::Http10 {
                                self.entered.watch.reset_on_close();
                            }
                            return Some(Next::Drop);
                        }
                        return Some(self.refuse_body(fault, manner).await);
                    }
                }
            }
        };
        timing.finish(began.get(), lane.name());
        Some(self.settle(&exchange, relayed, manner).await)
    }

    /// What follows from how the relay ended.
    async fn settle(
        &mut self,
        exchange: &Exchange<'_>,
        relayed: Relayed,
        mut manner: Manner,
    ) -> Next {
        let lane = exchange.lane();
        match relayed {
            Relayed::Whole { reusable: true } => Next::Stay,
            Relayed::Whole { reusable: false } => Next::Close,
            Relayed::ClientGone => Next::Drop,
            Relayed::Broken(why) => {
                self.shard.complain(lane, "response cut short", why);
                Next::Drop
            }
            Relayed::Failed(failure) => {
                manner.keep_alive &= !exchange.is_uploading();
                self.refuse(Problem::failed(failure, lane.name()), manner)
                    .await
            }
            Relayed::Refused(bad) => {
                lane.stats().count_violation();
                self.shard.complain(lane, "answer refused", bad);
                manner.keep_alive &= !exchange.is_uploading();
                self.refuse(Problem::bad_answer(lane.name()), manner).await
            }
        }
    }

    /// Receives behind its head, in the connection's buffer, a body that is small.
    pub(super) async fn receive_small(
        &mut self,
        bounds: HeadBounds,
        len: usize,
        expects_continue: bool,
    ) -> Result<(), BodyFault> {
        let end = bounds.end + len;
        if expects_continue
            && self.input.buffered().len() == bounds.end
            && self.output.send_raw(CONTINUE).await.is_err()
        {
            return Err(BodyFault::Gone);
        }
        let clients = &self.shard.config.clients;
        let mut receiver = Receiver::new(&self.entered.watch, &self.shard.clock, clients, 0);
        while self.input.buffered().len() < end {
            receiver.fill(&mut self.input).await?;
        }
        Ok(())
    }

    /// Receives a body of known length into the slots behind its head.
    async fn receive_whole(
        &mut self,
        exchange: &Exchange<'_>,
        mut slots: Slots,
        body_at: usize,
        body_len: usize,
    ) -> Result<Slots, BodyFault> {
        let lane = exchange.lane();
        let buffered = self.input.buffered();
        let have = buffered.len().min(body_len);
        lane.memory().bytes_mut(&mut slots)[body_at..][..have].copy_from_slice(&buffered[..have]);
        self.input.consume(have);
        if have == body_len {
            return Ok(slots);
        }
        let buffer = SlotBuffer::new(lane, slots, body_at + have, body_len - have);
        // The slots were taken for this body, so it fits.
        let mut buffer = buffer.ok_or(BodyFault::Gone)?;
        let clients = &self.shard.config.clients;
        let mut receiver = Receiver::new(
            &self.entered.watch,
            &self.shard.clock,
            clients,
            lane.address(),
        );
        while !buffer.is_full() {
            let (result, back) = receiver.fill_slots(&mut self.input, buffer).await;
            result?;
            buffer = back;
        }
        Ok(buffer.into_slots())
    }

    /// Relays the response while the read for the next request is under way, which shows at once
    /// when the client leaves.
    async fn relay_watching(
        &mut self,
        exchange: &Exchange<'_>,
        manner: Manner,
        began: &Cell<Option<u16>>,
        timing: &mut Timing,
    ) -> Relayed {
        let (watch, shard) = (&self.entered.watch, &self.shard);
        let mut relay = pin!(self.output.relay(exchange, manner, |status| {
            began.set(Some(status));
            timing.answered();
        }));
        let mut gone = pin!(self.input.until_ended());
        let mut watching = true;
        poll_fn(|cx| {
            let relayed = relay.as_mut().poll(cx);
            // While something is being sent, that fails where the client has gone.
            let waits = relayed.is_pending() && !watch.awaits_reader();
            // Where answers are quick, nobody leaves before they come.
            let waits = waits && (!shard.later.is_brisk() || exchange.is_slow());
            if waits
                && watching
                && let Poll::Ready(departure) = gone.as_mut().poll(cx)
            {
                watching = false;
                match departure {
                    Departure::Reset => return Poll::Ready(Relayed::ClientGone),
                    Departure::Closed if watch.fired() => {}
                    Departure::Closed => exchange.client_left(),
                }
            }
            relayed
        })
        .await
    }

    /// Relays the response while the request body is still being received, and behind it watches
    /// whether the client leaves.
    async fn relay_uploading(
        &mut self,
        exchange: &Exchange<'_>,
        manner: Manner,
        body: Unfinished,
        began: &Cell<Option<u16>>,
        timing: &mut Timing,
    ) -> Result<Relayed, BodyFault> {
        let watch = &*self.entered.watch;
        let clients = &self.shard.config.clients;
        let address = exchange.lane().address();
        let receiver = Receiver::new(watch, &self.shard.clock, clients, address);
        let timeout_ms = self.shard.config.timeout_ms;
        let mut upload = Upload::new(exchange, receiver, &self.shard.clock, timeout_ms, body);
        let mut relay = pin!(self.output.relay(exchange, manner, |status| {
            began.set(Some(status));
            timing.answered();
        }));
        let mut upload = pin!(async {
            upload.run(&mut self.input).await?;
            Ok(self.input.until_ended().await)
        });
        let mut uploading = true;
        let mut cut = false;
        let relayed = poll_fn(|cx| {
            if uploading && let Poll::Ready(end) = upload.as_mut().poll(cx) {
                uploading = false;
                match end {
                    Ok(Departure::Reset) => return Poll::Ready(Ok(Relayed::ClientGone)),
                    Ok(Departure::Closed) if watch.fired() => {}
                    Ok(Departure::Closed) => exchange.client_left(),
                    Err(UploadEnd::Client(fault)) => return Poll::Ready(Err(fault)),
                    Err(UploadEnd::Worker(failure)) if began.get().is_none() => {
                        return Poll::Ready(Ok(Relayed::Failed(failure)));
                    }
                    // The worker has begun to answer and takes no more: it is told that the rest
                    // will not come, and has its time to finish.
                    Err(UploadEnd::Worker(_)) => {
                        cut = true;
                        exchange.abort(self.shard.clock.now_ms() + self.shard.config.timeout_ms);
                    }
                }
            }
            relay.as_mut().poll(cx).map(Ok)
        })
        .await?;
        Ok(match relayed {
            // The worker has answered without taking all of the body: what is left of it must not
            // be taken for a request.
            Relayed::Whole { .. } if cut || exchange.is_uploading() => {
                Relayed::Whole { reusable: false }
            }
            other => other,
        })
    }

    /// An error answer to a request whose body is not read: what follows it is no request (RFC 9112,
    /// section 9.3).
    pub(super) async fn refuse_unread(
        &mut self,
        problem: Problem,
        mut manner: Manner,
        body: BodyLength,
    ) -> Next {
        manner.keep_alive &= body == BodyLength::None;
        self.refuse(problem, manner).await
    }

    /// An error answer to a request whose body did not arrive as it should.
    pub(super) async fn refuse_body(&mut self, fault: BodyFault, mut manner: Manner) -> Next {
        manner.keep_alive = false;
        match fault.problem() {
            Some(problem) => self.refuse(problem, manner).await,
            None => Next::Drop,
        }
    }
}

/// The body's length where head and body fit one frame. The client names the length, so it is not
/// added to before it is known to be small.
fn contiguous(length: u64, body_at: usize, geometry: Geometry) -> Option<usize> {
    let room = geometry.contiguous_max().checked_sub(body_at)?;
    usize::try_from(length).ok().filter(|len| *len <= room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_length_is_too_long_to_be_looked_at() {
        let geometry = Geometry::new(16, 4096).unwrap();
        let most = geometry.contiguous_max();
        assert_eq!(contiguous(10, 64, geometry), Some(10));
        assert_eq!(contiguous(most as u64 - 64, 64, geometry), Some(most - 64));
        for length in [most as u64 - 63, u64::MAX - 64, u64::MAX - 63, u64::MAX] {
            assert_eq!(contiguous(length, 64, geometry), None, "{length}");
        }
        assert_eq!(contiguous(1, most + 1, geometry), None);
    }
}
