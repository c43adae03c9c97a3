//! The tree that the table walks: flat arrays, laid out once by the builder. It never allocates and
//! never writes during a search, and knows methods only as bits.

use super::methods::MethodSet;
use super::segment::{SPREAD, Segment, are_equal, end_of, head_of, index_of, last_word, mix, scan};
use crate::message::{Method, Params, Span};

/// No node.
pub(super) const NONE: u32 = u32::MAX;
/// Literal children that are too many or too alike for a block: they are in the hash slots.
pub(super) const HASHED: u32 = u32::MAX - 1;

/// The routes at one place of the tree: which methods there are, and where the target of the
/// lowest one stands. The targets of the others follow in the order of discriminants.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Endpoint {
    pub first: u32,
    pub methods: MethodSet,
}

/// In which ways a path can go on from a node. Decided when the table is laid out, so that a search
/// asks once.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Ways {
    /// In none: only routes end here.
    None,
    /// By a literal of its block.
    Listed,
    /// By a literal in the hash slots.
    Hashed,
    /// By a parameter.
    Param,
    /// By a catch-all.
    Rest,
    /// By more than one kind of them.
    Several,
}

impl Ways {
    /// Of a node with these fields, and with or without a catch-all.
    pub(super) fn of(literal: u32, param: u32, has_rest: bool) -> Ways {
        match (literal, param, has_rest) {
            (NONE, NONE, false) => Ways::None,
            (NONE, _, false) => Ways::Param,
            (NONE, NONE, true) => Ways::Rest,
            (HASHED, NONE, false) => Ways::Hashed,
            (_, NONE, false) => Ways::Listed,
            _ => Ways::Several,
        }
    }
}

/// A place that a path can reach by whole segments.
///
/// The node is entered through one literal or parameter segment. Where only one literal could
/// follow, that literal is folded into the node as its tail (`/items/all`), so that a chain of
/// literals costs one comparison.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))] // One cache line each.
pub(super) struct Node {
    /// What the labels of the literal children begin with. For a listed block, the byte of child
    /// `i` is byte `i`, see [`list_firsts`]. For hashed children, a set as [`first_bit`] counts,
    /// which spares most misses the hashing.
    pub firsts: u64,
    /// First eight bytes of the literal segment that leads here, zero where it is shorter.
    pub head: u64,
    /// Its last eight bytes, zero if it is shorter. With `head` they are all of most segments,
    /// which spares the look at the labels.
    pub last: u64,
    /// Where that segment, and right after it the tail, stand in the labels.
    pub label: u32,
    pub label_len: u16,
    pub tail_len: u16,
    /// The node above; hash slots are shared by all nodes, so a candidate must name its parent.
    pub parent: u32,
    /// The first of a block of literal children, [`HASHED`] or [`NONE`].
    pub literal: u32,
    /// The child behind a parameter, or [`NONE`].
    pub param: u32,
    /// Routes that end here.
    pub here: Endpoint,
    /// Routes that end in a catch-all below here.
    pub rest: Endpoint,
    /// In which ways a path can go on.
    pub ways: Ways,
}

const _: () = assert!(size_of::<Node>() == 64, "a node fills one cache line");

impl Node {
    /// A node without label, children and routes.
    pub(super) const EMPTY: Node = Node {
        firsts: 0,
        head: 0,
        last: 0,
        label: 0,
        label_len: 0,
        tail_len: 0,
        parent: NONE,
        literal: NONE,
        param: NONE,
        here: Endpoint::NONE,
        rest: Endpoint::NONE,
        ways: Ways::None,
    };
}

impl Endpoint {
    const NONE: Endpoint = Endpoint {
        first: 0,
        methods: MethodSet::EMPTY,
    };
}

/// The first bytes of a block of literal children, if a block can hold them: there are one to
/// eight, and no two begin alike.
pub(super) fn list_firsts<'a>(mut labels: impl Iterator<Item = &'a [u8]>) -> Option<u64> {
    // Places without a child repeat the first one, which is then found before them.
    let mut firsts = [first_byte(labels.next()?.first()); 8];
    for (i, label) in (1..).zip(labels) {
        let first = first_byte(label.first());
        if i == firsts.len() || firsts[..i].contains(&first) {
            return None;
        }
        firsts[i] = first;
    }
    Some(u64::from_le_bytes(firsts))
}

/// The bit that stands for a segment's first byte.
#[inline(always)]
fn first_bit(first: Option<&u8>) -> u64 {
    1 << (first_byte(first) & 63)
}

