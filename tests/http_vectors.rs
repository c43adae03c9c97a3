//! Every rule of the HTTP policy as bytes and the status they must be answered with, replayed whole
//! and at every split. Never opens a socket: the rules are the same whatever carries the bytes.
#![cfg(feature = "gateway")]

mod vectors;

use std::collections::HashSet;

use slotway::http::{ChunkDecoder, ChunkStep, HeadScanner, parse_head};
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

/// A vector, its taken bytes also with something behind them and as far as each of its prefixes.
fn replay_vector(name: &str, bytes: &[u8], status: u16) {
    if status != 0 {
        return replay(name, bytes, Refused(status));
    }
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

/// Vectors longer than this are cut at a few places only; the scanner's own tests cut at the limits.
const SHORT: usize = 600;

fn expected(vector: &vectors::Made) -> Answer {
    match vector.status {
        0 => Taken(vector.bytes.len()),
        status => Refused(status),
    }
}

#[test]
fn every_vector_is_answered_as_stated_at_every_split() {
    let vectors = vectors::all();
    assert!(vectors.len() > 350, "the table was lost");
    let mut names = HashSet::new();
    let wrong: Vec<String> = vectors
        .iter()
        .map(|vector| (vector, answer([&vector.bytes[..]]), expected(vector)))
        .filter(|(_, said, expected)| said != expected)
        .map(|(vector, said, expected)| format!("{}: {said:?}, not {expected:?}", vector.name))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for vector in &vectors {
        let (name, bytes) = (vector.name.as_str(), &vector.bytes[..]);
        assert!(names.insert(name), "{name} stands twice");
        if bytes.len() <= SHORT {
            replay_vector(name, bytes, vector.status);
            continue;
        }
        for size in [1, 7, 1448, 4096, bytes.len()] {
            let said = answer(bytes.chunks(size));
            assert_eq!(said, expected(vector), "{name} by {size}");
        }
    }
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
