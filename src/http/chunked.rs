//! The chunked transfer coding (RFC 9112, section 7.1): a decoder that works at every split of its
//! input, and the few bytes that encode. Never copies or keeps body data.

use std::ops::Range;

use super::fault::Fault;
use super::grammar::{is_field_content, is_token};
use crate::limits::{MAX_CHUNK_EXTENSIONS, MAX_CHUNK_LINE, MAX_FIELDS, MAX_TRAILER};

/// What follows the data of every chunk.
pub const CHUNK_SUFFIX: &[u8] = b"\r\n";

/// The last chunk and an empty trailer section: the end of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The line that opens a chunk of `len` bytes. `len` must not be 0: that is [`LAST_CHUNK`].
pub fn chunk_prefix(len: usize) -> ChunkPrefix {
    debug_assert!(len > 0, "an empty chunk ends the body");
    let mut prefix = ChunkPrefix {
        bytes: [0; 18],
        start: 16,
    };
    prefix.bytes[16..].copy_from_slice(b"\r\n");
    let mut rest = len;
    loop {
        prefix.start -= 1;
        prefix.bytes[prefix.start as usize] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
        if rest == 0 {
            return prefix;
        }
    }
}

/// The line that opens a chunk: its size in hexadecimal and CRLF.
#[derive(Clone, Copy, Debug)]
pub struct ChunkPrefix {
    bytes: [u8; 18],
    start: u8,
}

impl ChunkPrefix {
    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start as usize..]
    }
}

/// What [`ChunkDecoder::advance`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkStep {
    /// All of the input is used up, without body data; more is wanted.
    NeedMore,
    /// The bytes of the input in this range are body data, never empty. The input up to the end of
    /// the range is used up; call again with what follows it.
    Data(Range<usize>),
    /// The body and its trailer section are complete. The input up to this offset is used up; what
    /// follows is the next request.
    End(usize),
}

/// Most hexadecimal digits in a chunk size.
const SIZE_DIGITS: usize = 16;

/// Length of the longest name in the list of forbidden trailer fields.
const LONGEST_FORBIDDEN: usize = 29;

/// Decodes a chunked body that arrives piece by piece. Trailer fields are checked and dropped.
#[derive(Clone, Debug, Default)]
pub struct ChunkDecoder {
    /// Bytes of data still to come in the current chunk, or its size as far as it is known.
    remaining: u64,
    /// Bytes of the current chunk line, or of the trailer section, so far.
    section: u16,
    /// Bytes of extensions in all chunk lines so far.
    extensions: u16,
    /// Trailer fields so far.
    trailers: u8,
    state: State,
    /// The trailer field name as far as it is known, in lower case. Longer names than fit here are
    /// not among the forbidden ones.
    name: [u8; LONGEST_FORBIDDEN],
    name_len: u16,
}

const _: () = assert!(size_of::<ChunkDecoder>() <= 64);
const _: () = assert!(MAX_CHUNK_LINE <= MAX_TRAILER && MAX_TRAILER < u16::MAX as usize);
const _: () = assert!(MAX_FIELDS < u8::MAX as usize);
const _: () = assert!(SIZE_DIGITS + 3 <= MAX_CHUNK_LINE);
const _: () = assert!(MAX_CHUNK_EXTENSIONS < u16::MAX as usize);

/// What the next byte has to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// The first digit of a chunk size.
    #[default]
    FirstDigit,
    /// Another digit, `;` or CR.
    Digit,
    /// White space or the first byte of an extension's name, after `;`.
    ExtensionStart,
    /// Within an extension's name.
    ExtensionName,
    /// After white space that follows a name or a value: more of it or `;`, or `=` after a name.
    AfterName,
    AfterValue,
    /// White space or the first byte of an extension's value, after `=`.
    ValueStart,
    /// Within a token value.
    Value,
    /// Within a quoted value, and after a backslash in it.
    Quoted,
    QuotedPair,
    /// Directly after the closing quote.
    QuotedEnd,
    /// The LF that ends the chunk line.
    SizeLf,
    /// Body data.
    Data,
    /// CR and LF after the data.
    DataCr,
    DataLf,
    /// The first byte of a trailer field or of the empty line.
    TrailerStart,
    /// Within a trailer field's name, its value, and at the LF behind it.
    TrailerName,
    TrailerValue,
    TrailerLf,
    /// The LF of the empty line.
    EndLf,
    /// The body is complete.
    Done,
    /// There has been a fault.
    Failed,
}

