//! One test for each way in which the hub's end of a lane once went wrong. None depends on chance.

use std::sync::atomic::Ordering;
use std::task::Waker;

use super::*;
use crate::gateway::lane::Failure;
use crate::shm::descriptor::{ABORT, Run, Submission};
use crate::shm::region::Word;

#[test]
fn a_head_that_reaches_past_its_frame_is_refused() {
    for (slots, head_len) in [(1, 2 * SLOT), (0, 64), (1, SLOT + 64)] {
        let (mut core, mut worker) = lane(16);
        let id = ask(&mut core, END, u64::MAX);
        worker.send(Descriptor {
            slots,
            head_len,
            ..answer(Completion::Response, id, 0, END)
        });
        assert_eq!(
            look(&mut core, 0),
            Err(Violation::BadFrame),
            "{slots} {head_len}"
        );
    }
}

#[test]
fn frames_without_slots_cannot_pile_up() {
    let (mut core, mut worker) = lane(16);
    let id = ask(&mut core, END, u64::MAX);
    worker.send(answer(Completion::Response, id, 0, 0));
    worker.send(Descriptor {
        flags: 0,
        ..last_word(id)
    });
    assert_eq!(look(&mut core, 0), Err(Violation::BadFrame));
}

#[test]
fn a_last_word_without_slots_stands_nowhere() {
    let (mut core, mut worker) = lane(16);
    let id = ask(&mut core, END, u64::MAX);
    worker.send(answer(Completion::Response, id, 0, 0));
    worker.send(Descriptor {
        first: u32::MAX,
        ..last_word(id)
    });
    look(&mut core, 0).unwrap();
    next_frame(&mut core, id);
    let last = next_frame(&mut core, id);
    assert!(last.end);
    assert_eq!(last.run, Run::default());
}

#[test]
fn a_worker_has_its_whole_time_after_a_slow_client() {
    let (mut core, mut worker) = lane(16);
    let id = ask(&mut core, END, TIMEOUT_MS);
    worker.send(answer(Completion::Response, id, 0, 0));
    look(&mut core, 0).unwrap();
    let frame = next_frame(&mut core, id);
    assert_eq!(core.expire(50_000), 0, "the hub holds a frame");
    core.return_frame(frame.run).unwrap();
    assert_eq!(core.expire(50_000 + TIMEOUT_MS - 1), 0);
    assert_eq!(core.expire(50_000 + TIMEOUT_MS), 1);
}

#[test]
fn the_end_of_an_upload_sets_no_deadline_while_the_hub_holds_frames() {
    for with_frame in [false, true] {
        let (mut core, mut worker) = lane(16);
        let id = ask(&mut core, 0, u64::MAX);
        worker.send(answer(Completion::Response, id, 0, 0));
        look(&mut core, 0).unwrap();
        if with_frame {
            let slots = core.allocate(1).unwrap();
            let frame = RequestFrame {
                head_len: 0,
                body_len: 1,
                total: None,
                flags: END,
            };
            core.submit(id, slots, frame, TIMEOUT_MS).unwrap();
        } else {
            core.end_body(id, 0, TIMEOUT_MS).unwrap();
        }
        assert_eq!(core.expire(5 * TIMEOUT_MS), 0);
        let frame = next_frame(&mut core, id);
        core.return_frame(frame.run).unwrap();
        assert_eq!(core.expire(6 * TIMEOUT_MS - 1), 0);
        assert_eq!(core.expire(6 * TIMEOUT_MS), 1);
    }
}

#[test]
fn a_starving_worker_is_called_when_an_exchange_is_dropped() {
    for starved in [0, 1] {
        let (mut core, mut worker) = lane(16);
        let id = ask(&mut core, END, u64::MAX);
        worker.send(answer(Completion::Response, id, 0, 0));
        look(&mut core, 0).unwrap();
        let word = worker.memory.own_word(Word::Starved);
        word.store(starved, Ordering::Relaxed);
        assert_eq!(core.finish(id), Ok(starved != 0));
    }
}

#[test]
fn an_upload_that_is_dropped_ends_for_the_worker() {
    let (mut core, mut worker) = lane(16);
    let id = ask(&mut core, 0, u64::MAX);
    assert_eq!(core.finish(id), Ok(true), "the worker is to be called");
    core.publish();
    let request = worker.take().unwrap();
    let end = worker.take().expect("a last word about the body");
    assert_eq!(end.kind, Submission::Body as u8);
    assert_eq!((end.flags, end.slots), (END | ABORT, 0));
    assert_eq!(worker.take(), None);
    worker.send(give_back(&request));
    worker.send(answer(Completion::Response, id, 0, END));
    look(&mut core, 0).unwrap();
    assert_eq!(core.in_use(), 0);
}

#[test]
fn the_number_of_an_exchange_counts_as_room() {
    let (mut core, mut worker) = lane(16);
    let id = ask(&mut core, END, u64::MAX);
    core.publish();
    let request = worker.take().unwrap();
    worker.send(give_back(&request));
    assert!(look(&mut core, 0).unwrap().room_made, "slots");
    core.finish(id).unwrap();
    assert!(!look(&mut core, 0).unwrap().room_made);
    worker.send(answer(Completion::Response, id, 0, END));
    assert!(look(&mut core, 0).unwrap().room_made, "an exchange");
}

