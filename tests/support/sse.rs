//! A client of event streams for tests, written from the HTML standard (section 9.2) and RFC 9112
//! alone. Never forgiving: what the hub need not send, or what could be read in two ways, is a panic.

use std::collections::VecDeque;
use std::time::Instant;

use simd_json::prelude::*;

use super::GUARD;
use super::client::{Answer, Client};
use super::hub::Hub;

/// An event as a browser would dispatch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its type; `message` where none was sent.
    pub event: String,
    /// The id that came with it.
    pub id: Option<String>,
    /// The reconnection time that came with it.
    pub retry: Option<u64>,
    /// Its data, lines joined by LF.
    pub data: String,
}

impl Message {
    /// The sequence in the hub's id.
    #[track_caller]
    pub fn sequence(&self) -> u64 {
        let id = self.id.as_deref().expect("the event has an id");
        sequence(id)
    }

    /// A member of the JSON that is the data.
    #[track_caller]
    pub fn member(&self, name: &str) -> String {
        let json = super::json(self.data.as_bytes());
        let text = json.get_str(name).map(str::to_string);
        text.unwrap_or_else(|| panic!("no text '{name}' in {self:?}"))
    }

    /// The number at the start of the data, or of the data within a broadcast event.
    #[track_caller]
    pub fn number(&self) -> u64 {
        let data = match self.data.starts_with('{') {
            true => self.member("data"),
            false => self.data.clone(),
        };
        let digits = data.split(' ').next().unwrap_or_default();
        digits.parse().unwrap_or_else(|_| panic!("{self:?}"))
    }
}

/// The sequence in an id of the hub: `<epoch>-<sequence>`.
#[track_caller]
pub fn sequence(id: &str) -> u64 {
    let (epoch, digits) = id.split_once('-').unwrap_or_else(|| panic!("{id}"));
    let is_hex = epoch.bytes().all(|b| b"0123456789abcdef".contains(&b));
    assert!(epoch.len() == 8 && is_hex, "{id}");
    assert!(digits == "0" || !digits.starts_with('0'), "{id}");
    digits.parse().unwrap_or_else(|_| panic!("{id}"))
}

/// What a gap says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub reason: String,
    pub lost: Option<u64>,
    pub from: Option<String>,
    pub to: Option<String>,
    /// The id of the gap's own event.
    pub id: Option<String>,
}

impl Message {
    /// What it says, if it tells of a gap.
    pub fn gap(&self) -> Option<Gap> {
        if self.event != "sse_gap" {
            return None;
        }
        let json = super::json(self.data.as_bytes());
        let members = json.as_object().expect("an object");
        assert_eq!(members.len(), 4, "{self:?}");
        let text = |name: &str| json.get_str(name).map(str::to_string);
        for name in ["lost", "from", "to"] {
            assert!(json.contains_key(name), "{name} is missing: {self:?}");
        }
        Some(Gap {
            reason: text("reason").expect("a reason"),
            lost: json.get_u64("lost"),
            from: text("from"),
            to: text("to"),
            id: self.id.clone(),
        })
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With the last chunk and then the connection.
    Clean,
    /// With the connection alone.
    Closed,
    /// With a reset.
    Reset,
}

/// A stream that is open, or was.
pub struct Sse {
    client: Client,
    /// The head of the response.
    pub head: Answer,
    framing: Framing,
    parser: Parser,
    end: Option<End>,
}

impl Sse {
    /// Opens a stream.
    #[track_caller]
    pub fn open(hub: &Hub, path: &str) -> Sse {
        Sse::with(hub, path, "")
    }

    /// Opens a stream with these whole field lines.
    #[track_caller]
    pub fn with(hub: &Hub, path: &str, fields: &str) -> Sse {
        Sse::on(hub.connect(), path, fields)
    }

    /// Opens a stream that goes on behind this event.
    #[track_caller]
    pub fn resume(hub: &Hub, path: &str, last: &str) -> Sse {
        Sse::with(hub, path, &format!("Last-Event-ID: {last}\r\n"))
    }

    /// Opens a stream on this connection.
    #[track_caller]
    pub fn on(mut client: Client, path: &str, fields: &str) -> Sse {
        client.request("GET", path, fields, b"");
        Sse::read_head(client)
    }

    /// Reads the head of the stream that was asked for on this connection.
    #[track_caller]
    pub fn read_head(mut client: Client) -> Sse {
        let head = client.head().expect("a head");
        Sse::behind(client, head)
    }

    /// The stream behind a head that was read already.
    #[track_caller]
    pub fn behind(client: Client, head: Answer) -> Sse {
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.field("content-type"), Some("text/event-stream"));
        assert_eq!(head.field("content-length"), None);
        let framing = match head.field("transfer-encoding") {
            Some("chunked") => Framing::Size(Vec::new()),
            None => Framing::UntilClose,
            Some(other) => panic!("the transfer coding {other}"),
        };
        Sse {
            client,
            head,
            framing,
            parser: Parser::default(),
            end: None,
        }
    }

