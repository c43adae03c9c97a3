//! Publishing: from any thread, in the order of the calls, through the memory shared with the hub.
//! Who publishes faster than the hub takes it waits; nothing is dropped here.

mod event;
mod link;
pub(crate) mod receipt;

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

pub use self::event::{Event, Target};
pub(crate) use self::link::{Link, LinkOwner, Stopped};
pub use self::receipt::{Delivery, Receipt};

use self::event::record;
use self::receipt::Outcome;
use crate::limits::EVENT_FRAME;
use crate::shm::events::{EventRecord, EventTarget, encode_event, encoded_event_len};
use crate::shm::layout::Geometry;
use crate::shm::region::Slots;
use crate::sse::{Event as Checked, EventFault};
use crate::worker::lane::events::{Ticket, event_limit};
use crate::worker::poll_guard;
use crate::worker::session::Session;

/// The lane that events go through. One for all of them, so that they keep their order.
const LANE: usize = 0;

/// Publishes a worker's events. Cheap to clone; works from any thread, also before the worker runs.
///
/// A call that returns `Ok` has put its events into the memory shared with the hub, behind those of
/// every call that returned before it. They are lost only if the hub dies before it takes them.
#[derive(Clone)]
pub struct Events {
    link: Arc<Link>,
}

/// Why an event was not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// The worker has stopped, or was dropped without having been run.
    Stopped,
    /// As many events as may be are with the hub; only of [`Events::try_push`].
    Full,
    /// The worker is not attached to a hub now; only of [`Events::try_push`].
    NotAttached,
    /// The event breaks a rule of Server-Sent Events.
    Invalid(EventFault),
    /// The event is longer than a quarter of the lane that the hub gives this worker.
    TooLong {
        /// Bytes it takes.
        len: usize,
        /// Most bytes that one event may take.
        limit: usize,
    },
    /// It is for a path or a connection that cannot be. Says which, and why.
    Target(String),
    /// A blocking method was called in an async handler.
    WouldBlock,
}

impl Events {
    pub(crate) fn new(link: Arc<Link>) -> Events {
        Events { link }
    }

    /// Publishes to the subscribers of `/events`, who get it as JSON with the worker's name as
    /// `source`, this type as `event_type`, and `data`. Waits as [`Events::push`] does.
    ///
    /// # Errors
    /// As [`Events::push`]; the type must keep the rules of an event's name.
    pub fn emit(&self, event_type: &str, data: &str) -> Result<(), PublishError> {
        self.publish(&[broadcast(event_type, data)?])
    }

    /// As [`Events::emit`], for async code.
    ///
    /// # Errors
    /// As [`Events::emit`], but for [`PublishError::WouldBlock`].
    pub async fn emit_async(&self, event_type: &str, data: &str) -> Result<(), PublishError> {
        self.publish_async(&[broadcast(event_type, data)?]).await
    }

    /// Sends an event to the clients of one of the worker's SSE routes.
    ///
    /// Waits while the hub has as many events as it may have of this worker, and while the worker is
    /// not attached yet or the hub is restarting. Call it on a thread of its own, or in a handler that
    /// may block; before [`Worker::run`](crate::worker::Worker::run) on the same thread it would wait
    /// for ever.
    ///
    /// # Errors
    /// All of [`PublishError`] but [`Full`](PublishError::Full) and
    /// [`NotAttached`](PublishError::NotAttached); nothing was sent then.
    pub fn push(&self, target: Target, event: Event) -> Result<(), PublishError> {
        self.publish(&[event.record(&target)?])
    }

    /// As [`Events::push`], for async code.
    ///
    /// # Errors
    /// As [`Events::push`], but for [`PublishError::WouldBlock`].
    pub async fn push_async(&self, target: Target, event: Event) -> Result<(), PublishError> {
        self.publish_async(&[event.record(&target)?]).await
    }

    /// Sends many events, as many as fit in one go; much cheaper for each than [`Events::push`]. Waits
    /// as that does.
    ///
    /// # Errors
    /// As [`Events::push`]. All events are checked before any is sent; only
    /// [`Stopped`](PublishError::Stopped) and [`TooLong`](PublishError::TooLong) may leave the first of
    /// them sent and the last not.
    pub fn push_all(
        &self,
        events: impl IntoIterator<Item = (Target, Event)>,
    ) -> Result<(), PublishError> {
        let events: Vec<_> = events.into_iter().collect();
        self.publish(&records(&events)?)
    }

