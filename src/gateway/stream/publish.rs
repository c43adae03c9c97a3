//! Events on their way in: from control requests, and out of lanes, record by record, so that what
//! reached the subscribers can be written before more comes.

use std::rc::Rc;
use std::slice;

use crate::control::StreamOptions;
use crate::gateway::Routes;
use crate::gateway::lane::{EventFrame, EventOutcome};
use crate::gateway::stream::fanout::{Fanout, Group};
use crate::gateway::stream::handover::{CopiedFrame, Origin};
use crate::gateway::stream::paths::Audience;
use crate::gateway::stream::subscriber::{Feed, Mark};
use crate::gateway::stream::{
    LaneEvents, Publication, Published, Target, connection_number, path_key,
};
use crate::limits::{MAX_EVENT_TEXT, MAX_QUEUE_BYTES};
use crate::message::{Method, Params};
use crate::route::Lookup;
use crate::shm::descriptor::{CLOSING, NO_CONNECTION, REFUSED};
use crate::shm::events::{EventRecord, EventRecords, EventTarget, encoded_event_len};
use crate::sse::{Event, Frame};

/// Frames of events that are gone through.
pub struct Intake {
    /// Where they come from.
    pub events: LaneEvents,
    /// The frame that is gone through, while it is its turn.
    frame: Option<CopiedFrame>,
    /// Who the next event is for, where it has to wait, and the lane it is of.
    waits_for: Option<(Origin, Address)>,
}

/// What a step through an [`Intake`] has brought.
pub enum Step {
    /// One event has been published, whose record has so many bytes.
    Published(usize),
    /// The next event is for a subscriber that has no room for it now, and soon will.
    Wait,
    /// A frame is done, and goes back.
    Frame(Origin, EventFrame, EventOutcome),
    /// There is nothing left.
    Empty,
    /// The worker wrote what are no records, or not as many as it said.
    Nonsense(Origin),
}

/// Who an event is for, as it is found here.
#[derive(Clone)]
enum Address {
    Everybody,
    Path(String),
    /// `None`: an id that this run of the hub never gave out.
    Connection(Option<u64>),
}

impl Intake {
    /// Everything is still to be done.
    pub fn new(events: LaneEvents) -> Intake {
        Intake {
            events,
            frame: None,
            waits_for: None,
        }
    }

    /// Gives the frame that is not done back, so that its lane can take it away if it ends.
    pub fn pause(&mut self) {
        if let Some(frame) = self.frame.take() {
            self.events.handover.put_back(frame);
        }
    }
}

impl Fanout {
    /// Publishes an event from a control request.
    pub fn publish(&mut self, publication: &Publication) -> Published {
        let Publication {
            target,
            event_type,
            data,
            id,
            retry_ms,
        } = publication;
        let event = Event {
            name: Some(event_type),
            id: id.as_deref(),
            retry_ms: *retry_ms,
            data: data.as_bytes(),
        };
        match target {
            Target::Everybody(source) => self.broadcast(source, event_type, data),
            Target::Path(path) => self.push_to_path(&path_key(path.as_bytes()), None, &event),
            Target::Connection(id) => {
                let number = connection_number(id, self.streams.epoch);
                self.push_to_connection(number, None, &event)
            }
        }
    }

    /// Takes the next event out of the frames.
    pub fn step(&mut self, intake: &mut Intake) -> Step {
        let taken = intake.frame.take();
        let Some(mut copied) = taken.or_else(|| intake.events.handover.take()) else {
            return Step::Empty;
        };
        let CopiedFrame {
            origin,
            frame,
            bytes,
            progress,
        } = &mut copied;
        let record = match EventRecords::new(&bytes[progress.done..]).next() {
            None if progress.records == frame.records => {
                return Step::Frame(*origin, *frame, std::mem::take(&mut progress.outcome));
            }
            None | Some(Err(_)) => return Step::Nonsense(*origin),
            Some(Ok(record)) => record,
        };
        let address = match intake.waits_for.take() {
            Some((of, address)) if of == *origin => Some(address),
            _ => self.address(record.target),
        };
        if let Some(address) = &address
            && self.has_to_wait(address, &intake.events.worker)
        {
            intake.waits_for = Some((*origin, address.clone()));
            intake.frame = Some(copied);
            return Step::Wait;
        }
        let len = encoded_event_len(&record);
        progress.done += len;
        progress.records += 1;
        let source = intake.events.worker.clone();
        let published = address.and_then(|address| self.publish_record(&source, address, &record));
        progress.outcome.add(published);
        intake.frame = Some(copied);
        Step::Published(len)
    }

    /// Whether the next event has to wait.
    pub fn still_waits(&self, intake: &Intake) -> bool {
        let LaneEvents {
            worker, handover, ..
        } = &intake.events;
        intake.waits_for.as_ref().is_some_and(|(of, address)| {
            self.has_to_wait(address, worker) && handover.next_is_of() == Some(*of)
        })
    }

