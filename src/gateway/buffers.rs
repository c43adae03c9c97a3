//! Buffers that the kernel fills or empties while the shard does other things: parts of slots, and
//! the gathered write of a response. The only unsafe code of the gateway: each buffer owns, for as
//! long as an operation may hold it, everything that keeps its memory in place.

use std::ptr::{self, NonNull};
use std::rc::Rc;

use monoio::buf::{IoBuf, IoBufMut, IoVecBuf};

use crate::gateway::lane::Lane;
use crate::shm::descriptor::Run;
use crate::shm::region::Slots;

/// Request slots being filled by the kernel. Dropped half-way, the slots go back to the lane.
#[derive(Debug)]
pub struct SlotBuffer {
    lane: Rc<Lane>,
    /// `None` only while the buffer is taken apart.
    slots: Option<Slots>,
    start: NonNull<u8>,
    len: usize,
    received: usize,
}

impl SlotBuffer {
    /// The `len` bytes from `offset` on in these slots; `None`, with the slots given back to the
    /// lane, where the part reaches past them.
    pub fn new(lane: &Rc<Lane>, slots: Slots, offset: usize, len: usize) -> Option<SlotBuffer> {
        let Some(start) = lane.memory().own_part(&slots, offset, len) else {
            lane.release(slots);
            return None;
        };
        Some(SlotBuffer {
            lane: lane.clone(),
            slots: Some(slots),
            start,
            len,
            received: 0,
        })
    }

    /// Bytes received into the buffer so far.
    pub fn received(&self) -> usize {
        self.received
    }

    /// Whether every byte was received.
    pub fn is_full(&self) -> bool {
        self.received == self.len
    }

    /// The slots, with what was received in them.
    pub fn into_slots(mut self) -> Slots {
        self.slots.take().expect("slots leave a buffer once")
    }
}

impl Drop for SlotBuffer {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            self.lane.release(slots);
        }
    }
}

// SAFETY: the pointer stays valid and in place while the buffer lives, since the lane, which the
// buffer keeps alive, owns the mapping; and nobody else writes there, since the buffer holds the
// slots. `write_ptr` and `bytes_total` describe exactly the part that is not received yet.
unsafe impl IoBufMut for SlotBuffer {
    fn write_ptr(&mut self) -> *mut u8 {
        // SAFETY: `received` is at most `len`, so the result is within the part or at its end.
        unsafe { self.start.as_ptr().add(self.received) }
    }

    fn bytes_total(&mut self) -> usize {
        self.len - self.received
    }

    unsafe fn set_init(&mut self, count: usize) {
        self.received = (self.received + count).min(self.len);
    }
}

/// A response frame being sent by the kernel. Dropped, it goes back to the worker.
#[derive(Debug)]
pub struct FramePart {
    lane: Rc<Lane>,
    run: Run,
    offset: usize,
    start: NonNull<u8>,
    len: usize,
}

impl FramePart {
    /// The `len` bytes from `offset` on in a response frame; `None`, with the frame given back,
    /// where the part reaches past the frame.
    pub fn new(lane: &Rc<Lane>, run: Run, offset: usize, len: usize) -> Option<FramePart> {
        match lane.memory().response_part(run, offset, len) {
            Some(start) => Some(FramePart {
                lane: lane.clone(),
                run,
                offset,
                start,
                len,
            }),
            None => {
                lane.return_frame(run);
                None
            }
        }
    }
}

impl Drop for FramePart {
    fn drop(&mut self) {
        self.lane.return_frame(self.run);
    }
}

/// One gathered write: bytes of the hub's own, then a part of a response frame, then a constant.
///
/// It lives in a box, so that the vectors the kernel reads stay where they are. The box is used again.
pub struct Gather {
    before: Vec<u8>,
    /// `None` while nothing is to be written; the vectors are empty then.
    part: Option<FramePart>,
    after: &'static [u8],
    written: usize,
    vectors: [libc::iovec; 3],
}

impl Default for Gather {
    fn default() -> Gather {
        let empty = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        Gather {
            before: Vec::new(),
            part: None,
            after: b"",
            written: 0,
            vectors: [empty; 3],
        }
    }
}

impl Gather {
    /// A write of all three, nothing of which is written yet, in the box of one that is over.
    pub fn new(
        over: Option<Box<Gather>>,
        before: Vec<u8>,
        part: FramePart,
        after: &'static [u8],
    ) -> Box<Gather> {
        let mut gather = over.unwrap_or_default();
        gather.before = before;
        gather.part = Some(part);
        gather.after = after;
        gather.written = 0;
        gather.advance(0);
        gather
    }

