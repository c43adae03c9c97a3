//! What a worker can do to the hub with events: hand over more than is worked off and leave, keep the
//! streams thread to itself, and leave memory behind that slow clients hold. The hub's memory stays
//! bounded, its neighbours are heard, and who leaves in an orderly way loses nothing.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use slotway::control::{ToHub, WakeMode};
use slotway::shm::descriptor::{Completion, Descriptor, Submission};
use slotway::shm::events::{EventRecord, EventTarget, encode_event, encoded_event_len};
use slotway::shm::layout::HEAD_OFFSET;
use std::sync::atomic::{AtomicBool, Ordering};

use support::raw_worker::{RawLane, RawWorker, breathe, framed};
use support::sse::{Sse, emit};
use support::{Hub, HubOptions, wait_until};

/// By how much the hub's own memory may grow, whatever one worker does: its copies of events, what a
/// subscriber that does not read has waiting, the history of `/events`, and what the allocator keeps.
const GROWTH_KIB: u64 = 32 * 1024;

fn attach(hub: &Hub, name: &str) -> RawWorker {
    RawWorker::attach(&hub.socket, name, &["GET /e"], WakeMode::Futex).expect("the hub accepts")
}

/// A broadcast, as it stands in a frame.
fn broadcast(data: &[u8]) -> Vec<u8> {
    let record = EventRecord {
        target: EventTarget::Broadcast,
        name: b"x",
        id: None,
        retry_ms: None,
        data,
    };
    let mut bytes = vec![0; encoded_event_len(&record)];
    encode_event(&mut bytes, &record).expect("it fits");
    bytes
}

/// Sends one frame for each slot of the lane's arena, all full of the smallest events there are.
fn flood(lane: &mut RawLane) {
    let record = broadcast(b"");
    let size = lane.geometry.slot_size();
    let (records, slots) = (size / record.len(), lane.geometry.slots());
    let mut frame = record.repeat(records);
    let len = frame.len();
    frame.resize(size, 0);
    let at = lane.slot_at(0) as u64;
    let arena = frame.repeat(slots as usize);
    let written = rustix::io::pwrite(&lane.response_fd, &arena, at);
    assert_eq!(written, Ok(arena.len()));
    for slot in 0..slots {
        lane.push(frame_of_events(slot, len, records));
    }
}

fn frame_of_events(slot: u32, len: usize, records: usize) -> Descriptor {
    Descriptor {
        kind: Completion::Event as u8,
        slots: 1,
        first: slot,
        body_len: len as u32,
        total: records as u64,
        ..Descriptor::default()
    }
}

/// Waits until the hub has read all of the lane's ring.
fn wait_read(lane: &RawLane) {
    wait_until("the hub reads the ring", || {
        lane.request.word(HEAD_OFFSET).load(Ordering::Acquire) == lane.tail
    });
}

#[test]
fn events_of_workers_that_left_do_not_pile_up() {
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    // It does not read: its queue fills up, which is bounded too.
    let _slow = Sse::open(&hub, "/events");
    let anonymous = || hub.process.memory_kib("RssAnon");
    let before = anonymous();
    let mut most = before;
    for round in 0..200 {
        // Under some names, so that there are always some it has to remember.
        let mut worker = attach(&hub, &format!("evil-{}", round % 5));
        flood(&mut worker.lanes[0]);
        wait_read(&worker.lanes[0]);
        drop(worker);
        most = most.max(anonymous());
        assert!(
            most < before + GROWTH_KIB,
            "{before} KiB before, {most} KiB after {round} rounds"
        );
    }
    println!("{before} KiB before, {most} KiB at most");
    // What was left behind is in nobody's way.
    let mut fresh = Sse::open(&hub, "/events");
    emit(&hub, "s", "honest", "1");
    fresh.until(|m| m.event == "honest");
}

#[test]
fn events_of_a_worker_that_drains_are_heard_to_the_last() {
    // More than the hub copies at a time, so that some are still in the worker's memory as it drains.
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let mut stream = Sse::open(&hub, "/events");
    let mut worker = attach(&hub, "leaving");
    let lane = &mut worker.lanes[0];
    let slots = lane.geometry.slots();
    for number in 0..slots {
        let record = broadcast(format!("{number:03500}").as_bytes());
        lane.response.write(lane.slot_at(number), &record);
    }
    for number in 0..slots {
        let len = broadcast(&[b'0'; 3500]).len();
        lane.push(frame_of_events(number, len, 1));
    }
    wait_read(lane);
    let drain = simd_json::to_vec(&ToHub::Drain).expect("JSON");
    worker.send_bytes(&framed(&drain)).expect("the hub listens");
    for number in 0..slots {
        let heard: u32 = stream.next().member("data").parse().expect("a number");
        assert_eq!(heard, number);
    }
    assert_eq!(worker.wait_lost(), None);
}

#[test]
fn a_worker_that_floods_the_hub_with_events_does_not_keep_others_waiting() {
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let mut stream = Sse::open(&hub, "/events?type=honest");
    let mut worker = attach(&hub, "flooding");
    let done = AtomicBool::new(false);
    let between = std::thread::scope(|scope| {
        scope.spawn(|| {
            let lane = &mut worker.lanes[0];
            flood(lane);
            let records = lane.geometry.slot_size() / broadcast(b"").len();
            let len = records * broadcast(b"").len();
            while !done.load(Ordering::Relaxed) {
                while let Some(d) = lane.pop() {
                    if d.kind == Submission::Return as u8 {
                        lane.push(frame_of_events(d.first, len, records));
                    }
                }
                breathe();
            }
        });
        // How many events the hub numbered between two of somebody else, each of which is published
        // when the one before it was heard.
        let mut last = None;
        let mut between = Vec::new();
        for number in 0..31 {
            emit(&hub, "s", "honest", &number.to_string());
            let heard = stream.until(|m| m.event == "honest");
            let id = heard[heard.len() - 1].sequence();
            between.extend(last.replace(id).map(|last| id - last));
        }
        done.store(true, Ordering::Relaxed);
        between
    });
    let mut sorted = between.clone();
    sorted.sort_unstable();
    let median = sorted[sorted.len() / 2];
    println!("{between:?}, median {median}");
    // What is due before the runtime looks for messages is 256; what a lane may have handed over, ten
    // times the bound. A single one may have been held up by the machine.
    assert!(median < 2_000, "{between:?}");
}
