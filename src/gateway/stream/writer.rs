//! Writes to many sockets at once, each from a buffer of its own that is registered with the ring. A
//! subscriber holds a buffer only while a write is under way; as its socket is non-blocking, that is
//! until the ring has been entered once.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio_uring::buf::BoundedBuf;
use tokio_uring::buf::fixed::{FixedBuf, FixedBufPool};

use crate::gateway::stream::socket::Socket;

/// Bytes in each buffer: a few dozen events of the usual size.
pub const BUFFER_LEN: usize = 8 * 1024;
/// Most buffers, and so most writes that enter the kernel together.
pub const MAX_BUFFERS: usize = 128;
/// Fewest: below this the hub would rather do without registration.
pub const MIN_BUFFERS: usize = 16;

/// A buffer that a write may use.
pub enum Buffer {
    /// Registered with the ring.
    Fixed(FixedBuf),
    /// Plain memory, where registration failed.
    Plain(Vec<u8>),
}

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
            let pool = FixedBufPool::new((0..count).map(|_| vec![0u8; BUFFER_LEN]));
            match pool.register() {
                Ok(()) => {
                    let buffers = std::iter::from_fn(|| pool.try_next(BUFFER_LEN));
                    return Buffers {
                        buffers: buffers.map(Buffer::Fixed).collect(),
                        unregistered: None,
                    };
                }
                Err(error) => why = error,
            }
            count /= 2;
        }
        Buffers {
            buffers: (0..MAX_BUFFERS)
                .map(|_| Buffer::Plain(vec![0; BUFFER_LEN]))
                .collect(),
            unregistered: Some(why),
        }
    }
}

impl Buffer {
    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Buffer::Fixed(buffer) => buffer,
            Buffer::Plain(buffer) => buffer,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Buffer::Fixed(buffer) => buffer,
            Buffer::Plain(buffer) => buffer,
        }
    }
}

/// What a write gives back.
pub struct Written {
    result: io::Result<usize>,
    buffer: Buffer,
}

/// Writes the first `len` bytes of a buffer, once.
pub async fn write(socket: Rc<Socket>, buffer: Buffer, len: usize) -> Written {
    match buffer {
        Buffer::Fixed(buffer) => {
            let (result, buffer) = socket.stream().write_fixed(buffer.slice(..len)).await;
            Written {
                result,
                buffer: Buffer::Fixed(buffer.into_inner()),
            }
        }
        Buffer::Plain(buffer) => {
            let (result, buffer) = socket.stream().write(buffer.slice(..len)).submit().await;
            Written {
                result,
                buffer: Buffer::Plain(buffer.into_inner()),
            }
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

/// The writes under way. `F` is the future of [`write()`].
pub struct Writer<F> {
    begin: fn(Rc<Socket>, Buffer, usize) -> F,
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    busy: Vec<usize>,
    /// Whether the task is called when the writes end.
    armed: bool,
}

struct Slot<F> {
    write: Pin<Box<Option<F>>>,
    /// What a write gave back before it was even submitted.
    early: Option<Written>,
    buffer: Option<Buffer>,
    /// Who the write is for.
    key: usize,
    len: usize,
}

impl<F: Future<Output = Written>> Writer<F> {
    /// A writer with these buffers; `begin` is [`write()`].
    pub fn new(begin: fn(Rc<Socket>, Buffer, usize) -> F, buffers: Vec<Buffer>) -> Writer<F> {
        let slot = |buffer| Slot {
            write: Box::pin(None),
            early: None,
            buffer: Some(buffer),
            key: 0,
            len: 0,
        };
        let slots: Vec<_> = buffers.into_iter().map(slot).collect();
        Writer {
            begin,
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
        let Some(mut buffer) = slot.buffer.take() else {
            return false;
        };
        let len = fill(buffer.bytes_mut());
        if len == 0 {
            slot.buffer = Some(buffer);
            return false;
        }
        slot.key = key;
        slot.len = len;
        slot.write
            .set(Some((self.begin)(socket.clone(), buffer, len)));
        // The first poll puts the operation into the ring, which is entered when the thread has
        // nothing else to do. Nobody is called for each of them; `arm` sees to that.
        slot.advance(&mut Context::from_waker(Waker::noop()));
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
        {
            let slot = &mut self.slots[number];
            slot.advance(cx);
            if slot.early.is_some() {
                cx.waker().wake_by_ref();
            }
        }
    }

    /// Hands out what has ended since the last call.
    pub fn poll(&mut self, cx: &mut Context<'_>, mut done: impl FnMut(usize, Outcome<'_>)) {
        self.busy.retain(|number| {
            let slot = &mut self.slots[*number];
            let Poll::Ready(written) = slot.poll(cx) else {
                return true;
            };
            self.free.push(*number);
            slot.finish(written, &mut done);
            false
        });
    }
}

impl<F: Future<Output = Written>> Slot<F> {
    /// Polls a write whose end is looked at later.
    fn advance(&mut self, cx: &mut Context<'_>) {
        if self.early.is_none()
            && let Poll::Ready(written) = self.poll(cx)
        {
            self.early = Some(written);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Written> {
        match (self.early.take(), self.write.as_mut().as_pin_mut()) {
            (Some(written), _) => Poll::Ready(written),
            (None, Some(write)) => write.poll(cx),
            (None, None) => Poll::Pending,
        }
    }

    fn finish(&mut self, written: Written, done: &mut impl FnMut(usize, Outcome<'_>)) {
        let Written { result, buffer } = written;
        self.write.set(None);
        let outcome = match result {
            Ok(count) if count == self.len => Outcome::Whole,
            Ok(count) if count > 0 => Outcome::Short(&buffer.bytes()[count..self.len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Outcome::Short(&buffer.bytes()[..self.len])
            }
            Ok(_) | Err(_) => Outcome::Failed,
        };
        done(self.key, outcome);
        self.buffer = Some(buffer);
    }
}
