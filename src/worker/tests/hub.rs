//! A hub for tests: the attach handshake by hand and the other end of the lanes, with every rule of
//! the ABI that a worker must keep asserted.

use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::control::{Lifecycle, Registration, ToHub, ToWorker, WakeMode};
use crate::message::{FieldSpan, Method, Params, RequestHead, Span};
use crate::shm::arena::SlotMap;
use crate::shm::atomics::{Ordering, fence};
use crate::shm::codec::{
    LifecycleFlags, RequestParts, decode_response, encode_request, encoded_request_len,
};
use crate::shm::descriptor::{ABORT, Completion, Descriptor, END, Run, Submission, UNKNOWN_LENGTH};
use crate::shm::doorbell::{Caller, Sleeper};
use crate::shm::events::{EventRecords, EventTarget};
use crate::shm::layout::{Geometry, body_offset};
use crate::shm::region::{Arena, HubSide, LaneMemory, Slots, Word};
use crate::shm::ring::{Consumer, Producer};
use crate::sys::eventfd::EventFd;
use crate::sys::fd_pass::send_with_fds;
use crate::sys::memory::SharedMemory;
use crate::sys::wake_fd::WakeFd;
use crate::sys::{futex, poll};

/// Longer than anything here may take; reached only by a hang.
pub(super) const GUARD: Duration = Duration::from_secs(60);
const WINDOW: usize = 4;

/// A listening hub in a directory of its own.
pub(super) struct FakeHub {
    listener: UnixListener,
    directory: PathBuf,
}

impl FakeHub {
    pub(super) fn new() -> FakeHub {
        let name = format!("slotway-test-{}", uuid::Uuid::new_v4());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).unwrap();
        let listener = UnixListener::bind(directory.join("hub.sock")).unwrap();
        FakeHub {
            listener,
            directory,
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.join("hub.sock")
    }

    /// Takes the socket away, as a hub that is gone; attached workers stay attached.
    pub(super) fn stop_listening(&mut self) {
        std::fs::remove_file(self.socket()).unwrap();
        let elsewhere = self.directory.join("unused.sock");
        let _ = std::fs::remove_file(&elsewhere);
        self.listener = UnixListener::bind(elsewhere).unwrap();
    }

    /// The counterpart of [`FakeHub::stop_listening`].
    pub(super) fn listen_again(&mut self) {
        self.listener = UnixListener::bind(self.socket()).unwrap();
    }

    /// Takes a worker's `attach` message and leaves the answer to the caller.
    pub(super) fn accept_raw(&self) -> (Connection, Registration, WakeMode) {
        let ready = poll::readable(&[self.listener.as_fd()], Some(GUARD)).unwrap();
        assert!(ready[0], "no worker came");
        let (socket, _) = self.listener.accept().unwrap();
        socket.set_read_timeout(Some(GUARD)).unwrap();
        let mut connection = Connection { socket };
        let Some(ToHub::Attach {
            registration, wake, ..
        }) = connection.receive()
        else {
            panic!("the first message is attach");
        };
        (connection, registration, wake)
    }

