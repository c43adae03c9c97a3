//! Every bound the crate relies on, in one place, with compile-time asserts relating them.
//! Sizes are bytes and times are milliseconds unless the name says otherwise.

/// The page size that slot sizes are multiples of.
pub const PAGE: usize = 4096;

/// Longest request head (request line, field lines and the final empty line). Longer: 431.
pub const MAX_HEAD: usize = 16 * 1024;
/// Most field lines in one head. More: 431.
pub const MAX_FIELDS: usize = 100;
/// Longest request target. Longer: 414.
pub const MAX_TARGET: usize = 8 * 1024;
/// Most path parameters in one route pattern, the catch-all included.
pub const MAX_PARAMS: usize = 16;
/// Longest route pattern.
pub const MAX_PATTERN: usize = 1024;
/// Most segments of a route pattern: each takes some 0.3 KiB while a table is built.
pub const MAX_PATTERN_SEGMENTS: usize = 64;
/// Most ways that one search may have to follow through the route tree. Registrations beyond: 400.
pub const MAX_ROUTE_TRAILS: usize = 256;
/// Most routes one worker may register.
pub const MAX_ROUTES: usize = 16 * 1024;
/// Most routes of all workers together, so that the table that is built at every change stays small.
pub const MAX_ROUTES_IN_ALL: usize = 64 * 1024;
/// Longest worker name, in bytes of UTF-8.
pub const MAX_NAME: usize = 128;
/// Most workers attached or remembered at one time.
pub const MAX_WORKERS: usize = 1024;
/// Most registrations over HTTP that nobody has attached to.
pub const MAX_AWAITED: usize = MAX_WORKERS / 2;

/// Longest line that opens a chunk: its size, extensions and CRLF.
pub const MAX_CHUNK_LINE: usize = 256;
/// Most bytes of chunk extensions in one body, so that they cannot outweigh its data without end.
pub const MAX_CHUNK_EXTENSIONS: usize = 8 * 1024;
/// Longest trailer section of a chunked body.
pub const MAX_TRAILER: usize = 4 * 1024;
/// Longest field section a worker may answer with.
pub const MAX_RESPONSE_HEAD: usize = 16 * 1024;
/// Longest body of a control request (`/internal/*`).
pub const MAX_CONTROL_BODY: usize = 4 * 1024 * 1024;

/// Longest data of one event.
pub const MAX_EVENT: usize = 256 * 1024;
/// Longest event as text, without chunked coding: each line of the data takes seven bytes more there.
pub const MAX_EVENT_TEXT: usize = 512 * 1024;
/// Longest name of an event.
pub const MAX_EVENT_NAME: usize = 256;
/// Longest id of an event, and longest `Last-Event-ID` that is looked at.
pub const MAX_EVENT_ID: usize = 256;
/// Events a topic remembers for clients that come back, when `--sse-history` is not given.
pub const DEFAULT_HISTORY_EVENTS: usize = 1024;
/// Most bytes of events a topic remembers.
pub const MAX_HISTORY_BYTES: usize = 1024 * 1024;
/// Most topics with a history; the one that was used least recently makes room for another.
pub const MAX_TOPICS: usize = 4096;
/// Most bytes of events that the topics of channels remember together, and those of paths together;
/// beyond it the topic that was used least recently goes.
pub const MAX_HISTORIES_BYTES: usize = 64 * 1024 * 1024;
/// Events that may wait for one subscriber, when `--sse-queue` is not given.
pub const DEFAULT_QUEUE_EVENTS: usize = 1024;
/// Most bytes of events that may wait for one subscriber.
pub const MAX_QUEUE_BYTES: usize = 1024 * 1024;
/// Time between two comments on a stream that has nothing else to say.
pub const HEARTBEAT_MS: u64 = 15_000;
/// Time in which the kernel must get something acknowledged on a stream; with the heartbeat before it,
/// a peer that vanished is noticed within 30 seconds.
pub const STREAM_USER_TIMEOUT_MS: u32 = 12_000;
/// Time a worker has to accept or refuse a connection to a delegated route.
pub const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Most notices of one kind about connections that a lane has under way; an eighth of its slots where
/// that is less. The others wait in the hub, so that ordinary requests do not wait behind all of them.
pub const MAX_NOTICES: usize = 64;
/// How long connections of a worker that is gone are kept, when `--sse-orphan-timeout` is not given.
pub const ORPHAN_TIMEOUT_MS: u64 = 60_000;
/// Time between two looks for clients that have gone, when `--sse-sweep-interval-ms` is not given.
pub const SWEEP_INTERVAL_MS: u64 = 5_000;

