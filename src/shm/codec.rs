//! How a head is laid out in a frame. A request head is the raw bytes as received behind a table of
//! ranges, so that the worker parses nothing; a response head is a status and a field section.
//!
//! Encoders write into the slot and decoders read from it or from a copy. Every range a decoder
//! hands out was checked; whatever the bytes are, it answers or refuses, and never panics.

use std::net::SocketAddr;

use crate::limits::{MAX_FIELDS, MAX_HEAD, MAX_PARAMS, MAX_RESPONSE_HEAD};
use crate::message::{FieldSpan, Method, Params, RequestHead, Span, Version};
use crate::shm::peer_address::PeerAddress;

/// The fixed part of a request head. `docs/SHM_ABI.md` has it byte by byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
struct RequestPrefix {
    route: u32,
    method: u8,
    version: u8,
    flags: u8,
    peer_family: u8,
    field_count: u16,
    param_count: u16,
    raw_len: u16,
    peer_port: u16,
    target: Span,
    path: Span,
    query: Span,
    peer_addr: [u8; 16],
    reserved: u32,
}

const PREFIX_LEN: usize = size_of::<RequestPrefix>();
const SPAN_LEN: usize = size_of::<Span>();
const FIELD_LEN: usize = size_of::<FieldSpan>();
const _: () = assert!(PREFIX_LEN == 48, "no padding, no surprise");
const _: () = assert!(FIELD_LEN == 8 && SPAN_LEN == 4);

const FLAG_QUERY: u8 = 1;
const FLAG_CONNECT: u8 = 2;
const FLAG_DISCONNECT: u8 = 4;
const FLAG_REPLAYED: u8 = 8;

/// Most bytes an encoded request head can take.
pub const MAX_ENCODED_REQUEST: usize =
    PREFIX_LEN + MAX_PARAMS * SPAN_LEN + MAX_FIELDS * FIELD_LEN + MAX_HEAD;
/// Bytes before the field section of an encoded response head.
pub const RESPONSE_PREFIX_LEN: usize = 8;
/// Most bytes an encoded response head can take.
pub const MAX_ENCODED_RESPONSE: usize = RESPONSE_PREFIX_LEN + MAX_RESPONSE_HEAD;

/// Why bytes are no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecError {
    /// The bytes end before what they announce.
    Truncated,
    /// A number of fields or parameters, or a length, is above its limit.
    TooMany,
    /// A method, version, address family or combination of lifecycle flags that the ABI does not
    /// know.
    UnknownCode,
    /// A range reaches past the raw head.
    BadRange,
}

impl std::fmt::Display for CodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CodecError::Truncated => "a head ends before what it announces",
            CodecError::TooMany => {
                "a head counts more fields, parameters or bytes than the ABI allows"
            }
            CodecError::UnknownCode => {
                "a head has a method, version, address family or lifecycle unknown to the ABI"
            }
            CodecError::BadRange => "a head has a range that reaches past its end",
        })
    }
}

impl std::error::Error for CodecError {}

/// What a request says about a stream, if it does. Only the hub writes it: a client cannot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LifecycleFlags {
    /// Nothing: it is an ordinary request.
    #[default]
    None,
    /// A client wants to be connected to a stream. The body is a
    /// [`Lifecycle::Connect`](crate::control::Lifecycle::Connect).
    Connect {
        /// The client is connected already, since before this worker attached.
        replayed: bool,
    },
    /// A stream has ended. The body is a
    /// [`Lifecycle::Disconnect`](crate::control::Lifecycle::Disconnect).
    Disconnect,
}

impl LifecycleFlags {
    const fn bits(self) -> u8 {
        match self {
            LifecycleFlags::None => 0,
            LifecycleFlags::Connect { replayed: false } => FLAG_CONNECT,
            LifecycleFlags::Connect { replayed: true } => FLAG_CONNECT | FLAG_REPLAYED,
            LifecycleFlags::Disconnect => FLAG_DISCONNECT,
        }
    }

    const fn from_bits(flags: u8) -> Option<LifecycleFlags> {
        let replayed = flags & FLAG_REPLAYED != 0;
        match (flags & FLAG_CONNECT != 0, flags & FLAG_DISCONNECT != 0) {
            (false, false) if !replayed => Some(LifecycleFlags::None),
            (true, false) => Some(LifecycleFlags::Connect { replayed }),
            (false, true) if !replayed => Some(LifecycleFlags::Disconnect),
            _ => None,
        }
    }
}

