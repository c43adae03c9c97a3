//! A request frame while this process holds it: dropping it gives the slots back to the hub, exactly
//! once. It keeps the lane's memory mapped, also when the hub is long gone.

use std::sync::Arc;

use bytes::Bytes;

use crate::shm::descriptor::{Descriptor, Run};
use crate::shm::layout::body_offset;
use crate::worker::session::Session;

/// A request frame. As bytes it is its part of the body.
#[derive(Debug)]
pub(crate) struct Frame {
    session: Arc<Session>,
    run: Run,
    // Small numbers, since a request changes places with its frame.
    lane: u32,
    head_len: u32,
    body_at: u32,
    body_len: u32,
}

impl Frame {
    /// The frame a descriptor announces; `None` where it carries nothing.
    pub(crate) fn new(session: Arc<Session>, lane: usize, d: &Descriptor) -> Option<Frame> {
        if d.slots == 0 {
            return None;
        }
        Some(Frame {
            session,
            run: d.run(),
            lane: lane as u32,
            head_len: d.head_len,
            // Of a head longer than any slot nothing can be read.
            body_at: u32::try_from(body_offset(d.head_len as usize)).unwrap_or(u32::MAX),
            body_len: d.body_len,
        })
    }

    /// The encoded request head.
    pub(crate) fn head(&self) -> &[u8] {
        self.part(0, self.head_len)
    }

    /// The part of the body.
    pub(crate) fn body(&self) -> &[u8] {
        self.part(self.body_at, self.body_len)
    }

    /// Drops the first `count` bytes of the body part.
    pub(crate) fn advance(&mut self, count: usize) {
        let count = (count as u64).min(self.body_len.into()) as u32;
        self.body_at = self.body_at.saturating_add(count);
        self.body_len -= count;
    }

    /// The body part as bytes that hold the frame until their last clone is dropped.
    pub(crate) fn into_bytes(self) -> Bytes {
        if self.body_len == 0 {
            Bytes::new()
        } else {
            Bytes::from_owner(self)
        }
    }

    /// The session the frame belongs to, and the index of its lane.
    pub(crate) fn origin(&self) -> (&Arc<Session>, usize) {
        (&self.session, self.lane as usize)
    }

    fn part(&self, at: u32, len: u32) -> &[u8] {
        // A descriptor that points past the arena is a bug of the hub: it reads as nothing.
        self.session
            .lane(self.lane as usize)
            .memory()
            .request_part(self.run, at as usize, len as usize)
            .unwrap_or_default()
    }
}

/// A frame that a request and bytes taken from it hold together. As bytes it is its part of the body.
#[derive(Debug)]
pub(crate) struct SharedFrame(pub(crate) Arc<Frame>);

impl AsRef<[u8]> for SharedFrame {
    fn as_ref(&self) -> &[u8] {
        self.0.body()
    }
}

/// A part of a body: in a frame, or already taken from one.
#[derive(Debug)]
pub(crate) enum Chunk {
    Frame(Frame),
    Bytes(Bytes),
}

impl Chunk {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Chunk::Frame(frame) => frame.body(),
            Chunk::Bytes(bytes) => bytes,
        }
    }

    /// Drops the first `count` bytes.
    pub(crate) fn advance(&mut self, count: usize) {
        match self {
            Chunk::Frame(frame) => frame.advance(count),
            Chunk::Bytes(bytes) => drop(bytes.split_to(count.min(bytes.len()))),
        }
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        match self {
            Chunk::Frame(frame) => frame.into_bytes(),
            Chunk::Bytes(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        self.body()
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if !self.session.is_closed() {
            self.session.lane(self.lane as usize).return_frame(self.run);
        }
    }
}
