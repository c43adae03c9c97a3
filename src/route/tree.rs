//! The tree that the table walks: flat arrays, laid out once by the builder. It never allocates and
//! never writes during a search, and knows methods only as bits.

use super::methods::MethodSet;
use super::segment::{SPREAD, Segment, end_of, goes_on_with, scan};
use crate::message::{Method, Params, Span};

/// No node.
pub(super) const NONE: u32 = u32::MAX;
/// Several literal children: they are found through the hash slots.
pub(super) const HASHED: u32 = u32::MAX - 1;

/// The routes at one place of the tree: which methods there are, and where the target of the
/// lowest one stands. The targets of the others follow in the order of discriminants.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Endpoint {
    pub first: u32,
    pub methods: MethodSet,
}

/// A place that a path can reach by whole segments.
///
/// The node is entered through one literal or parameter segment. Where only one literal could
/// follow, that literal is folded into the node as its tail (`/items/all`), so that a chain of
/// literals costs one comparison.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// First eight bytes of the literal segment that leads here.
    pub head: u64,
    /// Where that segment, and right after it the tail, stand in the labels.
    pub label: u32,
    pub label_len: u16,
    pub tail_len: u16,
    /// The node above; hash slots are shared by all nodes, so a candidate must name its parent.
    pub parent: u32,
    /// The only literal child, [`HASHED`] or [`NONE`].
    pub literal: u32,
    /// The child behind a parameter, or [`NONE`].
    pub param: u32,
    /// Routes that end here.
    pub here: Endpoint,
    /// Routes that end in a catch-all below here.
    pub rest: Endpoint,
}

const _: () = assert!(size_of::<Node>() <= 64, "a node fits one cache line");

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
    seed: u64,
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
            seed,
        };
        for id in hashed {
            let node = &tree.nodes[id as usize];
            let start = node.label as usize;
            let label = &tree.labels[start..start + usize::from(node.label_len)];
            let hash = scan(label, 0, tree.key(node.parent)).hash;
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
        self.walk(0, 0, search)
    }

    /// Goes on at a node that was entered by a segment that ends before `at`.
    ///
    /// It calls itself only where a literal and something weaker both apply, and each such
    /// place on the way adds a trail, so `MAX_ROUTE_TRAILS` bounds the depth. Being a tree, it has
    /// no node that one search enters twice.
    fn walk(&self, mut id: u32, mut at: usize, search: &mut Search<'_>) -> Option<u32> {
        let path = search.path;
        loop {
            #[cfg(test)]
            {
                search.steps += 1;
            }
            let node = &self.nodes[id as usize];
            if node.tail_len > 0 {
                let from = node.label as usize + usize::from(node.label_len);
                let len = usize::from(node.tail_len);
                if !goes_on_with(path, at, &self.labels, from, len) {
                    return None;
                }
                at += len;
            }
            if at == path.len() {
                return search.take(node.here);
            }
            if path[at] != b'/' {
                // The tail ended within a segment.
                return None;
            }
            let start = at + 1;
            let is_choice = node.param != NONE || !node.rest.methods.is_empty();

            let mut end = None;
            let literal = match node.literal {
                NONE => None,
                HASHED => {
                    let segment = scan(path, start, self.key(id));
                    end = Some(segment.end);
                    self.hashed_child(id, path, start, &segment)
                        .map(|child| (child, segment.end))
                }
                only => self.only_child(only, path, start),
            };
            let depth = search.params.as_slice().len();
            if let Some((child, end)) = literal {
                if !is_choice {
                    (id, at) = (child, end);
                    continue;
                }
                if let Some(found) = self.walk(child, end, search) {
                    return Some(found);
                }
                search.params.truncate(depth);
            }
            if node.param != NONE {
                let end = end.unwrap_or_else(|| end_of(path, start));
                if end > start {
                    search.push(start, end);
                    if node.rest.methods.is_empty() {
                        (id, at) = (node.param, end);
                        continue;
                    }
                    if let Some(found) = self.walk(node.param, end, search) {
                        return Some(found);
                    }
                    search.params.truncate(depth);
                }
            }
            if node.rest.methods.is_empty() || start == path.len() {
                return None;
            }
            search.push(start, path.len());
            return search.take(node.rest);
        }
    }

    /// The one literal child, if the segment at `start` is its label, and where the segment ends.
    #[inline(always)]
    fn only_child(&self, child: u32, path: &[u8], start: usize) -> Option<(u32, usize)> {
        let node = &self.nodes[child as usize];
        let len = usize::from(node.label_len);
        let is_equal = goes_on_with(path, start, &self.labels, node.label as usize, len);
        let end = start + len;
        (is_equal && matches!(path.get(end), None | Some(b'/'))).then_some((child, end))
    }

    /// The literal child of `parent` whose label is this segment, which begins at `start`.
    #[inline(always)]
    fn hashed_child(
        &self,
        parent: u32,
        path: &[u8],
        start: usize,
        segment: &Segment,
    ) -> Option<u32> {
        let len = segment.end - start;
        let mut at = segment.hash as usize;
        loop {
            at &= self.slots.len() - 1;
            let slot = self.slots[at];
            if slot.node == NONE {
                return None;
            }
            if slot.tag == (segment.hash >> 32) as u32 {
                let node = &self.nodes[slot.node as usize];
                if node.parent == parent
                    && usize::from(node.label_len) == len
                    && node.head == segment.head
                    && (len <= 8
                        || goes_on_with(
                            path,
                            start + 8,
                            &self.labels,
                            node.label as usize + 8,
                            len - 8,
                        ))
                {
                    return Some(slot.node);
                }
            }
            at += 1;
        }
    }

    /// The hash key of a node's literal children.
    #[inline(always)]
    fn key(&self, node: u32) -> u64 {
        self.seed ^ u64::from(node).wrapping_mul(SPREAD)
    }
}

impl Search<'_> {
    /// The target of the wanted method at this endpoint; other methods are noted.
    #[inline(always)]
    fn take(&mut self, endpoint: Endpoint) -> Option<u32> {
        if endpoint.methods.contains(self.wanted) {
            return Some(endpoint.first + endpoint.methods.rank(self.wanted) as u32);
        }
        self.others = self.others.union(endpoint.methods);
        None
    }

    /// Adds the range `start..end` of the path as a parameter.
    #[inline(always)]
    fn push(&mut self, start: usize, end: usize) {
        let has_room = self.params.push(Span::new(self.base + start, end - start));
        debug_assert!(has_room, "a pattern has at most MAX_PARAMS parameters");
    }
}
