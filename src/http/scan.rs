//! Finds where a request head ends while its bytes are still arriving, and refuses the ones that can
//! no longer become a head. Never looks at a byte twice and never copies one.

use memchr::{memchr, memchr3};

use super::fault::Fault;
use super::grammar::is_token;
use crate::limits::{MAX_FIELDS, MAX_HEAD, MAX_TARGET};

/// Where a complete request head stands in the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadBounds {
    /// Offset of the first byte of the request line: 0, or 2 after a tolerated empty line.
    pub start: usize,
    /// Offset behind the empty line that ends the head; `end - start` is at most [`MAX_HEAD`].
    pub end: usize,
}

/// Finds the end of a request head that arrives piece by piece.
///
/// The answer depends on the bytes alone, not on how they were split: of several faults in a head
/// the one that stands first is reported.
#[derive(Clone, Debug, Default)]
pub struct HeadScanner {
    /// Bytes of the buffer that need no further look.
    /// INVARIANT: `start <= line <= searched <= start + MAX_HEAD`.
    searched: u16,
    /// Where the current line begins.
    line: u16,
    /// Lines begun, the request line included. The empty line at the end is not counted.
    lines: u16,
    /// Where the request line begins: 0 or 2.
    start: u16,
}

const _: () = assert!(size_of::<HeadScanner>() <= 16);
const _: () = assert!(MAX_HEAD + 2 <= u16::MAX as usize);

impl HeadScanner {
    /// Looks at the bytes that are new since the last call. `buf` is the whole receive buffer,
    /// from the first byte of this request; it may be longer than the head (pipelining).
    ///
    /// `Ok(None)` means that more bytes are wanted. Once a head or a fault has been found, call
    /// [`reset`](Self::reset) before the scanner is used for the next request.
    ///
    /// # Errors
    /// * 400: the first byte cannot begin a method, more than one empty line before the request
    ///   line, a bare CR, a bare LF, a NUL, obsolete line folding
    /// * 414: a target longer than [`MAX_TARGET`]
    /// * 431: more than [`MAX_HEAD`] bytes or [`MAX_FIELDS`] field lines
    #[inline]
    pub fn scan(&mut self, buf: &[u8]) -> Result<Option<HeadBounds>, Fault> {
        if self.lines == 0 && !self.begin(buf)? {
            return Ok(None);
        }
        let start = self.start as usize;
        let view = &buf[..buf.len().min(start + MAX_HEAD)];
        let (mut line, mut at, mut lines) =
            (self.line as usize, self.searched as usize, self.lines);
        loop {
            if at == line {
                match view.get(line..).unwrap_or_default() {
                    [] => break,
                    [b'\r'] => break,
                    [b'\r', b'\n', ..] => {
                        let end = line + 2;
                        return Ok(Some(HeadBounds { start, end }));
                    }
                    // RFC 9112, sections 2.2 and 5.2: white space before the first field line, or
                    // in front of another one, which would continue the line above it.
                    [b' ' | b'\t', ..] => return Err(folded()),
                    _ => lines += 1,
                }
                if lines as usize > MAX_FIELDS + 1 {
                    return Err(too_many_fields());
                }
            }
            // CR is looked for as well as LF, so that one search per line finds every stray control
            // character that matters for framing; the others are left to the parser.
            let found = view
                .get(at..)
                .and_then(|new| memchr3(b'\r', b'\n', 0, new))
                .map(|offset| at + offset);
            let seen = found.unwrap_or(view.len());
            if lines == 1 && seen.saturating_sub(start) > MAX_TARGET {
                check_target_length(&view[start..seen])?;
            }
            match found.map(|stop| &view[stop..]) {
                None | Some([b'\r']) => {
                    at = seen;
                    break;
                }
                Some([b'\r', b'\n', ..]) => {
                    line = seen + 2;
                    at = line;
                }
                Some(rest) => return Err(stray(rest)),
            }
        }
        if view.len() == start + MAX_HEAD {
            return Err(head_too_long());
        }
        (self.line, self.searched, self.lines) = (line as u16, at as u16, lines);
        Ok(None)
    }

    /// Forgets everything, for the next request on the connection.
    pub fn reset(&mut self) {
        *self = HeadScanner::default();
    }

