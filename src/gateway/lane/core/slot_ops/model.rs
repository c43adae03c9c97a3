//! What a lane must do, as plain lists: who has each slot, where each exchange stands, and what stands
//! in both rings. It shares no code with the lane, and is never part of a normal build.

use std::collections::{BTreeMap, VecDeque};

use super::asked::{Asked, Key, Place, Refused, Stage};
use crate::gateway::lane::core::exchange::{EventFrame, EventOutcome, Failure, Frame};
use crate::shm::descriptor::{Descriptor, Run};

/// Bytes in a slot of the lanes tested here.
pub(super) const SLOT: usize = 4096;
/// How long the worker may take between two words, in milliseconds.
pub(super) const TIMEOUT_MS: u64 = 1_000;

/// The lane as it must be.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) request: Vec<Place>,
    /// By first slot: length of the run the worker has, and for whom.
    pub(super) lent: BTreeMap<u32, (u32, Key)>,
    /// Whether the hub holds a response slot.
    pub(super) held: Vec<bool>,
    /// By first slot: for whom the hub holds a frame; nobody for events.
    pub(super) held_for: BTreeMap<u32, (u32, Option<Key>)>,
    pub(super) exchanges: BTreeMap<Key, Asked>,
    /// The generation each index has, or will have.
    pub(super) generations: Vec<u32>,
    pub(super) events: VecDeque<EventFrame>,
    pub(super) ping: Option<u32>,
    pub(super) dead: bool,
    pub(super) now_ms: u64,
    pub(super) call_due: bool,
    /// What the worker wrote: its ring and its words.
    pub(super) completions: Vec<Descriptor>,
    pub(super) tail: u32,
    pub(super) head: u32,
    pub(super) sleepers: u32,
    pub(super) starved: u32,
    /// How far the hub has come with the worker's ring, and how far it has looked.
    taken: u32,
    seen: u32,
    /// What the hub wrote to its ring, how much of it, and how much it has shown.
    pub(super) submissions: Vec<Descriptor>,
    written: u32,
    pub(super) published: u32,
    head_seen: u32,
}

impl Model {
    /// A lane in which nothing has happened; both rings stand at `index`.
    pub(super) fn new(generations: Vec<u32>, entries: usize, index: u32) -> Model {
        let slots = generations.len();
        Model {
            request: vec![Place::Free; slots],
            lent: BTreeMap::new(),
            held: vec![false; slots],
            held_for: BTreeMap::new(),
            exchanges: BTreeMap::new(),
            generations,
            events: VecDeque::new(),
            ping: None,
            dead: false,
            now_ms: 0,
            call_due: false,
            completions: vec![Descriptor::default(); entries],
            tail: index,
            head: index,
            sleepers: 0,
            starved: 0,
            taken: index,
            seen: index,
            submissions: vec![Descriptor::default(); entries],
            written: index,
            published: index,
            head_seen: index,
        }
    }

    pub(super) fn free_slots(&self) -> usize {
        self.request.iter().filter(|p| **p == Place::Free).count()
    }

    /// Where the first run of so many free slots begins.
    pub(super) fn first_fit(&self, count: usize) -> Option<usize> {
        let mut windows = self.request.windows(count.max(1));
        windows.position(|w| w.iter().all(|p| *p == Place::Free))
    }

    /// Moves a run of request slots from one to the other.
    pub(super) fn pass(&mut self, run: Run, from: Place, to: Place) {
        for slot in &mut self.request[run.first as usize..][..run.slots as usize] {
            assert_eq!(*slot, from, "{run:?} on its way to {to:?}");
            *slot = to;
        }
    }

    pub(super) fn begin(&mut self, key: Key, bodyless: bool) {
        assert_eq!(self.generations[key.0 as usize], key.1, "{key:?} is stale");
        let asked = Asked {
            stage: Stage::Preparing,
            abandoned: false,
            bodyless,
            owed: None,
            complete: false,
            reading: false,
            lent: BTreeMap::new(),
            held: 0,
            frames: VecDeque::new(),
            failure: None,
            due_ms: None,
            slow: false,
        };
        let before = self.exchanges.insert(key, asked);
        assert!(before.is_none(), "{key:?} is in use");
    }

