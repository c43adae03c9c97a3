//! What a handler sees of a request. Everything is read in place, from the memory shared with the
//! hub; nothing is parsed again.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::message::{Method, Version};
use crate::shm::codec::{CodecError, LifecycleFlags, RequestIndex, RequestView, decode_request};
use crate::urlencoded;
use crate::worker::body::{Body, BodyError, Rest};
use crate::worker::events::Events;
use crate::worker::frame::{Chunk, Frame, SharedFrame};
use crate::worker::inbox::Inbox;
use crate::worker::lane::{ExchangeId, Incoming};
use crate::worker::service::Route;

/// A request.
#[derive(Debug)]
pub struct Request {
    held: Held,
    index: RequestIndex,
    exchange: ExchangeId,
    total: u64,
    content: Content,
}

/// The frame with the head, which the request shares once bytes of the body were taken from it.
#[derive(Debug)]
enum Held {
    Alone(Frame),
    Shared(Arc<Frame>),
    /// Only while it changes from one to the other.
    Nowhere,
}

impl Held {
    fn frame(&self) -> &Frame {
        match self {
            Held::Alone(frame) => frame,
            Held::Shared(frame) => frame,
            Held::Nowhere => unreachable!("a request always holds its frame"),
        }
    }

    /// The frame together with whoever else wants it.
    fn share(&mut self) -> Arc<Frame> {
        let shared = match std::mem::replace(self, Held::Nowhere) {
            Held::Alone(frame) => Arc::new(frame),
            Held::Shared(frame) => frame,
            Held::Nowhere => unreachable!("a request always holds its frame"),
        };
        *self = Held::Shared(shared.clone());
        shared
    }

    fn into_chunk(self) -> Chunk {
        match self {
            Held::Alone(frame) => Chunk::Frame(frame),
            Held::Shared(frame) => Chunk::Bytes(Bytes::from_owner(SharedFrame(frame))),
            Held::Nowhere => unreachable!("a request always holds its frame"),
        }
    }
}

/// Where the body is.
#[derive(Debug)]
enum Content {
    /// All of it behind the head.
    Whole,
    /// The first part behind the head, the rest here.
    Arriving(Arc<Inbox>),
    /// It was collected from its parts. In a box, for requests are moved about.
    Collected(Box<Bytes>),
    /// It could not be collected.
    Lost,
}

impl Request {
    /// Longest body that [`Request::json`] takes: 16 MiB. For more, use [`Request::into_body`].
    pub const JSON_LIMIT: usize = 16 * 1024 * 1024;

    pub(crate) fn new(incoming: Incoming) -> Result<Request, CodecError> {
        let Incoming {
            exchange,
            frame,
            total,
            inbox,
        } = incoming;
        let index = decode_request(frame.head())?.index();
        let content = inbox.map_or(Content::Whole, Content::Arriving);
        Ok(Request {
            held: Held::Alone(frame),
            index,
            exchange,
            total,
            content,
        })
    }

    /// The request method. A route for GET gets HEAD requests too; the SDK leaves the body of the
    /// answer out.
    pub fn method(&self) -> Method {
        self.index.method()
    }

    /// The version of HTTP the client speaks.
    pub fn version(&self) -> Version {
        self.index.version()
    }

    /// The request target as received.
    pub fn target(&self) -> &[u8] {
        self.view().target()
    }

