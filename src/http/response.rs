//! Writes response heads. The hub alone decides framing, `connection` and the status line's form;
//! nothing a worker sends can change where its response ends.

use super::grammar::{is_field_content, is_token};
use super::passed::PassedFields;
use super::status::status_line;
use super::worker_fields::{Given, WorkerHeadFault};
use crate::message::{Method, Version};

/// The interim answer to `Expect: 100-continue` (RFC 9110, section 15.2.1). HTTP/1.1 only.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// How the client learns where the response ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// The head says it all; no framing field is written.
    None,
    /// `content-length` with this many bytes.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// The connection is closed behind the body; `connection: close` is written.
    UntilClose,
}

/// The framing of a response, and whether its body is sent. Where it is not, bytes that the worker
/// gives as body are dropped. `length` is the body's length where it is known in advance.
///
/// * HEAD: the framing field that GET would have, no body (RFC 9110, section 9.3.2). A known length
///   of 0 is not announced, since the worker may simply have left the body out (RFC 9110, section
///   8.6 forbids a wrong number, not a missing one).
/// * 1xx, 204 and 304 have neither (RFC 9110, sections 8.6, 15.3.5 and 15.4.5), 205 has the length 0
///   (section 15.3.6).
/// * Otherwise an unknown length is chunked, or until close for HTTP/1.0 (RFC 9112, section 6.1).
pub fn framing_for(
    status: u16,
    method: Method,
    version: Version,
    length: Option<u64>,
) -> (BodyFraming, bool) {
    match (status, method, length) {
        (100..=199 | 204 | 304, _, _) => (BodyFraming::None, false),
        (205, _, _) => (BodyFraming::Length(0), false),
        (_, Method::Head, Some(0)) => (BodyFraming::None, false),
        (_, Method::Head, Some(length)) => (BodyFraming::Length(length), false),
        (_, Method::Head, None) if version == Version::Http11 => (BodyFraming::Chunked, false),
        (_, Method::Head, None) => (BodyFraming::None, false),
        (_, _, Some(length)) => (BodyFraming::Length(length), true),
        (_, _, None) if version == Version::Http11 => (BodyFraming::Chunked, true),
        (_, _, None) => (BodyFraming::UntilClose, true),
    }
}

/// What a response head depends on besides the response.
#[derive(Clone, Copy, Debug)]
pub struct HeadStyle<'a> {
    /// The version of the request. The response always says HTTP/1.1 (RFC 9110, section 6.2).
    pub version: Version,
    /// Whether the connection stays open behind this response. [`BodyFraming::UntilClose`]
    /// overrules it.
    pub keep_alive: bool,
    /// The time now, from [`imf_fixdate`](super::imf_fixdate).
    pub date: &'a [u8; 29],
    /// Whether any web page may read the response: `access-control-allow-origin: *`.
    pub cors: bool,
}

/// Appends the head of a worker's response to `out`, the final empty line included.
///
/// `fields` is the worker's field section: lines of `name: value` CRLF, without an empty line. All
/// of it is checked; framing and hop-by-hop fields (`connection`, `content-length`, `keep-alive`,
/// `proxy-connection`, `te`, `trailer`, `transfer-encoding`, `upgrade`, and what `connection` nominates)
/// are dropped, everything else passes unchanged and in order. `date` is added where the worker gave none (RFC 9110, section
/// 6.6.1).
///
/// `passed` saves the checking where the same was said lately.
///
/// # Errors
/// [`WorkerHeadFault`] says which rule was broken; `out` is then as it was before.
pub fn encode_worker_head(
    out: &mut Vec<u8>,
    passed: &mut PassedFields,
    status: u16,
    fields: &[u8],
    framing: BodyFraming,
    style: &HeadStyle,
) -> Result<(), WorkerHeadFault> {
    if !(200..=599).contains(&status) {
        return Err(WorkerHeadFault::Status(status));
    }
    let before = out.len();
    put_status_line(out, status);
    match passed.copy(out, fields) {
        Ok(given) => {
            put_hub_fields(out, given, framing, style);
            Ok(())
        }
        Err(fault) => {
            out.truncate(before);
            Err(fault)
        }
    }
}