    /// As [`Events::push_all`], for async code.
    ///
    /// # Errors
    /// As [`Events::push_all`], but for [`PublishError::WouldBlock`].
    pub async fn push_all_async(
        &self,
        events: impl IntoIterator<Item = (Target, Event)>,
    ) -> Result<(), PublishError> {
        let events: Vec<_> = events.into_iter().collect();
        self.publish_async(&records(&events)?).await
    }

    /// Sends an event as [`Events::push`] does, but never waits. The receipt tells what has become of
    /// it, once the hub has said so.
    ///
    /// # Errors
    /// All of [`PublishError`] but [`WouldBlock`](PublishError::WouldBlock); nothing was sent then.
    pub fn try_push(&self, target: Target, event: Event) -> Result<Receipt, PublishError> {
        let records = [event.record(&target)?];
        let session = self.link.session()?.ok_or(PublishError::NotAttached)?;
        let lane = session.lane(LANE);
        let part = Part::first_of(&records, lane.memory().geometry())?;
        let slots = match lane.try_event_slots(part.slots) {
            Some(slots) => slots,
            // What the hub has given back may be in the ring, where nobody is looking.
            None if session.pump() => lane.try_event_slots(part.slots).ok_or(PublishError::Full)?,
            None => return Err(PublishError::Full),
        };
        let outcome = Arc::new(Outcome::default());
        let sent = send(&session, slots, &part, &records, Some(outcome.clone()));
        sent.map_err(|Lost| PublishError::NotAttached)?;
        Ok(Receipt::new(session, outcome))
    }

