//! An event stream as the standard reads it (HTML, section 9.2.6), without any cleverness, and a check
//! of serialised events against it that both a test and a fuzz target run. It is never part of a
//! normal build.

use std::borrow::Cow;
use std::rc::Rc;

use super::{Event, EventFault, EventId, Frame, Queue, QueueLimits, SlowPolicy, queue_check};
use crate::limits::{MAX_EVENT, MAX_EVENT_ID, MAX_EVENT_NAME, MAX_EVENT_TEXT};

/// What a client makes of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NaiveStream {
    /// The events it dispatches.
    pub events: Vec<NaiveEvent>,
    /// The last time to wait that it was told.
    pub retry_ms: Option<u64>,
    /// Lines that were comments, without the colon.
    pub comments: Vec<Vec<u8>>,
}

/// What a client dispatches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NaiveEvent {
    /// The type; empty for `message`.
    pub name: Vec<u8>,
    /// The last event id as it then is.
    pub last_id: Vec<u8>,
    /// The data, its lines joined by LF.
    pub data: Vec<u8>,
}

/// Reads a whole stream byte by byte. `None` where the text ends within an event, or has what a client
/// would ignore without a word: an unknown field, an id with NUL, a time that is no number.
pub fn naive_stream(text: &[u8]) -> Option<NaiveStream> {
    let mut stream = NaiveStream::default();
    let (mut name, mut id, mut data) = (Vec::new(), Vec::new(), Vec::new());
    let mut between_events = true;
    for line in naive_lines(text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text))? {
        between_events = line.is_empty();
        if line.is_empty() {
            if data.pop().is_some() {
                stream.events.push(NaiveEvent {
                    name: name.clone(),
                    last_id: id.clone(),
                    data: data.clone(),
                });
            }
            (name, data) = (Vec::new(), Vec::new());
            continue;
        }
        if line[0] == b':' {
            stream.comments.push(line[1..].to_vec());
            continue;
        }
        let colon = line.iter().position(|&b| b == b':');
        let (field, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (&line[..], &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => name = value.to_vec(),
            b"data" => {
                data.extend(value);
                data.push(b'\n');
            }
            b"id" if !value.contains(&0) => id = value.to_vec(),
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                stream.retry_ms = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
            }
            _ => return None,
        }
    }
    between_events.then_some(stream)
}

/// The lines of a text whose last line is ended, too.
fn naive_lines(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    let mut line = Vec::new();
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            b'\n' if at > 0 && text[at - 1] == b'\r' => {}
            b'\r' | b'\n' => lines.push(std::mem::take(&mut line)),
            _ => line.push(byte),
        }
    }
    line.is_empty().then_some(lines)
}

/// Takes the chunked coding off (RFC 9112, section 7.1). `None` unless the text is whole chunks, none
/// of them the last, with sizes in their shortest form and without extensions.
pub fn naive_dechunk(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while !text.is_empty() {
        let at = text.windows(2).position(|pair| pair == b"\r\n")?;
        let digits = std::str::from_utf8(&text[..at]).ok()?;
        let size = usize::from_str_radix(digits, 16).ok()?;
        if size == 0 || format!("{size:x}") != digits {
            return None;
        }
        let data = text.get(at + 2..at + 2 + size)?;
        out.extend(data);
        text = text[at + 2 + size..].strip_prefix(b"\r\n")?;
    }
    Some(out)
}

