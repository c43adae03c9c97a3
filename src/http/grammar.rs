//! The character classes of RFC 9110 and RFC 3986 as one table, and the list syntax of field values.
//! Never decides what a message means.

const TOKEN: u8 = 1;
const HOST: u8 = 2;
const TARGET: u8 = 4;

/// One byte of class bits for each octet, so that a check is one load and one test.
static CLASS: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        let alnum = b.is_ascii_alphanumeric();
        if alnum || contains(b"!#$%&'*+-.^_`|~", b) {
            table[i] |= TOKEN;
        }
        // RFC 3986, section 3.2.2: unreserved and sub-delims, without the comma, which would make a
        // joined pair of Host fields look like one.
        if alnum || contains(b"-._~!$&'()*+;=", b) {
            table[i] |= HOST;
        }
        // Visible ASCII is taken as it stands except `#` (no fragments, RFC 9112, section 3.2), the
        // backslash, which some software takes for a slash, and `%`, which has to be looked at.
        if b.is_ascii_graphic() && !contains(b"#\\%", b) {
            table[i] |= TARGET;
        }
        i += 1;
    }
    table
}

const fn contains(set: &[u8], b: u8) -> bool {
    let mut i = 0;
    while i < set.len() {
        if set[i] == b {
            return true;
        }
        i += 1;
    }
    false
}

/// tchar (RFC 9110, section 5.6.2).
#[inline]
pub(super) fn is_token(b: u8) -> bool {
    CLASS[b as usize] & TOKEN != 0
}

/// A byte of a registered name (RFC 3986, section 3.2.2) other than a percent sequence or a comma.
#[inline]
pub(super) fn is_host(b: u8) -> bool {
    CLASS[b as usize] & HOST != 0
}

/// A byte that may stand in a request target on its own.
#[inline]
pub(super) fn is_target(b: u8) -> bool {
    CLASS[b as usize] & TARGET != 0
}

/// field-vchar, SP or HTAB (RFC 9110, section 5.5), obs-text included.
#[inline]
pub(super) fn is_field_content(b: u8) -> bool {
    (b >= b' ' && b != 0x7f) || b == b'\t'
}

/// Whether `bytes` begins with a well-formed percent sequence (RFC 3986, section 2.1).
#[inline]
pub(super) fn starts_with_percent_sequence(bytes: &[u8]) -> bool {
    matches!(bytes, [b'%', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit())
}

/// The elements of a comma-separated list without the white space around them; empty elements are
/// yielded as such (RFC 9110, section 5.6.1). Only for lists whose elements have no quoted strings.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_the_grammar_says() {
        let count = |class: fn(u8) -> bool| (0..=255).filter(|&b| class(b)).count();
        assert_eq!(count(is_token), 62 + 15);
        assert_eq!(count(is_host), 62 + 14);
        assert_eq!(count(is_target), 94 - 3);
        assert_eq!(count(is_field_content), 256 - 32 - 1 + 1);
        assert!(!is_token(b':') && !is_token(b' ') && !is_token(0x80));
        assert!(!is_host(b',') && !is_host(b'@') && !is_host(b'/') && !is_host(b'%'));
        assert!(!is_target(b' ') && !is_target(0x7f) && !is_target(0x80) && is_target(b'~'));
    }

    #[test]
    fn lists_keep_empty_elements() {
        let elements: Vec<_> = list(b" a ,,b\t, ").collect();
        assert_eq!(elements, [&b"a"[..], b"", b"b", b""]);
    }
}