    /// Whether the body is chunked.
    pub fn is_chunked(&self) -> bool {
        !matches!(self.framing, Framing::UntilClose)
    }

    /// The next event.
    #[track_caller]
    pub fn next(&mut self) -> Message {
        let next = self.try_next();
        next.unwrap_or_else(|| panic!("the stream ended: {:?}", self.end))
    }

    /// The next event; `None` at the end of the stream.
    #[track_caller]
    pub fn try_next(&mut self) -> Option<Message> {
        let start = Instant::now();
        loop {
            if let Some(message) = self.parser.messages.pop_front() {
                return Some(message);
            }
            if self.end.is_some() {
                return None;
            }
            // Heartbeats come while nothing else does.
            assert!(start.elapsed() < GUARD, "no event comes");
            self.receive();
        }
    }

    /// The next event if one is here, or comes before the next heartbeat or end; `Err` at the end.
    #[track_caller]
    pub fn look(&mut self) -> Result<Option<Message>, End> {
        if self.parser.messages.is_empty() {
            if let Some(end) = self.end {
                return Err(end);
            }
            self.receive();
        }
        Ok(self.parser.messages.pop_front())
    }

    /// The id from which a client resumes that was cut off before its first event, if it has come.
    pub fn begun_at(&self) -> Option<&str> {
        self.parser.opening_id.as_deref()
    }

    /// The events up to the first for which `is_last` holds, that one included.
    #[track_caller]
    pub fn until(&mut self, mut is_last: impl FnMut(&Message) -> bool) -> Vec<Message> {
        let mut seen = Vec::new();
        loop {
            seen.push(self.next());
            if seen.last().is_some_and(&mut is_last) {
                return seen;
            }
        }
    }

    /// Everything up to the end of the stream, and how that came.
    #[track_caller]
    pub fn finish(&mut self) -> (Vec<Message>, End) {
        let seen = std::iter::from_fn(|| self.try_next()).collect();
        (seen, self.end.expect("it has ended"))
    }

    /// Waits until the reconnection time has come, and returns it.
    #[track_caller]
    pub fn retry(&mut self) -> u64 {
        loop {
            if let Some(retry) = self.parser.retry {
                return retry;
            }
            assert_eq!(self.end, None);
            self.receive();
        }
    }

    /// Waits until the stream has begun; the id from which a client resumes that is cut off then.
    #[track_caller]
    pub fn opening_id(&mut self) -> Option<String> {
        self.retry();
        self.parser.opening_id.clone()
    }

    /// Waits until so many comments have come in all.
    #[track_caller]
    pub fn wait_comments(&mut self, count: u64) {
        while self.parser.comments < count {
            assert_eq!(self.end, None);
            self.receive();
        }
    }

    /// Closes so that the hub gets a reset.
    pub fn reset(self) {
        self.client.reset();
    }

    /// The connection.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    #[track_caller]
    fn receive(&mut self) {
        if self.client.buffered().is_empty() {
            match self.client.fill() {
                Ok(1..) => {}
                Ok(0) => {
                    self.end = Some(match self.framing {
                        Framing::Done => End::Clean,
                        _ => End::Closed,
                    });
                    return;
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    self.end = Some(End::Reset);
                    return;
                }
                // This process was stopped and went on.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => return,
                Err(error) => panic!("nothing more came: {error}"),
            }
        }
        let bytes = self.client.buffered().to_vec();
        self.client.skip(bytes.len());
        let mut body = Vec::new();
        self.framing.decode(&bytes, &mut body);
        self.parser.feed(&body);
    }
}

