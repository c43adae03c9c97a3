//! The chunked decoder against tables, every split, and a slow reference. Never looks inside it.

use super::*;

use super::naive::Outcome::{Fault, Incomplete, Whole};
use super::naive::{Outcome, decode_by, reference};

/// The same outcome whole, byte by byte, and in two pieces cut at every place.
fn decode(bytes: &[u8]) -> Outcome {
    let outcome = decode_by(bytes, &[bytes.len().max(1)]);
    assert_eq!(decode_by(bytes, &[1]), outcome, "{bytes:?} byte by byte");
    for cut in 1..bytes.len().min(600) {
        let cuts = [cut, bytes.len()];
        assert_eq!(decode_by(bytes, &cuts), outcome, "{bytes:?} cut at {cut}");
    }
    outcome
}

/// A small generator of pseudo-random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.below(from.len())]
    }
}

/// The seed of this run: from the environment where one is to be repeated, else from the clock.
fn random() -> Random {
    let seed = match std::env::var("SLOTWAY_TEST_SEED") {
        Ok(text) => text.parse().expect("SLOTWAY_TEST_SEED is a decimal number"),
        Err(_) => {
            let now = std::time::SystemTime::now();
            let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
            since.as_nanos() as u64
        }
    };
    println!("SLOTWAY_TEST_SEED={seed}");
    Random(seed)
}

#[test]
fn whole_bodies() {
    for (bytes, data) in [
        (&b"0\r\n\r\n"[..], &b""[..]),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (
            b"5\r\nhello\r\n00b\r\n\r\n\r\n0\0\xff\r\nxy\r\n0\r\n\r\n",
            b"hello\r\n\r\n0\0\xff\r\nxy",
        ),
        (b"0000000000000001\r\nx\r\n000\r\n\r\n", b"x"),
        (b"1;a\r\nx\r\n0\r\n\r\n", b"x"),
        (b"1;a=b;c=\"d\\\" \t\xe9;\";e\r\nx\r\n0;f\r\n\r\n", b"x"),
        (b"1; a = b ;\tc\t; d=\"\"\r\nx\r\n0\r\n\r\n", b"x"),
        (b"1\r\nx\r\n0\r\nchecksum: 5\r\nX-Empty:\r\n\r\n", b"x"),
        (b"0\r\nhosts: a\r\nhos: \t\xe9 t\r\n\r\n", b""),
    ] {
        let mut more = bytes.to_vec();
        more.extend_from_slice(b"GET / HTTP/1.1\r\n");
        assert_eq!(decode(&more), Whole(data.to_vec(), bytes.len()));
        assert_eq!(reference(&more), Some((data.to_vec(), bytes.len())));
        for len in 0..bytes.len() {
            assert_eq!(
                decode_by(&bytes[..len], &[3]),
                Incomplete,
                "{len} of {bytes:?}"
            );
        }
    }
}

#[test]
fn malformed_bodies() {
    for bytes in [
        // The size: empty, with a sign, a prefix or white space, too large, cut by LF.
        &b"\r\n"[..],
        b"+1\r\n",
        b"-1\r\n",
        b"0x1\r\n",
        b"1x\r\n",
        b" 1\r\n",
        b"1 \r\n",
        b"1\t;a\r\n",
        b"1 ;a\r\n",
        b"g\r\n",
        b";a\r\n",
        b"10000000000000000\r\n",
        b"fffffffffffffffff",
        b"1_0\r\n",
        b"1\n",
        b"1\rx",
        b"\n",
        b"1\0\r\n",
        b"\xb2\r\n",
        b"1,1\r\n",
        // The extension.
        b"1;\r\n",
        b"1;;a\r\n",
        b"1;a;\r\n",
        b"1;a=\r\n",
        b"1;=a\r\n",
        b"1;a=b=c\r\n",
        b"1;a b\r\n",
        b"1;a \r\n",
        b"1;a=b \r\n",
        b"1; \r\n",
        b"1;a\n",
        b"1;a=\"b\r\n",
        b"1;a=\"b\"c\r\n",
        b"1;a=b\"c\"\r\n",
        b"1;a=\"\x01\"\r\n",
        b"1;a=\"\\\r\n",
        b"1;a=\"\n\"\r\n",
        b"1;\xe9\r\n",
        b"1;a=b c\r\n",
        b"1;a\0\r\n",
        b"1;a=\"\x7f\"\r\n",
        b"1;a=\"b\" \"c\"\r\n",
        b"1;a\rb\r\n",
        // What follows the data.
        b"1\r\nxx\r\n",
        b"1\r\nx\n",
        b"1\r\nx\rx",
        b"1\r\nx0\r\n",
        // Trailers.
        b"0\r\n a: b\r\n",
        b"0\r\na\r\n",
        b"0\r\na : b\r\n",
        b"0\r\n: b\r\n",
        b"0\r\na: b\n",
        b"0\r\na: \0\r\n",
        b"0\r\na: b\rc",
        b"0\r\na: b\r\n c\r\n",
        b"0\r\n\n",
        b"0\r\n\rx",
        b"0\r\na: \x7f\r\n",
        b"0\r\nContent-Length: 1\r\n",
        b"0\r\nTRANSFER-ENCODING: chunked\r\n",
        b"0\r\nhost:",
        b"0\r\na: b\r\nAuthorization: x\r\n",
        b"0\r\nTrailer: x\r\n",
        b"0\r\nx-hub-secret: x\r\n",
        b"0\r\ncontent-type:",
        b"0\r\nte:",
        b"0\r\naccess-control-request-method:",
    ] {
        assert_eq!(decode(bytes), Fault(400), "{}", bytes.escape_ascii());
        assert_eq!(reference(bytes), None);
    }
}