    /// The path as received, percent-encoded. A path that is not UTF-8 has its odd bytes replaced:
    /// [`Request::path_raw`] has them as they are.
    pub fn path(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.path_raw())
    }

    /// The bytes of the path as received, percent-encoded.
    pub fn path_raw(&self) -> &[u8] {
        self.view().path()
    }

    /// The path pattern of the route that was matched, for example `/items/{id}`.
    pub fn route(&self) -> &str {
        self.route_entry().map(|r| r.path()).unwrap_or_default()
    }

    /// The path parameter with this name, percent-decoded. Bytes that are no UTF-8 after that are
    /// replaced by U+FFFD; [`Request::param_raw`] has them as they came. `None` where the route has
    /// no such parameter.
    pub fn param(&self, name: &str) -> Option<Cow<'_, str>> {
        self.param_raw(name).map(urlencoded::decode_path)
    }

    /// The path parameter with this name as received, percent-encoded.
    pub fn param_raw(&self, name: &str) -> Option<&[u8]> {
        let at = self
            .route_entry()?
            .params()
            .iter()
            .position(|p| **p == *name)?;
        self.view().params().nth(at)
    }

    /// The query as received, without its question mark; `None` where there is none.
    pub fn query_raw(&self) -> Option<&[u8]> {
        self.view().query()
    }

    /// The query's names and values in order, decoded as `application/x-www-form-urlencoded`: `+` is
    /// a space, and what is no UTF-8 after decoding is replaced.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        urlencoded::pairs(self.query_raw().unwrap_or_default())
    }

    /// The first query value with this name, decoded.
    pub fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        self.query_pairs()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value)
    }

    /// The value of the first field line with this name, in any case; without the white space around
    /// it (RFC 9110, section 5.5).
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers()
            .find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Every field line in the order received, duplicates included.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.view().fields()
    }

    /// The request line and the field lines as received.
    pub fn raw_head(&self) -> &[u8] {
        self.view().raw()
    }

    /// The client's address; `None` where it came through a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.view().peer()
    }

    /// Whether the answer is likely to reach nobody: the client has stopped sending, which is how one
    /// that leaves looks, or its time is up. An answer is delivered all the same if the client is
    /// still there. Costs one load from memory, so long work may ask often.
    pub fn is_cancelled(&self) -> bool {
        let (session, lane) = self.frame().origin();
        session.is_closed() || session.lane(lane).may_be_unwanted(self.exchange)
    }

    /// Publishes events of this worker.
    pub fn events(&self) -> Events {
        let service = self.frame().origin().0.service();
        Events::new(service.link().clone())
    }

    /// Bytes of the body as announced by the client; `None` where it did not say.
    pub fn body_length(&self) -> Option<u64> {
        (self.total != crate::shm::descriptor::UNKNOWN_LENGTH).then_some(self.total)
    }

    /// The body where it is in one piece, with no copy made; `None` where it is so long, or of so
    /// unknown a length, that it comes in parts. [`Request::read_body`] and [`Request::into_body`]
    /// work for both.
    pub fn body(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Whole => Some(self.frame().body()),
            Content::Collected(bytes) => Some(bytes),
            Content::Arriving(_) | Content::Lost => None,
        }
    }

    /// The body, to be read piece by piece or passed on in an answer. What the head said is gone
    /// after this.
    pub fn into_body(self) -> Body {
        let Request {
            held,
            exchange,
            total,
            content,
            ..
        } = self;
        let rest = match content {
            Content::Whole => None,
            Content::Collected(bytes) => {
                return Body::new(Some(Chunk::Bytes(*bytes)), total, None);
            }
            Content::Lost => return Body::lost(total),
            Content::Arriving(inbox) => Some(rest_of(&held, exchange, inbox)),
        };
        Body::new(Some(held.into_chunk()), total, rest)
    }

    /// The whole body; blocks until it is there. Nothing is copied unless it comes in parts. The
    /// bytes may be kept past the answer; their slots are not used again until they are dropped.
    ///
    /// # Errors
    /// All of [`BodyError`] but [`BodyError::Json`].
    pub fn read_body(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        match self.start_collecting() {
            Some(body) => self.note_collected(body.read_to_bytes(limit)),
            None => self.whole_body(limit),
        }
    }

    /// As [`Request::read_body`], for async handlers.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`], [`BodyError::Incomplete`] and [`BodyError::Disconnected`].
    pub async fn collect_body(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        match self.start_collecting() {
            Some(body) => self.note_collected(body.collect(limit).await),
            None => self.whole_body(limit),
        }
    }

    /// The body as JSON of this type; blocks until it is there. At most [`Request::JSON_LIMIT`].
    ///
    /// # Errors
    /// All of [`BodyError`].
    pub fn json<T: DeserializeOwned>(&mut self) -> Result<T, BodyError> {
        if self.body().is_none() {
            self.read_body(Self::JSON_LIMIT)?;
        }
        from_json(self.body().unwrap_or_default())
    }

    /// As [`Request::json`], for async handlers.
    ///
    /// # Errors
    /// All of [`BodyError`] but [`BodyError::WouldBlock`].
    pub async fn json_async<T: DeserializeOwned>(&mut self) -> Result<T, BodyError> {
        if self.body().is_none() {
            self.collect_body(Self::JSON_LIMIT).await?;
        }
        from_json(self.body().unwrap_or_default())
    }

    /// The body as it arrives, where it does; the request has lost it until it is collected.
    fn start_collecting(&mut self) -> Option<Body> {
        match std::mem::replace(&mut self.content, Content::Lost) {
            Content::Arriving(inbox) => {
                let first = Chunk::Bytes(self.share_body());
                let rest = rest_of(&self.held, self.exchange, inbox);
                Some(Body::new(Some(first), self.total, Some(rest)))
            }
            content => {
                self.content = content;
                None
            }
        }
    }

    fn note_collected(&mut self, result: Result<Bytes, BodyError>) -> Result<Bytes, BodyError> {
        if let Ok(bytes) = &result {
            self.content = Content::Collected(Box::new(bytes.clone()));
        }
        result
    }

    /// The body where it does not have to be waited for.
    fn whole_body(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        let bytes = match &self.content {
            Content::Whole => self.share_body(),
            Content::Collected(bytes) => Bytes::clone(bytes),
            Content::Arriving(_) | Content::Lost => return Err(BodyError::Incomplete),
        };
        if bytes.len() > limit {
            Err(BodyError::TooLarge { limit })
        } else {
            Ok(bytes)
        }
    }

    /// The body part of the frame as bytes that hold the frame too.
    fn share_body(&mut self) -> Bytes {
        if self.frame().body().is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(SharedFrame(self.held.share()))
    }

    fn frame(&self) -> &Frame {
        self.held.frame()
    }

    fn view(&self) -> RequestView<'_> {
        self.index.view(self.frame().head())
    }

    /// The route's number as the hub says it; not checked against the registration.
    pub(crate) fn route_number(&self) -> usize {
        self.index.route() as usize
    }

    /// Whether this is the beginning or the end of a stream.
    pub(crate) fn lifecycle(&self) -> LifecycleFlags {
        self.index.lifecycle()
    }

    fn route_entry(&self) -> Option<&Route> {
        self.frame().origin().0.service().route(self.route_number())
    }
}

/// Where the rest of a body arrives.
fn rest_of(held: &Held, exchange: ExchangeId, inbox: Arc<Inbox>) -> Rest {
    let (session, lane) = held.frame().origin();
    Rest::new(session.clone(), lane, exchange, inbox)
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    // The parser works in place, and the slots are not for writing.
    simd_json::from_slice(&mut body.to_vec()).map_err(BodyError::Json)
}
