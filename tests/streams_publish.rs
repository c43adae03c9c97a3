//! Publishing through the lane: nothing is lost to clients that keep up, however fast it comes, and
//! everything arrives in the order of the calls.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::time::Instant;

use support::sse::{Message, Sse, stream_count};
use support::stream_worker::{Job, Setup, StreamWorker};
use support::{Hub, HubOptions, stream_worker};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    stream_worker::run();
}

fn start(hub: &Hub, asynchronous: bool) -> StreamWorker {
    let mut setup = Setup::new(hub, "streams");
    setup.asynchronous = asynchronous;
    setup.start(hub)
}

/// Publishes while this many clients read as fast as they can; each must get everything in order.
fn nothing_is_lost(hub: &Hub, worker: &StreamWorker, readers: usize, job: &Job) {
    let path = job.path.clone();
    let at = path.as_deref().unwrap_or("/events");
    let streams: Vec<Sse> = (0..readers).map(|_| Sse::open(hub, at)).collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let readers: Vec<_> = streams
            .into_iter()
            .map(|mut stream| {
                scope.spawn(move || {
                    let mut before: Option<Message> = None;
                    for number in job.first..job.first + job.count {
                        let message = stream.next();
                        assert_eq!(message.event, "tick", "{message:?}");
                        assert_eq!(message.number(), number);
                        if let Some(before) = before.filter(|_| message.id.is_some()) {
                            assert_eq!(before.sequence() + 1, message.sequence());
                        }
                        before = Some(message);
                    }
                })
            })
            .collect();
        worker.publish(hub, job.clone());
        println!(
            "{} events published in {:?} (batches of {})",
            job.count,
            start.elapsed(),
            job.batch
        );
        readers.into_iter().for_each(|r| r.join().unwrap());
    });
    assert_eq!(stream_count(hub, "dropped"), 0);
}

fn a_hundred_thousand(asynchronous: bool) {
    let hub = Hub::start();
    let worker = start(&hub, asynchronous);
    let job = |path: Option<&str>, count, batch| Job {
        path: path.map(String::from),
        count,
        batch,
        size: 40,
        ..Job::default()
    };
    nothing_is_lost(&hub, &worker, 1, &job(Some("/rooms/1"), 100_000, 1_000));
    nothing_is_lost(&hub, &worker, 2, &job(Some("/rooms/2"), 20_000, 0));
    nothing_is_lost(&hub, &worker, 2, &job(None, 20_000, 0));
}

#[test]
fn a_fast_reader_gets_everything_from_a_worker_woken_by_futex() {
    a_hundred_thousand(false);
}

#[test]
fn a_fast_reader_gets_everything_from_a_worker_woken_by_eventfd() {
    a_hundred_thousand(true);
}

#[test]
fn a_queue_that_is_smaller_than_a_burst_loses_nothing_to_who_reads() {
    let hub = HubOptions::new().args(["--sse-queue", "4"]).start();
    let worker = start(&hub, false);
    let job = |path: &str, count, batch, size| Job {
        path: Some(path.into()),
        count,
        batch,
        size,
        ..Job::default()
    };
    nothing_is_lost(&hub, &worker, 1, &job("/rooms/1", 5_000, 500, 40));
    // By bytes it is small for these, whatever the number.
    let hub = Hub::start();
    let worker = start(&hub, false);
    nothing_is_lost(&hub, &worker, 1, &job("/rooms/1", 10, 5, 250_000));
}

#[test]
fn the_smallest_lane_is_enough() {
    let hub = HubOptions::new().args(["--slots", "16"]).start();
    let worker = start(&hub, false);
    let mut stream = Sse::open(&hub, "/rooms/1");
    let job = Job {
        path: Some("/rooms/1".into()),
        count: 5_000,
        size: 200,
        ..Job::default()
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..5_000 {
                assert_eq!(stream.next().number(), number);
            }
        });
        // What was taken reached the client, and nothing was dropped.
        assert_eq!(worker.job(&hub, "flood", job), "5000 5000 0");
    });
    let nobody = Job {
        path: Some("/plain/1".into()),
        ..Job::default()
    };
    assert_eq!(worker.try_push(&hub, nobody), "0 0 true false");
    // Longer than its share of the lane.
    let large = Job {
        path: Some("/rooms/1".into()),
        size: 64 * 1024,
        ..Job::default()
    };
    let refused = worker.try_push(&hub, large);
    assert!(refused.starts_with("TooLong"), "{refused}");
}

#[test]
fn the_order_of_calls_is_kept_whatever_the_method() {
    let hub = Hub::start();
    let worker = start(&hub, false);
    let mut stream = Sse::open(&hub, "/plain/1");
    let connected = worker.wait_connected(1).pop().unwrap();
    let job = Job {
        path: Some("/plain/1".into()),
        connection: Some(connected.id),
        count: 20_000,
        ..Job::default()
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..20_000 {
                assert_eq!(stream.next().number(), number);
            }
        });
        assert_eq!(worker.job(&hub, "mixed", job), "published");
    });
    assert_eq!(stream_count(&hub, "dropped"), 0);
}
