//! What a worker that pushes events to a client can reach: through its lane, one by one and in
//! batches, and by HTTP POST on a connection that stays open, which is the floor to compare with.
//! An event counts when the client has it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slotway::hub::{ClientLimits, HubConfig, RunningHub, StreamConfig, start};
use slotway::limits::{DEFAULT_HISTORY_EVENTS, DEFAULT_QUEUE_EVENTS};
use slotway::shm::layout::Geometry;
use slotway::sse::SlowPolicy;
use slotway::worker::{Event, Events, SseRoute, Target, Worker};

const PATH: &str = "/bench/1";
const DATA: &str = "0123456789012345678901234567890123456789012345678901234567890123";

fn hub() -> RunningHub {
    let directory = std::env::temp_dir().join(format!("slotway-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    start(HubConfig {
        tcp: vec!["127.0.0.1:0".parse().unwrap()],
        unix: Vec::new(),
        socket: Some(directory.join("hub.sock")),
        geometry: Geometry::new(512, 4096).unwrap(),
        shards: 1,
        timeout_ms: 30_000,
        startup_grace_ms: 0,
        secret: None,
        instrumentation: false,
        clients: ClientLimits::default(),
        max_connections: None,
        streams: StreamConfig {
            history_events: DEFAULT_HISTORY_EVENTS,
            queue_events: DEFAULT_QUEUE_EVENTS,
            slow: SlowPolicy::DropNewest,
            heartbeat_ms: 15_000,
            write_timeout_ms: 30_000,
            sweep_interval_ms: 5_000,
            orphan_timeout_ms: 60_000,
        },
        ping_interval_ms: 10_000,
        ping_timeout_ms: 2_000,
        remember_ms: 60_000,
        evicted_pause_ms: 1_000,
    })
    .unwrap()
}

/// A client that counts the events it gets.
fn listen(address: SocketAddr) -> Arc<AtomicU64> {
    let received = Arc::new(AtomicU64::new(0));
    let mut client = TcpStream::connect(address).unwrap();
    write!(client, "GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let (counter, (ready, is_ready)) = (received.clone(), std::sync::mpsc::channel());
    thread::spawn(move || {
        let (mut bytes, mut held) = (vec![0; 1 << 20], 0);
        while let Ok(count @ 1..) = client.read(&mut bytes[held..]) {
            let _ = ready.send(());
            let end = held + count;
            let found = memchr::memmem::find_iter(&bytes[..end], b"\ndata: ").count();
            counter.fetch_add(found as u64, Ordering::Release);
            // What may be the beginning of the next mark is looked at again.
            let keep = b"\ndata:".len().min(end);
            bytes.copy_within(end - keep..end, 0);
            held = keep;
        }
    });
    is_ready.recv().unwrap();
    received
}

fn wait_for(received: &AtomicU64, events: u64) {
    let start = Instant::now();
    while received.load(Ordering::Acquire) < events {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "an event was lost"
        );
        thread::yield_now();
    }
}

fn event() -> Event {
    Event::new(DATA).event("tick")
}

fn post(connection: &mut TcpStream, request: &[u8], answer: &mut [u8]) {
    connection.write_all(request).unwrap();
    let count = connection.read(answer).unwrap();
    assert!(
        answer[..count].starts_with(b"HTTP/1.1 200"),
        "{}",
        answer[..count].escape_ascii()
    );
}

fn publish(c: &mut Criterion) {
    let hub = hub();
    let (address, stopper) = (hub.tcp[0], hub.stopper().unwrap());
    let worker = Worker::new("bench")
        .sse_route("/bench/{id}", SseRoute::new())
        .socket(&hub.socket)
        .handle_signals(false)
        .threads(1);
    let (events, handle): (Events, _) = (worker.events(), worker.handle());
    let working = thread::spawn(move || worker.run());
    assert!(hub.wait_for_worker(std::process::id(), Duration::from_secs(10)));
    let received = listen(address);
    let mut sent = 0;

    let mut group = c.benchmark_group("sse_publish");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    group.bench_function("lane_push", |b| {
        b.iter_custom(|iters| {
            let start = Instant::now();
            for _ in 0..iters {
                events.push(Target::path(PATH), event()).unwrap();
            }
            sent += iters;
            wait_for(&received, sent);
            start.elapsed()
        });
    });
    group.bench_function("lane_push_all", |b| {
        b.iter_custom(|iters| {
            let start = Instant::now();
            let all = (0..iters).map(|_| (Target::path(PATH), event()));
            events.push_all(all).unwrap();
            sent += iters;
            wait_for(&received, sent);
            start.elapsed()
        });
    });
    let body = format!(r#"{{"path":"{PATH}","event_type":"tick","data":"{DATA}"}}"#);
    let request = format!(
        "POST /internal/sse-push HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_nodelay(true).unwrap();
    let mut answer = [0; 4096];
    group.bench_function("http_post", |b| {
        b.iter_custom(|iters| {
            let start = Instant::now();
            for _ in 0..iters {
                post(&mut connection, request.as_bytes(), &mut answer);
            }
            sent += iters;
            wait_for(&received, sent);
            start.elapsed()
        });
    });
    group.finish();
    handle.stop();
    working.join().unwrap().unwrap();
    (&stopper).write_all(b"x").unwrap();
    let directory = hub.socket.parent().map(std::path::Path::to_path_buf);
    hub.wait().unwrap();
    let _ = directory.map(std::fs::remove_dir);
}

criterion_group!(benches, publish);
criterion_main!(benches);
