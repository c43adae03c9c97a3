//! Tests of the hub's end of a lane against a worker played by hand, over the same memory. The
//! worker's end here checks nothing: it sends whatever a test wants it to.

mod events;
mod honest;
mod lying;
mod regressions;

use std::sync::Arc;
use std::task::Waker;

use super::{ExchangeId, Frame, LaneCore, RequestFrame};
use crate::gateway::lane::violation::Violation;
use crate::gateway::stats::LaneStats;
use crate::shm::descriptor::{Completion, Descriptor, END, UNKNOWN_LENGTH};
use crate::shm::layout::Geometry;
use crate::shm::region::{LaneMemory, WorkerSide};
use crate::shm::ring::{Consumer, Producer};
use crate::sys::memory::SharedMemory;

/// Bytes in a slot of the lanes tested here.
const SLOT: u32 = 4096;
/// How long the worker may take, in milliseconds.
const TIMEOUT_MS: u64 = 1_000;

/// A worker's end of a lane, with its rings and nothing else.
struct WorkerEnd {
    memory: LaneMemory<WorkerSide>,
    outbound: Producer,
    inbound: Consumer,
}

impl WorkerEnd {
    /// Publishes a completion.
    fn send(&mut self, d: Descriptor) {
        let ring = self.memory.outbound();
        self.outbound.push(&ring, d).expect("room in the ring");
        self.outbound.publish(&ring);
    }

    /// Takes the next submission.
    fn take(&mut self) -> Option<Descriptor> {
        let taken = self.inbound.pop(&self.memory.inbound()).unwrap();
        self.inbound.release(&self.memory.inbound());
        taken
    }
}

/// Both ends of a new lane.
fn lane(slots: u32) -> (LaneCore, WorkerEnd) {
    let geometry = Geometry::new(slots, SLOT).unwrap();
    let len = geometry.memory_len();
    let (request, request_map) = SharedMemory::create_written_here("request", len).unwrap();
    let (response, response_map) = SharedMemory::create_written_by_peer("response", len).unwrap();
    let memory = Arc::new(LaneMemory::new(request_map, response_map, geometry).unwrap());
    let worker = LaneMemory::open(
        SharedMemory::accept_read_only(request.try_clone_fd().unwrap(), len).unwrap(),
        SharedMemory::accept_writable(response.try_clone_fd().unwrap(), len).unwrap(),
    );
    let core = LaneCore::new(memory, Arc::new(LaneStats::new(slots)), TIMEOUT_MS);
    let end = WorkerEnd {
        memory: worker.unwrap(),
        outbound: Producer::default(),
        inbound: Consumer::default(),
    };
    (core, end)
}

/// Opens an exchange of one slot and submits it, whole with [`END`]. Nothing is published.
fn ask(core: &mut LaneCore, flags: u8, deadline_ms: u64) -> ExchangeId {
    let (id, slots) = core.begin(1, false).expect("room for an exchange");
    let frame = RequestFrame {
        head_len: 64,
        body_len: 0,
        total: None,
        flags,
    };
    core.submit(id, slots, frame, deadline_ms).unwrap();
    id
}

/// A completion that no check refuses if its time is right: a response of one slot, or a body.
fn answer(kind: Completion, id: ExchangeId, first: u32, flags: u8) -> Descriptor {
    Descriptor {
        kind: kind as u8,
        flags,
        slots: 1,
        first,
        exchange: id.index,
        generation: id.generation,
        head_len: if kind == Completion::Response { 8 } else { 0 },
        body_len: 0,
        total: UNKNOWN_LENGTH,
    }
}

/// A frame of events of one slot that no check refuses.
fn events(first: u32) -> Descriptor {
    Descriptor {
        kind: Completion::Event as u8,
        slots: 1,
        first,
        body_len: 100,
        total: 2,
        ..Descriptor::default()
    }
}

/// The worker's last word, without slots.
fn last_word(id: ExchangeId) -> Descriptor {
    Descriptor {
        slots: 0,
        ..answer(Completion::Body, id, 0, END)
    }
}

/// Returns the request frame of a submission.
fn give_back(d: &Descriptor) -> Descriptor {
    Descriptor {
        kind: Completion::Return as u8,
        slots: d.slots,
        first: d.first,
        ..Descriptor::default()
    }
}

/// Takes everything there is.
fn look(core: &mut LaneCore, now_ms: u64) -> Result<super::complete::Turn, Violation> {
    core.take_completions(usize::MAX, now_ms)
}

fn next_frame(core: &mut LaneCore, id: ExchangeId) -> Frame {
    core.poll_frame(id, Waker::noop()).unwrap().unwrap()
}

/// A splitmix64 step: enough chance for a test, and a seed is all it needs.
pub(super) fn chance(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