    /// Attaches a worker over this many lanes.
    pub(super) fn accept(&self, lanes: usize, geometry: Geometry) -> Attached {
        let (mut connection, registration, wake) = self.accept_raw();
        connection.send(&ToWorker::Attached {
            worker_id: "id".into(),
            lanes: lanes as u32,
        });
        let lanes = (0..lanes)
            .map(|index| connection.send_lane(index, geometry, wake))
            .collect();
        Attached {
            connection,
            registration,
            lanes,
        }
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The attach socket.
pub(super) struct Connection {
    socket: UnixStream,
}

impl Connection {
    pub(super) fn send(&mut self, message: &ToWorker) {
        self.socket.write_all(&framed(message)).unwrap();
    }

    /// The next message; `None` at the end.
    pub(super) fn receive(&mut self) -> Option<ToHub> {
        let mut length = [0; 4];
        self.socket.read_exact(&mut length).ok()?;
        let mut json = vec![0; u32::from_le_bytes(length) as usize];
        self.socket.read_exact(&mut json).ok()?;
        Some(simd_json::from_slice(&mut json).unwrap())
    }

    /// Ends the stream, as a hub that has died.
    pub(super) fn close(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    fn send_lane(&mut self, index: usize, geometry: Geometry, wake: WakeMode) -> HubLane {
        let len = geometry.memory_len();
        let (request_fd, request) = SharedMemory::create_written_here("request", len).unwrap();
        let (response_fd, response) =
            SharedMemory::create_written_by_peer("response", len).unwrap();
        let (bell, worker_bell) = (EventFd::new(true).unwrap(), EventFd::new(true).unwrap());
        let worker_wake = WakeFd::new(&worker_bell).unwrap();
        let memory = LaneMemory::new(request, response, geometry).unwrap();
        let fds = [
            request_fd.as_fd(),
            response_fd.as_fd(),
            bell.as_fd(),
            worker_wake.as_fd(),
        ];
        let message = framed(&ToWorker::Lane {
            index: index as u32,
        });
        send_with_fds(&self.socket, &message, &fds).unwrap();
        HubLane::new(memory, bell, worker_bell, wake)
    }
}

fn framed(message: &ToWorker) -> Vec<u8> {
    let json = simd_json::to_vec(message).unwrap();
    [&(json.len() as u32).to_le_bytes(), &json[..]].concat()
}

/// A worker that is attached.
pub(super) struct Attached {
    pub(super) connection: Connection,
    pub(super) registration: Registration,
    pub(super) lanes: Vec<HubLane>,
}

/// A request to be sent.
#[derive(Clone)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) target: &'a str,
    pub(super) route: u32,
    pub(super) params: &'a [&'a str],
    pub(super) fields: &'a [(&'a str, &'a [u8])],
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, target: &'a str, route: u32) -> Ask<'a> {
        Ask {
            method,
            target,
            route,
            params: &[],
            fields: &[],
        }
    }
}

/// An exchange, as the hub sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id {
    pub(super) index: u32,
    generation: u32,
}

/// A frame of an answer, copied out; its slots are still the hub's until returned.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) head: Option<(u16, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) total: Option<u64>,
    pub(super) end: bool,
    pub(super) abort: bool,
    pub(super) run: Run,
}

/// A frame of events, copied out; its slots are still the hub's until returned.
#[derive(Debug)]
pub(super) struct EventPart {
    pub(super) run: Run,
    pub(super) records: Vec<OwnedEvent>,
}

/// An event that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnedEvent {
    /// `*`, or the path, or `#` and the connection id.
    pub(super) target: String,
    pub(super) name: String,
    pub(super) id: Option<String>,
    pub(super) retry_ms: Option<u64>,
    pub(super) data: Vec<u8>,
}

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) fields: String,
    pub(super) body: Vec<u8>,
    pub(super) total: Option<u64>,
    pub(super) frames: usize,
    pub(super) aborted: bool,
}

struct Open {
    generation: u32,
    answered: bool,
    ended: bool,
    bodyless: bool,
    lent: usize,
    received: u64,
    total: Option<u64>,
    parts: VecDeque<Part>,
}

/// The hub's end of a lane.
pub(super) struct HubLane {
    pub(super) memory: LaneMemory<HubSide>,
    bell: EventFd,
    worker_bell: EventFd,
    wake: WakeMode,
    producer: Producer,
    consumer: Consumer,
    caller: Caller,
    sleeper: Sleeper,
    arena: Arena,
    held: SlotMap,
    lent: HashMap<u32, (u32, Id)>,
    open: HashMap<u32, Open>,
    generations: Vec<u32>,
    pub(super) pongs: Vec<u32>,
    events: VecDeque<EventPart>,
    /// First slots of the frames of events that the hub has.
    events_held: HashMap<u32, u32>,
}

impl HubLane {
    fn new(
        memory: LaneMemory<HubSide>,
        bell: EventFd,
        worker_bell: EventFd,
        wake: WakeMode,
    ) -> HubLane {
        let slots = memory.geometry().slots();
        HubLane {
            memory,
            bell,
            worker_bell,
            wake,
            producer: Producer::default(),
            consumer: Consumer::default(),
            caller: Caller::default(),
            sleeper: Sleeper::default(),
            arena: Arena::new(slots),
            held: SlotMap::new(slots),
            lent: HashMap::new(),
            open: HashMap::new(),
            generations: vec![0; slots as usize],
            pongs: Vec::new(),
            events: VecDeque::new(),
            events_held: HashMap::new(),
        }
    }

