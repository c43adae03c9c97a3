//! Finds the end of a path segment, hashes and compares it, eight bytes at a time. It never reads
//! outside the slices it is given and knows nothing of routes.

use crate::limits::MAX_PATTERN;

/// Bytes read at a time.
const WORD: usize = size_of::<u64>();
const SLASHES: u64 = u64::from_ne_bytes([b'/'; WORD]);
const LOW_BITS: u64 = u64::from_ne_bytes([0x01; WORD]);
const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; WORD]);

/// An odd multiplier with well-spread bits (2^64 divided by the golden ratio).
pub(super) const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// One segment of a path as [`scan`] found it. No other segment of at most fifteen bytes has the same
/// two words.
///
/// Where it ends is not told: whoever finds a label with these words knows how long that is.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    /// Its first eight bytes, little-endian. If there are fewer, a slash follows, then zeros.
    pub head: u64,
    /// The eight bytes after those, the same way; zero if `head` has the slash.
    pub second: u64,
    /// Keyed hash of all its bytes.
    pub hash: u64,
}

/// What segments are hashed under, so that nobody can choose some that meet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys {
    /// For the first eight bytes,
    head: u64,
    /// those after them,
    second: u64,
    /// and all that follow.
    rest: u64,
}

impl Keys {
    /// Keys that nobody knows who does not know the seed.
    pub(super) fn new(seed: u64) -> Keys {
        let head = mix(seed ^ SPREAD, !SPREAD);
        let second = mix(head ^ SPREAD, !SPREAD);
        let rest = mix(second ^ SPREAD, !SPREAD);
        Keys { head, second, rest }
    }
}

/// The segment of `path` that begins at `start`, hashed under `keys`. Nothing if `may_begin` says of
/// its first byte, which may be the slash after it, that no such segment is looked for.
#[inline(always)]
pub(super) fn scan(
    path: &[u8],
    start: usize,
    keys: &Keys,
    may_begin: impl Fn(u8) -> bool,
) -> Option<Segment> {
    let rest = &path[start..];
    let mut head = match rest.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None if !may_begin(first_byte(rest.first())) => return None,
        None => end_word(path, rest.len()),
    };
    if !may_begin(head as u8) {
        return None;
    }
    let (mut second, mut hash) = (0, 0);
    let hits = slashes(head);
    if hits != 0 {
        head = up_to_hit(head, hits);
    } else {
        second = match rest.first_chunk::<{ 2 * WORD }>() {
            Some(words) => last_word(words),
            None => end_word(path, rest.len() - WORD),
        };
        let hits = slashes(second);
        if hits != 0 {
            second = up_to_hit(second, hits);
        } else {
            hash = hash_from(path, start + 2 * WORD, keys);
        }
    }
    // One multiplication, for which the next step of a search waits. Neither factor is known to who
    // chooses labels: one with few bits set in the right places would keep the other out of the hash.
    hash ^= mix(head ^ keys.head, second ^ keys.second);
    Some(Segment { head, second, hash })
}

/// Hash of what a segment holds from `at` on. Of one that is longer than any label, only the beginning
/// counts: it is looked for once in each way that a search tries.
#[cold]
#[inline(never)]
fn hash_from(path: &[u8], mut at: usize, keys: &Keys) -> u64 {
    let path = &path[..path.len().min(at + MAX_PATTERN)];
    let mut hash = keys.head;
    loop {
        let rest = &path[at..];
        let word = match rest.first_chunk() {
            Some(word) => u64::from_le_bytes(*word),
            None => end_word(path, rest.len()),
        };
        let hits = slashes(word);
        if hits != 0 {
            return mix(hash ^ up_to_hit(word, hits), keys.rest);
        }
        hash = mix(hash ^ word, keys.rest);
        at += WORD;
    }
}

/// Index of the first slash of `path` at or after `start`, or the length of the path.
#[inline(always)]
pub(super) fn end_of(path: &[u8], start: usize) -> usize {
    end_in_word(path, start)
        .or_else(|| end_in_word(path, start + WORD))
        .unwrap_or_else(|| end_from(path, start + 2 * WORD))
}

/// The same for what has not ended after two words.
// A loop where it is used would have the compiler keep registers for it that the search needs.
#[cold]
#[inline(never)]
fn end_from(path: &[u8], mut at: usize) -> usize {
    loop {
        if let Some(end) = end_in_word(path, at) {
            return end;
        }
        at += WORD;
    }
}

/// The same, if it is at most a word away.
#[inline(always)]
fn end_in_word(path: &[u8], at: usize) -> Option<usize> {
    let hits = slashes(load(path, at));
    if hits != 0 {
        return Some(at + hits.trailing_zeros() as usize / 8);
    }
    (path.len() - at <= WORD).then_some(path.len())
}