    /// Notes that `count` further bytes were written.
    pub fn advance(&mut self, count: usize) {
        self.written += count;
        let part = self.part.as_ref();
        let parts = [
            (self.before.as_ptr(), self.before.len()),
            part.map_or((ptr::null(), 0), |part| {
                (part.start.as_ptr().cast_const(), part.len)
            }),
            (self.after.as_ptr(), self.after.len()),
        ];
        let mut skip = self.written;
        for (vector, (start, len)) in self.vectors.iter_mut().zip(parts) {
            let skipped = skip.min(len);
            skip -= skipped;
            vector.iov_base = start.wrapping_add(skipped).cast_mut().cast();
            vector.iov_len = len - skipped;
        }
    }

    /// Whether every byte was written.
    pub fn is_done(&self) -> bool {
        self.vectors.iter().all(|v| v.iov_len == 0)
    }

    /// How many bytes are still to be written.
    pub fn unsent(&self) -> usize {
        self.vectors.iter().map(|v| v.iov_len).sum()
    }

    /// Ends the write with a copy of the bytes that are still to be written; the frame goes back to the
    /// worker.
    pub fn end_with_unsent(&mut self) -> Vec<u8> {
        let written = self.written;
        let (mut unsent, part, after) = self.take();
        let before = unsent.len();
        unsent.drain(..written.min(before));
        let Some(part) = part else {
            return unsent;
        };
        let written = written.saturating_sub(before);
        let sent = written.min(part.len);
        // The part was checked to lie in the frame.
        part.lane.memory().copy_response(
            part.run,
            part.offset + sent,
            part.len - sent,
            &mut unsent,
        );
        unsent.extend_from_slice(&after[written - sent..]);
        unsent
    }

    /// Ends the write with the hub's own bytes, emptied for use again; the frame goes back to the worker.
    pub fn end(&mut self) -> Vec<u8> {
        let (mut before, ..) = self.take();
        before.clear();
        before
    }

    /// What is written, and nothing is left that the vectors could point to.
    fn take(&mut self) -> (Vec<u8>, Option<FramePart>, &'static [u8]) {
        let Gather {
            before,
            part,
            after,
            ..
        } = std::mem::take(self);
        (before, part, after)
    }
}

/// A [`Gather`] on its way through the kernel.
pub struct GatherWrite(pub Box<Gather>);

// SAFETY: the vectors stand in the box and keep their place while it is owned by the operation. Each
// describes memory that the box owns: the vector of bytes, the frame (whose lane it keeps alive and
// which is returned only on drop), and a constant. They are only read from.
unsafe impl IoVecBuf for GatherWrite {
    fn read_iovec_ptr(&self) -> *const libc::iovec {
        self.0.vectors.as_ptr()
    }

    fn read_iovec_len(&self) -> usize {
        self.0.vectors.len()
    }
}

/// The free room behind the bytes of a receive buffer.
#[derive(Debug)]
pub struct Tail(pub Vec<u8>);

// SAFETY: the room behind a vector's bytes is its own and stays in place while the vector is not
// touched, which the operation that owns it ensures. The kernel initialises what it reports.
unsafe impl IoBufMut for Tail {
    fn write_ptr(&mut self) -> *mut u8 {
        self.0.spare_capacity_mut().as_mut_ptr().cast()
    }

    fn bytes_total(&mut self) -> usize {
        self.0.capacity() - self.0.len()
    }

    unsafe fn set_init(&mut self, count: usize) {
        // SAFETY: the caller promises that `count` bytes were written at `write_ptr`.
        unsafe { self.0.set_len(self.0.len() + count) }
    }
}

/// A part of a byte vector that is being sent.
#[derive(Debug)]
pub struct Rest {
    /// The whole vector.
    pub bytes: Vec<u8>,
    /// How much of it was sent.
    pub sent: usize,
}

// SAFETY: the bytes are the vector's own and stay in place while the operation owns it; `sent` is
// at most the length, or the part is empty.
unsafe impl IoBuf for Rest {
    fn read_ptr(&self) -> *const u8 {
        self.bytes[self.sent.min(self.bytes.len())..].as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.bytes.len().saturating_sub(self.sent)
    }
}