    /// Who the event of a record is for. `None` where a text is no UTF-8.
    fn address(&self, target: EventTarget<'_>) -> Option<Address> {
        Some(match target {
            EventTarget::Broadcast => Address::Everybody,
            EventTarget::Path(path) => Address::Path(path_key(path)),
            EventTarget::Connection(id) => {
                let id = std::str::from_utf8(id).ok()?;
                Address::Connection(connection_number(id, self.streams.epoch))
            }
        })
    }

    /// A publisher that names whom it sends to is slowed down to what they read, as long as they read
    /// at all. Nobody waits for one among all who hear a broadcast, or for clients of other workers,
    /// whom the event does not reach.
    fn has_to_wait(&self, address: &Address, sender: &str) -> bool {
        let audience = match address {
            Address::Everybody | Address::Connection(None) => None,
            Address::Path(path) => self.paths.audience(path, Some(sender)),
            Address::Connection(Some(number)) => self.numbers.get(number).map(|key| Audience {
                members: slice::from_ref(key),
                only: Some(sender),
            }),
        };
        let Some(Audience { members, only }) = audience else {
            return false;
        };
        let (now_ms, most) = (self.now_ms, self.config.queue_events);
        let mark = only.map_or(Mark::Anybody, Mark::Worker);
        members.iter().any(|&key| {
            let subscriber = self.subscribers.get(key);
            subscriber.is_some_and(|s| {
                let is_full = s.queue.queued_events() >= most
                    || s.queue.queued_bytes() + MAX_EVENT_TEXT > MAX_QUEUE_BYTES;
                is_full && s.is_worth_waiting_for(now_ms) && s.feed.wants(mark)
            })
        })
    }

    /// `None` where a text is no UTF-8.
    fn publish_record(
        &mut self,
        source: &str,
        address: Address,
        record: &EventRecord<'_>,
    ) -> Option<Published> {
        let name = std::str::from_utf8(record.name).ok()?;
        let id = record.id.map(std::str::from_utf8).transpose().ok()?;
        let event = Event {
            name: (!name.is_empty()).then_some(name),
            id,
            retry_ms: record.retry_ms,
            data: record.data,
        };
        Some(match address {
            Address::Everybody => {
                let data = std::str::from_utf8(record.data).ok()?;
                self.broadcast(source, name, data)
            }
            Address::Path(path) => self.push_to_path(&path, Some(source), &event),
            Address::Connection(number) => self.push_to_connection(number, Some(source), &event),
        })
    }

    /// `sender`: the worker it comes from, which reaches its own clients and no others, and leaves
    /// nothing where another has the route. `None` for a control request, which reaches everybody.
    fn push_to_path(&mut self, path: &str, sender: Option<&str>, event: &Event<'_>) -> Published {
        if let Err(fault) = event.check() {
            return refused(fault);
        }
        let audience = self.paths.audience(path, sender);
        let first = audience.and_then(|Audience { members, only }| {
            let mark = only.map_or(Mark::Anybody, Mark::Worker);
            let mut feeds = members.iter().map(|key| &self.subscribers[*key].feed);
            feeds.find(|feed| feed.wants(mark))
        });
        let is_anothers = |owner: &str| sender.is_some_and(|sender| *sender != *owner);
        let (options, remembers) = match first {
            Some(Feed::Path(delegated)) => {
                let options = delegated.options;
                let routes = &self.routes;
                let find = || stream_route(routes, path).is_none_or(|(name, _)| !is_anothers(name));
                let remembers = options.replay
                    && (sender.is_none() || self.paths.remembers(path, self.edition, find));
                (options, remembers)
            }
            Some(_) => (StreamOptions::default(), false),
            None => match stream_route(&self.routes, path) {
                // Remembered for whoever comes back for it.
                Some((name, options)) if options.replay && !is_anothers(name) => (options, true),
                _ => return self.nobody_at(path, sender),
            },
        };
        let frame = self.frame(event, options.replay);
        let published = self.deliver(Group::Path(path, sender), &frame);
        if let Some(id) = frame.id().filter(|_| remembers) {
            self.path_topics.record(path, id.sequence, (), frame);
        }
        self.streams
            .stats
            .count_event(published.reached, published.dropped);
        published
    }