/// Takes the bytes for an event (the first seven say how) and checks that what is wrong with it is
/// found, and that an event without fault comes out of a client's parser as it went in, in both forms
/// and however the queue cuts it. If the first byte is 128 or more, they are steps for a queue.
///
/// # Panics
/// If they disagree.
pub fn check(input: &[u8]) {
    let Some((&[choices, name, id, retry, first, then, repeat], text)) = input.split_first_chunk()
    else {
        return;
    };
    if choices >= 128 {
        queue_check::check(&input[1..]);
        return;
    }
    let (name, text) = text.split_at(text.len().min(usize::from(name) * 2));
    let (id, text) = text.split_at(text.len().min(usize::from(id) * 2));
    let (name, id) = (String::from_utf8_lossy(name), String::from_utf8_lossy(id));
    // Now and then far longer than what was given, so that chunk sizes take more digits.
    let data: Cow<'_, [u8]> = if choices & 16 != 0 {
        text.repeat(usize::from(repeat)).into()
    } else {
        text.into()
    };
    let event = Event {
        name: (choices & 1 != 0).then_some(&*name),
        id: (choices & 2 != 0).then_some(&*id),
        retry_ms: (choices & 4 != 0)
            .then(|| u64::MAX.checked_shr((retry % 65).into()).unwrap_or(0)),
        data: &data,
    };
    let hub_id = (choices & 8 != 0).then_some(EventId {
        epoch: u32::from(retry) << 24 | u32::from(first),
        sequence: u64::MAX >> (then % 64),
    });
    let verdict = event.check();
    assert_eq!(verdict.err(), naive_fault(&event), "{event:?}");
    if verdict.is_err() {
        return;
    }
    let frame = Frame::event(&event, hub_id);
    let stream = naive_stream(frame.plain()).unwrap_or_else(|| panic!("{frame:?}"));
    let expected_id = match hub_id {
        Some(id) => id.to_string(),
        None => event.id.unwrap_or_default().to_owned(),
    };
    let expected = NaiveStream {
        events: vec![NaiveEvent {
            name: event.name.unwrap_or_default().into(),
            last_id: expected_id.into(),
            data: normalised(&data),
        }],
        retry_ms: event.retry_ms,
        comments: Vec::new(),
    };
    assert_eq!(stream, expected, "{frame:?}");
    assert_eq!(naive_dechunk(frame.chunked()).unwrap(), frame.plain());
    assert_eq!(frame.len(), frame.plain().len());
    assert!(frame.len() <= MAX_EVENT_TEXT);
    assert_eq!((frame.id(), frame.is_event()), (hub_id, true));

    let comment = Frame::comment(&name);
    let stream = naive_stream(comment.plain()).unwrap_or_else(|| panic!("{comment:?}"));
    let lines: Vec<Vec<u8>> = normalised(name.as_bytes())
        .split(|&b| b == b'\n')
        .map(|line| [b" ", line].concat())
        .collect();
    assert_eq!((stream.events, stream.comments), (Vec::new(), lines));
    assert_eq!(naive_dechunk(comment.chunked()).unwrap(), comment.plain());
    check_cuts(&frame, &comment, [first, then]);
}

/// Frames leave a queue as they are, whatever room there is and however much of it is taken back.
fn check_cuts(frame: &Rc<Frame>, comment: &Rc<Frame>, sizes: [u8; 2]) {
    let limits = QueueLimits {
        events: 8,
        bytes: usize::MAX,
    };
    let [room, kept] = sizes.map(|size| 1 + usize::from(size));
    for chunked in [false, true] {
        let mut queue = Queue::new(limits, SlowPolicy::DropNewest, chunked);
        let mut expected = Vec::new();
        for _ in 0..2 {
            assert_eq!(queue.push(frame), super::Pushed::Queued);
            queue.control(comment);
            for frame in [frame, comment] {
                expected.extend_from_slice(if chunked {
                    frame.chunked()
                } else {
                    frame.plain()
                });
            }
        }
        let (mut sent, mut out) = (Vec::new(), vec![0; room]);
        loop {
            let filled = queue.fill(&mut out);
            if filled == 0 {
                break;
            }
            let taken = kept.min(filled);
            sent.extend_from_slice(&out[..taken]);
            queue.unsent(&out[taken..filled]);
        }
        assert!(queue.is_empty());
        assert!(sent == expected, "{frame:?} by {sizes:?}");
    }
}

/// The data as a client sees it: every end of a line is LF.
fn normalised(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, &byte) in data.iter().enumerate() {
        match byte {
            b'\n' if at > 0 && data[at - 1] == b'\r' => {}
            b'\r' => out.push(b'\n'),
            _ => out.push(byte),
        }
    }
    out
}

