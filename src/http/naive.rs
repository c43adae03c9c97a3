//! The rules for a request head as they read, without any cleverness, and a check of scanner and
//! parser against them that both a test and a fuzz target run. It is never part of a normal build.

use super::{Fault, HeadBounds, HeadScanner, parse_head};
use crate::limits::{MAX_FIELDS, MAX_HEAD, MAX_TARGET};
use crate::message::{BodyLength, RequestHead, Span, Version};

/// What decides where this message ends and the next begins, and what a worker gets to see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NaiveHead<'a> {
    /// The three words of the request line.
    pub line: [&'a [u8]; 3],
    /// Names and values in the order received.
    pub fields: Vec<(&'a [u8], &'a [u8])>,
    /// The length of the body.
    pub body: BodyLength,
    /// Whether the connection may stay open.
    pub keep_alive: bool,
}

/// Longest head that is cut in two at every place; longer ones in pieces only.
const EVERY_SPLIT: usize = 160;

/// Takes a request head out of arbitrary bytes (the first three say how it is cut) and checks that
/// the scanner finds the same end, or the same fault, however the bytes arrive; that the parser
/// accepts nothing the naive rules refuse; and that both then say the same of it.
///
/// # Panics
/// If they disagree; the message holds the bytes.
pub fn check(input: &[u8]) {
    let Some((sizes, bytes)) = input.split_first_chunk::<3>() else {
        return;
    };
    let sizes = sizes.map(|size| 1 + usize::from(size));
    let shown = bytes.escape_ascii();
    let found = scan_by(bytes, &[bytes.len().max(1)]);
    assert_eq!(scan_by(bytes, &[1]), found, "{shown} byte by byte");
    assert_eq!(scan_by(bytes, &sizes), found, "{shown} by {sizes:?}");
    if bytes.len() <= EVERY_SPLIT {
        for at in 1..bytes.len() {
            let sizes = [at, bytes.len() - at];
            assert_eq!(scan_by(bytes, &sizes), found, "{shown} split at {at}");
        }
    }

    // The parser must stand any bytes, also those that no scanner has seen.
    let mut out = RequestHead::default();
    if parse_head(bytes, &mut out).is_ok() {
        check_ranges(&out, bytes.len());
    }
    match found {
        Ok(Some(HeadBounds { start, end })) => {
            assert!(start <= 2 && start < end && end <= bytes.len(), "{shown}");
            let head = &bytes[start..end];
            assert!(head.len() <= MAX_HEAD, "{shown}");
            assert!(bytes[..end].ends_with(b"\r\n\r\n"), "{shown}");
            let before = &bytes[..end - 1];
            assert_eq!(scan_by(before, &sizes), Ok(None), "{shown} found late");
            match parse_head(head, &mut out) {
                Ok(()) => compare(head, &out),
                Err(fault) => assert!((400..=599).contains(&fault.status)),
            }
        }
        Ok(None) => {
            assert!(bytes.len() < MAX_HEAD + 2, "a head without end");
            let hopeless = bytes.contains(&0) || bytes.windows(4).any(|w| w == b"\r\n\r\n");
            assert!(!hopeless, "{shown} asks for more");
        }
        Err(fault) => assert!([400, 414, 431].contains(&fault.status), "{shown}: {fault}"),
    }
}

/// What the scanner says when the bytes come in pieces of these sizes, used in a circle.
fn scan_by(bytes: &[u8], sizes: &[usize]) -> Result<Option<HeadBounds>, Fault> {
    let mut scanner = HeadScanner::default();
    let mut have = 0;
    for size in sizes.iter().cycle() {
        have = (have + size).min(bytes.len());
        let found = scanner.scan(&bytes[..have])?;
        if found.is_some() || have == bytes.len() {
            return Ok(found);
        }
    }
    unreachable!("the sizes go round for ever")
}

fn compare(head: &[u8], out: &RequestHead) {
    let shown = head.escape_ascii();
    check_ranges(out, head.len());
    let naive = naive_head(head).unwrap_or_else(|| panic!("{shown} should be refused"));
    let text = |span: Span| &head[span.range()];
    let version = match out.version {
        Version::Http10 => b"HTTP/1.0",
        Version::Http11 => b"HTTP/1.1",
    };
    let parsed = NaiveHead {
        line: [out.method.as_str().as_bytes(), text(out.target), version],
        fields: out
            .fields()
            .iter()
            .map(|field| (text(field.name), text(field.value)))
            .collect(),
        body: out.body,
        keep_alive: out.keep_alive,
    };
    assert_eq!(parsed, naive, "{shown}");
    let only = |name: &[u8]| values(&naive.fields, name).next();
    assert_eq!(out.origin.map(text), only(b"origin"), "{shown}");
    assert_eq!(out.secret.map(text), only(b"x-hub-secret"), "{shown}");
    let target = naive.line[1];
    if target.first() == Some(&b'/') {
        let mut parts = target.splitn(2, |&b| b == b'?');
        assert_eq!(Some(text(out.path)), parts.next(), "{shown}");
        assert_eq!(out.query.map(text), parts.next(), "{shown}");
        assert_eq!(out.host.map(text), only(b"host"), "{shown}");
    }
    assert!(out.version == Version::Http10 || out.host.is_some());
}

