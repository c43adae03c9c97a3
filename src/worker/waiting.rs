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