/// Everything a request frame says beside its body.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    /// Index of the route in the worker's registration.
    pub route: u32,
    /// The parsed head, whose ranges refer to `raw`.
    pub head: &'a RequestHead,
    /// The path parameters, whose ranges refer to `raw`.
    pub params: &'a Params,
    /// The head as received.
    pub raw: &'a [u8],
    /// The client's address; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Whether this is the beginning or the end of a stream.
    pub lifecycle: LifecycleFlags,
}

/// Bytes that [`encode_request`] writes for these parts.
pub fn encoded_request_len(parts: &RequestParts<'_>) -> usize {
    PREFIX_LEN
        + parts.params.as_slice().len() * SPAN_LEN
        + parts.head.fields().len() * FIELD_LEN
        + parts.raw.len()
}

/// Writes a request head to the start of `out` and returns its length, or `None` where `out` is too
/// small or `raw` is longer than [`MAX_HEAD`].
pub fn encode_request(out: &mut [u8], parts: &RequestParts<'_>) -> Option<usize> {
    let len = encoded_request_len(parts);
    let out = out.get_mut(..len)?;
    if parts.raw.len() > MAX_HEAD {
        return None;
    }
    let head = parts.head;
    let peer = PeerAddress::from(parts.peer);
    let prefix = RequestPrefix {
        route: parts.route,
        method: head.method as u8,
        version: head.version as u8,
        flags: (u8::from(head.query.is_some()) * FLAG_QUERY) | parts.lifecycle.bits(),
        peer_family: peer.family,
        field_count: head.fields().len() as u16,
        param_count: parts.params.as_slice().len() as u16,
        raw_len: parts.raw.len() as u16,
        peer_port: peer.port,
        target: head.target,
        path: head.path,
        query: head.query.unwrap_or_default(),
        peer_addr: peer.bytes,
        reserved: 0,
    };
    let (fixed, rest) = out.split_at_mut(PREFIX_LEN);
    prefix.write(fixed);
    let (spans, rest) = rest.split_at_mut(parts.params.as_slice().len() * SPAN_LEN);
    for (place, span) in spans
        .chunks_exact_mut(SPAN_LEN)
        .zip(parts.params.as_slice())
    {
        place.copy_from_slice(&span_bytes(*span));
    }
    let (table, raw) = rest.split_at_mut(head.fields().len() * FIELD_LEN);
    for (place, field) in table.chunks_exact_mut(FIELD_LEN).zip(head.fields()) {
        place[..SPAN_LEN].copy_from_slice(&span_bytes(field.name));
        place[SPAN_LEN..].copy_from_slice(&span_bytes(field.value));
    }
    raw.copy_from_slice(parts.raw);
    Some(len)
}

/// A request head in place: ranges were checked, nothing was copied.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    index: RequestIndex,
    fixed: &'a [u8],
    params: &'a [u8],
    fields: &'a [u8],
    raw: &'a [u8],
}

/// Reads a request head from the start of `bytes`, which may be longer.
///
/// # Errors
/// Why the bytes are no request head.
pub fn decode_request(bytes: &[u8]) -> Result<RequestView<'_>, CodecError> {
    let (fixed, rest) = bytes
        .split_at_checked(PREFIX_LEN)
        .ok_or(CodecError::Truncated)?;
    let prefix = RequestPrefix::read(fixed);
    let (fields, params) = (prefix.field_count as usize, prefix.param_count as usize);
    if fields > MAX_FIELDS || params > MAX_PARAMS || prefix.raw_len as usize > MAX_HEAD {
        return Err(CodecError::TooMany);
    }
    let (params, rest) = rest
        .split_at_checked(params * SPAN_LEN)
        .ok_or(CodecError::Truncated)?;
    let (fields, rest) = rest
        .split_at_checked(fields * FIELD_LEN)
        .ok_or(CodecError::Truncated)?;
    let raw = rest
        .get(..prefix.raw_len as usize)
        .ok_or(CodecError::Truncated)?;
    let method = Method::from_u8(prefix.method).ok_or(CodecError::UnknownCode)?;
    let version = match prefix.version {
        0 => Version::Http10,
        1 => Version::Http11,
        _ => return Err(CodecError::UnknownCode),
    };
    prefix.peer()?;
    let index = RequestIndex {
        route: prefix.route,
        method,
        version,
        lifecycle: LifecycleFlags::from_bits(prefix.flags).ok_or(CodecError::UnknownCode)?,
        has_query: prefix.flags & FLAG_QUERY != 0,
        field_count: prefix.field_count,
        param_count: prefix.param_count,
        raw_len: prefix.raw_len,
        target: prefix.target,
        path: prefix.path,
        query: prefix.query,
    };
    let view = RequestView {
        index,
        fixed,
        params,
        fields,
        raw,
    };
    let within = |span: Span| span.range().end <= raw.len();
    let ranges_hold = within(prefix.target)
        && within(prefix.path)
        && within(prefix.query)
        && view.param_spans().all(within)
        && view
            .field_spans()
            .all(|f| within(f.name) && within(f.value));
    if ranges_hold {
        Ok(view)
    } else {
        Err(CodecError::BadRange)
    }
}

