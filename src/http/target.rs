//! The request target and the host it is for (RFC 9112, section 3.2). Decides which bytes are path,
//! query and authority; never decodes, normalises or repairs them.

use std::net::Ipv6Addr;

use memchr::memchr;

use super::fault::Fault;
use super::grammar::{is_host, is_target, starts_with_percent_sequence};
use crate::message::{Method, Span};

/// The parts of a request target, as ranges within the head.
pub(super) struct Target {
    pub path: Span,
    pub query: Option<Span>,
    /// Present when the target is in absolute form.
    pub authority: Option<Authority>,
}

/// The authority of a target in absolute form.
pub(super) struct Authority {
    pub span: Span,
    /// The port that the scheme stands for.
    pub default_port: u16,
}

/// Takes apart a target that begins at `base` in the head. It must not be empty.
///
/// # Errors
/// 400 when it is in none of the forms origin, absolute (`http` and `https`) and asterisk, or has a
/// fragment, a malformed percent sequence, a backslash, a control or a non-ASCII character.
#[inline]
pub(super) fn parse_target(target: &[u8], base: usize, method: Method) -> Result<Target, Fault> {
    if target.first() == Some(&b'/') {
        let (path, query) = path_and_query(target, base)?;
        return Ok(Target {
            path,
            query,
            authority: None,
        });
    }
    rare_forms(target, base, method)
}

#[cold]
fn rare_forms(target: &[u8], base: usize, method: Method) -> Result<Target, Fault> {
    if target == b"*" {
        // RFC 9112, section 3.2.4: the asterisk form is for OPTIONS only.
        if method != Method::Options {
            return Err(Fault::bad_request(
                "the target `*` is for OPTIONS only (RFC 9112, section 3.2.4)",
            ));
        }
        return Ok(Target {
            path: Span::new(base, 1),
            query: None,
            authority: None,
        });
    }
    // RFC 9112, section 3.2.2; schemes ignore case (RFC 3986, section 3.1).
    let (scheme, default_port) = if starts_with_ignoring_case(target, b"http://") {
        (b"http://".len(), 80)
    } else if starts_with_ignoring_case(target, b"https://") {
        (b"https://".len(), 443)
    } else {
        return Err(Fault::bad_request(
            "the target is neither a path that begins with a slash nor an http or https URI \
             (RFC 9112, section 3.2)",
        ));
    };
    let rest = &target[scheme..];
    let len = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    check_host(&rest[..len])?;
    let authority = Some(Authority {
        span: Span::new(base + scheme, len),
        default_port,
    });
    let (mut path, query) = path_and_query(&rest[len..], base + scheme + len)?;
    if path.len == 0 {
        // RFC 9110, section 4.2.3: an empty path means `/`, except with OPTIONS, where it means the
        // whole server. There is no `*` in these bytes to point at, so that case is refused.
        if method == Method::Options && query.is_none() {
            return Err(Fault::bad_request(
                "OPTIONS for the whole server takes the target `*` (RFC 9112, section 3.2.4)",
            ));
        }
        // The last slash of `http://` is the path `/` that the client left out.
        path = Span::new(base + scheme - 1, 1);
    }
    Ok(Target {
        path,
        query,
        authority,
    })
}

/// Splits at the first question mark and checks every byte on the way.
#[inline]
fn path_and_query(bytes: &[u8], base: usize) -> Result<(Span, Option<Span>), Fault> {
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        if is_target(b) {
            at += 1;
        } else if starts_with_percent_sequence(&bytes[at..]) {
            at += 3;
        } else {
            return Err(bad_byte(b));
        }
    }
    let Some(mark) = memchr(b'?', bytes) else {
        return Ok((Span::new(base, bytes.len()), None));
    };
    let query = Span::new(base + mark + 1, bytes.len() - mark - 1);
    Ok((Span::new(base, mark), Some(query)))
}

