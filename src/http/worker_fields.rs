//! Checks the field section a worker answers with and copies what may pass. The section is hostile:
//! no byte of it reaches a client before its whole line has been checked.

use std::fmt;

use super::grammar::{is_field_content, is_token, list};
use crate::limits::{MAX_FIELDS, MAX_RESPONSE_HEAD};

/// What a worker's response head did wrong. The client gets 502, and it counts against the worker.
/// Lines count from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerHeadFault {
    /// The status is not in 200..=599 (RFC 9110, section 15; interim answers are the hub's).
    Status(u16),
    /// More than [`MAX_RESPONSE_HEAD`] bytes; how many there were.
    TooLong(usize),
    /// More than [`MAX_FIELDS`] lines, or fields nominated by `Connection`.
    TooManyFields,
    /// A line does not begin with a token and a colon (RFC 9112, section 5.1).
    Name {
        /// The line.
        line: u16,
    },
    /// A value has CR, LF, NUL or another control character (RFC 9110, section 5.5), or the last
    /// line has no CRLF.
    Value {
        /// The line.
        line: u16,
    },
}

impl fmt::Display for WorkerHeadFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkerHeadFault::Status(status) => {
                write!(
                    f,
                    "status {status} is not within 200..=599; send a final status code"
                )
            }
            WorkerHeadFault::TooLong(len) => write!(
                f,
                "the field section has {len} bytes; send at most {MAX_RESPONSE_HEAD}"
            ),
            WorkerHeadFault::TooManyFields => {
                write!(
                    f,
                    "the field section has too many lines; send at most {MAX_FIELDS}"
                )
            }
            WorkerHeadFault::Name { line } => write!(
                f,
                "field line {line} does not begin with a token and a colon; \
                 check the name for spaces and separators"
            ),
            WorkerHeadFault::Value { line } => write!(
                f,
                "the value in field line {line} has a control character or no CRLF behind it; \
                 encode the value"
            ),
        }
    }
}

impl std::error::Error for WorkerHeadFault {}

/// Which fields the hub adds unless the worker has given them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub date: bool,
    pub allow_origin: bool,
}

/// Checks every line of `fields` and appends those that may pass to `out`, in blocks. On a fault
/// `out` may have been added to.
pub(super) fn copy_fields(out: &mut Vec<u8>, fields: &[u8]) -> Result<Given, WorkerHeadFault> {
    if fields.len() > MAX_RESPONSE_HEAD {
        return Err(WorkerHeadFault::TooLong(fields.len()));
    }
    let start = out.len();
    let mut given = Given::default();
    let mut nominates = false;
    let mut line = 0;
    let mut at = 0;
    // Everything before `copied` is in `out` or dropped.
    let mut copied = 0;
    while at < fields.len() {
        line += 1;
        if line as usize > MAX_FIELDS {
            return Err(WorkerHeadFault::TooManyFields);
        }
        let rest = &fields[at..];
        let name = rest
            .iter()
            .position(|&b| !is_token(b))
            .unwrap_or(rest.len());
        if name == 0 || rest.get(name) != Some(&b':') {
            return Err(WorkerHeadFault::Name { line });
        }
        let value = name + 1;
        let end = value + content_length(&rest[value..]);
        if !matches!(rest[end..], [b'\r', b'\n', ..]) {
            return Err(WorkerHeadFault::Value { line });
        }
        let next = at + end + 2;
        match fate(&rest[..name]) {
            Fate::Pass => {}
            fate @ (Fate::Drop | Fate::Connection) => {
                if matches!(fate, Fate::Connection) {
                    nominates |= list(&rest[value..end]).any(is_nomination);
                }
                out.extend_from_slice(&fields[copied..at]);
                copied = next;
            }
            Fate::Date => given.date = true,
            Fate::AllowOrigin => given.allow_origin = true,
        }
        at = next;
    }
    out.extend_from_slice(&fields[copied..]);
    if nominates {
        out.truncate(start);
        return copy_unnominated(out, fields);
    }
    Ok(given)
}

