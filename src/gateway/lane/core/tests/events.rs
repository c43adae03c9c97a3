//! Frames of events: they are handed over in order, keep their slots until they are returned, touch
//! no exchange, and are forgotten with the worker.

use super::*;
use crate::gateway::lane::{EventFrame, EventOutcome};
use crate::limits::MAX_EVENT_FRAME;
use crate::shm::descriptor::{CLOSING, NO_CONNECTION, Run, Submission};
use crate::shm::region::Word;

fn run(first: u32, slots: u32) -> Run {
    Run { first, slots }
}

#[test]
fn frames_come_in_order_and_go_back_with_their_outcome() {
    let (mut core, mut worker) = lane(16);
    for (first, slots) in [(4, 2), (0, 1), (9, 3)] {
        worker.send(Descriptor {
            slots,
            ..events(first)
        });
    }
    assert_eq!(look(&mut core, 0).unwrap().taken, 3);
    let taken: Vec<_> = std::iter::from_fn(|| core.take_event_frame()).collect();
    let frame = |run| EventFrame {
        run,
        len: 100,
        records: 2,
    };
    assert_eq!(taken, [run(4, 2), run(0, 1), run(9, 3)].map(frame));

    // They go back in any order.
    let outcome = EventOutcome {
        reached: u32::MAX,
        dropped: 7,
        flags: NO_CONNECTION | CLOSING,
    };
    assert_eq!(core.return_event(run(9, 3), outcome), Ok(false));
    assert_eq!(
        core.return_event(run(0, 1), EventOutcome::default()),
        Ok(false)
    );
    let back = worker.take().unwrap();
    assert_eq!(
        (back.kind, back.run()),
        (Submission::Return as u8, run(9, 3))
    );
    let said = (back.body_len, back.head_len, back.flags);
    assert_eq!(said, (u32::MAX, 7, NO_CONNECTION | CLOSING));
    let back = worker.take().unwrap();
    assert_eq!((back.run(), back.body_len, back.flags), (run(0, 1), 0, 0));

    // What came back may be lent again; what did not may not.
    worker.send(events(0));
    look(&mut core, 0).unwrap();
    worker.send(events(5));
    assert_eq!(look(&mut core, 0), Err(Violation::Overlap));
}

#[test]
fn a_frame_is_returned_once() {
    let (mut core, mut worker) = lane(16);
    worker.send(events(3));
    look(&mut core, 0).unwrap();
    let frame = core.take_event_frame().unwrap();
    core.return_event(frame.run, EventOutcome::default())
        .unwrap();
    assert_eq!(worker.take().map(|d| d.run()), Some(frame.run));
    // A second time, one that was never there, one that no arena holds.
    for run in [
        frame.run,
        run(7, 1),
        run(16, 1),
        run(u32::MAX, 1),
        run(0, 0),
    ] {
        assert_eq!(core.return_event(run, EventOutcome::default()), Ok(false));
        assert_eq!(worker.take(), None, "{run:?}");
    }
    // A frame of an answer is none of events.
    let id = ask(&mut core, END, TIMEOUT_MS);
    core.publish();
    worker.take().expect("the request");
    worker.send(answer(Completion::Response, id, 3, 0));
    look(&mut core, 0).unwrap();
    let frame = next_frame(&mut core, id);
    assert_eq!(
        core.return_event(frame.run, EventOutcome::default()),
        Ok(false)
    );
    assert_eq!(worker.take(), None);
    core.return_frame(frame.run).unwrap();
    assert!(worker.take().is_some());
}

#[test]
fn a_part_of_a_frame_of_events_is_not_returned() {
    let (mut core, mut worker) = lane(16);
    worker.send(Descriptor {
        slots: 3,
        ..events(4)
    });
    look(&mut core, 0).unwrap();
    let frame = core.take_event_frame().unwrap();
    for part in [run(4, 1), run(4, 2), run(5, 2), run(4, 4)] {
        assert_eq!(core.return_event(part, EventOutcome::default()), Ok(false));
        assert_eq!(worker.take(), None, "{part:?}");
    }
    core.return_event(frame.run, EventOutcome::default())
        .unwrap();
    assert_eq!(worker.take().map(|d| d.run()), Some(run(4, 3)));
}

