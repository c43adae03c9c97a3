//! The receiving half of a connection: one buffer, and at most one read under way. The read for the
//! next request is begun while the present one is answered, so that a client that leaves is noticed
//! without a system call of its own.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use monoio::io::{AsyncReadRent, CancelHandle, CancelableAsyncReadRent, OwnedReadHalf};
use monoio::net::UnixStream;

use crate::gateway::buffers::{SlotBuffer, Tail};
use crate::http::decode_whole;
use crate::limits::MAX_HEAD;

/// Room while nothing is expected soon: to notice that something comes.
const TINY: usize = 64;
/// Room for the requests most clients send. A buffer grows where one does not fit.
const SMALL: usize = 1024;
/// Room where a body is received whole, or read to be forgotten.
const AMPLE: usize = 16 * 1024;
/// Largest buffer: a whole head, and room to read on.
const LARGE: usize = 2 * MAX_HEAD;

/// The receiving half of a socket of any family.
pub type Reader = OwnedReadHalf<UnixStream>;

/// What a read gives back.
pub struct ReadDone {
    reader: Reader,
    bytes: Vec<u8>,
    result: io::Result<usize>,
}

/// Reads once into the room behind `bytes`.
pub async fn read_more(mut reader: Reader, bytes: Vec<u8>) -> ReadDone {
    let (result, Tail(bytes)) = reader.read(Tail(bytes)).await;
    ReadDone {
        reader,
        bytes,
        result,
    }
}

/// The receiving half of a connection. `F` is the future of [`read_more`].
pub struct Input<'a, F> {
    begin_read: fn(Reader, Vec<u8>) -> F,
    pending: Pin<&'a mut Option<F>>,
    /// `None` while a read is under way.
    reader: Option<Reader>,
    bytes: Vec<u8>,
    /// How many of the bytes are used up.
    used: usize,
    /// Room for what comes into an empty buffer.
    room: usize,
    /// Whether the read under way has bytes before it.
    pending_holds_bytes: bool,
    ended: bool,
    /// Whether it ended with an error.
    failed: bool,
}

/// How a client stopped sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It closed its sending side, and may still read.
    Closed,
    /// The connection is gone.
    Reset,
}

impl<'a, F: Future<Output = ReadDone>> Input<'a, F> {
    /// The half that reads from `reader`; `pending` is where a read under way is kept.
    pub fn new(
        begin_read: fn(Reader, Vec<u8>) -> F,
        pending: Pin<&'a mut Option<F>>,
        reader: Reader,
    ) -> Self {
        let bytes = Vec::new();
        Input {
            begin_read,
            pending,
            reader: Some(reader),
            bytes,
            used: 0,
            room: TINY,
            pending_holds_bytes: false,
            ended: false,
            failed: false,
        }
    }

    /// Bytes received and not used up. Empty while a read is under way.
    pub fn buffered(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    /// Whether a part of the next request has arrived, also while a read is under way.
    pub fn holds_bytes(&self) -> bool {
        !self.buffered().is_empty() || (self.reader.is_none() && self.pending_holds_bytes)
    }

    /// Uses up the first `count` buffered bytes.
    pub fn consume(&mut self, count: usize) {
        self.used = (self.used + count).min(self.bytes.len());
        if self.used == self.bytes.len() && self.reader.is_some() {
            self.bytes.clear();
            self.used = 0;
        }
    }

    /// Decodes in place the chunked body that begins at `at` of what is buffered, and returns its length;
    /// `None`, with nothing changed, as from [`decode_whole`].
    pub fn decode_chunked(&mut self, at: usize, most: u64) -> Option<usize> {
        let begin = self.used + at;
        let decoded = decode_whole(self.bytes.get_mut(begin..)?, most)?;
        self.bytes.drain(begin + decoded.len..begin + decoded.used);
        Some(decoded.len)
    }

    /// Says whether the next request is expected soon, and so what a read for it may take.
    pub fn expect_soon(&mut self, soon: bool) {
        self.room = if soon { SMALL } else { TINY };
    }

    /// Says that more comes than a head.
    pub fn expect_much(&mut self) {
        self.room = AMPLE;
    }

    /// Whether the client has stopped sending, or the socket has failed.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Receives more bytes. Returns how many; zero at the end.
    ///
    /// # Errors
    /// The socket's.
    pub async fn fill(&mut self) -> io::Result<usize> {
        self.begin();
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Waits, with the read for the next request under way, until the client has stopped sending.
    /// Never ends where the next request arrives instead: it stays in the buffer, and nothing is
    /// read behind it.
    pub async fn until_ended(&mut self) -> Departure {
        if !self.ended && self.buffered().is_empty() {
            let _ = self.fill().await;
        }
        match (self.ended, self.failed) {
            (true, true) => Departure::Reset,
            (true, false) => Departure::Closed,
            (false, _) => std::future::pending().await,
        }
    }

    /// Receives directly into slots. No read may be under way and nothing be buffered.
    ///
    /// # Errors
    /// The socket's; `UnexpectedEof` where the client has stopped sending; `ECANCELED` where that is how
    /// `cancel` has ended it.
    pub async fn fill_slots(
        &mut self,
        buffer: SlotBuffer,
        cancel: CancelHandle,
    ) -> (io::Result<()>, SlotBuffer) {
        let Some(reader) = self.reader.as_mut() else {
            return (Err(io::Error::other("a read is under way")), buffer);
        };
        let (result, buffer) = reader.cancelable_read(buffer, cancel).await;
        let result = match result {
            Ok(0) => {
                self.ended = true;
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                self.ended |= error.raw_os_error() != Some(libc::ECANCELED);
                Err(error)
            }
        };
        (result, buffer)
    }

    /// Begins a read unless one is under way.
    fn begin(&mut self) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        let mut bytes = std::mem::take(&mut self.bytes);
        if self.used > 0 {
            bytes.drain(..self.used);
            self.used = 0;
        }
        self.pending_holds_bytes = !bytes.is_empty();
        make_room(&mut bytes, self.room);
        self.pending.set(Some((self.begin_read)(reader, bytes)));
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(read) = self.pending.as_mut().as_pin_mut() else {
            return Poll::Ready(Ok(0));
        };
        let Poll::Ready(done) = read.poll(cx) else {
            return Poll::Pending;
        };
        self.pending.set(None);
        self.reader = Some(done.reader);
        self.bytes = done.bytes;
        self.ended |= !matches!(done.result, Ok(1..));
        self.failed |= done.result.is_err();
        Poll::Ready(done.result)
    }
}

/// Leaves room for a read: `room` in an empty buffer, which is kept small, for connections spend most
/// of their time waiting; a full one doubles.
fn make_room(bytes: &mut Vec<u8>, room: usize) {
    if bytes.is_empty() {
        if bytes.capacity() > 4 * room {
            *bytes = Vec::new();
        }
        if bytes.capacity() < room {
            bytes.reserve_exact(room);
        }
    } else if bytes.capacity() < SMALL {
        bytes.reserve_exact(SMALL - bytes.len());
    } else if bytes.len() == bytes.capacity() && bytes.len() < LARGE {
        bytes.reserve_exact(bytes.len());
    }
}
