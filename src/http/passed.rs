//! Remembers what may pass of the field sections that workers have sent: they say the same again and
//! again, and what was checked once is copied from then on. What passes depends on the section alone, so
//! it does not matter which worker sent it.

use super::worker_fields::{Given, WorkerHeadFault, copy_fields};

/// How many sections are remembered; two of lengths that differ by a multiple of it displace each other.
const PLACES: usize = 8;
/// Longest section that is remembered, in bytes.
const LONGEST: usize = 512;

/// The field sections of workers that were checked last, and what may pass of them; at most 8 KiB.
#[derive(Debug, Default)]
pub struct PassedFields {
    places: [Place; PLACES],
}

#[derive(Debug, Default)]
struct Place {
    section: Vec<u8>,
    passed: Vec<u8>,
    given: Given,
}

impl PassedFields {
    /// As [`copy_fields`].
    #[inline]
    pub(super) fn copy(
        &mut self,
        out: &mut Vec<u8>,
        section: &[u8],
    ) -> Result<Given, WorkerHeadFault> {
        // Of a place that was never used both are empty, as it should be.
        let place = &mut self.places[section.len() % PLACES];
        if place.section == section {
            out.extend_from_slice(&place.passed);
            return Ok(place.given);
        }
        let before = out.len();
        let given = copy_fields(out, section)?;
        if section.len() <= LONGEST {
            place.remember(section, &out[before..], given);
        }
        Ok(given)
    }
}

impl Place {
    fn remember(&mut self, section: &[u8], passed: &[u8], given: Given) {
        let copy = |from: &[u8], to: &mut Vec<u8>| {
            to.clear();
            to.reserve_exact(from.len());
            to.extend_from_slice(from);
        };
        copy(section, &mut self.section);
        copy(passed, &mut self.passed);
        self.given = given;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_would_be_said_anew() {
        let long = format!("a: {}\r\n", "x".repeat(LONGEST));
        // Lengths that are alike and that differ by PLACES, what passes in part, and what does not.
        let sections = [
            "",
            "a: 1\r\n",
            "b: 1\r\n",
            "a: 123456789\r\n",
            "te: 1\r\na: 1\r\n",
            "connection: b\r\na: 1\r\nb: 2\r\n",
            "date: x\r\n",
            "access-control-allow-origin: *\r\n",
            "a: \u{1}\r\n",
            "a b: 1\r\n",
            "a: 1",
            &long,
        ];
        let mut memo = PassedFields::default();
        for first in sections {
            for second in sections {
                for section in [first, second, first, second, second] {
                    let (mut out, mut expected) = (b"before".to_vec(), b"before".to_vec());
                    let copied = memo.copy(&mut out, section.as_bytes());
                    assert_eq!(copied, copy_fields(&mut expected, section.as_bytes()));
                    assert!(copied.is_err() || out == expected, "{section:?}");
                }
            }
        }
    }

    #[test]
    fn long_sections_are_not_remembered() {
        let mut memo = PassedFields::default();
        let long = format!("a: {}\r\n", "x".repeat(LONGEST));
        memo.copy(&mut Vec::new(), long.as_bytes()).unwrap();
        assert!(memo.places.iter().all(|place| place.section.is_empty()));
    }
}