/// As [`copy_fields`], for lines that were checked and of which some `Connection` nominates others.
#[cold]
fn copy_unnominated(out: &mut Vec<u8>, fields: &[u8]) -> Result<Given, WorkerHeadFault> {
    let name = |line: &[u8]| line.iter().position(|&b| b == b':').unwrap_or(line.len());
    // No value has a CR or LF.
    let lines = || fields.split_inclusive(|&b| b == b'\n');
    let mut nominated = [&b""[..]; MAX_FIELDS];
    let mut count = 0;
    for line in lines() {
        let end = name(line);
        if !matches!(fate(&line[..end]), Fate::Connection) {
            continue;
        }
        for option in list(&line[end + 1..]).filter(|option| is_nomination(option)) {
            // There are not more fields, so nobody needs more; and each is compared with each.
            let place = nominated
                .get_mut(count)
                .ok_or(WorkerHeadFault::TooManyFields)?;
            *place = option;
            count += 1;
        }
    }
    let mut given = Given::default();
    for line in lines() {
        let name = &line[..name(line)];
        let is_nominated = nominated[..count]
            .iter()
            .any(|option| option.eq_ignore_ascii_case(name));
        match fate(name) {
            Fate::Drop | Fate::Connection => continue,
            _ if is_nominated => continue,
            Fate::Pass => {}
            Fate::Date => given.date = true,
            Fate::AllowOrigin => given.allow_origin = true,
        }
        out.extend_from_slice(line);
    }
    Ok(given)
}

/// Whether an option of `Connection` names a field that has to go and would not go without it (RFC
/// 9110, section 7.6.1).
fn is_nomination(option: &[u8]) -> bool {
    let is_option = option.is_empty() || option.eq_ignore_ascii_case(b"close");
    !is_option && !matches!(fate(option), Fate::Drop | Fate::Connection)
}

/// What happens to a field line.
enum Fate {
    Pass,
    Drop,
    /// Dropped, with the fields that it nominates.
    Connection,
    Date,
    AllowOrigin,
}

/// Framing is the hub's alone (RFC 9112, section 6), and hop-by-hop fields, also those that the worker's
/// own `Connection` nominates, speak of a connection that it does not see (RFC 9110, section 7.6.1).
#[inline]
fn fate(name: &[u8]) -> Fate {
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    match name.len() {
        2 if is(b"te") => Fate::Drop,
        4 if is(b"date") => Fate::Date,
        7 if is(b"trailer") || is(b"upgrade") => Fate::Drop,
        10 if is(b"connection") => Fate::Connection,
        10 if is(b"keep-alive") => Fate::Drop,
        14 if is(b"content-length") => Fate::Drop,
        16 if is(b"proxy-connection") => Fate::Drop,
        17 if is(b"transfer-encoding") => Fate::Drop,
        27 if is(b"access-control-allow-origin") => Fate::AllowOrigin,
        _ => Fate::Pass,
    }
}

