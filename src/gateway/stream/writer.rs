//! Writes to many sockets at once, each from a buffer of its own that is registered with the ring. A
//! subscriber holds a buffer only while a write is under way; as its socket is non-blocking, that is
//! until the ring has been entered once.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::gateway::stream::socket::Socket;
use crate::sys::ring_write::{Buffer, RingWrite, ring_write};

/// Bytes in each buffer: a few dozen events of the usual size.
pub const BUFFER_LEN: usize = 8 * 1024;
/// Most buffers, and so most writes that enter the kernel together.
pub const MAX_BUFFERS: usize = 128;
/// Fewest: below this the hub would rather do without registration.
pub const MIN_BUFFERS: usize = 16;

/// The buffers of a writer, and why they are not registered, if they are not.
pub struct Buffers {
    /// Each of [`BUFFER_LEN`] bytes.
    pub buffers: Vec<Buffer>,
    /// Why they are plain.
    pub unregistered: Option<io::Error>,
}

impl Buffers {
    /// Registers buffers, as many as fit `memlock` bytes of locked memory beside the `rings` that the
    /// shards need, which may be made later; plain ones where there are too few, or the kernel refuses.
    /// Must be called on the streams thread.
    pub fn new(memlock: u64, rings: u64) -> Buffers {
        // What is locked elsewhere by the same user counts too.
        let beside = memlock.saturating_sub(rings) / 4;
        let affordable = usize::try_from(beside).unwrap_or(usize::MAX) / BUFFER_LEN;
        let mut count = MAX_BUFFERS.min(affordable);
        let mut why = io::Error::new(
            io::ErrorKind::OutOfMemory,
            format!(
                "{} KiB of lockable memory (ulimit -l) are too few beside {} KiB for rings",
                memlock >> 10,
                rings >> 10
            ),
        );
        while count >= MIN_BUFFERS {
            match Buffer::register(count, BUFFER_LEN) {
                Ok(buffers) => {
                    return Buffers {
                        buffers,
                        unregistered: None,
                    };
                }
                Err(error) => why = error,
            }
            count /= 2;
        }
        Buffers {
            buffers: (0..MAX_BUFFERS)
                .map(|_| Buffer::plain(BUFFER_LEN))
                .collect(),
            unregistered: Some(why),
        }
    }
}

/// How a write ended.
pub enum Outcome<'a> {
    /// All of it was taken.
    Whole,
    /// There was no room for these bytes.
    Short(&'a [u8]),
    /// The connection is gone.
    Failed,
}

/// The writes under way.
pub struct Writer {
    slots: Vec<Slot>,
    free: Vec<usize>,
    busy: Vec<usize>,
    /// Whether the task is called when the writes end.
    armed: bool,
}

struct Slot {
    state: State,
    /// Who the write is for.
    key: usize,
    len: usize,
}

enum State {
    Free(Buffer),
    Writing(RingWrite<Socket>),
    Written(io::Result<usize>, Buffer),
    /// Only while it goes from one to another.
    Moving,
}

impl Writer {
    /// A writer with these buffers.
    pub fn new(buffers: Vec<Buffer>) -> Writer {
        let slot = |buffer| Slot {
            state: State::Free(buffer),
            key: 0,
            len: 0,
        };
        let slots: Vec<_> = buffers.into_iter().map(slot).collect();
        Writer {
            free: (0..slots.len()).collect(),
            busy: Vec::with_capacity(slots.len()),
            armed: true,
            slots,
        }
    }

    /// Whether a buffer is free.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.busy.is_empty()
    }

    /// Begins a write of what `fill` puts into a buffer. Returns whether there was a buffer and
    /// anything to write.
    pub fn begin(
        &mut self,
        key: usize,
        socket: &Rc<Socket>,
        fill: impl FnOnce(&mut [u8]) -> usize,
    ) -> bool {
        let Some(&number) = self.free.last() else {
            return false;
        };
        let slot = &mut self.slots[number];
        let State::Free(mut buffer) = std::mem::replace(&mut slot.state, State::Moving) else {
            return false;
        };
        let len = fill(buffer.bytes_mut());
        if len == 0 {
            slot.state = State::Free(buffer);
            return false;
        }
        slot.key = key;
        slot.len = len;
        // Nobody is called when it ends; `arm` sees to that.
        slot.state = State::Writing(ring_write(socket, buffer, len));
        self.free.pop();
        self.busy.push(number);
        self.armed = false;
        true
    }

    /// Has the task of `cx` called when the writes begun since the last call have ended. All of them
    /// enter the kernel at once and end there, so the call of one does for all; should one take
    /// longer, [`Writer::poll`] leaves a waker with it.
    pub fn arm(&mut self, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.armed, true)
            && let Some(&number) = self.busy.last()
            && self.slots[number].advance(cx)
        {
            // It ended before the ring was entered for it, as it is when the ring was full.
            cx.waker().wake_by_ref();
        }
    }

    /// Hands out what has ended since the last call.
    pub fn poll(&mut self, cx: &mut Context<'_>, mut done: impl FnMut(usize, Outcome<'_>)) {
        self.busy.retain(|number| {
            let slot = &mut self.slots[*number];
            if !slot.advance(cx) {
                return true;
            }
            slot.finish(&mut done);
            self.free.push(*number);
            false
        });
    }
}

impl Slot {
    /// Goes on with the write. Returns whether it has ended.
    fn advance(&mut self, cx: &mut Context<'_>) -> bool {
        if let State::Writing(write) = &mut self.state
            && let Poll::Ready((result, buffer)) = Pin::new(write).poll(cx)
        {
            self.state = State::Written(result, buffer);
        }
        matches!(self.state, State::Written(..))
    }

    /// Says what has become of a write that has ended.
    fn finish(&mut self, done: &mut impl FnMut(usize, Outcome<'_>)) {
        let State::Written(result, buffer) = std::mem::replace(&mut self.state, State::Moving)
        else {
            return;
        };
        let outcome = match result {
            Ok(count) if count == self.len => Outcome::Whole,
            Ok(count) if count > 0 => Outcome::Short(&buffer.bytes()[count..self.len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Outcome::Short(&buffer.bytes()[..self.len])
            }
            Ok(_) | Err(_) => Outcome::Failed,
        };
        done(self.key, outcome);
        self.state = State::Free(buffer);
    }
}
