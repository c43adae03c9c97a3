//! What is left of a worker that is gone while slow clients still hold its memory: bounded however often
//! it comes back, given up after a short time, and in no client's way that reads.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use slotway::control::WakeMode;
use slotway::shm::codec::response_prefix;
use slotway::shm::descriptor::{Completion, Descriptor, END, UNKNOWN_LENGTH};
use slotway::shm::layout::body_offset;

use support::raw_worker::RawWorker;
use support::{Hub, HubOptions, wait_until};

/// What of dead lanes may be left in the hub: `MAX_REMAINS`, and the lane that ended last.
const MOST_LEFT: u64 = 64 << 20;

/// A hub that would wait for slow clients for longer than any test runs.
fn patient_hub(slots: &str) -> Hub {
    HubOptions::new()
        .args(["--shards", "1", "--slots", slots, "--write-timeout", "600"])
        .args(["--body-grace", "600", "--timeout", "600"])
        .start()
}

fn attach(hub: &Hub, name: &str) -> RawWorker {
    let routes = ["GET /e", "POST /e"];
    RawWorker::attach(&hub.socket, name, &routes, WakeMode::Futex).expect("the hub accepts")
}

/// Bytes of lanes that the hub maps.
fn mapped(hub: &Hub) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", hub.process.pid()));
    let maps = maps.expect("the hub lives");
    let lanes = maps.lines().filter(|l| l.contains("memfd:slotway"));
    let sizes = lanes.map(|line| {
        let range = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'));
        let (start, end) = range.expect("a range");
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        address(end) - address(start)
    });
    sizes.sum()
}

fn send(hub: &Hub, bytes: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(hub.address).expect("the hub accepts");
    client
        .set_read_timeout(Some(support::GUARD))
        .expect("a time");
    client.write_all(bytes).expect("the hub reads");
    client
}

/// A client that has asked and reads nothing, and the worker's answer to it: all of its memory in one
/// frame. Returns when the hub has begun to send.
fn stuck_client(hub: &Hub, worker: &mut RawWorker, ends: bool) -> TcpStream {
    hub.wait_attached("evil", std::process::id());
    let client = send(hub, b"GET /e HTTP/1.1\r\nHost: a\r\n\r\n");
    let (_, claim) = worker.wait_claim();
    let lane = &mut worker.lanes[0];
    let head = response_prefix(200, 0);
    lane.response.write(lane.slot_at(0), &head);
    let size = lane.geometry.slots() as usize * lane.geometry.slot_size();
    let body = size - body_offset(head.len());
    lane.push(Descriptor {
        kind: Completion::Response as u8,
        flags: if ends { END } else { 0 },
        slots: lane.geometry.slots() as u16,
        first: 0,
        exchange: claim.descriptor.exchange,
        generation: claim.descriptor.generation,
        head_len: head.len() as u32,
        body_len: body as u32,
        total: if ends { body as u64 } else { UNKNOWN_LENGTH },
    });
    let mut byte = [0];
    assert_eq!(client.peek(&mut byte).expect("an answer"), 1);
    client
}

#[test]
fn memory_of_workers_that_left_is_bounded_and_given_up() {
    let hub = patient_hub("4096");
    let one = {
        let worker = attach(&hub, "evil");
        let one = mapped(&hub);
        drop(worker);
        wait_until("a lane that nobody holds goes at once", || {
            mapped(&hub) == 0
        });
        one
    };
    let mut clients = Vec::new();
    for round in 0..8 {
        let mut worker = attach(&hub, "evil");
        clients.push(stuck_client(&hub, &mut worker, round % 2 == 0));
        drop(worker);
        wait_until("what is left is within the bound", || {
            mapped(&hub) <= MOST_LEFT.max(one)
        });
    }
    wait_until("nobody holds anything for long", || mapped(&hub) == 0);
    // The hub is well, and so is who comes next.
    let mut worker = attach(&hub, "evil");
    let mut client = stuck_client(&hub, &mut worker, true);
    let mut answer = Vec::new();
    let size = worker.lanes[0].geometry.slots() as usize * worker.lanes[0].geometry.slot_size();
    while answer.len() < size {
        let mut part = vec![0; 1 << 20];
        let count = client.read(&mut part).expect("the answer goes on");
        assert!(count > 0, "the answer is cut");
        answer.extend_from_slice(&part[..count]);
    }
}

#[test]
fn a_request_that_arrives_slowly_does_not_keep_a_dead_lane() {
    let hub = patient_hub("512");
    let worker = attach(&hub, "evil");
    hub.wait_attached("evil", std::process::id());
    let head = b"POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";
    let mut client = send(&hub, &[&head[..], &[b'x'; 50_000]].concat());
    wait_until("it has slots", || hub.slots_in_use() > 0);
    drop(worker);
    wait_until("the lane goes", || mapped(&hub) == 0);
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}
