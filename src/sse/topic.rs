//! What a topic remembers for clients that come back, and where such a client goes on. A client is
//! never given an event twice, and never goes on behind a loss without being told of it.

use std::collections::{HashMap, VecDeque, vec_deque};
use std::rc::Rc;

use super::{EventId, Frame, Gap, GapReason};

/// How much one topic remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicLimits {
    /// Most events; 0 turns replay off.
    pub events: usize,
    /// Most bytes of their serialised form, without chunked coding.
    pub bytes: usize,
}

/// An event that is remembered.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// The event's place among all the hub sent.
    pub sequence: u64,
    /// What filters ask for.
    pub tag: T,
    /// The event.
    pub frame: Rc<Frame>,
}

/// Remembered events, oldest first.
pub type Entries<'a, T> = vec_deque::Iter<'a, Entry<T>>;

/// Where a client goes on.
#[derive(Debug)]
pub enum Resume<'a, T> {
    /// With what comes next: it is new, or there is no replay here.
    Live,
    /// With these, and then with what comes next. Nothing is missing.
    Replay(Entries<'a, T>),
    /// With a gap, then these, then what comes next.
    Gap {
        /// What the client is to be told.
        gap: Gap,
        /// The id for the gap's event: a client that is lost behind it goes on with `entries`.
        resume: EventId,
        /// All that is remembered.
        entries: Entries<'a, T>,
    },
}

/// The history of one topic, bounded by events and by bytes.
#[derive(Debug)]
pub struct Topic<T> {
    limits: TopicLimits,
    entries: VecDeque<Entry<T>>,
    bytes: usize,
    /// Highest sequence that may have been this topic's and is no longer here.
    forgotten: u64,
}

impl<T> Topic<T> {
    /// A topic without history. `forgotten` is the highest sequence the topic may have had before, 0
    /// if it had none.
    pub fn new(limits: TopicLimits, forgotten: u64) -> Self {
        Self {
            limits,
            entries: VecDeque::new(),
            bytes: 0,
            forgotten,
        }
    }

    /// Remembers an event, and forgets the oldest ones beyond the limits. Sequences rise.
    pub fn record(&mut self, sequence: u64, tag: T, frame: Rc<Frame>) {
        debug_assert!(sequence > self.newest(), "sequences rise");
        if self.limits.events == 0 {
            return;
        }
        self.bytes += frame.len();
        self.entries.push_back(Entry {
            sequence,
            tag,
            frame,
        });
        while self.entries.len() > self.limits.events || self.bytes > self.limits.bytes {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= oldest.frame.len();
            self.forgotten = oldest.sequence;
        }
    }

    /// Where a client goes on that saw `last` (`Last-Event-ID`) last, in the run `epoch` that has so
    /// far given out `now_sequence`.
    pub fn resume(&self, last: Option<&str>, epoch: u32, now_sequence: u64) -> Resume<'_, T> {
        let last = match last {
            Some(text) if !text.is_empty() && self.limits.events > 0 => EventId::parse(text),
            _ => return Resume::Live,
        };
        let unlike = |reason| Gap {
            reason,
            lost: None,
            from: None,
            to: None,
        };
        let gap = match last {
            None => unlike(GapReason::Unknown),
            Some(last) if last.epoch != epoch => unlike(GapReason::Restart),
            Some(last) if last.sequence > now_sequence => unlike(GapReason::Unknown),
            Some(last) if last.sequence >= self.forgotten => {
                let seen = self
                    .entries
                    .partition_point(|entry| entry.sequence <= last.sequence);
                return Resume::Replay(self.entries.range(seen..));
            }
            Some(last) => Gap {
                from: Some(EventId {
                    epoch,
                    sequence: last.sequence + 1,
                }),
                to: Some(self.forgotten_id(epoch)),
                // Sequences count the events of all topics, so how many were this one's is unknown.
                ..unlike(GapReason::History)
            },
        };
        Resume::Gap {
            gap,
            resume: self.forgotten_id(epoch),
            entries: self.entries.iter(),
        }
    }

    /// Highest sequence that is no longer here; 0 if there is none.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// What is remembered, oldest first.
    pub fn entries(&self) -> Entries<'_, T> {
        self.entries.iter()
    }

    /// Bytes of what is remembered, without chunked coding.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// About how much memory it takes: an event is more than its text.
    pub fn memory(&self) -> usize {
        self.bytes + self.entries.len() * (EVENT_OVERHEAD + size_of::<Entry<T>>())
    }

    /// Highest sequence this topic may have had.
    fn newest(&self) -> u64 {
        let newest = self.entries.back().map(|entry| entry.sequence);
        newest.unwrap_or(self.forgotten)
    }

    fn forgotten_id(&self, epoch: u32) -> EventId {
        EventId {
            epoch,
            sequence: self.forgotten,
        }
    }
}

