//! Publishing: what reaches the hub, in which order, and what happens when it does not take it.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::hub::{Ask, EventPart, GUARD, HubLane, OwnedEvent};
use super::{Bench, geometry, noise, quiet};
use crate::limits::{MAX_EVENT, MAX_EVENT_NAME};
use crate::message::Method;
use crate::shm::descriptor::{CLOSING, NO_CONNECTION, REFUSED};
use crate::shm::region::Word;
use crate::worker::session::Sleep;
use crate::worker::{Delivery, Event, EventFault, Events, PublishError, Request, Target, Worker};

const ROOM: &str = "/rooms/7";

fn room() -> Target {
    Target::path(ROOM)
}

fn numbered(number: u32) -> Event {
    Event::new(number.to_string())
}

/// A worker that answers GET on route 0.
fn answering() -> Worker {
    quiet("w").route("GET", "/", |_| "here")
}

fn get() -> Ask<'static> {
    Ask::new(Method::Get, "/", 0)
}

fn run_polling(worker: Worker) -> Result<(), crate::worker::Error> {
    let (settings, service) = worker.prepare()?;
    crate::worker::blocking::run_with(&settings, &service, Sleep::Poll)
}

/// The same worker, in each way to sleep, each with how it is run named.
fn in_every_mode(
    lanes: usize,
    slots: u32,
    worker: fn() -> Worker,
    mut check: impl FnMut(Bench, Events),
) {
    let mut one = |name: &str, run: fn(Worker) -> Result<(), crate::worker::Error>| {
        println!("{name}");
        let worker = worker();
        let events = worker.events();
        check(
            Bench::start_with(lanes, geometry(slots), worker, run),
            events,
        );
    };
    one("futex", Worker::run);
    one("poll", run_polling);
    #[cfg(feature = "tokio")]
    one("event loop", |worker| {
        ::tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(worker.run_async())
    });
}

fn number_of(event: &OwnedEvent) -> u32 {
    std::str::from_utf8(&event.data).unwrap().parse().unwrap()
}

/// Takes this many events, returning each frame at once.
fn take(lane: &mut HubLane, count: usize) -> Vec<OwnedEvent> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let EventPart { run, records } = lane.next_events();
        taken.extend(records);
        lane.return_events(run, (1, 0, 0));
    }
    assert_eq!(taken.len(), count);
    taken
}

#[test]
fn events_arrive_as_they_were_said() {
    in_every_mode(2, 64, answering, |mut bench, events| {
        let lane = &mut bench.attached.lanes[0];
        events.emit("tick", "one\r\ntwo \u{e4}").unwrap();
        let full = Event::new(vec![0, 13, 10, 255])
            .event("said")
            .id("41")
            .retry(Duration::from_micros(2_500_999));
        events.push(room(), full).unwrap();
        let target = Target::route("/rooms/{room}", [("room", "a b")]);
        events.push(target, Event::new("").id("")).unwrap();
        events
            .push(Target::connection("c-1"), Event::new("x"))
            .unwrap();
        let event = |target: &str, name: &str, data: &[u8]| OwnedEvent {
            target: target.into(),
            name: name.into(),
            id: None,
            retry_ms: None,
            data: data.into(),
        };
        let expected = [
            event("*", "tick", "one\r\ntwo \u{e4}".as_bytes()),
            OwnedEvent {
                id: Some("41".into()),
                retry_ms: Some(2500),
                ..event(ROOM, "said", &[0, 13, 10, 255])
            },
            OwnedEvent {
                id: Some(String::new()),
                ..event("/rooms/a%20b", "", b"")
            },
            event("#c-1", "", b"x"),
        ];
        assert_eq!(take(lane, 4), expected);
        assert_eq!(lane.event_slots(), 0);
        assert!(bench.attached.lanes[1].poll_events().is_none());
    });
}

#[test]
fn many_go_in_few_frames() {
    in_every_mode(1, 64, answering, |mut bench, events| {
        let lane = &mut bench.attached.lanes[0];
        let sender = thread::spawn(move || {
            let sizes = (0..3000).map(|number| number * 7 % 300);
            let all = sizes.map(|size| (room(), Event::new(noise(1, 0, size))));
            events.push_all(all)
        });
        let (mut taken, mut frames) = (0, 0);
        while taken < 3000 {
            let part = lane.next_events();
            for event in &part.records {
                assert_eq!(event.data.len(), taken * 7 % 300);
                assert!(event.data == noise(1, 0, event.data.len()));
                taken += 1;
            }
            frames += 1;
            lane.return_events(part.run, (0, 0, 0));
        }
        sender.join().unwrap().unwrap();
        // 3000 records of 182 bytes on average, in frames of half of the share of 16 slots.
        assert!((17..40).contains(&frames), "{frames} frames");
    });
}

