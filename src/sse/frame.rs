//! A serialised piece of an event stream (HTML standard, section 9.2.6), made once and shared by all
//! subscribers. A frame is whole: it never leaves a client in the middle of a line or of an event.

use std::fmt;
use std::io::Write;
use std::rc::Rc;

use super::gap::GAP_EVENT;
use super::text::{decimal_len, event_len, field_len, line_len, lines};
use super::{Event, EventId, Gap};

const CRLF: &[u8] = b"\r\n";

/// Bytes for a subscriber, both as a chunk of HTTP/1.1 (RFC 9112, section 7.1) and without chunked
/// coding, in one allocation.
pub struct Frame {
    /// The chunk: its size line, the text, CRLF.
    bytes: Box<[u8]>,
    /// Where the text begins.
    start: usize,
    /// Where the text ends.
    end: usize,
    id: Option<EventId>,
    is_event: bool,
}

impl Frame {
    /// Serialises an event that [`Event::check`] has passed. `id` replaces the event's own. Each line
    /// of the data gets its `data: `; empty data is one empty line, so that the event is dispatched.
    pub fn event(event: &Event<'_>, id: Option<EventId>) -> Rc<Self> {
        Self::serialised(event, id, true)
    }

    /// The event that tells of a gap. It carries the id from which the client is to resume.
    pub fn gap(gap: &Gap, resume: Option<EventId>) -> Rc<Self> {
        let data = gap.to_json();
        let event = Event {
            name: Some(GAP_EVENT),
            data: data.as_bytes(),
            ..Event::default()
        };
        Self::serialised(&event, resume, false)
    }

    /// A comment, which clients ignore: what keeps an idle stream alive.
    pub fn comment(text: &str) -> Rc<Self> {
        let text = text.as_bytes();
        let len: usize = lines(text).map(|line| line_len(": ", line.len())).sum();
        Self::text(len + 1, None, false, |out| {
            for line in lines(text) {
                push_line(out, ": ", line);
            }
        })
    }

    /// What a stream begins with: the milliseconds to wait before connecting again, and the id from
    /// which a client resumes that is lost before its first event. No event is dispatched for it.
    pub fn opening(retry_ms: u64, resume: Option<EventId>) -> Rc<Self> {
        let len = field_len("id: ", resume.map(EventId::text_len))
            + line_len("retry: ", decimal_len(retry_ms))
            + 1;
        Self::text(len, None, false, |out| {
            if let Some(id) = resume {
                push_shown(out, "id: ", &id);
            }
            push_shown(out, "retry: ", &retry_ms);
        })
    }

    /// Bytes that are sent as they are in either form: the head of the HTTP response, or the last
    /// chunk.
    pub fn head(bytes: &[u8]) -> Rc<Self> {
        Rc::new(Self {
            start: 0,
            end: bytes.len(),
            bytes: bytes.into(),
            id: None,
            is_event: false,
        })
    }

    /// The frame as a chunk. What [`Frame::head`] was given is as it was.
    pub fn chunked(&self) -> &[u8] {
        &self.bytes
    }