/// How many bytes at the start of `bytes` are field content: HTAB, SP, VCHAR and obs-text.
#[inline]
fn content_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let mut at = 0;
    // Eight bytes at a time while none of them is a control character. A byte below 0x20 borrows
    // from its high bit in the first term, and 0x7f becomes 0 in the second, where it borrows too.
    // A borrow may also mark the byte above a marked one, which only sends it to the exact loop.
    while let Some(&chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(chunk);
        let low = word.wrapping_sub(ONES * 0x20) & !word;
        let delete = word ^ (ONES * 0x7f);
        let delete = delete.wrapping_sub(ONES) & !delete;
        if (low | delete) & HIGH != 0 {
            break;
        }
        at += 8;
    }
    while let Some(&b) = bytes.get(at) {
        if !is_field_content(b) {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_length_agrees_with_the_class_at_every_place() {
        for b in 0..=255u8 {
            for at in 0..20 {
                let mut bytes = [b'x'; 20];
                bytes[at] = b;
                let expected = if is_field_content(b) { 20 } else { at };
                assert_eq!(content_length(&bytes), expected, "{b:#x} at {at}");
                // Bytes that borrow from one another must not hide a control character.
                let mut bytes = [0xff; 20];
                bytes[at] = b;
                assert_eq!(
                    content_length(&bytes),
                    expected,
                    "{b:#x} at {at} among 0xff"
                );
            }
        }
    }

    #[test]
    fn faults_name_the_line() {
        let copy = |fields: &[u8]| copy_fields(&mut Vec::new(), fields).unwrap_err();
        for bad in [
            &b"a: b\r\n: c\r\n"[..],
            b"a: b\r\nb c: d\r\n",
            b"a: b\r\nb : d\r\n",
            b"a: b\r\n c\r\n",
            b"a: b\r\n\tc\r\n",
            b"a: b\r\n\r\n",
            b"a: b\r\nb\r\n",
            b"a: b\r\nb",
            b"a: b\r\n\xff: c\r\n",
            b"a: b\r\n\n",
        ] {
            assert_eq!(copy(bad), WorkerHeadFault::Name { line: 2 }, "{bad:?}");
        }
        for bad in [
            &b"a: b\r\nc: d\n"[..],
            b"a: b\r\nc: d\r",
            b"a: b\r\nc: d",
            b"a: b\r\nc:",
            b"a: b\r\nc: \0\r\n",
            b"a: b\r\nc: d\re: f\r\n",
            b"a: b\r\nc: d\ne: f\r\n",
            b"a: b\r\nc: \x7f\r\n",
            b"a: b\r\nc: 0123456789\x1b0123456789\r\n",
            b"a: b\r\nc: d\r\r\n",
        ] {
            assert_eq!(copy(bad), WorkerHeadFault::Value { line: 2 }, "{bad:?}");
        }
    }

    #[test]
    fn nominated_fields_go_with_the_field_that_nominates_them() {
        let copy = |fields: &[u8]| {
            let mut out = b"before".to_vec();
            let given = copy_fields(&mut out, fields).unwrap();
            (String::from_utf8(out.split_off(6)).unwrap(), given)
        };
        for (fields, expected) in [
            // Before and behind it, whatever the case, each line of a name.
            (
                "A: 1\r\nX-Hop: 2\r\nConnection: x-hop\r\nB: 3\r\nx-HOP: 4\r\n",
                "A: 1\r\nB: 3\r\n",
            ),
            (
                "Connection: close, x-a ,,x-b\r\nX-A: 1\r\nX-B: 2\r\nX: 3\r\n",
                "X: 3\r\n",
            ),
            (
                "X-A: 1\r\nconnection: x-a\r\nCONNECTION:\tx-b\r\nX-B: 2\r\n",
                "",
            ),
            // Nothing is there to go.
            ("Connection: keep-alive, Upgrade\r\nA: 1\r\n", "A: 1\r\n"),
            (
                "Connection: x-c\r\nA: 1\r\nX-CC: 2\r\nX: 3\r\n",
                "A: 1\r\nX-CC: 2\r\nX: 3\r\n",
            ),
            // Names are whole names, and options are no other fields' values.
            (
                "Connections: x-a\r\nX-A: connection: x-a\r\n",
                "Connections: x-a\r\nX-A: connection: x-a\r\n",
            ),
            ("Connection: \"x-a\"\r\nX-A: 1\r\n", "X-A: 1\r\n"),
        ] {
            assert_eq!(copy(fields.as_bytes()).0, expected, "{fields:?}");
        }
        // A field that the hub adds where there is none is added again.
        let dated = b"Date: x\r\nAccess-Control-Allow-Origin: y\r\nConnection: date\r\n";
        let (text, given) = copy(dated);
        assert_eq!(text, "Access-Control-Allow-Origin: y\r\n");
        assert!(!given.date && given.allow_origin);
        let many = |count: usize| format!("Connection: {}\r\nX: 1\r\n", "x,".repeat(count));
        assert_eq!(copy(many(MAX_FIELDS).as_bytes()).0, "");
        assert_eq!(
            copy_fields(&mut Vec::new(), many(MAX_FIELDS + 1).as_bytes()),
            Err(WorkerHeadFault::TooManyFields)
        );
    }

    #[test]
    fn limits_are_exact() {
        let lines = |count| b"a:\r\n".repeat(count);
        assert!(copy_fields(&mut Vec::new(), &lines(MAX_FIELDS)).is_ok());
        assert_eq!(
            copy_fields(&mut Vec::new(), &lines(MAX_FIELDS + 1)),
            Err(WorkerHeadFault::TooManyFields)
        );
        let long = |len: usize| {
            let mut line = b"a:".to_vec();
            line.resize(len - 2, b'x');
            line.extend_from_slice(b"\r\n");
            line
        };
        assert!(copy_fields(&mut Vec::new(), &long(MAX_RESPONSE_HEAD)).is_ok());
        assert_eq!(
            copy_fields(&mut Vec::new(), &long(MAX_RESPONSE_HEAD + 1)),
            Err(WorkerHeadFault::TooLong(MAX_RESPONSE_HEAD + 1))
        );
    }

    #[test]
    fn every_fault_reads_well() {
        for fault in [
            WorkerHeadFault::Status(99),
            WorkerHeadFault::TooLong(99_999),
            WorkerHeadFault::TooManyFields,
            WorkerHeadFault::Name { line: 7 },
            WorkerHeadFault::Value { line: 7 },
        ] {
            assert!(fault.to_string().contains("; "), "says what to do: {fault}");
        }
    }
}
