//! The map of slots alone, at sizes and in shapes that no lane of these trials has, against an array
//! of flags.

use super::Input;
use crate::shm::arena::SlotMap;
use crate::shm::descriptor::Run;

/// Takes the rest of the bytes for operations on one map.
pub(super) fn check(mut input: Input<'_>) {
    let slots = 1 + input.below(600);
    let mut map = SlotMap::new(slots as u32);
    let mut free = vec![true; slots];
    while !input.is_empty() {
        let run = Run {
            first: input.below(slots + 2) as u32,
            slots: match input.next() {
                wide @ 240.. => input.number().max(u32::from(wide)),
                narrow => u32::from(narrow),
            },
        };
        let range = run.first as usize..run.first as usize + run.slots as usize;
        let is = |wanted: bool, free: &[bool]| {
            let there = free.get(range.clone());
            run.slots > 0 && there.is_some_and(|slots| slots.iter().all(|slot| *slot == wanted))
        };
        match input.below(4) {
            0 | 1 => {
                let count = run.slots as usize;
                let windows = free.windows(count.clamp(1, slots));
                let fits = (1..=slots).contains(&count);
                let expected = windows
                    .enumerate()
                    .find(|(_, w)| fits && w.iter().all(|slot| *slot))
                    .map(|(at, _)| at as u32);
                let found = map.allocate(run.slots);
                assert_eq!(found.map(|run| run.first), expected, "{count} slots");
                if let Some(found) = found {
                    assert_eq!(found.slots, run.slots);
                    free[found.first as usize..][..count].fill(false);
                }
            }
            2 => {
                let expected = is(true, &free);
                assert_eq!(map.take(run), expected, "{run:?}");
                if expected {
                    free[range].fill(false);
                }
            }
            _ => {
                let expected = is(false, &free);
                assert_eq!(map.release(run), expected, "{run:?}");
                if expected {
                    free[range].fill(true);
                }
            }
        }
        let count = free.iter().filter(|slot| **slot).count();
        assert_eq!(map.free_count() as usize, count);
    }
}
