//! Turns a complete request head into decisions and ranges, and refuses every head that two parsers
//! could read in two ways. Never repairs, never copies, and keeps nothing between requests.

use std::mem::MaybeUninit;

use super::fault::Fault;
use super::grammar::{is_token, list};
use super::scan::{head_too_long, too_many_fields};
use super::target::{bad_byte, check_host, parse_target, same_host};
use crate::limits::{MAX_FIELDS, MAX_HEAD, MAX_TARGET};
use crate::message::{BodyLength, FieldSpan, Method, RequestHead, Span, Version};

/// Fills `out` from `head`, which must be the bytes that
/// [`HeadScanner::scan`](super::HeadScanner::scan) delimited, from the first byte of the request line
/// to the end of the empty line. (The scanner has already refused bare LF, which this function does
/// not look for.) All ranges count from the first byte of `head`. After a fault the contents of
/// `out` mean nothing.
///
/// `expects_continue` is set only where there is a body to wait for. A target in absolute form
/// without a path gets the path `/`.
///
/// # Errors
/// * 400: malformed request line or field line; Host, target, `Content-Length` or
///   `Transfer-Encoding` against the rules cited in the code; a repeated field that may stand once
/// * 414 and 431: [`MAX_TARGET`], [`MAX_HEAD`], [`MAX_FIELDS`]
/// * 417: an expectation other than `100-continue`
/// * 501: a method that is not in [`Method`], CONNECT included; a transfer coding but `chunked`
/// * 505: a version other than 1.0 and 1.1
pub fn parse_head(head: &[u8], out: &mut RequestHead) -> Result<(), Fault> {
    out.clear();
    if head.len() > MAX_HEAD {
        return Err(head_too_long());
    }
    let mut lines = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut lines) {
        // httparse skips empty lines in front; they are the scanner's to judge.
        Ok(httparse::Status::Complete(len)) if len == head.len() && is_token(head[0]) => {}
        Ok(_) => return Err(not_one_head()),
        Err(error) => return Err(refusal(error, head)),
    }
    let place = |part: &[u8]| Span::new(part.as_ptr().addr() - head.as_ptr().addr(), part.len());

    // httparse gives all three on success; an empty text would be refused below.
    let method = request.method.unwrap_or_default().as_bytes();
    let target = request.path.unwrap_or_default().as_bytes();
    out.version = match request.version {
        Some(1) => Version::Http11,
        _ => Version::Http10,
    };
    out.method = Method::from_token(method).ok_or_else(|| unknown_method(method))?;
    if target.len() > MAX_TARGET {
        return Err(Fault::target_too_long());
    }
    out.target = place(target);
    let parts = parse_target(target, out.target.start as usize, out.method)?;
    (out.path, out.query) = (parts.path, parts.query);

    let mut control = Control::default();
    for line in request.headers.iter() {
        let name = line.name.as_bytes();
        let field = FieldSpan {
            name: place(name),
            value: place(line.value),
        };
        out.push_field(field);
        control.note(name, line.value, field.value, out)?;
    }

    out.keep_alive = match out.version {
        // RFC 9112, section 9.3: `close` wins over everything, then the version decides.
        Version::Http11 => !control.close,
        Version::Http10 => control.keep_alive && !control.close,
    };
    out.body = control.body_length(out.version)?;
    // RFC 9110, section 10.1.1: HTTP/1.0 clients do not know the interim answer.
    out.expects_continue =
        control.expects_continue && out.version == Version::Http11 && out.body != BodyLength::None;

    match (parts.authority, out.host) {
        (None, Some(_)) => {}
        (Some(authority), Some(host)) => {
            // RFC 9112, section 3.2.2 lets the target win over a Host that differs. A worker that
            // looks at the field would be misled, so a difference is refused.
            if !same_host(
                &head[host.range()],
                &head[authority.span.range()],
                authority.default_port,
            ) {
                return Err(Fault::bad_request(
                    "Host differs from the authority of the target (RFC 9112, section 3.2.2)",
                ));
            }
            out.host = Some(authority.span);
        }
        // RFC 9112, section 3.2: HTTP/1.1 requests have a Host; HTTP/1.0 did not know it.
        (authority, None) if out.version == Version::Http10 => {
            out.host = authority.map(|authority| authority.span);
        }
        (_, None) => {
            return Err(Fault::bad_request(
                "HTTP/1.1 requests need a Host field (RFC 9112, section 3.2)",
            ));
        }
    }
    Ok(())
}

