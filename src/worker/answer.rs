//! The duty to answer one exchange, and the frames in which it is done. Whatever happens to the
//! handler, exactly one last word is said.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::shm::codec::{RESPONSE_PREFIX_LEN, response_prefix};
use crate::shm::descriptor::{Completion, Descriptor, END, UNKNOWN_LENGTH};
use crate::shm::layout::body_offset;
use crate::shm::region::Slots;
use crate::worker::lane::{Broken, ExchangeId, Lane, abort};
use crate::worker::outbound::Want;
use crate::worker::session::{Session, Sleep};

/// The duty to answer one exchange. Dropped without a last word, it says that the answer failed.
#[derive(Debug)]
pub(crate) struct Answer {
    session: Arc<Session>,
    lane: usize,
    id: ExchangeId,
    /// The request was HEAD: the head goes, the body stays.
    bodyless: bool,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Silent,
    Begun,
    Ended,
}

impl Answer {
    pub(crate) fn new(session: Arc<Session>, lane: usize, id: ExchangeId) -> Answer {
        Answer {
            session,
            lane,
            id,
            bodyless: false,
            progress: Progress::Silent,
        }
    }

    /// The answer carries no body, whatever the handler gives.
    pub(crate) fn set_bodyless(&mut self) {
        self.bodyless = true;
    }

    pub(crate) fn is_bodyless(&self) -> bool {
        self.bodyless
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.lane().is_cancelled(self.id)
    }

    /// Answers in one frame, if there are slots for it and it is not so long that it should be
    /// streamed. `false`: nothing was sent.
    pub(crate) fn try_whole(&mut self, status: u16, fields: &[u8], body: &[u8]) -> bool {
        let head_len = RESPONSE_PREFIX_LEN + fields.len();
        let total = body.len() as u64;
        let body = if self.bodyless { &[] } else { body };
        let body_at = body_offset(head_len);
        let len = if body.is_empty() {
            head_len
        } else {
            body_at + body.len()
        };
        let geometry = self.lane().memory().geometry();
        if len > geometry.contiguous_max() && len > head_len {
            return false;
        }
        let want = Want::Whole(geometry.slots_for(len) as u32);
        let fill = |bytes: &mut [u8]| {
            write_head(bytes, status, fields);
            if !body.is_empty() {
                bytes[body_at..len].copy_from_slice(body);
            }
        };
        if len <= geometry.slot_size() {
            let d = self.describe(head_len, body.len(), total, true);
            let Some(sent) = self.lane().lend_filled(want, d, fill) else {
                return false;
            };
            self.has_sent(sent, true);
            return true;
        }
        let Some(mut slots) = self.lane().allocate(self.id.index, want) else {
            return false;
        };
        fill(self.lane().memory().bytes_mut(&mut slots));
        self.lend(slots, head_len, body.len(), total, true);
        true
    }

    /// An answer in frames, whose first carries the head. `total`: the body's length, if known.
    pub(crate) fn into_stream(
        self,
        status: u16,
        fields: Cow<'static, [u8]>,
        total: Option<u64>,
    ) -> Stream {
        Stream {
            answer: self,
            status,
            fields,
            total,
            written: 0,
            frame: None,
            has_waited: false,
        }
    }

    fn lane(&self) -> &Lane {
        self.session.lane(self.lane)
    }

    fn lend(&mut self, slots: Slots, head_len: usize, body_len: usize, total: u64, end: bool) {
        let d = self.describe(head_len, body_len, total, end);
        let sent = self.lane().lend(slots, d);
        self.has_sent(sent, end);
    }

    /// The next frame of the answer, but for where it stands.
    fn describe(&self, head_len: usize, body_len: usize, total: u64, end: bool) -> Descriptor {
        let kind = if self.progress == Progress::Silent {
            Completion::Response
        } else {
            Completion::Body
        };
        Descriptor {
            kind: kind as u8,
            flags: if end { END } else { 0 },
            exchange: self.id.index,
            generation: self.id.generation,
            head_len: head_len as u32,
            body_len: body_len as u32,
            total,
            ..Descriptor::default()
        }
    }

