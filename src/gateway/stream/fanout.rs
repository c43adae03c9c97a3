//! Who listens to what, and what becomes of an event: each is serialised once, recorded where clients
//! may come back for it, and queued for the members of its group. Nothing here waits, or writes.

use std::collections::{HashMap, VecDeque};
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;

use slab::Slab;

use crate::gateway::Routes;
use crate::gateway::mailbox::Sender;
use crate::gateway::shard::Command;
use crate::gateway::stream::closing::Closings;
use crate::gateway::stream::paths::{Audience, Paths};
use crate::gateway::stream::socket::Socket;
use crate::gateway::stream::subscriber::{
    Feed, Filter, MAX_TALK, Mark, Readiness, Subscriber, Tag,
};
use crate::gateway::stream::{Client, Published, Reading, StreamConfig, Streams, Wanted};
use crate::limits::{MAX_HISTORIES_BYTES, MAX_HISTORY_BYTES, MAX_QUEUE_BYTES, MAX_TOPICS};
use crate::sse::{
    EventId, Frame, Pushed, Queue, QueueLimits, Resume, SlowPolicy, Topic, TopicLimits, Topics,
};

/// Milliseconds a client is asked to wait before it reconnects: at least so many,
const RETRY_MS: u64 = 1_000;
/// and up to so many more, so that clients of a hub that restarts do not come all at once.
const RETRY_JITTER_MS: u64 = 2_000;
/// Subscribers that are looked at together before they are written to.
pub(super) const LOOK_AHEAD: usize = 16;
/// What ends a chunked body.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Everything the streams thread knows.
pub struct Fanout {
    pub(super) streams: Streams,
    pub(super) config: StreamConfig,
    pub(super) shards: Vec<Sender<Command>>,
    pub(super) routes: Arc<Routes>,
    /// Counts the route tables.
    pub(super) edition: u64,
    /// By name: which attach of the worker is the present one.
    pub(super) workers: HashMap<Arc<str>, u64>,
    pub(super) subscribers: Slab<Subscriber>,
    /// By the number of a delegated connection.
    pub(super) numbers: HashMap<u64, usize>,
    /// Delegated connections whose end their worker has not been told of yet.
    pub(super) closing: Closings,
    pub(super) path_topics: Topics<()>,
    pub(super) now_ms: u64,
    /// Bytes of the events that were queued since everything queued was written last.
    pub(super) bytes_this_round: usize,
    everybody: Vec<usize>,
    channels: HashMap<Rc<str>, Vec<usize>>,
    pub(super) paths: Paths,
    pub(super) broadcasts: Topic<Tag>,
    pub(super) channel_topics: Topics<Tag>,
    sequence: u64,
    /// The state of a linear congruential generator.
    jitter: u64,
    /// Subscribers that have something to be written and a socket that takes it.
    line: VecDeque<usize>,
    readiness: Arc<Readiness>,
}

impl Fanout {
    /// A fan-out without subscribers.
    pub fn new(
        streams: Streams,
        config: StreamConfig,
        shards: Vec<Sender<Command>>,
        now_ms: u64,
    ) -> Fanout {
        let limits = TopicLimits {
            events: config.history_events,
            bytes: MAX_HISTORY_BYTES,
        };
        Fanout {
            streams,
            config,
            shards,
            routes: Arc::new(Routes::default()),
            edition: 0,
            workers: HashMap::new(),
            subscribers: Slab::new(),
            numbers: HashMap::new(),
            closing: Closings::default(),
            path_topics: Topics::new(MAX_TOPICS, MAX_HISTORIES_BYTES, limits),
            now_ms,
            bytes_this_round: 0,
            everybody: Vec::new(),
            channels: HashMap::new(),
            paths: Paths::default(),
            broadcasts: Topic::new(limits, 0),
            channel_topics: Topics::new(MAX_TOPICS, MAX_HISTORIES_BYTES, limits),
            sequence: 0,
            jitter: now_ms,
            line: VecDeque::new(),
            readiness: Arc::default(),
        }
    }

    /// Which sockets are ready.
    pub fn readiness(&self) -> &Arc<Readiness> {
        &self.readiness
    }