/// What the fields that govern the message itself have said so far.
#[derive(Default)]
struct Control<'h> {
    content_length: Option<&'h [u8]>,
    transfer_encoding: Option<&'h [u8]>,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
}

impl<'h> Control<'h> {
    /// Takes notice of one field line. The length of the name picks the few candidates, so that
    /// most lines cost one jump.
    #[inline]
    fn note(
        &mut self,
        name: &[u8],
        value: &'h [u8],
        span: Span,
        out: &mut RequestHead,
    ) -> Result<(), Fault> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                check_host(value)?;
                once(
                    &mut out.host,
                    span,
                    "Host is repeated (RFC 9112, section 3.2)",
                )?;
            }
            6 if name.eq_ignore_ascii_case(b"expect") => self.expect(value)?,
            6 if name.eq_ignore_ascii_case(b"origin") => {
                once(
                    &mut out.origin,
                    span,
                    "Origin is repeated (RFC 9110, section 5.3)",
                )?;
            }
            10 if name.eq_ignore_ascii_case(b"connection") => self.connection(value),
            12 if name.eq_ignore_ascii_case(b"x-hub-secret") => {
                // Many guesses in one request would be cheap; one is allowed.
                once(
                    &mut out.secret,
                    span,
                    "X-Hub-Secret is repeated (RFC 9110, section 5.3)",
                )?;
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => once(
                &mut self.content_length,
                value,
                "Content-Length is repeated (RFC 9112, section 6.3)",
            )?,
            14 if name.eq_ignore_ascii_case(b"sec-fetch-site") => {
                // A value this server does not know counts as cross-site: that is the safe side.
                out.cross_site |= value != b"same-origin" && value != b"none";
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => once(
                &mut self.transfer_encoding,
                value,
                "Transfer-Encoding is repeated (RFC 9112, section 6.1)",
            )?,
            29 if name.eq_ignore_ascii_case(b"access-control-request-method") => once(
                &mut out.preflight_method,
                span,
                "Access-Control-Request-Method is repeated (RFC 9110, section 5.3)",
            )?,
            _ => {}
        }
        Ok(())
    }

    /// RFC 9110, section 7.6.1. Other options are for hops that know them. `upgrade` is ignored (section
    /// 7.8 allows that): what follows the head is a body or the next request, in HTTP/1.1 as before.
    fn connection(&mut self, value: &[u8]) {
        for option in list(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// RFC 9110, section 10.1.1; empty elements of a list mean nothing (section 5.6.1.2).
    #[cold]
    fn expect(&mut self, value: &[u8]) -> Result<(), Fault> {
        for expectation in list(value).filter(|e| !e.is_empty()) {
            if !expectation.eq_ignore_ascii_case(b"100-continue") {
                return Err(Fault::expectation_failed());
            }
            self.expects_continue = true;
        }
        Ok(())
    }

    /// RFC 9112, section 6.3, without the cases that it leaves to the recipient's mercy.
    fn body_length(&self, version: Version) -> Result<BodyLength, Fault> {
        match (self.content_length, self.transfer_encoding) {
            (None, None) => Ok(BodyLength::None),
            (Some(digits), None) => content_length(digits),
            (None, Some(codings)) => {
                if version == Version::Http10 {
                    return Err(Fault::bad_request(
                        "Transfer-Encoding in an HTTP/1.0 request (RFC 9112, section 6.1)",
                    ));
                }
                transfer_encoding(codings)
            }
            // RFC 9112, section 6.1: this is how requests are smuggled.
            (Some(_), Some(_)) => Err(Fault::bad_request(
                "Content-Length together with Transfer-Encoding (RFC 9112, section 6.1)",
            )),
        }
    }
}

/// Keeps `value` in an empty `place`; RFC 9110, section 5.3: a field that is not a list stands once.
#[inline]
fn once<T>(place: &mut Option<T>, value: T, repeated: &'static str) -> Result<(), Fault> {
    if place.is_some() {
        return Err(Fault::bad_request(repeated));
    }
    *place = Some(value);
    Ok(())
}

/// RFC 9110, section 8.6: `1*DIGIT`. Rust's own number parsers take a sign, so they are not used.
fn content_length(digits: &[u8]) -> Result<BodyLength, Fault> {
    let number = digits.iter().try_fold(0u64, |number, b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    });
    // Zeros in front are legal, but no number of 64 bits needs more than twenty digits. The greatest
    // of them means something else to workers, and others who read this may count in signed numbers.
    let in_range = |number: &u64| *number <= i64::MAX as u64 && (1..=20).contains(&digits.len());
    match number.filter(in_range) {
        Some(0) => Ok(BodyLength::None),
        Some(number) => Ok(BodyLength::Known(number)),
        None => Err(Fault::bad_request(
            "Content-Length is not one decimal number below 2^63 (RFC 9110, section 8.6)",
        )),
    }
}