#[cold]
pub(super) fn bad_byte(b: u8) -> Fault {
    Fault::bad_request(match b {
        b'#' => "the target has a fragment (RFC 9112, section 3.2)",
        b'%' => {
            "the target has a percent sign without two hexadecimal digits (RFC 3986, section 2.1)"
        }
        b'\\' => "the target has a backslash; send it as %5C (RFC 3986, section 2)",
        0x80.. => "the target has a non-ASCII byte; percent-encode it (RFC 3986, section 2)",
        _ => "the target has a character that no URI may have (RFC 3986, section 2)",
    })
}

/// Checks `uri-host [":" port]` (RFC 9110, section 7.2), as it stands in a Host field or in an
/// authority.
///
/// # Errors
/// 400 when it is empty, or has userinfo, a path, a comma, a malformed IPv6 address or port.
#[inline]
pub(super) fn check_host(value: &[u8]) -> Result<(), Fault> {
    if is_plain_host(value) {
        return Ok(());
    }
    check_any_host(value)
}

/// Whether this is a name or an IPv4 address, without percent sequences, that has no port or one of at
/// most four digits: what nearly everybody sends, told in one pass.
#[inline]
fn is_plain_host(value: &[u8]) -> bool {
    let name = value.iter().take_while(|&&b| is_host(b)).count();
    match &value[name..] {
        [] => name > 0,
        [b':', digits @ ..] if digits.len() <= 4 => {
            name > 0 && digits.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

fn check_any_host(value: &[u8]) -> Result<(), Fault> {
    let (host, port) = split_port(value);
    let host_ok = match host {
        [] => false,
        [b'[', address @ .., b']'] => is_ipv6(address),
        _ => is_registered_name(host),
    };
    // RFC 3986, section 3.2.3: the digits may be missing after the colon.
    let port_ok = port.is_none_or(|digits| digits.is_empty() || port_number(digits).is_some());
    if host_ok && port_ok {
        return Ok(());
    }
    Err(bad_host(value))
}

#[cold]
fn bad_host(value: &[u8]) -> Fault {
    Fault::bad_request(if value.is_empty() {
        "the host is empty (RFC 9110, section 7.2)"
    } else {
        "the host is not a name or an address with an optional port (RFC 9110, section 7.2)"
    })
}

/// Whether a checked Host value names the same server as a checked authority, ignoring case and the
/// default port of the target's scheme.
pub(super) fn same_host(host: &[u8], authority: &[u8], default_port: u16) -> bool {
    let (host_name, host_port) = split_port(host);
    let (name, port) = split_port(authority);
    let number = |port: Option<&[u8]>| port.and_then(port_number).unwrap_or(default_port);
    host_name.eq_ignore_ascii_case(name) && number(host_port) == number(port)
}

/// The host and the bytes after the last colon that is not inside brackets.
fn split_port(value: &[u8]) -> (&[u8], Option<&[u8]>) {
    match value.iter().rposition(|&b| b == b':' || b == b']') {
        Some(at) if value[at] == b':' => (&value[..at], Some(&value[at + 1..])),
        _ => (value, None),
    }
}

fn port_number(digits: &[u8]) -> Option<u16> {
    digits
        .iter()
        .try_fold(0u16, |number, b| {
            let digit = b.is_ascii_digit().then(|| u16::from(b - b'0'))?;
            number.checked_mul(10)?.checked_add(digit)
        })
        .filter(|_| !digits.is_empty())
}

fn is_registered_name(mut name: &[u8]) -> bool {
    while let [b, rest @ ..] = name {
        if is_host(*b) {
            name = rest;
        } else if starts_with_percent_sequence(name) {
            name = &name[3..];
        } else {
            return false;
        }
    }
    true
}

#[cold]
fn is_ipv6(address: &[u8]) -> bool {
    std::str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

fn starts_with_ignoring_case(bytes: &[u8], prefix: &[u8]) -> bool {
    bytes
        .get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(target: &str, method: Method) -> Option<(&str, Option<&str>, Option<&str>)> {
        let text = |span: Span| &target[span.range()];
        let parsed = parse_target(target.as_bytes(), 0, method).ok()?;
        Some((
            text(parsed.path),
            parsed.query.map(text),
            parsed.authority.map(|a| text(a.span)),
        ))
    }

    #[test]
    fn every_form_is_taken_apart() {
        for (target, expected) in [
            ("/", ("/", None, None)),
            ("/a/b?c=d?e", ("/a/b", Some("c=d?e"), None)),
            ("/?", ("/", Some(""), None)),
            ("//x", ("//x", None, None)),
            ("/a%2Fb{|}^[]`\"<>", ("/a%2Fb{|}^[]`\"<>", None, None)),
            ("http://h", ("/", None, Some("h"))),
            ("HTTP://h:8080/", ("/", None, Some("h:8080"))),
            ("https://[::1]:1/a?b", ("/a", Some("b"), Some("[::1]:1"))),
            ("http://h?q=/x", ("/", Some("q=/x"), Some("h"))),
        ] {
            assert_eq!(parts(target, Method::Get), Some(expected), "{target}");
        }
        assert_eq!(parts("*", Method::Options), Some(("*", None, None)));
    }

    #[test]
    fn malformed_targets_are_refused() {
        for target in [
            "*",
            "a",
            "?a",
            "/a#b",
            "/%",
            "/%1",
            "/%1g",
            "/a\\b",
            "/é",
            "/a b",
            "/a\tb",
            "/\u{7f}",
            "ftp://h/",
            "http:/h",
            "http://",
            "http:///a",
            "http://u@h/",
            "http://h#f",
            "http://h/%zz",
            "h:80",
            "**",
            "*?a",
        ] {
            assert_eq!(parts(target, Method::Get), None, "{target}");
        }
        assert_eq!(parts("http://h", Method::Options), None);
    }

    #[test]
    fn hosts() {
        for good in [
            "a",
            "example.com",
            "example.com:80",
            "example.com:",
            "127.0.0.1:3200",
            "[::1]",
            "[2001:db8::1]:443",
            "a_b",
            "%41b",
            "x:0080",
            "localhost:65535",
        ] {
            assert!(check_host(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "u@h",
            "u:p@h",
            "a/b",
            "a,b",
            "a:b",
            "a:65536",
            "a:-1",
            "a:+1",
            "::1",
            "[::1",
            "::1]",
            "[::1]x",
            "[x]",
            "[]",
            "[fe80::1%25eth0]",
            "a%4",
            "a:1:2",
            "é",
            "a\\b",
            "a?b",
            "a#b",
            "[::1]:x",
            "a\tb",
            "<h>",
            "[::1]]:1",
            "[v1.a]",
        ] {
            assert!(check_host(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_told_in_one_pass_is_what_is_told_in_full() {
        const BYTES: &[u8] = b"a.:09%[]@,-\x80";
        let mut values = vec![vec![]];
        for _ in 0..5 {
            values = values
                .iter()
                .flat_map(|value| BYTES.iter().map(|&b| [&value[..], &[b]].concat()))
                .chain([vec![]])
                .collect();
            for value in &values {
                let (plain, full) = (is_plain_host(value), check_any_host(value).is_ok());
                assert!(!plain || full, "{value:?}");
                let is_usual = value.iter().all(|b| b"a.09-".contains(b));
                assert!(plain || !is_usual || !full, "{value:?}");
            }
        }
        for value in ["a:1234", "127.0.0.1:8080", "shop.example.com"] {
            assert!(is_plain_host(value.as_bytes()), "{value}");
        }
        assert!(!is_plain_host(b"a:12345"));
    }

    #[test]
    fn hosts_compare_without_case_and_default_port() {
        let same = |a: &str, b: &str, port| same_host(a.as_bytes(), b.as_bytes(), port);
        assert!(same("Example.COM", "example.com", 80));
        assert!(same("h:80", "h", 80) && same("h", "h:80", 80) && same("h:", "h:080", 80));
        assert!(same("h:443", "h", 443));
        assert!(!same("h:80", "h", 443) && !same("h:81", "h", 80) && !same("h", "i", 80));
        assert!(same("[::1]", "[::1]:80", 80) && !same("[::1]", "[::2]", 80));
    }
}
