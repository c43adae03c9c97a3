//! The sending half of a connection: whole answers of the hub's own, and responses relayed from a
//! worker, frame by frame, straight from its memory where they are not small.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use monoio::io::{AsyncWriteRent, OwnedWriteHalf};
use monoio::net::UnixStream;

use crate::gateway::buffers::{FramePart, Gather, GatherWrite, Rest};
use crate::gateway::clock::Clock;
use crate::gateway::lane::{Exchange, Frame};
use crate::gateway::later::Later;
use crate::gateway::relayed::{BadHead, Relayed};
use crate::gateway::spilled::Spilled;
use crate::gateway::watch::Watch;
use crate::http::{
    BodyFraming, CHUNK_SUFFIX, HeadStyle, LAST_CHUNK, PassedFields, WorkerHeadFault, chunk_prefix,
    encode_own_head, encode_worker_head, framing_for,
};
use crate::limits::MAX_HEAD;
use crate::message::{Method, Version};
use crate::shm::codec::{CodecError, MAX_ENCODED_RESPONSE, decode_response};

/// A part of a body this small is copied behind the head and sent with it: cheaper than a gathered
/// write, and the worker has its slots back before the client has read a byte.
const COPY_MAX: usize = 8 * 1024;

/// Largest buffer that a connection keeps between answers: a head, and a small part of a body.
const MOST_KEPT: usize = MAX_HEAD + COPY_MAX;

/// What an answer's head depends on besides the answer.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// The request's method.
    pub method: Method,
    /// The request's version.
    pub version: Version,
    /// Whether the connection may stay open.
    pub keep_alive: bool,
    /// Whether any web page may read the answer.
    pub cors: bool,
}

/// The sending half of a connection.
pub struct Output {
    writer: OwnedWriteHalf<UnixStream>,
    watch: Rc<Watch>,
    clock: Rc<Clock>,
    /// Time the client may take nothing. Milliseconds.
    timeout_ms: u64,
    spilled: Rc<Spilled>,
    later: Rc<Later>,
    passed: Rc<RefCell<PassedFields>>,
    /// Whether the client took less than it was offered, the last time.
    slow: bool,
    /// The address of the lane whose memory is being sent from; 0 for none.
    lane: usize,
    /// What is to be sent; kept for its capacity.
    bytes: Vec<u8>,
    /// A response head out of shared memory; kept for its capacity.
    head: Vec<u8>,
    /// A gathered write that is over; kept for its box.
    gather: Option<Box<Gather>>,
}

impl Output {
    /// The half that writes to `writer`, watched by `watch`. A client that takes nothing for
    /// `timeout_ms` milliseconds is cut off.
    pub fn new(
        writer: OwnedWriteHalf<UnixStream>,
        watch: Rc<Watch>,
        clock: Rc<Clock>,
        timeout_ms: u64,
        spilled: Rc<Spilled>,
        later: Rc<Later>,
        passed: Rc<RefCell<PassedFields>>,
    ) -> Output {
        Output {
            writer,
            watch,
            clock,
            timeout_ms,
            spilled,
            later,
            passed,
            slow: false,
            lane: 0,
            bytes: Vec::new(),
            head: Vec::new(),
            gather: None,
        }
    }

    /// Gives up what is kept for the next answer.
    pub fn shrink(&mut self) {
        self.bytes = Vec::new();
        self.head = Vec::new();
        self.gather = None;
    }

