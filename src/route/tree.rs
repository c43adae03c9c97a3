//! The tree that the table walks: flat arrays, laid out once, before any search. It never allocates and
//! never writes during a search, and knows methods only as bits.

use super::methods::MethodSet;
use super::node::{Endpoint, NONE, Node, Ways, first_bit};
use super::segment::{Keys, are_equal, end_of, first_byte, is_short_word, last_word, scan};
use crate::message::{Method, Params, Span};

/// Every node and label of a route table. Node 0 is the root.
#[derive(Debug)]
pub(super) struct Tree {
    pub nodes: Box<[Node]>,
    pub labels: Box<[u8]>,
    /// Under which the labels of hashed children are hashed.
    pub keys: Keys,
}

/// Where a way down ended that had no choice.
enum Reached<'a> {
    /// No route goes on here.
    Nothing,
    /// The path is used up.
    End(Endpoint),
    /// More than one way goes on.
    Fork(Fork<'a>),
}

/// A node from which the segment at `start` can lead on in more than one way.
struct Fork<'a> {
    node: &'a Node,
    start: usize,
    /// The literal way, if it is one.
    literal: Option<Child<'a>>,
}

/// A node, and where in the path the segment ends that leads to it.
struct Child<'a> {
    node: &'a Node,
    end: usize,
}

/// One search: what it looks for and what it has learnt on the way.
pub(super) struct Search<'a> {
    pub path: &'a [u8],
    /// Added to every range, which then counts from the start of the head.
    pub base: usize,
    pub wanted: Method,
    pub params: &'a mut Params,
    /// Methods of the routes that match the path but do not have the wanted one. Complete only if
    /// nothing was found.
    pub others: MethodSet,
    /// How many nodes were entered.
    #[cfg(test)]
    pub steps: usize,
}

impl Tree {
    /// Looks for the best route that has the wanted method; gives the index of its target.
    ///
    /// Parameters are pushed as ranges. If nothing is found, leftovers stay behind.
    #[inline]
    pub(super) fn find(&self, search: &mut Search<'_>) -> Option<u32> {
        if search.path.first() != Some(&b'/') {
            return None;
        }
        self.walk(self.child(0, 0), search)
    }

    /// Goes on at a node. Most searches never come to a fork, and are a loop in their caller.
    #[inline(always)]
    fn walk(&self, from: Child<'_>, search: &mut Search<'_>) -> Option<u32> {
        match self.descend(from, search) {
            Reached::Nothing => None,
            Reached::End(endpoint) => search.take(endpoint),
            Reached::Fork(fork) => self.walk_fork(fork, search),
        }
    }

