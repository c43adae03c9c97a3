//! What an event costs before the socket: once to serialise it, then for each subscriber to queue it
//! and to fill a buffer. Copying the same bytes is the floor.

use std::hint::black_box;
use std::rc::Rc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slotway::limits::{DEFAULT_QUEUE_EVENTS, MAX_QUEUE_BYTES};
use slotway::sse::{Event, EventId, Frame, Pushed, Queue, QueueLimits, SlowPolicy};

/// As many as the fan-out is to serve, so that the queues do not fit the nearest caches.
const SUBSCRIBERS: usize = 10_000;

const LIMITS: QueueLimits = QueueLimits {
    events: DEFAULT_QUEUE_EVENTS,
    bytes: MAX_QUEUE_BYTES,
};

const ID: EventId = EventId {
    epoch: 0x1234_5678,
    sequence: 1_234_567,
};

fn event(data: &[u8]) -> Event<'_> {
    Event {
        name: Some("tick"),
        data,
        ..Event::default()
    }
}

fn serialise(c: &mut Criterion) {
    let line = b"what a line of text may look like in a log, or what an object may be\n";
    for (name, data) in [
        ("small", br#"{"price":1234,"at":1700000000}"#.to_vec()),
        ("4_kib_of_lines", line.repeat(60)),
        ("64_kib_one_line", vec![b'x'; 65_536]),
    ] {
        let event = event(&data);
        event.check().unwrap();
        let mut group = c.benchmark_group(format!("sse_frame/{name}"));
        let text = Frame::event(&event, Some(ID)).chunked().to_vec();
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("serialise", |b| {
            b.iter(|| Frame::event(black_box(&event), Some(ID)));
        });
        group.bench_function("check", |b| b.iter(|| black_box(&event).check()));
        group.bench_function("copy_alone", |b| {
            b.iter(|| Box::<[u8]>::from(black_box(&text[..])));
        });
        group.finish();
    }
}

/// One small event to each subscriber.
fn fan_out(c: &mut Criterion) {
    let frame = Frame::event(&event(br#"{"price":1234,"at":1700000000}"#), Some(ID));
    let mut out = vec![0; 16 * 1024];
    let mut group = c.benchmark_group("sse_frame/fan_out");
    group.throughput(Throughput::Elements(SUBSCRIBERS as u64));
    let queues = |policy| -> Vec<Queue> {
        let queue = || Queue::new(LIMITS, policy, true);
        (0..SUBSCRIBERS).map(|_| queue()).collect()
    };
    group.bench_function("push_and_fill", |b| {
        let mut queues = queues(SlowPolicy::DropNewest);
        b.iter(|| {
            for queue in &mut queues {
                assert_eq!(queue.push(&frame), Pushed::Queued);
                black_box(queue.fill(&mut out));
            }
        });
    });
    group.bench_function("push_all_then_fill_all", |b| {
        let mut queues = queues(SlowPolicy::DropNewest);
        b.iter(|| {
            for queue in &mut queues {
                assert_eq!(queue.push(&frame), Pushed::Queued);
            }
            for queue in &mut queues {
                black_box(queue.fill(&mut out));
            }
        });
    });
    group.bench_function("push_8_and_fill", |b| {
        let mut queues = queues(SlowPolicy::DropNewest);
        b.iter(|| {
            for queue in &mut queues {
                for _ in 0..8 {
                    assert_eq!(queue.push(&frame), Pushed::Queued);
                }
                black_box(queue.fill(&mut out));
            }
        });
    });
    for (name, policy) in [
        ("push_stuck_drop_newest", SlowPolicy::DropNewest),
        ("push_stuck_drop_oldest", SlowPolicy::DropOldest),
    ] {
        group.bench_function(name, |b| {
            let mut queues = queues(policy);
            for queue in &mut queues {
                while queue.push(&frame) == Pushed::Queued {}
            }
            b.iter(|| {
                for queue in &mut queues {
                    assert_ne!(queue.push(black_box(&frame)), Pushed::Queued);
                }
            });
        });
    }
    group.bench_function("copy_alone", |b| {
        let text = frame.chunked();
        b.iter(|| {
            for _ in 0..SUBSCRIBERS {
                out[..text.len()].copy_from_slice(black_box(text));
                black_box(&mut out);
            }
        });
    });
    group.bench_function("clone_alone", |b| {
        let mut kept: Vec<Option<Rc<Frame>>> = vec![None; SUBSCRIBERS];
        b.iter(|| {
            for place in &mut kept {
                *place = Some(Rc::clone(&frame));
            }
            black_box(&mut kept);
        });
    });
    group.finish();
}

criterion_group!(benches, serialise, fan_out);
criterion_main!(benches);
