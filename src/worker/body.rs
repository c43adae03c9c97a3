//! A request body, whole or as it arrives. What is handed out are the slots themselves; nothing is
//! copied unless the caller asks for one piece of what came in several.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::shm::descriptor::UNKNOWN_LENGTH;
use crate::worker::frame::Chunk;
use crate::worker::inbox::Inbox;
use crate::worker::lane::ExchangeId;
use crate::worker::poll_guard;
use crate::worker::session::Session;

/// A request body.
///
/// It can be read through [`std::io::Read`], chunk by chunk without a copy, or as a whole. A body
/// that is dropped before its end is not received any further.
#[derive(Debug)]
pub struct Body {
    /// What has arrived and is next to be read.
    current: Option<Chunk>,
    rest: Option<Rest>,
    length: Option<u64>,
    is_lost: bool,
    /// Bytes that were read.
    consumed: u64,
}

/// Where the part of a body comes from that was not there with the head.
#[derive(Debug)]
pub(crate) struct Rest {
    session: Arc<Session>,
    lane: usize,
    exchange: ExchangeId,
    inbox: Arc<Inbox>,
    /// Whether the hub knows that somebody reads.
    asked: bool,
}

/// Why a body, or what it should hold, could not be had.
///
/// A handler may return it as its error: the client then gets the status that fits.
#[derive(Debug)]
pub enum BodyError {
    /// The body is longer than the caller allows. As an answer: 413.
    TooLarge {
        /// The most bytes the caller takes.
        limit: usize,
    },
    /// The client has gone, or its time is up, before the body was complete. As an answer: 400,
    /// which nobody will read.
    Incomplete,
    /// The hub is gone.
    Disconnected,
    /// A blocking method was called in an async handler. As an answer: 500.
    WouldBlock,
    /// The body is no JSON, or not of the shape asked for. As an answer: 400.
    Json(simd_json::Error),
}

impl Body {
    pub(crate) fn new(first: Option<Chunk>, total: u64, rest: Option<Rest>) -> Body {
        let current = first.filter(|chunk| !chunk.as_slice().is_empty());
        let length = (total != UNKNOWN_LENGTH).then_some(total);
        Body {
            current,
            rest,
            length,
            is_lost: false,
            consumed: 0,
        }
    }

    /// A body that could not be had when it was asked for, and cannot be had now.
    pub(crate) fn lost(total: u64) -> Body {
        Body {
            is_lost: true,
            ..Body::new(None, total, None)
        }
    }

    /// Bytes of the whole body as announced by the client; `None` where it did not say.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Bytes that are still to be read; `None` where that is not known.
    pub(crate) fn length_left(&self) -> Option<u64> {
        if self.is_contiguous() {
            return Some(self.available().len() as u64);
        }
        self.length
            .map(|length| length.saturating_sub(self.consumed))
    }

    /// The bytes that have arrived and can be read at once. All of them, where the body
    /// [is complete](Body::is_contiguous).
    pub fn available(&self) -> &[u8] {
        self.current
            .as_ref()
            .map(Chunk::as_slice)
            .unwrap_or_default()
    }

    /// Whether everything that is left is in one piece, in [`Body::available`].
    pub fn is_contiguous(&self) -> bool {
        self.rest.is_none() && !self.is_lost
    }

