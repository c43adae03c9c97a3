//! What must hold of the codec for any bytes whatever, as a check that both a test and a fuzz target
//! run. It is never part of a normal build.

use std::net::{IpAddr, SocketAddr};

use super::codec::{
    LifecycleFlags, RESPONSE_PREFIX_LEN, RequestParts, RequestView, decode_request,
    decode_response, encode_request, encoded_request_len, response_prefix,
};
use super::events::{EventRecords, encode_event, encoded_event_len};
use crate::limits::{MAX_FIELDS, MAX_HEAD, MAX_PARAMS};
use crate::message::{FieldSpan, Method, Params, RequestHead, Span, Version};

/// Takes the bytes for an encoded request, for an encoded response, for records of events, and for
/// the description of a request to encode, one after the other.
///
/// # Panics
/// If the codec does not give back what it was given.
pub fn check(input: &[u8]) {
    any_bytes_as_request(input);
    any_bytes_as_response(input);
    any_bytes_as_events(input);
    any_request(input);
}

/// What is accepted can be encoded again, and then has the same bytes, but for those that say
/// nothing.
fn any_bytes_as_request(bytes: &[u8]) {
    let Ok(view) = decode_request(bytes) else {
        return;
    };
    let (head, params) = parts_of(&view);
    let parts = RequestParts {
        route: view.route(),
        head: &head,
        params: &params,
        raw: view.raw(),
        peer: view.peer(),
        lifecycle: view.lifecycle(),
    };
    let mut expected = bytes[..view.encoded_len()].to_vec();
    expected[6] &= 0x0F;
    if view.query().is_none() {
        expected[24..28].fill(0);
    }
    match view.peer().map(|peer| peer.ip()) {
        None => {
            expected[14..16].fill(0);
            expected[28..44].fill(0);
        }
        Some(IpAddr::V4(_)) => expected[32..44].fill(0),
        Some(IpAddr::V6(_)) => {}
    }
    expected[44..48].fill(0);
    assert_eq!(encoded(&parts), expected);
}

fn any_bytes_as_response(bytes: &[u8]) {
    let Ok((status, fields)) = decode_response(bytes) else {
        return;
    };
    let mut expected = bytes[..RESPONSE_PREFIX_LEN].to_vec();
    expected[2..4].fill(0);
    assert_eq!(response_prefix(status, fields.len())[..], expected);
    let behind = &bytes[RESPONSE_PREFIX_LEN..][..fields.len()];
    assert_eq!(fields, behind);
}

/// What is accepted can be encoded again and then has the same bytes; after what is not, nothing comes.
fn any_bytes_as_events(bytes: &[u8]) {
    let (mut records, mut at) = (EventRecords::new(bytes), 0);
    while let Some(Ok(record)) = records.next() {
        let len = encoded_event_len(&record);
        let mut again = vec![0xA5; len + 16];
        assert_eq!(encode_event(&mut again, &record), Some(len));
        assert_eq!(again[..len], bytes[at..at + len]);
        at += len;
    }
    assert!(records.next().is_none());
}

