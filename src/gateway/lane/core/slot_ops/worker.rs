//! The worker of these trials: it keeps the rules, or breaks any it likes, over real shared memory.
//! It notes in the model what it wrote, and never looks at what the hub keeps for itself.

use std::collections::BTreeMap;

use super::Input;
use super::asked::{Key, Stage};
use super::model::{Model, SLOT};
use crate::shm::arena::SlotMap;
use crate::shm::atomics::Ordering;
use crate::shm::descriptor::{Descriptor, Run};
use crate::shm::region::{LaneMemory, Word, WorkerSide};
use crate::shm::ring::{ReadRing, WriteRing};

/// An exchange as the worker sees it.
#[derive(Debug, Default)]
struct Served {
    begun: bool,
    /// Whether it has said that somebody reads the body, which is said once.
    reading: bool,
    owed: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Worker<'a> {
    memory: &'a LaneMemory<WorkerSide>,
    entries: u32,
    slots: u32,
    /// Whether it has kept to the rules so far.
    pub(super) honest: bool,
    /// Completions written, and submissions read.
    written: u32,
    read: u32,
    /// Its slots, as far as it has heard.
    arena: SlotMap,
    /// Request frames it has.
    kept: Vec<Run>,
    open: BTreeMap<Key, Served>,
    pong: Option<u32>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(memory: &'a LaneMemory<WorkerSide>, index: u32) -> Worker<'a> {
        let geometry = memory.geometry();
        Worker {
            memory,
            entries: geometry.ring_entries(),
            slots: geometry.slots(),
            honest: true,
            written: index,
            read: index,
            arena: SlotMap::new(geometry.slots()),
            kept: Vec::new(),
            open: BTreeMap::new(),
            pong: None,
        }
    }

    pub(super) fn step(&mut self, input: &mut Input<'_>, model: &mut Model) {
        match input.below(24) {
            0..6 => self.read(model, 1 + input.below(8)),
            6..11 => self.answer(input, model),
            11..14 => self.give_back(input, model),
            14 => self.say_read(input, model),
            15 | 16 => self.emit(input, model),
            17 => self.pong(model),
            // Half-told: written, and perhaps shown later with the next.
            18 => self.sleep(input, model),
            19 => self.read(model, u32::MAX as usize),
            _ if input.below(4) > 0 => self.answer(input, model),
            _ => self.lie(input, model),
        }
    }

    /// Takes submissions, which must be what the hub has said.
    pub(super) fn read(&mut self, model: &mut Model, most: usize) {
        let tail = self.memory.peer_word(Word::Tail).load(Ordering::Acquire);
        assert_eq!(tail, model.published, "what the hub has shown");
        for _ in 0..most {
            if self.read == tail {
                break;
            }
            let d = self.memory.inbound().read(self.read);
            let said = model.submissions[(self.read % self.entries) as usize];
            assert_eq!(d, said, "what the hub has said");
            self.read = self.read.wrapping_add(1);
            self.hear(&d, model);
        }
        self.set(Word::Head, self.read, model);
    }

    fn hear(&mut self, d: &Descriptor, model: &Model) {
        let key = (d.exchange, d.generation);
        match d.kind {
            1 => {
                let before = self.open.insert(key, Served::default());
                assert!(before.is_none() || !self.honest, "{key:?} twice");
                self.kept.push(d.run());
            }
            2 if d.slots > 0 => self.kept.push(d.run()),
            2 => assert!(d.is_end()),
            3 => {
                let freed = self.arena.release(d.run());
                assert!(freed || !self.honest, "{:?} returned twice", d.run());
            }
            _ => self.pong = Some(d.generation),
        }
        for slot in d.first..d.first + u32::from(d.slots) {
            assert!(slot < self.slots, "{d:?} past the arena");
        }
        assert!(!self.honest || self.kept.len() <= model.request.len());
    }

    /// Answers an exchange it has read, or goes on with its answer.
    fn answer(&mut self, input: &mut Input<'_>, model: &mut Model) {
        let Some(key) = input.key(&self.open) else {
            return;
        };
        let bodyless = model.exchanges.get(&key).is_some_and(|a| a.bodyless);
        let served = self.open.get_mut(&key).expect("just found");
        let first = !served.begun;
        let (end, abort) = (input.coin(), input.below(8) == 0);
        let (slots, len) = (input.below(4) as u32, input.below(9_000));
        let run = match slots {
            0 if first || !end => return,
            0 => Run::default(),
            slots => match self.arena.allocate(slots) {
                Some(run) => run,
                None => return,
            },
        };
        let head_len = if first { 1 + input.below(200) } else { 0 };
        let room = (slots as usize * SLOT).saturating_sub(head_len.next_multiple_of(64));
        let mut body_len = match (bodyless, served.owed) {
            (true, _) => 0,
            (false, Some(owed)) => len.min(room).min(owed as usize),
            (false, None) => len.min(room),
        };
        if first {
            served.owed = input.coin().then_some((body_len + input.below(300)) as u64);
            served.begun = true;
        }
        let total = served.owed.unwrap_or(u64::MAX);
        if let (Some(owed), false) = (&mut served.owed, bodyless) {
            // Who ends a body and does not give it up, ends it where it said.
            if end && !abort && *owed > body_len as u64 {
                if *owed > room as u64 {
                    body_len = 0;
                } else {
                    body_len = *owed as usize;
                }
            }
            *owed -= body_len as u64;
        }
        let short = !bodyless && served.owed.is_some_and(|owed| owed > 0);
        let flags = match (end, abort || short) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 3,
        };
        if end {
            self.open.remove(&key);
        }
        let d = Descriptor {
            kind: if first { 1 } else { 2 },
            flags,
            slots: run.slots as u16,
            first: run.first,
            exchange: key.0,
            generation: key.1,
            head_len: head_len as u32,
            body_len: body_len as u32,
            total,
        };
        self.send(d, input.below(4) > 0, model);
    }