    /// Goes down for as long as there is one way only.
    #[inline(always)]
    fn descend<'a>(&'a self, from: Child<'a>, search: &mut Search<'_>) -> Reached<'a> {
        let path = search.path;
        let Child {
            mut node,
            end: mut at,
        } = from;
        loop {
            #[cfg(test)]
            {
                search.steps += 1;
            }
            if node.tail_len > 0 {
                let end = at + usize::from(node.tail_len);
                let is_equal = path
                    .get(at..end)
                    .is_some_and(|part| are_equal(part, self.tail(node)));
                if !is_equal {
                    return Reached::Nothing;
                }
                at = end;
            }
            let start = at + 1;
            match path.get(at) {
                None => return Reached::End(node.here),
                Some(b'/') => {}
                // The tail, or the label before it, ended within a segment.
                Some(_) => return Reached::Nothing,
            }
            let child = match node.ways {
                Ways::None => None,
                Ways::Listed => self.listed_child(node, path, start),
                Ways::Hashed => self.hashed_child(node, path, start),
                Ways::Param => self.param_child(node, start, search),
                Ways::Rest if search.push_rest(start) => return Reached::End(node.rest),
                Ways::Rest => None,
                Ways::ListedAndMore => match self.listed_child(node, path, start) {
                    None if node.rest.methods.is_empty() => self.param_child(node, start, search),
                    literal => return search.reach_fork(node, start, literal),
                },
                Ways::HashedAndMore => match self.hashed_child(node, path, start) {
                    None if node.rest.methods.is_empty() => self.param_child(node, start, search),
                    literal => return search.reach_fork(node, start, literal),
                },
                Ways::ParamAndRest => return search.reach_fork(node, start, None),
            };
            match child {
                Some(child) => Child { node, end: at } = child,
                None => return Reached::Nothing,
            }
        }
    }

    /// Follows every way that goes on from a fork, the better ones first: the literal, the
    /// parameter, the catch-all.
    ///
    /// A fork is a segment of some pattern, so `MAX_PATTERN_SEGMENTS` bounds the depth of recursion.
    /// Being a tree, it has no node that one search enters twice.
    #[inline(never)]
    fn walk_fork(&self, fork: Fork<'_>, search: &mut Search<'_>) -> Option<u32> {
        let Fork {
            node,
            start,
            literal,
        } = fork;
        let depth = search.params.as_slice().len();
        let mut way = literal;
        let mut has_param = node.param != NONE;
        loop {
            if let Some(child) = way {
                if let Some(found) = self.walk(child, search) {
                    return Some(found);
                }
                search.params.truncate(depth);
            }
            if !has_param {
                break;
            }
            way = self.param_child(node, start, search);
            has_param = false;
        }
        if node.rest.methods.is_empty() || !search.push_rest(start) {
            return None;
        }
        search.take(node.rest)
    }

    #[inline(always)]
    fn child(&self, id: u32, end: usize) -> Child<'_> {
        let node = &self.nodes[id as usize];
        Child { node, end }
    }

    // These three are inlined only where that is optimised: a dev build gives every copy stack of its
    // own, and `walk_fork` recurses.

    /// The child behind a parameter, which the segment at `start` becomes.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn param_child(&self, node: &Node, start: usize, search: &mut Search<'_>) -> Option<Child<'_>> {
        let end = search.push_segment(start)?;
        Some(self.child(node.param, end))
    }

    /// The only literal child of a block that the segment at `start` can be. The segment may go on
    /// where the label ends; the walk looks at the next byte in any case.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn listed_child(&self, parent: &Node, path: &[u8], start: usize) -> Option<Child<'_>> {
        let place = parent.places.place(first_byte(path.get(start)));
        let mut child = self.child(parent.literal + place, start);
        child.end += usize::from(child.node.label_len);
        let part = path.get(start..child.end)?;
        let is_label = match part.first_chunk() {
            // Told here, since any byte may lead to the place of an empty label.
            None if part.is_empty() => matches!(path.get(start), None | Some(b'/')),
            None => is_short_word(part, child.node.head),
            Some(head) => {
                u64::from_le_bytes(*head) == child.node.head
                    && self.is_label_after_head(child.node, part)
            }
        };
        is_label.then_some(child)
    }

    /// The literal child of a hashed block whose label is the segment at `start`.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn hashed_child(&self, parent: &Node, path: &[u8], start: usize) -> Option<Child<'_>> {
        let may_begin = |first| parent.firsts & first_bit(first) != 0;
        let segment = scan(path, start, &self.keys, may_begin)?;
        let place = parent.literal + (segment.hash >> parent.hash_shift) as u32;
        // Most children stand in the first place where they can.
        let node = &self.nodes[place as usize];
        let child = if node.has_words(segment.head, segment.second) && node.is_short() {
            let end = start + usize::from(node.label_len);
            Child { node, end }
        } else {
            self.probe(place, path, start, segment.head, segment.second)?
        };
        // Always so; where it is said once, the compiler need not ask again at each later step.
        (child.end <= path.len()).then_some(child)
    }

    /// The same, if it stands at this place or behind it. A block has at least as many holes as
    /// children and ends with one, so the way to the next hole is short.
    #[inline(never)]
    fn probe(
        &self,
        mut place: u32,
        path: &[u8],
        start: usize,
        head: u64,
        second: u64,
    ) -> Option<Child<'_>> {
        loop {
            let mut child = self.child(place, start);
            let node = child.node;
            child.end += usize::from(node.label_len);
            // Of a long one the words are only the beginning, and the label may be one as well.
            let is_label = node.has_words(head, second)
                && (node.is_short()
                    || (path
                        .get(start..child.end)
                        .is_some_and(|part| part == self.label(node))
                        && first_byte(path.get(child.end)) == b'/'));
            if is_label {
                return Some(child);
            }
            if node.is_hole() {
                return None;
            }
            place += 1;
        }
    }

    /// Whether a part of a path that is as long as the label of a node, and begins with the same
    /// eight bytes, is that label.
    #[inline(always)]
    fn is_label_after_head(&self, node: &Node, part: &[u8]) -> bool {
        part.len() <= 8
            || (last_word(part) == node.more && (part.len() <= 16 || part == self.label(node)))
    }

    /// The literal segment that leads to a node.
    #[inline(always)]
    fn label(&self, node: &Node) -> &[u8] {
        let start = node.label as usize;
        &self.labels[start..start + usize::from(node.label_len)]
    }

    /// The literals that follow it, each with its slash.
    #[inline(always)]
    fn tail(&self, node: &Node) -> &[u8] {
        let start = node.label as usize + usize::from(node.label_len);
        &self.labels[start..start + usize::from(node.tail_len)]
    }
}