/// A request made up from the bytes comes back as it went.
fn any_request(input: &[u8]) {
    let mut input = Input { bytes: input };
    let mut head = RequestHead::default();
    let mut params = Params::default();
    let (route, choices) = (u32::from(input.pair()) << 8, input.next());
    head.method = Method::ALL[choices as usize % Method::ALL.len()];
    head.version = [Version::Http10, Version::Http11][choices as usize >> 7];
    let lifecycle = match choices >> 4 & 7 {
        4 => LifecycleFlags::Connect { replayed: false },
        5 => LifecycleFlags::Connect { replayed: true },
        6 => LifecycleFlags::Disconnect,
        _ => LifecycleFlags::None,
    };
    let peer = match input.next() % 3 {
        0 => None,
        1 => Some(SocketAddr::from(([127, 0, 0, input.next()], input.pair()))),
        _ => Some(SocketAddr::from((
            std::array::from_fn::<u16, 8, _>(|_| input.pair()),
            input.pair(),
        ))),
    };
    let counts = (input.next() as usize, input.next() as usize);
    // Often far shorter than the longest head, so that ranges meet its end.
    let long = input.next() < 16;
    let spans = &input.bytes[..input.bytes.len().min(4 * (3 + MAX_PARAMS + 2 * MAX_FIELDS))];
    let raw: Vec<u8> = if long {
        spans.iter().copied().cycle().take(MAX_HEAD).collect()
    } else {
        input.bytes.to_vec()
    };
    let mut spans = Input { bytes: spans };
    let mut span = || spans.span(raw.len());
    (head.target, head.path) = (span(), span());
    head.query = (choices & 8 != 0).then(&mut span);
    for _ in 0..counts.0 % (MAX_PARAMS + 2) {
        let fits = params.as_slice().len() < MAX_PARAMS;
        assert_eq!(params.push(span()), fits);
    }
    for _ in 0..counts.1 % (MAX_FIELDS + 2) {
        let (name, value) = (span(), span());
        let fits = head.fields().len() < MAX_FIELDS;
        assert_eq!(head.push_field(FieldSpan { name, value }), fits);
    }
    let parts = RequestParts {
        route,
        head: &head,
        params: &params,
        raw: &raw,
        peer,
        lifecycle,
    };
    let bytes = encoded(&parts);
    let view = decode_request(&bytes).expect("what was encoded is a request");
    assert_eq!(
        (view.route(), view.peer(), view.raw(), view.lifecycle()),
        (route, peer, &raw[..], lifecycle)
    );
    let (head_back, params_back) = parts_of(&view);
    assert_eq!(head_back.fields(), head.fields());
    assert_eq!(params_back, params);
    let decisions = |head: &RequestHead| {
        let spans = (head.target, head.path, head.query);
        (head.method, head.version, spans)
    };
    assert_eq!(decisions(&head_back), decisions(&head));

    let cut = bytes.len() * choices as usize / 256;
    assert!(decode_request(&bytes[..cut]).is_err(), "cut to {cut}");
    assert_eq!(encode_request(&mut vec![0; cut], &parts), None);
    let too_long = vec![0; MAX_HEAD + 1];
    let parts = RequestParts {
        raw: &too_long,
        ..parts
    };
    let room = encoded_request_len(&parts);
    assert_eq!(encode_request(&mut vec![0; room], &parts), None);
}

/// The encoded request; nothing is written past its end.
fn encoded(parts: &RequestParts<'_>) -> Vec<u8> {
    let len = encoded_request_len(parts);
    let mut out = vec![0xA5; len + 16];
    assert_eq!(encode_request(&mut out, parts), Some(len));
    assert_eq!(out[len..], [0xA5; 16]);
    out.truncate(len);
    out
}

/// The head and the parameters that a view shows, as ranges again.
fn parts_of(view: &RequestView<'_>) -> (RequestHead, Params) {
    let raw = view.raw().as_ptr_range();
    let place = |part: &[u8]| {
        let at = part.as_ptr_range();
        assert!(raw.start <= at.start && at.end <= raw.end);
        Span::new(at.start.addr() - raw.start.addr(), part.len())
    };
    let mut head = RequestHead::default();
    head.method = view.method();
    head.version = view.version();
    head.target = place(view.target());
    head.path = place(view.path());
    head.query = view.query().map(place);
    for (name, value) in view.fields() {
        let (name, value) = (place(name), place(value));
        assert!(head.push_field(FieldSpan { name, value }));
    }
    let mut params = Params::default();
    for param in view.params() {
        assert!(params.push(place(param)));
    }
    (head, params)
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl Input<'_> {
    fn next(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    fn pair(&mut self) -> u16 {
        u16::from_le_bytes([self.next(), self.next()])
    }

    /// A range within the first `len` bytes.
    fn span(&mut self, len: usize) -> Span {
        let start = usize::from(self.pair()) % (len + 1);
        Span::new(start, usize::from(self.pair()) % (len - start + 1))
    }
}

#[cfg(all(test, not(slotway_loom)))]
mod tests {
    #[test]
    fn the_fuzz_corpus_passes() {
        crate::corpus::replay("slot_codec", super::check);
    }
}