    /// A client of `/events`.
    pub fn subscribe(&mut self, client: Client, reading: Reading, wanted: Wanted) {
        let filter = Filter::new(&wanted);
        let last = reading.last_event_id.as_deref();
        let (epoch, now) = (self.streams.epoch, self.sequence);
        let mut queue = self.queue(self.config.slow, &reading, true);
        let feed = match wanted.channel {
            None => {
                let feed = Feed::Everybody(filter);
                go_on(&mut queue, self.broadcasts.resume(last, epoch, now), &feed);
                feed
            }
            Some(channel) => {
                let channel: Rc<str> = match self.channels.get_key_value(channel.as_str()) {
                    Some((known, _)) => known.clone(),
                    None => channel.into(),
                };
                let feed = Feed::Channel(channel.clone(), filter);
                let resume = self.channel_topics.resume(&channel, last, epoch, now);
                go_on(&mut queue, resume, &feed);
                feed
            }
        };
        let key = self.enter(queue, feed, reading.chunked);
        self.connect(key, client);
    }

    /// Puts a subscriber without a socket into its group.
    pub(super) fn enter(&mut self, queue: Queue, feed: Feed, chunked: bool) -> usize {
        let entry = self.subscribers.vacant_entry();
        let key = entry.key();
        let place = match &feed {
            Feed::Everybody(_) => put_in(&mut self.everybody, key),
            Feed::Channel(name, _) => put_in(self.channels.entry(name.clone()).or_default(), key),
            Feed::Path(delegated) => self
                .paths
                .enter(&delegated.path, &delegated.worker.name, key),
        };
        entry.insert(Subscriber {
            queue,
            socket: None,
            waker: self.readiness.waker(key),
            feed,
            place,
            talk: MAX_TALK,
            written_ms: self.now_ms,
            blocked_ms: 0,
            writing: false,
            blocked: false,
            in_line: false,
            closed: false,
            doomed: false,
            chunked,
        });
        self.streams.stats.set_subscribers(self.subscribers.len());
        key
    }

    /// Gives a subscriber its socket. The head goes before whatever is queued.
    pub(super) fn connect(&mut self, key: usize, client: Client) {
        let Ok(socket) = Socket::new(client.socket, client.place) else {
            // No descriptor or memory is left to watch it with; the client sees the connection end.
            return self.close(key);
        };
        let Some(subscriber) = self.subscribers.get_mut(key) else {
            return;
        };
        subscriber.queue.unsent(&client.head);
        subscriber.socket = Some(Rc::new(socket));
        // Its first look at the socket leaves the waker there.
        subscriber.waker.wake_by_ref();
        self.line_up(key);
    }

    /// Queues a frame for every member of a group that wants it.
    pub(super) fn deliver(&mut self, group: Group<'_>, frame: &Rc<Frame>) -> Published {
        let (members, mark) = match group {
            Group::Everybody(tag) => (Some(&self.everybody[..]), Mark::Broadcast(tag)),
            Group::Channel(name, tag) => {
                let members = self.channels.get(name).map(Vec::as_slice);
                (members, Mark::Broadcast(tag))
            }
            Group::Path(path, sender) => match self.paths.audience(path, sender) {
                Some(Audience { members, only }) => {
                    (Some(members), only.map_or(Mark::Anybody, Mark::Worker))
                }
                None => (None, Mark::Anybody),
            },
        };
        let mut published = Published::default();
        let mut overflown = Vec::new();
        self.bytes_this_round += frame.len();
        for &key in members.into_iter().flatten() {
            let subscriber = &mut self.subscribers[key];
            if !subscriber.feed.wants(mark) {
                continue;
            }
            match subscriber.queue.push(frame) {
                Pushed::Queued => published.reached += 1,
                Pushed::Displaced(count) => {
                    published.reached += 1;
                    published.dropped += count;
                }
                Pushed::Dropped => published.dropped += 1,
                Pushed::Overflow => {
                    published.dropped += 1;
                    overflown.push(key);
                }
            }
            if !subscriber.in_line && !subscriber.blocked && !subscriber.writing {
                subscriber.in_line = true;
                self.line.push_back(key);
            }
        }
        overflown.into_iter().for_each(|key| self.close_slow(key));
        published
    }