/// Where the parts of a decoded request head stand: a [`RequestView`] without its bytes, for whoever
/// keeps the bytes elsewhere and wants to look at them again without checking them again. Small, since
/// it changes places with its request.
#[derive(Clone, Copy, Debug)]
pub struct RequestIndex {
    route: u32,
    method: Method,
    version: Version,
    lifecycle: LifecycleFlags,
    has_query: bool,
    field_count: u16,
    param_count: u16,
    raw_len: u16,
    target: Span,
    path: Span,
    query: Span,
}

impl RequestIndex {
    /// Index of the route in the worker's registration. Not checked against it.
    pub fn route(&self) -> u32 {
        self.route
    }

    /// The request method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The version the client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether this is the beginning or the end of a stream.
    pub fn lifecycle(&self) -> LifecycleFlags {
        self.lifecycle
    }

    /// The view over the bytes that the index was made from.
    ///
    /// # Panics
    /// Here or in the view's methods, if `bytes` are not the bytes that were decoded.
    pub fn view<'a>(&self, bytes: &'a [u8]) -> RequestView<'a> {
        let (fixed, rest) = bytes.split_at(PREFIX_LEN);
        let (params, rest) = rest.split_at(self.param_count as usize * SPAN_LEN);
        let (fields, rest) = rest.split_at(self.field_count as usize * FIELD_LEN);
        RequestView {
            index: *self,
            fixed,
            params,
            fields,
            raw: &rest[..self.raw_len as usize],
        }
    }
}

impl<'a> RequestView<'a> {
    /// The view without its bytes.
    pub fn index(&self) -> RequestIndex {
        self.index
    }

    /// As [`RequestIndex::route`].
    pub fn route(&self) -> u32 {
        self.index.route
    }

    /// As [`RequestIndex::method`].
    pub fn method(&self) -> Method {
        self.index.method
    }

    /// As [`RequestIndex::version`].
    pub fn version(&self) -> Version {
        self.index.version
    }

    /// As [`RequestIndex::lifecycle`].
    pub fn lifecycle(&self) -> LifecycleFlags {
        self.index.lifecycle
    }

    /// The client's address; `None` on a Unix socket.
    pub fn peer(&self) -> Option<SocketAddr> {
        // It was found to be one when the head was decoded.
        RequestPrefix::read(self.fixed).peer().ok().flatten()
    }

    /// The head as received, from the request line to the empty line.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The request target as received.
    pub fn target(&self) -> &'a [u8] {
        &self.raw[self.index.target.range()]
    }

    /// The path as received, percent-encoded.
    pub fn path(&self) -> &'a [u8] {
        &self.raw[self.index.path.range()]
    }

    /// The query without its question mark.
    pub fn query(&self) -> Option<&'a [u8]> {
        self.index
            .has_query
            .then(|| &self.raw[self.index.query.range()])
    }

    /// The path parameters as received, in the order of the pattern.
    pub fn params(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let raw = self.raw;
        self.param_spans().map(move |span| &raw[span.range()])
    }

    /// The field lines in the order received: name and value.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let raw = self.raw;
        self.field_spans()
            .map(move |f| (&raw[f.name.range()], &raw[f.value.range()]))
    }

    /// Bytes of the encoded head.
    pub fn encoded_len(&self) -> usize {
        PREFIX_LEN + self.params.len() + self.fields.len() + self.raw.len()
    }

    fn param_spans(&self) -> impl ExactSizeIterator<Item = Span> + use<'a> {
        self.params.chunks_exact(SPAN_LEN).map(span_at)
    }

    fn field_spans(&self) -> impl ExactSizeIterator<Item = FieldSpan> + use<'a> {
        self.fields.chunks_exact(FIELD_LEN).map(|f| FieldSpan {
            name: span_at(&f[..SPAN_LEN]),
            value: span_at(&f[SPAN_LEN..]),
        })
    }
}

