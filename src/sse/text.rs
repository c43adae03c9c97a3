//! How the text of a stream is made up of lines: what ends one in an event's data, and how long a field's
//! is. Nothing is written here.

use super::Event;

/// Digits of the epoch in an id of the hub.
pub const EPOCH_DIGITS: usize = 8;
/// Bytes of the longest id of the hub: its epoch, a hyphen, and a number.
pub const LONGEST_ID: usize = EPOCH_DIGITS + 1 + u64::MAX.ilog10() as usize + 1;

/// Bytes of the text form of an event that has this id, with the empty line behind it and without chunked
/// coding.
pub fn event_len(event: &Event<'_>, id: Option<usize>) -> usize {
    let name = event.name.filter(|name| !name.is_empty());
    let data = lines(event.data).map(|line| line_len("data: ", line.len()));
    field_len("event: ", name.map(str::len))
        + field_len("id: ", id)
        + field_len("retry: ", event.retry_ms.map(decimal_len))
        + data.sum::<usize>()
        + 1
}

/// The lines of a text. CR, LF and CRLF each end one; what follows the last of them is a line, too,
/// and may be empty.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = memchr::memchr2(b'\r', b'\n', text) else {
            return rest.take();
        };
        let (line, behind) = text.split_at(end);
        let crlf = behind.starts_with(b"\r\n");
        rest = Some(&behind[1 + usize::from(crlf)..]);
        Some(line)
    })
}

/// Bytes of the line of a field that may be absent.
pub fn field_len(field: &str, value: Option<usize>) -> usize {
    value.map_or(0, |len| line_len(field, len))
}

/// Bytes of the line of a field, of which `field` is all before the value.
pub fn line_len(field: &str, value: usize) -> usize {
    field.len() + value + 1
}

/// Digits of a decimal number.
pub fn decimal_len(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}
