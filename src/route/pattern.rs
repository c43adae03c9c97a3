//! Parses and checks route patterns. It never matches a path: that is the table's job.

use std::fmt;
use std::sync::Arc;

use crate::limits::{MAX_PARAMS, MAX_PATTERN, MAX_PATTERN_SEGMENTS};

/// A checked route pattern, for example `/items/{id}/files/{*rest}`.
///
/// `{name}` stands for one whole, non-empty segment. `{*name}` stands for everything that is left
/// after its slash, slashes included, at least one byte, and ends the pattern. Everything else is
/// literal: any `pchar` of RFC 3986 (section 3.3), compared byte for byte with the path as
/// received, percent triples included. Cloning shares the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Arc<str>,
}

/// One segment of a pattern, without its slash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternSegment<'a> {
    /// Exactly these bytes; empty for the segment after a trailing slash or between two slashes.
    Literal(&'a str),
    /// `{name}`: one non-empty segment.
    Param(&'a str),
    /// `{*name}`: the non-empty rest of the path.
    CatchAll(&'a str),
}

/// Why a text is not a route pattern. `at` counts bytes from the start of the text.
///
/// The `Display` form says what is wrong, where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// The first byte is not a slash, or there is none.
    NoLeadingSlash,
    /// There are more than [`MAX_PATTERN`] bytes.
    TooLong {
        /// Number of bytes in the text.
        len: usize,
    },
    /// There are more than [`MAX_PATTERN_SEGMENTS`] segments.
    TooManySegments {
        /// Where the first one too many starts.
        at: usize,
    },
    /// A character that no path can hold unencoded.
    Forbidden {
        /// Where it starts.
        at: usize,
        /// The character.
        found: char,
    },
    /// A percent sign without two hexadecimal digits after it.
    BadPercent {
        /// Where the percent sign stands.
        at: usize,
    },
    /// A brace that is not the first or the last byte of its segment, or that has no partner.
    BadBrace {
        /// Where the brace stands.
        at: usize,
    },
    /// A parameter's name is empty or has a byte that names cannot have.
    BadName {
        /// Where the name is wrong.
        at: usize,
    },
    /// A second parameter with the same name.
    RepeatedName {
        /// Where the second one's name starts.
        at: usize,
        /// The name.
        name: String,
    },
    /// More than [`MAX_PARAMS`] parameters.
    TooManyParams {
        /// Where the first one too many starts.
        at: usize,
    },
    /// A segment follows a catch-all.
    CatchAllNotLast {
        /// Where the catch-all starts.
        at: usize,
    },
}

impl Pattern {
    /// Checks a text and makes it a pattern.
    ///
    /// # Errors
    /// The first fault in the order of the text (its length is checked before anything else).
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong { len: text.len() });
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(PatternError::NoLeadingSlash);
        };
        let mut names: Vec<&str> = Vec::new();
        let mut at = 1;
        let mut segments = rest.split('/').peekable();
        let mut count = 0;
        while let Some(segment) = segments.next() {
            count += 1;
            if count > MAX_PATTERN_SEGMENTS {
                return Err(PatternError::TooManySegments { at });
            }
            if segment.starts_with('{') {
                let (name, is_catch_all) = check_placeholder(segment, at)?;
                if names.contains(&name) {
                    return Err(PatternError::RepeatedName {
                        at: at + 1 + usize::from(is_catch_all),
                        name: name.to_owned(),
                    });
                }
                if names.len() == MAX_PARAMS {
                    return Err(PatternError::TooManyParams { at });
                }
                if is_catch_all && segments.peek().is_some() {
                    return Err(PatternError::CatchAllNotLast { at });
                }
                names.push(name);
            } else {
                check_literal(segment, at)?;
            }
            at += segment.len() + 1;
        }
        Ok(Pattern { text: text.into() })
    }

    /// The text the pattern was made from.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The segments in order; there is at least one (`/` has a single empty literal).
    pub fn segments(&self) -> impl Iterator<Item = PatternSegment<'_>> {
        self.text[1..].split('/').map(|segment| {
            let name = segment
                .strip_prefix('{')
                .and_then(|inner| inner.strip_suffix('}'));
            match name {
                None => PatternSegment::Literal(segment),
                Some(name) => match name.strip_prefix('*') {
                    None => PatternSegment::Param(name),
                    Some(name) => PatternSegment::CatchAll(name),
                },
            }
        })
    }

    /// The names of the parameters, the catch-all's included, in the order in which a match gives
    /// their values.
    pub fn param_names(&self) -> impl Iterator<Item = &str> {
        self.segments().filter_map(|segment| match segment {
            PatternSegment::Literal(_) => None,
            PatternSegment::Param(name) | PatternSegment::CatchAll(name) => Some(name),
        })
    }

    /// The path in which the parameters have these values. Values are given plain and percent-encoded
    /// here: everything but letters, digits and `-._~!$&'()*+,;=:@` (RFC 3986, section 3.3), and the
    /// slashes of a catch-all.
    ///
    /// # Errors
    /// The name of the first parameter without a value, or with an empty one, which no path matches.
    pub fn fill<'v>(&self, value: impl Fn(&str) -> Option<&'v str>) -> Result<String, String> {
        let mut path = String::new();
        for segment in self.segments() {
            path.push('/');
            let (name, keeps_slashes) = match segment {
                PatternSegment::Literal(text) => {
                    path.push_str(text);
                    continue;
                }
                PatternSegment::Param(name) => (name, false),
                PatternSegment::CatchAll(name) => (name, true),
            };
            let value = value(name).filter(|value| !value.is_empty());
            for byte in value.ok_or(name)?.bytes() {
                let is_plain = byte.is_ascii_alphanumeric()
                    || b"-._~!$&'()*+,;=:@".contains(&byte)
                    || (keeps_slashes && byte == b'/');
                if is_plain {
                    path.push(char::from(byte));
                } else {
                    path.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        Ok(path)
    }

    /// Whether the pattern names a place that the hub answers itself, so that no worker can have
    /// it: `/health`, `/__ping__`, `/events`, `/internal`, and everything below the last two.
    ///
    /// A pattern that merely could match such a path, such as `/{any}`, is not reserved.
    pub fn is_reserved(&self) -> bool {
        let text = self.as_str();
        let is_at_or_below = |place: &str| {
            text.strip_prefix(place)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        matches!(text, "/health" | "/__ping__")
            || is_at_or_below("/events")
            || is_at_or_below("/internal")
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        Pattern::parse(text)
    }
}

/// Checks a segment that starts with an opening brace; gives the name and whether it is a catch-all.
fn check_placeholder(segment: &str, at: usize) -> Result<(&str, bool), PatternError> {
    let Some(close) = segment.find('}') else {
        return Err(PatternError::BadBrace { at });
    };
    if close + 1 != segment.len() {
        // Text after the closing brace: the segment would be half literal.
        return Err(PatternError::BadBrace { at: at + close });
    }
    let inner = &segment[1..close];
    let (name, skipped) = match inner.strip_prefix('*') {
        Some(name) => (name, 2),
        None => (inner, 1),
    };
    let is_name_byte = |i: usize, byte: u8| {
        byte == b'_' || byte.is_ascii_alphabetic() || (i > 0 && byte.is_ascii_digit())
    };
    let bad = name
        .bytes()
        .enumerate()
        .position(|(i, byte)| !is_name_byte(i, byte));
    match bad {
        Some(bad) => Err(PatternError::BadName {
            at: at + skipped + bad,
        }),
        None if name.is_empty() => Err(PatternError::BadName { at: at + skipped }),
        None => Ok((name, skipped == 2)),
    }
}

/// Checks a segment that does not start with an opening brace.
fn check_literal(segment: &str, at: usize) -> Result<(), PatternError> {
    let bytes = segment.as_bytes();
    for (i, found) in segment.char_indices() {
        let at = at + i;
        match found {
            '%' => {
                let is_hex = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_hexdigit);
                if !is_hex(i + 1) || !is_hex(i + 2) {
                    return Err(PatternError::BadPercent { at });
                }
            }
            '{' | '}' => return Err(PatternError::BadBrace { at }),
            _ if is_unencoded_pchar(found) => {}
            _ => return Err(PatternError::Forbidden { at, found }),
        }
    }
    Ok(())
}

/// Whether the character is a `pchar` by itself: unreserved, sub-delims, `:` or `@` (RFC 3986,
/// sections 2.2, 2.3 and 3.3).
fn is_unencoded_pchar(found: char) -> bool {
    found.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(found)
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PatternError::NoLeadingSlash => write!(
                f,
                "the pattern does not start with a slash (byte 0); write for example `/items/{{id}}`"
            ),
            PatternError::TooLong { len } => write!(
                f,
                "the pattern has {len} bytes, {MAX_PATTERN} are allowed (byte {MAX_PATTERN}); \
                 shorten it, or end it with a catch-all such as `{{*rest}}`"
            ),
            PatternError::Forbidden { at, found: '?' } => write!(
                f,
                "the pattern has a question mark at byte {at}; leave the query out, patterns match \
                 the path alone"
            ),
            PatternError::Forbidden { at, found: '#' } => write!(
                f,
                "the pattern has a `#` at byte {at}; leave the fragment out, clients never send it"
            ),
            PatternError::Forbidden { at, found } => {
                write!(
                    f,
                    "the pattern has {found:?} at byte {at}, which no path holds as it is; write it \
                     percent-encoded: `"
                )?;
                for byte in found.encode_utf8(&mut [0; 4]).bytes() {
                    write!(f, "%{byte:02X}")?;
                }
                f.write_str("`")
            }
            PatternError::TooManySegments { at } => write!(
                f,
                "the segment at byte {at} is one more than the {MAX_PATTERN_SEGMENTS} allowed; end \
                 the pattern with a catch-all such as `{{*rest}}` before it"
            ),
            PatternError::BadPercent { at } => write!(
                f,
                "the percent sign at byte {at} is not followed by two hexadecimal digits; write \
                 `%25` for a percent sign itself"
            ),
            PatternError::BadBrace { at } => write!(
                f,
                "the brace at byte {at} does not enclose a whole segment; write `/{{name}}/` \
                 between slashes, or `%7B` and `%7D` for braces themselves"
            ),
            PatternError::BadName { at } => write!(
                f,
                "the parameter name is wrong at byte {at}; write a letter or `_`, then letters, \
                 digits or `_`, for example `{{id}}` or `{{*rest}}`"
            ),
            PatternError::RepeatedName { at, name } => write!(
                f,
                "the parameter name `{name}` at byte {at} is taken by an earlier segment; give \
                 each parameter a name of its own"
            ),
            PatternError::TooManyParams { at } => write!(
                f,
                "the parameter at byte {at} is one more than the {MAX_PARAMS} allowed; end the \
                 pattern with a catch-all such as `{{*rest}}` before it"
            ),
            PatternError::CatchAllNotLast { at } => write!(
                f,
                "the catch-all at byte {at} is not the last segment; move it to the end, or write \
                 `{{name}}` to match a single segment"
            ),
        }
    }
}

