//! Every rule of the HTTP policy as bytes and the status they must be answered with, replayed whole
//! and at every split. Never opens a socket: the rules are the same whatever carries the bytes.
#![cfg(feature = "gateway")]

use slotway::http::{ChunkDecoder, ChunkStep, HeadScanner, parse_head};
use slotway::limits::{MAX_FIELDS, MAX_HEAD, MAX_TARGET};
use slotway::message::{BodyLength, RequestHead};

/// What becomes of the first request in some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Taken; this many bytes belong to it, its body included.
    Taken(usize),
    /// Refused with this status.
    Refused(u16),
    /// More bytes are wanted.
    Waiting,
}
use Answer::{Refused, Taken, Waiting};

/// One connection as the gateway would read it.
struct Connection {
    scanner: HeadScanner,
    head: RequestHead,
    decoder: ChunkDecoder,
    received: Vec<u8>,
    /// Bytes of `received` that belong to the request as far as it has been read.
    used: usize,
    state: State,
}

enum State {
    Head,
    Known(u64),
    Chunked,
}

impl Connection {
    fn new() -> Connection {
        Connection {
            scanner: HeadScanner::default(),
            head: RequestHead::default(),
            decoder: ChunkDecoder::default(),
            received: Vec::new(),
            used: 0,
            state: State::Head,
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Answer {
        self.received.extend_from_slice(bytes);
        if let State::Head = self.state {
            let bounds = match self.scanner.scan(&self.received) {
                Ok(None) => return Waiting,
                Ok(Some(bounds)) => bounds,
                Err(fault) => return Refused(fault.status),
            };
            let head = &self.received[bounds.start..bounds.end];
            if let Err(fault) = parse_head(head, &mut self.head) {
                return Refused(fault.status);
            }
            self.used = bounds.end;
            self.state = match self.head.body {
                BodyLength::None => State::Known(0),
                BodyLength::Known(len) => State::Known(len),
                BodyLength::Chunked => State::Chunked,
            };
        }
        match self.state {
            State::Known(len) => match usize::try_from(len) {
                Ok(len) if self.received.len() - self.used >= len => Taken(self.used + len),
                _ => Waiting,
            },
            _ => loop {
                match self.decoder.advance(&self.received[self.used..]) {
                    Ok(ChunkStep::Data(range)) => self.used += range.end,
                    Ok(ChunkStep::End(end)) => return Taken(self.used + end),
                    Ok(ChunkStep::NeedMore) => {
                        self.used = self.received.len();
                        return Waiting;
                    }
                    Err(fault) => return Refused(fault.status),
                }
            },
        }
    }
}

/// The answer when `bytes` arrive in these pieces: the first one that is not `Waiting`.
fn answer<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Answer {
    let mut connection = Connection::new();
    pieces
        .into_iter()
        .map(|piece| connection.receive(piece))
        .find(|answer| *answer != Waiting)
        .unwrap_or(Waiting)
}

/// Replays one vector whole, byte by byte and in two pieces cut at every place.
fn replay(name: &str, bytes: &[u8], expected: Answer) {
    let shown = || bytes[..bytes.len().min(300)].escape_ascii().to_string();
    assert_eq!(answer([bytes]), expected, "{name}: {}", shown());
    assert_eq!(
        answer(bytes.chunks(1)),
        expected,
        "{name} by bytes: {}",
        shown()
    );
    for cut in 1..bytes.len() {
        let (a, b) = bytes.split_at(cut);
        assert_eq!(answer([a, b]), expected, "{name} cut at {cut}: {}", shown());
    }
}

/// A vector for one rule: its name, the bytes, the status of the refusal (0: it is taken whole).
type Vector = (&'static str, &'static [u8], u16);

fn replay_all(vectors: &[Vector]) {
    for &(name, bytes, status) in vectors {
        match status {
            0 => {
                replay(name, bytes, Taken(bytes.len()));
                // What follows on the connection belongs to the next request.
                let mut more = bytes.to_vec();
                more.extend_from_slice(b"GET /next HTTP/1.1\r\n");
                replay(name, &more, Taken(bytes.len()));
                for len in 0..bytes.len() {
                    assert_eq!(
                        answer([&bytes[..len]]),
                        Waiting,
                        "{name}: first {len} bytes"
                    );
                }
            }
            status => replay(name, bytes, Refused(status)),
        }
    }
}

#[test]
fn request_lines() {
    replay_all(&[
        ("simple", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (
            "one empty line in front",
            b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            0,
        ),
        (
            "two empty lines in front",
            b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "empty line of LF",
            b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        ("HTTP/1.0 without Host", b"GET / HTTP/1.0\r\n\r\n", 0),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        ("space in front", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "two spaces before target",
            b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "two spaces after target",
            b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "space at the end",
            b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
            400,
        ),
        ("tab for space", b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("HTTP/0.9", b"GET /\r\n\r\n", 400),
        ("no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("no version", b"GET / \r\nHost: a\r\n\r\n", 400),
        (
            "method not a token",
            b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "lower-case version",
            b"GET / http/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "version of three parts",
            b"GET / HTTP/1.1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "version without minor",
            b"GET / HTTP/1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "version not a number",
            b"GET / HTTP/1.x\r\nHost: a\r\n\r\n",
            400,
        ),
        ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
        ("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("HTTP/0.9 in full", b"GET / HTTP/0.9\r\n\r\n", 505),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("unknown method", b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (
            "lower-case method",
            b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
            501,
        ),
        (
            "CONNECT",
            b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            501,
        ),
        ("TRACE", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (
            "PATCH",
            b"PATCH /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
            0,
        ),
    ]);
}

#[test]
fn targets() {
    replay_all(&[
        ("query", b"GET /a?b=c?d&e HTTP/1.1\r\nHost: a\r\n\r\n", 0),
        (
            "percent",
            b"GET /%41%2f?%zz HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "percent at the end",
            b"GET /% HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "percent and one digit",
            b"GET /%4 HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "percent sequences",
            b"GET /%41%2f?%5C HTTP/1.1\r\nHost: a\r\n\r\n",
            0,
        ),
        ("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "fragment in query",
            b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        ("backslash", b"GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "UTF-8",
            "GET /é HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(),
            400,
        ),
        ("Latin-1", b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "control character",
            b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        ("DEL", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("NUL", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("no slash", b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "asterisk with GET",
            b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "asterisk with OPTIONS",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            0,
        ),
        (
            "asterisk and more",
            b"OPTIONS */ HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "absolute form",
            b"GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
            0,
        ),
        (
            "absolute form, case, default port",
            b"GET HTTP://A:80/b HTTP/1.1\r\nHost: a\r\n\r\n",
            0,
        ),
        (
            "absolute form, https",
            b"GET https://a/b HTTP/1.1\r\nHost: a:443\r\n\r\n",
            0,
        ),
        (
            "absolute form without path",
            b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
            0,
        ),
        (
            "absolute form, other host",
            b"GET http://a/b HTTP/1.1\r\nHost: b\r\n\r\n",
            400,
        ),
        (
            "absolute form, other port",
            b"GET http://a/b HTTP/1.1\r\nHost: a:81\r\n\r\n",
            400,
        ),
        (
            "absolute form, wrong default",
            b"GET https://a/b HTTP/1.1\r\nHost: a:80\r\n\r\n",
            400,
        ),
        (
            "absolute form, userinfo",
            b"GET http://u@a/b HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "absolute form, empty host",
            b"GET http:///b HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "absolute form, no Host",
            b"GET http://a/b HTTP/1.1\r\n\r\n",
            400,
        ),
        (
            "absolute form, HTTP/1.0",
            b"GET http://a/b HTTP/1.0\r\n\r\n",
            0,
        ),
        (
            "absolute form, other scheme",
            b"GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
        (
            "absolute form, OPTIONS, no path",
            b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n",
            400,
        ),
    ]);
}

#[test]
fn hosts() {
    replay_all(&[
        (
            "name and port",
            b"GET / HTTP/1.1\r\nHost: example.com:8080\r\n\r\n",
            0,
        ),
        ("IPv6", b"GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", 0),
        ("empty port", b"GET / HTTP/1.1\r\nHost: a:\r\n\r\n", 0),
        ("absent", b"GET / HTTP/1.1\r\nA: b\r\n\r\n", 400),
        ("empty", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
        ("white space", b"GET / HTTP/1.1\r\nHost: \t \r\n\r\n", 400),
        (
            "repeated",
            b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n",
            400,
        ),
        (
            "repeated in HTTP/1.0",
            b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
            400,
        ),
        (
            "malformed in HTTP/1.0",
            b"GET / HTTP/1.0\r\nHost: a/b\r\n\r\n",
            400,
        ),
        ("userinfo", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        ("path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        ("comma", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        ("comma alone", b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400),
        ("space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("scheme", b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", 400),
        (
            "port too large",
            b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
            400,
        ),
        (
            "port not a number",
            b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
            400,
        ),
        ("bare IPv6", b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", 400),
        (
            "bracket left open",
            b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            400,
        ),
        ("non-ASCII", b"GET / HTTP/1.1\r\nHost: \xe9\r\n\r\n", 400),
    ]);
}

#[test]
fn field_lines() {
    replay_all(&[
        ("empty value", b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n", 0),
        (
            "obs-text and tab in a value",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: \xff\t\xfe\r\n\r\n",
            0,
        ),
        (
            "space before colon",
            b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
            400,
        ),
        (
            "space before colon of Host",
            b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            400,
        ),
        (
            "tab before colon",
            b"GET / HTTP/1.1\r\nHost: a\r\nX\t: b\r\n\r\n",
            400,
        ),
        ("no colon", b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
        ("no name", b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
        (
            "name not a token",
            b"GET / HTTP/1.1\r\nHost: a\r\nX(Y): b\r\n\r\n",
            400,
        ),
        (
            "name not ASCII",
            b"GET / HTTP/1.1\r\nHost: a\r\n\xe9: b\r\n\r\n",
            400,
        ),
        (
            "folded by space",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
            400,
        ),
        (
            "folded by tab",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n",
            400,
        ),
        (
            "folded to nothing",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n \r\n\r\n",
            400,
        ),
        (
            "space before the first field",
            b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
            400,
        ),
        (
            "bare CR in value",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n",
            400,
        ),
        (
            "bare CR in name",
            b"GET / HTTP/1.1\r\nHost: a\r\nX\rY: b\r\n\r\n",
            400,
        ),
        ("two CR", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", 400),
        (
            "bare LF ends a line",
            b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
            400,
        ),
        (
            "bare LF ends the request line",
            b"GET / HTTP/1.1\nHost: a\r\n\r\n",
            400,
        ),
        (
            "bare LF ends the head",
            b"GET / HTTP/1.1\r\nHost: a\r\n\n",
            400,
        ),
        ("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", 400),
        ("CR ends the head", b"GET / HTTP/1.1\r\nHost: a\r\n\rX", 400),
        (
            "NUL in value",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
            400,
        ),
        (
            "NUL in name",
            b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
            400,
        ),
        (
            "control character in value",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: \x1b\r\n\r\n",
            400,
        ),
        (
            "DEL in value",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
            400,
        ),
        (
            "repeated Origin",
            b"GET / HTTP/1.1\r\nHost: a\r\nOrigin: a\r\nOrigin: b\r\n\r\n",
            400,
        ),
        (
            "repeated secret",
            b"GET / HTTP/1.1\r\nHost: a\r\nX-Hub-Secret: a\r\nX-Hub-Secret: b\r\n\r\n",
            400,
        ),
        (
            "Upgrade is ignored",
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            0,
        ),
        (
            "expectation",
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\nx",
            0,
        ),
        (
            "other expectation",
            b"GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n",
            417,
        ),
        (
            "two expectations",
            b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, tea\r\n\r\n",
            417,
        ),
    ]);
}

#[test]
fn content_lengths() {
    replay_all(&[
        ("zero", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 0),
        ("some", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 0),
        ("on HTTP/1.0", b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", 0),
        ("on GET", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 0),
        ("empty", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
        ("plus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
        ("minus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc", 400),
        ("hexadecimal", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", 400),
        ("fraction", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3.0\r\n\r\nabc", 400),
        ("separators", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nabc", 400),
        ("two numbers", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\nabc", 400),
        ("list", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
        (
            "repeated and equal",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            400,
        ),
        (
            "repeated and different",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\ncontent-length: 4\r\n\r\nabc",
            400,
        ),
        (
            "2^64",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n",
            400,
        ),
        (
            "zeros without end",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 000000000000000000001\r\n\r\nx",
            400,
        ),
        (
            "much more than 2^64",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999999\r\n\r\n",
            400,
        ),
        (
            "with chunked",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "zero, after chunked",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
            400,
        ),
    ]);
}

#[test]
fn transfer_encodings() {
    replay_all(&[
        ("chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0),
        (
            "case and white space",
            b"POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: \tChUnKeD \r\n\r\n1\r\nx\r\n0\r\n\r\n",
            0,
        ),
        ("HTTP/1.0", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400),
        (
            "repeated",
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        ("empty", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 400),
        ("empty element", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n", 400),
        ("parameter", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", 400),
        ("quoted", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", 400),
        ("vertical tab", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400),
        ("two words", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: a chunked\r\n\r\n", 400),
        ("gzip", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("gzip, chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", 501),
        ("prefix", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
    ]);
}

#[test]
fn chunked_bodies() {
    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (name, body, status) in [
        ("data", &b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"[..], 0),
        ("extension", b"1;a=b;c=\"d\"\r\nx\r\n0;e\r\n\r\n", 0),
        ("trailer", b"0\r\nChecksum: 1\r\n\r\n", 0),
        ("empty size", b"\r\n\r\n", 400),
        ("sign", b"+1\r\nx\r\n", 400),
        ("prefix", b"0x1\r\nx\r\n", 400),
        ("space before", b" 1\r\nx\r\n", 400),
        ("space after", b"1 \r\nx\r\n", 400),
        ("overflow", b"10000000000000001\r\nx\r\n", 400),
        ("bare LF after size", b"1\nx\r\n", 400),
        ("bare CR after size", b"1\rx\r\n", 400),
        ("bare LF after data", b"1\r\nx\n0\r\n\r\n", 400),
        ("data too long", b"1\r\nxy\r\n0\r\n\r\n", 400),
        ("bare LF in extension", b"1;a\nb\r\nx\r\n", 400),
        ("empty extension", b"1;\r\nx\r\n", 400),
        ("open quote", b"1;a=\"b\r\nx\r\n", 400),
        (
            "trailer with framing",
            b"0\r\nContent-Length: 4\r\n\r\n",
            400,
        ),
        ("trailer with routing", b"0\r\nHost: b\r\n\r\n", 400),
        (
            "trailer with authentication",
            b"0\r\nAuthorization: b\r\n\r\n",
            400,
        ),
        ("trailer with folding", b"0\r\nA: b\r\n c\r\n\r\n", 400),
        ("trailer with bare LF", b"0\r\nA: b\n\r\n", 400),
    ] {
        let bytes = [HEAD, body].concat();
        match status {
            0 => replay(name, &bytes, Taken(bytes.len())),
            status => replay(name, &bytes, Refused(status)),
        }
    }
}

#[test]
fn limits() {
    let with_target = |len: usize| {
        let target = "/".repeat(len);
        format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
    };
    let with_head = |len: usize| {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
        head.resize(len - 4, b'x');
        head.extend_from_slice(b"\r\n\r\n");
        head
    };
    let with_fields = |count: usize| {
        let fields = "X: y\r\n".repeat(count - 1);
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
    };
    // Long vectors are cut at a few places only; the scanner's own tests cut at the limits.
    let check = |name: &str, bytes: &[u8], expected: Answer| {
        for size in [1, 1448, 4096, bytes.len()] {
            assert_eq!(answer(bytes.chunks(size)), expected, "{name} by {size}");
        }
    };
    let taken = |bytes: &[u8]| Taken(bytes.len());
    for bytes in [
        with_target(MAX_TARGET),
        with_head(MAX_HEAD),
        with_fields(MAX_FIELDS),
    ] {
        check("the limit itself", &bytes, taken(&bytes));
    }
    check("target", &with_target(MAX_TARGET + 1), Refused(414));
    check(
        "target longer than a head",
        &with_target(3 * MAX_HEAD),
        Refused(414),
    );
    check("head", &with_head(MAX_HEAD + 1), Refused(431));
    check(
        "endless head",
        &with_head(MAX_HEAD + 1)[..MAX_HEAD],
        Refused(431),
    );
    check("fields", &with_fields(MAX_FIELDS + 1), Refused(431));
    check("fields by the thousand", &with_fields(2000), Refused(431));
}

#[test]
fn no_single_byte_change_panics_or_depends_on_the_split() {
    const REQUEST: &[u8] =
        b"POST http://a/b?c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
                             Connection: x\r\n\r\n1;a=\"b\"\r\nx\r\n0\r\nT: u\r\n\r\n";
    for at in 0..REQUEST.len() {
        for b in 0..=255 {
            let mut bytes = REQUEST.to_vec();
            bytes[at] = b;
            let whole = answer([&bytes[..]]);
            assert_eq!(answer(bytes.chunks(1)), whole, "{}", bytes.escape_ascii());
            assert_eq!(answer(bytes.chunks(7)), whole, "{}", bytes.escape_ascii());
        }
    }
}
