//! Events for everybody: what `/events` and its channels carry. Which channel an event belongs to is
//! decided here, once.

use crate::gateway::stream::Published;
use crate::gateway::stream::fanout::{Fanout, Group};
use crate::gateway::stream::subscriber::Tag;
use crate::limits::MAX_EVENT;
use crate::sse::{Event, EventFault, Frame};

impl Fanout {
    /// Sends an event to everybody on `/events`, and to those of its channel.
    pub fn broadcast(&mut self, source: &str, event_type: &str, data: &str) -> Published {
        let bare = Event {
            name: Some(event_type),
            id: None,
            retry_ms: None,
            data: b"",
        };
        // Before JSON is made of it, which is never shorter.
        let fault = match bare.check() {
            Ok(()) if data.len() > MAX_EVENT => Some(EventFault::DataTooLong(data.len())),
            checked => checked.err(),
        };
        if fault.is_some() {
            return Published {
                fault,
                ..Published::default()
            };
        }
        let envelope = Envelope {
            source,
            event_type,
            data,
        };
        // A map of three strings is always JSON.
        let json = simd_json::to_vec(&envelope).unwrap_or_default();
        let event = Event {
            data: &json,
            ..bare
        };
        if let Err(fault) = event.check() {
            return Published {
                fault: Some(fault),
                ..Published::default()
            };
        }
        let id = self.next_id();
        let frame = Frame::event(&event, Some(id));
        let tag = Tag {
            source: source.into(),
            event_type: event_type.into(),
        };
        let mut published = self.deliver(Group::Everybody(&tag), &frame);
        // Parsed once, however many listen.
        if let Some(channel) = channel_of(data) {
            let more = self.deliver(Group::Channel(&channel, &tag), &frame);
            published.reached += more.reached;
            published.dropped += more.dropped;
            self.channel_topics
                .record(&channel, id.sequence, tag.clone(), frame.clone());
        }
        self.broadcasts.record(id.sequence, tag, frame);
        self.streams
            .stats
            .count_event(published.reached, published.dropped);
        published
    }
}

/// The data of a broadcast event as clients get it.
#[derive(serde::Serialize)]
struct Envelope<'a> {
    source: &'a str,
    event_type: &'a str,
    data: &'a str,
}

/// The channel that an event's data names: the member `channel` of a JSON object, a string.
fn channel_of(data: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        channel: Option<String>,
    }
    if !data.trim_ascii_start().starts_with('{') {
        return None;
    }
    let mut bytes = data.as_bytes().to_vec();
    simd_json::from_slice::<Named>(&mut bytes).ok()?.channel
}