/// Writes the part of a response head that precedes its field section, which the caller has placed,
/// or will place, right behind it.
///
/// # Panics
/// If `fields_len` is above [`MAX_RESPONSE_HEAD`]; the caller has checked it.
pub fn response_prefix(status: u16, fields_len: usize) -> [u8; RESPONSE_PREFIX_LEN] {
    assert!(fields_len <= MAX_RESPONSE_HEAD);
    let mut prefix = [0; RESPONSE_PREFIX_LEN];
    prefix[..2].copy_from_slice(&status.to_le_bytes());
    prefix[4..].copy_from_slice(&(fields_len as u32).to_le_bytes());
    prefix
}

/// Reads a response head: the status and the field section, both still to be judged as HTTP.
///
/// # Errors
/// Why the bytes are no response head.
pub fn decode_response(bytes: &[u8]) -> Result<(u16, &[u8]), CodecError> {
    let (prefix, rest) = bytes
        .split_at_checked(RESPONSE_PREFIX_LEN)
        .ok_or(CodecError::Truncated)?;
    let status = u16::from_le_bytes([prefix[0], prefix[1]]);
    let len = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
    if len > MAX_RESPONSE_HEAD {
        return Err(CodecError::TooMany);
    }
    Ok((status, rest.get(..len).ok_or(CodecError::Truncated)?))
}

impl RequestPrefix {
    fn write(&self, out: &mut [u8]) {
        out[0..4].copy_from_slice(&self.route.to_le_bytes());
        out[4..8].copy_from_slice(&[self.method, self.version, self.flags, self.peer_family]);
        out[8..10].copy_from_slice(&self.field_count.to_le_bytes());
        out[10..12].copy_from_slice(&self.param_count.to_le_bytes());
        out[12..14].copy_from_slice(&self.raw_len.to_le_bytes());
        out[14..16].copy_from_slice(&self.peer_port.to_le_bytes());
        out[16..20].copy_from_slice(&span_bytes(self.target));
        out[20..24].copy_from_slice(&span_bytes(self.path));
        out[24..28].copy_from_slice(&span_bytes(self.query));
        out[28..44].copy_from_slice(&self.peer_addr);
        out[44..48].copy_from_slice(&self.reserved.to_le_bytes());
    }

    fn peer(&self) -> Result<Option<SocketAddr>, CodecError> {
        let peer = PeerAddress {
            family: self.peer_family,
            port: self.peer_port,
            bytes: self.peer_addr,
        };
        peer.decoded().ok_or(CodecError::UnknownCode)
    }

    fn read(bytes: &[u8]) -> RequestPrefix {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| half(at) as u32 | (half(at + 2) as u32) << 16;
        RequestPrefix {
            route: word(0),
            method: bytes[4],
            version: bytes[5],
            flags: bytes[6],
            peer_family: bytes[7],
            field_count: half(8),
            param_count: half(10),
            raw_len: half(12),
            peer_port: half(14),
            target: span_at(&bytes[16..20]),
            path: span_at(&bytes[20..24]),
            query: span_at(&bytes[24..28]),
            peer_addr: std::array::from_fn(|i| bytes[28 + i]),
            reserved: word(44),
        }
    }
}

fn span_bytes(span: Span) -> [u8; SPAN_LEN] {
    let (s, l) = (span.start.to_le_bytes(), span.len.to_le_bytes());
    [s[0], s[1], l[0], l[1]]
}