#[test]
fn what_is_wrong_is_refused_before_anything_is_sent() {
    let worker = answering();
    let events = worker.events();
    let wrong = |event: Event| events.push(room(), event).unwrap_err();
    use EventFault::*;
    use PublishError::Invalid;
    assert_eq!(
        wrong(Event::new("").event("a\nb")),
        Invalid(NameWithNewline)
    );
    assert_eq!(
        wrong(Event::new("").event("a\rb")),
        Invalid(NameWithNewline)
    );
    assert_eq!(wrong(Event::new("").id("a\rb")), Invalid(IdWithNewline));
    assert_eq!(wrong(Event::new("").id("a\0b")), Invalid(IdWithNul));
    let long = "n".repeat(MAX_EVENT_NAME + 1);
    assert_eq!(
        wrong(Event::new("").event(&long)),
        Invalid(NameTooLong(long.len()))
    );
    assert_eq!(
        wrong(Event::new(vec![0; MAX_EVENT + 1])),
        Invalid(DataTooLong(MAX_EVENT + 1))
    );
    // Each of them is a line, and a line takes seven bytes.
    let fault = wrong(Event::new("\n".repeat(100_000)));
    assert!(matches!(fault, Invalid(TextTooLong(700_000..))), "{fault}");
    assert_eq!(events.emit("a\nb", ""), Err(Invalid(NameWithNewline)));
    let nowhere = events.push(Target::path("rooms"), Event::new(""));
    assert!(matches!(nowhere, Err(PublishError::Target(_))));
    // All this without a hub; the first to need one says so.
    assert_eq!(
        events.try_push(room(), Event::new("x")).unwrap_err(),
        PublishError::NotAttached
    );
    let batch = [
        (room(), Event::new("good")),
        (room(), Event::new("").event("a\nb")),
    ];

    let mut bench = Bench::start(1, geometry(64), worker);
    assert_eq!(events.push_all(batch), Err(Invalid(NameWithNewline)));
    let limit = 16 * 4096;
    assert_eq!(
        events.push(room(), Event::new(vec![b'a'; limit])),
        Err(PublishError::TooLong {
            len: limit + 24 + ROOM.len(),
            limit
        })
    );
    let most = limit - 24 - ROOM.len();
    events.push(room(), Event::new(vec![b'a'; most])).unwrap();
    let lane = &mut bench.attached.lanes[0];
    let part = lane.next_events();
    assert_eq!((part.run.slots, part.records[0].data.len()), (16, most));
    assert!(lane.poll_events().is_none(), "nothing else was sent");
}

#[test]
fn a_hub_that_takes_nothing_slows_publishers_down_and_nobody_else() {
    in_every_mode(2, 64, answering, |mut bench, events| {
        let (sent, count) = channel();
        let sender = thread::spawn(move || {
            for number in 0..100 {
                events.push(room(), numbered(number)).unwrap();
                sent.send(number).unwrap();
            }
        });
        let lane = &mut bench.attached.lanes[0];
        let held: Vec<_> = (0..16).map(|_| lane.next_events()).collect();
        for number in 0..16 {
            assert_eq!(count.recv_timeout(GUARD), Ok(number));
        }
        // The seventeenth waits; requests are answered in both lanes.
        for _ in 0..30 {
            for lane in &mut bench.attached.lanes {
                assert_eq!(lane.round(&get(), b"").body, b"here");
            }
        }
        assert!(count.try_recv().is_err());
        let lane = &mut bench.attached.lanes[0];
        assert!(lane.poll_events().is_none());
        assert_eq!(lane.event_slots(), 16);
        for (number, part) in held.into_iter().enumerate() {
            assert_eq!(number_of(&part.records[0]), number as u32);
            lane.return_events(part.run, (0, 0, 0));
        }
        let rest = take(lane, 84);
        assert!(rest.iter().map(number_of).eq(16..100));
        sender.join().unwrap();
        let starved = lane.memory.peer_word(Word::Starved);
        while starved.load(std::sync::atomic::Ordering::Relaxed) != 0 {
            thread::yield_now();
        }
    });
}