fn check_ranges(out: &RequestHead, len: usize) {
    let fields = out.fields().iter().flat_map(|f| [f.name, f.value]);
    let rest = [
        out.query,
        out.host,
        out.origin,
        out.preflight_method,
        out.secret,
    ];
    let all = [out.target, out.path]
        .into_iter()
        .chain(rest.into_iter().flatten())
        .chain(fields);
    for span in all {
        assert!(span.range().end <= len, "{span:?} of {len}");
    }
}

/// The head's meaning where RFC 9112 leaves no doubt about it, else `None`. The authority and the
/// percent sequences of a target are not looked at.
pub fn naive_head(head: &[u8]) -> Option<NaiveHead<'_>> {
    let text = head.strip_suffix(b"\r\n\r\n")?;
    let stray = |line: &&[u8]| line.iter().any(|b| b"\r\n\0".contains(b));
    let lines: Vec<&[u8]> = split_at_crlf(text);
    if lines.iter().any(|line| stray(line) || line.is_empty()) || lines.len() > MAX_FIELDS + 1 {
        return None;
    }
    let words: Vec<&[u8]> = lines[0].split(|&b| b == b' ').collect();
    let line: [&[u8]; 3] = words.try_into().ok()?;
    let target_ok = (1..=MAX_TARGET).contains(&line[1].len())
        && line[1].iter().all(|b| b.is_ascii_graphic() && *b != b'#');
    if !is_token(line[0]) || !target_ok {
        return None;
    }
    let is_11 = match line[2] {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return None,
    };
    let fields: Vec<_> = lines[1..]
        .iter()
        .map(|line| field(line))
        .collect::<Option<_>>()?;
    let one = |name: &[u8]| {
        let mut found = values(&fields, name);
        let first = found.next();
        found.next().is_none().then_some(first)
    };
    if one(b"host")?.is_none() && is_11 {
        return None;
    }
    let body = match (one(b"content-length")?, one(b"transfer-encoding")?) {
        (None, None) => BodyLength::None,
        (Some(digits), None) => {
            let digits = std::str::from_utf8(digits).ok()?;
            if !digits.chars().all(|c| c.is_ascii_digit()) {
                return None;
            }
            match digits.parse::<i64>().ok()? {
                0 => BodyLength::None,
                len => BodyLength::Known(len as u64),
            }
        }
        (None, Some(coding)) if is_11 && coding.eq_ignore_ascii_case(b"chunked") => {
            BodyLength::Chunked
        }
        _ => return None,
    };
    let option = |wanted: &str| {
        values(&fields, b"connection")
            .flat_map(|value| value.split(|&b| b == b','))
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
    };
    let keep_alive = !option("close") && (is_11 || option("keep-alive"));
    Some(NaiveHead {
        line,
        fields,
        body,
        keep_alive,
    })
}

fn split_at_crlf(mut text: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    while let Some(at) = text.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&text[..at]);
        text = &text[at + 2..];
    }
    lines.push(text);
    lines
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&b| b == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let controls = value.iter().any(|b| b.is_ascii_control() && *b != b'\t');
    if !is_token(name) || controls {
        return None;
    }
    let is_space = |b: &u8| b" \t".contains(b);
    let begin = value.iter().take_while(|b| is_space(b)).count();
    let value = &value[begin..];
    let end = value.iter().rev().take_while(|b| is_space(b)).count();
    Some((name, &value[..value.len() - end]))
}

fn values<'a>(fields: &[(&'a [u8], &'a [u8])], name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |(other, _)| other.eq_ignore_ascii_case(name))
        .map(|(_, value)| *value)
}

fn is_token(bytes: &[u8]) -> bool {
    let is = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuzz_corpus_passes() {
        crate::corpus::replay("http_request", check);
    }

    #[test]
    fn the_rules_tell_good_heads_from_bad() {
        let good: &[u8] =
            b"POST /a?b HTTP/1.1\r\nHost: h\r\nConnection: x, Close\r\nContent-Length: 3\r\n\r\n";
        let head = naive_head(good).unwrap();
        assert_eq!((head.body, head.keep_alive), (BodyLength::Known(3), false));
        assert_eq!(head.fields[0], (&b"Host"[..], &b"h"[..]));
        for (from, to) in [
            ("Content-Length: 3", "Content-Length: +3"),
            ("Content-Length: 3", "Content-Length: 3, 3"),
            (
                "Content-Length: 3",
                "Content-Length: 3\r\nTransfer-Encoding: chunked",
            ),
            ("Host: h", "Host : h"),
            ("Host: h", "Host: h\nX: y"),
            ("Host: h", "Host: h\r\n X: y"),
            ("Host: h", "Hosts: h"),
            ("HTTP/1.1", "HTTP/1.2"),
            ("POST /", "POST  /"),
        ] {
            let text = std::str::from_utf8(good).unwrap();
            assert!(text.contains(from), "{from}");
            let bad = text.replace(from, to);
            assert_eq!(naive_head(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
