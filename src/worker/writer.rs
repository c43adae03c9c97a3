//! The writing end of a streamed answer, and how answers of every kind are sent: on a thread that
//! may block, or in an event loop.

use std::future::poll_fn;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::worker::answer::{Answer, Stream};
use crate::worker::body::Body;
use crate::worker::poll_guard;
use crate::worker::response::{Payload, Response, StreamFn};
use crate::worker::session::lock;

/// Writes the body of a streamed answer straight into the memory shared with the hub.
///
/// What is written goes out when a frame is full (up to 128 KiB), at [`flush`](io::Write::flush), and
/// at the end. Writing waits while the client does not take what was sent before, and fails with
/// `BrokenPipe` once it has gone.
#[derive(Debug)]
pub struct BodyWriter {
    /// Present until dropped.
    stream: Option<Stream>,
    /// Where an async writer leaves its stream, for the last word to be said.
    home: Option<Arc<Mutex<Option<Stream>>>>,
}

impl BodyWriter {
    /// Writes all of `data`; for async handlers.
    ///
    /// # Errors
    /// `BrokenPipe` when the client has gone, `NotConnected` when the hub has, `InvalidInput` for
    /// more bytes than were announced.
    pub async fn write(&mut self, data: impl Into<Bytes>) -> io::Result<()> {
        let data = data.into();
        let mut rest = &data[..];
        while !rest.is_empty() {
            let count = poll_fn(|cx| self.stream().poll_write(cx, rest)).await?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// Sends what was written so far, the head at least; for async handlers.
    ///
    /// # Errors
    /// `BrokenPipe` when the client has gone, `NotConnected` when the hub has.
    pub async fn send(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.stream().poll_flush(cx)).await
    }

    fn stream(&mut self) -> &mut Stream {
        self.stream
            .as_mut()
            .expect("a writer has its stream until it is dropped")
    }

    fn block_on<T>(
        &mut self,
        mut poll: impl FnMut(&mut Stream, &Context<'_>) -> Poll<io::Result<T>>,
    ) -> io::Result<T> {
        if poll_guard::is_polling() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "an async handler must not block: use the methods that are awaited",
            ));
        }
        let session = self.stream().session().clone();
        session.block_on(|cx| poll(self.stream(), cx))
    }
}

impl io::Write for BodyWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.block_on(|stream, cx| stream.poll_write(cx, data))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.block_on(|stream, cx| stream.poll_flush(cx))
    }
}

impl Drop for BodyWriter {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            *lock(home) = self.stream.take();
        }
    }
}

/// Sends an answer on a thread that may block.
pub(crate) fn send_blocking(mut answer: Answer, response: Response) {
    let Response {
        status,
        mut fields,
        payload,
        ..
    } = checked(response);
    let payload = match settle(&mut answer, status, &fields, payload) {
        Some(rest) => rest,
        None => return,
    };
    let total = length_of(&payload);
    let write: StreamFn = match payload {
        Payload::Stream(_, write) => write,
        Payload::Request(body) => Box::new(|out| copy_blocking(*body, out)),
        Payload::AsyncStream(..) => {
            tracing::error!("an async stream cannot be sent by a blocking worker: answering 500");
            return send_blocking(answer, Response::internal_error());
        }
        whole => Box::new(move |out| io::Write::write_all(out, bytes_of(&whole))),
    };
    let stream = answer.into_stream(status, std::mem::take(&mut fields), total);
    let mut writer = BodyWriter {
        stream: Some(stream),
        home: None,
    };
    let outcome = if writer.stream().is_bodyless() {
        writer.block_on(Stream::poll_head_only)
    } else {
        let written = catch_unwind(AssertUnwindSafe(|| write(&mut writer)));
        written
            .unwrap_or_else(|_| Err(io::Error::other("the handler panicked in its stream")))
            .and_then(|()| writer.block_on(Stream::poll_finish))
    };
    if let (Err(error), Some(stream)) = (outcome, writer.stream.take())
        && let Some(answer) = give_up(stream, &error)
    {
        send_blocking(answer, Response::internal_error());
    }
}

/// Sends an answer that fits one frame, if there are slots for it now. Otherwise it comes back.
#[cfg(feature = "tokio")]
pub(crate) fn try_send(answer: &mut Answer, response: Response) -> Option<Response> {
    let Response {
        status,
        fields,
        payload,
        ..
    } = checked(response);
    let payload = settle(answer, status, &fields, payload)?;
    Some(Response {
        status,
        fields,
        payload,
        fault: None,
    })
}