#[test]
fn a_handler_that_publishes_waits_on_the_only_thread() {
    let worker = quiet("w").threads(1).route("GET", "/many", |req: Request| {
        let events = req.events();
        (0..200).try_for_each(|number| events.push(room(), numbered(number)))?;
        Ok::<_, PublishError>("sent")
    });
    let mut bench = Bench::start(1, geometry(16), worker);
    let lane = &mut bench.attached.lanes[0];
    let id = lane.ask(&Ask::new(Method::Get, "/many", 0), b"");
    let first: Vec<_> = (0..4).map(|_| lane.next_events()).collect();
    // The thread that waits takes the ping, too.
    lane.ping(7);
    while lane.pongs.is_empty() {
        lane.wait();
    }
    for part in first {
        lane.return_events(part.run, (0, 0, 0));
    }
    assert!(take(lane, 196).iter().map(number_of).eq(4..200));
    assert_eq!(lane.reply(id).body, b"sent");
    lane.settle();
}

#[test]
fn each_thread_keeps_its_order() {
    in_every_mode(1, 64, answering, |mut bench, events| {
        const THREADS: usize = 4;
        const EACH: u32 = 500;
        let senders: Vec<_> = (0..THREADS)
            .map(|thread| {
                let events = events.clone();
                thread::spawn(move || {
                    let target = || Target::path(format!("/t/{thread}"));
                    let mut number = 0;
                    while number < EACH {
                        // In every way there is, one after the other.
                        match number % 3 {
                            0 => events.push(target(), numbered(number)).unwrap(),
                            1 => {
                                let two = [number, number + 1].map(|n| (target(), numbered(n)));
                                events.push_all(two).unwrap();
                                number += 1;
                            }
                            _ => {
                                while let Err(error) = events.try_push(target(), numbered(number)) {
                                    assert_eq!(error, PublishError::Full);
                                    thread::yield_now();
                                }
                            }
                        }
                        number += 1;
                    }
                    number
                })
            })
            .collect();
        let lane = &mut bench.attached.lanes[0];
        let mut next = [0; THREADS];
        let mut ended = 0;
        while ended < THREADS {
            let part = lane.next_events();
            for event in &part.records {
                let thread: usize = event.target["/t/".len()..].parse().unwrap();
                assert_eq!(number_of(event), next[thread], "thread {thread}");
                next[thread] += 1;
                ended += usize::from(next[thread] == EACH);
            }
            lane.return_events(part.run, (0, 0, 0));
        }
        for sender in senders {
            assert!(sender.join().unwrap() >= EACH);
        }
    });
}

#[test]
fn a_long_event_is_not_overtaken_for_ever() {
    let mut bench = {
        let worker = answering();
        let events = worker.events();
        let bench = Bench::start(1, geometry(64), worker);
        for number in 0..16 {
            events.push(room(), numbered(number)).unwrap();
        }
        let long = events.clone();
        thread::spawn(move || long.push(room(), Event::new(vec![b'l'; 60_000])));
        // Those that come later stand behind it, whether they wait or not.
        let starved = bench.attached.lanes[0].memory.peer_word(Word::Starved);
        while starved.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        let short = events.clone();
        thread::spawn(move || (0..50).try_for_each(|n| short.push(room(), numbered(n))));
        let full = events.try_push(room(), Event::new("x"));
        assert_eq!(full.unwrap_err(), PublishError::Full);
        bench
    };
    let lane = &mut bench.attached.lanes[0];
    let first = take(lane, 16);
    assert!(first.iter().map(number_of).eq(0..16));
    // While it is being written, its successor may already send: but no more than there are slots.
    let (mut early, mut held) = (Vec::new(), Vec::new());
    loop {
        let part = lane.next_events();
        held.push(part.run);
        match &part.records[..] {
            [long] if long.data.len() == 60_000 => break,
            records => early.extend(records.iter().map(number_of)),
        }
    }
    assert!(early.len() <= 1, "overtaken by {early:?}");
    held.into_iter()
        .for_each(|run| lane.return_events(run, (0, 0, 0)));
    let rest = take(lane, 50 - early.len());
    assert!(
        early
            .into_iter()
            .chain(rest.iter().map(number_of))
            .eq(0..50)
    );
}

