//! How the literal children of one node stand side by side, so that a search finds them at once or
//! soon. It decides where, and makes no node.

use super::node::{Literals, first_bit};
use super::places::Places;
use super::segment::{Keys, Segment, first_byte, scan};

/// How far a child of an even block may stand behind the place that its hash says. Among ten thousand
/// hashed at random some stand 30 behind.
const MOST_PUSHED: usize = 64;

/// How the literal children of a node stand side by side.
pub(super) struct Block {
    pub kind: Literals,
    /// Places, those that stay empty included.
    pub len: u32,
    /// The place of each child, in the order of labels.
    pub of_child: Vec<u32>,
    /// If they are listed.
    pub places: Places,
    /// If they are hashed: how many bits of the hash do not say the place.
    pub hash_shift: u32,
    /// If they are hashed: what their labels begin with.
    pub firsts: u64,
    /// How many places all children together stand behind those that their hashes say, and how many
    /// the one that stands farthest.
    pushed: (usize, usize),
}

impl Block {
    /// For children with these labels.
    pub(super) fn of<'a>(
        labels: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        keys: &Keys,
    ) -> Block {
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
                pushed: (0, 0),
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
                pushed: (0, 0),
            };
        }
        // Open addressing with linear probing, at most half full. Who is pushed over the end of the
        // places that a hash can say stands behind them, so that no search has to begin anew.
        let hash_bits = (2 * count).next_power_of_two().trailing_zeros();
        let hash_shift = u64::BITS - hash_bits;
        let mut is_taken = vec![false; 1 << hash_bits];
        let mut pushed = (0, 0);
        let of_child = labels
            .clone()
            .map(|label| {
                let own = (words(label, keys).hash >> hash_shift) as usize;
                let mut place = own;
                while is_taken[place] {
                    place += 1;
                }
                is_taken[place] = true;
                pushed = (pushed.0 + place - own, pushed.1.max(place - own));
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
            pushed,
        }
    }

    /// Whether a search finds the children of a hashed block as soon as may be expected: hashed at
    /// random they would stand half a place behind their own in the mean.
    pub(super) fn is_even(&self) -> bool {
        self.pushed.0 <= self.of_child.len() && self.pushed.1 <= MOST_PUSHED
    }
}

/// A label as a search sees it that comes to the segment which is it.
pub(super) fn words(label: &[u8], keys: &Keys) -> Segment {
    scan(label, 0, keys, |_| true).expect("a label begins as it begins")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hashed_block_ends_with_a_hole_and_is_half_empty() {
        for count in 2..200 {
            for seed in 0..20 {
                let labels: Vec<_> = (0..count).map(|i| format!("name-{i}")).collect();
                let labels = labels.iter().map(|label| label.as_bytes());
                let block = Block::of(labels, &Keys::new(seed));
                assert!(matches!(block.kind, Literals::Hashed));
                assert!(block.len >= 2 * count && block.len <= 5 * count);
                assert!(block.of_child.iter().all(|place| place + 1 < block.len));
                let mut places = block.of_child.clone();
                places.sort_unstable();
                places.dedup();
                assert_eq!(places.len(), count as usize);
            }
        }
    }
}
