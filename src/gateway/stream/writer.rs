//! Writes to many sockets at once, from buffers that are registered with the ring. A frame that is all a
//! subscriber waits for goes from a buffer that everybody shares who waits for the same; anything else
//! is put together in a buffer of its own. Either is held only while a write is under way; as none waits
//! for room, that is until the ring has been entered once.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::gateway::stream::socket::Socket;
use crate::sse::{Frame, Queue};
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

/// Buffers for frames that many wait for: one is written from while the next is begun.
const SHARED: usize = 2;
const _: () = assert!(SHARED < MIN_BUFFERS);

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
    shared: Vec<Shared>,
    free: Vec<usize>,
    busy: Vec<usize>,
    /// Whether the task is called when the writes end.
    armed: bool,
}

/// One write at a time.
struct Slot {
    state: State,
    /// Who it is for.
    key: usize,
    len: usize,
    /// For what is put together for one subscriber.
    own: Rc<Buffer>,
    /// Which of the shared buffers is written from instead.
    shared: Option<usize>,
}

enum State {
    Free,
    Writing(RingWrite<Socket>),
    Written(io::Result<usize>),
}

/// A buffer for a frame.
struct Shared {
    buffer: Rc<Buffer>,
    /// What it holds: keeps the address below from being used for another.
    frame: Option<Rc<Frame>>,
    /// Where the bytes stand in the frame, which tells its two forms apart.
    address: *const u8,
}

impl Writer {
    /// A writer with these buffers.
    ///
    /// # Panics
    /// They are fewer than [`MIN_BUFFERS`].
    pub fn new(buffers: Vec<Buffer>) -> Writer {
        assert!(buffers.len() >= MIN_BUFFERS, "too few buffers");
        let mut buffers = buffers.into_iter().map(Rc::new);
        let shared = buffers.by_ref().take(SHARED).map(|buffer| Shared {
            buffer,
            frame: None,
            address: std::ptr::null(),
        });
        let shared = shared.collect();
        let slot = |own| Slot {
            state: State::Free,
            key: 0,
            len: 0,
            own,
            shared: None,
        };
        let slots: Vec<_> = buffers.map(slot).collect();
        Writer {
            shared,
            free: (0..slots.len()).collect(),
            busy: Vec::with_capacity(slots.len()),
            armed: true,
            slots,
        }
    }

    /// Whether a write can be begun.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.busy.is_empty()
    }

    /// Begins a write of what waits in a queue, as much as a buffer takes. Returns whether there was
    /// room and anything to write.
    pub fn begin(&mut self, key: usize, socket: &Rc<Socket>, queue: &mut Queue) -> bool {
        let Some(&number) = self.free.last() else {
            return false;
        };
        let slot = &mut self.slots[number];
        let sole = queue.sole();
        slot.shared = sole.and_then(|(frame, bytes)| share(&mut self.shared, frame, bytes));
        let buffer = match slot.shared {
            Some(shared) => {
                slot.len = queue.take_sole();
                &self.shared[shared].buffer
            }
            None => {
                // The write that used it last has ended, and has let go of it.
                let Some(own) = Rc::get_mut(&mut slot.own) else {
                    return false;
                };
                slot.len = queue.fill(own.bytes_mut());
                &slot.own
            }
        };
        if slot.len == 0 {
            return false;
        }
        slot.key = key;
        // Nobody is called when it ends; `arm` sees to that.
        slot.state = State::Writing(ring_write(socket, buffer, slot.len));
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
            if let State::Written(result) = std::mem::replace(&mut slot.state, State::Free) {
                let buffer = match slot.shared {
                    Some(shared) => &self.shared[shared].buffer,
                    None => &slot.own,
                };
                done(slot.key, outcome(&result, &buffer.bytes()[..slot.len]));
            }
            self.free.push(*number);
            false
        });
    }
}

impl Slot {
    /// Goes on with the write. Returns whether it has ended.
    fn advance(&mut self, cx: &mut Context<'_>) -> bool {
        if let State::Writing(write) = &mut self.state
            && let Poll::Ready(result) = Pin::new(write).poll(cx)
        {
            self.state = State::Written(result);
        }
        matches!(self.state, State::Written(_))
    }
}

/// The shared buffer that holds this frame in the form of these bytes, which it is put into if one is
/// not written from any more.
fn share(buffers: &mut [Shared], frame: &Rc<Frame>, bytes: &[u8]) -> Option<usize> {
    let holder = buffers.iter().position(|b| b.address == bytes.as_ptr());
    if holder.is_some() || bytes.len() > BUFFER_LEN {
        return holder;
    }
    buffers.iter_mut().position(|shared| {
        let Some(buffer) = Rc::get_mut(&mut shared.buffer) else {
            return false;
        };
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        shared.frame = Some(frame.clone());
        shared.address = bytes.as_ptr();
        true
    })
}

fn outcome<'a>(result: &io::Result<usize>, bytes: &'a [u8]) -> Outcome<'a> {
    match result {
        Ok(count) if *count == bytes.len() => Outcome::Whole,
        Ok(count) if *count > 0 => Outcome::Short(&bytes[*count..]),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Outcome::Short(bytes),
        Ok(_) | Err(_) => Outcome::Failed,
    }
}