    /// Sends a whole answer of the hub's own. The body is left out in answer to HEAD.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send_own(
        &mut self,
        status: u16,
        fields: &[(&str, &str)],
        body: &[u8],
        manner: Manner,
    ) -> io::Result<()> {
        if self.begin_own(status, fields, body.len(), manner) {
            self.bytes.extend_from_slice(body);
        }
        self.flush().await
    }

    /// Encodes the head of an answer of the hub's own behind whatever is to be sent. Returns whether
    /// the body follows.
    fn begin_own(
        &mut self,
        status: u16,
        fields: &[(&str, &str)],
        body_len: usize,
        manner: Manner,
    ) -> bool {
        self.lane = 0;
        let length = Some(body_len as u64);
        let (framing, with_body) = framing_for(status, manner.method, manner.version, length);
        let date = self.clock.date();
        encode_own_head(
            &mut self.bytes,
            status,
            fields,
            framing,
            &style(manner, &date),
        );
        with_body
    }

    /// As [`Output::send_own`], with a body of any length. `None` where clients have yet to read so
    /// many of these that there is no room for it; nothing was sent then.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send_long(
        &mut self,
        status: u16,
        fields: &[(&str, &str)],
        body: Vec<u8>,
        manner: Manner,
    ) -> Option<io::Result<()>> {
        let with_body = self.begin_own(status, fields, body.len(), manner);
        let body = if with_body { body } else { Vec::new() };
        self.send_behind(body).await
    }

    /// Sends a worker's whole answer. `None` as from [`Output::send_long`].
    ///
    /// # Errors
    /// It breaks a rule of HTTP, and nothing was sent. Within, the socket's.
    pub async fn send_answer(
        &mut self,
        status: u16,
        fields: &[u8],
        body: Vec<u8>,
        manner: Manner,
    ) -> Result<Option<io::Result<()>>, WorkerHeadFault> {
        let length = Some(body.len() as u64);
        let (framing, with_body) = framing_for(status, manner.method, manner.version, length);
        self.lane = 0;
        self.bytes = self.encode_head(status, fields, framing, manner)?;
        let body = if with_body { body } else { Vec::new() };
        Ok(self.send_behind(body).await)
    }

    /// Sends a body behind whatever is to be sent. `None` as from [`Output::send_long`].
    async fn send_behind(&mut self, body: Vec<u8>) -> Option<io::Result<()>> {
        if body.len() <= COPY_MAX {
            self.bytes.extend_from_slice(&body);
            return Some(self.flush().await);
        }
        let Some(_held) = self.spilled.take(body.len()) else {
            self.bytes.clear();
            return None;
        };
        if let Err(error) = self.flush().await {
            return Some(Err(error));
        }
        self.bytes = body;
        Some(self.flush().await)
    }

    /// The head of a worker's response, with the hub's own fields.
    ///
    /// # Errors
    /// It breaks a rule of HTTP.
    pub fn encode_head(
        &self,
        status: u16,
        fields: &[u8],
        framing: BodyFraming,
        manner: Manner,
    ) -> Result<Vec<u8>, WorkerHeadFault> {
        let mut head = Vec::new();
        let date = self.clock.date();
        let style = style(manner, &date);
        let passed = &mut self.passed.borrow_mut();
        encode_worker_head(&mut head, passed, status, fields, framing, &style)?;
        Ok(head)
    }

    /// Sends these bytes as they are.
    ///
    /// # Errors
    /// The socket's.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.lane = 0;
        self.bytes.extend_from_slice(bytes);
        self.flush().await
    }

    /// Sends the response of an exchange as it arrives. `began` is called when its head is known.
    pub async fn relay(
        &mut self,
        exchange: &Exchange<'_>,
        manner: Manner,
        began: impl FnOnce(u16),
    ) -> Relayed {
        let first = match exchange.next_frame().await {
            Ok(frame) => frame,
            Err(failure) => return Relayed::Failed(failure),
        };
        let (framing, with_body) = match self.begin_response(exchange, &first, manner) {
            Ok((status, framing, with_body)) => {
                began(status);
                (framing, with_body)
            }
            Err(bad) => {
                exchange.lane().return_frame(first.run);
                return Relayed::Refused(bad);
            }
        };
        let reusable = manner.keep_alive && framing != BodyFraming::UntilClose;
        self.lane = exchange.lane().address();
        let mut frame = first;
        loop {
            let last = frame.end;
            // What comes behind anything else does not depend on when the client asks again.
            let unhurried = last && reusable;
            let sent = self.send_frame(exchange, frame, framing, with_body, unhurried);
            if let Err(end) = sent.await {
                return self.cut_short(end, framing);
            }
            if last {
                break;
            }
            frame = match exchange.next_frame().await {
                Ok(frame) => frame,
                Err(_) => {
                    let why = "the worker stopped in the middle of a response";
                    return self.cut_short(Relayed::Broken(why), framing);
                }
            };
        }
        Relayed::Whole { reusable }
    }

    /// Where the end of the connection is the end of the body (RFC 9112, section 6.3), a body that is
    /// cut short would pass for a whole one: such a connection is reset.
    fn cut_short(&self, end: Relayed, framing: BodyFraming) -> Relayed {
        if framing == BodyFraming::UntilClose {
            self.watch.reset_on_close();
        }
        end
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// The socket's.
    pub async fn shut_down(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }

    /// Encodes the head of a response behind whatever is to be sent.
    fn begin_response(
        &mut self,
        exchange: &Exchange<'_>,
        frame: &Frame,
        manner: Manner,
    ) -> Result<(u16, BodyFraming, bool), BadHead> {
        self.head.clear();
        // Longer than any head may be, it is not even copied.
        if frame.head_len > MAX_ENCODED_RESPONSE {
            return Err(BadHead::Codec(CodecError::TooMany));
        }
        let memory = exchange.lane().memory();
        if !memory.copy_response(frame.run, 0, frame.head_len, &mut self.head) {
            return Err(BadHead::Codec(CodecError::Truncated));
        }
        let (status, fields) = decode_response(&self.head).map_err(BadHead::Codec)?;
        // The worker does not want what is left of the request's body, so the connection closes.
        let manner = Manner {
            keep_alive: manner.keep_alive && !(frame.end && exchange.is_uploading()),
            ..manner
        };
        let (framing, with_body) = framing_for(status, manner.method, manner.version, frame.total);
        let date = self.clock.date();
        encode_worker_head(
            &mut self.bytes,
            &mut self.passed.borrow_mut(),
            status,
            fields,
            framing,
            &style(manner, &date),
        )
        .map_err(BadHead::Http)?;
        Ok((status, framing, with_body))
    }

    /// Sends the body part of a frame behind whatever is to be sent, and gives the frame back.
    async fn send_frame(
        &mut self,
        exchange: &Exchange<'_>,
        frame: Frame,
        framing: BodyFraming,
        with_body: bool,
        unhurried: bool,
    ) -> Result<(), Relayed> {
        let lane = exchange.lane();
        let chunked = framing == BodyFraming::Chunked;
        let part = if with_body { frame.body_len } else { 0 };
        let closes_chunks = chunked && with_body && frame.end && !frame.abort;
        if chunked && part > 0 {
            self.bytes.extend_from_slice(chunk_prefix(part).as_bytes());
        }
        let after: &'static [u8] = match (chunked && part > 0, closes_chunks) {
            (true, true) => b"\r\n0\r\n\r\n",
            (true, false) => CHUNK_SUFFIX,
            (false, true) => LAST_CHUNK,
            (false, false) => b"",
        };
        let sent = if part <= COPY_MAX {
            let copied =
                lane.memory()
                    .copy_response(frame.run, frame.body_at, part, &mut self.bytes);
            lane.return_frame(frame.run);
            if !copied {
                return Err(Relayed::Broken("a frame does not hold what it announced"));
            }
            self.bytes.extend_from_slice(after);
            self.flush_when(unhurried).await
        } else {
            let Some(part) = FramePart::new(lane, frame.run, frame.body_at, part) else {
                return Err(Relayed::Broken("a frame does not hold what it announced"));
            };
            self.gather(exchange, part, after, frame.end).await
        };
        if sent.is_err() {
            return Err(Relayed::ClientGone);
        }
        if frame.abort {
            return Err(Relayed::Broken("the worker gave a response up"));
        }
        Ok(())
    }

    /// Sends what is to be sent.
    async fn flush(&mut self) -> io::Result<()> {
        self.flush_when(false).await
    }

    /// Sends what is to be sent. Whether it is sent is looked at [later](Later) where nobody is in a hurry.
    async fn flush_when(&mut self, unhurried: bool) -> io::Result<()> {
        let mut rest = Rest {
            bytes: std::mem::take(&mut self.bytes),
            sent: 0,
        };
        let mut result = Ok(());
        while rest.sent < rest.bytes.len() {
            let unhurried = unhurried && rest.sent == 0;
            // Right behind an answer of a worker.
            self.expect_progress(match unhurried {
                true => self.clock.recent_ms(),
                false => self.clock.now_ms(),
            });
            let write = self.writer.write(rest);
            let (written, back) = self.later.end_of(write, unhurried).await;
            rest = back;
            match written {
                Ok(count @ 1..) => {
                    rest.sent += count;
                    self.slow = rest.sent < rest.bytes.len();
                }
                Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                Err(error) => result = Err(error),
            }
            if result.is_err() {
                break;
            }
        }
        self.watch.clear_write();
        self.bytes = kept(rest.bytes);
        result
    }

    /// Sends what is to be sent, a part of a frame, and a few bytes behind it.
    ///
    /// The last frame of an answer is copied where the client is slow and not much of the worker's memory
    /// is left: the worker has it back, with the exchange, and the client may take its time. In an answer
    /// that goes on this would only bring the next frame, so there the client has less time while the
    /// worker waits.
    async fn gather(
        &mut self,
        exchange: &Exchange<'_>,
        part: FramePart,
        after: &'static [u8],
        is_last: bool,
    ) -> io::Result<()> {
        let before = std::mem::take(&mut self.bytes);
        let mut gather = Gather::new(self.gather.take(), before, part, after);
        let mut result = Ok(());
        while !gather.is_done() && result.is_ok() {
            if self.slow
                && is_last
                && exchange.lane().is_crowded()
                && let Some(spill) = self.spilled.take(gather.unsent())
            {
                self.bytes = gather.end_with_unsent();
                self.gather = Some(gather);
                if !exchange.is_uploading() {
                    exchange.finish();
                }
                self.lane = 0;
                result = self.flush().await;
                drop(spill);
                return result;
            }
            self.expect_progress(self.clock.now_ms());
            let (written, GatherWrite(back)) = self.writer.writev(GatherWrite(gather)).await;
            gather = back;
            match written {
                Ok(count @ 1..) => {
                    gather.advance(count);
                    self.slow = !gather.is_done();
                }
                Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                Err(error) => result = Err(error),
            }
        }
        self.watch.clear_write();
        self.bytes = kept(gather.end());
        self.gather = Some(gather);
        result
    }

    /// A client that takes nothing for too long from now on is cut off.
    fn expect_progress(&self, now_ms: u64) {
        self.watch
            .expect_write(now_ms + self.timeout_ms, self.lane, now_ms);
    }
}

/// What a connection keeps of a buffer for its next answer: not what a large one has made of it.
fn kept(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.clear();
    match bytes.capacity() {
        0..=MOST_KEPT => bytes,
        _ => Vec::new(),
    }
}

fn style(manner: Manner, date: &[u8; 29]) -> HeadStyle<'_> {
    let Manner {
        version,
        keep_alive,
        cors,
        ..
    } = manner;
    HeadStyle {
        version,
        keep_alive,
        date,
        cors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_not_kept() {
        assert!(kept(vec![1; MOST_KEPT + 1]).capacity() == 0);
        let small = kept(vec![1; MOST_KEPT]);
        assert!(small.is_empty() && small.capacity() >= MOST_KEPT);
    }
}