fn span_at(bytes: &[u8]) -> Span {
    Span {
        start: u16::from_le_bytes([bytes[0], bytes[1]]),
        len: u16::from_le_bytes([bytes[2], bytes[3]]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: &[u8] =
        b"POST /items/7%20x?q=1&q=2 HTTP/1.1\r\nHost: a\r\nX: \xFF\xFE\r\nx: two\r\n\r\n";

    fn span(part: &[u8]) -> Span {
        let at = RAW.windows(part.len()).position(|w| w == part).unwrap();
        Span::new(at, part.len())
    }

    fn sample() -> (RequestHead, Params) {
        let mut head = RequestHead::default();
        head.method = Method::Post;
        head.target = span(b"/items/7%20x?q=1&q=2");
        head.path = span(b"/items/7%20x");
        head.query = Some(span(b"q=1&q=2"));
        for (name, value) in [
            (&b"Host"[..], &b"a"[..]),
            (b"X", b"\xFF\xFE"),
            (b"x", b"two"),
        ] {
            let line = [name, b": ", value].concat();
            let at = span(&line).start as usize;
            head.push_field(FieldSpan {
                name: Span::new(at, name.len()),
                value: Span::new(at + name.len() + 2, value.len()),
            });
        }
        let mut params = Params::default();
        params.push(span(b"7%20x"));
        (head, params)
    }

    #[test]
    fn a_request_head_comes_back_as_it_went() {
        let (head, params) = sample();
        for (peer, lifecycle) in [
            (None, LifecycleFlags::None),
            (
                Some("127.0.0.1:80".parse().unwrap()),
                LifecycleFlags::Connect { replayed: false },
            ),
            (None, LifecycleFlags::Connect { replayed: true }),
            (Some("[::1]:9".parse().unwrap()), LifecycleFlags::Disconnect),
        ] {
            let parts = RequestParts {
                route: 70_000,
                head: &head,
                params: &params,
                raw: RAW,
                peer,
                lifecycle,
            };
            let mut out = vec![0xAA; 4096];
            let len = encode_request(&mut out, &parts).unwrap();
            assert_eq!(len, encoded_request_len(&parts));
            assert_eq!(out[len], 0xAA, "nothing is written past the end");
            let view = decode_request(&out).unwrap();
            assert_eq!(
                (view.route(), view.method(), view.peer()),
                (70_000, Method::Post, peer)
            );
            assert_eq!((view.raw(), view.encoded_len()), (RAW, len));
            assert_eq!(view.lifecycle(), lifecycle);
            assert_eq!(view.index().view(&out).lifecycle(), lifecycle);
            assert_eq!(view.path(), b"/items/7%20x");
            assert_eq!(view.query(), Some(&b"q=1&q=2"[..]));
            assert_eq!(view.params().collect::<Vec<_>>(), [b"7%20x"]);
            let fields: Vec<_> = view.fields().collect();
            assert_eq!(
                fields,
                [
                    (&b"Host"[..], &b"a"[..]),
                    (b"X", b"\xFF\xFE"),
                    (b"x", b"two")
                ]
            );
            let again = view.index().view(&out);
            assert_eq!(again.fields().collect::<Vec<_>>(), fields);
            assert_eq!((again.raw(), again.target()), (RAW, view.target()));
        }
    }

    #[test]
    fn a_slot_too_small_is_refused_at_every_size() {
        let (head, params) = sample();
        let parts = RequestParts {
            route: 0,
            head: &head,
            params: &params,
            raw: RAW,
            peer: None,
            lifecycle: LifecycleFlags::None,
        };
        let len = encoded_request_len(&parts);
        let mut out = vec![0; len];
        for size in 0..len {
            assert_eq!(encode_request(&mut out[..size], &parts), None);
        }
        encode_request(&mut out, &parts).unwrap();
        for size in 0..len {
            assert_eq!(
                decode_request(&out[..size]).unwrap_err(),
                CodecError::Truncated
            );
        }
    }

    #[test]
    fn ranges_past_the_end_are_refused() {
        let (head, params) = sample();
        let parts = RequestParts {
            route: 0,
            head: &head,
            params: &params,
            raw: RAW,
            peer: None,
            lifecycle: LifecycleFlags::None,
        };
        let mut good = vec![0; 4096];
        let len = encode_request(&mut good, &parts).unwrap();
        good.truncate(len);
        for at in [16, 20, 24, 48, 52, 56] {
            let mut bad = good.clone();
            bad[at..at + 4].copy_from_slice(&[0xFF; 4]);
            assert_eq!(
                decode_request(&bad).unwrap_err(),
                CodecError::BadRange,
                "at {at}"
            );
        }
        // The flags: a stream that begins and ends, and the mark of a replay without its connect.
        for (at, byte) in [(4, 99), (5, 9), (7, 5), (6, 7), (6, 8), (6, 12), (6, 14)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(
                decode_request(&bad).unwrap_err(),
                CodecError::UnknownCode,
                "at {at}"
            );
        }
    }

    #[test]
    fn a_response_head_comes_back_as_it_went() {
        let fields = b"content-type: text/plain\r\n";
        let mut bytes = response_prefix(201, fields.len()).to_vec();
        bytes.extend_from_slice(fields);
        bytes.extend_from_slice(b"rest of the slot");
        assert_eq!(decode_response(&bytes), Ok((201, &fields[..])));
        for size in 0..RESPONSE_PREFIX_LEN + fields.len() {
            assert_eq!(decode_response(&bytes[..size]), Err(CodecError::Truncated));
        }
        bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode_response(&bytes), Err(CodecError::TooMany));
    }
}