    fn publish(&self, records: &[EventRecord<'_>]) -> Result<(), PublishError> {
        // Always, so that it does not show only under load.
        if poll_guard::is_polling() {
            return Err(PublishError::WouldBlock);
        }
        let mut publishing = Publishing::new(records);
        loop {
            let session = self.link.wait()?;
            // Nothing to wait for, as a rule.
            if publishing.try_rest(&session)? {
                return Ok(());
            }
            match session.block_on(|cx| publishing.poll_on(&session, cx)) {
                Err(Halt::Lost) => {}
                Err(Halt::Failed(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn publish_async(&self, records: &[EventRecord<'_>]) -> Result<(), PublishError> {
        let mut publishing = Publishing::new(records);
        loop {
            let session = poll_fn(|cx| self.link.poll(cx)).await?;
            match poll_fn(|cx| publishing.poll_on(&session, cx)).await {
                Err(Halt::Lost) => {}
                Err(Halt::Failed(error)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }
}

fn broadcast<'a>(event_type: &'a str, data: &'a str) -> Result<EventRecord<'a>, PublishError> {
    record(
        EventTarget::Broadcast,
        Checked {
            name: Some(event_type),
            id: None,
            retry_ms: None,
            data: data.as_bytes(),
        },
    )
}

fn records(events: &[(Target, Event)]) -> Result<Vec<EventRecord<'_>>, PublishError> {
    let checked = events.iter().map(|(target, event)| event.record(target));
    checked.collect()
}

/// Records on their way into frames. Dropped, it gives up its place among those who wait.
struct Publishing<'a> {
    /// What is still to be sent.
    rest: &'a [EventRecord<'a>],
    place: Option<Ticket>,
    /// Where the place is.
    session: Option<Arc<Session>>,
}

/// Why records are not all sent.
enum Halt {
    /// The session is over; there may be another.
    Lost,
    Failed(PublishError),
}

/// The session is over.
struct Lost;

impl From<Lost> for Halt {
    fn from(_: Lost) -> Halt {
        Halt::Lost
    }
}

impl From<PublishError> for Halt {
    fn from(error: PublishError) -> Halt {
        Halt::Failed(error)
    }
}

impl From<Stopped> for PublishError {
    fn from(_: Stopped) -> PublishError {
        PublishError::Stopped
    }
}

impl<'a> Publishing<'a> {
    fn new(rest: &'a [EventRecord<'a>]) -> Publishing<'a> {
        Publishing {
            rest,
            place: None,
            session: None,
        }
    }

    /// Sends what there is room for. Whether that was everything.
    fn try_rest(&mut self, session: &Arc<Session>) -> Result<bool, PublishError> {
        let lane = session.lane(LANE);
        while !self.rest.is_empty() {
            let part = Part::first_of(self.rest, lane.memory().geometry())?;
            let Some(slots) = lane.try_event_slots(part.slots) else {
                return Ok(false);
            };
            if send(session, slots, &part, self.rest, None).is_err() {
                return Ok(false);
            }
            self.rest = &self.rest[part.records..];
        }
        Ok(true)
    }

    /// Sends everything through this session.
    fn poll_on(&mut self, session: &Arc<Session>, cx: &Context<'_>) -> Poll<Result<(), Halt>> {
        let lane = session.lane(LANE);
        while !self.rest.is_empty() {
            let part = Part::first_of(self.rest, lane.memory().geometry())?;
            let slots = ready!(self.poll_slots(session, part.slots, cx))?;
            send(session, slots, &part, self.rest, None)?;
            self.rest = &self.rest[part.records..];
        }
        Poll::Ready(Ok(()))
    }

    fn poll_slots(
        &mut self,
        session: &Arc<Session>,
        count: u32,
        cx: &Context<'_>,
    ) -> Poll<Result<Slots, Lost>> {
        let lane = session.lane(LANE);
        loop {
            let polled = lane.poll_event_slots(&mut self.place, count, cx);
            // Looked at after the waker was left there, or the call of a close could be missed.
            let is_lost = session.is_closed();
            match polled {
                Poll::Ready(slots) if !is_lost => {
                    self.session = None;
                    return Poll::Ready(Ok(slots));
                }
                Poll::Pending if !is_lost => {
                    self.session.get_or_insert_with(|| session.clone());
                    if !session.pump() {
                        return Poll::Pending;
                    }
                }
                // With the session go its slots, and the line for them.
                _ => {
                    (self.session, self.place) = (None, None);
                    return Poll::Ready(Err(Lost));
                }
            }
        }
    }

    fn leave(&mut self) {
        if let (Some(session), Some(place)) = (self.session.take(), self.place.take()) {
            session.lane(LANE).leave_event_line(place);
        }
    }
}

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The records that go into one frame.
struct Part {
    records: usize,
    len: usize,
    slots: u32,
}

impl Part {
    /// As many of the records as should go together; there is at least one.
    fn first_of(records: &[EventRecord<'_>], geometry: Geometry) -> Result<Part, PublishError> {
        let slot_size = geometry.slot_size();
        let limit = event_limit(geometry.slots()) as usize * slot_size;
        // Not all of the share, or the next frame could not be filled while the hub has this one.
        let enough = EVENT_FRAME.min(limit / 2).max(slot_size);
        let mut part = Part {
            records: 0,
            len: 0,
            slots: 0,
        };
        for record in records {
            let len = encoded_event_len(record);
            if len > limit {
                if part.records > 0 {
                    break;
                }
                return Err(PublishError::TooLong { len, limit });
            }
            if part.records > 0 && part.len + len > enough {
                break;
            }
            part.records += 1;
            part.len += len;
        }
        part.slots = geometry.slots_for(part.len) as u32;
        Ok(part)
    }
}

/// Writes the first records into these slots, which have room for them, and hands them to the hub.
fn send(
    session: &Arc<Session>,
    mut slots: Slots,
    part: &Part,
    records: &[EventRecord<'_>],
    receipt: Option<Arc<Outcome>>,
) -> Result<(), Lost> {
    let lane = session.lane(LANE);
    let bytes = lane.memory().bytes_mut(&mut slots);
    let mut at = 0;
    for record in &records[..part.records] {
        at += encode_event(&mut bytes[at..], record).expect("checked parts and room for them");
    }
    debug_assert_eq!(at, part.len);
    let sent = lane.send_events(slots, at, part.records, receipt);
    sent.map_err(|_| {
        session.break_off();
        Lost
    })
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PublishError::Stopped => {
                f.write_str("the event cannot be published: the worker has stopped")
            }
            PublishError::Full => f.write_str(
                "the hub has as many events of this worker as it may have: try again later, or use the method that waits",
            ),
            PublishError::NotAttached => f.write_str(
                "the worker is not attached to a hub now: try again later, or use the method that waits",
            ),
            PublishError::Invalid(fault) => fault.fmt(f),
            PublishError::TooLong { len, limit } => write!(
                f,
                "the event takes {len} bytes, and this hub's lanes allow {limit}: send less at a time, or start the hub with more or larger slots"
            ),
            PublishError::Target(detail) => {
                write!(f, "the event cannot be sent to {detail}")
            }
            PublishError::WouldBlock => f.write_str(
                "publishing would have to wait, and an async handler must not block: use the method that is awaited",
            ),
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PublishError::Invalid(fault) => Some(fault),
            _ => None,
        }
    }
}