impl ChunkDecoder {
    /// Takes the next bytes of the body. Call it again with the unused rest until it answers
    /// [`ChunkStep::NeedMore`] or [`ChunkStep::End`]; after the end it uses no more bytes.
    ///
    /// # Errors
    /// * 400: anything outside the grammar of RFC 9112, section 7.1; white space around the size; a
    ///   size of more than 16 digits; a chunk line longer than [`MAX_CHUNK_LINE`]; extensions
    ///   longer than [`MAX_CHUNK_EXTENSIONS`]; a trailer field that RFC 9110, section 6.5.1 forbids
    /// * 431: a trailer section of more than [`MAX_TRAILER`] bytes or [`MAX_FIELDS`] lines
    ///
    /// Every later call is a fault as well.
    #[inline]
    pub fn advance(&mut self, input: &[u8]) -> Result<ChunkStep, Fault> {
        let mut at = 0;
        while at < input.len() {
            if self.state == State::Data {
                let available = (input.len() - at) as u64;
                let taken = self.remaining.min(available);
                self.remaining -= taken;
                if self.remaining == 0 {
                    self.state = State::DataCr;
                }
                return Ok(ChunkStep::Data(at..at + taken as usize));
            }
            if self.state == State::Done {
                break;
            }
            match self.step(input[at]) {
                Ok(next) => self.state = next,
                Err(fault) => {
                    self.state = State::Failed;
                    return Err(fault);
                }
            }
            at += 1;
        }
        if self.state == State::Done {
            return Ok(ChunkStep::End(at));
        }
        Ok(ChunkStep::NeedMore)
    }

    /// Bytes of data still to come in the current chunk; 0 while its size is not known yet.
    pub fn data_remaining(&self) -> u64 {
        if self.state == State::Data {
            self.remaining
        } else {
            0
        }
    }

    /// Whether the end of the body has been seen.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Makes the decoder ready for another body.
    pub fn reset(&mut self) {
        *self = ChunkDecoder::default();
    }

    /// Takes one byte that is not body data.
    #[inline]
    fn step(&mut self, b: u8) -> Result<State, Fault> {
        self.section = self.section.saturating_add(1);
        match self.state {
            State::FirstDigit | State::Digit => self.size(b),
            State::SizeLf if b == b'\n' => {
                self.section = 0;
                Ok(match self.remaining {
                    0 => State::TrailerStart,
                    _ => State::Data,
                })
            }
            State::DataCr if b == b'\r' => Ok(State::DataLf),
            State::DataLf if b == b'\n' => {
                self.section = 0;
                Ok(State::FirstDigit)
            }
            State::SizeLf => Err(bad("CR without LF in a chunk line (RFC 9112, section 2.2)")),
            State::DataCr | State::DataLf => Err(bad(
                "chunk data is not followed by CRLF (RFC 9112, section 7.1)",
            )),
            State::TrailerStart
            | State::TrailerName
            | State::TrailerValue
            | State::TrailerLf
            | State::EndLf => self.trailer(b),
            State::Data | State::Done | State::Failed => {
                Err(bad("the body has already been found malformed"))
            }
            _ => self.extension(b),
        }
    }

