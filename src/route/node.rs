//! What a route tree is made of: nodes, one cache line each. Only data; the search is the tree's.

use super::methods::MethodSet;
use super::places::Places;
use crate::limits::MAX_HEAD;

/// No node.
pub(super) const NONE: u32 = u32::MAX;

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
    /// By a literal of its block, where that is hashed.
    Hashed,
    /// By a parameter.
    Param,
    /// By a catch-all.
    Rest,
    /// By a literal of its block, and by a parameter or a catch-all or both.
    ListedAndMore,
    /// By a literal of its hashed block, and by a parameter or a catch-all or both.
    HashedAndMore,
    /// By a parameter and by a catch-all.
    ParamAndRest,
}

impl Ways {
    /// Of a node with these fields.
    pub(super) fn of(literals: Literals, has_param: bool, has_rest: bool) -> Ways {
        match (literals, has_param, has_rest) {
            (Literals::None, false, false) => Ways::None,
            (Literals::None, true, false) => Ways::Param,
            (Literals::None, false, true) => Ways::Rest,
            (Literals::None, true, true) => Ways::ParamAndRest,
            (Literals::Listed, false, false) => Ways::Listed,
            (Literals::Listed, _, _) => Ways::ListedAndMore,
            (Literals::Hashed, false, false) => Ways::Hashed,
            (Literals::Hashed, _, _) => Ways::HashedAndMore,
        }
    }
}

/// How the literal children of a node are found.
#[derive(Clone, Copy)]
pub(super) enum Literals {
    /// There are none.
    None,
    /// They stand where the first bytes of their labels say.
    Listed,
    /// They are too many for that or begin alike, and stand where the hashes of their labels say.
    Hashed,
}

/// A place that a path can reach by whole segments.
///
/// The node is entered through one literal or parameter segment. Where only one literal could
/// follow, that literal is folded into the node as its tail (`/items/all`), so that a chain of
/// literals costs one comparison.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))] // One cache line each.
pub(super) struct Node {
    /// What the labels of hashed children begin with, a set as [`first_bit`] counts, which spares
    /// most misses the hashing. Empty for any other node.
    pub firsts: u64,
    /// First eight bytes of the literal segment that leads here. If there are fewer, a slash follows,
    /// then zeros.
    pub head: u64,
    /// Eight bytes more of it, which with `head` are all of most segments and spare the look at the
    /// labels: of a listed child the last ones, zero if it is shorter; of a hashed one those that
    /// follow, as in a [`Segment`](super::segment::Segment).
    pub more: u64,
    /// Where that segment, and right after it the tail, stand in the labels.
    pub label: u32,
    pub label_len: u16,
    pub tail_len: u16,
    /// The first of the block of literal children, if there are any.
    pub literal: u32,
    /// How many bits of the hash of a label do not say where in the block its child stands.
    pub hash_shift: u32,
    /// The child behind a parameter, or [`NONE`].
    pub param: u32,
    /// Routes that end here.
    pub here: Endpoint,
    /// Routes that end in a catch-all below here.
    pub rest: Endpoint,
    /// In which ways a path can go on.
    pub ways: Ways,
    /// Where in the block which literal child stands, unless they are hashed.
    pub places: Places,
}

const _: () = assert!(size_of::<Node>() == 64, "a node fills one cache line");

impl Node {
    /// A node without label, children and routes.
    pub(super) const EMPTY: Node = Node {
        firsts: 0,
        head: 0,
        more: 0,
        label: 0,
        label_len: 0,
        tail_len: 0,
        literal: 0,
        hash_shift: 0,
        param: NONE,
        here: Endpoint::NONE,
        rest: Endpoint::NONE,
        ways: Ways::None,
        places: Places::ONE,
    };

    /// A place in a block where no child stands. No path is long enough for its label.
    pub(super) const HOLE: Node = Node {
        label_len: {
            assert!(MAX_HEAD < u16::MAX as usize);
            u16::MAX
        },
        ..Node::EMPTY
    };

    /// Whether this hashed child's label begins with these words of a segment. If it is short they are
    /// all of it.
    #[inline(always)]
    pub(super) fn has_words(&self, head: u64, second: u64) -> bool {
        self.head == head && self.more == second
    }

    /// Whether two words of a segment hold all of this label.
    #[inline(always)]
    pub(super) fn is_short(&self) -> bool {
        usize::from(self.label_len) < 2 * size_of::<u64>()
    }

    /// Whether no child stands here.
    #[inline(always)]
    pub(super) fn is_hole(&self) -> bool {
        self.label_len == Node::HOLE.label_len
    }
}

impl Endpoint {
    const NONE: Endpoint = Endpoint {
        first: 0,
        methods: MethodSet::EMPTY,
    };
}

/// The bit that stands for the first byte of a segment.
#[inline(always)]
pub(super) fn first_bit(first: u8) -> u64 {
    1 << (first & 63)
}