    /// Checks the bytes before the request line and its first byte; `false` until that is there.
    fn begin(&mut self, buf: &[u8]) -> Result<bool, Fault> {
        // RFC 9112, section 2.2: at least one empty line before the request line is to be ignored,
        // which some clients send after a body. One is enough.
        let start = match buf {
            [b'\r', b'\n', ..] => 2,
            [b'\r'] => return Ok(false),
            _ => 0,
        };
        match buf.get(start) {
            None => Ok(false),
            Some(&b) if is_token(b) => {
                (self.start, self.line, self.searched) = (start as u16, start as u16, start as u16);
                Ok(true)
            }
            Some(_) => Err(not_a_method(&buf[start..])),
        }
    }
}

/// RFC 9112, section 3: the target stands between the first two spaces of the request line.
/// `line` is what there is of the line.
#[cold]
fn check_target_length(line: &[u8]) -> Result<(), Fault> {
    let Some(space) = memchr(b' ', line) else {
        return Ok(());
    };
    let target = &line[space + 1..];
    if memchr(b' ', target).unwrap_or(target.len()) > MAX_TARGET {
        return Err(Fault::target_too_long());
    }
    Ok(())
}

#[cold]
fn not_a_method(bytes: &[u8]) -> Fault {
    Fault::bad_request(match bytes {
        // A TLS record of the handshake type (RFC 8446, section 5.1).
        [0x16, ..] => "this looks like TLS; this port speaks plain HTTP",
        [b'\r' | b'\n', ..] => {
            "a request may follow at most one empty line, ended by CRLF (RFC 9112, section 2.2)"
        }
        _ => "the first byte cannot begin a method (RFC 9112, section 3.1)",
    })
}

#[cold]
fn stray(bytes: &[u8]) -> Fault {
    Fault::bad_request(match bytes {
        [b'\r', ..] => "CR without LF in the request head (RFC 9112, section 2.2)",
        [b'\n', ..] => "LF without CR in the request head (RFC 9112, section 2.2)",
        _ => "NUL in the request head (RFC 9110, section 5.5)",
    })
}

#[cold]
fn folded() -> Fault {
    Fault::bad_request(
        "a field line begins with white space (obsolete line folding: RFC 9112, section 5.2)",
    )
}

#[cold]
pub(super) fn too_many_fields() -> Fault {
    Fault::fields_too_large("the request head has more than 100 field lines")
}

#[cold]
pub(super) fn head_too_long() -> Fault {
    Fault::fields_too_large("the request head is longer than 16384 bytes")
}

const _: () = assert!(
    MAX_FIELDS == 100 && MAX_HEAD == 16384,
    "the texts of the 431 faults name the limits"
);

#[cfg(test)]
mod tests {
    use super::*;

    /// What the scanner says when `bytes` arrive in pieces of `step`, and after how many bytes.
    fn scan_by(bytes: &[u8], step: usize) -> (Result<Option<HeadBounds>, u16>, usize) {
        let mut scanner = HeadScanner::default();
        let mut have = 0;
        while have < bytes.len() {
            have = (have + step).min(bytes.len());
            match scanner.scan(&bytes[..have]) {
                Ok(None) => {}
                Ok(bounds) => return (Ok(bounds), have),
                Err(fault) => return (Err(fault.status), have),
            }
        }
        (Ok(None), have)
    }

