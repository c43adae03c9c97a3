//! Percent-decoding of path parameters and queries. Never fails: a percent sign without two
//! hexadecimal digits stands for itself, and bytes that are no UTF-8 become U+FFFD.

use std::borrow::Cow;

/// A path segment decoded (RFC 3986, section 2.1). `+` is a plus sign here.
pub(crate) fn decode_path(raw: &[u8]) -> Cow<'_, str> {
    decode(raw, false)
}

/// The pairs of a query, decoded as the URL standard has it for forms.
pub(crate) fn pairs(query: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let equals = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = match equals {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            (decode(name, true), decode(value, true))
        })
}

fn decode(raw: &[u8], plus_is_space: bool) -> Cow<'_, str> {
    let is_plain = |byte: &u8| *byte != b'%' && !(plus_is_space && *byte == b'+');
    if raw.iter().all(is_plain) {
        return String::from_utf8_lossy(raw);
    }
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [first, tail @ ..] = rest {
        let (byte, used) = match (first, tail) {
            (b'%', [high, low, ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            (b'+', _) if plus_is_space => (b' ', 1),
            (byte, _) => (*byte, 1),
        };
        out.push(byte);
        rest = &rest[used..];
    }
    match String::from_utf8(out) {
        Ok(text) => Cow::Owned(text),
        Err(error) => Cow::Owned(String::from_utf8_lossy(error.as_bytes()).into_owned()),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once() {
        for (raw, decoded) in [
            (&b"plain"[..], "plain"),
            (b"a%20b+c", "a b+c"),
            (b"%2fx%2F", "/x/"),
            (b"%2525", "%25"),
            (b"%", "%"),
            (b"%4", "%4"),
            (b"%zz%41", "%zzA"),
            (b"%C3%A4", "\u{e4}"),
            (b"%ff", "\u{fffd}"),
            (b"\xff", "\u{fffd}"),
        ] {
            assert_eq!(decode_path(raw), decoded, "{raw:?}");
        }
    }

    #[test]
    fn pairs_keep_order_and_duplicates() {
        let got: Vec<_> = pairs(b"q=1&q=2&&empty=&flag&a=b=c&x+y=%26").collect();
        let expected = [
            ("q", "1"),
            ("q", "2"),
            ("empty", ""),
            ("flag", ""),
            ("a", "b=c"),
            ("x y", "&"),
        ];
        assert_eq!(
            got,
            expected.map(|(n, v)| (Cow::Borrowed(n), Cow::Borrowed(v)))
        );
        assert_eq!(pairs(b"").count(), 0);
    }
}
