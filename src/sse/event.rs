//! One event as whoever publishes it says it, and the rules it must keep so that it reaches an
//! `EventSource` as it was meant. Nothing here repairs an event that breaks a rule.

use std::fmt;

use super::text::{LONGEST_ID, event_len};
use crate::limits::{MAX_EVENT, MAX_EVENT_ID, MAX_EVENT_NAME, MAX_EVENT_TEXT};

/// Bytes of data that fit whatever they are: all of them newlines, beside the longest name and id.
const ALWAYS_FITS: usize = (MAX_EVENT_TEXT - 1024) / 7;
const _: () = assert!(MAX_EVENT_NAME + MAX_EVENT_ID + 64 <= 1024);

/// An event (HTML standard, section 9.2.6), before it is serialised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// The event's type. None, like an empty one, is a `message`.
    pub name: Option<&'a str>,
    /// What the client says in `Last-Event-ID` when it comes back. An empty one makes it forget the
    /// id it had.
    pub id: Option<&'a str>,
    /// Milliseconds the client is to wait before it connects again.
    pub retry_ms: Option<u64>,
    /// Any bytes. CR, LF and CRLF each end a line, and all three reach the client as LF; what is not
    /// UTF-8 reaches it as U+FFFD.
    pub data: &'a [u8],
}

impl Event<'_> {
    /// Whether the event may be sent.
    ///
    /// # Errors
    /// The first rule that it breaks: name, then id, then data, then what it comes to as text.
    pub fn check(&self) -> Result<(), EventFault> {
        let name = self.name.unwrap_or_default().as_bytes();
        let id = self.id.unwrap_or_default().as_bytes();
        if name.len() > MAX_EVENT_NAME {
            return Err(EventFault::NameTooLong(name.len()));
        }
        if memchr::memchr2(b'\r', b'\n', name).is_some() {
            return Err(EventFault::NameWithNewline);
        }
        if id.len() > MAX_EVENT_ID {
            return Err(EventFault::IdTooLong(id.len()));
        }
        if memchr::memchr2(b'\r', b'\n', id).is_some() {
            return Err(EventFault::IdWithNewline);
        }
        if memchr::memchr(0, id).is_some() {
            return Err(EventFault::IdWithNul);
        }
        if self.data.len() > MAX_EVENT {
            return Err(EventFault::DataTooLong(self.data.len()));
        }
        // The lines are only counted where they can be too many.
        if self.data.len() > ALWAYS_FITS {
            // The hub's own id may take the place of the event's.
            let len = event_len(self, Some(id.len().max(LONGEST_ID)));
            if len > MAX_EVENT_TEXT {
                return Err(EventFault::TextTooLong(len));
            }
        }
        Ok(())
    }
}

/// The rule an event breaks. Lengths are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventFault {
    /// The name is longer than [`MAX_EVENT_NAME`].
    NameTooLong(usize),
    /// The name holds a CR or LF, which would end its field and begin another.
    NameWithNewline,
    /// The id is longer than [`MAX_EVENT_ID`].
    IdTooLong(usize),
    /// The id holds a CR or LF, which would end its field and begin another.
    IdWithNewline,
    /// The id holds U+0000, at which a client ignores the whole field.
    IdWithNul,
    /// The data is longer than [`MAX_EVENT`].
    DataTooLong(usize),
    /// The event, with what stands before each line of its data, is longer than [`MAX_EVENT_TEXT`].
    TextTooLong(usize),
}

impl fmt::Display for EventFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTooLong(len) => write!(
                f,
                "the event name is {len} bytes long, and {MAX_EVENT_NAME} is the most; \
                 use a shorter name"
            ),
            Self::NameWithNewline => f.write_str(
                "the event name contains CR or LF, which would end its field; \
                 remove it, or put the text into the data",
            ),
            Self::IdTooLong(len) => write!(
                f,
                "the event id is {len} bytes long, and {MAX_EVENT_ID} is the most; \
                 use a shorter id"
            ),
            Self::IdWithNewline => f.write_str(
                "the event id contains CR or LF, which would end its field; \
                 remove it, or encode the id",
            ),
            Self::IdWithNul => f.write_str(
                "the event id contains U+0000, for which clients ignore an id; \
                 remove it, or encode the id",
            ),
            Self::DataTooLong(len) => write!(
                f,
                "the event data is {len} bytes long, and {MAX_EVENT} is the most; \
                 send it in parts, or send where it can be fetched"
            ),
            Self::TextTooLong(len) => write!(
                f,
                "the event is {len} bytes long with the `data: ` before each line of its data, and \
                 {MAX_EVENT_TEXT} is the most; send fewer lines at once, or encode the newlines"
            ),
        }
    }
}

impl std::error::Error for EventFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_the_stream_is_refused() {
        let longest = "n".repeat(MAX_EVENT_NAME);
        let too_long = "n".repeat(MAX_EVENT_NAME + 1);
        let data = vec![b'x'; MAX_EVENT + 1];
        let named = |name| Event {
            name: Some(name),
            ..Event::default()
        };
        let with_id = |id| Event {
            id: Some(id),
            ..Event::default()
        };
        let with_data = |data| Event {
            data,
            ..Event::default()
        };
        let fine = [
            Event::default(),
            named(""),
            named("a: b\0\u{feff}"),
            named(&longest),
            with_id(""),
            with_id(" ü"),
            with_id(&longest),
            with_data(b"a\r\n\0\xff"),
            with_data(&data[1..]),
        ];
        for event in fine {
            assert_eq!(event.check(), Ok(()), "{event:?}");
        }
        for (event, fault) in [
            (named("a\nb"), EventFault::NameWithNewline),
            (named("a\r"), EventFault::NameWithNewline),
            (
                named(&too_long),
                EventFault::NameTooLong(MAX_EVENT_NAME + 1),
            ),
            (with_id("1\n"), EventFault::IdWithNewline),
            (with_id("\r1"), EventFault::IdWithNewline),
            (with_id("1\0"), EventFault::IdWithNul),
            (with_id(&too_long), EventFault::IdTooLong(MAX_EVENT_ID + 1)),
            (with_data(&data), EventFault::DataTooLong(MAX_EVENT + 1)),
        ] {
            assert_eq!(event.check(), Err(fault));
        }
    }

    #[test]
    fn what_stands_before_each_line_counts() {
        fn with<'a>(name: Option<&'a str>, data: &'a str) -> Event<'a> {
            let data = data.as_bytes();
            Event {
                name,
                data,
                ..Event::default()
            }
        }
        let longest = "n".repeat(MAX_EVENT_NAME);
        // What is always there: the id of the hub and the empty line at the end.
        let own = "id: \n".len() + LONGEST_ID + "\n".len();
        // Each newline makes a line of seven bytes, and begins another.
        let most = (MAX_EVENT_TEXT - own) / 7 - 1;
        for newline in ["\n", "\r"] {
            let fits = newline.repeat(most);
            assert_eq!(with(None, &fits).check(), Ok(()));
            let fault = EventFault::TextTooLong(own + 7 * (most + 2));
            let too_many = newline.repeat(most + 1);
            assert_eq!(with(None, &too_many).check(), Err(fault));
            let fault = EventFault::TextTooLong(own + 7 * (most + 1) + 8 + MAX_EVENT_NAME);
            assert_eq!(
                with(Some(&longest), &fits).check(),
                Err(fault),
                "the name counts too"
            );
        }
        // Lines of an ordinary length fit, however many.
        let lines = "twenty bytes a line\n".repeat(MAX_EVENT / 20);
        assert_eq!(with(Some(&longest), &lines).check(), Ok(()));
    }
}