    fn has_sent(&mut self, sent: Result<(), Broken>, end: bool) {
        self.progress = if end {
            Progress::Ended
        } else {
            Progress::Begun
        };
        if sent.is_err() {
            self.session.break_off();
        }
    }

    fn say(&mut self, d: Descriptor) {
        self.progress = Progress::Ended;
        if self.lane().push(d).is_err() {
            self.session.break_off();
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.session.is_closed() {
            return;
        }
        match self.progress {
            Progress::Ended => {}
            Progress::Begun => self.say(abort(self.id, UNKNOWN_LENGTH)),
            Progress::Silent => self.lane().answer_for(self.id),
        }
    }
}

/// A streamed answer. The head goes with the first frame.
#[derive(Debug)]
pub(crate) struct Stream {
    answer: Answer,
    status: u16,
    fields: Cow<'static, [u8]>,
    total: Option<u64>,
    written: u64,
    /// The frame that is being filled.
    frame: Option<Filling>,
    /// Whether it has ever waited for a frame.
    has_waited: bool,
}

#[derive(Debug)]
struct Filling {
    slots: Slots,
    head_len: usize,
    body_at: usize,
    body_len: usize,
    capacity: usize,
}

impl Stream {
    pub(crate) fn session(&self) -> &Arc<Session> {
        self.answer.session()
    }

    /// Whether the client has seen nothing yet, so that another answer is possible.
    pub(crate) fn is_silent(&self) -> bool {
        self.answer.progress == Progress::Silent
    }

    pub(crate) fn is_bodyless(&self) -> bool {
        self.answer.is_bodyless()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.answer.is_cancelled()
    }

    /// The duty to answer, as long as nothing was sent.
    pub(crate) fn into_answer(mut self) -> Answer {
        self.drop_frame();
        let Answer {
            ref session,
            lane,
            id,
            bodyless,
            ..
        } = self.answer;
        let done = Answer {
            session: session.clone(),
            lane,
            id,
            bodyless,
            progress: Progress::Ended,
        };
        std::mem::replace(&mut self.answer, done)
    }