    fn give_back(&mut self, input: &mut Input<'_>, model: &mut Model) {
        if let Some(run) = input.take(&mut self.kept) {
            let d = Descriptor {
                kind: 3,
                slots: run.slots as u16,
                first: run.first,
                ..Descriptor::default()
            };
            self.send(d, input.below(4) > 0, model);
        }
    }

    fn say_read(&mut self, input: &mut Input<'_>, model: &mut Model) {
        if let Some(key) = input.key(&self.open)
            && let Some(served) = self.open.get_mut(&key)
            && !std::mem::replace(&mut served.reading, true)
        {
            let d = Descriptor {
                kind: 5,
                exchange: key.0,
                generation: key.1,
                ..Descriptor::default()
            };
            self.send(d, true, model);
        }
    }

    fn emit(&mut self, input: &mut Input<'_>, model: &mut Model) {
        if let Some(run) = self.arena.allocate(1 + input.below(3) as u32) {
            let len = 24 + input.below(run.slots as usize * SLOT - 23);
            let d = Descriptor {
                kind: 6,
                slots: run.slots as u16,
                first: run.first,
                body_len: len as u32,
                total: 1 + input.below(len / 24) as u64,
                ..Descriptor::default()
            };
            self.send(d, true, model);
        }
    }

    fn pong(&mut self, model: &mut Model) {
        if let Some(generation) = self.pong.take() {
            let d = Descriptor {
                kind: 4,
                generation,
                ..Descriptor::default()
            };
            self.send(d, true, model);
        }
    }

    fn sleep(&mut self, input: &mut Input<'_>, model: &mut Model) {
        let (sleepers, starved) = (input.number(), input.number());
        // Any value is true of these.
        self.set(Word::Sleep, sleepers, model);
        self.set(Word::Starved, starved & 1, model);
    }

    /// Anything it can write, anywhere it can write.
    fn lie(&mut self, input: &mut Input<'_>, model: &mut Model) {
        self.honest = false;
        match input.below(16) {
            0 => {
                let tail = input.near(self.written);
                self.set(Word::Tail, tail, model);
            }
            1 => {
                let head = input.near(self.read);
                self.set(Word::Head, head, model);
            }
            2 => {
                let (at, d) = (input.near(self.written), input.descriptor());
                self.write(at, d, model);
            }
            3 => {
                let d = input.descriptor();
                self.send(d, true, model);
            }
            4 => {
                // Its own words are forgotten: what it answers, and whose slots these are.
                self.arena = SlotMap::new(self.slots);
            }
            _ => {
                let mut d = self.almost(input, model);
                for _ in 0..input.below(3) {
                    let value = input.number();
                    match input.below(9) {
                        0 => d.kind = value as u8,
                        1 => d.flags = value as u8,
                        2 => d.slots = value as u16,
                        3 => d.first = value,
                        4 => d.exchange = value,
                        5 => d.generation = value,
                        6 => d.head_len = value,
                        7 => d.body_len = value,
                        _ => d.total = u64::from(value),
                    }
                }
                self.send(d, true, model);
            }
        }
    }