/// Topics by name, bounded: the one that was used least recently makes room for another.
#[derive(Debug)]
pub struct Topics<T> {
    most: usize,
    most_bytes: usize,
    bytes: usize,
    limits: TopicLimits,
    /// Names are chosen by clients and workers, hence a hash that cannot be played against; it is
    /// taken once per event, not per subscriber.
    by_name: HashMap<Rc<str>, u32>,
    nodes: Vec<Node<T>>,
    /// Most recently used node; `NONE` while there is none.
    newest: u32,
    /// Least recently used node; `NONE` while there is none.
    oldest: u32,
    /// Stands for every topic that is not here; its `forgotten` is the highest sequence that any
    /// evicted topic had.
    absent: Topic<T>,
}

#[derive(Debug)]
struct Node<T> {
    name: Rc<str>,
    topic: Topic<T>,
    newer: u32,
    older: u32,
}

const NONE: u32 = u32::MAX;

/// What an event takes beside its text and its entry: the frame with its counts, the form with chunked
/// coding, what filters ask for, and what the allocator adds to each of them.
const EVENT_OVERHEAD: usize = size_of::<Frame>() + 160;

impl<T> Topics<T> {
    /// No topics yet. At most `most` (at least one) are kept, each within `limits`, and as few as it
    /// takes to stay below `most_bytes` of memory altogether.
    pub fn new(most: usize, most_bytes: usize, limits: TopicLimits) -> Self {
        Self {
            most: most.clamp(1, NONE as usize - 1),
            most_bytes,
            bytes: 0,
            limits,
            by_name: HashMap::new(),
            nodes: Vec::new(),
            newest: NONE,
            oldest: NONE,
            absent: Topic::new(limits, 0),
        }
    }

    /// Remembers an event of a topic, as [`Topic::record`] does. A topic that is not here is made,
    /// for which another may have to go.
    pub fn record(&mut self, name: &str, sequence: u64, tag: T, frame: Rc<Frame>) {
        if self.limits.events == 0 {
            return;
        }
        let index = match self.by_name.get(name) {
            Some(&index) => {
                self.touch(index);
                index
            }
            None => self.create(name),
        };
        let topic = &mut self.nodes[index as usize].topic;
        let before = topic.memory();
        topic.record(sequence, tag, frame);
        self.bytes = self.bytes - before + topic.memory();
        while self.bytes > self.most_bytes && self.oldest != self.newest {
            self.evict(self.oldest);
        }
    }