    /// The frame without chunked coding.
    pub fn plain(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Bytes of the plain form, which is what limits count.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is nothing to send, as there is only after an empty [`Frame::head`].
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The id the hub gave to the event. An id of the publisher's own is not one.
    pub fn id(&self) -> Option<EventId> {
        self.id
    }

    /// Whether this is an event that somebody published: what queues count and may drop.
    pub fn is_event(&self) -> bool {
        self.is_event
    }

    fn serialised(event: &Event<'_>, id: Option<EventId>, is_event: bool) -> Rc<Self> {
        let name = event.name.filter(|name| !name.is_empty());
        let own_id = event.id.filter(|_| id.is_none());
        let len = event_len(event, id.map(EventId::text_len).or(own_id.map(str::len)));
        Self::text(len, id, is_event, |out| {
            if let Some(name) = name {
                push_line(out, "event: ", name.as_bytes());
            }
            if let Some(id) = id {
                push_shown(out, "id: ", &id);
            } else if let Some(id) = own_id {
                push_line(out, "id: ", id.as_bytes());
            }
            if let Some(ms) = event.retry_ms {
                push_shown(out, "retry: ", &ms);
            }
            for line in lines(event.data) {
                push_line(out, "data: ", line);
            }
        })
    }

    /// Lines that `write` writes, and the empty line behind them: `len` bytes together.
    fn text(
        len: usize,
        id: Option<EventId>,
        is_event: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Rc<Self> {
        let start = len.ilog(16) as usize + 1 + CRLF.len();
        let end = start + len;
        let mut bytes = Vec::with_capacity(end + CRLF.len());
        write!(bytes, "{len:x}\r\n").expect("a Vec takes everything");
        write(&mut bytes);
        bytes.push(b'\n');
        // A chunk that is not as long as it says would put the client out of step for good.
        assert_eq!(bytes.len(), end, "the length was foreseen wrongly");
        bytes.extend_from_slice(CRLF);
        Rc::new(Self {
            bytes: bytes.into_boxed_slice(),
            start,
            end,
            id,
            is_event,
        })
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({})", self.plain().escape_ascii())
    }
}

/// `field` ends in a space, so that a space that begins the value survives the client, which removes
/// one.
fn push_line(out: &mut Vec<u8>, field: &str, value: &[u8]) {
    out.extend_from_slice(field.as_bytes());
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn push_shown(out: &mut Vec<u8>, field: &str, value: &dyn fmt::Display) {
    writeln!(out, "{field}{value}").expect("a Vec takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::GapReason;

    const ID: EventId = EventId {
        epoch: 0xfeed,
        sequence: 12,
    };

    fn text(frame: &Frame) -> &str {
        std::str::from_utf8(frame.plain()).unwrap()
    }

    #[test]
    fn an_event_has_its_fields_in_order() {
        let event = Event {
            name: Some("tick"),
            id: Some("own"),
            retry_ms: Some(1500),
            data: b"a\r\nb\rc\n",
        };
        let lines = "retry: 1500\ndata: a\ndata: b\ndata: c\ndata: \n\n";
        let own = Frame::event(&event, None);
        assert_eq!(text(&own), format!("event: tick\nid: own\n{lines}"));
        assert_eq!(own.id(), None);
        let hubs = Frame::event(&event, Some(ID));
        assert_eq!(
            text(&hubs),
            format!("event: tick\nid: 0000feed-12\n{lines}")
        );
        assert_eq!(hubs.id(), Some(ID));
        let nothing = Event {
            name: Some(""),
            ..Event::default()
        };
        assert_eq!(text(&Frame::event(&nothing, None)), "data: \n\n");
    }

    #[test]
    fn chunk_sizes_have_as_many_digits_as_they_need() {
        // "data: ", the data, and two newlines.
        for (data, size) in [
            (7, "f"),
            (8, "10"),
            (247, "ff"),
            (248, "100"),
            (4088, "1000"),
        ] {
            let data = vec![b'x'; data];
            let event = Event {
                data: &data,
                ..Event::default()
            };
            let frame = Frame::event(&event, None);
            let chunk = [size.as_bytes(), CRLF, frame.plain(), CRLF].concat();
            assert_eq!(frame.chunked(), chunk);
        }
    }

    #[test]
    fn other_frames_are_no_events() {
        let gap = Gap {
            reason: GapReason::History,
            lost: None,
            from: None,
            to: Some(ID),
        };
        let gap = Frame::gap(&gap, Some(ID));
        assert_eq!(
            text(&gap),
            "event: sse_gap\nid: 0000feed-12\n\
             data: {\"reason\":\"history\",\"lost\":null,\"from\":null,\"to\":\"0000feed-12\"}\n\n"
        );
        let opening = Frame::opening(1000, Some(ID));
        assert_eq!(text(&opening), "id: 0000feed-12\nretry: 1000\n\n");
        let retry = Frame::opening(0, None);
        assert_eq!(text(&retry), "retry: 0\n\n");
        let comment = Frame::comment("");
        assert_eq!(text(&comment), ": \n\n");
        assert_eq!(text(&Frame::comment("a\ndata: b")), ": a\n: data: b\n\n");
        let head = Frame::head(b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(head.plain(), head.chunked());
        assert_eq!(head.len(), 19);
        for frame in [gap, retry, comment, head] {
            assert!(!frame.is_event() && !frame.is_empty());
        }
        assert!(Frame::head(b"").is_empty());
    }
}
