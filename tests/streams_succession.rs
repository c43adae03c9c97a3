//! Events where the hub is late: when one worker takes the place of another, and when the hub stops.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::ops::Range;

use support::Hub;
use support::ptrace::{Tracee, thread_named};
use support::push_worker::{self, Pushed};
use support::sse::Sse;

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    push_worker::run();
}

fn push(hub: &Hub, number: u32) {
    let pushed = Pushed {
        path: "/live/order".into(),
        data: number.to_string().into_bytes(),
        ..Pushed::default()
    };
    pushed.push(hub);
}

/// A client of the path who has heard the first event.
fn listen(hub: &Hub) -> Sse {
    let mut stream = Sse::open(hub, "/live/order");
    push(hub, 1);
    assert_heard(&mut stream, 1..2);
    stream
}

fn assert_heard(stream: &mut Sse, numbers: Range<u32>) {
    for number in numbers {
        assert_eq!(stream.next().data, number.to_string());
    }
}

/// The thread that has the streams gets no processor until this is dropped, as on a machine with too much
/// to do.
fn starve(hub: &Hub) -> Tracee {
    let thread = thread_named(hub.process.pid(), "streams");
    Tracee::stop(thread).expect("a child can be traced")
}

#[test]
fn events_of_a_successor_do_not_overtake_those_of_its_predecessor() {
    let hub = Hub::start();
    let _predecessor = push_worker::start(&hub);
    let mut stream = listen(&hub);
    let starved = starve(&hub);
    // The first is announced to the thread, what follows waits to be.
    (2..5).for_each(|number| push(&hub, number));
    let _successor = push_worker::start(&hub);
    push(&hub, 5);
    drop(starved);
    assert_heard(&mut stream, 2..6);
}

#[test]
fn what_waits_to_be_announced_is_still_sent_when_the_hub_stops() {
    let mut hub = Hub::start();
    let _worker = push_worker::start(&hub);
    let mut stream = listen(&hub);
    let starved = starve(&hub);
    (2..5).for_each(|number| push(&hub, number));
    hub.process.signal("TERM");
    support::wait_until("it is told", || hub.process.stderr.contains("stopping"));
    drop(starved);
    assert_heard(&mut stream, 2..5);
    assert_eq!(hub.process.wait().code(), Some(0));
}
