//! Event streams: the connections the hub owns. A shard parses the request and hands the socket over;
//! from there on one thread, on tokio-uring, knows every subscriber and every topic, and writes from
//! buffers that are registered with its ring.
//!
//! The way of an event: a worker's lane or a control request → [`ToStreams`] → `fanout` → a queue for
//! each subscriber (`sse::Queue`) → `writer` → the socket.

pub mod broadcast;
mod closing;
pub mod connect;
pub mod converse;
pub mod delegated;
pub mod fanout;
pub mod handoff;
pub mod handover;
mod paths;
pub mod publish;
pub mod socket;
pub mod stats;
pub mod subscriber;
pub mod thread;
pub mod turns;
pub mod upkeep;
pub mod writer;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::control::StreamOptions;
use crate::gateway::Routes;
use crate::gateway::connections::Place;
use crate::gateway::mailbox::Sender;
use crate::gateway::stream::handover::Handover;
use crate::gateway::stream::stats::StreamStats;
use crate::sse::{EventFault, SlowPolicy};

/// How streams are served.
#[derive(Clone, Debug)]
pub struct StreamConfig {
    /// Events that each topic remembers; 0 for none.
    pub history_events: usize,
    /// Events that may wait for one subscriber.
    pub queue_events: usize,
    /// What happens to a subscriber whose queue is full, where its route says nothing.
    pub slow: SlowPolicy,
    /// Time after which a stream that has nothing to say says so. Milliseconds.
    pub heartbeat_ms: u64,
    /// Time in which a client must make room where the kernel does not see to that. Milliseconds.
    pub write_timeout_ms: u64,
    /// Time between two looks for clients that have gone; 0 for none. Milliseconds.
    pub sweep_interval_ms: u64,
    /// How long connections are kept while their worker is away. Milliseconds.
    pub orphan_timeout_ms: u64,
}

/// The way to the streams thread; clones share it.
#[derive(Clone, Debug)]
pub struct Streams {
    sender: Sender<ToStreams>,
    /// What the thread has yet to see, where that is anything.
    workers: Arc<Mutex<Option<Workers>>>,
    numbers: Arc<AtomicU64>,
    /// Distinguishes this run of the hub from others, in event ids and connection ids.
    pub epoch: u32,
    /// What the thread counts.
    pub stats: Arc<StreamStats>,
}

impl Streams {
    /// The way to a thread that reads this mailbox.
    pub fn new(sender: Sender<ToStreams>, epoch: u32) -> Streams {
        Streams {
            sender,
            workers: Arc::default(),
            numbers: Arc::new(AtomicU64::new(1)),
            epoch,
            stats: Arc::new(StreamStats::default()),
        }
    }

    /// Sends the thread a message.
    pub fn send(&self, message: ToStreams) {
        self.sender.send(message);
    }

    /// Tells the thread which workers are attached, and which routes there are. What it has not seen of
    /// this yet is forgotten, so that however often workers come and go, one such thing waits for it.
    pub fn set_workers(&self, workers: Workers) {
        let unseen = self.lock_workers().replace(workers);
        if unseen.is_none() {
            self.send(ToStreams::Workers);
        }
    }

    /// What the thread has yet to see.
    fn take_workers(&self) -> Option<Workers> {
        self.lock_workers().take()
    }

    fn lock_workers(&self) -> MutexGuard<'_, Option<Workers>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new connection.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The id of a connection as workers and publishers see it.
    pub fn connection_id(&self, number: u64) -> String {
        connection_id(self.epoch, number)
    }
}

fn connection_id(epoch: u32, number: u64) -> String {
    format!("{epoch:08x}.{number}")
}

/// The number in a connection id of this run of the hub.
fn connection_number(id: &str, epoch: u32) -> Option<u64> {
    let (run, number) = id.split_once('.')?;
    let number = number.parse().ok()?;
    (connection_id(epoch, number).split_once('.')?.0 == run).then_some(number)
}

/// One attach of one worker: workers of the same name follow each other under different numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// The worker's name.
    pub name: Arc<str>,
    /// Which of the attaches.
    pub attach: u64,
}

/// Who is attached, and where requests go.
#[derive(Clone, Debug)]
pub struct Workers {
    /// The routes there are.
    pub routes: Arc<Routes>,
    /// The workers that are attached.
    pub attached: Vec<Incarnation>,
}

/// What is asked of the streams thread.
pub enum ToStreams {
    /// A client of `/events` or `/events/{channel}`.
    Subscribe(Box<Client>, Reading, Wanted),
    /// A worker is about to be asked whether it accepts this connection. Events for it may come
    /// before the answer.
    Announce(Box<Announced>),
    /// The worker has accepted the connection with this number.
    Accept(u64, Box<Client>),
    /// The worker has not accepted it.
    Withdraw(u64),
    /// The worker was told of the end of the connection, as far as that could be done.
    Told(u64),
    /// A worker's successor was shown a connection that it inherits; whether it takes it.
    Inherited(u64, Incarnation, Inheritance),
    /// There are events out of a worker's lane.
    Events(LaneEvents),
    /// An event from a control request.
    Publish(Box<Publication>, ReplyTo),
    /// There is something new behind [`Streams::set_workers`].
    Workers,
    /// End every connection, and the thread.
    Stop,
}

/// A client whose connection changes hands.
pub struct Client {
    /// Its socket.
    pub socket: OwnedFd,
    /// Its place among the connections there may be.
    pub place: Place,
    /// The head of the response.
    pub head: Vec<u8>,
}

