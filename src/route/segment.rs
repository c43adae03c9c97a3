//! Finds the end of a path segment, hashes and compares it, eight bytes at a time. It never reads
//! outside the slices it is given and knows nothing of routes.

/// Bytes read at a time.
const WORD: usize = size_of::<u64>();
const SLASHES: u64 = u64::from_ne_bytes([b'/'; WORD]);
const LOW_BITS: u64 = u64::from_ne_bytes([0x01; WORD]);
const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; WORD]);

/// An odd multiplier with well-spread bits (2^64 divided by the golden ratio).
pub(super) const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// One segment of a path as [`scan`] found it.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    /// Index of the slash after it, or the length of the path.
    pub end: usize,
    /// Its first eight bytes, little-endian; missing ones are zero.
    pub head: u64,
    /// Keyed hash of its bytes. Segments that differ only in trailing NULs may share it.
    pub hash: u64,
}

/// The segment of `path` that begins at `start`, hashed under `key`.
///
/// The hash hangs on nothing but the path, so that a processor can compute it ahead while it still
/// waits for the node to which the segment before led.
#[inline(always)]
pub(super) fn scan(path: &[u8], start: usize, key: u64) -> Segment {
    let (head, mut len) = word_of_segment(path, start);
    let mut end = start + len;
    if len < WORD {
        let hash = mix(key ^ head, SPREAD);
        return Segment { end, head, hash };
    }
    let (second, more) = word_of_segment(path, end);
    let mut hash = mix(key ^ head, SPREAD ^ second);
    end += more;
    len = more;
    while len == WORD {
        let (word, more) = word_of_segment(path, end);
        hash = mix(hash ^ word, SPREAD);
        end += more;
        len = more;
    }
    Segment { end, head, hash }
}

/// Index of the first slash of `path` at or after `start`, or the length of the path.
#[inline(always)]
pub(super) fn end_of(path: &[u8], start: usize) -> usize {
    let mut end = start;
    loop {
        let (_, len) = word_of_segment(path, end);
        end += len;
        if len < WORD {
            return end;
        }
    }
}

/// Whether two slices of the same length hold the same bytes. Made for short ones: overlapping
/// loads take the place of a loop and of a call.
#[inline(always)]
pub(super) fn are_equal(a: &[u8], b: &[u8]) -> bool {
    debug_assert_eq!(a.len(), b.len());
    if let (Some(first_a), Some(last_a)) = (a.first_chunk::<WORD>(), a.last_chunk::<WORD>()) {
        return Some(first_a) == b.first_chunk()
            && Some(last_a) == b.last_chunk()
            && (a.len() <= 2 * WORD || a == b);
    }
    if let (Some(first_a), Some(last_a)) = (a.first_chunk::<4>(), a.last_chunk::<4>()) {
        return Some(first_a) == b.first_chunk() && Some(last_a) == b.last_chunk();
    }
    // At most three bytes: the first, the middle and the last are all of them.
    a.first() == b.first() && a.get(a.len() / 2) == b.get(b.len() / 2) && a.last() == b.last()
}

/// Whether fewer than eight bytes are what a little-endian word begins with.
#[inline(always)]
pub(super) fn is_short_word(bytes: &[u8], word: u64) -> bool {
    debug_assert!(bytes.len() < WORD);
    let from = |at: usize| word >> (8 * at);
    let len = bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return u32::from_le_bytes(*first) == word as u32
            && u32::from_le_bytes(*last) == from(len - 4) as u32;
    }
    // At most three bytes: the first, the middle and the last are all of them.
    bytes
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte == from(at) as u8)
}

/// The last eight bytes, little-endian; zero if there are fewer in all.
#[inline(always)]
pub(super) fn last_word(bytes: &[u8]) -> u64 {
    bytes
        .last_chunk()
        .map_or(0, |word| u64::from_le_bytes(*word))
}

/// The next bytes of the segment at `at`, at most a word, zero-padded, and how many they are.
/// Fewer than a word means that the segment ends there.
#[inline(always)]
fn word_of_segment(path: &[u8], at: usize) -> (u64, usize) {
    let word = load(path, at);
    let hits = zero_bytes(word ^ SLASHES);
    if hits != 0 {
        // Every bit up to the hit, less the eight of the slash itself.
        let before = (hits ^ (hits - 1)) >> 8;
        (word & before, hits.trailing_zeros() as usize / 8)
    } else {
        (word, (path.len() - at).min(WORD))
    }
}

/// The high bit of each zero byte of a word. Above the lowest hit, which is exact, a borrow can
/// make others up.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOW_BITS) & !word & HIGH_BITS
}

/// Up to eight bytes of `bytes` from `at` on, little-endian, zero where `bytes` has ended.
/// `at` is at most the length of `bytes`.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> u64 {
    let rest = &bytes[at..];
    if let Some(word) = rest.first_chunk() {
        return u64::from_le_bytes(*word);
    }
    match bytes.last_chunk() {
        // The last whole word covers the rest; what precedes the rest is shifted out.
        Some(word) if !rest.is_empty() => u64::from_le_bytes(*word) >> (8 * (WORD - rest.len())),
        _ => load_short(rest),
    }
}

/// The same for a path of fewer than eight bytes in all.
#[inline(never)]
fn load_short(rest: &[u8]) -> u64 {
    rest.iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// Folds the 128-bit product, so that every input bit reaches the low and the high half.
#[inline(always)]
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_end_for_every_length_and_offset() {
        for before in 0..20 {
            for len in 0..40 {
                for after in 0..20 {
                    let mut path = vec![b'x'; before];
                    path.extend((0..len).map(|i| b'a' + i as u8 % 26));
                    let bare = path[before..].to_vec();
                    if after > 0 {
                        path.push(b'/');
                        path.extend(std::iter::repeat_n(b'y', after - 1));
                    }
                    let found = scan(&path, before, 7);
                    let alone = scan(&bare, 0, 7);
                    assert_eq!(found.end, before + len);
                    assert_eq!(end_of(&path, before), before + len);
                    assert_eq!(found.hash, alone.hash);
                    assert_eq!(found.head, alone.head);
                    assert_ne!(found.hash, scan(&path, before, 8).hash);
                    assert!(are_equal(&path[before..before + len], &bare));
                    let part = &path[before..before + len];
                    assert!(len >= 8 || is_short_word(part, found.head));
                    assert_eq!(last_word(part), last_word(&bare));
                    assert_eq!(last_word(part) == 0, len < 8);
                    for i in 0..len {
                        let mut other = bare.clone();
                        other[i] ^= 0x80;
                        assert!(!are_equal(&bare, &other));
                        assert!(len >= 8 || !is_short_word(&other, found.head));
                        let is_last = len >= 8 && i + 8 >= len;
                        assert_eq!(last_word(&bare) != last_word(&other), is_last);
                    }
                }
            }
        }
    }

    #[test]
    fn takes_only_a_slash_for_a_slash() {
        for byte in 0..=u8::MAX {
            for at in 0..16 {
                let mut path = [b'-'; 16];
                path[at] = byte;
                // Neighbours of the slash are what borrow bugs in the word trick would hit.
                path[15 - at] = if byte == b'/' { b'/' } else { b'.' };
                let expected = path.iter().position(|b| *b == b'/').unwrap_or(16);
                assert_eq!(end_of(&path, 0), expected, "{path:?}");
            }
        }
    }
}