    /// `sender`: as for a path. Numbers are easily guessed, so a connection of another worker is none.
    fn push_to_connection(
        &mut self,
        number: Option<u64>,
        sender: Option<&str>,
        event: &Event<'_>,
    ) -> Published {
        if let Err(fault) = event.check() {
            return refused(fault);
        }
        let mark = sender.map_or(Mark::Anybody, Mark::Worker);
        let key = number.and_then(|number| self.numbers.get(&number));
        let own = key.filter(|key| self.subscribers[**key].feed.wants(mark));
        let Some(&key) = own else {
            let closing = number.is_some_and(|number| self.closing.has_number(number, sender));
            return Published {
                closing,
                no_connection: !closing,
                ..Published::default()
            };
        };
        // For one connection alone: the topic, which others replay, does not remember it. An id of its
        // own would be taken for one of the topic's when the client comes back.
        let is_replayed = match &self.subscribers[key].feed {
            Feed::Path(delegated) => delegated.options.replay,
            _ => false,
        };
        let id = event.id.filter(|_| !is_replayed);
        let frame = self.frame(&Event { id, ..*event }, false);
        let published = self.deliver_to(key, &frame);
        self.streams
            .stats
            .count_event(published.reached, published.dropped);
        published
    }

    /// An event as it is sent; numbered where it is remembered.
    fn frame(&mut self, event: &Event<'_>, replay: bool) -> Rc<Frame> {
        let id = replay.then(|| self.next_id());
        Frame::event(event, id)
    }

    fn nobody_at(&self, path: &str, sender: Option<&str>) -> Published {
        let closing = self.closing.has_path(path, sender);
        Published {
            closing,
            no_connection: !closing,
            ..Published::default()
        }
    }
}

/// Whose the route of a path is, and how it behaves, if it is a stream.
fn stream_route<'a>(routes: &'a Routes, path: &str) -> Option<(&'a str, StreamOptions)> {
    let found = routes.lookup(Method::Get, path.as_bytes(), 0, &mut Params::default());
    match found {
        Lookup::Found { target, .. } => {
            let route = target.stream.as_ref()?;
            Some((&target.name, route.options))
        }
        _ => None,
    }
}

impl EventOutcome {
    /// Counts what has become of one event. `None` where it broke a rule.
    fn add(&mut self, published: Option<Published>) {
        let Some(published) = published else {
            self.flags |= REFUSED;
            return;
        };
        self.reached = self.reached.saturating_add(published.reached);
        self.dropped = self.dropped.saturating_add(published.dropped);
        for (is_so, flag) in [
            (published.no_connection, NO_CONNECTION),
            (published.closing, CLOSING),
            (published.fault.is_some(), REFUSED),
        ] {
            self.flags |= if is_so { flag } else { 0 };
        }
    }
}

fn refused(fault: crate::sse::EventFault) -> Published {
    Published {
        fault: Some(fault),
        ..Published::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gateway::mailbox::mailbox;
    use crate::gateway::stream::handover::{Handover, Progress};
    use crate::gateway::stream::{StreamConfig, Streams};
    use crate::shm::descriptor::Run;
    use crate::shm::events::encode_event;
    use crate::sse::SlowPolicy;

    fn fanout() -> Fanout {
        let (sender, _) = mailbox().unwrap();
        let config = StreamConfig {
            history_events: 16,
            queue_events: 16,
            slow: SlowPolicy::DropNewest,
            heartbeat_ms: 1_000,
            write_timeout_ms: 30_000,
            sweep_interval_ms: 0,
            orphan_timeout_ms: 1_000,
        };
        Fanout::new(Streams::new(sender, 1), config, Vec::new(), 0)
    }

    /// A frame of one record, as a worker that checks nothing could send it.
    fn unchecked(data: &[u8]) -> Intake {
        let record = EventRecord {
            target: EventTarget::Path(b"/x"),
            name: b"",
            id: None,
            retry_ms: None,
            data,
        };
        let mut bytes = vec![0; encoded_event_len(&record)];
        encode_event(&mut bytes, &record).unwrap();
        let frame = EventFrame {
            run: Run { first: 0, slots: 1 },
            len: bytes.len(),
            records: 1,
        };
        let handover = Arc::new(Handover::default());
        let origin = Origin {
            index: 0,
            attach: 1,
        };
        assert!(handover.put(vec![CopiedFrame {
            origin,
            frame,
            bytes,
            progress: Progress::default(),
        }]));
        assert!(handover.release().lists);
        Intake::new(LaneEvents {
            shard: 0,
            worker: "w".into(),
            handover,
        })
    }

    #[test]
    fn what_is_too_long_as_text_is_refused_from_a_lane_too() {
        let mut fanout = fanout();
        for (data, flags) in [
            (b"\n".repeat(100_000), REFUSED),
            (b"x".repeat(256 * 1024 + 1), REFUSED),
            (b"x".repeat(256 * 1024), NO_CONNECTION),
            (b"\n".repeat(1_000), NO_CONNECTION),
        ] {
            let mut intake = unchecked(&data);
            assert!(matches!(fanout.step(&mut intake), Step::Published(_)));
            let Step::Frame(_, _, outcome) = fanout.step(&mut intake) else {
                panic!("the frame goes back");
            };
            assert_eq!(outcome.flags, flags, "{} bytes", data.len());
        }
        assert_eq!(fanout.bytes_this_round, 0);
    }
}