/// Slots in each direction of a lane when `--slots` is not given.
pub const DEFAULT_SLOTS: u32 = 512;
/// Fewest slots: one head of the largest size, its table, and a streamed frame must fit.
pub const MIN_SLOTS: u32 = 16;
/// Most slots, so that a slot index fits the 16 bits the ABI gives it.
pub const MAX_SLOTS: u32 = 32 * 1024;
/// Bytes in one slot when `--slot-size` is not given.
pub const DEFAULT_SLOT_SIZE: u32 = 4096;
/// Largest slot.
pub const MAX_SLOT_SIZE: u32 = 1024 * 1024;
/// Largest arena (slots times slot size) in one direction of a lane.
pub const MAX_ARENA: usize = 1 << 30;

/// Most bytes of body in one streamed frame, in either direction.
pub const MAX_STREAM_FRAME: usize = 128 * 1024;
/// The same of a request whose client has not just sent so many at once. It is to hold slots that it
/// fills.
pub const SHORT_STREAM_FRAME: usize = 64 * 1024;
/// Bytes of events that go together in one frame, where there are so many.
pub const EVENT_FRAME: usize = 64 * 1024;
/// Most frames of one request body that the hub leaves with a worker before it waits for one to come back.
pub const STREAM_WINDOW: usize = 4;

/// Most workers that one request may lose while it waits for a slot of theirs, before it is answered
/// with 503.
pub const MAX_TRIES: usize = 3;
/// Longest body with which a worker may refuse a stream.
pub const MAX_REFUSAL: usize = 256 * 1024;
/// Longest frame of events. A worker that sends a longer one is evicted.
pub const MAX_EVENT_FRAME: usize = 512 * 1024;
/// Most bytes of events that are copied out of one lane and not worked off yet. Further frames stay in
/// the worker's memory.
pub const MAX_EVENT_COPIES: usize = 512 * 1024;
/// Bytes of events that are copied out of one lane before other work gets a turn, or one frame.
pub const EVENT_BYTES_PER_TURN: usize = 128 * 1024;

/// How long a hub that has just started lets clients of streams wait for a worker, when
/// `--startup-grace` is not given. Workers come back within a second.
pub const STARTUP_GRACE_MS: u64 = 2_000;
/// Most clients that one shard lets wait so.
pub const MAX_HELD: usize = 16 * 1024;

/// Connections that one shard, at one time, helps to read that there is no place for them.
pub const REFUSALS_AT_ONCE: usize = 8;
/// Connections a shard refuses before it takes a rest of one tick.
pub const REFUSALS_IN_A_ROW: usize = 64;
/// Time between two lines of the log about one thing that strangers can cause without end: connections
/// that were refused, answers of a worker that are no good.
pub const REFUSALS_LOG_MS: u64 = 10_000;
/// Most lines of the log in that time that say of different workers the same thing, such as that they
/// have attached.
pub const LOG_BURST: u32 = 64;
/// Most characters of a stranger's text that stand in the log or in an error message.
pub const MAX_QUOTE: usize = 200;
/// Descriptors that clients leave to workers and to everything else: one in this many,
pub const SPARE_DESCRIPTORS_PART: u64 = 8;
/// but at least so many,
pub const MIN_SPARE_DESCRIPTORS: u64 = 32;
/// and at most so many: four for each of the most workers.
pub const MAX_SPARE_DESCRIPTORS: u64 = 4096;
/// Bytes of an answer that the kernel keeps for a TCP client beyond what it can send to it now. A
/// frame: while it is on its way the next comes. By itself the kernel takes some MiB at full speed, where
/// the path is fast, for every client that does not read.
pub const MAX_UNSENT: u32 = MAX_STREAM_FRAME as u32;
/// Connections that may wait to be accepted.
pub const LISTEN_BACKLOG: i32 = 4096;
/// How long a starting hub tries for an address that is in use.
pub const BIND_PATIENCE_MS: u64 = 300;
/// Time between two of these tries.
pub const BIND_AGAIN_MS: u64 = 10;
/// Most shards (front-end threads).
pub const MAX_SHARDS: usize = 64;