    /// The next part, as large as it came; blocks until there is one. `None` at the end.
    ///
    /// The bytes stay in the slots until the last clone is dropped; a client that sends more than
    /// the hub lends at a time waits for that.
    ///
    /// # Errors
    /// [`BodyError::Incomplete`], [`BodyError::Disconnected`] and [`BodyError::WouldBlock`].
    pub fn read_chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        Ok(self.read_part()?.map(Chunk::into_bytes))
    }

    /// As [`Body::read_chunk`], for async handlers.
    ///
    /// # Errors
    /// [`BodyError::Incomplete`] and [`BodyError::Disconnected`].
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let part = poll_fn(|cx| self.poll_part(cx)).await.transpose()?;
        Ok(part.map(Chunk::into_bytes))
    }

    /// Everything that is left, in one piece; blocks until it is there. It is copied only where it
    /// came in several frames.
    ///
    /// # Errors
    /// All but [`BodyError::Json`].
    pub fn read_to_bytes(mut self, limit: usize) -> Result<Bytes, BodyError> {
        self.check_length(limit)?;
        if self.is_contiguous() {
            return Ok(self.take_available());
        }
        let mut whole = BytesMut::new();
        while let Some(part) = self.read_part()? {
            append(&mut whole, &part, limit)?;
        }
        Ok(whole.freeze())
    }

    /// As [`Body::read_to_bytes`], for async handlers.
    ///
    /// # Errors
    /// All but [`BodyError::Json`] and [`BodyError::WouldBlock`].
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, BodyError> {
        self.check_length(limit)?;
        if self.is_contiguous() {
            return Ok(self.take_available());
        }
        let mut whole = BytesMut::new();
        while let Some(part) = poll_fn(|cx| self.poll_part(cx)).await.transpose()? {
            append(&mut whole, &part, limit)?;
        }
        Ok(whole.freeze())
    }

    pub(crate) fn read_part(&mut self) -> Result<Option<Chunk>, BodyError> {
        if let Some(part) = self.current.take() {
            self.consumed += part.as_slice().len() as u64;
            return Ok(Some(part));
        }
        if self.is_lost {
            return Err(BodyError::Incomplete);
        }
        let Some(rest) = &self.rest else {
            return Ok(None);
        };
        if poll_guard::is_polling() {
            return Err(BodyError::WouldBlock);
        }
        let session = rest.session.clone();
        session.block_on(|cx| self.poll_part(cx)).transpose()
    }

    /// Whether the next part is not there yet.
    pub(crate) fn would_wait(&self) -> bool {
        let arriving = self
            .rest
            .as_ref()
            .is_some_and(|rest| rest.inbox.would_wait());
        self.current.is_none() && arriving
    }

    pub(crate) fn poll_part(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Chunk, BodyError>>> {
        if let Some(part) = self.current.take() {
            self.consumed += part.as_slice().len() as u64;
            return Poll::Ready(Some(Ok(part)));
        }
        if self.is_lost {
            return Poll::Ready(Some(Err(BodyError::Incomplete)));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        if !std::mem::replace(&mut rest.asked, true) {
            // A hub that does not hear it is gone, which is noticed below.
            let _ = rest.session.lane(rest.lane).ask_for_body(rest.exchange);
        }
        let next = rest.inbox.poll_next(cx);
        if next.is_pending() && rest.session.is_closed() {
            return Poll::Ready(Some(Err(BodyError::Disconnected)));
        }
        match next {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                self.consumed += frame.body().len() as u64;
                Poll::Ready(Some(Ok(Chunk::Frame(frame))))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(BodyError::Incomplete))),
            Poll::Ready(None) => {
                self.rest = None;
                Poll::Ready(None)
            }
        }
    }

    fn take_available(&mut self) -> Bytes {
        self.current
            .take()
            .map(Chunk::into_bytes)
            .unwrap_or_default()
    }

    fn check_length(&self, limit: usize) -> Result<(), BodyError> {
        let least = self.length.unwrap_or(self.available().len() as u64);
        if least > limit as u64 {
            Err(BodyError::TooLarge { limit })
        } else {
            Ok(())
        }
    }
}

fn append(whole: &mut BytesMut, part: &Chunk, limit: usize) -> Result<(), BodyError> {
    let bytes = part.as_slice();
    if bytes.len() > limit - whole.len() {
        return Err(BodyError::TooLarge { limit });
    }
    whole.extend_from_slice(bytes);
    Ok(())
}

impl io::Read for Body {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        let Some(mut part) = self.read_part()? else {
            return Ok(0);
        };
        let count = out.len().min(part.as_slice().len());
        out[..count].copy_from_slice(&part.as_slice()[..count]);
        part.advance(count);
        if !part.as_slice().is_empty() {
            self.consumed -= part.as_slice().len() as u64;
            self.current = Some(part);
        }
        Ok(count)
    }
}

impl Rest {
    pub(crate) fn new(
        session: Arc<Session>,
        lane: usize,
        exchange: ExchangeId,
        inbox: Arc<Inbox>,
    ) -> Rest {
        Rest {
            session,
            lane,
            exchange,
            inbox,
            asked: false,
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.session.lane(self.lane).forget_inbox(self.exchange);
        self.inbox.abandon();
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyError::TooLarge { limit } => {
                write!(f, "the body is longer than the {limit} bytes this route takes")
            }
            BodyError::Incomplete => {
                f.write_str("the client left, or its time was up, before the body was complete")
            }
            BodyError::Disconnected => f.write_str("the hub is gone"),
            BodyError::WouldBlock => f.write_str(
                "the body is still arriving, and an async handler must not block: use the method that is awaited",
            ),
            BodyError::Json(error) => write!(f, "the body is not the JSON this route takes: {error}"),
        }
    }
}

impl std::error::Error for BodyError {}

impl From<BodyError> for io::Error {
    fn from(error: BodyError) -> io::Error {
        let kind = match error {
            BodyError::TooLarge { .. } => io::ErrorKind::FileTooLarge,
            BodyError::Incomplete => io::ErrorKind::UnexpectedEof,
            BodyError::Disconnected => io::ErrorKind::NotConnected,
            // Not `WouldBlock`: that one invites the caller to try again.
            BodyError::WouldBlock => io::ErrorKind::Unsupported,
            BodyError::Json(_) => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}
