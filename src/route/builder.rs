//! Collects routes and lays them out as an immutable table. It never replaces a route that is
//! there, and refuses routes that would make some lookup slow.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

use super::methods::MethodSet;
use super::node::{Endpoint, Literals, NONE, Node, Ways, first_bit};
use super::pattern::{Pattern, PatternSegment};
use super::places::Places;
use super::segment::{Keys, Segment, first_byte, last_word, scan};
use super::table::{Route, RouteTable};
use super::tree::Tree;
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
    /// Under which labels are hashed.
    keys: Keys,
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

/// A place in the tree while it grows: one node per segment.
#[derive(Debug, Default)]
struct Branch {
    literals: BTreeMap<Box<[u8]>, u32>,
    param: Option<u32>,
    /// Routes that end here, with their index in the order of registration.
    here: Vec<(Method, u32)>,
    /// Routes that end in a catch-all below here.
    rest: Vec<(Method, u32)>,
    /// Most ways down from here that a search can have to follow: the sum of the worst literal
    /// child, the parameter child and the catch-all, at least one.
    trails: usize,
    /// The largest `trails` among the literal children; zero if there are none.
    literal_trails: usize,
}

/// How one branch is reached from the one above.
enum Entry<'a> {
    Literal(&'a [u8]),
    Param,
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
            keys: Keys::new(seed),
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
    pub fn build(mut self) -> RouteTable<T> {
        let trails = self.branches[0].trails;
        let mut layout = Layout {
            nodes: Vec::with_capacity(self.branches.len()),
            labels: Vec::with_capacity(self.text_len),
            order: Vec::with_capacity(self.routes.len()),
            keys: self.keys,
        };
        layout.place_all(&mut self.branches);

        // The targets of one endpoint stand side by side; what is listed keeps its order.
        let mut place_of = vec![0; self.routes.len()];
        for (place, route) in layout.order.iter().enumerate() {
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
        let tree = Tree {
            nodes: layout.nodes.into(),
            labels: layout.labels.into(),
            keys: self.keys,
        };
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

impl Branch {
    fn child(&self, entry: &Entry<'_>) -> Option<u32> {
        match entry {
            Entry::Literal(label) => self.literals.get(*label).copied(),
            Entry::Param => self.param,
        }
    }

    fn routes(&self, ends_in_catch_all: bool) -> &[(Method, u32)] {
        if ends_in_catch_all {
            &self.rest
        } else {
            &self.here
        }
    }

    fn routes_mut(&mut self, ends_in_catch_all: bool) -> &mut Vec<(Method, u32)> {
        if ends_in_catch_all {
            &mut self.rest
        } else {
            &mut self.here
        }
    }

    /// The only thing that can follow, if that is a literal.
    fn only_literal(&self) -> Option<(&[u8], u32)> {
        if self.param.is_some() || !self.here.is_empty() || !self.rest.is_empty() {
            return None;
        }
        let mut literals = self.literals.iter();
        match (literals.next(), literals.next()) {
            (Some((label, child)), None) => Some((label, *child)),
            _ => None,
        }
    }
}

/// A branch whose place in the arrays is still to come.
struct Waiting {
    branch: u32,
    /// The place that its parent keeps for it.
    id: u32,
    /// The literal that leads to it; the root and parameters have none.
    label: Option<Box<[u8]>>,
    /// Whether it stands in a hashed block.
    is_hashed: bool,
}

/// How the literal children of a node stand side by side.
struct Block {
    kind: Literals,
    /// Places, those that stay empty included.
    len: u32,
    /// The place of each child, in the order of labels.
    of_child: Vec<u32>,
    /// If they are listed.
    places: Places,
    /// If they are hashed: how many bits of the hash do not say the place.
    hash_shift: u32,
    /// If they are hashed: what their labels begin with.
    firsts: u64,
}

impl Block {
    /// For children with these labels.
    fn of<'a>(labels: impl ExactSizeIterator<Item = &'a [u8]> + Clone, keys: &Keys) -> Block {
        let count = labels.len();
        let firsts: Vec<u8> = labels
            .clone()
            .map(|label| first_byte(label.first()))
            .collect();
        if let Some(places) = Places::of(&firsts) {
            return Block {
                kind: Literals::Listed,
                len: places.len(),
                of_child: firsts.iter().map(|first| places.place(*first)).collect(),
                places,
                hash_shift: 0,
                firsts: 0,
            };
        }
        if count == 0 {
            return Block {
                kind: Literals::None,
                len: 0,
                of_child: Vec::new(),
                places: Places::ONE,
                hash_shift: 0,
                firsts: 0,
            };
        }
        // Open addressing with linear probing, at most half full. Who is pushed over the end of the
        // places that a hash can say stands behind them, so that no search has to begin anew.
        let hash_bits = (2 * count).next_power_of_two().trailing_zeros();
        let hash_shift = u64::BITS - hash_bits;
        let mut is_taken = vec![false; 1 << hash_bits];
        let of_child = labels
            .clone()
            .map(|label| {
                let mut place = (words(label, keys).hash >> hash_shift) as usize;
                while is_taken[place] {
                    place += 1;
                }
                is_taken[place] = true;
                // Behind the last child there is a hole in any case.
                if place + 1 == is_taken.len() {
                    is_taken.push(false);
                }
                place as u32
            })
            .collect();
        Block {
            kind: Literals::Hashed,
            len: is_taken.len() as u32,
            of_child,
            places: Places::ONE,
            hash_shift,
            firsts: labels.fold(0, |firsts, label| {
                firsts | first_bit(first_byte(label.first()))
            }),
        }
    }
}

/// A label as a search sees it that comes to the segment which is it.
fn words(label: &[u8], keys: &Keys) -> Segment {
    scan(label, 0, keys, |_| true).expect("a label begins as it begins")
}

/// The arrays of a tree as they are filled.
struct Layout {
    nodes: Vec<Node>,
    labels: Vec<u8>,
    /// Routes in the order of their targets.
    order: Vec<u32>,
    keys: Keys,
}

impl Layout {
    /// Places every branch. The children of a node stand side by side.
    fn place_all(&mut self, branches: &mut [Branch]) {
        self.nodes.push(Node::EMPTY);
        let mut waiting = vec![Waiting {
            branch: 0,
            id: 0,
            label: None,
            is_hashed: false,
        }];
        while let Some(at) = waiting.pop() {
            let label = at.label.as_deref().unwrap_or(&[]);
            let label_at = self.labels.len();
            self.labels.extend_from_slice(label);
            let mut last = at.branch as usize;
            while let Some((next, child)) = branches[last].only_literal() {
                self.labels.push(b'/');
                self.labels.extend_from_slice(next);
                last = child as usize;
            }
            let tail_len = self.labels.len() - label_at - label.len();

            let words = words(label, &self.keys);
            let branch = &mut branches[last];
            let literals = std::mem::take(&mut branch.literals);
            let block = Block::of(literals.keys().map(|label| &**label), &self.keys);
            let first = self.nodes.len() as u32;
            let after_block = first + block.len;
            let param = branch.param.map_or(NONE, |_| after_block);
            let here = self.endpoint(&mut branch.here);
            let rest = self.endpoint(&mut branch.rest);
            self.nodes[at.id as usize] = Node {
                firsts: block.firsts,
                head: words.head,
                more: if at.is_hashed {
                    words.second
                } else {
                    last_word(label)
                },
                label: label_at as u32,
                label_len: label.len() as u16,
                tail_len: tail_len as u16,
                literal: first,
                hash_shift: block.hash_shift,
                param,
                ways: Ways::of(block.kind, param != NONE, !rest.methods.is_empty()),
                places: block.places,
                here,
                rest,
            };

            waiting.extend(branch.param.map(|branch| Waiting {
                branch,
                id: after_block,
                label: None,
                is_hashed: false,
            }));
            for ((label, branch), place) in literals.into_iter().zip(block.of_child) {
                waiting.push(Waiting {
                    branch,
                    id: first + place,
                    label: Some(label),
                    is_hashed: matches!(block.kind, Literals::Hashed),
                });
            }
            let end = after_block as usize + usize::from(branch.param.is_some());
            self.nodes.resize(end, Node::HOLE);
        }
    }

    fn endpoint(&mut self, routes: &mut [(Method, u32)]) -> Endpoint {
        routes.sort_unstable();
        let first = self.order.len() as u32;
        self.order.extend(routes.iter().map(|(_, route)| route));
        Endpoint {
            first,
            methods: routes
                .iter()
                .map(|(method, _)| *method)
                .collect::<MethodSet>(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of which there are many at once.
    fn families(count: usize) -> [Vec<String>; 6] {
        let names = |name: &dyn Fn(usize) -> String| (0..count).map(name).collect();
        [
            names(&|i| format!("service-{i}")),
            names(&|i| format!("{i}-service")),
            names(&|i| format!("{i:08x}")),
            names(&|i| format!("tenant-{}-{}", i / 64, i % 64)),
            names(&|i| format!("a-name-of-its-own-{i}")),
            names(&|i| format!("20{:02}-{:02}-{:02}", i / 372, i / 31 % 12, i % 31)),
        ]
    }

    #[test]
    fn hashed_children_stand_where_their_hash_says_or_close_behind() {
        for count in [20, 300, 4000] {
            for (family, labels) in families(count).into_iter().enumerate() {
                let mut pushed = Vec::new();
                for seed in 0..20 {
                    let keys = Keys::new(seed);
                    let block = Block::of(labels.iter().map(|label| label.as_bytes()), &keys);
                    assert!(matches!(block.kind, Literals::Hashed));
                    assert!(block.of_child.iter().all(|place| place + 1 < block.len));
                    for (label, place) in labels.iter().zip(block.of_child) {
                        let hash = words(label.as_bytes(), &keys).hash;
                        pushed.push(u64::from(place) - (hash >> block.hash_shift));
                    }
                }
                let mean = pushed.iter().sum::<u64>() as f64 / pushed.len() as f64;
                let most = pushed.iter().max().unwrap();
                // Half full and hashed at random it would be 0.5.
                let told = format!("{count} of family {family}: mean {mean}, most {most}");
                assert!(mean < 0.65 && *most < 64, "{told}");
            }
        }
    }
}
