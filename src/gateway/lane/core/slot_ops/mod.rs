//! Sequences of operations on a lane, from both its ends, against a model of plain lists: a check
//! that both a test and a fuzz target run. It is never part of a normal build.

mod arena;
mod asked;
mod model;
mod trial;
mod worker;

use std::collections::BTreeMap;

use crate::shm::descriptor::Descriptor;

pub use self::trial::{Seen, lane_of};

/// Takes the bytes for operations on a lane: what the hub's tasks do, and what a worker does, which
/// keeps the rules or breaks any. After each the lane must be where the model is: it says the same,
/// refuses what the model refuses and nothing else, and has no slot in two places. An honest worker is
/// never refused anything. In the end everything is given back, and must be free.
///
/// # Panics
/// If they disagree.
pub fn check(input: &[u8]) {
    let mut input = Input { bytes: input };
    match input.below(8) {
        0 => arena::check(input),
        1 | 2 => drop(lane_of(80, input)),
        _ => drop(lane_of(16, input)),
    }
}

/// What the bytes of a trial say, one choice after the other.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
}

impl Input<'_> {
    fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    fn next(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// A number below `bound`, which is not zero.
    fn below(&mut self, bound: usize) -> usize {
        let number = match bound {
            ..=256 => usize::from(self.next()),
            _ => usize::from(u16::from_le_bytes([self.next(), self.next()])),
        };
        number % bound
    }

    /// A number near those that mean something, or any.
    fn number(&mut self) -> u32 {
        match self.next() {
            kind @ 0..32 => 1 << kind,
            32..48 => u32::MAX - u32::from(self.next() % 4),
            48..64 => u32::from_le_bytes(std::array::from_fn(|_| self.next())),
            64..96 => 4096 - 66 + u32::from(self.next() % 132),
            small => u32::from(small) % 20,
        }
    }

    /// A number near another, or any.
    fn near(&mut self, number: u32) -> u32 {
        match self.next() {
            0..64 => self.number(),
            step => number.wrapping_add(u32::from(step)).wrapping_sub(160),
        }
    }

    fn descriptor(&mut self) -> Descriptor {
        Descriptor {
            kind: self.next(),
            flags: self.next(),
            slots: self.number() as u16,
            first: self.number(),
            exchange: self.number(),
            generation: self.number(),
            head_len: self.number(),
            body_len: self.number(),
            total: u64::from(self.number()) << (self.next() & 32),
        }
    }

    /// One of the keys, where there are any.
    fn key<K: Copy, V>(&mut self, map: &BTreeMap<K, V>) -> Option<K> {
        match map.len() {
            0 => None,
            len => map.keys().nth(self.below(len)).copied(),
        }
    }

    /// Takes one out, where there are any.
    fn take<T>(&mut self, from: &mut Vec<T>) -> Option<T> {
        match from.len() {
            0 => None,
            len => Some(from.swap_remove(self.below(len))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuzz_corpus_passes() {
        crate::corpus::replay("slot_ops", check);
    }

    #[test]
    fn chance_finds_nothing_and_gets_everywhere() {
        let seed = match std::env::var("SLOT_SEED") {
            Ok(seed) => seed.parse().expect("SLOT_SEED is a decimal number"),
            Err(_) => u64::from(std::process::id()),
        };
        println!("SLOT_SEED={seed} repeats this run");
        let mut state = seed;
        let mut seen = Seen::default();
        // Miri is slow, and looks for other faults than these.
        let (rounds, longest) = if cfg!(miri) {
            (16, 300)
        } else {
            (3_000, 3_000)
        };
        for round in 0..rounds {
            let len = super::super::tests::chance(&mut state) as usize % longest;
            let bytes: Vec<u8> = (0..len)
                .map(|_| super::super::tests::chance(&mut state) as u8)
                .collect();
            let input = Input { bytes: &bytes };
            match round % 8 {
                0 => arena::check(input),
                1 => seen.add(lane_of(80, input)),
                _ => seen.add(lane_of(16, input)),
            }
        }
        println!("{seen:?}");
        let least = [
            seen.answers,
            seen.events,
            seen.evicted,
            seen.honest,
            seen.late,
        ];
        assert!(least.iter().all(|count| *count >= rounds / 30), "{seen:?}");
    }
}
