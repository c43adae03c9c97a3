//! Text of a stranger's in the log and in error messages: it begins no line there, moves no cursor, and
//! is not long.

use crate::limits::MAX_QUOTE;

/// The text with whatever cannot be printed escaped, and cut where it is long. Quotation marks stay as
/// they are.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len().min(MAX_QUOTE));
    let mut chars = text.chars();
    for c in chars.by_ref().take(MAX_QUOTE) {
        match c {
            '\'' | '"' | '\\' => quoted.push(c),
            c => quoted.extend(c.escape_debug()),
        }
    }
    if chars.next().is_some() {
        quoted.push('…');
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_letter_is_escaped_and_what_is_long_is_cut() {
        for (text, quoted) in [
            ("", ""),
            ("the 'name' \"x\\y\" \u{e4}", "the 'name' \"x\\y\" \u{e4}"),
            ("a\r\nb\0\t", "a\\r\\nb\\0\\t"),
            ("\x1b[2K\x7f\u{9b}", "\\u{1b}[2K\\u{7f}\\u{9b}"),
            ("\u{85}\u{2028}\u{202e}", "\\u{85}\\u{2028}\\u{202e}"),
        ] {
            assert_eq!(quote(text), quoted);
        }
        let (just, long) = ("x".repeat(MAX_QUOTE), "\u{e4}".repeat(4 * MAX_QUOTE));
        assert_eq!(quote(&just), just);
        assert_eq!(quote(&long).chars().count(), MAX_QUOTE + 1);
        assert!(quote(&long).ends_with('…'));
    }
}