impl std::error::Error for PatternError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Pattern, PatternError> {
        Pattern::parse(text)
    }

    #[test]
    fn a_filled_pattern_matches_what_it_was_filled_with() {
        let pattern = Pattern::parse("/a/{b}/{*rest}").unwrap();
        let fill = |b: &'static str, rest: &'static str| {
            pattern.fill(|name| Some(if name == "b" { b } else { rest }))
        };
        assert_eq!(fill("x", "y/z").unwrap(), "/a/x/y/z");
        assert_eq!(fill("x/ y@", "\u{e4}").unwrap(), "/a/x%2F%20y@/%C3%A4");
        assert_eq!(fill("", "y").unwrap_err(), "b");
        assert_eq!(
            pattern
                .fill(|name| (name == "b").then_some("x"))
                .unwrap_err(),
            "rest"
        );
    }

    #[test]
    fn accepts_literals_placeholders_and_every_pchar() {
        for text in [
            "/",
            "//",
            "/a",
            "/a/",
            "/a//b",
            "/..",
            "/{x}",
            "/{_}",
            "/{x}/",
            "/a/{x1}/b/{*rest}",
            "/{*rest}",
            "/-._~!$&'()*+,;=:@azAZ09%2F%aF",
        ] {
            let pattern = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(pattern.as_str(), text);
        }
    }

    #[test]
    fn gives_segments_and_names_in_order() {
        use PatternSegment::*;
        let pattern = parse("/a//{x}/{*y}").unwrap();
        assert_eq!(
            pattern.segments().collect::<Vec<_>>(),
            [Literal("a"), Literal(""), Param("x"), CatchAll("y")]
        );
        assert_eq!(pattern.param_names().collect::<Vec<_>>(), ["x", "y"]);
        let root = parse("/").unwrap();
        assert_eq!(root.segments().collect::<Vec<_>>(), [Literal("")]);
    }

    #[test]
    fn refuses_and_says_where() {
        use PatternError::*;
        let repeated = |at| RepeatedName {
            at,
            name: "x".into(),
        };
        for (text, error) in [
            ("", NoLeadingSlash),
            ("a/b", NoLeadingSlash),
            ("*", NoLeadingSlash),
            ("/a b", Forbidden { at: 2, found: ' ' }),
            ("/a/\n", Forbidden { at: 3, found: '\n' }),
            ("/\0", Forbidden { at: 1, found: '\0' }),
            (
                "/\x7f",
                Forbidden {
                    at: 1,
                    found: '\x7f',
                },
            ),
            ("/é", Forbidden { at: 1, found: 'é' }),
            ("/a?b=c", Forbidden { at: 2, found: '?' }),
            ("/a#b", Forbidden { at: 2, found: '#' }),
            ("/a\\b", Forbidden { at: 2, found: '\\' }),
            ("/[a]", Forbidden { at: 1, found: '[' }),
            ("/%", BadPercent { at: 1 }),
            ("/a%2", BadPercent { at: 2 }),
            ("/%2/0", BadPercent { at: 1 }),
            ("/%zz", BadPercent { at: 1 }),
            ("/%2é", BadPercent { at: 1 }),
            ("/{x", BadBrace { at: 1 }),
            ("/{x/}", BadBrace { at: 1 }),
            ("/x}", BadBrace { at: 2 }),
            ("/a{x}", BadBrace { at: 2 }),
            ("/{x}a", BadBrace { at: 3 }),
            ("/{x}{y}", BadBrace { at: 3 }),
            ("/{{x}}", BadBrace { at: 4 }),
            ("/{}", BadName { at: 2 }),
            ("/{*}", BadName { at: 3 }),
            ("/{1x}", BadName { at: 2 }),
            ("/{x-y}", BadName { at: 3 }),
            ("/{**x}", BadName { at: 3 }),
            ("/{é}", BadName { at: 2 }),
            ("/{x}/{x}", repeated(6)),
            ("/{x}/a/{*x}", repeated(9)),
            ("/{*x}/a", CatchAllNotLast { at: 1 }),
            ("/a/{*x}/", CatchAllNotLast { at: 3 }),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{text:?}");
        }
    }

    #[test]
    fn holds_the_limits_exactly() {
        let longest = format!("/{}", "a".repeat(MAX_PATTERN - 1));
        assert!(parse(&longest).is_ok());
        let too_long = format!("{longest}a");
        assert_eq!(
            parse(&too_long).unwrap_err(),
            PatternError::TooLong {
                len: MAX_PATTERN + 1
            }
        );
        let deepest = "/a".repeat(MAX_PATTERN_SEGMENTS);
        assert_eq!(
            parse(&deepest).unwrap().segments().count(),
            MAX_PATTERN_SEGMENTS
        );
        assert_eq!(
            parse(&format!("{deepest}/")).unwrap_err(),
            PatternError::TooManySegments {
                at: deepest.len() + 1
            }
        );
        let most: String = (0..MAX_PARAMS).map(|i| format!("/{{p{i}}}")).collect();
        assert_eq!(parse(&most).unwrap().param_names().count(), MAX_PARAMS);
        let too_many = format!("{most}/{{*rest}}");
        assert_eq!(
            parse(&too_many).unwrap_err(),
            PatternError::TooManyParams { at: most.len() + 1 }
        );
    }

    #[test]
    fn errors_say_what_to_write_instead() {
        for (text, hint) in [
            ("a", "/items/{id}"),
            ("/a b", "%20"),
            ("/é", "%C3%A9"),
            ("/a?b", "query"),
            ("/a#b", "fragment"),
            ("/%", "%25"),
            ("/a{x}", "/{name}/"),
            ("/{}", "{id}"),
            ("/{x}/{x}", "of its own"),
            ("/{*x}/a", "{name}"),
            (&"/a".repeat(65), "{*rest}"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(hint), "{text}: {message}");
            assert!(message.contains("byte "), "{text}: {message}");
        }
    }

    #[test]
    fn knows_the_places_of_the_hub() {
        for text in [
            "/internal",
            "/internal/",
            "/internal/register",
            "/internal/{x}",
            "/health",
            "/events",
            "/events/",
            "/events/{channel}",
            "/__ping__",
        ] {
            assert!(parse(text).unwrap().is_reserved(), "{text}");
        }
        for text in [
            "/",
            "/internally",
            "/healthy",
            "/health/x",
            "/event",
            "/eventsx",
            "/a/internal",
            "/{x}",
            "/{*x}",
            "/__ping__/x",
        ] {
            assert!(!parse(text).unwrap().is_reserved(), "{text}");
        }
    }
}
