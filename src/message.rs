//! The nouns that HTTP, routing and slots share. No I/O, no allocation.

use crate::limits::{MAX_FIELDS, MAX_HEAD, MAX_PARAMS};

/// A request method (RFC 9110, section 9; PATCH is RFC 5789).
///
/// The discriminants are part of the shared-memory ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Method {
    Get = 0,
    Head = 1,
    Post = 2,
    Put = 3,
    Delete = 4,
    Patch = 5,
    Options = 6,
    Trace = 7,
}

impl Method {
    /// Every method, in the order of its discriminant.
    pub const ALL: [Method; 8] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Patch,
        Method::Options,
        Method::Trace,
    ];

    /// The method's token as it stands in a request line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Patch => "PATCH",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
        }
    }

    /// The method with exactly this token; methods are case-sensitive (RFC 9110, section 9.1).
    pub fn from_token(token: &[u8]) -> Option<Method> {
        Self::ALL
            .into_iter()
            .find(|m| m.as_str().as_bytes() == token)
    }

    /// The method with this discriminant.
    pub const fn from_u8(value: u8) -> Option<Method> {
        if (value as usize) < Self::ALL.len() {
            Some(Self::ALL[value as usize])
        } else {
            None
        }
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The HTTP version of a message. The discriminants are part of the shared-memory ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Version {
    Http10 = 0,
    Http11 = 1,
}

/// A range of bytes within a request head, counted from the head's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u16,
    /// Number of bytes.
    pub len: u16,
}

impl Span {
    /// The range `start..start + len`. `start + len` must not exceed [`MAX_HEAD`].
    pub const fn new(start: usize, len: usize) -> Span {
        debug_assert!(start + len <= MAX_HEAD);
        Span {
            start: start as u16,
            len: len as u16,
        }
    }

    /// The range as indices.
    pub const fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }

    /// The bytes of `head` that the range names, or `None` where it reaches past the end.
    pub fn of(self, head: &[u8]) -> Option<&[u8]> {
        head.get(self.range())
    }
}

/// One field line of a head: where its name and its value stand (RFC 9110, section 5).
/// The value is without the optional white space around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FieldSpan {
    /// The field's name.
    pub name: Span,
    /// The field's value.
    pub value: Span,
}

/// How the length of a request body is known (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    None,
    /// `Content-Length` gives this many bytes (more than none).
    Known(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A parsed request head: decisions and ranges, no bytes of its own.
///
/// It is large, so it is filled in place and reused (see [`RequestHead::clear`]).
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The request method.
    pub method: Method,
    /// The version of the request line.
    pub version: Version,
    /// How long the body is.
    pub body: BodyLength,
    /// Whether the client lets the connection stay open after the answer.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The whole request target as received.
    pub target: Span,
    /// The path of the target as received, percent-encoded; `*` for the asterisk form.
    pub path: Span,
    /// The query without its question mark, if there is one.
    pub query: Option<Span>,
    /// The value of `Host`, or of the authority of an absolute-form target.
    pub host: Option<Span>,
    /// The value of `Origin`.
    pub origin: Option<Span>,
    /// Whether a `Sec-Fetch-Site` field is present and is neither `same-origin` nor `none`.
    pub cross_site: bool,
    /// The value of `Access-Control-Request-Method`.
    pub preflight_method: Option<Span>,
    /// The value of `X-Hub-Secret`.
    pub secret: Option<Span>,
    fields: [FieldSpan; MAX_FIELDS],
    field_count: u16,
}

impl Default for RequestHead {
    fn default() -> Self {
        RequestHead {
            method: Method::Get,
            version: Version::Http11,
            body: BodyLength::None,
            keep_alive: true,
            expects_continue: false,
            target: Span::new(0, 0),
            path: Span::new(0, 0),
            query: None,
            host: None,
            origin: None,
            cross_site: false,
            preflight_method: None,
            secret: None,
            fields: [FieldSpan::default(); MAX_FIELDS],
            field_count: 0,
        }
    }
}

impl RequestHead {
    /// Makes the head empty again without touching its table of fields.
    pub fn clear(&mut self) {
        self.method = Method::Get;
        self.version = Version::Http11;
        self.body = BodyLength::None;
        self.keep_alive = true;
        self.expects_continue = false;
        self.target = Span::new(0, 0);
        self.path = Span::new(0, 0);
        self.query = None;
        self.host = None;
        self.origin = None;
        self.cross_site = false;
        self.preflight_method = None;
        self.secret = None;
        self.field_count = 0;
    }

    /// The field lines in the order they were received, duplicates included.
    pub fn fields(&self) -> &[FieldSpan] {
        &self.fields[..self.field_count as usize]
    }

    /// Adds a field line; `false` when there are [`MAX_FIELDS`] already.
    pub fn push_field(&mut self, field: FieldSpan) -> bool {
        let Some(place) = self.fields.get_mut(self.field_count as usize) else {
            return false;
        };
        *place = field;
        self.field_count += 1;
        true
    }
}

/// The path parameters of one match, as ranges in the order of the pattern's placeholders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params {
    spans: [Span; MAX_PARAMS],
    len: u8,
}

impl Params {
    /// The ranges in the order of the pattern's placeholders.
    pub fn as_slice(&self) -> &[Span] {
        &self.spans[..self.len as usize]
    }

    /// Adds a range; `false` when there are [`MAX_PARAMS`] already.
    pub fn push(&mut self, span: Span) -> bool {
        let Some(place) = self.spans.get_mut(self.len as usize) else {
            return false;
        };
        *place = span;
        self.len += 1;
        true
    }

    /// Drops every range from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len as u8);
    }
}
