//! The ids the hub gives to events, by which a client that comes back says what it has seen. An id is
//! never guessed from text that does not have exactly this form.

use std::fmt;

use super::text::{EPOCH_DIGITS, decimal_len};

/// The place of an event among all that one run of the hub has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// The run of the hub.
    pub epoch: u32,
    /// Counts the run's events from 1; 0 is before the first.
    pub sequence: u64,
}

impl EventId {
    /// Reads what [`Display`](fmt::Display) writes: eight lower hexadecimal digits, `-`, and a decimal
    /// number without leading zeros. Anything else is `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, sequence) = text.split_once('-')?;
        let is_lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let epoch_ok = epoch.len() == EPOCH_DIGITS && epoch.bytes().all(is_lower_hex);
        // The standard library's parsers would take a plus sign, too.
        let sequence_ok = sequence.bytes().all(|b| b.is_ascii_digit())
            && (sequence == "0" || !sequence.starts_with('0'));
        if !epoch_ok || !sequence_ok {
            return None;
        }
        Some(Self {
            epoch: u32::from_str_radix(epoch, 16).ok()?,
            sequence: sequence.parse().ok()?,
        })
    }

    /// Bytes of the text form.
    pub(super) fn text_len(self) -> usize {
        EPOCH_DIGITS + 1 + decimal_len(self.sequence)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.epoch, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (epoch, sequence, text) in [
            (0, 0, "00000000-0"),
            (0xfeed, 10, "0000feed-10"),
            (u32::MAX, u64::MAX, "ffffffff-18446744073709551615"),
        ] {
            let id = EventId { epoch, sequence };
            assert_eq!(id.to_string(), text);
            assert_eq!(id.text_len(), text.len());
            assert_eq!(EventId::parse(text), Some(id));
        }
    }

    #[test]
    fn nothing_else_is_read() {
        for text in [
            "",
            "-",
            "0000feed",
            "0000feed-",
            "0000feed-01",
            "0000feed-00",
            "0000feed-+1",
            "0000feed--1",
            "0000feed-1 ",
            " 000feed-1",
            "0000FEED-1",
            "+000feed-1",
            "feed-1",
            "00000feed-1",
            "0000feeg-1",
            "0000feed-18446744073709551616",
            "0000feed-1-1",
            "0000feed-\u{661}",
            "000feeü-1",
        ] {
            assert_eq!(EventId::parse(text), None, "{text:?}");
        }
    }
}