/// An event as it is sent with the longest id it may get.
fn naive_text(event: &Event<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    match event.name.unwrap_or("") {
        "" => {}
        name => text.extend(format!("event: {name}\n").bytes()),
    }
    let hubs = format!("{:08x}-{}", u32::MAX, u64::MAX);
    let own = event.id.unwrap_or("");
    let id = if own.len() > hubs.len() { own } else { &hubs };
    text.extend(format!("id: {id}\n").bytes());
    if let Some(retry_ms) = event.retry_ms {
        text.extend(format!("retry: {retry_ms}\n").bytes());
    }
    for line in normalised(event.data).split(|&b| b == b'\n') {
        text.extend([b"data: ", line, b"\n"].concat());
    }
    text.push(b'\n');
    text
}

fn naive_fault(event: &Event<'_>) -> Option<EventFault> {
    let name = event.name.unwrap_or("");
    let id = event.id.unwrap_or("");
    let text_len = naive_text(event).len();
    let breaks = |text: &str| text.contains(['\r', '\n']);
    let faults = [
        (
            name.len() > MAX_EVENT_NAME,
            EventFault::NameTooLong(name.len()),
        ),
        (breaks(name), EventFault::NameWithNewline),
        (id.len() > MAX_EVENT_ID, EventFault::IdTooLong(id.len())),
        (breaks(id), EventFault::IdWithNewline),
        (id.contains('\0'), EventFault::IdWithNul),
        (
            event.data.len() > MAX_EVENT,
            EventFault::DataTooLong(event.data.len()),
        ),
        (text_len > MAX_EVENT_TEXT, EventFault::TextTooLong(text_len)),
    ];
    faults
        .into_iter()
        .find(|(broken, _)| *broken)
        .map(|(_, f)| f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuzz_corpus_passes() {
        crate::corpus::replay("sse_frame", check);
    }

    #[test]
    fn random_events_come_back_as_they_went() {
        let mut random = queue_check::Random::seeded();
        for _ in 0..2_000 {
            let len = random.below(64) as usize;
            // Mostly bytes that mean something to a parser.
            let mut input: Vec<u8> = (0..7 + len)
                .map(|_| b"\r\n\0: \xEFa"[random.below(7) as usize])
                .collect();
            for byte in &mut input[..7] {
                *byte = random.below(128) as u8;
            }
            check(&input);
        }
    }

    #[test]
    fn the_parser_reads_the_streams_of_the_standard() {
        // The examples of section 9.2.6.
        let data = |stream: &[u8]| -> Vec<Vec<u8>> {
            let stream = naive_stream(stream).unwrap();
            stream.events.into_iter().map(|event| event.data).collect()
        };
        assert_eq!(
            data(b"data: YHOO\ndata: +2\ndata: 10\n\n"),
            [b"YHOO\n+2\n10"]
        );
        assert_eq!(
            data(b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\n"),
            [&b"first event"[..], b"second event"]
        );
        assert_eq!(data(b"data\n\ndata\ndata\n\n"), [&b""[..], b"\n"]);
        assert_eq!(data(b"data:test\n\ndata: test\r\n\r\n"), [b"test", b"test"]);
        let ids = naive_stream(b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n").unwrap();
        let ids: Vec<_> = ids.events.iter().map(|event| &event.last_id[..]).collect();
        assert_eq!(ids, [&b"1"[..], b"1", b""]);
        for torn in [
            &b"data: a\n"[..],
            b"data: a",
            b"data: a\n\ndata",
            b"dat: a\n\n",
        ] {
            assert_eq!(naive_stream(torn), None);
        }
    }

    #[test]
    fn only_whole_chunks_are_chunks() {
        assert_eq!(naive_dechunk(b"1\r\na\r\n2\r\nbc\r\n").unwrap(), b"abc");
        for wrong in [
            &b"01\r\na\r\n"[..],
            b"2\r\na\r\n",
            b"1\r\na",
            b"0\r\n\r\n",
            b"1;x\r\na\r\n",
        ] {
            assert_eq!(naive_dechunk(wrong), None);
        }
    }
}