#[test]
fn try_push_never_waits_and_its_receipt_tells() {
    in_every_mode(1, 64, answering, |mut bench, events| {
        let lane = &mut bench.attached.lanes[0];
        // From here on the worker is attached for certain.
        assert_eq!(lane.round(&get(), b"").body, b"here");
        let receipts: Vec<_> = (0..16)
            .map(|number| events.try_push(room(), numbered(number)).unwrap())
            .collect();
        let full = events.try_push(room(), Event::new("x"));
        assert_eq!(full.unwrap_err(), PublishError::Full);
        let last = &receipts[15];
        assert_eq!(last.wait(Duration::ZERO), None);
        assert_eq!(last.wait(Duration::from_millis(1)), None);
        assert!(!last.is_lost());
        let parts: Vec<_> = (0..16).map(|_| lane.next_events()).collect();
        let outcome = |number: u32| match number {
            0 => (7, 2, 0),
            1 => (0, 0, NO_CONNECTION),
            2 => (0, 0, CLOSING),
            3 => (0, 0, REFUSED),
            _ => (number, 0, 0),
        };
        let waiter = thread::spawn(move || {
            let told: Vec<_> = receipts.iter().map(|r| r.wait(GUARD).unwrap()).collect();
            assert_eq!(receipts[0].wait(Duration::ZERO), Some(told[0]), "again");
            told
        });
        // In any order.
        for part in parts.into_iter().rev() {
            let number = number_of(&part.records[0]);
            lane.return_events(part.run, outcome(number));
        }
        for (number, delivery) in waiter.join().unwrap().into_iter().enumerate() {
            let (reached, dropped, flags) = outcome(number as u32);
            let expected = Delivery {
                reached,
                dropped,
                no_connection: flags & NO_CONNECTION != 0,
                closing: flags & CLOSING != 0,
                refused: flags & REFUSED != 0,
            };
            assert_eq!(delivery, expected);
        }
        // Nobody is looking at the ring, and the hub does not call: the returned slots are found.
        for number in 0..200 {
            let receipt = events.try_push(room(), numbered(number)).unwrap();
            let part = lane.next_events();
            lane.return_events(part.run, (1, 0, 0));
            drop(receipt);
        }
    });
}

#[test]
fn publishers_wait_for_a_hub_and_for_its_return() {
    in_every_mode(1, 64, answering, |mut bench, events| {
        let lane = &mut bench.attached.lanes[0];
        // From here on the worker is attached for certain.
        assert_eq!(lane.round(&get(), b"").body, b"here");
        let lost = events.try_push(room(), numbered(0)).unwrap();
        let part = lane.next_events();
        assert_eq!(number_of(&part.records[0]), 0);
        // Fifteen more fill the share; those behind wait when the hub goes.
        let sender = {
            let events = events.clone();
            thread::spawn(move || {
                (1..41).try_for_each(|number| events.push(room(), numbered(number)))
            })
        };
        let last = (1..16).map(|_| lane.next_events()).last().unwrap();
        assert_eq!(number_of(&last.records[0]), 15);
        bench.hub.stop_listening();
        bench.attached.connection.close();
        assert_eq!(lost.wait(GUARD), None);
        assert!(lost.is_lost());
        while events.try_push(room(), numbered(99)).unwrap_err() != PublishError::NotAttached {
            thread::yield_now();
        }
        bench.hub.listen_again();
        bench.attached = bench.hub.accept(1, geometry(64));
        let lane = &mut bench.attached.lanes[0];
        // What the old hub had is lost with it; what waited goes on in order.
        assert!(take(lane, 25).iter().map(number_of).eq(16..41));
        sender.join().unwrap().unwrap();
    });
}

#[test]
fn before_the_worker_runs_publishers_wait_and_after_it_they_hear_so() {
    let worker = answering();
    let events = worker.events();
    let early = {
        let events = events.clone();
        thread::spawn(move || (0..40).try_for_each(|number| events.push(room(), numbered(number))))
    };
    let mut bench = Bench::start(1, geometry(64), worker);
    assert!(
        take(&mut bench.attached.lanes[0], 40)
            .iter()
            .map(number_of)
            .eq(0..40)
    );
    early.join().unwrap().unwrap();

    // One of them waits while the worker stops.
    let late = {
        let events = events.clone();
        thread::spawn(move || {
            loop {
                if let Err(error) = events.push(room(), Event::new("x")) {
                    return error;
                }
            }
        })
    };
    for _ in 0..16 {
        bench.attached.lanes[0].next_events();
    }
    drop(bench);
    assert_eq!(late.join().unwrap(), PublishError::Stopped);
    assert_eq!(
        events.try_push(room(), Event::new("x")).unwrap_err(),
        PublishError::Stopped
    );

    let never_run = answering();
    let events = never_run.events();
    let waiting = {
        let events = events.clone();
        thread::spawn(move || events.push(room(), Event::new("x")))
    };
    drop(never_run);
    assert_eq!(waiting.join().unwrap(), Err(PublishError::Stopped));
}

