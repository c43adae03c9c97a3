//! What a handler answers with. Building one never fails and never panics: what cannot be sent is
//! noted, logged when it is to be sent, and becomes a 500.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;

use bytes::Bytes;
use serde::Serialize;

use crate::limits::MAX_RESPONSE_HEAD;
use crate::worker::body::{Body, BodyError};
use crate::worker::writer::BodyWriter;

/// A future that another thread may take over.
pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An answer: status, field lines and a body.
///
/// ```
/// use slotway::worker::Response;
///
/// let answer = Response::new(201).header("location", "/items/7").body("made");
/// # let _ = answer;
/// ```
#[derive(Debug)]
pub struct Response {
    pub(crate) status: u16,
    /// Field lines as they are sent, CRLF after each.
    pub(crate) fields: Cow<'static, [u8]>,
    pub(crate) payload: Payload,
    /// The first thing that is wrong with it.
    pub(crate) fault: Option<String>,
}

/// A body to answer with.
pub enum Payload {
    /// None.
    #[doc(hidden)]
    Empty,
    /// Bytes that are in memory.
    #[doc(hidden)]
    Static(&'static [u8]),
    /// Bytes that are in memory.
    #[doc(hidden)]
    Vec(Vec<u8>),
    /// Bytes that are in memory.
    #[doc(hidden)]
    Bytes(Bytes),
    /// The body of the request, passed on as it arrives.
    #[doc(hidden)]
    Request(Box<Body>),
    /// What this writes, on a thread that may block.
    #[doc(hidden)]
    Stream(Option<u64>, StreamFn),
    /// What this writes, in an event loop.
    #[doc(hidden)]
    AsyncStream(Option<u64>, AsyncStreamFn),
}

pub(crate) type StreamFn = Box<dyn FnOnce(&mut BodyWriter) -> io::Result<()> + Send>;
type AsyncStreamFn = Box<dyn FnOnce(BodyWriter) -> BoxFuture<io::Result<()>> + Send>;

const TEXT: &[u8] = b"content-type: text/plain; charset=utf-8\r\n";
const HTML: &[u8] = b"content-type: text/html; charset=utf-8\r\n";
const JSON: &[u8] = b"content-type: application/json\r\n";

impl Response {
    /// An answer with this status (200 to 599) and no body.
    pub fn new(status: u16) -> Response {
        let fault = (!(200..=599).contains(&status))
            .then(|| format!("the status {status} is not one from 200 to 599"));
        Response {
            status,
            fields: Cow::Borrowed(&[]),
            payload: Payload::Empty,
            fault,
        }
    }

    /// 200 with no body yet.
    pub fn ok() -> Response {
        Response::new(200)
    }

    /// 204: done, and there is nothing to say.
    pub fn no_content() -> Response {
        Response::new(204)
    }

    /// 404 with a short text.
    pub fn not_found() -> Response {
        Response::text("not found\n").status(404)
    }

    /// 200 with a text, as `text/plain; charset=utf-8`.
    pub fn text(text: impl Into<Payload>) -> Response {
        Response::with_fields(TEXT, text.into())
    }

    /// 200 with a page, as `text/html; charset=utf-8`.
    pub fn html(page: impl Into<Payload>) -> Response {
        Response::with_fields(HTML, page.into())
    }

    /// 200 with a value as JSON. A value that cannot be written as JSON becomes a 500.
    pub fn json(value: &impl Serialize) -> Response {
        match simd_json::to_vec(value) {
            Ok(json) => Response::with_fields(JSON, Payload::Vec(json)),
            Err(error) => Response::faulty(format!("the value cannot be written as JSON: {error}")),
        }
    }

    /// Sets the status, 200 to 599.
    pub fn status(mut self, status: u16) -> Response {
        let fault = Response::new(status).fault;
        self.status = status;
        self.fault = self.fault.or(fault);
        self
    }