/// How a client reads a stream, and where it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Whether the body is chunked; else it ends with the connection.
    pub chunked: bool,
    /// The id of the last event it has seen.
    pub last_event_id: Option<String>,
}

/// What a client of `/events` wants to hear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Only events of this channel.
    pub channel: Option<String>,
    /// Only events from this source.
    pub source: Option<String>,
    /// Only events of this type.
    pub event_type: Option<String>,
}

/// A connection to a delegated route, before it is accepted.
pub struct Announced {
    /// Its number.
    pub number: u64,
    /// The path it was made to, as [`path_key`] has it.
    pub path: String,
    /// How the client reads.
    pub reading: Reading,
    /// How the route behaves.
    pub options: StreamOptions,
    /// The worker that is asked.
    pub worker: Incarnation,
    /// The shard that asks.
    pub shard: usize,
    /// The request, to be shown to the worker's successors and at the end.
    pub request: StreamRequest,
}

/// The request behind a connection to a delegated route.
#[derive(Clone, Debug)]
pub struct StreamRequest {
    /// Its head as received.
    pub head: Arc<[u8]>,
    /// The client.
    pub peer: Option<SocketAddr>,
}

/// What a worker is told of a connection that it knows, or is to know.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The connection's number.
    pub number: u64,
    /// Who is told.
    pub worker: Incarnation,
    /// The request behind the connection.
    pub request: StreamRequest,
    /// What has happened.
    pub news: News,
}

/// What has happened to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It lives on from the time of the worker's predecessor.
    Inherited,
    /// It has ended, after so many milliseconds.
    Ended(u64),
}

/// What a successor says to a connection that it inherits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inheritance {
    /// It takes it.
    Taken,
    /// It does not want it.
    Refused,
    /// It is gone, or has not answered.
    Unanswered,
}

/// Frames of events out of a shard's lanes to workers of one name, still to be returned to them.
#[derive(Clone)]
pub struct LaneEvents {
    /// The shard of the lanes.
    pub shard: usize,
    /// The workers' name.
    pub worker: Arc<str>,
    /// Where they are.
    pub handover: Arc<Handover>,
}

/// Where the answer to a control request goes.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTo {
    /// The shard that has the request.
    pub shard: usize,
    /// Which of its requests.
    pub ticket: usize,
}

/// What has become of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Subscribers it was queued for.
    pub reached: u32,
    /// Subscribers that lost an event by it, because they are slow.
    pub dropped: u32,
    /// It was for a connection that does not exist, or a path without any.
    pub no_connection: bool,
    /// It was for a connection that is closing.
    pub closing: bool,
    /// The rule it breaks; it went to nobody.
    pub fault: Option<EventFault>,
}

impl Published {
    /// The hub stops, and the event goes to nobody.
    pub fn closing() -> Published {
        Published {
            closing: true,
            ..Published::default()
        }
    }
}

/// An event from a control request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Who is to get it.
    pub target: Target,
    /// The event's type.
    pub event_type: String,
    /// The event's data.
    pub data: String,
    /// The publisher's own id for it.
    pub id: Option<String>,
    /// Milliseconds after which clients are to reconnect.
    pub retry_ms: Option<u64>,
}

/// Who is to get an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Everybody on `/events`; from this source.
    Everybody(String),
    /// Every connection to this path.
    Path(String),
    /// The connection with this id.
    Connection(String),
}

/// A path as connections are found by it: percent-encoding that a segment does not need is undone,
/// what it needs is in capitals (RFC 3986, sections 3.3 and 6.2.2), so that a client and a publisher
/// may write the same path differently.
pub fn path_key(path: &[u8]) -> String {
    let hex = |digit: u8| char::from(digit).to_digit(16).map(|v| v as u8);
    let mut key = String::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        let (byte, used) = escaped.map_or((*first, 1), |byte| (byte, 3));
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
        if is_plain || (escaped.is_none() && byte.is_ascii_graphic()) {
            key.push(char::from(byte));
        } else {
            key.push_str(&format!("%{byte:02X}"));
        }
        rest = &rest[used..];
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::mailbox::mailbox;

    #[test]
    fn spellings_of_a_path_have_one_key() {
        for (path, key) in [
            ("/rooms/7", "/rooms/7"),
            ("/rooms/%37", "/rooms/7"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%40b%3a", "/a@b:"),
            ("/a%2", "/a%2"),
            ("/a b", "/a%20b"),
        ] {
            assert_eq!(path_key(path.as_bytes()), key, "{path}");
        }
    }

    #[test]
    fn one_table_waits_however_many_come() {
        let (sender, messages) = mailbox().unwrap();
        let streams = Streams::new(sender, 1);
        let table = |attach| Workers {
            routes: Arc::default(),
            attached: vec![Incarnation {
                name: "w".into(),
                attach,
            }],
        };
        for round in [0, 10_000] {
            (round..round + 10_000).for_each(|attach| streams.set_workers(table(attach)));
            assert!(matches!(messages.take()[..], [ToStreams::Workers]));
            let latest = streams.take_workers().unwrap().attached[0].attach;
            assert_eq!(latest, round + 9_999);
            assert!(streams.take_workers().is_none());
        }
    }

    #[test]
    fn a_connection_id_names_a_run_of_the_hub() {
        let id = connection_id(0xabc, 17);
        assert_eq!(connection_number(&id, 0xabc), Some(17));
        assert_eq!(connection_number(&id, 0xabd), None);
        for id in ["", ".", "17", "00000abc.", "00000abc.x", "abc.17"] {
            assert_eq!(connection_number(id, 0xabc), None, "{id}");
        }
    }
}
