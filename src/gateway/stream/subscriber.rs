//! One subscriber: its queue, its socket, and what it listens to.

use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use crate::control::StreamOptions;
use crate::gateway::stream::socket::Socket;
use crate::gateway::stream::{Incarnation, StreamRequest, Wanted};
use crate::sse::Queue;

/// Bytes a subscriber may send without being cut off: nobody who listens has much to say.
pub const MAX_TALK: usize = 64 * 1024;

/// Milliseconds for which a publisher waits for a subscriber whose socket has no room. It has room again
/// when about a third of its buffer was read, so whoever reads at all has more than one such wait.
const PATIENCE_MS: u64 = 250;

/// A connection, or one that is about to be.
pub struct Subscriber {
    /// What waits for it.
    pub queue: Queue,
    /// `None` while its worker has not accepted it.
    pub socket: Option<Rc<Socket>>,
    /// Called when its socket is ready for something.
    pub waker: Waker,
    /// What it listens to.
    pub feed: Feed,
    /// Its place in its group.
    pub place: u32,
    /// How much more it may send.
    pub talk: usize,
    /// When something was last written. Milliseconds.
    pub written_ms: u64,
    /// When its socket had no room last. Milliseconds.
    pub blocked_ms: u64,
    /// Whether a write is under way.
    pub writing: bool,
    /// Whether its socket has no room.
    pub blocked: bool,
    /// Whether it is in the line of those with something to write.
    pub in_line: bool,
    /// Whether it has left its group and goes when its write has ended.
    pub closed: bool,
    /// Whether it is to be closed as soon as its worker has accepted it.
    pub doomed: bool,
    /// Whether its body is chunked.
    pub chunked: bool,
}

/// What a subscriber listens to.
pub enum Feed {
    /// Broadcast events that the filter lets pass.
    Everybody(Option<Box<Filter>>),
    /// Those of one channel.
    Channel(Rc<str>, Option<Box<Filter>>),
    /// Events for a path that a worker delegates.
    Path(Box<Delegated>),
}

/// Which broadcast events a subscriber wants.
#[derive(Debug, PartialEq, Eq)]
pub struct Filter {
    source: Option<String>,
    event_type: Option<String>,
}

/// What decides who of a group hears an event.
#[derive(Clone, Copy, Debug)]
pub enum Mark<'a> {
    /// All of them.
    Anybody,
    /// Those whose filters let it pass.
    Broadcast(&'a Tag),
    /// The clients of the worker with this name.
    Worker(&'a str),
}

/// What filters ask of a broadcast event.
#[derive(Clone, Debug)]
pub struct Tag {
    /// Who sent it.
    pub source: Rc<str>,
    /// Its type.
    pub event_type: Rc<str>,
}

/// What the hub knows of a delegated connection.
pub struct Delegated {
    /// Its number.
    pub number: u64,
    /// The path it was made to.
    pub path: Rc<str>,
    /// How the route behaves.
    pub options: StreamOptions,
    /// The worker that knows of it.
    pub worker: Incarnation,
    /// The shard it came from, which speaks with its worker.
    pub shard: usize,
    /// The request behind it.
    pub request: StreamRequest,
    /// When it was accepted; `None` before. Milliseconds.
    pub accepted_ms: Option<u64>,
    /// When its worker was lost. Milliseconds.
    pub orphan_since_ms: Option<u64>,
    /// Whether a successor of its worker was shown it and has not answered.
    pub asked: bool,
}

impl Subscriber {
    /// Whether a publisher may be asked to wait for it: it has no room, but may soon.
    pub fn is_worth_waiting_for(&self, now_ms: u64) -> bool {
        // Who is being written to, or is next to be, has room in a moment.
        let is_served = self.socket.is_some() && (self.writing || self.in_line);
        is_served || (self.blocked && now_ms < self.blocked_ms + PATIENCE_MS)
    }
}

impl Filter {
    /// The filter that a client asks for, if it asks for any.
    pub fn new(wanted: &Wanted) -> Option<Box<Filter>> {
        let Wanted {
            source, event_type, ..
        } = wanted.clone();
        (source.is_some() || event_type.is_some()).then(|| Box::new(Filter { source, event_type }))
    }

    /// Whether an event passes.
    pub fn lets_pass(&self, tag: &Tag) -> bool {
        self.source
            .as_deref()
            .is_none_or(|wanted| wanted == &*tag.source)
            && self
                .event_type
                .as_deref()
                .is_none_or(|wanted| wanted == &*tag.event_type)
    }
}

impl Feed {
    /// Whether the subscriber wants this event of its group, and may have it.
    pub fn wants(&self, mark: Mark<'_>) -> bool {
        match (self, mark) {
            (
                Feed::Everybody(Some(filter)) | Feed::Channel(_, Some(filter)),
                Mark::Broadcast(tag),
            ) => filter.lets_pass(tag),
            (Feed::Path(delegated), Mark::Worker(name)) => *delegated.worker.name == *name,
            _ => true,
        }
    }
}

/// The subscribers whose sockets are ready for something, and how the thread hears of it.
#[derive(Debug, Default)]
pub struct Readiness {
    keys: Mutex<Vec<usize>>,
    thread: Mutex<Option<Waker>>,
}

/// Names one subscriber as ready.
struct Bell {
    key: usize,
    readiness: Arc<Readiness>,
}

impl Readiness {
    /// What is called when the subscriber with this key is ready.
    pub fn waker(self: &Arc<Self>, key: usize) -> Waker {
        let readiness = self.clone();
        Waker::from(Arc::new(Bell { key, readiness }))
    }

    /// Takes the keys of those that are ready.
    pub fn take(&self) -> Vec<usize> {
        std::mem::take(&mut *lock(&self.keys))
    }

    /// Has `waker` called from now on.
    pub fn listen(&self, waker: &Waker) {
        let mut thread = lock(&self.thread);
        if !thread.as_ref().is_some_and(|w| w.will_wake(waker)) {
            *thread = Some(waker.clone());
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        lock(&self.readiness.keys).push(self.key);
        if let Some(thread) = &*lock(&self.readiness.thread) {
            thread.wake_by_ref();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
