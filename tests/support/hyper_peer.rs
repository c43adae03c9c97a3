//! hyper's server end of a connection, as a second opinion on where a request ends. What slotway takes
//! as one request, hyper must take as the same one, to the last byte; slotway is never more lenient.
//! Shared by a test, which replays the fuzz corpora, and by the fuzz targets.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use hyper::body::{Body, Bytes, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use slotway::http::{ChunkDecoder, ChunkStep, HeadScanner, parse_head};
use slotway::message::{BodyLength, RequestHead};

/// What follows the request in question: it is found whole only where that one ended.
const NEXT: &[u8] = b"GET /the-next HTTP/1.1\r\nHost: next\r\n\r\n";
/// What a chunked body alone is put behind.
const CHUNKED: &[u8] = b"POST /chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
/// Bodies that the input does not hold are made up to this length.
const LONGEST_BODY: u64 = 4096;

/// Takes a request out of arbitrary bytes, behind three that say how other checks cut it. Whether
/// there was one.
///
/// # Panics
/// If slotway accepts what hyper refuses, without a reason that is known, or what hyper ends elsewhere.
pub fn check_request(input: &[u8]) -> bool {
    let bytes = input.get(3..).unwrap_or_default();
    let Ok(Some(bounds)) = HeadScanner::default().scan(bytes) else {
        return false;
    };
    let mut head = RequestHead::default();
    let raw = &bytes[bounds.start..bounds.end];
    if parse_head(raw, &mut head).is_err() {
        return false;
    }
    let rest = &bytes[bounds.end..];
    let mut wire = bytes[..bounds.end].to_vec();
    let body = match head.body {
        BodyLength::None => Vec::new(),
        BodyLength::Known(len) if len <= LONGEST_BODY => {
            let filled = rest.iter().copied().chain(std::iter::repeat(b'x'));
            let body: Vec<u8> = filled.take(len as usize).collect();
            wire.extend_from_slice(&body);
            body
        }
        // Too long to be sent in full; its head is still compared.
        BodyLength::Known(_) => {
            compare_head(raw, &head, &wire);
            return true;
        }
        BodyLength::Chunked => match decode(rest) {
            Some((data, len)) => {
                wire.extend_from_slice(&rest[..len]);
                data
            }
            None => {
                compare_head(raw, &head, &wire);
                return true;
            }
        },
    };
    let expected = expected(raw, &head, body);
    compare(raw, &head, &wire, &expected);
    true
}

/// Takes the bytes, but for the first three, for a chunked body. Whether they are one.
///
/// # Panics
/// As [`check_request`].
pub fn check_chunked(input: &[u8]) -> bool {
    let bytes = input.get(3..).unwrap_or_default();
    let Some((data, len)) = decode(bytes) else {
        return false;
    };
    let wire = [CHUNKED, &bytes[..len]].concat();
    let mut head = RequestHead::default();
    parse_head(CHUNKED, &mut head).expect("a head without fault");
    let expected = expected(CHUNKED, &head, data);
    compare(CHUNKED, &head, &wire, &expected);
    true
}

/// Data and length of the chunked body that these bytes begin with, if slotway takes them for one.
fn decode(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut decoder, mut data, mut at) = (ChunkDecoder::default(), Vec::new(), 0);
    loop {
        match decoder.advance(&bytes[at..]).ok()? {
            ChunkStep::Data(range) => {
                data.extend_from_slice(&bytes[at..][range.clone()]);
                at += range.end;
            }
            ChunkStep::End(end) => return Some((data, at + end)),
            ChunkStep::NeedMore => return None,
        }
    }
}

/// A request as both sides describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Taken {
    method: String,
    path: Vec<u8>,
    query: Option<Vec<u8>>,
    fields: Vec<(String, Vec<u8>)>,
    /// `None` where it did not arrive in full, or not as announced.
    body: Option<Vec<u8>>,
}

fn expected(raw: &[u8], head: &RequestHead, body: Vec<u8>) -> Taken {
    let fields = head.fields().iter().map(|field| {
        let name = raw[field.name.range()].to_ascii_lowercase();
        let name = String::from_utf8(name).expect("a token");
        (name, raw[field.value.range()].to_vec())
    });
    // hyper keeps them sorted by name, and the values of each name in order.
    let mut fields: Vec<_> = fields.collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Taken {
        method: head.method.as_str().into(),
        path: raw[head.path.range()].to_vec(),
        query: head.query.map(|query| raw[query.range()].to_vec()),
        fields,
        body: Some(body),
    }
}