#[test]
fn exchanges_that_will_come_back_are_not_missed() {
    let (mut core, mut worker) = lane(64);
    let ids: Vec<_> = (0..56).map(|_| ask(&mut core, END, u64::MAX)).collect();
    core.publish();
    assert_eq!(core.missing(), 0, "an eighth is free");
    while let Some(request) = worker.take() {
        worker.send(give_back(&request));
    }
    look(&mut core, 0).unwrap();
    let more = [(); 3].map(|()| ask(&mut core, END, u64::MAX));
    assert_eq!(core.missing(), 3);
    // Given up, and the worker has not said its last word on it.
    core.finish(ids[0]).unwrap();
    core.finish(more[0]).unwrap();
    assert_eq!(core.missing(), 1);
    worker.send(answer(Completion::Response, ids[0], 0, END));
    look(&mut core, 0).unwrap();
    assert_eq!(core.missing(), 1, "it has come back");
}

#[test]
fn what_clients_take_slowly_is_not_awaited() {
    let (mut core, mut worker) = lane(64);
    let ids = [(); 4].map(|()| ask(&mut core, END, u64::MAX));
    core.publish();
    while let Some(request) = worker.take() {
        worker.send(give_back(&request));
    }
    look(&mut core, 0).unwrap();
    assert_eq!((core.in_use(), core.awaited()), (4, 4));
    // The first has its whole answer, the second the beginning of one, and neither client has read it.
    worker.send(answer(Completion::Response, ids[0], 0, END));
    worker.send(answer(Completion::Response, ids[1], 1, 0));
    look(&mut core, 0).unwrap();
    assert_eq!((core.in_use(), core.awaited()), (4, 2));
    // The worker takes its time.
    core.expire(1_000);
    assert_eq!((core.in_use(), core.awaited()), (4, 0));
    let quick = ask(&mut core, END, u64::MAX);
    assert_eq!(core.awaited(), 1);
    // One that nobody waits for is still counted, until it is answered.
    core.finish(quick).unwrap();
    worker.send(answer(Completion::Response, quick, 2, END));
    worker.send(answer(Completion::Response, ids[2], 3, END));
    assert_eq!(core.awaited(), 1);
    look(&mut core, 1_000).unwrap();
    assert_eq!(core.awaited(), 0);
}

#[test]
fn a_worker_that_has_answered_all_it_read_cannot_find_the_ring_full() {
    const SLOTS: u32 = 16;
    // Two slots are kept from newcomers.
    const OPEN: u32 = SLOTS - 2;
    // Wherever the ping stands among the rest, and whichever descriptor is the one too many.
    for ping_at in 0..=4 {
        let (mut core, mut worker) = lane(SLOTS);
        let ping = |core: &mut LaneCore, now: i32| {
            if now == ping_at {
                assert_eq!(core.send_ping(7), Ok(false));
            }
        };
        let first: Vec<_> = (0..OPEN).map(|_| ask(&mut core, 0, u64::MAX)).collect();
        core.publish();
        while let Some(d) = worker.take() {
            let id = *first.iter().find(|id| id.index == d.exchange).unwrap();
            worker.send(give_back(&d));
            worker.send(answer(Completion::Response, id, d.first, END));
        }
        // From here on the worker reads nothing.
        ping(&mut core, 0);
        for id in &first {
            core.end_body(*id, 0, u64::MAX).unwrap();
        }
        ping(&mut core, 1);
        look(&mut core, 0).unwrap();
        for id in &first {
            core.finish(*id).unwrap();
        }
        ping(&mut core, 2);
        let second: Vec<_> = (0..OPEN).map(|_| ask(&mut core, 0, u64::MAX)).collect();
        ping(&mut core, 3);
        for id in &second {
            core.end_body(*id, 0, u64::MAX).unwrap();
        }
        ping(&mut core, 4);
        core.publish();
        let mut taken = Vec::new();
        while let Some(d) = worker.take() {
            taken.push(d);
            core.publish();
        }
        let count = |kind| taken.iter().filter(|d| d.kind == kind as u8).count() as u32;
        assert_eq!(count(Submission::Request), OPEN, "ping at {ping_at}");
        assert_eq!(count(Submission::Return), OPEN, "ping at {ping_at}");
        assert_eq!(count(Submission::Body), 2 * OPEN, "ping at {ping_at}");
        assert_eq!(count(Submission::Ping), 1, "ping at {ping_at}");
    }
}

#[test]
fn frames_that_arrived_outlive_the_worker() {
    let (mut core, mut worker) = lane(16);
    let id = ask(&mut core, END, u64::MAX);
    worker.send(answer(Completion::Response, id, 3, 0));
    look(&mut core, 0).unwrap();
    core.die();
    let frame = next_frame(&mut core, id);
    assert_eq!(frame.run, Run { first: 3, slots: 1 });
    let failed = core.poll_frame(id, Waker::noop());
    assert_eq!(failed, Some(Err(Failure::WorkerGone)));
    assert_eq!(core.return_frame(frame.run), Ok(false));
    assert_eq!(core.finish(id), Ok(false));
}

#[test]
fn a_turn_tells_beginnings_of_answers_from_their_ends_and_from_all_else() {
    let (mut core, mut worker) = lane(16);
    let id = ask(&mut core, END, u64::MAX);
    core.publish();
    assert_eq!(core.awaited(), 1);
    let request = worker.take().unwrap();
    let mut turn = |d| {
        worker.send(d);
        let turn = look(&mut core, 0).unwrap();
        (turn.taken, turn.begun, turn.answers, core.awaited())
    };
    assert_eq!(turn(give_back(&request)), (1, 0, 0, 1));
    assert_eq!(turn(events(5)), (1, 0, 0, 1));
    assert_eq!(turn(answer(Completion::Response, id, 0, 0)), (1, 1, 0, 0));
    assert_eq!(turn(answer(Completion::Body, id, 1, 0)), (1, 0, 0, 0));
    assert_eq!(turn(last_word(id)), (1, 0, 1, 0));
}