    /// Whether a further frame of the body may go to the worker.
    pub(super) fn may_submit(&self, key: Key, window: usize) -> bool {
        let window = match self.free_slots() > self.request.len() / 2 {
            true => window,
            false => 1,
        };
        self.exchanges.get(&key).is_none_or(|asked| {
            let bodies = asked.lent.values().filter(|is_head| !**is_head).count();
            asked.stage == Stage::Ended || (asked.reading && bodies < window)
        })
    }

    pub(super) fn submit(&mut self, key: Key, d: Descriptor, due_ms: u64) -> Result<(), Refused> {
        let run = d.run();
        let asked = self.exchanges.get_mut(&key);
        let asked = asked.filter(|asked| asked.stage != Stage::Ended);
        let (Some(asked), false) = (asked, self.dead) else {
            self.pass(run, Place::Hub, Place::Free);
            return Ok(());
        };
        let first = asked.stage == Stage::Preparing;
        if first {
            asked.stage = Stage::Waiting;
        }
        asked.complete = d.is_end();
        asked.expect_word_by(due_ms);
        asked.lent.insert(run.first, first);
        self.lent.insert(run.first, (run.slots, key));
        self.pass(run, Place::Hub, Place::Worker);
        let kind = if first { 1 } else { 2 };
        self.push(Descriptor { kind, ..d })?;
        self.call_due = true;
        Ok(())
    }

    pub(super) fn end_body(&mut self, key: Key, abort: u8, due_ms: u64) -> Result<(), Refused> {
        let open = [Stage::Waiting, Stage::Responding];
        let asked = self.exchanges.get_mut(&key);
        let asked = asked.filter(|asked| open.contains(&asked.stage) && !asked.complete);
        let (Some(asked), false) = (asked, self.dead) else {
            return Ok(());
        };
        asked.complete = true;
        asked.expect_word_by(due_ms);
        self.push(Descriptor {
            kind: 2,
            flags: 1 | abort,
            exchange: key.0,
            generation: key.1,
            total: u64::MAX,
            ..Descriptor::default()
        })?;
        self.call_due = true;
        Ok(())
    }

    pub(super) fn finish(&mut self, key: Key) -> Result<bool, Refused> {
        let asked = self.exchanges.get_mut(&key).expect("finished once");
        asked.abandoned = true;
        asked.due_ms = None;
        let frames = std::mem::take(&mut asked.frames);
        let open = matches!(asked.stage, Stage::Waiting | Stage::Responding);
        if asked.stage == Stage::Preparing {
            asked.stage = Stage::Ended;
        }
        let mut call = open && !asked.complete && !self.dead;
        if call {
            self.end_body(key, 2, u64::MAX)?;
        }
        for frame in frames {
            call |= self.return_frame(frame.run)?;
        }
        self.free_if_done(key);
        Ok(call)
    }

    pub(super) fn poll(&mut self, key: Key) -> Option<Result<Frame, Failure>> {
        let Some(asked) = self.exchanges.get_mut(&key) else {
            return Some(Err(Failure::WorkerGone));
        };
        match (asked.frames.pop_front(), asked.failure) {
            (Some(frame), _) => Some(Ok(frame)),
            (None, failure) => failure.map(Err),
        }
    }

    pub(super) fn return_frame(&mut self, run: Run) -> Result<bool, Refused> {
        if run.is_empty() || self.dead {
            return Ok(false);
        }
        let due_ms = self.now_ms + TIMEOUT_MS;
        let (_, key) = self.let_go(run);
        let key = key.expect("the frame of an answer");
        if let Some(asked) = self.exchanges.get_mut(&key) {
            asked.held -= 1;
            if asked.stage == Stage::Responding && asked.complete {
                asked.expect_word_by(due_ms);
            }
        }
        self.push_return(run, EventOutcome::default())
    }

    pub(super) fn return_event(
        &mut self,
        run: Run,
        outcome: EventOutcome,
    ) -> Result<bool, Refused> {
        let there = self.held_for.get(&run.first) == Some(&(run.slots, None));
        if self.dead || !there {
            return Ok(false);
        }
        self.let_go(run);
        self.push_return(run, outcome)
    }