/// Both take the same request out of `wire`, and what follows for the next.
fn compare(raw: &[u8], head: &RequestHead, wire: &[u8], expected: &Taken) {
    let shown = wire.escape_ascii();
    let mut taken = serve(&[wire, NEXT].concat());
    if taken.is_empty() {
        assert!(is_stricter(raw, head), "hyper refuses {shown}");
        return;
    }
    let first = taken.remove(0);
    assert_eq!(&first, expected, "{shown}");
    match taken.pop() {
        Some(next) => {
            // Where slotway would close, what follows is never read: that is not more lenient.
            let found = (next.path.as_slice(), taken.len());
            assert_eq!(found, (&b"/the-next"[..], 0), "{shown}");
        }
        None => assert!(
            !head.keep_alive || closes_early(raw, head),
            "{shown}: hyper does not find what follows"
        ),
    }
}

/// Where the body is not to be had in full, heads alone are compared.
fn compare_head(raw: &[u8], head: &RequestHead, wire: &[u8]) {
    let shown = wire.escape_ascii();
    let Some(first) = serve(wire).into_iter().next() else {
        assert!(is_stricter(raw, head), "hyper refuses {shown}");
        return;
    };
    let mut expected = expected(raw, head, Vec::new());
    expected.body = first.body.clone();
    assert_eq!(first, expected, "{shown}");
}

/// What hyper refuses although it is legal, or harmless: each with its reason.
fn is_stricter(raw: &[u8], head: &RequestHead) -> bool {
    let target = &raw[head.target.range()];
    // A name may have percent sequences (RFC 3986, section 3.2.2); `http::Uri` takes them in no authority.
    // As the value of Host, hyper takes them too.
    let authority = head.host.filter(|host| host.start >= head.target.start);
    let authority = authority.filter(|host| host.range().end <= head.target.range().end);
    if authority.is_some_and(|host| raw[host.range()].contains(&b'%')) {
        return true;
    }
    // `http::Uri` takes none of these bytes in a path or query. RFC 3986 does not either, but they
    // frame nothing, and clients send them.
    target.iter().any(|b| b"<>`\\^{|}\"".contains(b))
}

/// Where hyper closes although it need not: it does not read a `Connection` field with bytes past ASCII,
/// and so misses the `keep-alive` in it.
fn closes_early(raw: &[u8], head: &RequestHead) -> bool {
    head.fields().iter().any(|field| {
        let is_connection = raw[field.name.range()].eq_ignore_ascii_case(b"connection");
        is_connection && !raw[field.value.range()].is_ascii()
    })
}

/// All requests that hyper finds in these bytes.
fn serve(wire: &[u8]) -> Vec<Taken> {
    let taken = Rc::new(RefCell::new(Vec::new()));
    let progress = Rc::new(Cell::new(0));
    let io = Wire {
        bytes: wire.to_vec(),
        at: 0,
        progress: progress.clone(),
    };
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let taken = taken.clone();
        let progress = progress.clone();
        async move {
            let (head, body) = request.into_parts();
            let mut fields: Vec<_> = head
                .headers
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
                .collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            let request = Taken {
                method: head.method.as_str().to_owned(),
                path: head.uri.path().into(),
                query: head.uri.query().map(Into::into),
                fields,
                body: None,
            };
            let at = taken.borrow().len();
            taken.borrow_mut().push(request);
            let body = collect(body, &progress).await;
            taken.borrow_mut()[at].body = body;
            Ok::<_, Infallible>(hyper::Response::new(Empty))
        }
    });
    let mut connection = pin!(http1::Builder::new().serve_connection(io, service));
    let mut cx = Context::from_waker(Waker::noop());
    let mut before = usize::MAX;
    // Everything is there already, so whoever gets no further in a turn never will.
    while before != progress.get() {
        before = progress.get();
        if connection.as_mut().poll(&mut cx).is_ready() {
            break;
        }
    }
    taken.take()
}

/// The whole body; `None` where it breaks a rule. Trailers are not kept.
async fn collect(mut body: Incoming, progress: &Cell<usize>) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        progress.set(progress.get() + 1);
        match frame {
            None => return Some(data),
            Some(Err(_)) => return None,
            Some(Ok(frame)) => data.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
        }
    }
}

/// A response without a body.
struct Empty;

impl Body for Empty {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

/// A client that has sent everything and keeps its side open.
struct Wire {
    bytes: Vec<u8>,
    at: usize,
    progress: Rc<Cell<usize>>,
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.bytes[self.at..];
        let count = rest.len().min(into.remaining());
        if count == 0 {
            return Poll::Pending;
        }
        into.put_slice(&rest[..count]);
        self.at += count;
        self.progress.set(self.progress.get() + 1);
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.progress.set(self.progress.get() + 1);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