    /// Request slots that are the hub's.
    pub(super) fn free_slots(&self) -> u32 {
        self.arena.free_count()
    }

    /// Sends what the hub itself says about a stream.
    pub(super) fn tell(&mut self, ask: &Ask<'_>, what: &Lifecycle, replayed: bool) -> Id {
        let lifecycle = match what {
            Lifecycle::Connect { .. } => LifecycleFlags::Connect { replayed },
            Lifecycle::Disconnect { .. } => LifecycleFlags::Disconnect,
        };
        let body = simd_json::to_vec(what).unwrap();
        self.begin_as(ask, lifecycle, &body, Some(body.len() as u64), true)
    }

    /// Sends a request whose body is all there.
    pub(super) fn ask(&mut self, ask: &Ask<'_>, body: &[u8]) -> Id {
        self.begin(ask, body, Some(body.len() as u64), true)
    }

    /// Sends a request with the first part of its body.
    pub(super) fn begin(
        &mut self,
        ask: &Ask<'_>,
        body: &[u8],
        total: Option<u64>,
        end: bool,
    ) -> Id {
        self.begin_as(ask, LifecycleFlags::None, body, total, end)
    }

    /// As [`HubLane::begin`], with what the head says of a stream.
    pub(super) fn begin_as(
        &mut self,
        ask: &Ask<'_>,
        lifecycle: LifecycleFlags,
        body: &[u8],
        total: Option<u64>,
        end: bool,
    ) -> Id {
        let raw = raw_head(ask);
        let head = parsed(ask, &raw);
        let mut params = Params::default();
        for param in ask.params {
            assert!(params.push(span_of(&raw, param.as_bytes())));
        }
        let peer = Some("127.0.0.1:4711".parse().unwrap());
        let parts = RequestParts {
            route: ask.route,
            head: &head,
            params: &params,
            raw: &raw,
            peer,
            lifecycle,
        };
        let head_len = encoded_request_len(&parts);
        let body_at = body_offset(head_len);
        let count = self.memory.geometry().slots_for(body_at + body.len());
        let mut slots = self
            .arena
            .allocate(count as u32)
            .expect("the test leaves slots free");
        let bytes = self.memory.bytes_mut(&mut slots);
        encode_request(bytes, &parts).unwrap();
        bytes[body_at..body_at + body.len()].copy_from_slice(body);
        let index = (0..).find(|i| !self.open.contains_key(i)).unwrap();
        self.generations[index as usize] += 1;
        let id = Id {
            index,
            generation: self.generations[index as usize],
        };
        let open = Open {
            generation: id.generation,
            answered: false,
            ended: false,
            bodyless: ask.method == Method::Head,
            lent: 0,
            received: 0,
            total: None,
            parts: VecDeque::new(),
        };
        self.open.insert(index, open);
        self.submit(
            Submission::Request,
            id,
            slots,
            head_len,
            body.len(),
            total,
            end,
        );
        id
    }

    /// Sends a further part of a body, if the window and the arena allow it.
    pub(super) fn try_send(&mut self, id: Id, body: &[u8], total: Option<u64>, end: bool) -> bool {
        if self.open[&id.index].lent >= WINDOW {
            return false;
        }
        let count = self.memory.geometry().slots_for(body.len());
        let Some(mut slots) = self.arena.allocate(count as u32) else {
            return false;
        };
        self.memory.bytes_mut(&mut slots)[..body.len()].copy_from_slice(body);
        self.submit(Submission::Body, id, slots, 0, body.len(), total, end);
        true
    }

    /// Says that a body will never be complete.
    pub(super) fn abort(&mut self, id: Id) {
        self.push(Descriptor {
            kind: Submission::Body as u8,
            flags: END | ABORT,
            exchange: id.index,
            generation: id.generation,
            total: UNKNOWN_LENGTH,
            ..Descriptor::default()
        });
        self.call();
    }

    /// Says that the client has gone.
    pub(super) fn cancel(&mut self, id: Id) {
        self.memory
            .cancel_word(id.index)
            .store(id.generation, Ordering::Release);
    }

    pub(super) fn ping(&mut self, number: u32) {
        let kind = Submission::Ping as u8;
        self.push(Descriptor {
            kind,
            generation: number,
            ..Descriptor::default()
        });
        self.call();
    }

