//! Answers that wait for slots, kept so that whoever can go on is found without a look at the others:
//! clients that do not read keep hundreds of streams waiting, and slots come back all the time.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};
use std::task::Waker;

use crate::worker::lane::ExchangeId;

/// How many of those who wait are looked at, each time slots come back, for whether their exchange is
/// over.
const CHECKED_AT_ONCE: usize = 8;

/// Whose turn it is: the lower, the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// So many slots, for the beginning of an answer.
    Beginning(u32),
    /// Any slot at all, for a stream that has so many under way.
    Further(u32),
}

impl Need {
    /// The fewest slots that are of any use.
    pub(super) fn least(self) -> u32 {
        match self {
            Need::Beginning(least) => least,
            Need::Further(_) => 1,
        }
    }
}

/// Who is next: the need, and then first come, first served.
pub(super) type Place = (Need, u64);

/// Who waits for slots; each exchange once.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    line: BTreeMap<Place, (ExchangeId, Waker)>,
    places: BTreeMap<ExchangeId, Place>,
    /// The number of the last one who came.
    arrivals: u64,
    /// The last one who may be called now.
    round_end: u64,
    /// The last of those whose exchange was looked at in passing.
    checked: Option<ExchangeId>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Notes who is to be called. Whoever waits already keeps the place among those of its need.
    pub(super) fn put(&mut self, id: ExchangeId, need: Need, waker: &Waker) {
        let arrival = match self.places.get(&id).copied() {
            Some(place) if place.0 == need => {
                if let Some((_, known)) = self.line.get_mut(&place) {
                    known.clone_from(waker);
                }
                return;
            }
            Some(place) => {
                self.line.remove(&place);
                place.1
            }
            None => {
                self.arrivals += 1;
                self.arrivals
            }
        };
        self.places.insert(id, (need, arrival));
        self.line.insert((need, arrival), (id, waker.clone()));
    }

    /// The exchange waits for nothing any more.
    pub(super) fn remove(&mut self, id: ExchangeId) -> Option<Waker> {
        let place = self.places.remove(&id)?;
        self.line.remove(&place).map(|(_, waker)| waker)
    }

    /// The exchanges with this number have so many slots under way now.
    pub(super) fn has_under_way(&mut self, exchange: u32, held: u32) {
        // As it is nearly always, and each answer asks twice.
        if self.line.is_empty() {
            return;
        }
        for (_, place) in self.places.range_mut(numbered(exchange)) {
            if matches!(place.0, Need::Further(was) if was != held)
                && let Some(waiter) = self.line.remove(place)
            {
                place.0 = Need::Further(held);
                self.line.insert(*place, waiter);
            }
        }
    }

    /// Slots have come back: everybody who waits now may be called once.
    pub(super) fn begin_round(&mut self) {
        self.round_end = self.arrivals;
    }

    /// Whoever is next of those whose need `fits` and who were not called in this round: somebody who
    /// came and found nothing, because no slots stand side by side, is not called again before others
    /// have come back. Nobody whose need is the same kind and greater fits where the less does not.
    pub(super) fn next(&self, fits: impl Fn(Need) -> bool) -> Option<Place> {
        let mut from = (Need::Beginning(0), 0);
        loop {
            let place = *self.line.range(from..).next()?.0;
            from = match place {
                (need, arrival) if fits(need) && arrival <= self.round_end => return Some(place),
                (need, _) if fits(need) => (need, u64::MAX),
                (Need::Beginning(_), _) => (Need::Further(0), 0),
                (Need::Further(_), _) => return None,
            };
        }
    }

    /// Takes out the one at this place.
    pub(super) fn take(&mut self, place: Place) -> Option<Waker> {
        let (id, waker) = self.line.remove(&place)?;
        self.places.remove(&id);
        Some(waker)
    }

    /// Takes out those with this number whose exchange is over, and those of a few others, in turn.
    pub(super) fn take_over(
        &mut self,
        exchange: u32,
        is_over: impl Fn(ExchangeId) -> bool,
        called: &mut Vec<Waker>,
    ) {
        let after = self.checked.map_or(Bound::Unbounded, Bound::Excluded);
        let few = self.places.range((after, Bound::Unbounded));
        let few: Vec<_> = few.map(|(id, _)| *id).take(CHECKED_AT_ONCE).collect();
        // Behind the last one the first has its turn again.
        self.checked = few.get(CHECKED_AT_ONCE - 1).copied();
        let named = self.places.range(numbered(exchange)).map(|(id, _)| *id);
        let over: Vec<_> = named.chain(few).filter(|id| is_over(*id)).collect();
        called.extend(over.into_iter().filter_map(|id| self.remove(id)));
    }

    /// Takes out all whose exchange is over.
    pub(super) fn take_all_over(&mut self, is_over: impl Fn(ExchangeId) -> bool) -> Vec<Waker> {
        let ids = self.places.keys().copied();
        let over: Vec<_> = ids.filter(|id| is_over(*id)).collect();
        over.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Takes out everybody.
    pub(super) fn take_all(&mut self) -> Vec<Waker> {
        self.places.clear();
        let line = std::mem::take(&mut self.line);
        line.into_values().map(|(_, waker)| waker).collect()
    }
}