/// Completions the hub takes from one lane before other work gets a turn.
pub const COMPLETIONS_PER_TURN: usize = 256;

/// Answers of one lane at a time from which on its clients are left alone for a moment after an answer,
pub const BRISK_ANSWERS: usize = 12;
/// where so many more are to come,
pub const BRISK_TO_COME: usize = 8;
/// and at most so long, in microseconds.
pub const LATER_US: u64 = 250;
/// Where that was in vain, so often the next time is let pass.
pub const LATER_DOUBT: u32 = 64;

/// How long a worker may take to answer before the client gets 504, unless `--timeout` says otherwise.
pub const DEFAULT_TIMEOUT_MS: u64 = 30_000;
/// Time for a whole request head to arrive, counted from its first byte.
pub const HEAD_TIMEOUT_MS: u64 = 10_000;
/// Time a connection may rest between requests.
pub const IDLE_TIMEOUT_MS: u64 = 75_000;
/// A client whose request comes within this time of its last answer is expected to go on like that, and
/// what serving it takes is kept for it.
pub const BRISK_MS: u64 = 1_000;
/// Time a client that is sent something may take none of it.
pub const WRITE_TIMEOUT_MS: u64 = 30_000;
/// Time a client may keep a request or an answer waiting while others wait for what it holds.
pub const PRESSED_TIMEOUT_MS: u64 = 5_000;
/// The same for those who do so for longest, while fewer exchanges of the worker are free than there should
/// be for newcomers.
pub const CROWDED_TIMEOUT_MS: u64 = 1_000;
/// The same for as many of them as newcomers wait in line.
pub const FULL_TIMEOUT_MS: u64 = 500;
/// Time clients have for what they still hold of a lane whose worker is gone.
pub const REMAINS_MS: u64 = 5_000;
/// Most bytes of the lanes of one shard whose workers are gone and of which clients still hold something,
/// unless it is a single one. Beyond, the clients of those that ended first are cut off.
pub const MAX_REMAINS: usize = 64 * 1024 * 1024;
/// Most bytes of answers that one shard copies out of workers' memory because their clients are slow.
pub const MAX_SPILLED: usize = 64 * 1024 * 1024;
/// Time by which a request body may at most be behind [`BODY_RATE`], and so the longest pause in one.
pub const BODY_GRACE_MS: u64 = 20_000;
/// Bytes of a request body that must arrive in a second, on the whole.
pub const BODY_RATE: u64 = 500;
/// Fastest rate that can be asked for. With the longest grace it is far from overflowing 64 bits.
pub const MAX_BODY_RATE: u64 = 1 << 30;
/// Longest request body where neither `--max-body` nor the route says otherwise. Longer: 413.
pub const DEFAULT_MAX_BODY: u64 = 64 * 1024 * 1024;
/// Longest body that is received whole before it takes slots, so that a client that sends it slowly
/// keeps none. Longer ones are received into slots, of which only a part is for that.
pub const SMALL_BODY: u64 = 4 * 1024;
/// Time a closing connection waits for the client to read its last answer.
pub const LINGER_MS: u64 = 2_000;
/// Bytes a closing connection reads and forgets meanwhile.
pub const LINGER_BYTES: usize = 256 * 1024;
/// Time between two looks at deadlines while requests are in flight.
pub const TICK_MS: u64 = 50;
/// Time between two looks at deadlines while there are only resting connections.
pub const TICK_SLOW_MS: u64 = 1_000;
/// Looks without a request after which they become rare.
pub const TICKS_TO_SLOW: u32 = 20;
/// Time a stopping hub gives requests in flight.
pub const STOP_MS: u64 = 10_000;
/// Time a stopping hub goes on with events that workers have handed over, at most.
pub const STOP_EVENTS_MS: u64 = 1_000;
/// Entries of a shard's submission queue.
pub const RING_ENTRIES: u32 = 4096;
/// Bytes of a shard's ring, which kernels before 5.12 and from 6.14 on count as locked memory: 64 for
/// each submission, 32 for two completions, 4 for its place, and the pages of both queues' heads.
pub const RING_MEMORY: u64 = RING_ENTRIES as u64 * 100 + 2 * PAGE as u64;
/// Time a process on the attach socket has to say what it wants.
pub const GREETING_MS: u64 = 5_000;
/// Processes on the attach socket that have yet to say what they want; the next ones wait outside.
pub const MAX_GREETINGS: usize = 64;
/// Most bytes of what those have said so far, all together. Beyond, the longest is refused.
pub const MAX_GREETING_BYTES: usize = 16 * 1024 * 1024;
/// Time before the attach socket is accepted from again where no descriptor was free.
pub const ACCEPT_PAUSE_MS: u64 = 250;
/// Time between two looks whether a route table that was replaced is still in use.
pub const RETIRED_MS: u64 = 100;
/// How long the routes of a worker that is gone, or never came, answer 503 before they are forgotten.
pub const REMEMBER_MS: u64 = 60_000;
/// Time between two pings of one worker.
pub const PING_INTERVAL_MS: u64 = 10_000;
/// Time a worker has to answer a ping.
pub const PING_TIMEOUT_MS: u64 = 2_000;
/// Unanswered pings after which a worker is evicted.
pub const PING_MISSES: u32 = 3;
/// How long a worker that was evicted for breaking the protocol has to wait before it may attach again,
/// when `--evicted-pause-ms` is not given; each time twice as long as the last,
pub const EVICTED_PAUSE_MS: u64 = 1_000;
/// and at most so long. Who keeps the rules for as long as this afterwards begins from the start.
pub const MAX_EVICTED_PAUSE_MS: u64 = 30_000;
/// How much longer than a request may take a worker may drain whose name another has taken.
pub const DRAIN_GRACE_MS: u64 = 10_000;
/// Most workers of one name that drain while another has it.
pub const MAX_DRAINING_NAMESAKES: usize = 4;