    /// A descriptor that the hub might take at this moment, for an exchange or a frame that there is,
    /// read or not.
    fn almost(&mut self, input: &mut Input<'_>, model: &Model) -> Descriptor {
        let first = input.below(self.slots as usize) as u32;
        let lent = input.key(&model.lent);
        let asked = input.key(&model.exchanges);
        let (exchange, generation) = asked.unwrap_or_default();
        let kind = 1 + input.below(6) as u8;
        let run = match (kind, lent) {
            (3, Some(first)) => (first, model.lent[&first].0),
            _ => (first, 1),
        };
        let of_exchange = !matches!(kind, 3 | 6);
        Descriptor {
            kind,
            flags: if kind < 3 { input.below(4) as u8 } else { 0 },
            slots: run.1 as u16,
            first: run.0,
            exchange: if of_exchange { exchange } else { 0 },
            generation: match (of_exchange, model.ping) {
                (true, Some(number)) if kind == 4 => number,
                (true, _) => generation,
                (false, _) => 0,
            },
            head_len: u32::from(kind == 1),
            body_len: if kind == 6 { 64 } else { 0 },
            total: if kind == 6 { 2 } else { u64::MAX },
        }
    }

    /// Writes a completion, and perhaps shows it. An honest worker never finds the ring full.
    fn send(&mut self, d: Descriptor, show: bool, model: &mut Model) {
        let head = self.memory.peer_word(Word::Head).load(Ordering::Acquire);
        if self.written.wrapping_sub(head) >= self.entries {
            assert!(!self.honest, "the ring has room for whatever is true");
            return;
        }
        self.write(self.written, d, model);
        self.written = self.written.wrapping_add(1);
        if show {
            self.show(model);
        }
    }

    /// Shows what it has written.
    pub(super) fn show(&mut self, model: &mut Model) {
        self.set(Word::Tail, self.written, model);
    }

    fn write(&self, index: u32, d: Descriptor, model: &mut Model) {
        self.memory.outbound().write(index, d);
        model.completions[(index % self.entries) as usize] = d;
    }

    fn set(&self, word: Word, value: u32, model: &mut Model) {
        self.memory.own_word(word).store(value, Ordering::Release);
        match word {
            Word::Tail => model.tail = value,
            Word::Head => model.head = value,
            Word::Sleep => model.sleepers = value,
            _ => model.starved = value,
        }
    }

    /// Brings to an end whatever the hub waits for, by what the hub keeps: a liar that was not found
    /// out has lost count. `shown` is how much of its ring the hub has taken.
    pub(super) fn settle(&mut self, model: &mut Model, shown: u32) {
        self.written = shown;
        self.read = model.published;
        self.set(Word::Head, self.read, model);
        let mut all = Vec::new();
        for (first, (slots, _)) in &model.lent {
            all.push(Descriptor {
                kind: 3,
                slots: *slots as u16,
                first: *first,
                ..Descriptor::default()
            });
        }
        let mut free = (0..self.slots).filter(|slot| !model.held[*slot as usize]);
        for (key, asked) in &model.exchanges {
            let (kind, slots) = match asked.stage {
                Stage::Waiting => (1, 1),
                Stage::Responding => (2, 0),
                _ => continue,
            };
            all.push(Descriptor {
                kind,
                flags: 3,
                slots,
                first: match slots {
                    0 => 0,
                    _ => free.next().expect("as many slots as exchanges"),
                },
                exchange: key.0,
                generation: key.1,
                head_len: u32::from(slots),
                ..Descriptor::default()
            });
        }
        drop(free);
        all.extend(model.ping.map(|generation| Descriptor {
            kind: 4,
            generation,
            ..Descriptor::default()
        }));
        for d in all {
            self.write(self.written, d, model);
            self.written = self.written.wrapping_add(1);
        }
        self.show(model);
    }
}