/// Sends an answer in an event loop. Streams that block are not for this.
#[cfg(feature = "tokio")]
pub(crate) async fn send_async(mut answer: Answer, response: Response) {
    let Response {
        status,
        fields,
        payload,
        ..
    } = checked(response);
    let Some(payload) = settle(&mut answer, status, &fields, payload) else {
        return;
    };
    let mut stream = answer.into_stream(status, fields, length_of(&payload));
    let outcome = if stream.is_bodyless() {
        poll_fn(|cx| stream.poll_head_only(cx)).await
    } else if let Payload::AsyncStream(_, write) = payload {
        let home = Arc::new(Mutex::new(None));
        let writer = BodyWriter {
            stream: Some(stream),
            home: Some(home.clone()),
        };
        let started = crate::worker::tokio::start_caught(|| write(writer));
        let written = crate::worker::tokio::caught(started)
            .await
            .unwrap_or_else(|()| Err(io::Error::other("the handler panicked in its stream")));
        let returned = lock(&home).take();
        let Some(back) = returned else {
            // The writer lives on elsewhere; when it is dropped, the answer counts as given up.
            tracing::error!(
                "an async stream ended before its writer was dropped: the answer is cut"
            );
            return;
        };
        stream = back;
        match written {
            Ok(()) => poll_fn(|cx| stream.poll_finish(cx)).await,
            Err(error) => Err(error),
        }
    } else {
        write_async(&mut stream, payload).await
    };
    if let Err(error) = outcome
        && let Some(mut answer) = give_up(stream, &error)
    {
        let Response {
            status,
            fields,
            payload,
            ..
        } = Response::internal_error();
        // Where no slot is free even for this, the answer says it when it is dropped.
        let _ = settle(&mut answer, status, &fields, payload);
    }
}

#[cfg(feature = "tokio")]
async fn write_async(stream: &mut Stream, payload: Payload) -> io::Result<()> {
    if let Payload::Request(mut body) = payload {
        while let Some(part) = poll_fn(|cx| body.poll_part(cx)).await.transpose()? {
            write_slice(stream, part.as_slice()).await?;
            // What the client has sent may be what it waits to see answered before it sends more.
            if body.would_wait() {
                poll_fn(|cx| stream.poll_flush(cx)).await?;
            }
        }
    } else {
        write_slice(stream, bytes_of(&payload)).await?;
    }
    poll_fn(|cx| stream.poll_finish(cx)).await
}

#[cfg(feature = "tokio")]
async fn write_slice(stream: &mut Stream, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        let count = poll_fn(|cx| stream.poll_write(cx, rest)).await?;
        rest = &rest[count..];
    }
    Ok(())
}

/// What is wrong with an answer turns it into a 500 here, at the latest.
fn checked(response: Response) -> Response {
    match &response.fault {
        None => response,
        Some(fault) => {
            tracing::error!(%fault, "a handler's answer cannot be sent: answering 500");
            Response::internal_error()
        }
    }
}

/// Sends what fits one frame. `None`: all is said.
fn settle(answer: &mut Answer, status: u16, fields: &[u8], payload: Payload) -> Option<Payload> {
    // These never have a body (RFC 9110, sections 15.3.5 and 15.4.5).
    let payload = if matches!(status, 204 | 304) {
        Payload::Empty
    } else {
        payload
    };
    let whole = match &payload {
        Payload::Request(body) if body.is_contiguous() => body.available(),
        Payload::Request(_) | Payload::Stream(..) | Payload::AsyncStream(..) => {
            return Some(payload);
        }
        whole => bytes_of(whole),
    };
    if answer.try_whole(status, fields, whole) {
        None
    } else {
        Some(payload)
    }
}

fn bytes_of(payload: &Payload) -> &[u8] {
    match payload {
        Payload::Static(bytes) => bytes,
        Payload::Vec(bytes) => bytes,
        Payload::Bytes(bytes) => bytes,
        _ => &[],
    }
}

fn length_of(payload: &Payload) -> Option<u64> {
    match payload {
        Payload::Request(body) if body.is_contiguous() => Some(body.available().len() as u64),
        Payload::Request(body) => body.length_left(),
        Payload::Stream(length, _) | Payload::AsyncStream(length, _) => *length,
        whole => Some(bytes_of(whole).len() as u64),
    }
}

fn copy_blocking(mut body: Body, out: &mut BodyWriter) -> io::Result<()> {
    while let Some(part) = body.read_part()? {
        io::Write::write_all(out, part.as_slice())?;
        // What the client has sent may be what it waits to see answered before it sends more.
        if body.would_wait() {
            io::Write::flush(out)?;
        }
    }
    Ok(())
}

/// A stream has failed. Returns the duty to answer where the client can still be told.
fn give_up(stream: Stream, error: &io::Error) -> Option<Answer> {
    let gone = matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected
    ) || stream.is_cancelled();
    if !gone {
        tracing::error!(%error, "a streamed answer failed");
    }
    (stream.is_silent() && !gone).then(|| stream.into_answer())
}
