//! What a subscriber is told in place of events it will not get. A gap never claims less than what was
//! lost: where the extent is not known it says so.

use std::fmt::Write;

use super::EventId;

/// The name of the event that tells of a gap.
pub const GAP_EVENT: &str = "sse_gap";

/// Events that a subscriber will not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// How many, where it is known.
    pub lost: Option<u64>,
    /// The first id in question, where it is known.
    pub from: Option<EventId>,
    /// The last id in question, where it is known.
    pub to: Option<EventId>,
}

/// Why events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The subscriber did not keep up.
    Slow,
    /// The history no longer reaches back to what the client saw last.
    History,
    /// What the client saw last came from another run of the hub.
    Restart,
    /// The client named an event that this hub never sent.
    Unknown,
}

impl GapReason {
    /// The word in the event's data.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::History => "history",
            Self::Restart => "restart",
            Self::Unknown => "unknown",
        }
    }
}

impl Gap {
    /// The data of the event: an object of `reason`, `lost`, `from` and `to`, null where not known.
    pub fn to_json(&self) -> String {
        // None of the texts has anything that JSON would escape.
        let mut json = format!(r#"{{"reason":"{}","lost":"#, self.reason.as_str());
        let written = match self.lost {
            Some(lost) => write!(json, "{lost}"),
            None => json.write_str("null"),
        };
        written.expect("a String takes everything");
        for (name, id) in [("from", self.from), ("to", self.to)] {
            let written = match id {
                Some(id) => write!(json, r#","{name}":"{id}""#),
                None => write!(json, r#","{name}":null"#),
            };
            written.expect("a String takes everything");
        }
        json.push('}');
        json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_null() {
        let gap = Gap {
            reason: GapReason::Unknown,
            lost: None,
            from: None,
            to: None,
        };
        assert_eq!(
            gap.to_json(),
            r#"{"reason":"unknown","lost":null,"from":null,"to":null}"#
        );
        let id = |sequence| {
            Some(EventId {
                epoch: 0xfeed,
                sequence,
            })
        };
        let gap = Gap {
            reason: GapReason::Slow,
            lost: Some(3),
            from: id(7),
            to: id(9),
        };
        assert_eq!(
            gap.to_json(),
            r#"{"reason":"slow","lost":3,"from":"0000feed-7","to":"0000feed-9"}"#
        );
    }
}
