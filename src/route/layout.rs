//! Lays the branches of a route table out as the flat arrays that a search walks. What can be decided
//! once is decided here and not in the search.

use super::block::{Block, words};
use super::branch::Branch;
use super::methods::MethodSet;
use super::node::{Endpoint, Literals, NONE, Node, Ways};
use super::segment::{Keys, last_word};
use super::tree::Tree;
use crate::message::Method;

/// Children of a block that are too few to clump.
const FEW: usize = 64;
/// How many keys are looked at for even ones. Hardly a table needs a second look.
const KEYS_TRIED: u64 = 8;

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

/// The arrays of a tree as they are filled.
struct Layout {
    nodes: Vec<Node>,
    labels: Vec<u8>,
    /// Routes in the order of their targets.
    order: Vec<u32>,
    keys: Keys,
}

/// Lays branches out, of which the first is the root. Gives the routes as well, in the order in which
/// the tree numbers their targets.
pub(super) fn lay_out(mut branches: Vec<Branch>, seed: u64) -> (Tree, Vec<u32>) {
    let keys = choose_keys(&branches, seed);
    let mut layout = Layout {
        nodes: Vec::with_capacity(branches.len()),
        labels: Vec::new(),
        order: Vec::new(),
        keys,
    };
    layout.place_all(&mut branches);
    let tree = Tree {
        nodes: layout.nodes.into(),
        labels: layout.labels.into(),
        keys,
    };
    (tree, layout.order)
}

/// The first keys of those that a seed has under which the children of every large block are spread
/// evenly. One multiplication, all that a search has the time for, leaves some keys under which names
/// that differ regularly clump.
fn choose_keys(branches: &[Branch], seed: u64) -> Keys {
    let is_even = |keys: &Keys| {
        let mut large = branches.iter().filter(|branch| branch.literals.len() > FEW);
        large.all(|branch| branch.block(keys).is_even())
    };
    let keys = |turn| Keys::new(seed.wrapping_add(turn));
    let even = (0..KEYS_TRIED).map(keys).find(is_even);
    even.unwrap_or_else(|| keys(0))
}

impl Branch {
    fn block(&self, keys: &Keys) -> Block {
        Block::of(self.literals.keys().map(|label| &**label), keys)
    }
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
            let block = branch.block(&self.keys);
            let literals = std::mem::take(&mut branch.literals);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of which there are many at once.
    fn families(count: usize) -> [Vec<String>; 7] {
        let names = |name: &dyn Fn(usize) -> String| (0..count).map(name).collect();
        let letter = |i: usize| char::from(b'a' + (i % 26) as u8);
        [
            names(&|i| format!("service-{i}")),
            names(&|i| format!("{i}-service")),
            names(&|i| format!("{i:08x}")),
            names(&|i| format!("tenant-{}-{}", i / 64, i % 64)),
            names(&|i| format!("a-name-of-its-own-{i}")),
            names(&|i| format!("20{:02}-{:02}-{:02}", i / 372, i / 31 % 12, i % 31)),
            names(&|i| [i / 676, i / 26, i].map(letter).iter().collect()),
        ]
    }

    #[test]
    fn children_of_large_blocks_stand_where_their_hash_says_or_close_behind() {
        for (count, seeds) in [(100, 50), (600, 50), (10_000, 10)] {
            for (family, labels) in families(count).into_iter().enumerate() {
                let mut branch = Branch::default();
                for label in labels {
                    branch.literals.insert(label.into_bytes().into(), 0);
                }
                let branches = [branch];
                for seed in 0..seeds {
                    let keys = choose_keys(&branches, seed);
                    let block = branches[0].block(&keys);
                    assert!(matches!(block.kind, Literals::Hashed));
                    assert!(block.is_even(), "{count} of family {family}, seed {seed}");
                }
            }
        }
    }

    /// What a worker could choose that knows how labels are hashed, but not the keys: all of them with the
    /// same second eight bytes, which would leave but a few bits of the first eight in a product.
    #[test]
    fn labels_that_are_chosen_to_meet_do_not() {
        let mut branch = Branch::default();
        for b0 in *b"!)19AIQYaiqy" {
            for b1 in b'a'..=b'o' {
                for (b3, b5) in b"acegikmo".iter().zip(b"hijklmno") {
                    let label = [&[b0, b1, b'a', *b3, b'a', *b5], &b"aa5~J~9y7~"[..]].concat();
                    branch.literals.insert(label.into(), 0);
                }
            }
        }
        let branches = [branch];
        for seed in 0..10 {
            let block = branches[0].block(&choose_keys(&branches, seed));
            assert!(block.is_even(), "seed {seed}");
        }
    }
}
