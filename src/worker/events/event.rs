//! An event and whom it is for, as a program says it. Building one never fails: what is wrong is said
//! when it is to be sent, before anything is.

use std::time::Duration;

use bytes::Bytes;

use crate::limits::MAX_TARGET;
use crate::route::Pattern;
use crate::shm::events::{EventRecord, EventTarget};
use crate::sse::Event as Checked;
use crate::worker::events::PublishError;

/// An event: data, and perhaps a name, an id and a time to wait before the next attempt to connect.
///
/// ```
/// use slotway::worker::Event;
///
/// let event = Event::new("two\nlines").event("said").id("41");
/// # let _ = event;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    data: Bytes,
    name: Option<String>,
    id: Option<String>,
    retry: Option<Duration>,
}

impl Event {
    /// An event with this data and no name. Data may be any bytes, at most 256 KiB; each CR, LF or CRLF
    /// in it begins a new line, and clients see all of them as LF, and what is no UTF-8 as U+FFFD.
    pub fn new(data: impl Into<Bytes>) -> Event {
        Event {
            data: data.into(),
            name: None,
            id: None,
            retry: None,
        }
    }

    /// Names the event; without a name it is a `message`. No CR or LF, at most 256 bytes.
    pub fn event(mut self, name: impl Into<String>) -> Event {
        self.name = Some(name.into());
        self
    }

    /// Gives the event an id, which a client that comes back says as its last. On a route with replay
    /// the hub numbers the events, and its id takes the place of this one. No CR, LF or NUL, at most
    /// 256 bytes.
    pub fn id(mut self, id: impl Into<String>) -> Event {
        self.id = Some(id.into());
        self
    }

    /// Tells the client how long to wait before it connects again; in whole milliseconds.
    pub fn retry(mut self, time: Duration) -> Event {
        self.retry = Some(time);
        self
    }

    /// The event as it is sent.
    pub(crate) fn record<'a>(
        &'a self,
        target: &'a Target,
    ) -> Result<EventRecord<'a>, PublishError> {
        let target = target.encoded()?;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        record(
            target,
            Checked {
                name: self.name.as_deref(),
                id: self.id.as_deref(),
                retry_ms: self.retry.map(millis),
                data: &self.data,
            },
        )
    }
}

/// A record of an event that keeps the rules.
pub(crate) fn record<'a>(
    target: EventTarget<'a>,
    event: Checked<'a>,
) -> Result<EventRecord<'a>, PublishError> {
    event.check().map_err(PublishError::Invalid)?;
    Ok(EventRecord {
        target,
        name: event.name.unwrap_or_default().as_bytes(),
        id: event.id.map(str::as_bytes),
        retry_ms: event.retry_ms,
        data: event.data,
    })
}

/// Whom an event is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(Inner);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Inner {
    Path(String),
    Connection(String),
    Wrong(String),
}

