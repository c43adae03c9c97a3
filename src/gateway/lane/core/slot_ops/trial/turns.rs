//! What the hub does with a lane, one thing a turn, beside the model that says what must come of it.

use std::task::Waker;

use super::super::asked::Place;
use super::super::model::SLOT;
use super::{Task, Trial};
use crate::gateway::lane::core::{EventOutcome, Failure, Frame, RequestFrame};
use crate::shm::descriptor::{Descriptor, Run};
use crate::shm::layout::Phase;

impl Trial<'_> {
    pub(super) fn begin(&mut self) {
        let (count, bodyless) = (1 + self.input.below(6), self.input.below(8) == 0);
        if self.model.dead {
            return;
        }
        let all = self.model.request.len();
        let may = self.model.exchanges.len() < all && self.model.free_slots() >= count + all / 8;
        let expected = self.model.first_fit(count).filter(|_| may);
        let begun = self.core.begin(count, bodyless);
        let first = begun.as_ref().map(|(_, slots)| slots.run().first as usize);
        assert_eq!(first, expected, "{count} slots for a newcomer");
        if let Some((id, slots)) = begun {
            self.model.pass(slots.run(), Place::Free, Place::Hub);
            self.model.begin((id.index, id.generation), bodyless);
            self.tasks.push(Task {
                id,
                preparing: Some(slots),
            });
        }
    }

    pub(super) fn submit(&mut self) {
        let Some(at) = self.any_task() else { return };
        let (id, key) = (self.tasks[at].id, self.tasks[at].key());
        let first = self.tasks[at].preparing.is_some();
        if !first {
            let asked = self.model.exchanges.get(&key);
            if asked.is_none_or(|asked| asked.complete) {
                return;
            }
            let window = 1 + self.input.below(4);
            let may = self.core.may_submit(id, window);
            assert_eq!(may, self.model.may_submit(key, window));
            if !may || !self.allocate() {
                return;
            }
        }
        let slots = match self.tasks[at].preparing.take() {
            Some(slots) => slots,
            None => self.spare.pop().expect("just allocated"),
        };
        let (frame, run) = (self.request_frame(first), slots.run());
        let due_ms = self.due_ms();
        let d = Descriptor {
            kind: 0,
            flags: frame.flags,
            slots: run.slots as u16,
            first: run.first,
            exchange: key.0,
            generation: key.1,
            head_len: frame.head_len as u32,
            body_len: frame.body_len as u32,
            total: frame.total.unwrap_or(u64::MAX),
        };
        let expected = self.model.submit(key, d, due_ms);
        let said = self.core.submit(id, slots, frame, due_ms);
        self.judge(said, expected);
    }

    pub(super) fn request_frame(&mut self, first: bool) -> RequestFrame {
        let len = self.input.below(300);
        RequestFrame {
            head_len: if first { 1 + len } else { 0 },
            body_len: len,
            total: self.input.coin().then_some(len as u64),
            flags: u8::from(self.input.coin()),
        }
    }

    /// Takes slots for a further frame into `spare`; whether there were any.
    pub(super) fn allocate(&mut self) -> bool {
        let most = 1 + self.input.below(16);
        let free = self.model.free_slots();
        let slots = self.core.allocate_up_to(most);
        assert_eq!(slots.is_some(), free > 0, "{most} of {free} slots");
        let Some(slots) = slots else { return false };
        let run = slots.run();
        assert!((1..=most as u32).contains(&run.slots));
        if free > self.model.request.len() / 2 && self.model.first_fit(most).is_some() {
            assert_eq!(run.slots, most as u32, "there is room");
        }
        assert_eq!(
            self.model.first_fit(run.slots as usize),
            Some(run.first as usize)
        );
        self.model.pass(run, Place::Free, Place::Hub);
        self.spare.push(slots);
        true
    }

    pub(super) fn trim_or_release(&mut self) {
        if self.input.coin() && !self.model.dead {
            self.allocate();
        }
        let Some(slots) = self.input.take(&mut self.spare) else {
            return;
        };
        let run = slots.run();
        if self.input.coin() {
            self.core.release(slots);
            self.model.pass(run, Place::Hub, Place::Free);
            return;
        }
        let bytes = self.input.below(40_000);
        let keep = (bytes.div_ceil(SLOT) as u32).clamp(1, run.slots);
        let slots = self.core.trim(slots, bytes);
        let kept = Run { slots: keep, ..run };
        assert_eq!(slots.run(), kept);
        let rest = Run {
            first: run.first + keep,
            slots: run.slots - keep,
        };
        self.model.pass(rest, Place::Hub, Place::Free);
        self.spare.push(slots);
    }

    pub(super) fn end_body(&mut self) {
        let Some(at) = self.any_task() else { return };
        let (abort, due_ms) = (if self.input.coin() { 2 } else { 0 }, self.due_ms());
        let task = &self.tasks[at];
        if task.preparing.is_none() {
            let expected = self.model.end_body(task.key(), abort, due_ms);
            let said = self.core.end_body(task.id, abort, due_ms);
            self.judge(said, expected);
        }
    }

    pub(super) fn poll(&mut self) {
        let Some(at) = self.any_task() else { return };
        let task = &self.tasks[at];
        if task.preparing.is_some() {
            return;
        }
        let polled = self.core.poll_frame(task.id, Waker::noop());
        assert_eq!(polled, self.model.poll(task.key()), "{:?}", task.id);
        match polled {
            None => {}
            Some(Ok(frame)) => {
                self.look_at(&frame);
                if frame.end {
                    self.seen.answers += 1;
                    self.finish_at(at);
                }
            }
            Some(Err(failure)) => {
                self.seen.late += usize::from(failure == Failure::Deadline);
                self.finish_at(at);
            }
        }
    }

    /// A frame that was accepted lies in the arena, with both its parts.
    pub(super) fn look_at(&mut self, frame: &Frame) {
        if !frame.run.is_empty() {
            let memory = &self.core.memory;
            let head = memory.response_part(frame.run, 0, frame.head_len);
            let body = memory.response_part(frame.run, frame.body_at, frame.body_len);
            assert!(head.is_some());
            assert!(body.is_some() || frame.body_len == 0);
            self.sending.push(frame.run);
        }
    }

    pub(super) fn return_frame(&mut self) {
        if let Some(run) = self.input.take(&mut self.sending) {
            let expected = self.model.return_frame(run);
            let said = self.core.return_frame(run);
            self.judge(said, expected);
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some(at) = self.any_task() {
            self.finish_at(at);
        }
    }

    pub(super) fn finish_at(&mut self, at: usize) {
        let task = self.tasks.swap_remove(at);
        let expected = self.model.finish(task.key());
        let said = self.core.finish(task.id);
        self.judge(said, expected);
        if let Some(slots) = task.preparing {
            self.model.pass(slots.run(), Place::Hub, Place::Free);
            self.core.release(slots);
        }
        self.past.push(task.id);
    }

    pub(super) fn take_event(&mut self) {
        let taken = self.core.take_event_frame();
        assert_eq!(taken, self.model.events.pop_front());
        if let Some(frame) = taken {
            let part = self.core.memory.response_part(frame.run, 0, frame.len);
            assert!(part.is_some(), "{frame:?}");
            self.events.push(frame.run);
            self.seen.events += 1;
        }
    }

    /// Of events, what was returned already, or never was one, is left alone.
    pub(super) fn return_event(&mut self) {
        let run = match self.input.below(8) {
            0 => Run {
                first: self.input.number(),
                slots: self.input.number(),
            },
            again => {
                let Some(run) = self.input.take(&mut self.events) else {
                    return;
                };
                if again == 1 {
                    self.events.push(run);
                }
                run
            }
        };
        let outcome = EventOutcome {
            reached: self.input.number(),
            dropped: self.input.number(),
            flags: self.input.next() & 28,
        };
        let expected = self.model.return_event(run, outcome);
        let said = self.core.return_event(run, outcome);
        self.judge(said, expected);
    }

    pub(super) fn expire(&mut self) {
        self.now_ms += self.input.below(2_000) as u64;
        let late = self.core.expire(self.now_ms);
        assert_eq!(late, self.model.expire(self.now_ms));
    }

    pub(super) fn ping(&mut self) {
        self.pings += 1;
        let expected = self.model.send_ping(self.pings);
        let said = self.core.send_ping(self.pings);
        self.judge(said, expected);
        assert_eq!(self.core.ping_pending(), self.model.ping.is_some());
    }

    pub(super) fn take_completions(&mut self) {
        let limit = 1 + self.input.below(40);
        self.take(limit);
    }

    pub(super) fn take(&mut self, limit: usize) -> usize {
        let expected = self.model.take(limit, self.now_ms);
        let said = self.core.take_completions(limit, self.now_ms);
        let said = said.map(|turn| (turn.taken, turn.room_made));
        self.judge(said, expected).map_or(0, |(taken, _)| taken)
    }

    pub(super) fn publish(&mut self) {
        assert_eq!(self.core.publish(), self.model.publish());
    }

    pub(super) fn sleep_and_wake(&mut self) {
        self.core.set_starved(self.input.coin());
        let expected = self.model.refresh();
        let said = self.core.arm();
        self.judge(said, expected);
        self.core.disarm();
        let phase = [Phase::Open, Phase::Draining][self.input.below(2)];
        self.core.set_phase(phase);
    }
}
