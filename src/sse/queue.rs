//! What waits for one subscriber: bounded, in order, and never silent about what it had to drop. A
//! queue never cuts a frame: once a byte of it has gone, the rest goes before anything else.

use std::collections::VecDeque;
use std::rc::Rc;
use std::vec;

use super::{EventId, Frame, Gap, GapReason, SlowPolicy};

/// How much may wait for one subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most events; at least one whatever this says.
    pub events: usize,
    /// Most bytes of their serialised form, without chunked coding. An event that is longer than this
    /// goes into a queue where no other waits.
    pub bytes: usize,
}

/// What became of an event.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits.
    Queued,
    /// It waits, and as many as this that had waited longest were dropped for it.
    Displaced(u32),
    /// It was dropped.
    Dropped,
    /// It was dropped, and the connection is to be closed: from now on the queue takes nothing.
    Overflow,
}

/// The frames that wait for one subscriber. What waits counts against the limits; a frame of which a
/// byte has gone does not wait any more. A queue that has nothing to send holds no memory beyond
/// itself, and one frame at a time needs none either.
#[derive(Debug)]
pub struct Queue {
    /// What the socket did not take; goes before everything.
    unsent: Option<Box<Unsent>>,
    /// The first frame.
    ///
    /// INVARIANT: there is one whenever `replayed` or `rest` hold any.
    front: Option<Rc<Frame>>,
    /// Frames behind the first that no limit counts.
    ///
    /// INVARIANT: none while `front` is counted.
    replayed: Option<Box<Replayed>>,
    /// Frames behind those. The limits count the events among them.
    rest: VecDeque<Rc<Frame>>,
    /// What was dropped since the subscriber was told last.
    untold: Option<Box<Losses>>,
    lost_total: u64,
    /// Bytes of the first frame that have gone.
    offset: usize,
    events: u32,
    most_events: u32,
    bytes: usize,
    most_bytes: usize,
    policy: SlowPolicy,
    chunked: bool,
    /// Whether the limits count the first frame.
    front_counted: bool,
}

/// Never empty.
#[derive(Debug)]
struct Replayed(vec::IntoIter<Rc<Frame>>);

#[derive(Debug)]
struct Unsent {
    bytes: Box<[u8]>,
    offset: usize,
}

#[derive(Debug, Default)]
struct Losses {
    count: u64,
    first: Option<EventId>,
    last: Option<EventId>,
}

impl Queue {
    /// An empty queue. `chunked` says in which form frames go.
    pub fn new(limits: QueueLimits, policy: SlowPolicy, chunked: bool) -> Self {
        Self {
            unsent: None,
            front: None,
            replayed: None,
            rest: VecDeque::new(),
            untold: None,
            lost_total: 0,
            offset: 0,
            events: 0,
            most_events: u32::try_from(limits.events).unwrap_or(u32::MAX).max(1),
            bytes: 0,
            most_bytes: limits.bytes,
            policy,
            chunked,
            front_counted: false,
        }
    }

    /// Queues an event, or does what the policy says if it finds no room.
    #[inline]
    pub fn push(&mut self, frame: &Rc<Frame>) -> Pushed {
        if self.untold.is_some() || !self.has_room(frame.len()) {
            return self.push_slowly(frame);
        }
        self.append(Rc::clone(frame));
        Pushed::Queued
    }

    /// Queues a frame whatever waits. One that is no event (a head, a comment, a gap) is not counted
    /// by any limit, and never dropped.
    pub fn control(&mut self, frame: &Rc<Frame>) {
        self.append(Rc::clone(frame));
    }

