//! Collects routes, of which an immutable table is made. It never replaces a route that is
//! there, and refuses routes that would make some lookup slow.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use super::branch::{Branch, Entry};
use super::layout::lay_out;
use super::pattern::{Pattern, PatternSegment};
use super::table::{Route, RouteTable};
use crate::limits::MAX_ROUTE_TRAILS;
use crate::message::Method;

/// Most bytes of pattern in one table, so that every index into it fits 32 bits: a byte makes three
/// nodes at most, empty places included.
const MAX_TEXT: usize = 1 << 30;

/// Collects routes for a [`RouteTable`].
#[derive(Debug)]
pub struct RouteTableBuilder<T> {
    branches: Vec<Branch>,
    /// In the order of registration.
    routes: Vec<(Method, Pattern, T)>,
    text_len: usize,
    /// Of the keys under which labels are hashed.
    seed: u64,
}

/// Why a route was not added. The table is as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// A route with this method and a pattern of the same shape is there already and stays.
    Duplicate {
        /// The method of both.
        method: Method,
        /// The pattern that was first; its parameters may have other names.
        first: Pattern,
    },
    /// Together with the routes that are there, a search could have to follow more than
    /// [`MAX_ROUTE_TRAILS`] ways, because literals, parameters and catch-alls compete in too many
    /// segments.
    TooManyChoices {
        /// Ways that the worst path would take.
        trails: usize,
    },
    /// The patterns together have more than 1 GiB of text.
    Full,
}

impl<T> RouteTableBuilder<T> {
    /// A builder without routes. Hashes are seeded at random, so that nobody can choose routes that
    /// collide.
    pub fn new() -> Self {
        Self::with_seed(RandomState::new().build_hasher().finish())
    }

    /// A builder whose table is laid out the same way each time. Only for routes that no stranger
    /// chooses.
    pub fn with_seed(seed: u64) -> Self {
        RouteTableBuilder {
            branches: vec![Branch {
                trails: 1,
                ..Branch::default()
            }],
            routes: Vec::new(),
            text_len: 0,
            seed,
        }
    }

    /// Adds a route.
    ///
    /// # Errors
    /// See [`InsertError`]; the target is dropped and nothing else changes.
    pub fn insert(
        &mut self,
        method: Method,
        pattern: &Pattern,
        target: T,
    ) -> Result<(), InsertError> {
        if self.text_len + pattern.as_str().len() > MAX_TEXT {
            return Err(InsertError::Full);
        }
        let mut missing = Vec::new();
        let mut known = vec![0];
        let mut ends_in_catch_all = false;
        for segment in pattern.segments() {
            let entry = match segment {
                PatternSegment::Literal(literal) => Entry::Literal(literal.as_bytes()),
                PatternSegment::Param(_) => Entry::Param,
                PatternSegment::CatchAll(_) => {
                    ends_in_catch_all = true;
                    break;
                }
            };
            let last = &self.branches[known[known.len() - 1]];
            match last.child(&entry) {
                Some(child) if missing.is_empty() => known.push(child as usize),
                _ => missing.push(entry),
            }
        }

        let end = known[known.len() - 1];
        if missing.is_empty() {
            let taken = self.branches[end].routes(ends_in_catch_all);
            if let Some((_, first)) = taken.iter().find(|(taken, _)| *taken == method) {
                return Err(InsertError::Duplicate {
                    method,
                    first: self.routes[*first as usize].1.clone(),
                });
            }
        }
        let gains_rest = missing.is_empty() && ends_in_catch_all;
        let after = self.trails_after(&known, &missing, gains_rest);
        let (trails, _) = after[0];
        if trails > MAX_ROUTE_TRAILS {
            return Err(InsertError::TooManyChoices { trails });
        }

        for (branch, (trails, literal_trails)) in known.iter().zip(after) {
            self.branches[*branch].trails = trails;
            self.branches[*branch].literal_trails = literal_trails;
        }
        let end = self.grow(end, &missing);
        let route = self.routes.len() as u32;
        let here = &mut self.branches[end];
        here.routes_mut(ends_in_catch_all).push((method, route));
        self.text_len += pattern.as_str().len();
        self.routes.push((method, pattern.clone(), target));
        Ok(())
    }