    /// Gives a response frame back.
    pub(super) fn give_back(&mut self, run: Run) {
        if !run.is_empty() {
            self.give_back_with(run, (0, 0, 0));
        }
    }

    /// Gives a frame of events back, and says how many deliveries it made, how many were dropped, and
    /// the flags.
    pub(super) fn return_events(&mut self, run: Run, outcome: (u32, u32, u8)) {
        assert!(self.events_held.remove(&run.first).is_some());
        self.give_back_with(run, outcome);
    }

    fn give_back_with(&mut self, run: Run, (reached, dropped, flags): (u32, u32, u8)) {
        assert!(self.held.release(run));
        let kind = Submission::Return as u8;
        self.push(Descriptor {
            kind,
            flags,
            slots: run.slots as u16,
            first: run.first,
            head_len: dropped,
            body_len: reached,
            ..Descriptor::default()
        });
        fence(Ordering::SeqCst);
        if self.memory.peer_word(Word::Starved).load(Ordering::Relaxed) != 0 {
            self.call();
        }
    }

    /// The next frame of events.
    pub(super) fn next_events(&mut self) -> EventPart {
        loop {
            if let Some(part) = self.events.pop_front() {
                return part;
            }
            self.wait();
        }
    }

    /// The next frame of events, if it is there.
    pub(super) fn poll_events(&mut self) -> Option<EventPart> {
        self.look();
        self.events.pop_front()
    }

    /// Slots of frames of events that the hub has.
    pub(super) fn event_slots(&self) -> u32 {
        self.events_held.values().sum()
    }

    /// Takes what the worker has said. Returns whether there was anything.
    pub(super) fn look(&mut self) -> bool {
        let mut any = false;
        while let Some(d) = self.consumer.pop(&self.memory.inbound()).unwrap() {
            any = true;
            match Completion::from_u8(d.kind).expect("a known kind") {
                Completion::Response => self.on_frame(&d, true),
                Completion::Body => self.on_frame(&d, false),
                Completion::Return => self.on_return(&d),
                Completion::Pong => self.pongs.push(d.generation),
                // This hub sends bodies unasked.
                Completion::Read => {}
                Completion::Event => self.on_events(&d),
            }
        }
        self.consumer.release(&self.memory.inbound());
        any
    }

    /// Waits until the worker has said something, as the hub does: armed, on the eventfd.
    pub(super) fn wait(&mut self) {
        let deadline = Instant::now() + GUARD;
        self.memory
            .own_word(Word::Starved)
            .store(1, Ordering::Relaxed);
        while !self.look() {
            self.sleeper.arm(self.memory.own_word(Word::Sleep));
            if !self.consumer.refresh(&self.memory.inbound()).unwrap() {
                let left = deadline.saturating_duration_since(Instant::now());
                let ready = poll::readable(&[self.bell.as_fd()], Some(left)).unwrap();
                assert!(
                    ready[0] || Instant::now() < deadline,
                    "the worker says nothing"
                );
                self.bell.drain().unwrap();
            }
            self.sleeper.disarm(self.memory.own_word(Word::Sleep));
        }
        self.memory
            .own_word(Word::Starved)
            .store(0, Ordering::Relaxed);
    }

    /// Whether the worker rings the hub within this time although the hub is armed.
    pub(super) fn is_silent_for(&mut self, time: Duration) -> bool {
        self.sleeper.arm(self.memory.own_word(Word::Sleep));
        let waiting = self.consumer.refresh(&self.memory.inbound()).unwrap();
        let silent = !waiting && !poll::readable(&[self.bell.as_fd()], Some(time)).unwrap()[0];
        self.sleeper.disarm(self.memory.own_word(Word::Sleep));
        silent
    }

    /// The next frame of an answer.
    pub(super) fn next_part(&mut self, id: Id) -> Part {
        loop {
            let open = self.open.get_mut(&id.index).unwrap();
            if let Some(part) = open.parts.pop_front() {
                return part;
            }
            assert!(!open.ended, "there is no further frame");
            self.wait();
        }
    }

    /// The next frame of an answer, if it is there.
    pub(super) fn poll_part(&mut self, id: Id) -> Option<Part> {
        self.open.get_mut(&id.index).unwrap().parts.pop_front()
    }

