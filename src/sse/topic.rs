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

impl<T> Topics<T> {
    /// No topics yet. At most `most` (at least one) are kept, each within `limits`.
    pub fn new(most: usize, limits: TopicLimits) -> Self {
        Self {
            most: most.clamp(1, NONE as usize - 1),
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
        self.nodes[index as usize]
            .topic
            .record(sequence, tag, frame);
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
        let name: Rc<str> = name.into();
        let full = self.nodes.len() == self.most;
        let index = if full {
            self.oldest
        } else {
            self.nodes.len() as u32
        };
        if full {
            self.unlink(index);
            let evicted = &self.nodes[index as usize];
            self.by_name.remove(&evicted.name);
            self.absent.forgotten = self.absent.forgotten.max(evicted.topic.newest());
        }
        let node = Node {
            name: name.clone(),
            topic: Topic::new(self.limits, self.absent.forgotten),
            newer: NONE,
            older: NONE,
        };
        match self.nodes.get_mut(index as usize) {
            Some(place) => *place = node,
            None => self.nodes.push(node),
        }
        self.by_name.insert(name, index);
        self.link(index);
        index
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