    /// Ends the connection of a subscriber that does not keep up. One that was not even accepted yet
    /// stays until it is, for its worker is to hear of both.
    fn close_slow(&mut self, key: usize) {
        let Some(subscriber) = self.subscribers.get_mut(key).filter(|s| !s.doomed) else {
            return;
        };
        subscriber.doomed = true;
        self.streams.stats.count_disconnected_slow();
        if subscriber.socket.is_some() {
            self.close(key);
        }
    }

    /// Queues a frame for one subscriber.
    pub(super) fn deliver_to(&mut self, key: usize, frame: &Rc<Frame>) -> Published {
        let mut published = Published::default();
        self.bytes_this_round += frame.len();
        match self.subscribers[key].queue.push(frame) {
            Pushed::Queued => published.reached = 1,
            Pushed::Displaced(count) => (published.reached, published.dropped) = (1, count),
            Pushed::Dropped => published.dropped = 1,
            Pushed::Overflow => {
                published.dropped = 1;
                self.close_slow(key);
                return published;
            }
        }
        self.line_up(key);
        published
    }

    /// The id of the next event.
    pub(super) fn next_id(&mut self) -> EventId {
        self.sequence += 1;
        EventId {
            epoch: self.streams.epoch,
            sequence: self.sequence,
        }
    }

    /// A queue for a new subscriber, with what a stream begins with.
    pub(super) fn queue(&mut self, policy: SlowPolicy, reading: &Reading, replay: bool) -> Queue {
        let limits = QueueLimits {
            events: self.config.queue_events,
            bytes: MAX_QUEUE_BYTES,
        };
        let mut queue = Queue::new(limits, policy, reading.chunked);
        // Who resumes has an id already, or is given one with the gap.
        let is_new = reading.last_event_id.is_none();
        let resume = (is_new && replay && self.config.history_events > 0).then_some(EventId {
            epoch: self.streams.epoch,
            sequence: self.sequence,
        });
        queue.control(&Frame::opening(self.retry_ms(), resume));
        queue
    }

    /// Queues what a client of a delegated path that comes back has missed.
    pub(super) fn go_on_path(
        &mut self,
        queue: &mut Queue,
        path: &str,
        last: Option<&str>,
        feed: &Feed,
    ) {
        let (epoch, now) = (self.streams.epoch, self.sequence);
        go_on(queue, self.path_topics.resume(path, last, epoch, now), feed);
    }

    /// Whether anybody has something to be written and a socket that takes it.
    pub fn has_line(&self) -> bool {
        !self.line.is_empty()
    }

    /// The next subscriber that has something to be written.
    pub fn next_in_line(&mut self) -> Option<usize> {
        while let Some(key) = self.line.pop_front() {
            let Some(subscriber) = self.subscribers.get_mut(key) else {
                continue;
            };
            subscriber.in_line = false;
            let ready = !subscriber.closed && !subscriber.blocked && !subscriber.writing;
            if ready && subscriber.socket.is_some() && !subscriber.queue.is_empty() {
                return Some(key);
            }
        }
        None
    }

    /// Touches what a write of the next few in line will need. Taken together, memory answers for all
    /// of them in the time of one; a write at a time, it is waited for again and again.
    pub fn look_ahead(&self) {
        let next = self.line.iter().take(LOOK_AHEAD);
        let needed = next.filter_map(|key| {
            let subscriber = self.subscribers.get(*key)?;
            let socket = subscriber.socket.as_ref()?;
            Some(
                usize::from(subscriber.closed)
                    ^ subscriber.queue.queued_bytes()
                    ^ socket.as_raw_fd() as usize,
            )
        });
        black_box(needed.fold(0, |all, one| all ^ one));
    }

    /// Puts a subscriber into the line of those with something to write.
    pub(super) fn line_up(&mut self, key: usize) {
        let Some(subscriber) = self.subscribers.get_mut(key) else {
            return;
        };
        if !subscriber.in_line && !subscriber.blocked && !subscriber.writing {
            subscriber.in_line = true;
            self.line.push_back(key);
        }
    }

