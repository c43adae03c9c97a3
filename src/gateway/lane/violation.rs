//! What a worker did that no honest worker does. Each ends with its eviction; none harms the hub.

use std::fmt;

/// Why a worker is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A ring index moved backwards or too far ahead.
    RingIndex,
    /// The submission ring is full although everything in it was answered: it is not being read.
    RingNotRead,
    /// A completion of a kind the ABI does not know.
    UnknownKind(u8),
    /// A completion for an exchange that does not exist, is over, or has another generation.
    NoSuchExchange,
    /// A body before its response, or a second response.
    OutOfOrder,
    /// A frame that reaches past the arena, or parts that do not fit the frame.
    BadFrame,
    /// A frame over slots that the hub still holds.
    Overlap,
    /// A return of slots that were not lent, or not in this shape.
    NotLent,
    /// More or fewer bytes of body than announced.
    BodyLength,
    /// A pong to no ping.
    UnknownPong,
    /// A frame of events whose records cannot be read.
    BadEvents,
    /// The hub's doorbell no longer works as one.
    Doorbell,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Violation::RingIndex => "a ring index moved backwards or too far ahead",
            Violation::RingNotRead => "it answers without reading its submission ring",
            Violation::UnknownKind(kind) => {
                return write!(f, "it sent a completion of the unknown kind {kind}");
            }
            Violation::NoSuchExchange => "it answered an exchange that does not exist or is over",
            Violation::OutOfOrder => "it sent a body before its response, or a second response",
            Violation::BadFrame => "it sent a frame that does not fit the arena or its own parts",
            Violation::Overlap => "it sent a frame over slots that the hub still holds",
            Violation::NotLent => "it returned slots that were not lent to it",
            Violation::BodyLength => "it sent more or fewer bytes of body than it announced",
            Violation::UnknownPong => "it answered a ping that was never sent",
            Violation::BadEvents => "it sent a frame of events whose records cannot be read",
            Violation::Doorbell => "it broke the eventfd that wakes the hub",
        };
        f.write_str(text)
    }
}
