//! Which slots of an arena are taken. Private to the side that owns the arena, or to the one that
//! keeps an eye on it; no shared memory is touched.

use crate::shm::descriptor::Run;

/// A bitmap of slots with first-fit allocation of consecutive runs.
#[derive(Debug)]
pub struct SlotMap {
    /// A set bit is a free slot. Bits past the end stay clear.
    free: Box<[u64]>,
    slots: u32,
    free_count: u32,
    /// No slot below this word is free.
    hint: usize,
}

impl SlotMap {
    /// A map of `slots` free slots.
    pub fn new(slots: u32) -> SlotMap {
        let mut free = vec![u64::MAX; (slots as usize).div_ceil(64)].into_boxed_slice();
        if let (Some(last), rest @ 1..) = (free.last_mut(), slots % 64) {
            *last = (1 << rest) - 1;
        }
        SlotMap {
            free,
            slots,
            free_count: slots,
            hint: 0,
        }
    }

    /// Number of slots.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Number of free slots.
    pub fn free_count(&self) -> u32 {
        self.free_count
    }

    /// Takes `count` consecutive slots; `None` where no such run is free or `count` is zero.
    pub fn allocate(&mut self, count: u32) -> Option<Run> {
        if count == 0 || count > self.free_count {
            return None;
        }
        let run = if count == 1 {
            self.take_first()?
        } else {
            let run = Run {
                first: self.first_fit(count)?,
                slots: count,
            };
            self.for_each_word(run, |word, mask| *word &= !mask);
            run
        };
        self.free_count -= count;
        while self.free.get(self.hint) == Some(&0) {
            self.hint += 1;
        }
        Some(run)
    }

    /// Takes exactly this run; `false`, with nothing changed, where it is empty, reaches past the
    /// end, or has a slot that is taken.
    pub fn take(&mut self, run: Run) -> bool {
        if !self.is_within(run) {
            return false;
        }
        let all_free = match self.only_word(run) {
            Some((word, mask)) => {
                let all_free = *word & mask == mask;
                *word &= if all_free { !mask } else { u64::MAX };
                all_free
            }
            None => {
                let mut all_free = true;
                self.for_each_word(run, |word, mask| all_free &= *word & mask == mask);
                if all_free {
                    self.for_each_word(run, |word, mask| *word &= !mask);
                }
                all_free
            }
        };
        if all_free {
            self.free_count -= run.slots;
        }
        all_free
    }

    /// Gives a run back; `false`, with nothing changed, where it is empty, reaches past the end, or
    /// has a slot that is free.
    pub fn release(&mut self, run: Run) -> bool {
        if !self.is_within(run) {
            return false;
        }
        let all_taken = match self.only_word(run) {
            Some((word, mask)) => {
                let all_taken = *word & mask == 0;
                *word |= if all_taken { mask } else { 0 };
                all_taken
            }
            None => {
                let mut all_taken = true;
                self.for_each_word(run, |word, mask| all_taken &= *word & mask == 0);
                if all_taken {
                    self.for_each_word(run, |word, mask| *word |= mask);
                }
                all_taken
            }
        };
        if all_taken {
            self.free_count += run.slots;
            self.hint = self.hint.min(run.first as usize / 64);
        }
        all_taken
    }

    fn is_within(&self, run: Run) -> bool {
        run.slots > 0 && run.first < self.slots && run.slots <= self.slots - run.first
    }

    /// Takes the first free slot.
    fn take_first(&mut self) -> Option<Run> {
        let from_hint = self.free.get_mut(self.hint..)?;
        let (words, word) = from_hint.iter_mut().enumerate().find(|(_, w)| **w != 0)?;
        let bit = word.trailing_zeros();
        *word &= *word - 1;
        Some(Run {
            first: ((self.hint + words) * 64) as u32 + bit,
            slots: 1,
        })
    }