    /// Waits for the whole answer, returning each frame.
    pub(super) fn reply(&mut self, id: Id) -> Reply {
        let first = self.next_part(id);
        self.reply_after(first, id)
    }

    /// Waits for what follows the first frame of an answer, returning each frame.
    pub(super) fn reply_after(&mut self, first: Part, id: Id) -> Reply {
        let (status, fields) = first.head.expect("the first frame has a head");
        let mut reply = Reply {
            status,
            fields: String::from_utf8(fields).unwrap(),
            body: first.body,
            total: first.total,
            frames: 1,
            aborted: first.abort,
        };
        self.give_back(first.run);
        let mut end = first.end;
        while !end {
            let part = self.next_part(id);
            reply.body.extend_from_slice(&part.body);
            reply.frames += 1;
            reply.aborted |= part.abort;
            self.give_back(part.run);
            end = part.end;
        }
        reply
    }

    /// Waits until the worker has returned every frame, with exchanges still open.
    pub(super) fn settle_frames(&mut self) {
        while !self.lent.is_empty() {
            self.wait();
        }
    }

    /// Waits until the worker has returned every frame of every exchange, and forgets these.
    pub(super) fn settle(&mut self) {
        while !self.lent.is_empty() {
            self.wait();
        }
        self.open.retain(|_, open| !open.ended);
        assert_eq!(self.arena.free_count(), self.memory.geometry().slots());
    }

    /// Response slots that the hub has and the worker has not.
    pub(super) fn held_slots(&self) -> u32 {
        self.held.slots() - self.held.free_count()
    }

    /// As [`HubLane::round`], while these exchanges go on.
    pub(super) fn round_among(&mut self, ask: &Ask<'_>, body: &[u8], others: &[Id]) -> Reply {
        let id = self.ask(ask, body);
        let reply = self.reply(id);
        self.settle_frames();
        self.open
            .retain(|index, _| others.iter().any(|other| other.index == *index));
        reply
    }

    /// Asks and waits for the answer.
    pub(super) fn round(&mut self, ask: &Ask<'_>, body: &[u8]) -> Reply {
        let id = self.ask(ask, body);
        let reply = self.reply(id);
        self.settle();
        reply
    }

    #[allow(clippy::too_many_arguments)]
    fn submit(
        &mut self,
        kind: Submission,
        id: Id,
        slots: Slots,
        head_len: usize,
        body_len: usize,
        total: Option<u64>,
        end: bool,
    ) {
        let run = Arena::lend(slots);
        self.lent.insert(run.first, (run.slots, id));
        self.open.get_mut(&id.index).unwrap().lent += 1;
        self.push(Descriptor {
            kind: kind as u8,
            flags: if end { END } else { 0 },
            slots: run.slots as u16,
            first: run.first,
            exchange: id.index,
            generation: id.generation,
            head_len: head_len as u32,
            body_len: body_len as u32,
            total: total.unwrap_or(UNKNOWN_LENGTH),
        });
        self.call();
    }

    fn push(&mut self, d: Descriptor) {
        self.producer.push(&self.memory.outbound(), d).unwrap();
        self.producer.publish(&self.memory.outbound());
    }

    fn call(&mut self) {
        let doorbell = self.memory.own_word(Word::Doorbell);
        if self
            .caller
            .call(doorbell, self.memory.peer_word(Word::Sleep))
            > 0
        {
            match self.wake {
                WakeMode::Futex => drop(futex::wake(doorbell, 1).unwrap()),
                WakeMode::Eventfd => self.worker_bell.ring().unwrap(),
            }
        }
    }

