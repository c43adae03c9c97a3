//! The chunked coding as its rules read, without any cleverness, and a check of the decoder against
//! it that both a test and a fuzz target run. It is never part of a normal build.

use super::{ChunkDecoder, ChunkStep, is_forbidden_trailer};
use crate::limits::{MAX_CHUNK_EXTENSIONS, MAX_CHUNK_LINE, MAX_FIELDS, MAX_TRAILER};

/// Longest body that is cut in two at every place; longer ones in pieces only.
const EVERY_SPLIT: usize = 160;

/// Takes a body out of arbitrary bytes (the first three say how it is cut) and checks that the
/// decoder comes to the same, whole, byte by byte, in pieces, and cut in two at every place, and to
/// what the reference says.
///
/// # Panics
/// If they disagree; the message holds the body.
pub fn check(input: &[u8]) {
    let Some((sizes, bytes)) = input.split_first_chunk::<3>() else {
        return;
    };
    let sizes = sizes.map(|size| 1 + usize::from(size));
    let shown = bytes.escape_ascii();
    let outcome = decode_by(bytes, &[bytes.len().max(1)]);
    assert_eq!(decode_by(bytes, &[1]), outcome, "{shown} byte by byte");
    assert_eq!(decode_by(bytes, &sizes), outcome, "{shown} by {sizes:?}");
    if bytes.len() <= EVERY_SPLIT {
        for at in 1..bytes.len() {
            let sizes = [at, bytes.len() - at];
            assert_eq!(decode_by(bytes, &sizes), outcome, "{shown} split at {at}");
        }
    }
    match reference(bytes) {
        Some((data, len)) => {
            assert_eq!(outcome, Whole(data, len), "{shown}");
            let less = decode_by(&bytes[..len - 1], &sizes);
            assert_eq!(less, Incomplete, "{shown} without its last byte");
        }
        None => assert!(!matches!(outcome, Whole(..)), "{shown} gave {outcome:?}"),
    }
}

/// What became of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The data, and how many bytes the body took.
    Whole(Vec<u8>, usize),
    /// The bytes end before the body does.
    Incomplete,
    /// The status of the fault.
    Fault(u16),
}
use Outcome::{Fault, Incomplete, Whole};

/// What comes of the decoder fed with pieces of the given sizes, which are used in a circle.
///
/// # Panics
/// If the decoder breaks its word on the way: empty data, or a fault or an end that does not last.
pub fn decode_by(bytes: &[u8], sizes: &[usize]) -> Outcome {
    let mut decoder = ChunkDecoder::default();
    let mut data = Vec::new();
    let mut at = 0;
    for size in sizes.iter().cycle() {
        let piece = &bytes[at..(at + size).min(bytes.len())];
        let mut used = 0;
        loop {
            let due = decoder.data_remaining();
            match decoder.advance(&piece[used..]) {
                Ok(ChunkStep::Data(range)) => {
                    assert!(!range.is_empty());
                    assert!(due == 0 || (range.start == 0 && range.len() as u64 <= due));
                    data.extend_from_slice(&piece[used..][range.clone()]);
                    used += range.end;
                }
                Ok(ChunkStep::End(end)) => {
                    assert!(decoder.is_done());
                    assert_eq!(decoder.advance(b"0"), Ok(ChunkStep::End(0)));
                    return Whole(data, at + used + end);
                }
                Ok(ChunkStep::NeedMore) => break,
                Err(fault) => {
                    assert!(decoder.advance(b"0").is_err(), "a fault is final");
                    return Fault(fault.status);
                }
            }
        }
        at += piece.len();
        if at == bytes.len() {
            return Incomplete;
        }
    }
    unreachable!("the sizes go round for ever")
}

/// Data and length of the body that `bytes` begin with, if they begin with a whole and correct
/// one: the slow and obvious way, sharing nothing with the decoder but the forbidden names.
pub fn reference(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut data = Vec::new();
    let (mut at, mut extensions) = (0, 0);
    loop {
        let line = line_at(bytes, at)?;
        at += line.len() + 2;
        let text = std::str::from_utf8(line.split(|&b| b == b';').next()?).ok()?;
        if line.len() + 2 > MAX_CHUNK_LINE
            || text.len() > 16
            || !text.chars().all(|c| c.is_ascii_hexdigit())
            || !extensions_are_well_formed(&line[text.len()..])
        {
            return None;
        }
        // The semicolon behind the size does not count.
        extensions += (line.len() - text.len()).saturating_sub(1);
        if extensions > MAX_CHUNK_EXTENSIONS {
            return None;
        }
        let size = usize::from_str_radix(text, 16).ok()?;
        if size == 0 {
            break;
        }
        data.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        if bytes.get(at..at + 2)? != b"\r\n" {
            return None;
        }
        at += 2;
    }
    let begin = at;
    for lines in 0.. {
        let line = line_at(bytes, at)?;
        at += line.len() + 2;
        if at - begin > MAX_TRAILER || lines > MAX_FIELDS {
            return None;
        }
        if line.is_empty() {
            return Some((data, at));
        }
        let colon = line.iter().position(|&b| b == b':')?;
        let (name, value) = (line[..colon].to_ascii_lowercase(), &line[colon + 1..]);
        if token(&name) != name.len()
            || name.is_empty()
            || is_forbidden_trailer(&name)
            || content(value) != value.len()
        {
            return None;
        }
    }
    None
}

fn line_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = &bytes[at..];
    let len = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some(&rest[..len])
}

fn token(bytes: &[u8]) -> usize {
    let is = |&b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    bytes.iter().take_while(|b| is(b)).count()
}

fn content(bytes: &[u8]) -> usize {
    let is = |b: u8| b == b'\t' || (b >= b' ' && b != 0x7f);
    bytes.iter().take_while(|&&b| is(b)).count()
}

fn skip_space(bytes: &[u8]) -> &[u8] {
    let len = bytes.iter().take_while(|b| b" \t".contains(b)).count();
    &bytes[len..]
}

fn extensions_are_well_formed(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let [b';', name @ ..] = rest else {
            return false;
        };
        let name = skip_space(name);
        let len = token(name);
        if len == 0 {
            return false;
        }
        rest = &name[len..];
        if let [b'=', value @ ..] = skip_space(rest) {
            let value = skip_space(value);
            let len = match value {
                [b'"', quoted @ ..] => match quoted_len(quoted) {
                    Some(len) => 1 + len,
                    None => return false,
                },
                _ => token(value),
            };
            if len == 0 {
                return false;
            }
            rest = &value[len..];
        }
        if skip_space(rest).first() == Some(&b';') {
            rest = skip_space(rest);
        }
    }
    true
}

/// Bytes up to and with the closing quote.
fn quoted_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let b = *bytes.get(at)?;
        if b == b'"' {
            return Some(at + 1);
        }
        at += usize::from(b == b'\\');
        if content(bytes.get(at..at + 1)?) == 0 {
            return None;
        }
        at += 1;
    }
}