/// The first byte of a segment; an empty one has that of the slash after it.
#[inline(always)]
fn first_byte(first: Option<&u8>) -> u8 {
    *first.unwrap_or(&b'/')
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The upper half of the hash; a different one spares the look at the node.
    tag: u32,
    node: u32,
}

/// Every node, label and hash slot of a route table. Node 0 is the root.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Box<[Node]>,
    labels: Box<[u8]>,
    /// Open addressing with linear probing, at most half full; empty if no node is [`HASHED`].
    slots: Box<[Slot]>,
    /// Key of the hash of a segment.
    segment_key: u64,
    /// Odd multiplier that spreads the parents of hashed children.
    parent_key: u64,
}

/// Where a way down ended that had no choice.
enum Reached {
    /// No route goes on here.
    Nothing,
    /// The path is used up.
    End(Endpoint),
    /// More than one way goes on.
    Fork(Fork),
}

/// A node from which the segment at `start` leads on in more than one way.
struct Fork {
    id: u32,
    start: usize,
}

/// A node, and where in the path the segment ends that leads to it.
struct Child<'a> {
    id: u32,
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
    /// Puts the hashed children into slots. Flooding the slots takes knowledge of the seed.
    pub(super) fn new(nodes: Vec<Node>, labels: Vec<u8>, seed: u64) -> Tree {
        let hashed: Vec<u32> = (1..nodes.len() as u32)
            .filter(|id| {
                let node = &nodes[*id as usize];
                let parent = &nodes[node.parent as usize];
                parent.literal == HASHED && parent.param != *id
            })
            .collect();
        let slots = if hashed.is_empty() {
            Vec::new()
        } else {
            let free = Slot { tag: 0, node: NONE };
            vec![free; (hashed.len() * 2).next_power_of_two()]
        };
        let mut tree = Tree {
            nodes: nodes.into(),
            labels: labels.into(),
            slots: slots.into(),
            segment_key: mix(seed ^ SPREAD, !SPREAD),
            parent_key: mix(!seed, SPREAD) | 1,
        };
        for id in hashed {
            let node = &tree.nodes[id as usize];
            let label = tree.label(node);
            let bit = first_bit(label.first());
            let parent = node.parent;
            let hash = tree.hash(parent, scan(label, 0, tree.segment_key).hash);
            tree.nodes[parent as usize].firsts |= bit;
            let mut at = hash as usize & (tree.slots.len() - 1);
            while tree.slots[at].node != NONE {
                at = (at + 1) & (tree.slots.len() - 1);
            }
            tree.slots[at] = Slot {
                tag: (hash >> 32) as u32,
                node: id,
            };
        }
        tree
    }

    /// Looks for the best route that has the wanted method; gives the index of its target.
    ///
    /// Parameters are pushed as ranges. If nothing is found, leftovers stay behind.
    #[inline]
    pub(super) fn find(&self, search: &mut Search<'_>) -> Option<u32> {
        if search.path.first() != Some(&b'/') {
            return None;
        }
        // Most searches never come to a fork, and call nothing.
        self.walk(0, 0, search)
    }

    /// Goes on at a node that was entered by a segment that ends before `at`.
    #[inline(always)]
    fn walk(&self, id: u32, at: usize, search: &mut Search<'_>) -> Option<u32> {
        match self.descend(id, at, search) {
            Reached::Nothing => None,
            Reached::End(endpoint) => search.take(endpoint),
            Reached::Fork(fork) => self.walk_both(fork, search),
        }
    }

    /// The same behind a fork, once in the code, which keeps the frames of a recursion small.
    #[inline(never)]
    fn walk_on(&self, id: u32, at: usize, search: &mut Search<'_>) -> Option<u32> {
        self.walk(id, at, search)
    }

    /// Goes down for as long as there is one way only.
    #[inline(always)]
    fn descend(&self, mut id: u32, mut at: usize, search: &mut Search<'_>) -> Reached {
        let path = search.path;
        let mut node = &self.nodes[id as usize];
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
                Ways::Hashed => self.hashed_child(id, node, path, start),
                Ways::Param => search
                    .push_segment(start)
                    .map(|end| self.child(node.param, end)),
                Ways::Rest if search.push_rest(start) => return Reached::End(node.rest),
                Ways::Rest => None,
                Ways::Several => return Reached::Fork(Fork { id, start }),
            };
            match child {
                Some(child) => Child { id, node, end: at } = child,
                None => return Reached::Nothing,
            }
        }
    }

    /// Follows every way that goes on from a fork, the better ones first: the literal, the
    /// parameter, the catch-all.
    ///
    /// Each fork on the way adds a trail, so `MAX_ROUTE_TRAILS` bounds the depth of recursion.
    /// Being a tree, it has no node that one search enters twice.
    #[inline(never)]
    fn walk_both(&self, fork: Fork, search: &mut Search<'_>) -> Option<u32> {
        let Fork { id, start } = fork;
        let node = &self.nodes[id as usize];
        let depth = search.params.as_slice().len();
        let child = match node.literal {
            NONE => None,
            HASHED => self.hashed_child(id, node, search.path, start),
            _ => self.listed_child(node, search.path, start),
        };
        if let Some(child) = child {
            if let Some(found) = self.walk_on(child.id, child.end, search) {
                return Some(found);
            }
            search.params.truncate(depth);
        }
        if node.param != NONE
            && let Some(end) = search.push_segment(start)
        {
            if let Some(found) = self.walk_on(node.param, end, search) {
                return Some(found);
            }
            search.params.truncate(depth);
        }
        if node.rest.methods.is_empty() || !search.push_rest(start) {
            return None;
        }
        search.take(node.rest)
    }

    #[inline(always)]
    fn child(&self, id: u32, end: usize) -> Child<'_> {
        let node = &self.nodes[id as usize];
        Child { id, node, end }
    }

    /// The only literal child of a block that the segment at `start` can be. The segment may go on
    /// where the label ends; the walk looks at the next byte in any case.
    #[inline(always)]
    fn listed_child(&self, parent: &Node, path: &[u8], start: usize) -> Option<Child<'_>> {
        let place = index_of(parent.firsts, first_byte(path.get(start)))?;
        let mut child = self.child(parent.literal + place, start);
        child.end += usize::from(child.node.label_len);
        let part = path.get(start..child.end)?;
        let is_label = match part.first_chunk() {
            None => head_of(path, start, part.len()) == child.node.head,
            Some(head) => {
                u64::from_le_bytes(*head) == child.node.head
                    && self.is_label_after_head(child.node, part)
            }
        };
        is_label.then_some(child)
    }

    /// The literal child whose label is the segment at `start`.
    #[inline(always)]
    fn hashed_child(
        &self,
        parent_id: u32,
        parent: &Node,
        path: &[u8],
        start: usize,
    ) -> Option<Child<'_>> {
        if parent.firsts & first_bit(path.get(start)) == 0 {
            return None;
        }
        let Segment { end, head, hash } = scan(path, start, self.segment_key);
        let hash = self.hash(parent_id, hash);
        let mut at = hash as usize;
        loop {
            at &= self.slots.len() - 1;
            let slot = self.slots[at];
            if slot.node == NONE {
                return None;
            }
            if slot.tag == (hash >> 32) as u32 {
                let child = self.child(slot.node, end);
                if child.node.parent == parent_id
                    && child.node.head == head
                    && usize::from(child.node.label_len) == end - start
                    && self.is_label_after_head(child.node, &path[start..end])
                {
                    return Some(child);
                }
            }
            at += 1;
        }
    }

    /// Whether a part of a path that is as long as the label of a node, and begins with the same
    /// eight bytes, is that label.
    #[inline(always)]
    fn is_label_after_head(&self, node: &Node, part: &[u8]) -> bool {
        part.len() <= 8
            || (last_word(part) == node.last && (part.len() <= 16 || part == self.label(node)))
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

    /// The hash of a segment below a parent. The low half, which chooses the slot, takes the upper
    /// half of the product: multiplying by a secret odd number and keeping the upper bits makes it
    /// unlikely for any two parents to coincide, whoever numbered them.
    #[inline(always)]
    fn hash(&self, parent: u32, segment_hash: u64) -> u64 {
        let spread = u64::from(parent).wrapping_mul(self.parent_key);
        segment_hash ^ spread.rotate_left(32)
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
    use crate::limits::MAX_ROUTE_TRAILS;
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
        let small = std::thread::Builder::new().stack_size(1024 * 1024);
        let thread = small.spawn(|| {
            let mut builder = RouteTableBuilder::with_seed(1);
            let mut depth = 0;
            let refused = loop {
                let text = format!("{}/{{p}}", "/a".repeat(depth));
                match builder.insert(Method::Get, &Pattern::parse(&text).unwrap(), ()) {
                    Ok(()) => depth += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(refused, InsertError::TooManyChoices { .. }));
            let table = builder.build();
            assert!(table.worst_trails() > MAX_ROUTE_TRAILS - 2);
            let path = format!("{}/b/b", "/a".repeat(depth - 1));
            assert!(steps(&table, &path) >= depth);
        });
        thread.unwrap().join().unwrap();
    }
}