    fn let_go(&mut self, run: Run) -> (u32, Option<Key>) {
        let (slots, key) = self.held_for.remove(&run.first).expect("a frame is held");
        assert_eq!(slots, run.slots);
        self.held[run.first as usize..][..slots as usize].fill(false);
        (slots, key)
    }

    fn push_return(&mut self, run: Run, outcome: EventOutcome) -> Result<bool, Refused> {
        self.push(Descriptor {
            kind: 3,
            flags: outcome.flags,
            slots: run.slots as u16,
            first: run.first,
            head_len: outcome.dropped,
            body_len: outcome.reached,
            ..Descriptor::default()
        })?;
        self.published = self.written;
        self.call_due |= self.starved != 0;
        Ok(self.starved != 0)
    }

    pub(super) fn send_ping(&mut self, number: u32) -> Result<bool, Refused> {
        if self.ping.is_some() {
            return Ok(true);
        }
        self.ping = Some(number);
        self.push(Descriptor {
            kind: 4,
            generation: number,
            ..Descriptor::default()
        })?;
        self.call_due = true;
        Ok(false)
    }

    pub(super) fn publish(&mut self) -> bool {
        self.published = self.written;
        std::mem::take(&mut self.call_due) && self.sleepers != 0
    }

    /// Room is looked for only where there is none as far as the hub knows.
    fn push(&mut self, d: Descriptor) -> Result<(), Refused> {
        let entries = self.submissions.len() as u32;
        if self.written.wrapping_sub(self.head_seen) >= entries {
            if self.published.wrapping_sub(self.head) > entries {
                return Err(Refused);
            }
            self.head_seen = self.head;
            if self.written.wrapping_sub(self.head) >= entries {
                return Err(Refused);
            }
        }
        self.submissions[(self.written % entries) as usize] = d;
        self.written = self.written.wrapping_add(1);
        Ok(())
    }

    pub(super) fn expire(&mut self, now_ms: u64) -> usize {
        self.now_ms = now_ms;
        let mut overdue = 0;
        for asked in self.exchanges.values_mut() {
            if asked.due_ms.is_some_and(|due| due <= now_ms) {
                asked.fail(Failure::Deadline);
                overdue += 1;
            } else {
                asked.slow |= matches!(asked.stage, Stage::Waiting | Stage::Responding);
            }
        }
        overdue
    }

    /// Exchanges whose answers may begin at any moment.
    pub(super) fn awaited(&self) -> usize {
        let awaited = |asked: &&Asked| asked.stage == Stage::Waiting && !asked.slow;
        self.exchanges.values().filter(awaited).count()
    }

    pub(super) fn die(&mut self) {
        self.dead = true;
        self.events.clear();
        let exchanges = self.exchanges.values_mut();
        exchanges.for_each(|asked| asked.fail(Failure::WorkerGone));
    }

    /// The hub looks at the worker's index. Whether something is there.
    pub(super) fn refresh(&mut self) -> Result<bool, Refused> {
        let ready = self.tail.wrapping_sub(self.taken);
        let before = self.seen.wrapping_sub(self.taken);
        if ready > self.completions.len() as u32 || ready < before {
            return Err(Refused);
        }
        self.seen = self.tail;
        Ok(ready > 0)
    }

    /// The hub takes completions: how many, and whether that made room.
    pub(super) fn take(&mut self, limit: usize, now_ms: u64) -> Result<(usize, bool), Refused> {
        self.now_ms = now_ms;
        let in_use = self.exchanges.len();
        let (mut count, mut returned) = (0, false);
        while count < limit && !self.dead {
            if self.taken == self.seen && !self.refresh()? {
                break;
            }
            let d = self.completions[self.taken as usize % self.completions.len()];
            self.taken = self.taken.wrapping_add(1);
            count += 1;
            match d.kind {
                1 | 2 => self.frame(&d)?,
                3 => self.returned(&d)?,
                4 if self.ping.take() == Some(d.generation) => {}
                5 => {
                    if let Some(asked) = self.exchanges.get_mut(&(d.exchange, d.generation)) {
                        asked.reading = true;
                    }
                }
                6 => self.event(&d)?,
                _ => return Err(Refused),
            }
            returned |= d.kind == 3;
        }
        Ok((count, returned || self.exchanges.len() < in_use))
    }

