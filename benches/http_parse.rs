//! What the protocol code costs per message. Its floors: for a request head, `httparse` on the same
//! bytes, which finds the tokens and decides nothing; for a response head, copying a finished one; for
//! a chunked body, finding the end of each line.

#[path = "samples/browser.rs"]
mod browser;
#[path = "samples/heads.rs"]
mod heads;

use std::hint::black_box;
use std::mem::MaybeUninit;

use browser::BROWSER;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use heads::{SMALL, WORKER_FIELDS};
use slotway::http::{
    BodyFraming, ChunkDecoder, ChunkStep, HeadScanner, HeadStyle, LAST_CHUNK, PassedFields,
    chunk_prefix, encode_own_head, encode_worker_head, imf_fixdate, parse_head,
};
use slotway::limits::MAX_FIELDS;
use slotway::message::{RequestHead, Version};

fn request_heads(c: &mut Criterion) {
    for (name, head) in [("small", SMALL), ("browser", BROWSER)] {
        let bytes = head.as_bytes();
        let mut group = c.benchmark_group(format!("http_parse/request_head/{name}"));
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("scan_and_parse", |b| {
            let mut head = RequestHead::default();
            b.iter(|| {
                let bytes = black_box(bytes);
                let mut scanner = HeadScanner::default();
                let bounds = scanner.scan(bytes).unwrap().unwrap();
                parse_head(&bytes[bounds.start..bounds.end], &mut head).unwrap();
                black_box(&head);
            });
        });
        group.bench_function("scan", |b| {
            b.iter(|| HeadScanner::default().scan(black_box(bytes)));
        });
        group.bench_function("httparse_alone", |b| {
            b.iter(|| {
                let mut lines = [const { MaybeUninit::uninit() }; MAX_FIELDS];
                let mut request = httparse::Request::new(&mut []);
                let parsed = request.parse_with_uninit_headers(black_box(bytes), &mut lines);
                assert!(parsed.is_ok_and(|status| status.is_complete()));
                black_box(&request);
            });
        });
        group.finish();
    }
}

fn response_heads(c: &mut Criterion) {
    let date = imf_fixdate(784_111_777);
    let style = HeadStyle {
        version: Version::Http11,
        keep_alive: true,
        date: &date,
        cors: true,
    };
    let mut group = c.benchmark_group("http_parse/response_head");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::with_capacity(1024);
    for (name, sections) in [
        ("worker_3_fields", &WORKER_FIELDS[..]),
        ("worker_3_fields_again", &WORKER_FIELDS[..1]),
    ] {
        let mut passed = PassedFields::default();
        let mut sections = sections.iter().cycle();
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                let framing = BodyFraming::Length(black_box(1234));
                let fields = black_box(sections.next().unwrap_or(&"").as_bytes());
                let passed = &mut passed;
                encode_worker_head(&mut out, passed, black_box(200), fields, framing, &style)
                    .unwrap();
                black_box(&out);
            });
        });
    }
    group.bench_function("own_1_field", |b| {
        b.iter(|| {
            out.clear();
            let fields = [("content-type", "application/problem+json")];
            let framing = BodyFraming::Length(black_box(123));
            encode_own_head(&mut out, black_box(404), &fields, framing, &style);
            black_box(&out);
        });
    });
    let finished = {
        let mut passed = PassedFields::default();
        let fields = WORKER_FIELDS[0].as_bytes();
        let framing = BodyFraming::Length(1234);
        let mut head = Vec::new();
        encode_worker_head(&mut head, &mut passed, 200, fields, framing, &style).unwrap();
        head
    };
    group.bench_function("copy_alone", |b| {
        b.iter(|| {
            out.clear();
            out.extend_from_slice(black_box(&finished));
            black_box(&out);
        });
    });
    group.finish();

    let mut group = c.benchmark_group("http_parse/imf_fixdate");
    group.throughput(Throughput::Elements(1));
    group.bench_function("format", |b| {
        b.iter(|| imf_fixdate(black_box(1_900_000_000)))
    });
    group.bench_function("copy_alone", |b| {
        let date = imf_fixdate(1_900_000_000);
        b.iter(|| *black_box(&date));
    });
    group.finish();
}

fn chunked_bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("http_parse/chunked");
    for (name, chunk, count) in [("16_byte_chunks", 16, 256), ("16_kib_chunks", 16_384, 4)] {
        let mut body = Vec::new();
        for _ in 0..count {
            body.extend_from_slice(chunk_prefix(chunk).as_bytes());
            body.resize(body.len() + chunk, b'x');
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(LAST_CHUNK);
        group.throughput(Throughput::Elements(count));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut decoder = ChunkDecoder::default();
                let (mut at, mut data) = (0, 0);
                loop {
                    match decoder.advance(&black_box(&body[..])[at..]).unwrap() {
                        ChunkStep::Data(range) => {
                            at += range.end;
                            data += range.len();
                        }
                        ChunkStep::End(_) => break,
                        ChunkStep::NeedMore => unreachable!("the body is whole"),
                    }
                }
                assert_eq!(data, chunk * count as usize);
            });
        });
        group.bench_function(format!("{name}_line_ends"), |b| {
            b.iter(|| {
                let body = black_box(&body[..]);
                let mut at = 0;
                while let Some(end) = memchr::memchr(b'\n', &body[at..]) {
                    // The data and the end of its line; the last chunk has none.
                    at = body.len().min(at + end + 1 + chunk + 2);
                }
                at
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("http_parse/chunk_prefix");
    group.throughput(Throughput::Elements(1));
    group.bench_function("format", |b| b.iter(|| chunk_prefix(black_box(65_536))));
    group.bench_function("copy_alone", |b| {
        let mut out = Vec::new();
        let prefix = chunk_prefix(65_536);
        b.iter(|| {
            out.clear();
            out.extend_from_slice(black_box(prefix.as_bytes()));
            black_box(&out);
        });
    });
    group.finish();
}

criterion_group!(benches, request_heads, response_heads, chunked_bodies);
criterion_main!(benches);