    /// Queues remembered events, before the first that is pushed. No limit counts them, nor what was
    /// queued before, and they are never dropped.
    pub fn replay(&mut self, frames: impl IntoIterator<Item = Rc<Frame>>) {
        let before = self.replayed.take().map(|before| before.0);
        let waiting = std::mem::take(&mut self.rest);
        let all = before.into_iter().flatten().chain(waiting).chain(frames);
        let mut all = all.collect::<Vec<_>>().into_iter();
        (self.events, self.bytes, self.front_counted) = (0, 0, false);
        if self.front.is_none() {
            self.front = all.next();
        }
        self.replayed = (all.len() > 0).then(|| Box::new(Replayed(all)));
    }

    /// Moves as much as fits into `out`, and says how many bytes that is. 0 means that the queue is
    /// empty, or `out` is.
    pub fn fill(&mut self, out: &mut [u8]) -> usize {
        let mut filled = self.fill_unsent(out);
        while filled < out.len() {
            if self.untold.is_some() {
                self.place_gap();
            }
            let Some(front) = &self.front else {
                break;
            };
            let part = &self.form(front)[self.offset..];
            let count = part.len().min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&part[..count]);
            filled += count;
            let is_whole = count == part.len();
            if self.front_counted {
                self.uncount(front.len());
                self.front_counted = false;
            }
            if is_whole {
                self.advance();
            } else {
                self.offset += count;
            }
        }
        filled
    }

    /// The frame that is all there is to send, and its bytes in the form that is sent.
    pub fn sole(&self) -> Option<(&Rc<Frame>, &[u8])> {
        let front = self.front.as_ref()?;
        let is_sole = self.offset == 0
            && self.rest.is_empty()
            && self.unsent.is_none()
            && self.untold.is_none()
            && self.replayed.is_none();
        is_sole.then(|| (front, self.form(front)))
    }

    /// Takes the [sole](Queue::sole) frame, and says how many bytes it has; 0 if there is none.
    pub fn take_sole(&mut self) -> usize {
        let Some((front, bytes)) = self.sole() else {
            return 0;
        };
        let (waiting, count) = (front.len(), bytes.len());
        if self.front_counted {
            self.uncount(waiting);
        }
        self.advance();
        count
    }

    fn form<'a>(&self, frame: &'a Frame) -> &'a [u8] {
        if self.chunked {
            frame.chunked()
        } else {
            frame.plain()
        }
    }

    /// Takes back the end of what [`Queue::fill`] gave last, which the socket did not take. It goes
    /// first next time.
    pub fn unsent(&mut self, tail: &[u8]) {
        if tail.is_empty() {
            return;
        }
        // What an earlier call left, and `fill` has not given, is behind this.
        let behind = self.unsent.as_ref().map(|u| &u.bytes[u.offset..]);
        let bytes = [tail, behind.unwrap_or_default()].concat();
        self.unsent = Some(Box::new(Unsent {
            bytes: bytes.into_boxed_slice(),
            offset: 0,
        }));
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.unsent.is_none() && self.front.is_none() && !self.owes_gap()
    }

    /// Events that were dropped, in all.
    pub fn lost_total(&self) -> u64 {
        self.lost_total
    }

    /// Events that the limits count.
    pub fn queued_events(&self) -> usize {
        self.events as usize
    }

    /// Bytes of those events, without chunked coding.
    pub fn queued_bytes(&self) -> usize {
        self.bytes
    }

    #[inline]
    fn has_room(&self, len: usize) -> bool {
        self.events == 0
            || (self.events < self.most_events && self.bytes.saturating_add(len) <= self.most_bytes)
    }

    /// Queues an event that finds no room, or that follows a loss.
    #[cold]
    fn push_slowly(&mut self, frame: &Rc<Frame>) -> Pushed {
        match self.policy {
            SlowPolicy::DropNewest if self.has_room(frame.len()) => {
                let gap = self.take_gap();
                self.append(gap);
                self.append(Rc::clone(frame));
                Pushed::Queued
            }
            SlowPolicy::DropNewest => {
                self.lose(frame.id());
                Pushed::Dropped
            }
            SlowPolicy::DropOldest => {
                let mut dropped = 0;
                while !self.has_room(frame.len()) {
                    self.drop_oldest();
                    dropped += 1;
                }
                self.append(Rc::clone(frame));
                match dropped {
                    0 => Pushed::Queued,
                    count => Pushed::Displaced(count),
                }
            }
            SlowPolicy::Disconnect => {
                // That something is untold keeps later events out, even if room is found for them.
                self.lose(frame.id());
                Pushed::Overflow
            }
        }
    }

    #[inline]
    fn append(&mut self, frame: Rc<Frame>) {
        let counted = frame.is_event();
        if counted {
            self.events += 1;
            self.bytes += frame.len();
        }
        if self.front.is_none() {
            self.front = Some(frame);
            self.front_counted = counted;
        } else {
            self.rest.push_back(frame);
        }
    }

    fn uncount(&mut self, len: usize) {
        self.events -= 1;
        self.bytes -= len;
    }

    /// Makes the second frame the first. The last one to go takes the memory of the others with it.
    fn advance(&mut self) {
        self.offset = 0;
        if let Some(replayed) = &mut self.replayed {
            self.front = replayed.0.next();
            self.front_counted = false;
            if replayed.0.len() == 0 {
                self.replayed = None;
            }
        } else {
            self.front = self.rest.pop_front();
            self.front_counted = self.front.as_ref().is_some_and(|front| front.is_event());
            if self.rest.is_empty() && self.rest.capacity() > 0 {
                self.rest = VecDeque::new();
            }
        }
    }

    fn fill_unsent(&mut self, out: &mut [u8]) -> usize {
        let Some(unsent) = &mut self.unsent else {
            return 0;
        };
        let tail = &unsent.bytes[unsent.offset..];
        let count = tail.len().min(out.len());
        out[..count].copy_from_slice(&tail[..count]);
        unsent.offset += count;
        if count == tail.len() {
            self.unsent = None;
        }
        count
    }

    /// Drops the counted event that has waited longest. There is one.
    fn drop_oldest(&mut self) {
        let oldest = if self.front_counted {
            let oldest = self.front.take();
            self.advance();
            oldest
        } else {
            // Nothing but a few comments can stand before it.
            let place = self.rest.iter().position(|frame| frame.is_event());
            place.and_then(|place| self.rest.remove(place))
        };
        let oldest = oldest.expect("an event is counted");
        self.uncount(oldest.len());
        self.lose(oldest.id());
    }

    fn lose(&mut self, id: Option<EventId>) {
        self.lost_total += 1;
        let losses = self.untold.get_or_insert_default();
        losses.count += 1;
        losses.first = losses.first.or(id);
        losses.last = id.or(losses.last);
    }

    /// Whether the subscriber is to be told of a loss. One whose connection is closed resumes instead,
    /// and a gap would make it skip what it missed.
    fn owes_gap(&self) -> bool {
        self.untold.is_some() && self.policy != SlowPolicy::Disconnect
    }

    /// Puts the gap that is owed first, if here is its place: before the oldest event where older ones
    /// were dropped, and at the end where newer ones were.
    #[cold]
    fn place_gap(&mut self) {
        let is_here = match self.policy {
            SlowPolicy::DropNewest => self.front.is_none(),
            SlowPolicy::DropOldest => self.front.is_none() || self.front_counted,
            SlowPolicy::Disconnect => false,
        };
        if is_here {
            let gap = self.take_gap();
            if let Some(event) = self.front.replace(gap) {
                self.rest.push_front(event);
            }
            self.front_counted = false;
        }
    }

    /// The event that tells of everything lost and untold.
    fn take_gap(&mut self) -> Rc<Frame> {
        let losses = self.untold.take().unwrap_or_default();
        let gap = Gap {
            reason: GapReason::Slow,
            lost: Some(losses.count),
            from: losses.first,
            to: losses.last,
        };
        Frame::gap(&gap, losses.last)
    }
}

