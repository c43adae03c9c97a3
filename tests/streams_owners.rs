//! Whose clients hear what a worker pushes: its own and those of its predecessors, never those of
//! another worker, wherever they are and whatever it knows of them.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use simd_json::json as value;
use simd_json::prelude::*;

use support::sse::{Sse, sse_push};
use support::stream_worker::{Job, Setup, StreamWorker};
use support::{Hub, json, stream_worker};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    stream_worker::run();
}

/// What a receipt says where there is no such path or connection.
const NOBODY: &str = "0 0 true false";

fn to_path(path: &str, first: u64) -> Job {
    Job {
        path: Some(path.into()),
        first,
        count: 1,
        ..Job::default()
    }
}

fn to_connection(id: &str, first: u64) -> Job {
    Job {
        connection: Some(id.into()),
        first,
        count: 1,
        ..Job::default()
    }
}

/// A worker that has no `/rooms/{room}`.
fn without_rooms(hub: &Hub, name: &str) -> StreamWorker {
    let mut setup = Setup::new(hub, name);
    setup.without_rooms = true;
    setup.start(hub)
}

#[track_caller]
fn assert_next(stream: &mut Sse, number: u64) {
    assert_eq!(stream.next().data, format!("{number} "));
}

#[test]
fn a_worker_reaches_no_client_of_another() {
    let hub = Hub::start();
    let owner = Setup::new(&hub, "owner").start(&hub);
    let other = without_rooms(&hub, "other");
    let mut room = Sse::open(&hub, "/rooms/7");
    let mut plain = Sse::open(&hub, "/plain/7");
    let ids: Vec<_> = owner.wait_connected(2).into_iter().map(|c| c.id).collect();
    // One path that it has no route for, and one whose route is the other's, which came first.
    for path in ["/rooms/7", "/plain/7", "/rooms/%37", "/rooms/nobody"] {
        assert_eq!(other.try_push(&hub, to_path(path, 1)), NOBODY, "{path}");
    }
    for id in &ids {
        assert_eq!(other.try_push(&hub, to_connection(id, 2)), NOBODY);
    }
    for (stream, path, id) in [
        (&mut room, "/rooms/7", &ids[0]),
        (&mut plain, "/plain/7", &ids[1]),
    ] {
        assert_eq!(owner.try_push(&hub, to_path(path, 3)), "1 0 false false");
        assert_eq!(
            owner.try_push(&hub, to_connection(id, 4)),
            "1 0 false false"
        );
        assert_next(stream, 3);
        assert_next(stream, 4);
        // Who may use the control paths reaches everybody.
        let answer = sse_push(&hub, value!({"path": path, "data": "5 "}));
        assert_eq!(json(&answer.body).get_u64("delivered"), Some(1));
        assert_next(stream, 5);
    }
}

#[test]
fn a_worker_leaves_nothing_in_the_history_of_another() {
    let hub = Hub::start();
    let owner = Setup::new(&hub, "owner").start(&hub);
    let other = without_rooms(&hub, "other");
    let mut stream = Sse::open(&hub, "/rooms/7");
    owner.wait_connected(1);
    owner.publish(&hub, to_path("/rooms/7", 1));
    let seen = stream.next();
    drop(stream);
    owner.wait_disconnected(1);
    assert_eq!(other.try_push(&hub, to_path("/rooms/7", 2)), NOBODY);
    // Nobody is there, but it is remembered.
    assert_eq!(
        owner.try_push(&hub, to_path("/rooms/7", 3)),
        "0 0 false false"
    );
    let id = seen.id.expect("the hub numbers the events of this route");
    let mut stream = Sse::with(&hub, "/rooms/7", &format!("Last-Event-ID: {id}\r\n"));
    assert_next(&mut stream, 3);
    owner.publish(&hub, to_path("/rooms/7", 4));
    assert_next(&mut stream, 4);
}

#[test]
fn who_takes_a_route_over_does_not_take_the_clients_over() {
    let hub = Hub::start();
    let owner = Setup::new(&hub, "owner").start(&hub);
    let other = Setup::new(&hub, "other").start(&hub);
    let mut first = Sse::open(&hub, "/rooms/7");
    let first_id = owner.wait_connected(1).remove(0).id;
    // The route goes to the other worker; the client that is there waits for its own.
    let mut killed = owner.process;
    killed.signal("KILL");
    killed.wait();
    support::wait_until("its routes lead elsewhere", || {
        hub.health_of("owner")
            .is_some_and(|w| w.get_str("state") == Some("gone"))
    });
    let mut second = Sse::open(&hub, "/rooms/7");
    let second_id = other.wait_connected(1).remove(0).id;
    assert_eq!(
        other.try_push(&hub, to_path("/rooms/7", 1)),
        "1 0 false false"
    );
    assert_eq!(other.try_push(&hub, to_connection(&first_id, 2)), NOBODY);
    assert_next(&mut second, 1);
    // A successor reaches what its predecessor has left, also before it has said that it takes it.
    let mut setup = Setup::new(&hub, "owner");
    setup.holds_inherited = true;
    let owner = setup.start(&hub);
    owner.wait_connected(1);
    assert_eq!(
        owner.try_push(&hub, to_path("/rooms/7", 3)),
        "1 0 false false"
    );
    assert_eq!(
        owner.try_push(&hub, to_connection(&first_id, 4)),
        "1 0 false false"
    );
    assert_eq!(owner.try_push(&hub, to_connection(&second_id, 5)), NOBODY);
    assert_next(&mut first, 3);
    assert_next(&mut first, 4);
    // The route is its own again: what the other still sends to its clients is no part of the history.
    other.publish(&hub, to_path("/rooms/7", 6));
    let seen = second.next();
    assert_eq!(seen.data, "6 ");
    owner.release(&hub);
    owner.publish(&hub, to_path("/rooms/7", 7));
    let seen = first.next();
    assert_eq!(seen.data, "7 ");
    drop(first);
    owner.wait_disconnected(1);
    let since = "Last-Event-ID: 00000000-0\r\n";
    let mut back = Sse::with(&hub, "/rooms/7", since);
    assert_eq!(back.next().event, "sse_gap");
    for number in [1, 3, 7] {
        assert_next(&mut back, number);
    }
}