    /// chunk-size = 1*HEXDIG.
    #[inline]
    fn size(&mut self, b: u8) -> Result<State, Fault> {
        let digit = match b {
            b'0'..=b'9' => b - b'0',
            b'a'..=b'f' => b - b'a' + 10,
            b'A'..=b'F' => b - b'A' + 10,
            b'\r' if self.state == State::Digit => return Ok(State::SizeLf),
            b';' if self.state == State::Digit => return Ok(State::ExtensionStart),
            _ => return Err(bad_size(b)),
        };
        // Sixteen digits are all that 64 bits hold. Zeros in front are legal, but a size that needs
        // more digits than that is either an overflow or meant to look like a smaller number.
        if self.section as usize > SIZE_DIGITS {
            return Err(bad(
                "a chunk size has more than 16 digits (RFC 9112, section 7.1)",
            ));
        }
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(State::Digit)
    }

    /// chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] ) (RFC 9112, section
    /// 7.1.1), except that the first `;` must follow the size directly.
    #[cold]
    fn extension(&mut self, b: u8) -> Result<State, Fault> {
        use State::{
            AfterName, AfterValue, ExtensionName, ExtensionStart, Quoted, QuotedEnd, QuotedPair,
            Value, ValueStart,
        };
        let space = b == b' ' || b == b'\t';
        let next = match (self.state, b) {
            (Quoted, b'"') => QuotedEnd,
            (Quoted, b'\\') => QuotedPair,
            (Quoted | QuotedPair, _) if is_field_content(b) => Quoted,
            (Quoted | QuotedPair, _) => return Err(bad_extension()),
            (ExtensionName | Value | QuotedEnd, b'\r') => return Ok(State::SizeLf),
            (ExtensionName | AfterName | Value | QuotedEnd | AfterValue, b';') => ExtensionStart,
            (ExtensionName | AfterName, b'=') => ValueStart,
            (ValueStart, b'"') => Quoted,
            (ExtensionStart | ValueStart | AfterName | AfterValue, _) if space => self.state,
            (ExtensionName, _) if space => AfterName,
            (Value | QuotedEnd, _) if space => AfterValue,
            (ExtensionStart | ExtensionName, _) if is_token(b) => ExtensionName,
            (ValueStart | Value, _) if is_token(b) => Value,
            _ => return Err(bad_extension()),
        };
        self.extensions = self.extensions.saturating_add(1);
        // RFC 9112, section 7.1.1: they are to be limited, since they can outweigh what they come with.
        if self.extensions as usize > MAX_CHUNK_EXTENSIONS {
            return Err(bad(
                "the chunk extensions are longer than 8192 bytes in all",
            ));
        }
        // CRLF has to follow at least.
        if self.section as usize + 2 > MAX_CHUNK_LINE {
            return Err(bad("a chunk line is longer than 256 bytes"));
        }
        Ok(next)
    }

    /// trailer-section = *( field-line CRLF ), then the empty line (RFC 9112, section 7.1.2).
    #[cold]
    fn trailer(&mut self, b: u8) -> Result<State, Fault> {
        if self.section as usize > MAX_TRAILER {
            return Err(Fault::fields_too_large(
                "the trailer section is longer than 4096 bytes",
            ));
        }
        match (self.state, b) {
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::EndLf, b'\n') => Ok(State::Done),
            (State::TrailerLf, b'\n') => Ok(State::TrailerStart),
            (State::TrailerStart, _) if is_token(b) => {
                if self.trailers as usize == MAX_FIELDS {
                    return Err(Fault::fields_too_large(
                        "the trailer section has more than 100 field lines",
                    ));
                }
                self.trailers += 1;
                self.name_len = 0;
                self.push_name(b);
                Ok(State::TrailerName)
            }
            (State::TrailerName, b':') => {
                let name = self.name.get(..self.name_len as usize);
                if name.is_some_and(is_forbidden_trailer) {
                    return Err(bad(
                        "a field that may not stand in a trailer section (RFC 9110, section 6.5.1)",
                    ));
                }
                Ok(State::TrailerValue)
            }
            (State::TrailerName, _) if is_token(b) => {
                self.push_name(b);
                Ok(State::TrailerName)
            }
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is_field_content(b) => Ok(State::TrailerValue),
            _ => Err(bad(
                "a malformed line in the trailer section (RFC 9112, sections 2.2 and 5)",
            )),
        }
    }

    fn push_name(&mut self, b: u8) {
        if let Some(place) = self.name.get_mut(self.name_len as usize) {
            *place = b.to_ascii_lowercase();
        }
        self.name_len = self.name_len.saturating_add(1);
    }
}