/// RFC 9112, sections 6.1 and 7: exactly one coding, `chunked`, which has no parameters.
fn transfer_encoding(codings: &[u8]) -> Result<BodyLength, Fault> {
    if codings.eq_ignore_ascii_case(b"chunked") {
        return Ok(BodyLength::Chunked);
    }
    Err(bad_transfer_encoding(codings))
}

#[cold]
fn bad_transfer_encoding(codings: &[u8]) -> Fault {
    let mut unknown = false;
    for coding in list(codings) {
        let name = coding.split(|&b| b == b';').next().unwrap_or_default();
        let name = name.trim_ascii_end();
        if name.is_empty() || !name.iter().all(|&b| is_token(b)) {
            unknown = false;
            break;
        }
        unknown |= !name.eq_ignore_ascii_case(b"chunked");
    }
    if unknown {
        // RFC 9112, section 6.1: a coding that the server does not understand is 501.
        Fault::not_implemented("the only transfer coding this server knows is chunked")
    } else {
        Fault::bad_request("Transfer-Encoding is not exactly one `chunked` (RFC 9112, section 6.3)")
    }
}

#[cold]
fn unknown_method(token: &[u8]) -> Fault {
    // RFC 9110, section 9.1: methods are case-sensitive, and one that is not known is 501. CONNECT
    // (section 9.3.6) is among them: nothing is ever tunnelled.
    Fault::not_implemented(match token {
        b"CONNECT" => "this server is not a proxy and opens no tunnels",
        _ => "this server does not know the method; methods are case-sensitive",
    })
}

#[cold]
fn not_one_head() -> Fault {
    Fault::bad_request("the bytes are not exactly one request head (RFC 9112, section 2.1)")
}

/// What httparse's refusal means for the client.
#[cold]
fn refusal(error: httparse::Error, head: &[u8]) -> Fault {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => too_many_fields(),
        Error::HeaderName => Fault::bad_request(
            "a field name is not a token directly followed by a colon (RFC 9112, section 5.1)",
        ),
        Error::HeaderValue => {
            Fault::bad_request("a field value has a control character (RFC 9110, section 5.5)")
        }
        Error::Version if names_other_version(head) => Fault::version_not_supported(),
        Error::NewLine | Error::Token | Error::Version | Error::Status => malformed_line(head),
    }
}