    /// Where a client of a topic goes on, as [`Topic::resume`] says it. Asking makes no topic, so
    /// that clients cannot push topics out with names they invent.
    pub fn resume(
        &mut self,
        name: &str,
        last: Option<&str>,
        epoch: u32,
        now_sequence: u64,
    ) -> Resume<'_, T> {
        let topic = match self.by_name.get(name) {
            Some(&index) => {
                self.touch(index);
                &self.nodes[index as usize].topic
            }
            None => &self.absent,
        };
        topic.resume(last, epoch, now_sequence)
    }

    /// A topic, if it is here. Looking at it is not using it.
    pub fn get(&self, name: &str) -> Option<&Topic<T>> {
        let index = *self.by_name.get(name)?;
        Some(&self.nodes[index as usize].topic)
    }

    /// Topics that are here.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no topic yet.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Highest sequence of the topics that had to go; 0 while none had to.
    pub fn evicted_to(&self) -> u64 {
        self.absent.forgotten
    }

    fn create(&mut self, name: &str) -> u32 {
        if self.nodes.len() == self.most {
            self.evict(self.oldest);
        }
        let name: Rc<str> = name.into();
        let index = self.nodes.len() as u32;
        self.nodes.push(Node {
            name: name.clone(),
            topic: Topic::new(self.limits, self.absent.forgotten),
            newer: NONE,
            older: NONE,
        });
        self.by_name.insert(name, index);
        self.link(index);
        index
    }

    /// Forgets a topic. The last node takes its place.
    fn evict(&mut self, index: u32) {
        self.unlink(index);
        let evicted = self.nodes.swap_remove(index as usize);
        self.by_name.remove(&evicted.name);
        self.bytes -= evicted.topic.memory();
        self.absent.forgotten = self.absent.forgotten.max(evicted.topic.newest());
        let Some(moved) = self.nodes.get(index as usize) else {
            return;
        };
        let (newer, older) = (moved.newer, moved.older);
        self.by_name.insert(moved.name.clone(), index);
        match self.nodes.get_mut(newer as usize) {
            Some(newer) => newer.older = index,
            None => self.newest = index,
        }
        match self.nodes.get_mut(older as usize) {
            Some(older) => older.newer = index,
            None => self.oldest = index,
        }
    }

    fn touch(&mut self, index: u32) {
        if self.newest != index {
            self.unlink(index);
            self.link(index);
        }
    }

    /// Makes a node that is in no list the newest.
    fn link(&mut self, index: u32) {
        let older = std::mem::replace(&mut self.newest, index);
        let node = &mut self.nodes[index as usize];
        (node.newer, node.older) = (NONE, older);
        match self.nodes.get_mut(older as usize) {
            Some(older) => older.newer = index,
            None => self.oldest = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Node { newer, older, .. } = self.nodes[index as usize];
        match self.nodes.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
        match self.nodes.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Event;
    use crate::sse::queue_check::Random;

    const EPOCH: u32 = 0xfeed;

    fn limits(events: usize, bytes: usize) -> TopicLimits {
        TopicLimits { events, bytes }
    }

    fn frame(data: &[u8]) -> Rc<Frame> {
        let event = Event {
            data,
            ..Event::default()
        };
        Frame::event(&event, None)
    }

    fn id(sequence: u64) -> EventId {
        EventId {
            epoch: EPOCH,
            sequence,
        }
    }

    /// What a client is told, and the sequences it is sent.
    fn told<T>(resume: Resume<'_, T>) -> (Option<(Gap, EventId)>, Vec<u64>) {
        let sequences = |entries: Entries<'_, T>| entries.map(|entry| entry.sequence).collect();
        match resume {
            Resume::Live => (None, Vec::new()),
            Resume::Replay(entries) => (None, sequences(entries)),
            Resume::Gap {
                gap,
                resume,
                entries,
            } => (Some((gap, resume)), sequences(entries)),
        }
    }

    #[test]
    fn a_client_goes_on_behind_what_it_saw() {
        let mut topic = Topic::new(limits(3, 1000), 0);
        // Sequences between are other topics'.
        for sequence in [2, 4, 6, 8] {
            topic.record(sequence, (), frame(b"x"));
        }
        assert_eq!(topic.forgotten(), 2);
        let resume = |last: &str| told(topic.resume(Some(last), EPOCH, 9));
        for (last, replayed) in [
            (2, &[4, 6, 8][..]),
            (3, &[4, 6, 8]),
            (4, &[6, 8]),
            (7, &[8]),
            (8, &[]),
            (9, &[]),
        ] {
            let got = resume(&id(last).to_string());
            assert_eq!(got, (None, replayed.to_vec()), "after {last}");
        }
        let gap = |reason, from, to| {
            let gap = Gap {
                reason,
                lost: None,
                from,
                to,
            };
            (Some((gap, id(2))), vec![4, 6, 8])
        };
        let history = gap(GapReason::History, Some(id(2)), Some(id(2)));
        assert_eq!(resume(&id(1).to_string()), history);
        let history = gap(GapReason::History, Some(id(1)), Some(id(2)));
        assert_eq!(resume(&id(0).to_string()), history);
        for unknown in ["7", "0000feed-010", &id(10).to_string()] {
            assert_eq!(resume(unknown), gap(GapReason::Unknown, None, None));
        }
        assert_eq!(
            resume("00000bad-8"),
            gap(GapReason::Restart, None, None),
            "another epoch is never replayed as if it were this one"
        );
        assert!(matches!(topic.resume(None, EPOCH, 9), Resume::Live));
        assert!(matches!(topic.resume(Some(""), EPOCH, 9), Resume::Live));
    }

    #[test]
    fn bytes_bound_a_history_and_one_event_may_be_too_long_for_it() {
        let len = frame(b"xxxx").len();
        let mut topic = Topic::new(limits(100, 2 * len), 0);
        for sequence in 1..=3 {
            topic.record(sequence, sequence, frame(b"xxxx"));
        }
        assert_eq!((topic.forgotten(), topic.bytes()), (1, 2 * len));
        let tags: Vec<u64> = topic.entries().map(|entry| entry.tag).collect();
        assert_eq!(tags, [2, 3]);
        topic.record(4, 4, frame(&[b'x'; 100]));
        assert_eq!((topic.forgotten(), topic.bytes()), (4, 0));
        assert_eq!(topic.entries().len(), 0);
    }

    #[test]
    fn without_replay_nothing_is_kept_and_nobody_is_told_of_a_gap() {
        let mut topic = Topic::new(limits(0, 1000), 0);
        topic.record(1, (), frame(b"x"));
        assert_eq!(topic.entries().len(), 0);
        let last = id(0).to_string();
        assert!(matches!(topic.resume(Some(&last), EPOCH, 1), Resume::Live));
        let mut topics = Topics::new(4, 1000, limits(0, 1000));
        topics.record("/a", 1, (), frame(b"x"));
        assert!(topics.is_empty());
        assert!(matches!(
            topics.resume("/a", Some(&last), EPOCH, 1),
            Resume::Live
        ));
    }

    #[test]
    fn topics_share_a_bound_of_bytes() {
        // Two events fit: with what each takes beside its text.
        let event = frame(b"0123456789").len() + EVENT_OVERHEAD + size_of::<Entry<()>>();
        let mut topics = Topics::new(10, 2 * event + event / 2, limits(10, 40));
        let names = ["/a", "/b", "/c", "/d"];
        for (sequence, name) in (1..).zip(names) {
            topics.record(name, sequence, (), frame(b"0123456789"));
        }
        let kept = names.map(|name| topics.get(name).is_some());
        assert_eq!(kept, [false, false, true, true]);
        assert_eq!(topics.evicted_to(), 2);
        // The one that grows is the last to go.
        for sequence in 5..10 {
            topics.record("/c", sequence, (), frame(b"0123456789"));
        }
        assert_eq!(topics.len(), 1);
        assert_eq!(topics.get("/c").map(|topic| topic.entries().len()), Some(2));
    }

    #[test]
    fn the_topic_used_least_recently_makes_room() {
        let mut topics = Topics::new(2, 1000, limits(10, 1000));
        topics.record("/a", 1, (), frame(b"a"));
        topics.record("/b", 2, (), frame(b"b"));
        let last = id(0).to_string();
        // A client that resumes uses a topic; one that asks for a name that is not here makes none.
        assert_eq!(
            told(topics.resume("/a", Some(&last), EPOCH, 2)),
            (None, vec![1])
        );
        assert_eq!(
            told(topics.resume("/c", Some(&last), EPOCH, 2)),
            (None, vec![])
        );
        assert_eq!((topics.len(), topics.evicted_to()), (2, 0));
        topics.record("/c", 3, (), frame(b"c"));
        assert!(topics.get("/b").is_none());
        assert_eq!((topics.len(), topics.evicted_to()), (2, 2));
        // What it had is lost, and whoever needs it is told, whether the topic is made again or not.
        let lost = Gap {
            reason: GapReason::History,
            lost: None,
            from: Some(id(2)),
            to: Some(id(2)),
        };
        let seen = id(1).to_string();
        let resume = told(topics.resume("/b", Some(&seen), EPOCH, 4));
        assert_eq!(resume, (Some((lost, id(2))), vec![]));
        topics.record("/b", 4, (), frame(b"b"));
        let resume = told(topics.resume("/b", Some(&seen), EPOCH, 4));
        assert_eq!(resume, (Some((lost, id(2))), vec![4]));
        assert_eq!(
            told(topics.resume("/b", Some(&id(2).to_string()), EPOCH, 4)),
            (None, vec![4])
        );
    }

    /// However topics come and go, a client that resumes gets each event behind what it saw, or is told
    /// of a gap that covers those it does not get.
    #[test]
    fn whoever_resumes_gets_everything_or_is_told() {
        let mut random = Random::seeded();
        for _ in 0..100 {
            let most = 1 + random.below(4) as usize;
            let limits = limits(
                1 + random.below(6) as usize,
                20 + random.below(100) as usize,
            );
            let mut topics = Topics::new(most, 1 << 20, limits);
            let mut all: Vec<(usize, u64)> = Vec::new();
            let names = ["/a", "/b", "/c", "/d", "/e", "/f"];
            let mut used: Vec<usize> = Vec::new();
            for now in 1..=60 {
                let name = random.below(6) as usize;
                let data = vec![b'x'; random.below(60) as usize];
                topics.record(names[name], now, (), frame(&data));
                all.push((name, now));
                used.retain(|other| *other != name);
                used.push(name);

                let asked = random.below(6) as usize;
                let seen = random.below(now + 1);
                let resume = topics.resume(names[asked], Some(&id(seen).to_string()), EPOCH, now);
                let (gap, sent) = told(resume);
                if let Some(place) = used[used.len().saturating_sub(most)..]
                    .iter()
                    .position(|other| *other == asked)
                {
                    let place = place + used.len().saturating_sub(most);
                    used.remove(place);
                    used.push(asked);
                }
                let owed = |from: u64| -> Vec<u64> {
                    let of_topic = all.iter().filter(|(name, _)| *name == asked);
                    let later = of_topic.filter(|(_, sequence)| *sequence > from);
                    later.map(|(_, sequence)| *sequence).collect()
                };
                match gap {
                    None => assert_eq!(sent, owed(seen)),
                    Some((gap, resume)) => {
                        assert_eq!(gap.reason, GapReason::History);
                        assert_eq!((gap.from, gap.to), (Some(id(seen + 1)), Some(resume)));
                        assert_eq!(sent, owed(resume.sequence));
                    }
                }
                let kept: Vec<usize> = (0..6)
                    .filter(|name| topics.get(names[*name]).is_some())
                    .collect();
                let mut expected = used[used.len().saturating_sub(most)..].to_vec();
                expected.sort();
                assert_eq!(kept, expected);
            }
        }
    }
}