#[test]
fn a_frame_of_events_has_a_longest_length() {
    let most = MAX_EVENT_FRAME as u32;
    let of_length = |len: u32| Descriptor {
        slots: 130,
        body_len: len,
        ..events(0)
    };
    let (mut core, mut worker) = lane(256);
    worker.send(of_length(most));
    look(&mut core, 0).unwrap();
    assert_eq!(core.next_event_len(), Some(MAX_EVENT_FRAME));
    let (mut core, mut worker) = lane(256);
    worker.send(of_length(most + 1));
    assert_eq!(look(&mut core, 0), Err(Violation::BadFrame));
}

#[test]
fn events_leave_exchanges_alone() {
    let (mut core, mut worker) = lane(16);
    // The one with the number that a descriptor of events has.
    let id = ask(&mut core, END, TIMEOUT_MS);
    assert_eq!(id.index, 0);
    worker.send(events(5));
    look(&mut core, 900).unwrap();
    let held = core.take_event_frame().unwrap();
    assert_eq!((core.in_flight(), core.in_use()), (1, 1));
    core.return_event(held.run, EventOutcome::default())
        .unwrap();
    assert_eq!(
        core.expire(TIMEOUT_MS),
        1,
        "events are no word on a request"
    );

    let (mut core, mut worker) = lane(16);
    let id = ask(&mut core, END, TIMEOUT_MS);
    worker.send(answer(Completion::Response, id, 0, 0));
    worker.send(events(1));
    look(&mut core, 0).unwrap();
    let frame = next_frame(&mut core, id);
    let held = core.take_event_frame().unwrap();
    core.return_event(held.run, EventOutcome::default())
        .unwrap();
    assert_eq!(
        core.expire(10 * TIMEOUT_MS),
        0,
        "the hub holds its frame still"
    );
    core.return_frame(frame.run).unwrap();
    assert_eq!(core.expire(11 * TIMEOUT_MS), 1);
}

#[test]
fn a_starved_worker_is_called() {
    let (mut core, mut worker) = lane(16);
    worker.send(events(0));
    worker.send(events(1));
    look(&mut core, 0).unwrap();
    let word = worker.memory.own_word(Word::Starved);
    word.store(1, std::sync::atomic::Ordering::Relaxed);
    worker
        .memory
        .own_word(Word::Sleep)
        .store(1, std::sync::atomic::Ordering::Relaxed);
    let frame = core.take_event_frame().unwrap();
    assert_eq!(
        core.return_event(frame.run, EventOutcome::default()),
        Ok(true)
    );
    assert!(core.publish());
    worker
        .memory
        .own_word(Word::Starved)
        .store(0, std::sync::atomic::Ordering::Relaxed);
    let frame = core.take_event_frame().unwrap();
    assert_eq!(
        core.return_event(frame.run, EventOutcome::default()),
        Ok(false)
    );
    assert!(!core.publish());
}

#[test]
fn with_the_worker_its_events_are_gone() {
    let (mut core, mut worker) = lane(16);
    for first in 0..3 {
        worker.send(events(first));
    }
    look(&mut core, 0).unwrap();
    let taken = core.take_event_frame().unwrap();
    worker.send(events(7));
    core.die();
    assert_eq!(core.take_event_frame(), None);
    assert_eq!(look(&mut core, 0).unwrap().taken, 0, "nothing is looked at");
    assert_eq!(core.take_event_frame(), None);
    assert_eq!(
        core.return_event(taken.run, EventOutcome::default()),
        Ok(false)
    );
    assert_eq!(worker.take(), None);
}