    #[test]
    fn finds_the_end_at_every_step() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n\r\n";
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(b"GET /next HTTP/1.1\r\n\r\n");
        for step in 1..=bytes.len() {
            let bounds = HeadBounds {
                start: 0,
                end: head.len(),
            };
            assert_eq!(scan_by(&bytes, step).0, Ok(Some(bounds)), "step {step}");
        }
        assert_eq!(scan_by(&bytes, 1).1, head.len(), "as soon as it is there");
    }

    #[test]
    fn one_empty_line_is_skipped() {
        let bytes = b"\r\nGET / HTTP/1.1\r\n\r\n";
        for step in 1..=bytes.len() {
            let bounds = HeadBounds {
                start: 2,
                end: bytes.len(),
            };
            assert_eq!(scan_by(bytes, step).0, Ok(Some(bounds)), "step {step}");
        }
        assert_eq!(scan_by(b"\r\n\r\nGET", 1), (Err(400), 3));
        assert_eq!(scan_by(b"\r\n", 1).0, Ok(None));
        assert_eq!(scan_by(b"\rG", 1), (Err(400), 2));
    }

    #[test]
    fn faults_are_seen_with_the_byte_that_makes_them() {
        for (bytes, at) in [
            (&b"\x16\x03\x01"[..], 1),
            (b"\nGET", 1),
            (b" GET", 1),
            (b"\0", 1),
            (b"GET / HTTP/1.1\n", 15),
            (b"GET / HTTP/1.1\rH", 16),
            (b"GET / HTTP/1.1\r\n H", 17),
            (b"GET / HTTP/1.1\r\na: b\r\n\tc", 23),
            (b"GET / HTTP/1.1\r\na: \0", 20),
            (b"GET / HTTP/1.1\r\na: b\n", 21),
            (b"GET / HTTP/1.1\r\na: b\r\n\n", 23),
            (b"GET / HTTP/1.1\r\na: b\r\n\rx", 24),
        ] {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(scan_by(bytes, 1), (Err(400), at), "{shown:?}");
            for step in 2..=bytes.len() {
                assert_eq!(scan_by(bytes, step).0, Err(400), "{shown:?} by {step}");
            }
        }
    }

    #[test]
    fn limits_are_exact_and_do_not_depend_on_the_split() {
        let head_of = |len: usize| {
            let mut bytes = b"GET / HTTP/1.1\r\nX: ".to_vec();
            bytes.resize(len - 4, b'x');
            bytes.extend_from_slice(b"\r\n\r\n");
            bytes
        };
        let target_of = |len: usize| {
            let mut bytes = b"GET /".to_vec();
            bytes.resize(4 + len, b'x');
            bytes.extend_from_slice(b" HTTP/1.1\r\n\r\n");
            bytes
        };
        let lines_of = |lines: usize| {
            let mut bytes = b"GET / HTTP/1.1\r\n".to_vec();
            for _ in 0..lines {
                bytes.extend_from_slice(b"a:b\r\n");
            }
            bytes.extend_from_slice(b"\r\n");
            bytes
        };
        let mut late_nul = target_of(MAX_TARGET + 1);
        late_nul[4 + MAX_TARGET + 2] = 0;
        let mut early_nul = target_of(MAX_TARGET + 1);
        early_nul[7] = 0;
        let mut method = vec![b'A'; MAX_HEAD + 10];
        method.extend_from_slice(b" / HTTP/1.1\r\n\r\n");
        for (bytes, status) in [
            (head_of(MAX_HEAD), None),
            (head_of(MAX_HEAD + 1), Some(431)),
            (head_of(MAX_HEAD + 5000), Some(431)),
            (target_of(MAX_TARGET), None),
            (target_of(MAX_TARGET + 1), Some(414)),
            (target_of(MAX_HEAD + 1), Some(414)),
            (lines_of(MAX_FIELDS), None),
            (lines_of(MAX_FIELDS + 1), Some(431)),
            (late_nul, Some(414)),
            (early_nul, Some(400)),
            (method, Some(431)),
        ] {
            for step in [1, 2, 3, 7, 1000, bytes.len()] {
                let (said, _) = scan_by(&bytes, step);
                assert_eq!(said.err(), status, "{} bytes by {step}", bytes.len());
            }
        }
        assert_eq!(scan_by(&target_of(MAX_TARGET + 1), 1).1, 4 + MAX_TARGET + 1);
        assert_eq!(scan_by(&head_of(MAX_HEAD + 1), 1).1, MAX_HEAD);
    }

    #[test]
    fn a_buffer_that_shrinks_is_no_panic() {
        let mut scanner = HeadScanner::default();
        assert_eq!(scanner.scan(b"GET / HTTP/1.1\r\nHost"), Ok(None));
        let _ = scanner.scan(b"G");
        let _ = scanner.scan(b"");
        scanner.reset();
        assert_eq!(scanner.scan(b"GET /"), Ok(None));
    }
}
