//! The order of events where one worker takes the place of another, and the hub is late.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use support::Hub;
use support::ptrace::{Tracee, thread_named};
use support::push_worker::{self, Pushed};
use support::sse::Sse;

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    push_worker::run();
}

#[test]
fn events_of_a_successor_do_not_overtake_those_of_its_predecessor() {
    let hub = Hub::start();
    let _predecessor = push_worker::start(&hub);
    let mut stream = Sse::open(&hub, "/live/order");
    let push = |number: u32| {
        let pushed = Pushed {
            path: "/live/order".into(),
            data: number.to_string().into_bytes(),
            ..Pushed::default()
        };
        pushed.push(&hub);
    };
    push(1);
    assert_eq!(stream.next().data, "1");
    // The thread that has the streams gets no processor for a while, as on a machine with too much to do.
    let starved = thread_named(hub.process.pid(), "streams");
    let starved = Tracee::stop(starved).expect("a child can be traced");
    // The first is announced to it, what follows waits to be.
    (2..5).for_each(push);
    let _successor = push_worker::start(&hub);
    push(5);
    drop(starved);
    for number in 2..6 {
        assert_eq!(stream.next().data, number.to_string());
    }
}
