//! A worker that keeps the rules, and a hub that does anything its tasks may do, in any order: both
//! checked against plain lists. Each frame is stamped, so that a lost or doubled one shows.

use std::collections::BTreeMap;
use std::task::Waker;

use super::*;
use crate::gateway::lane::{EventOutcome, Failure};
use crate::shm::descriptor::{ABORT, Run, Submission};
use crate::shm::region::{Arena, Slots};

const SLOTS: u32 = 16;
const STAMP: usize = 16;

/// What is written to each frame's body: whose it is and which of its frames.
fn stamp(index: u32, generation: u32, number: u32) -> [u8; STAMP] {
    let mut bytes = [0x5A; STAMP];
    bytes[..4].copy_from_slice(&index.to_le_bytes());
    bytes[4..8].copy_from_slice(&generation.to_le_bytes());
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// An exchange as the hub's task sees it.
struct Asked {
    id: ExchangeId,
    /// The slots of the first frame until it is submitted.
    preparing: Option<Slots>,
    frames_out: u32,
    frames_in: u32,
    upload_ended: bool,
    answered: bool,
}

/// An exchange as the worker sees it.
#[derive(Default)]
struct Served {
    frames_in: u32,
    frames_out: u32,
    upload_ended: bool,
    ended: bool,
}

struct Model {
    core: LaneCore,
    asked: Vec<Asked>,
    /// Frames the hub's tasks are sending to clients.
    sending: Vec<Run>,
    now_ms: u64,
    pings: u32,
    worker: WorkerEnd,
    arena: Arena,
    /// Response frames with the hub.
    lent: Vec<Run>,
    served: BTreeMap<(u32, u32), Served>,
    /// Request frames the worker keeps.
    kept: Vec<Run>,
    pong_owed: Option<u32>,
    state: u64,
    whole_answers: u32,
    /// Frames of events that the hub's tasks have, with their numbers.
    events_taken: Vec<(Run, u32)>,
    /// The number of each frame of events with the hub, by first slot.
    events_lent: BTreeMap<u32, u32>,
    /// Frames of events that were sent, taken by the hub's tasks, and came back.
    events: [u32; 3],
}

impl Model {
    fn new(seed: u64) -> Model {
        let (core, worker) = lane(SLOTS);
        Model {
            core,
            asked: Vec::new(),
            sending: Vec::new(),
            now_ms: 0,
            pings: 0,
            worker,
            arena: Arena::new(SLOTS),
            lent: Vec::new(),
            served: BTreeMap::new(),
            kept: Vec::new(),
            pong_owed: None,
            state: seed,
            whole_answers: 0,
            events_taken: Vec::new(),
            events_lent: BTreeMap::new(),
            events: [0; 3],
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        (chance(&mut self.state) % bound.max(1) as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn step(&mut self) {
        match self.below(23) {
            0 | 1 => self.begin(),
            2..=4 => self.submit(),
            5 => self.end_body(),
            6..=8 => self.poll(),
            9 => self.return_one(),
            10 if self.below(3) == 0 => self.finish(),
            11 => self.expire(),
            12 => self.ping(),
            13 => self.hub_looks(),
            14 | 15 => self.worker_takes(),
            16 | 17 => self.worker_answers(false),
            18 => self.worker_returns(),
            19 => self.worker_emits(),
            20 => self.take_events(),
            21 => self.return_events(),
            _ => self.worker_pongs(),
        }
    }

    fn begin(&mut self) {
        let slots = 1 + self.below(3);
        if let Some((id, slots)) = self.core.begin(slots, false) {
            self.asked.push(Asked {
                id,
                preparing: Some(slots),
                frames_out: 0,
                frames_in: 0,
                upload_ended: false,
                answered: false,
            });
        }
    }

    fn submit(&mut self) {
        let at = self.below(self.asked.len());
        let (wide, end) = (1 + self.below(3), self.coin());
        let Some(asked) = self.asked.get_mut(at) else {
            return;
        };
        if asked.upload_ended {
            return;
        }
        let first = asked.preparing.is_some();
        let slots = match asked.preparing.take() {
            Some(slots) => slots,
            None if !self.core.may_submit(asked.id, 4) => return,
            None => match self.core.allocate(wide) {
                Some(slots) => slots,
                None => return,
            },
        };
        let head_len = if first { 64 } else { 0 };
        let mut slots = self.core.trim(slots, head_len + STAMP);
        assert_eq!(slots.run().slots, 1);
        let bytes = stamp(asked.id.index, asked.id.generation, asked.frames_out);
        let room = self.core.memory.bytes_mut(&mut slots);
        room[head_len..][..STAMP].copy_from_slice(&bytes);
        let frame = RequestFrame {
            head_len,
            body_len: STAMP,
            total: None,
            flags: if end { END } else { 0 },
        };
        let due_ms = if end {
            self.now_ms + TIMEOUT_MS
        } else {
            u64::MAX
        };
        self.core.submit(asked.id, slots, frame, due_ms).unwrap();
        asked.frames_out += 1;
        asked.upload_ended = end;
    }

    fn end_body(&mut self) {
        let (at, abort) = (self.below(self.asked.len()), self.coin());
        if let Some(asked) = self.asked.get_mut(at)
            && asked.preparing.is_none()
        {
            let abort = if abort { ABORT } else { 0 };
            let due_ms = self.now_ms + TIMEOUT_MS;
            self.core.end_body(asked.id, abort, due_ms).unwrap();
            asked.upload_ended = true;
        }
    }

    fn poll(&mut self) {
        let at = self.below(self.asked.len());
        let Some(asked) = self.asked.get_mut(at) else {
            return;
        };
        if asked.answered {
            return self.finish_at(at);
        }
        match self.core.poll_frame(asked.id, Waker::noop()) {
            None => {}
            Some(Err(failure)) => {
                assert_eq!(failure, Failure::Deadline);
                self.finish_at(at);
            }
            Some(Ok(frame)) => {
                asked.answered = frame.end;
                self.whole_answers += u32::from(frame.end);
                if frame.run.is_empty() {
                    assert!(frame.end);
                    return;
                }
                let mut bytes = Vec::new();
                let memory = &self.core.memory;
                assert!(memory.copy_response(frame.run, frame.body_at, frame.body_len, &mut bytes));
                let expected = stamp(asked.id.index, asked.id.generation, asked.frames_in);
                assert_eq!(bytes, expected, "a frame of {:?} lost or doubled", asked.id);
                asked.frames_in += 1;
                self.sending.push(frame.run);
            }
        }
    }

    fn return_one(&mut self) {
        if !self.sending.is_empty() {
            let at = self.below(self.sending.len());
            let run = self.sending.swap_remove(at);
            self.core.return_frame(run).unwrap();
        }
    }

    fn finish(&mut self) {
        if !self.asked.is_empty() {
            let at = self.below(self.asked.len());
            self.finish_at(at);
        }
    }

    fn finish_at(&mut self, at: usize) {
        let asked = self.asked.swap_remove(at);
        self.core.finish(asked.id).unwrap();
        if let Some(slots) = asked.preparing {
            self.core.release(slots);
        }
    }

    fn expire(&mut self) {
        self.now_ms += self.below(TIMEOUT_MS as usize / 40) as u64;
        self.core.expire(self.now_ms);
    }

    fn ping(&mut self) {
        self.pings += 1;
        self.core.send_ping(self.pings).unwrap();
    }

    fn hub_looks(&mut self) {
        let limit = 1 + self.below(8);
        let turn = self.core.take_completions(limit, self.now_ms);
        turn.expect("an honest worker breaks no rule");
        self.core.publish();
    }

    fn worker_takes(&mut self) {
        for _ in 0..self.below(6) {
            let Some(d) = self.worker.take() else { return };
            let key = (d.exchange, d.generation);
            match Submission::from_u8(d.kind).expect("a kind of the ABI") {
                Submission::Request => {
                    let before = self.served.insert(key, Served::default());
                    assert!(before.is_none(), "one request for each generation");
                    self.receive(&d, key);
                }
                Submission::Body => self.receive(&d, key),
                Submission::Return => {
                    let at = self.lent.iter().position(|r| *r == d.run());
                    let run = self
                        .lent
                        .swap_remove(at.expect("what was lent is returned once"));
                    assert!(self.arena.take_back(run));
                    if let Some(number) = self.events_lent.remove(&run.first) {
                        let outcome = (d.body_len, d.head_len, d.flags);
                        assert_eq!(outcome, (number, number / 2, number as u8 & 28));
                        self.events[2] += 1;
                    } else {
                        assert_eq!((d.body_len, d.head_len, d.flags), (0, 0, 0));
                    }
                }
                Submission::Ping => {
                    assert_eq!(self.pong_owed.replace(d.generation), None);
                }
            }
        }
    }

    fn receive(&mut self, d: &Descriptor, key: (u32, u32)) {
        let served = self.served.get_mut(&key).expect("a request came before");
        assert!(!served.upload_ended, "nothing follows the end");
        served.upload_ended = d.is_end();
        if d.slots == 0 {
            assert!(d.is_end());
            return;
        }
        let memory = &self.worker.memory;
        let at = crate::shm::layout::body_offset(d.head_len as usize);
        let bytes = memory.request_part(d.run(), at, d.body_len as usize);
        let expected = stamp(key.0, key.1, served.frames_in);
        assert_eq!(
            bytes,
            Some(&expected[..]),
            "a frame of {key:?} lost or doubled"
        );
        served.frames_in += 1;
        self.kept.push(d.run());
    }

    /// Sends a frame of events, unless many are with the hub.
    fn worker_emits(&mut self) {
        let wide = 1 + self.below(2) as u32;
        if self.events_lent.len() >= SLOTS as usize / 4 {
            return;
        }
        let Some(mut slots) = self.arena.allocate(wide) else {
            return;
        };
        let number = self.events[0];
        let bytes = stamp(u32::MAX, 0, number);
        self.worker.memory.bytes_mut(&mut slots)[..STAMP].copy_from_slice(&bytes);
        self.events[0] += 1;
        let run = Arena::lend(slots);
        self.lent.push(run);
        self.events_lent.insert(run.first, number);
        self.worker.send(Descriptor {
            slots: run.slots as u16,
            total: 1,
            body_len: 24,
            ..events(run.first)
        });
    }

    fn take_events(&mut self) {
        if let Some(frame) = self.core.take_event_frame() {
            assert_eq!((frame.len, frame.records), (24, 1));
            let mut bytes = Vec::new();
            let memory = &self.core.memory;
            assert!(memory.copy_response(frame.run, 0, STAMP, &mut bytes));
            let number = self.events[1];
            assert_eq!(bytes, stamp(u32::MAX, 0, number), "events out of order");
            self.events[1] += 1;
            self.events_taken.push((frame.run, number));
        }
    }

    fn return_events(&mut self) {
        if !self.events_taken.is_empty() {
            let at = self.below(self.events_taken.len());
            let (run, number) = self.events_taken.swap_remove(at);
            let outcome = EventOutcome {
                reached: number,
                dropped: number / 2,
                flags: number as u8 & 28,
            };
            self.core.return_event(run, outcome).unwrap();
        }
    }

    /// Sends a frame, or the last word, of an exchange that is not over.
    fn worker_answers(&mut self, end: bool) {
        let open = self.served.iter().filter(|(_, s)| !s.ended);
        let open: Vec<_> = open.map(|(key, _)| *key).collect();
        if open.is_empty() {
            return;
        }
        let key = open[self.below(open.len())];
        let end = end || self.below(4) == 0;
        let (bare, wide) = (self.coin(), 1 + self.below(3) as u32);
        let served = self.served.get_mut(&key).unwrap();
        let first = served.frames_out == 0;
        let id = ExchangeId {
            index: key.0,
            generation: key.1,
        };
        if end && bare && !first {
            served.ended = true;
            return self.worker.send(last_word(id));
        }
        let Some(mut slots) = self.arena.allocate(wide) else {
            return;
        };
        let head_len = if first { 8 } else { 0 };
        let at = crate::shm::layout::body_offset(head_len);
        let bytes = stamp(key.0, key.1, served.frames_out);
        let room = self.worker.memory.bytes_mut(&mut slots);
        room[at..][..STAMP].copy_from_slice(&bytes);
        served.frames_out += 1;
        served.ended = end;
        let run = Arena::lend(slots);
        self.lent.push(run);
        let kind = if first {
            Completion::Response
        } else {
            Completion::Body
        };
        self.worker.send(Descriptor {
            slots: run.slots as u16,
            body_len: STAMP as u32,
            ..answer(kind, id, run.first, if end { END } else { 0 })
        });
    }

    fn worker_returns(&mut self) {
        for _ in 0..self.below(4) {
            if self.kept.is_empty() {
                return;
            }
            let at = self.below(self.kept.len());
            let run = self.kept.swap_remove(at);
            self.worker.send(give_back(&Descriptor {
                slots: run.slots as u16,
                first: run.first,
                ..Descriptor::default()
            }));
        }
    }

    fn worker_pongs(&mut self) {
        if let Some(generation) = self.pong_owed.take() {
            self.worker.send(Descriptor {
                kind: Completion::Pong as u8,
                generation,
                ..Descriptor::default()
            });
        }
    }

    /// Both sides bring to an end what they have begun, and nothing is left over.
    fn wind_up(&mut self) {
        while !self.asked.is_empty() {
            self.finish();
        }
        let mut rounds = 0;
        while self.core.in_use() > 0 || !self.sending.is_empty() || !self.lent.is_empty() {
            rounds += 1;
            assert!(rounds < 10_000, "it does not come to rest");
            self.return_one();
            self.take_events();
            self.return_events();
            self.worker_takes();
            self.worker_answers(true);
            self.worker_returns();
            self.worker_pongs();
            self.hub_looks();
        }
        assert_eq!(self.core.in_flight(), 0);
        assert_eq!(self.core.arena.free_count(), SLOTS, "request slots");
        assert_eq!(self.core.held.free_count(), SLOTS, "frames held by the hub");
        assert!(self.core.lent.iter().all(|(_, slots)| *slots == 0));
        assert_eq!(self.arena.free_count(), SLOTS, "response slots");
        assert!(self.kept.is_empty());
        assert!(self.served.values().all(|s| s.ended));
        assert_eq!(self.events, [self.events[0]; 3]);
        assert_eq!(self.core.take_event_frame(), None);
    }
}

#[test]
fn an_honest_lane_loses_nothing() {
    let base = u64::from(std::process::id()) << 16;
    let (mut whole_answers, mut events) = (0, 0);
    // Miri is slow, and looks for other faults than these.
    let (seeds, steps) = if cfg!(miri) { (1, 300) } else { (50, 1_500) };
    for seed in (0..seeds).chain(base..base + seeds) {
        println!("seed {seed}");
        let mut model = Model::new(seed);
        for _ in 0..4 {
            for _ in 0..steps {
                model.step();
            }
            model.wind_up();
        }
        whole_answers += model.whole_answers;
        events += model.events[2];
    }
    println!("{whole_answers} answers taken to their end, {events} frames of events");
    // Under Miri there are too few steps to count on chance.
    let least = if cfg!(miri) {
        0
    } else {
        (seeds * steps / 38) as u32
    };
    assert!(events > least, "the model hardly ever gets to events");
    assert!(
        whole_answers > least,
        "the model hardly ever gets to answers"
    );
}
