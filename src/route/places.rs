//! Where in its block a listed child stands: a perfect hash of the first byte of its label, chosen
//! when the table is laid out. Only arithmetic; what stands in a block is decided elsewhere.

/// A hash of one byte under which no two children of a block meet. A search computes the only place
/// where the child can be, and needs no list of those that are there; between the byte and the
/// place lie a multiplication and a shift, for which every further step of the search waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    /// Little-endian; as bytes it needs no padding in a node.
    factor: [u8; 2],
    /// Places in the block, a power of two, less one.
    mask: u8,
}

impl Places {
    /// A block with one place, which every byte leads to.
    pub(super) const ONE: Places = Places {
        factor: [0; 2],
        mask: 0,
    };
    /// Most places in a listed block.
    const MOST: usize = 16;
    /// Factors that are tried for each size of a block. Of eight children in eight places nine in
    /// ten find one among them, of fewer nearly all.
    const TRIES: u16 = 2048;

    /// For children that begin with these bytes. Nothing if there are none, if two begin alike, or if
    /// they are too many for a factor to be found.
    pub(super) fn of(firsts: &[u8]) -> Option<Places> {
        let least = firsts.len().next_power_of_two();
        if firsts.is_empty() || least > Self::MOST {
            return None;
        }
        // That two begin alike is usual, and no factor would help.
        if (1..firsts.len()).any(|at| firsts[..at].contains(&firsts[at])) {
            return None;
        }
        [least, least * 2]
            .into_iter()
            .filter(|len| *len <= Self::MOST)
            .find_map(|len| {
                let mask = (len - 1) as u8;
                (1..=Self::TRIES)
                    // An odd step leads through all factors, in no regular order.
                    .map(|turn| Places {
                        factor: turn.wrapping_mul(0x9e37).to_le_bytes(),
                        mask,
                    })
                    .find(|places| places.tell_apart(firsts))
            })
    }

    /// How many places the block has. Those that no child takes stay empty.
    pub(super) fn len(self) -> u32 {
        u32::from(self.mask) + 1
    }

    /// The place of the child whose label begins with this byte, if there is one.
    #[inline(always)]
    pub(super) fn place(self, first: u8) -> u32 {
        let product = u32::from(first) * u32::from(u16::from_le_bytes(self.factor));
        product >> 8 & u32::from(self.mask)
    }

    /// Whether each of these bytes has a place of its own.
    fn tell_apart(self, firsts: &[u8]) -> bool {
        let mut taken = 0_u32;
        firsts.iter().all(|first| {
            let bit = 1 << self.place(*first);
            let is_free = taken & bit == 0;
            taken |= bit;
            is_free
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_bytes_are_told_apart_by_two_places() {
        for b in 0..=u8::MAX {
            for a in 0..b {
                let places = Places::of(&[a, b]).unwrap();
                assert_eq!(places.len(), 2, "{a} {b}");
                assert_ne!(places.place(a), places.place(b));
            }
        }
    }

    #[test]
    fn children_of_usual_blocks_have_places_of_their_own() {
        for count in 1..=12 {
            for from in 0..=u8::MAX {
                for step in [1, 3, 7, 16] {
                    let firsts: Vec<u8> = (0..count)
                        .map(|i: u8| from.wrapping_add(i.wrapping_mul(step)))
                        .collect();
                    let Some(places) = Places::of(&firsts) else {
                        panic!("no places for {firsts:?}");
                    };
                    assert!(places.tell_apart(&firsts));
                    assert!((0..=u8::MAX).all(|first| places.place(first) < places.len()));
                    assert!(places.len() <= 4 * u32::from(count), "{firsts:?}");
                }
            }
        }
    }

    #[test]
    fn no_block_is_made_of_none_of_too_many_or_of_those_that_begin_alike() {
        assert!(Places::of(&[]).is_none());
        assert!(Places::of(b"abcdefghijklmnopq").is_none());
        assert!(Places::of(b"abca").is_none());
        assert_eq!(Places::ONE.len(), 1);
    }
}