impl Search<'_> {
    /// The target of the wanted method at this endpoint; other methods are noted.
    #[inline(always)]
    fn take(&mut self, endpoint: Endpoint) -> Option<u32> {
        if endpoint.methods == MethodSet::only(self.wanted) {
            return Some(endpoint.first);
        }
        if endpoint.methods.contains(self.wanted) {
            return Some(endpoint.first + endpoint.methods.rank(self.wanted) as u32);
        }
        self.others = self.others.union(endpoint.methods);
        None
    }

    /// What comes of a node with more than one way, to which this literal is the best.
    #[inline(always)]
    fn reach_fork<'a>(
        &self,
        node: &'a Node,
        start: usize,
        literal: Option<Child<'a>>,
    ) -> Reached<'a> {
        match literal {
            // What usually decides a fork: a literal that is all that was left.
            Some(literal) if self.is_answered_by(&literal) => Reached::End(literal.node.here),
            _ => Reached::Fork(Fork {
                node,
                start,
                literal,
            }),
        }
    }

    /// Whether the path ends with this child, and that has a route for the wanted method.
    #[inline(always)]
    fn is_answered_by(&self, child: &Child<'_>) -> bool {
        let node = child.node;
        child.end == self.path.len()
            && node.tail_len == 0
            && node.here.methods.contains(self.wanted)
    }

    /// Adds the segment at `start` as a parameter and gives its end. An empty one is none.
    #[inline(always)]
    fn push_segment(&mut self, start: usize) -> Option<usize> {
        let end = end_of(self.path, start);
        (end > start).then(|| {
            self.push(start, end);
            end
        })
    }

    /// Adds what follows from `start` on as a parameter, if anything does.
    #[inline(always)]
    fn push_rest(&mut self, start: usize) -> bool {
        let end = self.path.len();
        if start < end {
            self.push(start, end);
        }
        start < end
    }

    /// Adds the range `start..end` of the path as a parameter.
    #[inline(always)]
    fn push(&mut self, start: usize, end: usize) {
        let has_room = self.params.push(Span::new(self.base + start, end - start));
        debug_assert!(has_room, "a pattern has at most MAX_PARAMS parameters");
    }
}

#[cfg(test)]
mod tests {
    use crate::limits::{MAX_PATTERN_SEGMENTS, MAX_ROUTE_TRAILS};
    use crate::message::{Method, Params};
    use crate::route::builder::{InsertError, RouteTableBuilder};
    use crate::route::methods::MethodSet;
    use crate::route::pattern::Pattern;
    use crate::route::table::RouteTable;

    fn steps(table: &RouteTable<()>, path: &str) -> usize {
        let mut params = Params::default();
        let mut search = super::Search {
            path: path.as_bytes(),
            base: 0,
            wanted: Method::Get,
            params: &mut params,
            others: MethodSet::EMPTY,
            steps: 0,
        };
        assert_eq!(table.tree().find(&mut search), None);
        search.steps
    }

    /// Every mix of literal and parameter in `width` segments, each ended by a literal of its own.
    fn every_mix(width: usize) -> impl Iterator<Item = Pattern> {
        (0..1_u32 << width).map(move |mix| {
            let mut text: String = (0..width)
                .map(|i| match mix >> i & 1 {
                    0 => "/a".to_owned(),
                    _ => format!("/{{p{i}}}"),
                })
                .collect();
            text.push_str("/end");
            Pattern::parse(&text).unwrap()
        })
    }

