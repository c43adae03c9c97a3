//! Bodies whose every byte is known from its place, so that megabytes are checked without keeping
//! them. Never the same block twice in a row: a lost, doubled or moved frame shows.

use std::sync::OnceLock;

use super::Random;

/// A prime, so that no frame, slot or page size divides it.
const PERIOD: usize = 1_000_003;

/// One period, twice in a row, so that any run of a period's length is one slice.
fn block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let mut random = Random(0x736c_6f74);
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| random.next().to_le_bytes())
            .take(PERIOD / 8 + 1)
            .flatten()
            .collect();
        bytes.truncate(PERIOD);
        bytes.extend_from_within(..);
        bytes
    })
}

/// The bytes of the pattern from `offset` on, at most a period of them.
pub fn pattern(offset: u64, len: usize) -> &'static [u8] {
    let start = (offset % PERIOD as u64) as usize;
    &block()[start..start + len.min(PERIOD)]
}

/// Checks what arrives against the pattern.
#[derive(Debug, Default)]
pub struct Checker {
    /// Bytes that were right so far.
    pub seen: u64,
}

impl Checker {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// They are not those of the pattern; says at which offset.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        for part in bytes.chunks(PERIOD) {
            let expected = pattern(self.seen, part.len());
            if part != expected {
                let at = part.iter().zip(expected).position(|(a, b)| a != b);
                let at = self.seen + at.unwrap_or_default() as u64;
                return Err(format!("byte {at} is not the one that was sent"));
            }
            self.seen += part.len() as u64;
        }
        Ok(())
    }
}
