//! What a route tree is made of: nodes, one cache line each. Only data, and how a block of children
//! is told by their first bytes; the search is the tree's.

use super::methods::MethodSet;

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
pub(super) fn first_bit(first: Option<&u8>) -> u64 {
    1 << (first_byte(first) & 63)
}

/// The first byte of a segment; an empty one has that of the slash after it.
#[inline(always)]
pub(super) fn first_byte(first: Option<&u8>) -> u8 {
    *first.unwrap_or(&b'/')
}
