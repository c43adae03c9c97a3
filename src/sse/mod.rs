//! Server-Sent Events as the HTML standard (section 9.2) has them: what an event may be, how it is
//! serialised, what a topic remembers, and what becomes of a subscriber that does not keep up. No
//! I/O and no clock: events and the time come in, bytes and decisions go out.

pub mod event;
#[cfg(feature = "gateway")]
pub mod frame;
#[cfg(feature = "gateway")]
pub mod gap;
#[cfg(feature = "gateway")]
pub mod id;
#[cfg(all(feature = "gateway", any(test, fuzzing)))]
pub mod naive;
#[cfg(feature = "gateway")]
pub mod queue;
#[cfg(all(feature = "gateway", any(test, fuzzing)))]
mod queue_check;
mod text;
#[cfg(feature = "gateway")]
pub mod topic;

pub use event::{Event, EventFault};
#[cfg(feature = "gateway")]
pub use frame::Frame;
#[cfg(feature = "gateway")]
pub use gap::{Gap, GapReason};
#[cfg(feature = "gateway")]
pub use id::EventId;
#[cfg(feature = "gateway")]
pub use queue::{Pushed, Queue, QueueLimits};
#[cfg(feature = "gateway")]
pub use topic::{Entry, Resume, Topic, TopicLimits, Topics};

use serde::{Deserialize, Serialize};

/// What happens to a subscriber whose queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlowPolicy {
    /// What comes while the queue is full is dropped.
    #[default]
    DropNewest,
    /// What has waited longest is dropped.
    DropOldest,
    /// The connection is closed; the client comes back and resumes.
    Disconnect,
}