#[test]
fn limits_are_exact() {
    let line = |len: usize| {
        let mut bytes = b"0;".to_vec();
        bytes.resize(len - 2, b'a');
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    };
    assert_eq!(
        decode(&line(MAX_CHUNK_LINE)),
        Whole(vec![], MAX_CHUNK_LINE + 2)
    );
    assert_eq!(decode(&line(MAX_CHUNK_LINE + 1)), Fault(400));
    assert_eq!(
        decode(&[b'0'; MAX_CHUNK_LINE]),
        Fault(400),
        "without waiting for the end"
    );

    let trailer = |len: usize| {
        let mut bytes = b"0\r\na:".to_vec();
        bytes.resize(3 + len - 4, b'a');
        bytes.extend_from_slice(b"\r\n\r\n");
        bytes
    };
    assert_eq!(
        decode(&trailer(MAX_TRAILER)),
        Whole(vec![], 3 + MAX_TRAILER)
    );
    assert_eq!(decode(&trailer(MAX_TRAILER + 1)), Fault(431));
    assert_eq!(decode(&trailer(70_000)), Fault(431));

    let lines = |count| [b"0\r\n", b"a:\r\n".repeat(count).as_slice(), b"\r\n"].concat();
    assert!(matches!(decode(&lines(MAX_FIELDS)), Whole(..)));
    assert_eq!(decode(&lines(MAX_FIELDS + 1)), Fault(431));
    assert_eq!(decode(b"ffffffffffffffff\r\nx"), Incomplete);
    assert_eq!(decode(b"00000000000000001\r\n"), Fault(400));
    assert_eq!(decode(b"0fffffffffffffffff\r\nx"), Fault(400));
    assert_eq!(reference(&line(MAX_CHUNK_LINE + 1)), None);
    assert_eq!(reference(&trailer(MAX_TRAILER + 1)), None);
}

#[test]
fn extensions_are_bounded_over_the_whole_body() {
    // Each chunk line has 1 + 200 bytes of extension, of which the semicolon is not counted.
    let chunk = [b"1;", b"a".repeat(200).as_slice(), b"\r\nx\r\n"].concat();
    let within = MAX_CHUNK_EXTENSIONS / 200;
    let body = |chunks| [chunk.repeat(chunks).as_slice(), LAST_CHUNK].concat();
    assert!(matches!(decode_by(&body(within), &[7]), Whole(data, _) if data.len() == within));
    for size in [1, 7, 100_000] {
        assert_eq!(decode_by(&body(within + 1), &[size]), Fault(400));
    }
}

#[test]
fn many_calls_after_a_fault_do_not_overflow() {
    let mut decoder = ChunkDecoder::default();
    for _ in 0..70_000 {
        assert!(decoder.advance(b"x").is_err());
    }
    decoder.reset();
    assert_eq!(decoder.advance(LAST_CHUNK), Ok(ChunkStep::End(5)));
}

#[test]
fn what_is_encoded_is_decoded() {
    let mut random = random();
    for _ in 0..200 {
        let mut bytes = Vec::new();
        let mut data = Vec::new();
        for _ in 0..random.below(6) {
            let chunk: Vec<u8> = (0..1 + random.below(600))
                .map(|_| random.below(256) as u8)
                .collect();
            bytes.extend_from_slice(chunk_prefix(chunk.len()).as_bytes());
            bytes.extend_from_slice(&chunk);
            bytes.extend_from_slice(CHUNK_SUFFIX);
            data.extend_from_slice(&chunk);
        }
        bytes.extend_from_slice(LAST_CHUNK);
        let sizes: Vec<usize> = (0..5).map(|_| 1 + random.below(900)).collect();
        assert_eq!(decode_by(&bytes, &sizes), Whole(data, bytes.len()));
    }
    for len in [1, 15, 16, 255, 256, 4096, 65_536, usize::MAX] {
        assert_eq!(
            chunk_prefix(len).as_bytes(),
            format!("{len:x}\r\n").as_bytes()
        );
    }
}