    fn frame(&mut self, d: &Descriptor) -> Result<(), Refused> {
        let key = (d.exchange, d.generation);
        let may_hold = d.slots > 0 && self.may_hold(d.run());
        let asked = self.exchanges.get_mut(&key).ok_or(Refused)?;
        let (first, end, abort) = (d.kind == 1, d.flags & 1 != 0, d.flags & 2 != 0);
        let (head, body) = (u64::from(d.head_len), u64::from(d.body_len));
        let body_at = head.div_ceil(64) * 64;
        let room = u64::from(d.slots) * SLOT as u64;
        let turn = match first {
            true => Stage::Waiting,
            false => Stage::Responding,
        };
        let sound = asked.stage == turn
            && (end || !abort)
            && first == (head > 0)
            && head <= room
            && (body == 0 || body_at + body <= room)
            && (may_hold || (d.slots == 0 && end));
        if !sound {
            return Err(Refused);
        }
        if first {
            asked.owed = (d.total != u64::MAX).then_some(d.total);
            asked.stage = Stage::Responding;
        }
        if asked.bodyless {
            if body > 0 {
                return Err(Refused);
            }
        } else if let Some(owed) = &mut asked.owed {
            *owed = owed.checked_sub(body).ok_or(Refused)?;
            if end && !abort && *owed > 0 {
                return Err(Refused);
            }
        }
        asked.due_ms = None;
        if end {
            asked.stage = Stage::Ended;
        }
        asked.held += u32::from(d.slots > 0);
        let abandoned = asked.abandoned;
        let run = match d.slots {
            0 => Run::default(),
            _ => d.run(),
        };
        if !abandoned {
            asked.frames.push_back(Frame {
                run,
                head_len: head as usize,
                body_at: body_at as usize,
                body_len: body as usize,
                total: (d.total != u64::MAX).then_some(d.total),
                end,
                abort,
            });
        }
        if d.slots > 0 {
            self.hold(run, Some(key));
        }
        if abandoned {
            self.return_frame(run)?;
            self.free_if_done(key);
        }
        Ok(())
    }

    fn event(&mut self, d: &Descriptor) -> Result<(), Refused> {
        let (len, room) = (d.body_len as usize, d.slots as usize * SLOT);
        let bare = d.exchange == 0 && d.generation == 0 && d.flags == 0 && d.head_len == 0;
        // The shortest record has 24 bytes.
        let counted = d.total >= 1 && d.total <= (len / 24) as u64;
        if !bare || len > room.min(512 * 1024) || !counted || !self.may_hold(d.run()) {
            return Err(Refused);
        }
        self.hold(d.run(), None);
        self.events.push_back(EventFrame {
            run: d.run(),
            len,
            records: d.total,
        });
        Ok(())
    }

    fn returned(&mut self, d: &Descriptor) -> Result<(), Refused> {
        let there = self.lent.get(&d.first).copied();
        let (slots, key) = there.ok_or(Refused)?;
        if slots != u32::from(d.slots) {
            return Err(Refused);
        }
        self.lent.remove(&d.first);
        self.pass(d.run(), Place::Worker, Place::Free);
        let asked = self.exchanges.get_mut(&key).expect("kept until this");
        asked.lent.remove(&d.first);
        self.free_if_done(key);
        Ok(())
    }

    /// Whether the worker may give a run of its arena to the hub: it has all of it.
    fn may_hold(&self, run: Run) -> bool {
        let slots = self.held.get(run.first as usize..).unwrap_or_default();
        let slots = slots.get(..run.slots as usize);
        run.slots > 0 && slots.is_some_and(|slots| slots.iter().all(|held| !held))
    }

    fn hold(&mut self, run: Run, key: Option<Key>) {
        self.held[run.first as usize..][..run.slots as usize].fill(true);
        self.held_for.insert(run.first, (run.slots, key));
    }

    fn free_if_done(&mut self, key: Key) {
        let asked = &self.exchanges[&key];
        if asked.abandoned && asked.stage == Stage::Ended && asked.lent.is_empty() {
            self.exchanges.remove(&key);
            // 31 bits, and never zero.
            self.generations[key.0 as usize] = match key.1 {
                0x7FFF_FFFF => 1,
                generation => generation + 1,
            };
        }
    }
}