/// Every exchange with this number. More than one may wait: the hub gives a number to the next exchange
/// as soon as it has given one up.
fn numbered(index: u32) -> RangeInclusive<ExchangeId> {
    let id = |generation| ExchangeId { index, generation };
    id(0)..=id(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;

    fn id(index: u32) -> ExchangeId {
        ExchangeId {
            index,
            generation: 1,
        }
    }

    fn waiting(needs: &[Need]) -> Waiting {
        let mut waiting = Waiting::default();
        for (index, need) in needs.iter().enumerate() {
            waiting.put(id(index as u32), *need, Waker::noop());
        }
        waiting.begin_round();
        waiting
    }

    fn order(waiting: &mut Waiting, fits: impl Fn(Need) -> bool) -> Vec<u64> {
        std::iter::from_fn(|| {
            let place = waiting.next(&fits)?;
            assert!(waiting.take(place).is_some());
            Some(place.1)
        })
        .collect()
    }

    #[test]
    fn who_needs_least_is_first_and_then_who_came_first() {
        use Need::{Beginning, Further};
        let needs = [
            Further(1),
            Further(0),
            Beginning(2),
            Further(0),
            Beginning(1),
        ];
        assert_eq!(order(&mut waiting(&needs), |_| true), [5, 3, 2, 4, 1]);
        // What does not fit stands in the way of its own kind alone.
        let small = |need| matches!(need, Beginning(..=1) | Further(0));
        assert_eq!(order(&mut waiting(&needs), small), [5, 2, 4]);
        let none_begins = |need| matches!(need, Further(_));
        assert_eq!(order(&mut waiting(&needs), none_begins), [2, 4, 1]);
    }

    #[test]
    fn a_need_changes_with_what_is_under_way() {
        let mut waiting = waiting(&[Need::Further(2), Need::Further(1), Need::Beginning(1)]);
        waiting.has_under_way(0, 0);
        waiting.has_under_way(2, 7);
        assert_eq!(order(&mut waiting, |_| true), [3, 1, 2]);
        assert!(waiting.is_empty() && waiting.places.is_empty());
    }

    #[test]
    fn nobody_is_called_twice_in_a_round() {
        let mut waiting = waiting(&[Need::Beginning(2), Need::Further(0)]);
        let place = waiting.next(|_| true).expect("there are two");
        waiting.take(place);
        // It has come and found nothing.
        waiting.put(id(0), Need::Beginning(2), Waker::noop());
        assert_eq!(order(&mut waiting, |_| true), [2]);
        waiting.begin_round();
        assert_eq!(order(&mut waiting, |_| true), [3]);
    }

    #[test]
    fn who_asks_again_is_called_by_the_last_waker() {
        struct Called(AtomicBool);
        impl Wake for Called {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let called = Arc::new(Called(AtomicBool::new(false)));
        let mut waiting = waiting(&[Need::Further(0), Need::Further(0)]);
        waiting.put(id(0), Need::Further(0), &Waker::from(called.clone()));
        let place = waiting.next(|_| true).expect("there are two");
        assert_eq!(place.1, 1, "it keeps its place");
        waiting.take(place).expect("it is there").wake();
        assert!(called.0.load(Ordering::Relaxed));
        assert!(waiting.remove(id(0)).is_none() && waiting.remove(id(1)).is_some());
    }

    #[test]
    fn whose_exchange_is_over_is_found_by_its_number_or_in_passing() {
        let needs = [Need::Further(0); 3 * CHECKED_AT_ONCE + 1];
        let mut waiting = waiting(&needs);
        let next = ExchangeId {
            index: 20,
            generation: 2,
        };
        waiting.put(next, Need::Further(0), Waker::noop());
        let mut called = Vec::new();
        waiting.take_over(20, |id| id == next, &mut called);
        assert_eq!(called.len(), 1, "two have this number");
        for last in [needs.len() as u32 - 1, 0] {
            called.clear();
            let gone = id(last);
            for _ in 0..5 {
                waiting.take_over(u32::MAX, |id| id == gone, &mut called);
            }
            assert_eq!(called.len(), 1, "{gone:?}");
        }
        assert_eq!(waiting.take_all_over(|id| id.index % 2 == 0).len(), 11);
        assert_eq!(waiting.take_all().len(), 12);
        assert!(waiting.is_empty());
    }
}