    /// Lays the routes out as a table.
    pub fn build(self) -> RouteTable<T> {
        let trails = self.branches[0].trails;
        let (tree, order) = lay_out(self.branches, self.seed);

        // The targets of one endpoint stand side by side; what is listed keeps its order.
        let mut place_of = vec![0; self.routes.len()];
        for (place, route) in order.iter().enumerate() {
            place_of[*route as usize] = place as u32;
        }
        let mut routes = Vec::with_capacity(self.routes.len());
        let mut targets = Vec::with_capacity(self.routes.len());
        for ((method, pattern, target), place) in self.routes.into_iter().zip(place_of) {
            routes.push(Route {
                method,
                pattern,
                place,
            });
            targets.push((place, target));
        }
        targets.sort_unstable_by_key(|(place, _)| *place);
        let targets = targets.into_iter().map(|(_, target)| target).collect();
        RouteTable::new(tree, targets, routes.into(), trails)
    }

    /// `trails` and `literal_trails` of each known branch once the missing ones hang below the last,
    /// or that has a catch-all. Both only ever grow, so the old values of the branches on the way
    /// need no second look.
    fn trails_after(
        &self,
        known: &[usize],
        missing: &[Entry<'_>],
        mut has_rest: bool,
    ) -> Vec<(usize, usize)> {
        let mut after = Vec::with_capacity(known.len());
        // The branch below the one at hand: whether it is a parameter, and its trails.
        let mut below = missing
            .first()
            .map(|entry| (matches!(entry, Entry::Param), 1));
        for (i, id) in known.iter().enumerate().rev() {
            let branch = &self.branches[*id];
            let mut literal_trails = branch.literal_trails;
            let mut param_trails = branch
                .param
                .map_or(0, |param| self.branches[param as usize].trails);
            match below {
                Some((true, trails)) => param_trails = trails,
                Some((false, trails)) => literal_trails = literal_trails.max(trails),
                None => {}
            }
            has_rest |= !branch.rest.is_empty();
            let trails = (literal_trails + param_trails + usize::from(has_rest)).max(1);
            has_rest = false;
            after.push((trails, literal_trails));
            if i > 0 {
                let above = &self.branches[known[i - 1]];
                below = Some((above.param == Some(*id as u32), trails));
            }
        }
        after.reverse();
        after
    }

    /// Hangs the missing branches below `at`; gives the last one.
    fn grow(&mut self, mut at: usize, missing: &[Entry<'_>]) -> usize {
        for (i, entry) in missing.iter().enumerate() {
            let child = self.branches.len();
            let branch = &mut self.branches[at];
            match entry {
                Entry::Literal(label) => {
                    branch.literals.insert((*label).into(), child as u32);
                }
                Entry::Param => branch.param = Some(child as u32),
            }
            self.branches.push(Branch {
                trails: 1,
                literal_trails: usize::from(matches!(missing.get(i + 1), Some(Entry::Literal(_)))),
                ..Branch::default()
            });
            at = child;
        }
        at
    }
}

impl<T> Default for RouteTableBuilder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for InsertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InsertError::Duplicate { method, first } => write!(
                f,
                "`{method} {first}` is registered already and matches exactly the same paths; \
                 remove one of the two routes, or change a literal segment"
            ),
            InsertError::TooManyChoices { trails } => write!(
                f,
                "with this route some path could match in {trails} ways, {MAX_ROUTE_TRAILS} are \
                 allowed; let literals, parameters and catch-alls compete in fewer segments, for example \
                 by giving each group of routes a literal prefix of its own"
            ),
            InsertError::Full => write!(
                f,
                "the patterns of all routes would exceed {MAX_TEXT} bytes together; register \
                 fewer or shorter ones"
            ),
        }
    }
}

impl std::error::Error for InsertError {}