/// The first byte of a segment; an empty one has that of the slash after it.
#[inline(always)]
pub(super) fn first_byte(first: Option<&u8>) -> u8 {
    *first.unwrap_or(&b'/')
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

/// The high bit of each byte of a word that is a slash. Above the lowest one, which is exact, a borrow
/// can make others up, but only in bytes whose high bit is not set.
#[inline(always)]
const fn slashes(word: u64) -> u64 {
    (word ^ SLASHES).wrapping_sub(LOW_BITS) & !word & HIGH_BITS
}

/// The bytes of a word up to its first slash, with that.
#[inline(always)]
const fn up_to_hit(word: u64, hits: u64) -> u64 {
    // Every bit below the lowest hit; those of the hits above it are not set in the word, nor is the
    // slash's own.
    word & (hits - 1)
}

/// The last `len` bytes of a path, fewer than eight, and slashes after them, since the end of a path
/// ends a segment as they do.
// A call, since most segments that are scanned have others behind them.
#[cold]
#[inline(never)]
fn end_word(path: &[u8], len: usize) -> u64 {
    match len {
        0 => SLASHES,
        _ => load(path, path.len() - len) | SLASHES << (8 * len),
    }
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
#[cold]
#[inline(never)]
fn load_short(rest: &[u8]) -> u64 {
    let len = rest.len();
    if let (Some(first), Some(last)) = (rest.first_chunk(), rest.last_chunk()) {
        let last = u64::from(u32::from_le_bytes(*last));
        return u64::from(u32::from_le_bytes(*first)) | last << (8 * (len - 4));
    }
    // At most three bytes: the first, the middle and the last are all of them.
    let byte = |at: usize| rest.get(at).map_or(0, |byte| u64::from(*byte) << (8 * at));
    byte(0) | byte(len / 2) | byte(len.saturating_sub(1))
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
                    let keys = Keys::new(7);
                    let found = scan(&path, before, &keys, |_| true).unwrap();
                    let alone = scan(&bare, 0, &keys, |_| true).unwrap();
                    assert_eq!(end_of(&path, before), before + len);
                    assert_eq!(found.hash, alone.hash);
                    assert_eq!((found.head, found.second), (alone.head, alone.second));
                    let mut words = bare.clone();
                    words.push(b'/');
                    words.resize(words.len().max(16), 0);
                    assert_eq!(found.head.to_le_bytes(), words[..8]);
                    assert_eq!(found.second.to_le_bytes(), words[8..16]);
                    let other = scan(&path, before, &Keys::new(8), |_| true).unwrap();
                    assert_ne!(found.hash, other.hash);
                    let first = bare.first().copied().unwrap_or(b'/');
                    assert!(scan(&path, before, &keys, |byte| byte != first).is_none());
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
                        let seen = scan(&other, 0, &keys, |_| true).unwrap();
                        assert_ne!(found.hash, seen.hash);
                        assert_eq!(found.head != seen.head, i < 8);
                        assert_eq!(found.second != seen.second, (8..16).contains(&i));
                        let is_last = len >= 8 && i + 8 >= len;
                        assert_eq!(last_word(&bare) != last_word(&other), is_last);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_longer_than_any_label_is_not_hashed_to_its_end() {
        let keys = Keys::new(7);
        let hash = |path: &[u8]| scan(path, 1, &keys, |_| true).unwrap().hash;
        // A label stands behind a slash at the least.
        let longest = [&b"/"[..], &[b'x'; MAX_PATTERN - 1]].concat();
        for cut in 0..WORD {
            let label = &longest[..longest.len() - cut];
            assert_eq!(hash(label), hash(&[label, b"/more"].concat()));
            assert_ne!(hash(label), hash(&[label, b"y"].concat()));
            assert_ne!(hash(label), hash(&label[..label.len() - 1]));
        }
        let longer = |end: &[u8]| [&longest[..], &[b'x'; 2 * WORD + 1], end].concat();
        assert_eq!(hash(&longer(b"y")), hash(&longer(&[b'z'; 8000])));
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
                let mut words = [0; 16];
                let len = (expected + 1).min(16);
                words[..len].copy_from_slice(&path[..len]);
                let found = scan(&path, 0, &Keys::new(7), |_| true).unwrap();
                assert_eq!(found.head.to_le_bytes(), words[..8], "{path:?}");
                assert_eq!(found.second.to_le_bytes(), words[8..], "{path:?}");
            }
        }
    }
}