    /// Ends a subscriber's connection. Its worker hears of it once.
    pub fn close(&mut self, key: usize) {
        let Some(subscriber) = self.subscribers.get_mut(key).filter(|s| !s.closed) else {
            return;
        };
        subscriber.closed = true;
        if let Some(socket) = &subscriber.socket {
            let is_clean = !subscriber.writing && subscriber.queue.is_empty();
            let farewell = subscriber.chunked && is_clean;
            socket.close(if farewell { LAST_CHUNK } else { b"" });
        }
        self.leave(key);
        self.forget_delegated(key);
        if !self.subscribers[key].writing {
            self.remove(key);
        }
    }

    /// Forgets a closed subscriber, once no write of it is under way.
    pub fn remove(&mut self, key: usize) {
        self.subscribers.remove(key);
        if self.subscribers.is_empty() {
            self.subscribers.shrink_to_fit();
        }
        self.streams.stats.set_subscribers(self.subscribers.len());
    }

    fn leave(&mut self, key: usize) {
        let Subscriber { place, feed, .. } = &self.subscribers[key];
        let place = *place as usize;
        let moved = match feed {
            Feed::Everybody(_) => take_out(&mut self.everybody, place),
            Feed::Channel(name, _) => {
                let name = name.clone();
                take_out_of(&mut self.channels, &name, place)
            }
            Feed::Path(delegated) => {
                let path = delegated.path.clone();
                self.paths.leave(&path, place)
            }
        };
        if let Some(moved) = moved {
            self.subscribers[moved].place = place as u32;
        }
    }

    /// The time after which a new subscriber is to reconnect: not the same for all.
    fn retry_ms(&mut self) -> u64 {
        self.jitter = self
            .jitter
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        RETRY_MS + (self.jitter >> 33) % RETRY_JITTER_MS
    }
}

/// Who an event is for.
#[derive(Clone, Copy, Debug)]
pub enum Group<'a> {
    /// Everybody on `/events` whose filter lets it pass.
    Everybody(&'a Tag),
    /// Everybody on `/events/{channel}` whose filter lets it pass.
    Channel(&'a str, &'a Tag),
    /// The clients of this worker on a delegated path; all of them where it is no worker that sends.
    Path(&'a str, Option<&'a str>),
}

/// Queues what a client that comes back has missed, as far as it is remembered and wanted.
fn go_on<T: AsMark>(queue: &mut Queue, resume: Resume<'_, T>, feed: &Feed) {
    let entries = match resume {
        Resume::Live => return,
        Resume::Replay(entries) => entries,
        Resume::Gap {
            gap,
            resume,
            entries,
        } => {
            queue.control(&Frame::gap(&gap, Some(resume)));
            entries
        }
    };
    let wanted = entries.filter(|entry| feed.wants(entry.tag.as_mark()));
    queue.replay(wanted.map(|entry| entry.frame.clone()));
}

/// What histories keep beside an event.
trait AsMark {
    fn as_mark(&self) -> Mark<'_>;
}

impl AsMark for Tag {
    fn as_mark(&self) -> Mark<'_> {
        Mark::Broadcast(self)
    }
}

impl AsMark for () {
    fn as_mark(&self) -> Mark<'_> {
        Mark::Anybody
    }
}

/// Puts a member into a group. Returns its place.
fn put_in(group: &mut Vec<usize>, key: usize) -> u32 {
    group.push(key);
    group.len() as u32 - 1
}

/// Takes the member at `place` out of a group. Returns who has that place now.
pub(super) fn take_out(group: &mut Vec<usize>, place: usize) -> Option<usize> {
    group.swap_remove(place);
    let moved = group.get(place).copied();
    if group.is_empty() {
        group.shrink_to_fit();
    }
    moved
}

fn take_out_of(
    groups: &mut HashMap<Rc<str>, Vec<usize>>,
    name: &Rc<str>,
    place: usize,
) -> Option<usize> {
    let group = groups.get_mut(name)?;
    let moved = take_out(group, place);
    if group.is_empty() {
        groups.remove(name);
    }
    moved
}