/// Appends the head of one of the hub's own responses to `out`, the final empty line included.
///
/// `fields` are names and values other than framing and `connection`, which the other arguments
/// decide. A field whose name is no token or whose value has a control character is left out, so
/// that a text taken from a request can never split a response.
pub fn encode_own_head(
    out: &mut Vec<u8>,
    status: u16,
    fields: &[(&str, &str)],
    framing: BodyFraming,
    style: &HeadStyle,
) {
    put_status_line(out, status);
    let mut given = Given::default();
    for (name, value) in fields {
        if name.is_empty() || !name.bytes().all(is_token) || !value.bytes().all(is_field_content) {
            continue;
        }
        given.date |= name.eq_ignore_ascii_case("date");
        given.allow_origin |= name.eq_ignore_ascii_case("access-control-allow-origin");
        for part in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
    put_hub_fields(out, given, framing, style);
}

#[inline]
fn put_status_line(out: &mut Vec<u8>, status: u16) {
    match status_line(status) {
        Some(line) => out.extend_from_slice(line),
        None => {
            // RFC 9112, section 4: the space stays when the phrase is empty.
            out.extend_from_slice(b"HTTP/1.1 ");
            put_decimal(out, u64::from(status));
            out.extend_from_slice(b" \r\n");
        }
    }
}

/// The fields that the hub writes itself, and the empty line.
#[inline]
fn put_hub_fields(out: &mut Vec<u8>, given: Given, framing: BodyFraming, style: &HeadStyle) {
    if !given.date {
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(style.date);
        out.extend_from_slice(b"\r\n");
    }
    if style.cors && !given.allow_origin {
        out.extend_from_slice(b"access-control-allow-origin: *\r\n");
    }
    match framing {
        BodyFraming::None | BodyFraming::UntilClose => {}
        BodyFraming::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            put_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        BodyFraming::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    // RFC 9112, section 9.3: HTTP/1.1 stays open unless told otherwise, HTTP/1.0 the reverse.
    if !style.keep_alive || framing == BodyFraming::UntilClose {
        out.extend_from_slice(b"connection: close\r\n");
    } else if style.version == Version::Http10 {
        out.extend_from_slice(b"connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn put_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn style(version: Version, keep_alive: bool, cors: bool) -> HeadStyle<'static> {
        HeadStyle {
            version,
            keep_alive,
            date: DATE,
            cors,
        }
    }

    fn worker(status: u16, fields: &str, framing: BodyFraming, style: &HeadStyle) -> String {
        let mut out = b"before".to_vec();
        let passed = &mut PassedFields::default();
        encode_worker_head(&mut out, passed, status, fields.as_bytes(), framing, style).unwrap();
        String::from_utf8(out.split_off(6)).unwrap()
    }

    const PLAIN: (Version, bool, bool) = (Version::Http11, true, false);

    #[test]
    fn framing_follows_status_method_version_and_length() {
        use BodyFraming::{Chunked, Length, None as Nothing, UntilClose};
        use Version::{Http10, Http11};
        for (status, method, version, length, expected) in [
            (200, Method::Get, Http11, Some(5), (Length(5), true)),
            (200, Method::Get, Http11, Some(0), (Length(0), true)),
            (200, Method::Get, Http11, None, (Chunked, true)),
            (200, Method::Get, Http10, Some(5), (Length(5), true)),
            (200, Method::Post, Http10, None, (UntilClose, true)),
            (200, Method::Head, Http11, Some(5), (Length(5), false)),
            (200, Method::Head, Http11, Some(0), (Nothing, false)),
            (200, Method::Head, Http11, None, (Chunked, false)),
            (200, Method::Head, Http10, None, (Nothing, false)),
            (204, Method::Get, Http11, Some(5), (Nothing, false)),
            (204, Method::Get, Http11, None, (Nothing, false)),
            (304, Method::Get, Http11, Some(5), (Nothing, false)),
            (304, Method::Head, Http10, None, (Nothing, false)),
            (205, Method::Get, Http11, None, (Length(0), false)),
            (100, Method::Get, Http11, Some(5), (Nothing, false)),
            (500, Method::Get, Http11, None, (Chunked, true)),
        ] {
            assert_eq!(
                framing_for(status, method, version, length),
                expected,
                "{status} {method} {version:?} {length:?}"
            );
        }
    }

    #[test]
    fn the_hub_writes_framing_date_and_connection() {
        let (version, keep_alive, cors) = PLAIN;
        assert_eq!(
            worker(
                200,
                "content-type: text/plain\r\n",
                BodyFraming::Length(13),
                &style(version, keep_alive, cors)
            ),
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\
             date: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 13\r\n\r\n"
        );
        assert_eq!(
            worker(299, "", BodyFraming::Chunked, &style(version, false, true)),
            "HTTP/1.1 299 \r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             access-control-allow-origin: *\r\ntransfer-encoding: chunked\r\n\
             connection: close\r\n\r\n"
        );
        let http10 = style(Version::Http10, true, false);
        assert!(
            worker(200, "", BodyFraming::Length(u64::MAX), &http10).ends_with(
                "content-length: 18446744073709551615\r\nconnection: keep-alive\r\n\r\n"
            )
        );
        assert!(
            worker(200, "", BodyFraming::UntilClose, &http10)
                .ends_with(" GMT\r\nconnection: close\r\n\r\n")
        );
    }

    #[test]
    fn framing_and_hop_by_hop_fields_of_a_worker_are_dropped() {
        let (version, keep_alive, cors) = PLAIN;
        let fields = "Connection: close\r\nA: 1\r\nKEEP-ALIVE: x\r\nProxy-Connection: x\r\nB: 2\r\n\
                      b: 3\r\nTE: x\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\nUpgrade: h2c\r\n\
                      Content-Length: 5\r\ncontent-length: 6\r\nC: \t\u{e9} \r\n";
        assert_eq!(
            worker(
                200,
                fields,
                BodyFraming::None,
                &style(version, keep_alive, cors)
            ),
            "HTTP/1.1 200 OK\r\nA: 1\r\nB: 2\r\nb: 3\r\nC: \t\u{e9} \r\n\
             date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n"
        );
    }

    #[test]
    fn a_worker_may_choose_date_and_origin() {
        let fields = "Date: x\r\nAccess-Control-Allow-Origin: https://a\r\n";
        assert_eq!(
            worker(
                200,
                fields,
                BodyFraming::None,
                &style(Version::Http11, true, true)
            ),
            format!("HTTP/1.1 200 OK\r\n{fields}\r\n")
        );
    }

    #[test]
    fn a_fault_leaves_the_output_as_it_was() {
        let (version, keep_alive, cors) = PLAIN;
        let style = style(version, keep_alive, cors);
        for (status, fields) in [
            (0, &b""[..]),
            (100, b""),
            (199, b""),
            (600, b""),
            (u16::MAX, b""),
            (200, b"a: b\r\ntrailer: x\r\nc: d\r\ne: \n\r\n"),
        ] {
            let mut out = b"before".to_vec();
            let passed = &mut PassedFields::default();
            let framing = BodyFraming::None;
            let said = encode_worker_head(&mut out, passed, status, fields, framing, &style);
            assert!(said.is_err(), "{status} {fields:?}");
            assert_eq!(out, b"before");
        }
    }

    #[test]
    fn own_heads() {
        let mut out = Vec::new();
        encode_own_head(
            &mut out,
            405,
            &[
                ("allow", "GET, HEAD"),
                ("content-type", "application/problem+json"),
            ],
            BodyFraming::Length(2),
            &style(Version::Http11, true, true),
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 405 Method Not Allowed\r\nallow: GET, HEAD\r\n\
             content-type: application/problem+json\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             access-control-allow-origin: *\r\ncontent-length: 2\r\n\r\n"
        );
    }

    #[test]
    fn own_fields_cannot_split_a_response() {
        let date = format!("date: {}\r\n", str::from_utf8(DATE).unwrap());
        for (name, value) in [
            ("a", "b\r\nset-cookie: c"),
            ("a", "b\n"),
            ("a", "\0"),
            ("a: b\r\nc", "d"),
            ("", "b"),
            ("a b", "c"),
        ] {
            let mut out = Vec::new();
            let fields = [("x", "1"), (name, value), ("y", "2")];
            let style = style(Version::Http11, true, false);
            encode_own_head(&mut out, 404, &fields, BodyFraming::None, &style);
            assert_eq!(
                String::from_utf8(out).unwrap(),
                format!("HTTP/1.1 404 Not Found\r\nx: 1\r\ny: 2\r\n{date}\r\n")
            );
        }
    }

    #[test]
    fn every_head_parses_with_another_parser() {
        let mut passed = PassedFields::default();
        for status in 200..=599 {
            let mut out = Vec::new();
            let style = style(Version::Http10, status % 2 == 0, status % 3 == 0);
            encode_worker_head(
                &mut out,
                &mut passed,
                status,
                b"a: b\r\n",
                BodyFraming::Length(1),
                &style,
            )
            .unwrap();
            let mut lines = [httparse::EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut lines);
            let parsed = response.parse(&out).unwrap();
            assert_eq!(parsed, httparse::Status::Complete(out.len()));
            assert_eq!(response.code, Some(status));
        }
    }
}