// A hub holds one for each subscriber.
const _: () = assert!(size_of::<Queue>() <= 120);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Event;

    const LIMITS: QueueLimits = QueueLimits {
        events: 3,
        bytes: 1000,
    };

    fn frame(sequence: u64) -> Rc<Frame> {
        let id = EventId {
            epoch: 0xfeed,
            sequence,
        };
        Frame::event(&Event::default(), Some(id))
    }

    fn text(sequence: u64) -> String {
        format!("id: 0000feed-{sequence}\ndata: \n\n")
    }

    fn gap(lost: u64, from: u64, to: u64) -> String {
        format!(
            "event: sse_gap\nid: 0000feed-{to}\ndata: {{\"reason\":\"slow\",\"lost\":{lost},\
             \"from\":\"0000feed-{from}\",\"to\":\"0000feed-{to}\"}}\n\n"
        )
    }

    fn fill(queue: &mut Queue, room: usize) -> String {
        let mut out = vec![0; room];
        let filled = queue.fill(&mut out);
        out.truncate(filled);
        String::from_utf8(out).unwrap()
    }

    fn holds_memory(queue: &Queue) -> bool {
        let boxes = (&queue.unsent, &queue.replayed, &queue.untold);
        !matches!(boxes, (None, None, None)) || queue.rest.capacity() > 0 || queue.front.is_some()
    }

    #[test]
    fn a_gap_stands_where_newer_events_were_dropped() {
        let mut queue = Queue::new(LIMITS, SlowPolicy::DropNewest, false);
        for sequence in 1..=3 {
            assert_eq!(queue.push(&frame(sequence)), Pushed::Queued);
        }
        for sequence in 4..=6 {
            assert_eq!(queue.push(&frame(sequence)), Pushed::Dropped);
        }
        assert_eq!(fill(&mut queue, text(1).len()), text(1));
        assert_eq!(queue.push(&frame(7)), Pushed::Queued);
        assert_eq!(queue.push(&frame(8)), Pushed::Dropped);
        let rest = [text(2), text(3), gap(3, 4, 6), text(7), gap(1, 8, 8)].concat();
        // The last gap is owed though the room ends before it.
        let before = rest.len() - gap(1, 8, 8).len();
        assert_eq!(fill(&mut queue, before), rest[..before]);
        assert!(!queue.is_empty());
        assert_eq!(fill(&mut queue, 1000), gap(1, 8, 8));
        assert!(queue.is_empty());
        assert_eq!(queue.lost_total(), 4);
    }

    #[test]
    fn a_gap_stands_before_the_oldest_event_kept() {
        let mut queue = Queue::new(LIMITS, SlowPolicy::DropOldest, false);
        for sequence in 1..=4 {
            let _ = queue.push(&frame(sequence));
        }
        // The gap is on its way, and then more is dropped behind it.
        assert_eq!(fill(&mut queue, 5), "event");
        assert_eq!(queue.push(&frame(5)), Pushed::Displaced(1));
        let rest = [gap(1, 1, 1), gap(1, 2, 2), text(3), text(4), text(5)].concat();
        let first = rest.len() - text(4).len() - text(5).len() - 1;
        assert_eq!(fill(&mut queue, first - 5), rest[5..first]);
        // The third event is partly out: it is finished, and those behind it are dropped.
        queue.control(&Frame::comment(""));
        for sequence in 6..=8 {
            let _ = queue.push(&frame(sequence));
        }
        let rest = ["\n", &gap(2, 4, 5), &text(6), &text(7), &text(8)].concat();
        let (end, rest) = rest.split_at(1);
        // The comment came after the fourth and fifth, which are gone.
        assert_eq!(fill(&mut queue, 1000), [end, ": \n\n", rest].concat());
    }

    #[test]
    fn who_is_to_be_disconnected_gets_what_waits_and_nothing_behind_the_loss() {
        let mut queue = Queue::new(LIMITS, SlowPolicy::Disconnect, false);
        for sequence in 1..=3 {
            assert_eq!(queue.push(&frame(sequence)), Pushed::Queued);
        }
        assert_eq!(queue.push(&frame(4)), Pushed::Overflow);
        let all = [text(1), text(2), text(3)].concat();
        assert_eq!(fill(&mut queue, 1000), all);
        assert!(queue.is_empty());
        assert_eq!(queue.push(&frame(5)), Pushed::Overflow);
        assert!(queue.is_empty());
        assert_eq!(queue.lost_total(), 2);
    }

    #[test]
    fn what_is_replayed_goes_first_and_outside_the_limits() {
        let mut queue = Queue::new(LIMITS, SlowPolicy::DropOldest, false);
        queue.control(&Frame::head(b"HEAD"));
        queue.replay((1..=9).map(frame));
        assert_eq!(queue.queued_events(), 0);
        for sequence in 10..=13 {
            let _ = queue.push(&frame(sequence));
        }
        let replayed: String = (1..=9).map(text).collect();
        let live = [gap(1, 10, 10), text(11), text(12), text(13)].concat();
        let expected = ["HEAD", &replayed, &live].concat();
        assert_eq!(fill(&mut queue, 10_000), expected);
        assert!(!holds_memory(&queue));
        queue.replay([]);
        assert!(queue.is_empty() && !holds_memory(&queue));
    }

    #[test]
    fn what_the_socket_did_not_take_goes_first() {
        let mut queue = Queue::new(LIMITS, SlowPolicy::DropNewest, false);
        assert_eq!(queue.push(&frame(1)), Pushed::Queued);
        assert_eq!(queue.push(&frame(2)), Pushed::Queued);
        let all = [text(1), text(2)].concat();
        let got = fill(&mut queue, 30);
        queue.unsent(&got.as_bytes()[4..]);
        assert_eq!(fill(&mut queue, 10), all[4..14]);
        // Also before what of an earlier rest is still here.
        queue.unsent(&all.as_bytes()[12..14]);
        assert_eq!(fill(&mut queue, 1000), all[12..]);
        assert!(queue.is_empty());
    }

    #[test]
    fn an_empty_queue_holds_no_memory_and_one_event_needs_none() {
        let mut queue = Queue::new(LIMITS, SlowPolicy::DropNewest, true);
        for _ in 0..2 {
            assert_eq!(queue.push(&frame(1)), Pushed::Queued);
            assert_eq!(queue.rest.capacity(), 0);
            fill(&mut queue, 1000);
            assert!(!holds_memory(&queue));
        }
        for sequence in 1..=5 {
            let _ = queue.push(&frame(sequence));
        }
        let some = fill(&mut queue, 50);
        queue.unsent(some.as_bytes());
        assert!(holds_memory(&queue));
        while !fill(&mut queue, 7).is_empty() {}
        assert!(queue.is_empty() && !holds_memory(&queue));
    }

    #[test]
    fn an_event_longer_than_the_limit_goes_into_a_queue_where_none_waits() {
        let data = [b'x'; 2000];
        let event = Event {
            data: &data,
            ..Event::default()
        };
        let long = Frame::event(&event, None);
        let mut queue = Queue::new(LIMITS, SlowPolicy::DropNewest, false);
        assert_eq!(queue.push(&long), Pushed::Queued);
        assert_eq!(queue.push(&frame(1)), Pushed::Dropped);
        // Once a byte of it has gone it does not wait any more.
        fill(&mut queue, 1);
        assert_eq!((queue.queued_events(), queue.queued_bytes()), (0, 0));
        assert_eq!(queue.push(&frame(2)), Pushed::Queued);
        let mut queue = Queue::new(LIMITS, SlowPolicy::DropOldest, false);
        assert_eq!(queue.push(&frame(1)), Pushed::Queued);
        assert_eq!(queue.push(&frame(2)), Pushed::Queued);
        assert_eq!(queue.push(&long), Pushed::Displaced(2));
    }
}