/// Shortest `HUB_SECRET`.
pub const MIN_SECRET: usize = 16;

const _: () = assert!(
    MAX_HEAD <= u16::MAX as usize,
    "head ranges are 16 bits wide"
);
const _: () = assert!(MAX_TARGET < MAX_HEAD);
const _: () = assert!(MAX_ROUTES < MAX_ROUTES_IN_ALL);
const _: () = assert!(
    SMALL_BODY <= MAX_HEAD as u64,
    "a buffer holds a head and a small body"
);
const _: () = assert!(MAX_PATTERN < MAX_TARGET);
const _: () = assert!((DEFAULT_SLOT_SIZE as usize).is_multiple_of(PAGE));
const _: () = assert!(MAX_SLOTS <= u16::MAX as u32);
const _: () = assert!(
    MIN_SLOTS as usize * PAGE >= 2 * MAX_HEAD + 4 * MAX_FIELDS * 8,
    "the smallest lane holds the largest head beside another request"
);
const _: () = assert!(
    MAX_EVENT + 2 * MAX_TARGET < MAX_EVENT_FRAME,
    "the longest event fits, whoever it is for"
);
const _: () = assert!(MAX_EVENT_FRAME <= MAX_EVENT_COPIES);
const _: () = assert!(MAX_EVENT < MAX_EVENT_TEXT && MAX_EVENT_TEXT <= MAX_HISTORY_BYTES);
const _: () = assert!(
    HEARTBEAT_MS + (STREAM_USER_TIMEOUT_MS as u64) < 28_000,
    "a heartbeat may be a second late, and so may a busy machine"
);
const _: () =
    assert!(FULL_TIMEOUT_MS < CROWDED_TIMEOUT_MS && CROWDED_TIMEOUT_MS < PRESSED_TIMEOUT_MS);
const _: () = assert!(PRESSED_TIMEOUT_MS < WRITE_TIMEOUT_MS);
const _: () = assert!(PING_TIMEOUT_MS < PING_INTERVAL_MS);