    fn on_frame(&mut self, d: &Descriptor, first: bool) {
        let open = self
            .open
            .get_mut(&d.exchange)
            .expect("an exchange that is open");
        assert_eq!(open.generation, d.generation);
        assert!(!open.ended, "nothing follows the end");
        assert_eq!(open.answered, !first, "the response comes first, and once");
        open.answered = true;
        open.ended = d.is_end();
        let (head_len, body_len) = (d.head_len as usize, d.body_len as usize);
        let body_at = body_offset(head_len);
        let size = d.slots as usize * self.memory.geometry().slot_size();
        assert!(head_len <= size && (body_len == 0 || body_at + body_len <= size));
        assert_eq!(head_len > 0, first);
        assert!(
            d.slots == 0 || self.held.take(d.run()),
            "a frame over one the hub holds"
        );
        let total = (d.total != UNKNOWN_LENGTH).then_some(d.total);
        if first {
            open.total = total;
        }
        open.received += body_len as u64;
        if open.bodyless {
            assert_eq!(body_len, 0);
        } else if let Some(total) = open.total {
            assert!(open.received <= total);
            assert!(!d.is_end() || d.is_abort() || open.received == total);
        }
        let mut bytes = Vec::new();
        assert!(self.memory.copy_response(d.run(), 0, size, &mut bytes));
        let head = first.then(|| {
            let (status, fields) = decode_response(&bytes[..head_len]).unwrap();
            (status, fields.to_vec())
        });
        let body = bytes
            .get(body_at..body_at + body_len)
            .unwrap_or_default()
            .to_vec();
        open.parts.push_back(Part {
            head,
            body,
            total,
            end: d.is_end(),
            abort: d.is_abort(),
            run: d.run(),
        });
    }

    fn on_events(&mut self, d: &Descriptor) {
        assert_eq!(
            (d.exchange, d.generation, d.flags, d.head_len),
            (0, 0, 0, 0)
        );
        assert!(self.held.take(d.run()), "a frame over one the hub holds");
        self.events_held.insert(d.first, d.run().slots);
        let geometry = self.memory.geometry();
        assert!(
            self.event_slots() <= geometry.slots() / 4,
            "too much for events"
        );
        let mut bytes = Vec::new();
        let copied = self
            .memory
            .copy_response(d.run(), 0, d.body_len as usize, &mut bytes);
        assert!(copied, "the records are within the frame");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let records: Vec<_> = EventRecords::new(&bytes)
            .map(|record| {
                let record = record.expect("records that can be read");
                OwnedEvent {
                    target: match record.target {
                        EventTarget::Broadcast => "*".to_owned(),
                        EventTarget::Path(path) => text(path),
                        EventTarget::Connection(id) => format!("#{}", text(id)),
                    },
                    name: text(record.name),
                    id: record.id.map(text),
                    retry_ms: record.retry_ms,
                    data: record.data.to_vec(),
                }
            })
            .collect();
        assert_eq!(records.len() as u64, d.total);
        self.events.push_back(EventPart {
            run: d.run(),
            records,
        });
    }

    fn on_return(&mut self, d: &Descriptor) {
        let (slots, id) = self
            .lent
            .remove(&d.first)
            .expect("a frame is returned once");
        assert_eq!(slots, d.run().slots, "a frame is returned whole");
        assert!(self.arena.take_back(d.run()));
        if let Some(open) = self
            .open
            .get_mut(&id.index)
            .filter(|o| o.generation == id.generation)
        {
            open.lent -= 1;
        }
    }
}

fn raw_head(ask: &Ask<'_>) -> Vec<u8> {
    let mut raw = format!("{} {} HTTP/1.1\r\n", ask.method, ask.target).into_bytes();
    for (name, value) in ask.fields {
        raw.extend_from_slice(name.as_bytes());
        raw.extend_from_slice(b": ");
        raw.extend_from_slice(value);
        raw.extend_from_slice(b"\r\n");
    }
    raw.extend_from_slice(b"\r\n");
    raw
}

fn parsed(ask: &Ask<'_>, raw: &[u8]) -> RequestHead {
    let target = span_of(raw, ask.target.as_bytes());
    let mut head = RequestHead::default();
    head.method = ask.method;
    head.target = target;
    head.path = target;
    if let Some(mark) = ask.target.find('?') {
        let start = target.start as usize;
        head.path = Span::new(start, mark);
        head.query = Some(Span::new(start + mark + 1, ask.target.len() - mark - 1));
    }
    let mut at = raw.windows(2).position(|w| w == b"\r\n").unwrap() + 2;
    for (name, value) in ask.fields {
        let name_span = Span::new(at, name.len());
        let value_span = Span::new(at + name.len() + 2, value.len());
        assert!(head.push_field(FieldSpan {
            name: name_span,
            value: value_span
        }));
        at += name.len() + value.len() + 4;
    }
    head
}

fn span_of(raw: &[u8], part: &[u8]) -> Span {
    Span::new(
        raw.windows(part.len()).position(|w| w == part).unwrap(),
        part.len(),
    )
}