#[test]
fn a_handler_that_waits_for_room_does_not_hold_up_the_end() {
    let worker = quiet("w").threads(1).route("GET", "/", |req: Request| {
        loop {
            if let Err(error) = req.events().push(room(), Event::new("x")) {
                return error.to_string();
            }
        }
    });
    let mut bench = Bench::start(1, geometry(16), worker);
    let lane = &mut bench.attached.lanes[0];
    lane.ask(&get(), b"");
    for _ in 0..4 {
        lane.next_events();
    }
    // The hub goes, and does not come back; then the worker is told to stop.
    bench.hub.stop_listening();
    bench.attached.connection.close();
    bench.handle.stop();
    let begun = std::time::Instant::now();
    bench.result().unwrap();
    assert!(begun.elapsed() < GUARD / 2, "not the time for draining");
}

#[cfg(feature = "tokio")]
mod in_an_event_loop {
    use super::*;
    use crate::worker::tests::event_loop::start;

    #[test]
    fn handlers_await_room_and_must_not_block() {
        let worker = quiet("w")
            .route_async("GET", "/many", |req: Request| async move {
                let events = req.events();
                for number in 0..100 {
                    events.push_async(room(), numbered(number)).await?;
                }
                let more = (100..200).map(|number| (room(), numbered(number)));
                events.push_all_async(more).await?;
                events.emit_async("done", "200").await?;
                Ok::<_, PublishError>("sent")
            })
            .route_async("GET", "/wrong", |req: Request| async move {
                let refused = [
                    req.events().push(room(), Event::new("x")),
                    req.events().emit("x", "y"),
                    req.events().push_all([(room(), Event::new("x"))]),
                ];
                assert!(refused.iter().all(|r| *r == Err(PublishError::WouldBlock)));
                let receipt = req.events().try_push(room(), Event::new("x")).unwrap();
                assert_eq!(receipt.wait(GUARD), None, "it does not wait here");
                format!("{:?}", receipt.outcome().await.map(|d| d.reached))
            });
        let mut bench = start(1, 1, geometry(64), worker);
        let lane = &mut bench.attached.lanes[0];
        let id = lane.ask(&Ask::new(Method::Get, "/many", 0), b"");
        let held: Vec<_> = (0..16).map(|_| lane.next_events()).collect();
        lane.ping(3);
        while lane.pongs.is_empty() {
            lane.wait();
        }
        for part in held {
            lane.return_events(part.run, (0, 0, 0));
        }
        let rest = take(lane, 185);
        assert!(rest[..184].iter().map(number_of).eq(16..200));
        assert_eq!(
            (&rest[184].target[..], &rest[184].data[..]),
            ("*", &b"200"[..])
        );
        assert_eq!(lane.reply(id).body, b"sent");

        let id = lane.ask(&Ask::new(Method::Get, "/wrong", 1), b"");
        let part = lane.next_events();
        lane.return_events(part.run, (5, 0, 0));
        assert_eq!(lane.reply(id).body, b"Some(5)");
        assert!(lane.poll_events().is_none());
    }

    #[test]
    fn who_gives_up_waiting_makes_way() {
        let worker = quiet("w").route_async("GET", "/", |req: Request| async move {
            let events = req.events();
            let long = events.push_async(room(), Event::new(vec![b'l'; 60_000]));
            let gave_up = ::tokio::time::timeout(Duration::from_millis(20), long).await;
            assert!(gave_up.is_err());
            events.push_async(room(), Event::new("after")).await?;
            Ok::<_, PublishError>("sent")
        });
        let events = worker.events();
        let mut bench = start(1, 1, geometry(64), worker);
        for _ in 0..16 {
            events.push(room(), Event::new("before")).unwrap();
        }
        let lane = &mut bench.attached.lanes[0];
        let id = lane.ask(&get(), b"");
        // One of sixteen comes back: enough for the short one, once the long one has left.
        let part = lane.next_events();
        lane.return_events(part.run, (0, 0, 0));
        let later: Vec<_> = (0..16).map(|_| lane.next_events()).collect();
        assert_eq!(later[15].records[0].data, b"after");
        assert_eq!(lane.reply(id).body, b"sent");
    }
}