    /// Adds a field line behind those there are. The name must be a token and the value free of
    /// control characters (RFC 9110, section 5.5).
    ///
    /// The hub writes `Connection`, `Content-Length`, `Transfer-Encoding` and their like by itself
    /// and drops them here.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Response {
        let value = value.as_ref();
        if !is_token(name.as_bytes()) {
            return self.with_fault(format!("'{}' is no field name", name.escape_debug()));
        }
        if let Some(byte) = value.iter().find(|b| b.is_ascii_control() && **b != b'\t') {
            let detail = format!("the value of the field '{name}' holds the byte {byte:#04x}");
            return self.with_fault(detail);
        }
        let fields = self.fields.to_mut();
        fields.reserve(name.len() + value.len() + 4);
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            fields.extend_from_slice(part);
        }
        if fields.len() > MAX_RESPONSE_HEAD {
            let detail = format!("its field lines take more than {MAX_RESPONSE_HEAD} bytes");
            return self.with_fault(detail);
        }
        self
    }

    /// Sets the body: bytes, a text, or the [`Body`] of the request.
    pub fn body(mut self, body: impl Into<Payload>) -> Response {
        self.payload = body.into();
        self
    }

    /// Sets the body to whatever `write` writes, of a length not known before. It runs on the thread
    /// of the handler, after the handler; on a thread for blocking work in an async worker. Writing
    /// waits while the client does not take what was written.
    ///
    /// An error before anything was sent becomes a 500, later it cuts the body short in a way that
    /// the client can see.
    pub fn stream(
        self,
        write: impl FnOnce(&mut BodyWriter) -> io::Result<()> + Send + 'static,
    ) -> Response {
        self.body(Payload::Stream(None, Box::new(write)))
    }

    /// As [`Response::stream`], with a length known before: `write` must write exactly `length` bytes.
    pub fn stream_sized(
        self,
        length: u64,
        write: impl FnOnce(&mut BodyWriter) -> io::Result<()> + Send + 'static,
    ) -> Response {
        self.body(Payload::Stream(Some(length), Box::new(write)))
    }

    /// Sets the body to these parts, one after the other, of a length not known before.
    pub fn chunks<I>(self, parts: I) -> Response
    where
        I: IntoIterator<Item = Bytes>,
        I::IntoIter: Send + 'static,
    {
        let mut parts = parts.into_iter();
        self.stream(move |out| parts.try_for_each(|part| io::Write::write_all(out, &part)))
    }

    /// As [`Response::stream`], for async handlers: `write` gets the writer and must be done with it
    /// when its future ends.
    pub fn stream_async<F>(self, write: impl FnOnce(BodyWriter) -> F + Send + 'static) -> Response
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        self.body(Payload::AsyncStream(
            None,
            Box::new(move |out| Box::pin(write(out))),
        ))
    }

    /// As [`Response::stream_sized`], for async handlers.
    pub fn stream_async_sized<F>(
        self,
        length: u64,
        write: impl FnOnce(BodyWriter) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        self.body(Payload::AsyncStream(
            Some(length),
            Box::new(move |out| Box::pin(write(out))),
        ))
    }

    /// The status that will be sent.
    pub fn status_code(&self) -> u16 {
        self.status
    }

    pub(crate) fn faulty(fault: String) -> Response {
        Response::new(500).with_fault(fault)
    }

    /// What the client is told where the worker is at fault; the reason is in its log.
    pub(crate) fn internal_error() -> Response {
        Response::text("the worker failed to answer; its log says why\n").status(500)
    }

    fn with_fields(fields: &'static [u8], payload: Payload) -> Response {
        Response {
            fields: Cow::Borrowed(fields),
            ..Response::ok().body(payload)
        }
    }

    fn with_fault(mut self, fault: String) -> Response {
        self.fault.get_or_insert(fault);
        self
    }
}

/// A field name's characters (RFC 9110, section 5.6.2).
fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// What a handler may return.
pub trait IntoResponse {
    /// The answer.
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Response {
        Response::no_content()
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response {
        Response::ok().body(self)
    }
}

impl IntoResponse for Bytes {
    fn into_response(self) -> Response {
        Response::ok().body(self)
    }
}

impl<T: IntoResponse> IntoResponse for (u16, T) {
    fn into_response(self) -> Response {
        self.1.into_response().status(self.0)
    }
}

/// An error becomes a 500 and a line in the log; a [`BodyError`] the status that it names; a
/// [`Response`] is sent as it is.
impl<T: IntoResponse, E: fmt::Display + 'static> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        let error = match self {
            Ok(value) => return value.into_response(),
            Err(error) => error,
        };
        let mut error = Some(error);
        if let Some(response) = (&mut error as &mut dyn Any).downcast_mut::<Option<Response>>() {
            return response.take().expect("it was put there");
        }
        let error = error.expect("it was put there");
        match (&error as &dyn Any).downcast_ref::<BodyError>() {
            Some(BodyError::TooLarge { .. }) => Response::text(format!("{error}\n")).status(413),
            Some(BodyError::Json(_) | BodyError::Incomplete) => {
                Response::text(format!("{error}\n")).status(400)
            }
            _ => {
                tracing::error!(%error, "a handler failed: answering 500");
                Response::internal_error()
            }
        }
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an answer with status {}", self.status)
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Payload::Empty => f.write_str("Empty"),
            Payload::Static(bytes) => write!(f, "{} bytes", bytes.len()),
            Payload::Vec(bytes) => write!(f, "{} bytes", bytes.len()),
            Payload::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Payload::Request(body) => body.fmt(f),
            Payload::Stream(length, _) | Payload::AsyncStream(length, _) => {
                write!(f, "a stream of length {length:?}")
            }
        }
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Payload {
        Payload::Static(text.as_bytes())
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Payload {
        Payload::Static(bytes)
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Payload {
        Payload::Vec(text.into_bytes())
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload::Vec(bytes)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Payload {
        Payload::Bytes(bytes)
    }
}

impl From<Body> for Payload {
    fn from(body: Body) -> Payload {
        Payload::Request(Box::new(body))
    }
}