    /// Writes some of `data`, at least one byte, into the current frame; a frame that is full goes
    /// out. Waits for slots where there is no frame.
    pub(crate) fn poll_write(&mut self, cx: &Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let rest = self.total.map_or(u64::MAX, |total| total - self.written);
        if data.len() as u64 > rest {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "more bytes of body were written than were announced",
            )));
        }
        ready!(self.poll_frame(cx))?;
        let Some(frame) = &mut self.frame else {
            unreachable!("a frame was just made")
        };
        let count = data
            .len()
            .min(frame.capacity - frame.body_at - frame.body_len);
        let at = frame.body_at + frame.body_len;
        let lane = self.answer.session.lane(self.answer.lane);
        let bytes = lane.memory().bytes_mut(&mut frame.slots);
        bytes[at..at + count].copy_from_slice(&data[..count]);
        frame.body_len += count;
        self.written += count as u64;
        let is_full = at + count == frame.capacity;
        if is_full && self.total != Some(self.written) {
            self.send_frame(false);
        }
        Poll::Ready(Ok(count))
    }

    /// Sends what was written so far.
    pub(crate) fn poll_flush(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.is_silent() {
            // The head is worth sending too.
            ready!(self.poll_frame(cx))?;
        }
        self.send_frame(false);
        Poll::Ready(Ok(()))
    }

    /// Says the last word.
    pub(crate) fn poll_finish(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.total.is_some_and(|total| total != self.written) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "{} bytes of body were written and {} announced",
                    self.written,
                    self.total.unwrap_or_default()
                ),
            )));
        }
        if self.is_silent() {
            ready!(self.poll_frame(cx))?;
        }
        self.send_last();
        Poll::Ready(Ok(()))
    }

    /// Sends the head of a HEAD answer, with the length that the body would have.
    pub(crate) fn poll_head_only(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_frame(cx))?;
        self.send_last();
        Poll::Ready(Ok(()))
    }

    fn send_last(&mut self) {
        if self.frame.is_some() {
            self.send_frame(true);
        } else if self.answer.progress == Progress::Begun {
            let d = abort(self.answer.id, self.total.unwrap_or(UNKNOWN_LENGTH));
            self.answer.say(Descriptor { flags: END, ..d });
        }
    }

    fn send_frame(&mut self, end: bool) {
        let Some(frame) = self.frame.take() else {
            return;
        };
        let total = self.total.unwrap_or(UNKNOWN_LENGTH);
        self.answer
            .lend(frame.slots, frame.head_len, frame.body_len, total, end);
    }

    fn poll_frame(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.frame.is_some() {
            return Poll::Ready(Ok(()));
        }
        let session = self.answer.session.clone();
        let lane = session.lane(self.answer.lane);
        let head_len = if self.is_silent() {
            RESPONSE_PREFIX_LEN + self.fields.len()
        } else {
            0
        };
        let body_at = body_offset(head_len);
        let geometry = lane.memory().geometry();
        let rest = self.total.map_or(u64::MAX, |total| total - self.written);
        let rest = if self.answer.bodyless { 0 } else { rest };
        let most = geometry.slots_for(
            geometry
                .arena_len()
                .min(body_at.saturating_add(usize::try_from(rest).unwrap_or(usize::MAX))),
        ) as u32;
        let want = if head_len > 0 {
            // Room for at least a byte behind the head, or a body would not begin at all.
            Want::Opening(
                geometry.slots_for(body_at + rest.min(1) as usize) as u32,
                most,
            )
        } else {
            Want::Further(most)
        };
        let slots = loop {
            if self.answer.is_cancelled() {
                let error = io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone");
                return Poll::Ready(Err(error));
            }
            let allocated = lane.poll_allocate(self.answer.id, want, cx);
            // Looked at after the waker was left there, or the call of a close could be missed.
            if allocated.is_pending() && session.is_closed() {
                let error = io::Error::new(io::ErrorKind::NotConnected, "the hub is gone");
                return Poll::Ready(Err(error));
            }
            // Also where the pump below has this one called, and it ends before it is asked again.
            self.has_waited |= allocated.is_pending();
            match allocated {
                Poll::Ready(slots) => break slots,
                // In an event loop nobody else looks at the ring before the hub calls.
                Poll::Pending if session.sleep_kind() == Sleep::Task && session.pump() => {}
                Poll::Pending => {
                    session.have_watched();
                    return Poll::Pending;
                }
            }
        };
        let capacity = slots.run().slots as usize * geometry.slot_size();
        let mut frame = Filling {
            slots,
            head_len,
            body_at,
            body_len: 0,
            capacity,
        };
        if head_len > 0 {
            write_head(
                lane.memory().bytes_mut(&mut frame.slots),
                self.status,
                &self.fields,
            );
        }
        self.frame = Some(frame);
        Poll::Ready(Ok(()))
    }

    fn drop_frame(&mut self) {
        if let Some(frame) = self.frame.take() {
            self.answer
                .lane()
                .release(self.answer.id.index, frame.slots);
            self.answer.session.call_event_loop();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // What was written and not sent is lost; the answer then says that it is not complete.
        self.drop_frame();
        if self.has_waited {
            self.answer.lane().stop_waiting(self.answer.id);
            self.answer.session.call_event_loop();
        }
    }
}

fn write_head(out: &mut [u8], status: u16, fields: &[u8]) {
    let (prefix, rest) = out.split_at_mut(RESPONSE_PREFIX_LEN);
    prefix.copy_from_slice(&response_prefix(status, fields.len()));
    rest[..fields.len()].copy_from_slice(fields);
}
