//! What it costs to put a parsed request head into a slot and to take it out again. `memcpy` of the
//! same bytes is the floor; `postcard`, a compact serde format, on the same data is the peer.

#[path = "samples/browser.rs"]
mod browser;

use std::hint::black_box;
use std::net::SocketAddr;

use browser::BROWSER;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::{Deserialize, Serialize};
use slotway::http::parse_head;
use slotway::message::{Method, Params, RequestHead, Span};
use slotway::shm::codec::{
    LifecycleFlags, MAX_ENCODED_REQUEST, RequestParts, decode_request, encode_request,
    encoded_request_len,
};

/// The head for serde. Text is borrowed in both directions, which spares postcard a copy of
/// each value; only the two lists are allocated.
#[derive(Serialize, Deserialize)]
struct Message<'a> {
    route: u32,
    method: u8,
    version: u8,
    peer: Option<SocketAddr>,
    target: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    #[serde(borrow)]
    params: Vec<&'a str>,
    #[serde(borrow)]
    fields: Vec<(&'a str, &'a str)>,
}

fn browser_head(c: &mut Criterion) {
    let mut head = RequestHead::default();
    parse_head(BROWSER.as_bytes(), &mut head).unwrap();
    let mut params = Params::default();
    params.push(Span::new(BROWSER.find("1234").unwrap(), 4));
    let peer = Some(SocketAddr::from(([127, 0, 0, 1], 50_000)));
    let parts = RequestParts {
        route: 7,
        head: &head,
        params: &params,
        raw: BROWSER.as_bytes(),
        peer,
        lifecycle: LifecycleFlags::None,
    };
    let text = |span: Span| &BROWSER[span.range()];
    let message = || Message {
        route: 7,
        method: head.method as u8,
        version: head.version as u8,
        peer,
        target: text(head.target),
        path: text(head.path),
        query: head.query.map(text),
        params: params.as_slice().iter().map(|span| text(*span)).collect(),
        fields: head
            .fields()
            .iter()
            .map(|field| (text(field.name), text(field.value)))
            .collect(),
    };
    let mut slot = vec![0; MAX_ENCODED_REQUEST];
    let mut other = vec![0; MAX_ENCODED_REQUEST];
    let len = encode_request(&mut slot, &parts).unwrap();
    assert_eq!(len, encoded_request_len(&parts));
    let message_len = postcard::to_slice(&message(), &mut other).unwrap().len();

    let mut group = c.benchmark_group("slot_codec/browser");
    group.throughput(Throughput::Bytes(BROWSER.len() as u64));
    group.bench_function("encode", |b| {
        b.iter(|| encode_request(black_box(&mut slot), black_box(&parts)));
    });
    group.bench_function("decode", |b| {
        b.iter(|| see_all(black_box(&slot[..len])));
    });
    group.bench_function("encode_and_decode", |b| {
        b.iter(|| {
            let len = encode_request(black_box(&mut slot), black_box(&parts)).unwrap();
            see_all(black_box(&slot[..len]))
        });
    });
    group.bench_function("postcard_encode", |b| {
        b.iter(|| {
            let used = postcard::to_slice(black_box(&message()), black_box(&mut other));
            used.unwrap().len()
        });
    });
    group.bench_function("postcard_decode", |b| {
        b.iter(|| see_all_of_postcard(black_box(&other[..message_len])));
    });
    group.bench_function("postcard_encode_and_decode", |b| {
        b.iter(|| {
            let used = postcard::to_slice(black_box(&message()), black_box(&mut other));
            let len = used.unwrap().len();
            see_all_of_postcard(black_box(&other[..len]))
        });
    });
    group.bench_function("memcpy", |b| {
        b.iter(|| {
            let from = black_box(BROWSER.as_bytes());
            black_box(&mut slot)[..from.len()].copy_from_slice(from);
        });
    });
    group.finish();
}

/// Decodes and looks at every part once, as a worker that needs them all would.
fn see_all(bytes: &[u8]) -> usize {
    let view = decode_request(bytes).unwrap();
    let fields = view.fields().map(|(name, value)| name.len() + value.len());
    let params = view.params().map(<[u8]>::len);
    assert_eq!(view.method(), Method::Get);
    black_box(view.peer());
    view.path().len()
        + view.query().map_or(0, <[u8]>::len)
        + fields.sum::<usize>()
        + params.sum::<usize>()
}

fn see_all_of_postcard(bytes: &[u8]) -> usize {
    let message: Message<'_> = postcard::from_bytes(bytes).unwrap();
    let fields = message
        .fields
        .iter()
        .map(|(name, value)| name.len() + value.len());
    let params = message.params.iter().map(|param| param.len());
    assert_eq!(message.method, 0);
    black_box(message.peer);
    message.path.len()
        + message.query.map_or(0, str::len)
        + fields.sum::<usize>()
        + params.sum::<usize>()
}

criterion_group!(benches, browser_head);
criterion_main!(benches);