/// A request line that httparse gives up on, with the more telling causes first.
#[cold]
fn malformed_line(head: &[u8]) -> Fault {
    let mut parts = request_line(head).split(|&b| b == b' ');
    let target = parts.nth(1).unwrap_or_default();
    if target.len() > MAX_TARGET {
        return Fault::target_too_long();
    }
    match target.iter().find(|&&b| !b.is_ascii_graphic()) {
        Some(&b) => bad_byte(b),
        None => Fault::bad_request(
            "the request line is not method, target and version with one space between them \
             (RFC 9112, section 3)",
        ),
    }
}

/// Whether the third word of the line is the last and is `HTTP/` DIGIT `.` DIGIT (RFC 9112, section
/// 2.3).
fn names_other_version(head: &[u8]) -> bool {
    let mut words = request_line(head).split(|&b| b == b' ').skip(2);
    let version = (words.next(), words.next());
    matches!(
        version,
        (Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None)
            if major.is_ascii_digit() && minor.is_ascii_digit()
    )
}

fn request_line(head: &[u8]) -> &[u8] {
    head.split(|&b| b == b'\r').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &str) -> RequestHead {
        let mut out = RequestHead::default();
        parse_head(head.as_bytes(), &mut out).unwrap_or_else(|fault| panic!("{head:?}: {fault}"));
        out
    }

    fn text(head: &str, span: Option<Span>) -> Option<&str> {
        span.map(|span| &head[span.range()])
    }

    #[test]
    fn every_decision_is_filled_in() {
        let head = "POST http://h.example/a/b?c=d HTTP/1.1\r\n\
                    hOsT:  H.example:80\t \r\n\
                    Content-Length: 0012\r\n\
                    Origin: https://a.example\r\n\
                    Sec-Fetch-Site: cross-site\r\n\
                    Access-Control-Request-Method: PUT\r\n\
                    X-Hub-Secret: 0123456789abcdef\r\n\
                    Expect: 100-Continue\r\n\
                    Connection: upgrade , CLOSE\r\n\
                    Upgrade: websocket\r\n\
                    X-Empty:\r\n\
                    X-Twice: 1\r\n\
                    X-Twice: 2\r\n\
                    \r\n";
        let out = parsed(head);
        assert_eq!((out.method, out.version), (Method::Post, Version::Http11));
        assert_eq!(out.body, BodyLength::Known(12));
        assert!(!out.keep_alive && out.expects_continue && out.cross_site);
        assert_eq!(
            text(head, Some(out.target)),
            Some("http://h.example/a/b?c=d")
        );
        assert_eq!(text(head, Some(out.path)), Some("/a/b"));
        assert_eq!(text(head, out.query), Some("c=d"));
        assert_eq!(text(head, out.host), Some("h.example"));
        assert_eq!(text(head, out.origin), Some("https://a.example"));
        assert_eq!(text(head, out.preflight_method), Some("PUT"));
        assert_eq!(text(head, out.secret), Some("0123456789abcdef"));
        let fields: Vec<_> = out
            .fields()
            .iter()
            .map(|field| (&head[field.name.range()], &head[field.value.range()]))
            .collect();
        assert_eq!(fields.len(), 12);
        assert_eq!(fields[0], ("hOsT", "H.example:80"));
        assert_eq!(
            fields[9..],
            [("X-Empty", ""), ("X-Twice", "1"), ("X-Twice", "2")]
        );
    }

    #[test]
    fn a_head_used_before_leaves_nothing_behind() {
        let mut out = parsed(
            "POST /?q HTTP/1.0\r\nHost: a\r\nOrigin: b\r\nX-Hub-Secret: c\r\n\
             Sec-Fetch-Site: x\r\nContent-Length: 3\r\n\r\n",
        );
        let head = b"GET / HTTP/1.1\r\nHost: z\r\n\r\n";
        parse_head(head, &mut out).unwrap();
        let mut fresh = RequestHead::default();
        parse_head(head, &mut fresh).unwrap();
        // Only the spare part of the table of fields may differ.
        assert_eq!(out.fields(), fresh.fields());
        assert_eq!((out.query, out.origin, out.secret), (None, None, None));
        assert_eq!((out.body, out.cross_site), (BodyLength::None, false));
        assert!(out.keep_alive);
    }

    #[test]
    fn keep_alive_follows_version_and_connection() {
        for (version, connection, expected) in [
            ("1.1", "", true),
            ("1.1", "Connection: keep-alive\r\n", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: x, Close\r\n", false),
            ("1.1", "Connection: keep-alive, close\r\n", false),
            (
                "1.1",
                "Connection: keep-alive\r\nConnection: close\r\n",
                false,
            ),
            ("1.1", "Connection: closed\r\n", true),
            ("1.0", "", false),
            ("1.0", "Connection: Keep-Alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
            ("1.0", "Connection: upgrade\r\n", false),
        ] {
            let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
            assert_eq!(parsed(&head).keep_alive, expected, "{head:?}");
        }
    }

    #[test]
    fn the_length_of_the_body() {
        let length =
            |fields: &str| parsed(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).body;
        assert_eq!(length(""), BodyLength::None);
        assert_eq!(length("Content-Length: 0\r\n"), BodyLength::None);
        assert_eq!(length("Content-Length: 00\r\n"), BodyLength::None);
        assert_eq!(
            length("Content-Length: 9223372036854775807\r\n"),
            BodyLength::Known(i64::MAX as u64)
        );
        for past in ["9223372036854775808", "18446744073709551615"] {
            let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {past}\r\n\r\n");
            let fault = parse_head(head.as_bytes(), &mut RequestHead::default()).unwrap_err();
            assert_eq!(fault.status, 400, "{past}");
        }
        assert_eq!(
            length("Transfer-Encoding: Chunked \r\n"),
            BodyLength::Chunked
        );
    }

    #[test]
    fn continue_is_expected_only_where_it_means_something() {
        let expects = |line: &str, fields: &str| {
            parsed(&format!("{line}\r\nHost: a\r\n{fields}\r\n")).expects_continue
        };
        let expect = "Expect: 100-continue\r\n";
        let with_body = format!("{expect}Content-Length: 1\r\n");
        let chunked = format!("{expect}Transfer-Encoding: chunked\r\n");
        assert!(expects("POST / HTTP/1.1", &with_body));
        assert!(expects("POST / HTTP/1.1", &chunked));
        assert!(!expects("POST / HTTP/1.1", expect));
        assert!(!expects("POST / HTTP/1.0", &with_body));
        assert!(!expects("POST / HTTP/1.1", "Content-Length: 1\r\n"));
    }

    #[test]
    fn cross_site_means_anything_unknown() {
        for (fields, expected) in [
            ("", false),
            ("Sec-Fetch-Site: same-origin\r\n", false),
            ("Sec-Fetch-Site: none\r\n", false),
            ("Sec-Fetch-Site: same-site\r\n", true),
            ("Sec-Fetch-Site: cross-site\r\n", true),
            ("Sec-Fetch-Site:\r\n", true),
            ("Sec-Fetch-Site: NONE\r\n", true),
            (
                "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Site: none\r\n",
                true,
            ),
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
            assert_eq!(parsed(&head).cross_site, expected, "{head:?}");
        }
    }

    #[test]
    fn bytes_that_no_scanner_delimited_are_faults_not_panics() {
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut out = RequestHead::default();
        for len in 0..whole.len() {
            assert!(parse_head(&whole[..len], &mut out).is_err(), "{len}");
        }
        let mut longer = whole.to_vec();
        longer.push(b'G');
        assert!(parse_head(&longer, &mut out).is_err());
        for front in [&b"\r\n"[..], b"\n", b"\r\n\r\n"] {
            assert!(parse_head(&[front, whole].concat(), &mut out).is_err());
        }
        let fault = parse_head(&vec![b'a'; MAX_HEAD + 1], &mut out).unwrap_err();
        assert_eq!(fault.status, 431);
    }
}
