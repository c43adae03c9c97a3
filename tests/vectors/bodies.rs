//! Chunked bodies: RFC 9112, section 7.1, and RFC 9110, section 6.5.1, for what may follow them. Each is
//! sent behind [`HEAD`], to a path whose worker reads the whole body before it answers. Data only.

use slotway::limits::{MAX_CHUNK_EXTENSIONS, MAX_CHUNK_LINE, MAX_FIELDS, MAX_TRAILER};

use super::{Made, Vector};

/// What comes before each of the bodies.
pub const HEAD: &[u8] = b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// RFC 9112, sections 2.2 and 7.1.
pub const SIZES: &[Vector] = &[
    ("data", b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", 0),
    ("sixteen digits", b"0000000000000001\r\nx\r\n0\r\n\r\n", 0),
    ("zeros end the body", b"000\r\n\r\n", 0),
    ("empty size", b"\r\n\r\n", 400),
    ("empty size after data", b"1\r\nx\r\n\r\n", 400),
    ("plus", b"+1\r\nx\r\n", 400),
    ("minus", b"-1\r\nx\r\n", 400),
    ("minus nothing", b"-0\r\n\r\n", 400),
    ("prefix", b"0x1\r\nx\r\n", 400),
    ("prefix in capitals", b"0X1\r\nx\r\n", 400),
    ("suffix", b"1h\r\nx\r\n", 400),
    ("long suffix", b"1L\r\nx\r\n", 400),
    ("separator", b"1_0\r\nx\r\n", 400),
    ("comma", b"1,0\r\nx\r\n", 400),
    ("fraction", b"1.0\r\nx\r\n", 400),
    ("quotes", b"\"1\"\r\nx\r\n", 400),
    ("full-width digit", b"\xef\xbc\x91\r\nx\r\n", 400),
    ("NUL", b"1\0\r\nx\r\n", 400),
    ("NUL in front", b"\x001\r\nx\r\n", 400),
    ("space before", b" 1\r\nx\r\n", 400),
    ("tab before", b"\t1\r\nx\r\n", 400),
    ("space after", b"1 \r\nx\r\n", 400),
    ("tab after", b"1\t\r\nx\r\n", 400),
    ("space before the last", b" 0\r\n\r\n", 400),
    ("space after the last", b"0 \r\n\r\n", 400),
    ("overflow", b"10000000000000001\r\nx\r\n", 400),
    (
        "overflow to one",
        b"100000000000000000000000000000001\r\nx\r\n",
        400,
    ),
    ("seventeen zeros", b"00000000000000000\r\n\r\n", 400),
    ("all ones and one more", b"fffffffffffffffff\r\nx\r\n", 400),
    ("bare LF after size", b"1\nx\r\n", 400),
    ("bare CR after size", b"1\rx\r\n", 400),
    ("two CR after size", b"1\r\r\nx\r\n", 400),
    ("LF and CR after size", b"1\n\rx\r\n", 400),
    ("bare LF after data", b"1\r\nx\n0\r\n\r\n", 400),
    ("bare CR after data", b"1\r\nx\r0\r\n\r\n", 400),
    ("two CR after data", b"1\r\nx\r\r\n0\r\n\r\n", 400),
    ("nothing after data", b"1\r\nx0\r\n\r\n", 400),
    ("an empty line too many", b"1\r\nx\r\n\r\n0\r\n\r\n", 400),
    ("data too long", b"1\r\nxy\r\n0\r\n\r\n", 400),
    ("two bytes that are no CRLF", b"1\r\nxXX0\r\n\r\n", 400),
    ("bare LF after the last size", b"0\n\r\n", 400),
    ("bare LF for the empty line", b"0\r\n\n", 400),
    ("bare LF twice", b"0\n\n", 400),
    ("bare CR for the empty line", b"0\r\n\rX", 400),
    ("two CR for the empty line", b"0\r\n\r\r\n", 400),
];

/// RFC 9112, section 7.1.1.
pub const EXTENSIONS: &[Vector] = &[
    ("extension", b"1;a=b;c=\"d\"\r\nx\r\n0;e\r\n\r\n", 0),
    ("quoted pair", b"1;a=\"\\\"\\\\\"\r\nx\r\n0\r\n\r\n", 0),
    (
        "white space in the extension",
        b"1; a = b ; c\r\nx\r\n0\r\n\r\n",
        0,
    ),
    (
        "white space before the name",
        b"1; a=b\r\nx\r\n0\r\n\r\n",
        0,
    ),
    ("white space before the semicolon", b"1 ;a\r\nx\r\n", 400),
    ("bare LF in extension", b"1;a\nb\r\nx\r\n", 400),
    ("bare LF after extension", b"1;a\nx\r\n0\r\n\r\n", 400),
    ("bare CR in extension", b"1;a\rb\r\nx\r\n", 400),
    ("bare LF after the semicolon", b"1;\nx\r\n0\r\n\r\n", 400),
    ("two CR after extension", b"1;a\r\r\nx\r\n", 400),
    ("LF in quotes", b"1;a=\"\n\"\r\nx\r\n", 400),
    ("CRLF in quotes", b"1;a=\"\r\n\"\r\nx\r\n", 400),
    ("LF behind a backslash", b"1;a=\"\\\n\"\r\nx\r\n", 400),
    ("NUL in extension", b"1;a\0\r\nx\r\n", 400),
    ("control character in quotes", b"1;a=\"\x01\"\r\nx\r\n", 400),
    ("non-ASCII name", b"1;\xe9\r\nx\r\n", 400),
    ("empty extension", b"1;\r\nx\r\n", 400),
    ("empty second extension", b"1;a;\r\nx\r\n", 400),
    ("empty value", b"1;a=\r\nx\r\n", 400),
    ("value without name", b"1;=a\r\nx\r\n", 400),
    ("two equals signs", b"1;a==b\r\nx\r\n", 400),
    ("two names", b"1;a b\r\nx\r\n", 400),
    ("text behind quotes", b"1;a=\"b\"c\r\nx\r\n", 400),
    ("open quote", b"1;a=\"b\r\nx\r\n", 400),
    ("empty extension of the last", b"0;\r\n\r\n", 400),
];

/// RFC 9112, section 7.1.2; RFC 9110, section 6.5.1.
pub const TRAILERS: &[Vector] = &[
    ("trailer", b"0\r\nChecksum: 1\r\n\r\n", 0),
    ("two trailers", b"0\r\nA: 1\r\nB:\r\n\r\n", 0),
    ("Content-Length", b"0\r\nContent-Length: 4\r\n\r\n", 400),
    (
        "Transfer-Encoding",
        b"0\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
    ),
    ("Host", b"0\r\nHost: b\r\n\r\n", 400),
    ("Authorization", b"0\r\nAuthorization: b\r\n\r\n", 400),
    ("Cookie", b"0\r\nA: 1\r\nCOOKIE: b\r\n\r\n", 400),
    ("Connection", b"0\r\nConnection: close\r\n\r\n", 400),
    ("Trailer", b"0\r\nTrailer: a\r\n\r\n", 400),
    ("TE", b"0\r\nTE: trailers\r\n\r\n", 400),
    ("Content-Type", b"0\r\nContent-Type: a/b\r\n\r\n", 400),
    (
        "Content-Encoding",
        b"0\r\nContent-Encoding: gzip\r\n\r\n",
        400,
    ),
    ("Expect", b"0\r\nExpect: 100-continue\r\n\r\n", 400),
    (
        "X-Forwarded-For",
        b"0\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n",
        400,
    ),
    (
        "the hub's secret",
        b"0\r\nX-Hub-Secret: 0123456789abcdef\r\n\r\n",
        400,
    ),
    ("folding", b"0\r\nA: b\r\n c\r\n\r\n", 400),
    ("white space in front", b"0\r\n A: b\r\n\r\n", 400),
    ("space before the colon", b"0\r\nA : b\r\n\r\n", 400),
    ("no colon", b"0\r\nA\r\n\r\n", 400),
    ("no name", b"0\r\n: b\r\n\r\n", 400),
    ("bare LF", b"0\r\nA: b\n\r\n", 400),
    ("bare CR", b"0\r\nA: b\rC: d\r\n\r\n", 400),
    ("NUL in a trailer", b"0\r\nA: \0\r\n\r\n", 400),
    (
        "a request",
        b"0\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
    ),
];

/// Every vector of this group.
pub fn all() -> Vec<Made> {
    let tables = [SIZES, EXTENSIONS, TRAILERS];
    let fixed = tables
        .iter()
        .flat_map(|table| table.iter())
        .map(|(name, body, status)| made(name, body, *status));
    fixed.chain(at_limits()).collect()
}

fn at_limits() -> Vec<Made> {
    let line = |len: usize| {
        let mut line = b"1;".to_vec();
        line.resize(len - 2, b'a');
        [&line[..], b"\r\nx\r\n0\r\n\r\n"].concat()
    };
    let extensions = |lines: usize| {
        let mut body = Vec::new();
        for _ in 0..lines {
            body.extend_from_slice(format!("1;{}\r\nx\r\n", "a".repeat(200)).as_bytes());
        }
        body.extend_from_slice(b"0\r\n\r\n");
        body
    };
    let trailer = |len: usize| {
        let mut body = b"0\r\nA: ".to_vec();
        body.resize(3 + len - 4, b'x');
        body.extend_from_slice(b"\r\n\r\n");
        body
    };
    let trailers = |count: usize| [b"0\r\n", "A:\r\n".repeat(count).as_bytes(), b"\r\n"].concat();
    vec![
        made("the longest line", &line(MAX_CHUNK_LINE), 0),
        made("a longer line", &line(MAX_CHUNK_LINE + 1), 400),
        made(
            "extensions without end",
            &extensions(MAX_CHUNK_EXTENSIONS / 200 + 1),
            400,
        ),
        made("the longest trailer section", &trailer(MAX_TRAILER), 0),
        made("a longer trailer section", &trailer(MAX_TRAILER + 1), 431),
        made("the most trailers", &trailers(MAX_FIELDS), 0),
        made("one trailer more", &trailers(MAX_FIELDS + 1), 431),
    ]
}

fn made(name: &str, body: &[u8], status: u16) -> Made {
    Made {
        name: format!("chunked body: {name}"),
        bytes: [HEAD, body].concat(),
        status,
    }
}