impl Target {
    /// Everybody connected to this path of one of the worker's SSE routes. The path is the one that
    /// clients ask for, percent-encoded as they do it, without a query.
    pub fn path(path: impl Into<String>) -> Target {
        let path = path.into();
        let fault = if !path.starts_with('/') {
            Some("it does not begin with a slash")
        } else if path.len() > MAX_TARGET {
            Some("it is longer than a request can ask for")
        } else if path.contains(['?', '#']) {
            Some("it has a query or a fragment: leave that out")
        } else if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            Some(
                "it has white space, control characters or letters beyond ASCII: percent-encode them, or use Target::route",
            )
        } else {
            None
        };
        match fault {
            None => Target(Inner::Path(path)),
            Some(fault) => wrong(&path, fault),
        }
    }

    /// Everybody connected to the path that this pattern of one of the worker's SSE routes becomes with
    /// these parameters. Values are given plain and percent-encoded here: everything but letters,
    /// digits and `-._~!$&'()*+,;=:@` (RFC 3986, section 3.3), and the slashes of a catch-all.
    pub fn route<N: AsRef<str>, V: AsRef<str>>(
        pattern: &str,
        params: impl IntoIterator<Item = (N, V)>,
    ) -> Target {
        let parsed = match Pattern::parse(pattern) {
            Ok(parsed) => parsed,
            Err(error) => return wrong(pattern, &error.to_string()),
        };
        let params: Vec<_> = params.into_iter().collect();
        let is_known = |name: &str| parsed.param_names().any(|known| known == name);
        if let Some((name, _)) = params.iter().find(|(name, _)| !is_known(name.as_ref())) {
            let fault = format!("it has no parameter '{}'", name.as_ref().escape_debug());
            return wrong(pattern, &fault);
        }
        let value = |name: &str| {
            let found = params.iter().find(|(given, _)| given.as_ref() == name);
            found.map(|(_, value)| value.as_ref())
        };
        match parsed.fill(value) {
            Ok(path) => Target::path(path),
            Err(name) => wrong(
                pattern,
                &format!("the parameter '{name}' is missing or empty"),
            ),
        }
    }

    /// The client with this connection id, if it is one of the worker's or of its predecessors'.
    pub fn connection(id: impl Into<String>) -> Target {
        let id = id.into();
        if id.is_empty() || id.len() > MAX_TARGET {
            return wrong(&id, "a connection id is neither empty nor that long");
        }
        Target(Inner::Connection(id))
    }

    fn encoded(&self) -> Result<EventTarget<'_>, PublishError> {
        match &self.0 {
            Inner::Path(path) => Ok(EventTarget::Path(path.as_bytes())),
            Inner::Connection(id) => Ok(EventTarget::Connection(id.as_bytes())),
            Inner::Wrong(fault) => Err(PublishError::Target(fault.clone())),
        }
    }
}

fn wrong(what: &str, fault: &str) -> Target {
    let shown: String = what.chars().take(100).collect();
    Target(Inner::Wrong(format!("'{}': {fault}", shown.escape_debug())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path_of(target: &Target) -> Result<String, String> {
        match target.encoded() {
            Ok(EventTarget::Path(path)) => Ok(String::from_utf8(path.to_vec()).unwrap()),
            Ok(other) => panic!("{other:?} is no path"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn patterns_are_filled_and_values_encoded() {
        let none = [("", ""); 0];
        for (pattern, params, path) in [
            ("/rooms/{room}", &[("room", "7")][..], "/rooms/7"),
            (
                "/a%20b/{x}",
                &[("x", "a b/\u{e4}%")],
                "/a%20b/a%20b%2F%C3%A4%25",
            ),
            ("/{x}/{y}", &[("y", "2"), ("x", "a:b@c~")], "/a:b@c~/2"),
            ("/f/{*rest}", &[("rest", "a/b c/d")], "/f/a/b%20c/d"),
            ("/plain", &none, "/plain"),
            ("/", &none, "/"),
        ] {
            let target = Target::route(pattern, params.iter().copied());
            assert_eq!(path_of(&target).as_deref(), Ok(path));
        }
    }

    #[test]
    fn a_target_that_cannot_be_is_named() {
        let long = format!("/{}", "a".repeat(MAX_TARGET));
        for (target, said) in [
            (Target::path("rooms"), "slash"),
            (Target::path(""), "slash"),
            (Target::path("/a b"), "percent-encode"),
            (Target::path("/a\r\nb"), "percent-encode"),
            (Target::path("/\u{e4}"), "percent-encode"),
            (Target::path("/a?b=c"), "query"),
            (Target::path(long), "longer"),
            (Target::route("/{a}", [("b", "1")]), "no parameter 'b'"),
            (Target::route("/{a}/{b}", [("b", "1")]), "'a' is missing"),
            (
                Target::route("/{a}", [("a", "")]),
                "'a' is missing or empty",
            ),
            (Target::route("/{a", [("a", "1")]), "/{a"),
            (Target::connection(""), "connection id"),
        ] {
            let error = target.encoded().expect_err(said).to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