#[test]
fn agrees_with_the_reference_on_random_bodies() {
    const PIECES: [&[u8]; 32] = [
        b"0\r\n",
        b"1\r\n",
        b"2\r\n",
        b"a\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"x",
        b"xy",
        b"0",
        b"1",
        b"f",
        b";",
        b";a",
        b"=",
        b"b",
        b"\"",
        b"\\",
        b" ",
        b"\t",
        b"\r",
        b"\n",
        b"\0",
        b"a: b\r\n",
        b"Host: h\r\n",
        b":",
        b"1;a=\"b\"\r\nx\r\n",
        b"3\r\nxyz\r\n",
        b"0\r\n\r\n",
        b"\xff",
        b"1\r\nx\r\n",
        b"0\r\na: b\r\n\r\n",
        b";c = d",
    ];
    let mut random = random();
    let mut whole = 0;
    for _ in 0..60_000 {
        let mut bytes = Vec::new();
        if random.below(2) == 0 {
            // Something valid, with at most one byte spoiled.
            for _ in 0..random.below(4) {
                bytes.extend_from_slice(random.pick(&[
                    b"3\r\nxyz\r\n",
                    b"1;a=\"b\"\r\nx\r\n",
                    b"2;q\r\nab\r\n",
                ]));
            }
            bytes.extend_from_slice(random.pick(&[b"0\r\n\r\n", b"0;z\r\na: b\r\nc:d\r\n\r\n"]));
            if random.below(2) == 0 {
                let at = random.below(bytes.len());
                let spoiled: &[u8] = random.pick(&PIECES);
                bytes.splice(at..at + random.below(2), spoiled.iter().copied());
            }
        } else {
            for _ in 0..random.below(9) {
                bytes.extend_from_slice(random.pick(&PIECES));
            }
        }
        let sizes = [1 + random.below(4), 1 + random.below(20)];
        let outcome = decode_by(&bytes, &sizes);
        let shown = bytes.escape_ascii();
        assert_eq!(decode_by(&bytes, &[1]), outcome, "{shown} by {sizes:?}");
        match reference(&bytes) {
            Some((data, len)) => {
                whole += 1;
                assert_eq!(outcome, Whole(data, len), "{shown}");
            }
            None => assert!(!matches!(outcome, Whole(..)), "{shown} gave {outcome:?}"),
        }
    }
    assert!(whole > 10_000, "the bodies are not all nonsense: {whole}");
}

#[test]
fn the_fuzz_corpus_passes() {
    crate::corpus::replay("chunked", super::naive::check);
}

#[test]
fn no_forbidden_field_comes_behind_a_body() {
    for name in FORBIDDEN {
        for name in [name.to_string(), name.to_uppercase()] {
            let body = format!("0\r\n{name}: x\r\n\r\n");
            assert_eq!(decode(body.as_bytes()), Fault(400), "{name}");
            // A longer name is another one.
            let other = format!("0\r\n{name}-x: x\r\n\r\n");
            assert_ne!(decode(other.as_bytes()), Fault(400), "{name}-x");
        }
    }
}

#[test]
fn what_is_all_there_is_decoded_in_place() {
    let whole = |bytes: &[u8], most: u64| {
        let mut bytes = bytes.to_vec();
        let decoded = decode_whole(&mut bytes, most)?;
        Some((
            bytes[..decoded.len].to_vec(),
            bytes[decoded.used..].to_vec(),
        ))
    };
    let some = |data: &[u8], rest: &[u8]| Some((data.to_vec(), rest.to_vec()));
    assert_eq!(whole(b"0\r\n\r\nGET", 0), some(b"", b"GET"));
    let body = b"3\r\nabc\r\n0A;x=y\r\n0123456789\r\n1\r\n!\r\n0\r\nt: v\r\n\r\nnext";
    assert_eq!(whole(body, 14), some(b"abc0123456789!", b"next"));
    assert_eq!(whole(body, 13), None);
    for len in 0..body.len() - 4 {
        let mut part = body[..len].to_vec();
        assert_eq!(decode_whole(&mut part, 100), None, "{len}");
        assert_eq!(part, body[..len], "nothing is changed");
    }
    assert_eq!(whole(b"1\r\nxx\r\n0\r\n\r\n", 100), None);
}