#[cold]
fn bad(detail: &'static str) -> Fault {
    Fault::bad_request(detail)
}

#[cold]
fn bad_size(b: u8) -> Fault {
    bad(match b {
        b' ' | b'\t' => "white space around a chunk size (RFC 9112, section 7.1)",
        b'\n' => "LF without CR in a chunk line (RFC 9112, section 2.2)",
        _ => "a chunk size is not a hexadecimal number (RFC 9112, section 7.1)",
    })
}

#[cold]
fn bad_extension() -> Fault {
    bad("a malformed chunk extension (RFC 9112, section 7.1.1)")
}

const _: () = assert!(
    MAX_CHUNK_LINE == 256
        && MAX_CHUNK_EXTENSIONS == 8192
        && MAX_TRAILER == 4096
        && MAX_FIELDS == 100,
    "the texts of the faults name the limits"
);

/// A chunked body that was decoded in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of data, which now stand in front.
    pub len: usize,
    /// Bytes that the body took; what follows them is the next request.
    pub used: usize,
}

/// Decodes in place a chunked body that is all there. `None`, with nothing changed, where more of it is
/// wanted, it breaks a rule, or it is longer than `most`.
pub fn decode_whole(bytes: &mut [u8], most: u64) -> Option<Decoded> {
    let (mut decoder, mut len, mut used) = (ChunkDecoder::default(), 0, 0);
    loop {
        match decoder.advance(&bytes[used..]).ok()? {
            ChunkStep::Data(range) => {
                len += range.len();
                used += range.end;
            }
            ChunkStep::End(end) => {
                used += end;
                break;
            }
            ChunkStep::NeedMore => return None,
        }
    }
    if len as u64 > most {
        return None;
    }
    // Once more, and surely.
    let (mut decoder, mut to, mut from) = (ChunkDecoder::default(), 0, 0);
    while to < len {
        let Ok(ChunkStep::Data(range)) = decoder.advance(&bytes[from..used]) else {
            break;
        };
        let (start, end) = (from + range.start, from + range.end);
        bytes.copy_within(start..end, to);
        to += end - start;
        from = end;
    }
    Some(Decoded { len, used })
}

/// Fields that a sender may not put behind the body, because the recipient needs them before it or
/// they change what the message is: framing, routing, request modifiers, authentication, response
/// control and content format (RFC 9110, section 6.5.1), and the hub's own.
const FORBIDDEN: [&str; 51] = [
    // Framing and the connection.
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Routing.
    "forwarded",
    "host",
    "max-forwards",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    // Request modifiers.
    "cache-control",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "pragma",
    "range",
    // Authentication and origin.
    "authentication-info",
    "authorization",
    "cookie",
    "origin",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "referer",
    "sec-fetch-site",
    "set-cookie",
    "www-authenticate",
    "x-hub-secret",
    "access-control-request-method",
    // Response control.
    "age",
    "date",
    "expires",
    "location",
    "retry-after",
    "vary",
    "warning",
    // How the content is to be understood.
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "content-type",
    "accept-encoding",
];
const _: () = {
    let mut i = 0;
    while i < FORBIDDEN.len() {
        assert!(FORBIDDEN[i].len() <= LONGEST_FORBIDDEN);
        i += 1;
    }
};

fn is_forbidden_trailer(name: &[u8]) -> bool {
    FORBIDDEN
        .iter()
        .any(|forbidden| forbidden.as_bytes() == name)
}

#[cfg(any(test, fuzzing))]
pub mod naive;
#[cfg(test)]
mod tests;