    #[test]
    fn what_would_branch_without_bound_is_refused_and_the_rest_stays_bounded() {
        let mut builder = RouteTableBuilder::with_seed(1);
        let mut refused = 0;
        for pattern in every_mix(12) {
            match builder.insert(Method::Get, &pattern, ()) {
                Ok(()) => {}
                Err(InsertError::TooManyChoices { trails }) => {
                    assert!(trails > MAX_ROUTE_TRAILS);
                    refused += 1;
                }
                Err(other) => panic!("{pattern}: {other}"),
            }
        }
        assert!(refused > 0, "4096 mixes are more than the limit");
        let table = builder.build();
        assert!(table.worst_trails() <= MAX_ROUTE_TRAILS);
        let steps = steps(&table, &format!("{}/no-end", "/a".repeat(12)));
        assert!(steps > 13, "the path follows more than one trail: {steps}");
        assert!(steps <= MAX_ROUTE_TRAILS * 14, "{steps}");
    }

    #[test]
    fn the_bound_is_what_the_worst_path_takes() {
        for width in 0..=8 {
            let mut builder = RouteTableBuilder::with_seed(1);
            for pattern in every_mix(width) {
                builder.insert(Method::Get, &pattern, ()).unwrap();
            }
            let table = builder.build();
            assert_eq!(table.worst_trails(), 1 << width);
            // Every node above the ends, which the path does not reach.
            let steps = steps(&table, &format!("{}/no-end", "/a".repeat(width)));
            assert_eq!(steps, (2 << width) - 1);
        }
    }

    #[test]
    fn a_catch_all_is_one_way_more_wherever_it_comes_in() {
        let trails = |texts: &[&str]| {
            let mut builder = RouteTableBuilder::with_seed(1);
            for text in texts {
                let pattern = Pattern::parse(text).unwrap();
                builder.insert(Method::Get, &pattern, ()).unwrap();
            }
            builder.build().worst_trails()
        };
        assert_eq!(trails(&["/{*r}"]), 1);
        assert_eq!(trails(&["/a/{*r}", "/a/b"]), 2);
        assert_eq!(trails(&["/a/b", "/a/{*r}"]), 2);
        assert_eq!(trails(&["/a/b", "/a/{x}", "/a/{*r}"]), 3);
        assert_eq!(trails(&["/{*r}", "/a/{*r}", "/a/b/{*r}", "/a/b/c"]), 4);
        assert_eq!(trails(&["/a/b/c", "/a/b/{*r}", "/a/{*r}", "/{*r}"]), 4);
        assert_eq!(trails(&["/a/{*r}", "/b/{*r}", "/c"]), 1);
    }

    #[test]
    fn trails_do_not_hang_on_the_order_of_registration() {
        let mut patterns: Vec<Pattern> = every_mix(5).collect();
        patterns.push(Pattern::parse("/a/a/b/{x}/c").unwrap());
        patterns.push(Pattern::parse("/{x}/b").unwrap());
        let trails = |patterns: &[Pattern]| {
            let mut builder = RouteTableBuilder::with_seed(1);
            for pattern in patterns {
                builder.insert(Method::Get, pattern, ()).unwrap();
            }
            builder.build().worst_trails()
        };
        let forward = trails(&patterns);
        for turn in 1..patterns.len() {
            patterns.rotate_left(turn);
            assert_eq!(trails(&patterns), forward);
        }
        patterns.reverse();
        assert_eq!(trails(&patterns), forward);
    }

    #[test]
    fn the_deepest_recursion_fits_a_small_stack() {
        let small = std::thread::Builder::new().stack_size(256 * 1024);
        let thread = small.spawn(|| {
            // Whatever competes with the literal in each segment.
            for weaker in ["{p}", "{*r}"] {
                let mut builder = RouteTableBuilder::with_seed(1);
                let mut depth = 0;
                while depth < MAX_PATTERN_SEGMENTS {
                    let text = format!("{}/{weaker}", "/a".repeat(depth));
                    let pattern = Pattern::parse(&text).unwrap();
                    builder.insert(Method::Post, &pattern, ()).unwrap();
                    depth += 1;
                }
                let table = builder.build();
                assert_eq!(table.worst_trails(), MAX_PATTERN_SEGMENTS);
                let path = format!("{}/b/b", "/a".repeat(depth - 1));
                assert!(steps(&table, &path) >= depth);
            }
        });
        thread.unwrap().join().unwrap();
    }
}
