//! Lays the branches of a route table out as the flat arrays that a search walks, and decides how the
//! children of each node are found. It leaves nothing to decide for the search.

use super::branch::Branch;
use super::methods::MethodSet;
use super::node::{Endpoint, Literals, NONE, Node, Ways, first_bit};
use super::places::Places;
use super::segment::{Keys, Segment, first_byte, last_word, scan};
use super::tree::Tree;
use crate::message::Method;

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

/// Lays branches out, of which the first is the root. Gives the routes as well, in the order in which
/// the tree numbers their targets.
pub(super) fn lay_out(mut branches: Vec<Branch>, keys: Keys) -> (Tree, Vec<u32>) {
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
