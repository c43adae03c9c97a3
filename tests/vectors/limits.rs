//! Heads at their limits and one beyond: RFC 6585, section 5 (431), and RFC 9110, section 15.5.15
//! (414). Data only.

use slotway::limits::{MAX_FIELDS, MAX_HEAD, MAX_TARGET};

use super::Made;

fn with_target(len: usize) -> Vec<u8> {
    let target = "/".repeat(len);
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

fn with_head(len: usize) -> Vec<u8> {
    let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    head.resize(len - 4, b'x');
    head.extend_from_slice(b"\r\n\r\n");
    head
}

fn with_fields(count: usize) -> Vec<u8> {
    let fields = "X: y\r\n".repeat(count - 1);
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

/// Every vector of this group.
pub fn all() -> Vec<Made> {
    let mut endless_target = with_target(3 * MAX_HEAD);
    endless_target.truncate(MAX_HEAD);
    let mut endless_line = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
    endless_line.resize(MAX_HEAD + 1, b'x');
    let mut endless_name = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    endless_name.resize(MAX_HEAD + 1, b'x');
    let vectors = [
        ("the longest target", with_target(MAX_TARGET), 0),
        ("a longer target", with_target(MAX_TARGET + 1), 414),
        (
            "a target longer than a head",
            with_target(3 * MAX_HEAD),
            414,
        ),
        ("a target without end", endless_target, 414),
        ("the longest head", with_head(MAX_HEAD), 0),
        ("a longer head", with_head(MAX_HEAD + 1), 431),
        ("a value without end", endless_line, 431),
        ("a name without end", endless_name, 431),
        ("a method without end", vec![b'A'; MAX_HEAD + 1], 431),
        ("the most fields", with_fields(MAX_FIELDS), 0),
        ("one field more", with_fields(MAX_FIELDS + 1), 431),
        ("fields by the thousand", with_fields(2000), 431),
    ];
    vectors
        .into_iter()
        .map(|(name, bytes, status)| Made {
            name: format!("limit: {name}"),
            bytes,
            status,
        })
        .collect()
}
