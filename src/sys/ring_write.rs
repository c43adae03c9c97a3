//! Writes to stream sockets through the ring of the tokio-uring runtime, from buffers that are
//! registered with it where the kernel allows. tokio-uring's own `write_fixed` keeps a count of
//! references beside each descriptor, which for thousands of sockets means a wait for memory at each
//! write; here whoever owns the socket lends it instead.

use std::io::{self, IoSlice};
use std::marker::PhantomData;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::OnceLock;

use io_uring::{cqueue, opcode, types};
use rustix::io::{ReadWriteFlags, pwritev2};
use tokio_uring::buf::fixed::{FixedBuf, FixedBufPool};
use tokio_uring::{InFlightOneshot, OneshotOutputTransform, UnsubmittedOneshot};

/// The offset that tells the kernel to write at the file position, of which sockets have none.
const NO_OFFSET: u64 = u64::MAX;

/// A buffer that a write may use.
pub enum Buffer {
    /// Registered with the ring.
    Fixed(FixedBuf),
    /// Plain memory.
    Plain(Vec<u8>),
}

impl Buffer {
    /// Registers `count` buffers of `len` bytes each. Must be called within a tokio-uring runtime,
    /// once.
    ///
    /// # Errors
    /// The kernel refuses, for want of lockable memory most likely.
    pub fn register(count: usize, len: usize) -> io::Result<Vec<Buffer>> {
        let pool = FixedBufPool::new((0..count).map(|_| vec![0u8; len]));
        pool.register()?;
        Ok(std::iter::from_fn(|| pool.try_next(len))
            .map(Buffer::Fixed)
            .collect())
    }

    /// A buffer of `len` bytes that is not registered.
    pub fn plain(len: usize) -> Buffer {
        Buffer::Plain(vec![0; len])
    }

    /// What it holds, to its whole length.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Buffer::Fixed(buffer) => buffer,
            Buffer::Plain(buffer) => buffer,
        }
    }

    /// What it holds, to its whole length.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Buffer::Fixed(buffer) => buffer,
            Buffer::Plain(buffer) => buffer,
        }
    }
}

/// A write under way: a future that says how many bytes the socket took.
pub type RingWrite<S> = InFlightOneshot<Held<S>, Took<S>>;

/// What must outlive a write: it is kept by the runtime if the future is dropped. Two pointers, since it
/// is moved from hand to hand on its way.
pub struct Held<S> {
    _buffer: Rc<Buffer>,
    _socket: Rc<S>,
}

/// Makes the outcome of a write from its completion.
pub struct Took<S>(PhantomData<fn(S)>);

/// Puts a write of the first `len` bytes of `buffer` into the ring, which is entered when the runtime
/// has nothing else to do. Any number of writes may share a buffer; it can be changed again when the
/// last of them has ended. A socket without room is not waited for. Must be called within a tokio-uring
/// runtime.
///
/// # Panics
/// The buffer is shorter than `len`.
pub fn ring_write<S: AsRawFd + 'static>(
    socket: &Rc<S>,
    buffer: &Rc<Buffer>,
    len: usize,
) -> RingWrite<S> {
    // The kernel reads these bytes, and no others, until the operation has completed: until then `Held`
    // keeps the buffer, which nobody can change or move while it is shared, and the descriptor open.
    let bytes = &buffer.bytes()[..len];
    let (at, len) = (bytes.as_ptr(), u32::try_from(len).unwrap_or(u32::MAX));
    let fd = types::Fd(socket.as_raw_fd());
    // That the socket is non-blocking is not enough: the ring waits for room in its place.
    let entry = match (&**buffer, knows_nowait()) {
        (Buffer::Fixed(fixed), true) => opcode::WriteFixed::new(fd, at, len, fixed.buf_index())
            .rw_flags(libc::RWF_NOWAIT)
            .build(),
        (Buffer::Plain(_), _) | (_, false) => opcode::Send::new(fd, at, len)
            .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
            .build(),
    };
    let held = Held {
        _buffer: buffer.clone(),
        _socket: socket.clone(),
    };
    UnsubmittedOneshot::new(held, Took(PhantomData), entry).submit()
}

/// Whether the kernel (6.5) takes a write to a socket that is not to wait.
fn knows_nowait() -> bool {
    static KNOWS: OnceLock<bool> = OnceLock::new();
    *KNOWS.get_or_init(|| {
        let Ok((near, _far)) = UnixStream::pair() else {
            return false;
        };
        let bytes = [IoSlice::new(b"x")];
        pwritev2(&near, &bytes, NO_OFFSET, ReadWriteFlags::NOWAIT).is_ok()
    })
}

impl<S: 'static> OneshotOutputTransform for Took<S> {
    type Output = io::Result<usize>;
    type StoredData = Held<S>;

    fn transform_oneshot_output(self, _: Held<S>, entry: cqueue::Entry) -> Self::Output {
        match entry.result() {
            count @ 0.. => Ok(count as usize),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}