    /// The word that has all slots of a run, and which they are; `None` where there are several. Most runs
    /// are short, and this is half of what their bookkeeping takes.
    #[inline]
    fn only_word(&mut self, run: Run) -> Option<(&mut u64, u64)> {
        let offset = run.first % 64;
        if run.slots > 64 - offset {
            return None;
        }
        let word = self.free.get_mut(run.first as usize / 64)?;
        Some((word, (u64::MAX >> (64 - run.slots)) << offset))
    }

    fn first_fit(&self, count: u32) -> Option<u32> {
        let (mut start, mut length) = (0, 0);
        for (index, &word) in self.free.iter().enumerate().skip(self.hint) {
            let base = (index * 64) as u32;
            if word == u64::MAX {
                if length == 0 {
                    start = base;
                }
                length += 64;
            } else {
                let mut bit = 0;
                while bit < 64 {
                    let rest = word >> bit;
                    if rest & 1 == 0 {
                        length = 0;
                        if rest == 0 {
                            break;
                        }
                        bit += rest.trailing_zeros();
                    } else {
                        if length == 0 {
                            start = base + bit;
                        }
                        let ones = rest.trailing_ones();
                        length += ones;
                        bit += ones;
                    }
                    if length >= count {
                        return Some(start);
                    }
                }
            }
            if length >= count {
                return Some(start);
            }
        }
        None
    }

    fn for_each_word(&mut self, run: Run, mut f: impl FnMut(&mut u64, u64)) {
        let (mut bit, end) = (run.first, run.first + run.slots);
        while bit < end {
            let offset = bit % 64;
            let count = (64 - offset).min(end - bit);
            let mask = if count == 64 {
                u64::MAX
            } else {
                ((1 << count) - 1) << offset
            };
            f(&mut self.free[bit as usize / 64], mask);
            bit += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A splitmix64 step: enough chance for a test, and a seed is all it needs.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    #[test]
    fn behaves_as_a_plain_array_of_flags() {
        let seed = std::process::id() as u64;
        println!("seed {seed}");
        let mut state = seed;
        for slots in [16u32, 63, 64, 65, 200, 512] {
            let mut map = SlotMap::new(slots);
            let mut model = vec![true; slots as usize];
            let mut held: Vec<Run> = Vec::new();
            // Miri is slow, and looks for other faults than these.
            for _ in 0..if cfg!(miri) { 60 } else { 5_000 } {
                let want = 1 + (next(&mut state) % 9) as u32 * (1 + (next(&mut state) % 9) as u32);
                if next(&mut state).is_multiple_of(2) {
                    let expected = (0..slots as usize).find(|&at| {
                        model
                            .get(at..at + want as usize)
                            .is_some_and(|w| w.iter().all(|f| *f))
                    });
                    let got = map.allocate(want);
                    assert_eq!(
                        got.map(|r| r.first as usize),
                        expected,
                        "slots {slots} want {want}"
                    );
                    if let Some(run) = got {
                        assert!(!map.take(run));
                        model[run.first as usize..][..want as usize].fill(false);
                        held.push(run);
                    }
                } else if !held.is_empty() {
                    let run = held.swap_remove(next(&mut state) as usize % held.len());
                    assert!(map.release(run));
                    assert!(!map.release(run), "released twice");
                    model[run.first as usize..][..run.slots as usize].fill(true);
                }
                assert_eq!(
                    map.free_count() as usize,
                    model.iter().filter(|f| **f).count()
                );
            }
        }
    }

    #[test]
    fn a_run_that_no_arena_holds_changes_nothing() {
        let mut map = SlotMap::new(100);
        for run in [(0, 0), (100, 1), (99, 2), (u32::MAX, 1), (1, u32::MAX)] {
            let run = Run {
                first: run.0,
                slots: run.1,
            };
            assert!(!map.take(run) && !map.release(run));
        }
        assert_eq!(map.free_count(), 100);
    }
}