/// How far the transfer coding is read.
enum Framing {
    UntilClose,
    /// A chunk's size, as far as it has come.
    Size(Vec<u8>),
    /// So many bytes of data are left.
    Data(usize),
    /// These bytes come behind the data.
    Behind(&'static [u8]),
    /// These bytes come behind the size of the last chunk.
    Last(&'static [u8]),
    Done,
}

impl Framing {
    fn decode(&mut self, mut bytes: &[u8], body: &mut Vec<u8>) {
        while let [first, rest @ ..] = bytes {
            match self {
                Framing::UntilClose => {
                    body.extend_from_slice(bytes);
                    return;
                }
                Framing::Data(left) => {
                    let count = bytes.len().min(*left);
                    body.extend_from_slice(&bytes[..count]);
                    bytes = &bytes[count..];
                    *left -= count;
                    if *left == 0 {
                        *self = Framing::Behind(b"\r\n");
                    }
                    continue;
                }
                Framing::Size(line) => {
                    line.push(*first);
                    assert!(line.len() <= 18, "{}", line.escape_ascii());
                    if let Some(digits) = line.strip_suffix(b"\r\n") {
                        let digits = std::str::from_utf8(digits).expect("a size");
                        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
                        assert!(is_hex && !digits.is_empty(), "a chunk's size: {digits:?}");
                        *self = match usize::from_str_radix(digits, 16).expect("a size") {
                            0 => Framing::Last(b"\r\n"),
                            size => Framing::Data(size),
                        };
                    }
                }
                Framing::Behind(wanted) => {
                    assert_eq!(*first, wanted[0], "behind a chunk");
                    *self = match &wanted[1..] {
                        [] => Framing::Size(Vec::new()),
                        more => Framing::Behind(more),
                    };
                }
                Framing::Last(wanted) => {
                    assert_eq!(*first, wanted[0], "behind the last chunk");
                    *self = match &wanted[1..] {
                        [] => Framing::Done,
                        more => Framing::Last(more),
                    };
                }
                Framing::Done => panic!("behind the body: {}", bytes.escape_ascii()),
            }
            bytes = rest;
        }
    }
}

/// Lines to events.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    block: Block,
    messages: VecDeque<Message>,
    comments: u64,
    retry: Option<u64>,
    opening_id: Option<String>,
}

#[derive(Default)]
struct Block {
    event: Option<String>,
    id: Option<String>,
    retry: Option<u64>,
    data: Option<String>,
    comment: bool,
}

impl Parser {
    fn feed(&mut self, body: &[u8]) {
        let mut parts = body.split(|byte| *byte == b'\n');
        self.line.extend_from_slice(parts.next().unwrap_or(b""));
        for part in parts {
            let line = std::mem::replace(&mut self.line, part.to_vec());
            self.take_line(&String::from_utf8_lossy(&line));
        }
    }

    fn take_line(&mut self, line: &str) {
        assert!(!line.contains('\r'), "a CR in {line:?}");
        let block = &mut self.block;
        if line.is_empty() {
            let block = std::mem::take(block);
            return self.dispatch(block);
        }
        if line.starts_with(':') {
            block.comment = true;
            self.comments += 1;
            return;
        }
        let (name, value) = line
            .split_once(": ")
            .unwrap_or_else(|| panic!("{line:?} is no field"));
        let once = |place: &mut Option<String>| {
            assert_eq!(place.replace(value.to_string()), None, "twice: {line:?}");
        };
        match name {
            "event" => once(&mut block.event),
            "id" => once(&mut block.id),
            "retry" => {
                let value = value.parse().expect("milliseconds");
                assert_eq!(block.retry.replace(value), None, "twice: {line:?}");
                self.retry = Some(value);
            }
            "data" => match &mut block.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => block.data = Some(value.to_string()),
            },
            _ => panic!("{line:?} is a field that nobody knows"),
        }
    }

    fn dispatch(&mut self, block: Block) {
        match block.data {
            Some(data) => self.messages.push_back(Message {
                event: block.event.unwrap_or_else(|| "message".into()),
                id: block.id,
                retry: block.retry,
                data,
            }),
            None => {
                assert!(block.event.is_none(), "an event without data");
                if block.id.is_some() {
                    assert!(block.retry.is_some(), "an id without an event");
                    self.opening_id = block.id;
                }
                let something = block.comment || block.retry.is_some();
                assert!(something, "an empty line behind nothing");
            }
        }
    }
}

/// A number that `/health` says of the streams.
#[track_caller]
pub fn stream_count(hub: &Hub, name: &str) -> u64 {
    let health = hub.health();
    let streams = health.get("streams").expect("streams");
    streams.get_u64(name).unwrap_or_else(|| panic!("{name}"))
}

/// Waits until so many streams are open.
#[track_caller]
pub fn wait_subscribers(hub: &Hub, count: u64) {
    super::wait_until(&format!("{count} streams are open"), || {
        stream_count(hub, "subscribers") == count
    });
}

/// Emits one event over HTTP.
#[track_caller]
pub fn emit(hub: &Hub, source: &str, event_type: &str, data: &str) {
    let answer = try_emit(hub, source, event_type, data);
    assert_eq!((answer.status, answer.text()), (200, "{}"), "{answer:?}");
}

/// As [`emit`], whatever the answer.
pub fn try_emit(hub: &Hub, source: &str, event_type: &str, data: &str) -> Answer {
    let body = simd_json::json!({"source": source, "event_type": event_type, "data": data});
    post(hub, "/internal/emit", &body.encode())
}

/// Pushes over HTTP; `body` is JSON.
pub fn sse_push(hub: &Hub, body: simd_json::OwnedValue) -> Answer {
    post(hub, "/internal/sse-push", &body.encode())
}

/// Posts a JSON document.
pub fn post(hub: &Hub, path: &str, body: &str) -> Answer {
    let fields = "Content-Type: application/json\r\n";
    hub.request("POST", path, fields, body.as_bytes())
}
