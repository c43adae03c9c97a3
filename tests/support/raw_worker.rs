//! A worker without the SDK: attached by hand as `docs/SHM_ABI.md` says, with its hands on every byte
//! of its lanes. Honest unless a test has it lie; what it maps of the hub it can only read.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mm::{MapFlags, ProtFlags};
use slotway::control::{Registration, RouteSpec, ToHub, ToWorker, WakeMode};
use slotway::shm::arena::SlotMap;
use slotway::shm::codec::{CodecError, RESPONSE_PREFIX_LEN, decode_request, response_prefix};
use slotway::shm::descriptor::{Completion, Descriptor, END, Run, Submission, UNKNOWN_LENGTH};
use slotway::shm::layout::{
    ABI_VERSION, Geometry, HEAD_OFFSET, Identity, MAGIC, RING_OFFSET, SLEEP_OFFSET, TAIL_OFFSET,
    body_offset,
};
use slotway::sys::fd_pass::{recv_with_fds, send_with_fds};

/// Shared memory at an address, written and read byte by byte as an enemy would. Writes
/// are atomic, byte by byte: threads of this process write at the same time.
#[derive(Debug)]
pub struct Mapped {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to the process, not to a thread; what is in it is nobody's.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the first `len` bytes of a memfd, shared.
    pub fn new(fd: impl AsFd, len: usize, writable: bool) -> rustix::io::Result<Mapped> {
        let protection = match writable {
            true => ProtFlags::READ | ProtFlags::WRITE,
            false => ProtFlags::READ,
        };
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).expect("a mapping is not at zero");
        Ok(Mapped {
            base,
            len,
            writable,
        })
    }

    /// Takes over a read-only mapping that was made in another way.
    pub fn adopt(address: *mut std::ffi::c_void, len: usize) -> Mapped {
        Mapped {
            base: NonNull::new(address.cast()).expect("a mapping is not at zero"),
            len,
            writable: false,
        }
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its address, for system calls that are to be refused.
    pub fn address(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// The word at this offset.
    pub fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.len);
        // SAFETY: within the mapping, as just checked, which lives as long as `self`; aligned, since
        // the mapping is to a page. Whoever stores checks that it may.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    /// Stores a word.
    pub fn set_word(&self, at: usize, value: u32) {
        assert!(self.writable, "the hub's memory cannot be written");
        self.word(at).store(value, Ordering::Release);
    }

    /// Copies a part out.
    pub fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at <= self.len && len <= self.len - at);
        let mut copy = vec![0u8; len];
        // SAFETY: the part is within the mapping, as just checked, and the copy has as many bytes of
        // its own. Others may write meanwhile; a torn copy is the reader's to cope with.
        unsafe {
            std::ptr::copy_nonoverlapping(self.base.as_ptr().add(at), copy.as_mut_ptr(), len);
        }
        copy
    }

    /// Copies bytes in.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        assert!(self.writable, "the hub's memory cannot be written");
        for (offset, byte) in bytes.iter().enumerate() {
            self.byte(at + offset).store(*byte, Ordering::Relaxed);
        }
    }

    fn byte(&self, at: usize) -> &AtomicU8 {
        assert!(at < self.len);
        // SAFETY: within the mapping, as just checked, which lives as long as `self`.
        unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(at)) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the whole of a mapping that nothing borrows any more.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// What the request memory says of its shape.
fn identity_of(request: &Mapped) -> io::Result<Geometry> {
    let bytes = request.read(0, size_of::<Identity>());
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(bytes[..8], MAGIC.to_le_bytes(), "the memory of a lane");
    Geometry::new(word(12), word(16)).map_err(io::Error::other)
}

/// A request that was taken from the ring.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// The request target.
    pub target: String,
    /// The body, complete.
    pub body: Vec<u8>,
}

/// One lane, with everything the hub handed out for it.
#[derive(Debug)]
pub struct RawLane {
    /// Mapped read-only.
    pub request: Arc<Mapped>,
    /// Mapped readable and writable.
    pub response: Arc<Mapped>,
    /// The memfd behind `request`.
    pub request_fd: OwnedFd,
    /// The memfd behind `response`.
    pub response_fd: OwnedFd,
    /// Wakes the hub.
    pub hub_bell: OwnedFd,
    /// Rung by the hub.
    pub own_bell: OwnedFd,
    /// The shape of both.
    pub geometry: Geometry,
    /// Submissions taken.
    pub head: u32,
    /// Completions published.
    pub tail: u32,
    /// It has written what it likes, and may so have returned a frame that it still reads: the next head
    /// may be written over it.
    pub scribbled: bool,
    /// The hub has let go of it, for certain.
    pub over: bool,
    arena: SlotMap,
    /// Requests whose bodies are still arriving, by exchange.
    arriving: HashMap<u32, Claim>,
    /// The last completions that were published.
    pub history: Vec<Descriptor>,
}

impl RawLane {
    fn new(fds: Vec<OwnedFd>) -> io::Result<RawLane> {
        let [request_fd, response_fd, hub_bell, own_bell] =
            <[OwnedFd; 4]>::try_from(fds).expect("four descriptors come with a lane");
        let len = rustix::fs::fstat(&request_fd)?.st_size as usize;
        let request = Arc::new(Mapped::new(&request_fd, len, false)?);
        let response = Arc::new(Mapped::new(&response_fd, len, true)?);
        let geometry = identity_of(&request)?;
        Ok(RawLane {
            arena: SlotMap::new(geometry.slots()),
            request,
            response,
            request_fd,
            response_fd,
            hub_bell,
            own_bell,
            geometry,
            head: 0,
            tail: 0,
            scribbled: false,
            over: false,
            arriving: HashMap::new(),
            history: Vec::new(),
        })
    }

    /// Where the slot with this number begins, in either memory.
    pub fn slot_at(&self, slot: u32) -> usize {
        self.geometry.arena_offset() + slot as usize * self.geometry.slot_size()
    }

    /// Where the entry with this index stands in a ring.
    pub fn entry_at(&self, index: u32) -> usize {
        RING_OFFSET + (index % self.geometry.ring_entries()) as usize * size_of::<Descriptor>()
    }

    /// The next submission.
    pub fn pop(&mut self) -> Option<Descriptor> {
        if self.request.word(TAIL_OFFSET).load(Ordering::Acquire) == self.head {
            return None;
        }
        let bytes = self.request.read(self.entry_at(self.head), 32);
        self.head = self.head.wrapping_add(1);
        self.response.set_word(HEAD_OFFSET, self.head);
        Some(descriptor(&bytes))
    }

    /// Publishes a completion, true or not, and wakes the hub if it sleeps.
    pub fn push(&mut self, d: Descriptor) {
        self.response
            .write(self.entry_at(self.tail), &descriptor_bytes(&d));
        self.tail = self.tail.wrapping_add(1);
        self.response.set_word(TAIL_OFFSET, self.tail);
        if self.history.len() == 64 {
            self.history.remove(0);
        }
        self.history.push(d);
        self.ring();
    }

    /// Wakes the hub if it sleeps.
    pub fn ring(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.request.word(SLEEP_OFFSET).load(Ordering::Relaxed) != 0 {
            ring(&self.hub_bell);
        }
    }

    /// Takes what is in the ring, up to and including the next request that is complete. Answers
    /// pings, asks for bodies, and gives request frames back.
    pub fn claim(&mut self) -> Option<Claim> {
        while let Some(d) = self.pop() {
            match Submission::from_u8(d.kind).expect("the hub sends what it documents") {
                Submission::Request => {
                    let claim = match self.open(d) {
                        Err(_) if self.scribbled => continue,
                        opened => opened.expect("the hub writes heads as documented"),
                    };
                    if claim.descriptor.is_end() {
                        return Some(claim);
                    }
                    self.push(Descriptor {
                        kind: Completion::Read as u8,
                        exchange: d.exchange,
                        generation: d.generation,
                        ..Descriptor::default()
                    });
                    self.give_back(&d);
                    self.arriving.insert(d.exchange, claim);
                }
                Submission::Body => {
                    let part = self
                        .request
                        .read(self.slot_at(d.first), d.body_len as usize);
                    if d.slots > 0 {
                        self.give_back(&d);
                    }
                    if let Some(claim) = self.arriving.get_mut(&d.exchange) {
                        claim.body.extend_from_slice(&part);
                    }
                    if d.is_end()
                        && let Some(claim) = self.arriving.remove(&d.exchange)
                    {
                        return Some(claim);
                    }
                }
                Submission::Return => {
                    self.arena.release(d.run());
                }
                Submission::Ping => self.push(Descriptor {
                    kind: Completion::Pong as u8,
                    generation: d.generation,
                    ..Descriptor::default()
                }),
            }
        }
        None
    }

    fn open(&self, d: Descriptor) -> Result<Claim, CodecError> {
        let at = self.slot_at(d.first);
        let head = self.request.read(at, d.head_len as usize);
        let view = decode_request(&head)?;
        let target = String::from_utf8_lossy(view.target()).into_owned();
        let body = self
            .request
            .read(at + body_offset(d.head_len as usize), d.body_len as usize);
        Ok(Claim {
            descriptor: d,
            target,
            body,
        })
    }

    /// Returns a request frame.
    pub fn give_back(&mut self, d: &Descriptor) {
        self.push(returned(d.run()));
    }

    /// Answers a request and, unless its body came in frames, returns it.
    pub fn answer(&mut self, claim: &Claim, status: u16, body: &[u8]) {
        if let Some(d) = self.frame(claim, status, b"x-honest: yes\r\n", body) {
            self.push(d);
            if claim.descriptor.is_end() {
                self.give_back(&claim.descriptor);
            }
        }
    }

    /// Writes the frame of an answer and describes it. `None` where no slots are free.
    pub fn frame(
        &mut self,
        claim: &Claim,
        status: u16,
        fields: &[u8],
        body: &[u8],
    ) -> Option<Descriptor> {
        let head = [&response_prefix(status, fields.len())[..], fields].concat();
        assert!(head.len() >= RESPONSE_PREFIX_LEN);
        let body_at = body_offset(head.len());
        let slots = self.geometry.slots_for(body_at + body.len()) as u32;
        let run = self.arena.allocate(slots)?;
        let at = self.slot_at(run.first);
        self.response.write(at, &head);
        self.response.write(at + body_at, body);
        Some(Descriptor {
            kind: Completion::Response as u8,
            flags: END,
            slots: run.slots as u16,
            first: run.first,
            exchange: claim.descriptor.exchange,
            generation: claim.descriptor.generation,
            head_len: head.len() as u32,
            body_len: body.len() as u32,
            total: body.len() as u64,
        })
    }

    /// Frees the slots of a frame that is not sent after all.
    pub fn forget(&mut self, frame: &Descriptor) {
        self.arena.release(frame.run());
    }
}

/// Rings a bell, unless it is rung as often as it can be: then the write would wait, for ever where
/// nobody listens any more. For the one thread that rings it.
pub fn ring(bell: impl AsFd) {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let room = poll(&mut [PollFd::new(&bell, PollFlags::OUT)], Some(&now));
    if room == Ok(1) {
        let _ = rustix::io::write(&bell, &1u64.to_ne_bytes());
    }
}

/// The return of a request frame.
pub fn returned(run: Run) -> Descriptor {
    Descriptor {
        kind: Completion::Return as u8,
        slots: run.slots as u16,
        first: run.first,
        total: UNKNOWN_LENGTH,
        ..Descriptor::default()
    }
}

/// A descriptor as it stands in a ring.
pub fn descriptor_bytes(d: &Descriptor) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[0] = d.kind;
    bytes[1] = d.flags;
    bytes[2..4].copy_from_slice(&d.slots.to_le_bytes());
    let words = [d.first, d.exchange, d.generation, d.head_len, d.body_len];
    for (place, word) in bytes[4..24].chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes[24..].copy_from_slice(&d.total.to_le_bytes());
    bytes
}

/// The counterpart of [`descriptor_bytes`].
pub fn descriptor(bytes: &[u8]) -> Descriptor {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    Descriptor {
        kind: bytes[0],
        flags: bytes[1],
        slots: u16::from_le_bytes([bytes[2], bytes[3]]),
        first: word(4),
        exchange: word(8),
        generation: word(12),
        head_len: word(16),
        body_len: word(20),
        total: u64::from_le_bytes(bytes[24..32].try_into().expect("eight bytes")),
    }
}

/// A worker that is attached.
#[derive(Debug)]
pub struct RawWorker {
    /// Its end of the attach socket.
    pub socket: UnixStream,
    /// Its lanes, one for each shard.
    pub lanes: Vec<RawLane>,
    received: Vec<u8>,
}

/// Connects to the attach socket and says nothing yet.
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    let socket = UnixStream::connect(socket)?;
    socket.set_read_timeout(Some(super::GUARD))?;
    socket.set_write_timeout(Some(super::GUARD))?;
    Ok(socket)
}

/// What a worker says first. `routes` are `METHOD /pattern`.
pub fn attach_message(name: &str, routes: &[&str], wake: WakeMode) -> ToHub {
    let routes = routes.iter().map(|route| {
        let (method, path) = route.split_once(' ').expect("METHOD /pattern");
        RouteSpec {
            method: method.into(),
            path: path.into(),
            ..RouteSpec::default()
        }
    });
    ToHub::Attach {
        abi_version: ABI_VERSION,
        wake,
        registration: Registration {
            name: name.into(),
            routes: routes.collect(),
        },
        worker_id: None,
    }
}

/// A message as it goes over the attach socket.
pub fn framed(json: &[u8]) -> Vec<u8> {
    [&(json.len() as u32).to_le_bytes()[..], json].concat()
}

impl RawWorker {
    /// Attaches to a hub. Returns when every lane has come; the routes may take a moment longer.
    ///
    /// # Errors
    /// The hub refuses, or is gone.
    pub fn attach(
        socket: &Path,
        name: &str,
        routes: &[&str],
        wake: WakeMode,
    ) -> io::Result<RawWorker> {
        let socket = connect(socket)?;
        let json = simd_json::to_vec(&attach_message(name, routes, wake)).expect("JSON");
        send_with_fds(&socket, &framed(&json), &[])?;
        let mut worker = RawWorker {
            socket,
            lanes: Vec::new(),
            received: Vec::new(),
        };
        let mut fds = Vec::new();
        let mut count = None;
        while count.is_none_or(|count| worker.lanes.len() < count) {
            match worker.take_message() {
                Some(ToWorker::Attached { lanes, .. }) => count = Some(lanes as usize),
                Some(ToWorker::Lane { .. }) => {
                    let rest = fds.split_off(4);
                    worker
                        .lanes
                        .push(RawLane::new(std::mem::replace(&mut fds, rest))?);
                }
                Some(other) => return Err(io::Error::other(format!("{other:?}"))),
                None => {
                    let mut bytes = [0; 4096];
                    let (count, more) = recv_with_fds(&worker.socket, &mut bytes, 64)?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    fds.extend(more);
                    worker.received.extend_from_slice(&bytes[..count]);
                }
            }
        }
        Ok(worker)
    }

    /// Sends bytes over the attach socket.
    pub fn send_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        send_with_fds(&self.socket, bytes, &[])
    }

    /// What the hub has said since, if it has: `Ok(None)` for nothing, an error at the end.
    pub fn heard(&mut self) -> io::Result<Option<ToWorker>> {
        if let Some(message) = self.take_message() {
            return Ok(Some(message));
        }
        self.socket.set_nonblocking(true)?;
        let mut bytes = [0; 4096];
        let read = self.socket.read(&mut bytes);
        self.socket.set_nonblocking(false)?;
        match read {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.received.extend_from_slice(&bytes[..count]);
                Ok(self.take_message())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for the end of the connection, and returns the reason of an eviction if there was one.
    ///
    /// # Panics
    /// The hub keeps the connection.
    pub fn wait_lost(&mut self) -> Option<String> {
        let mut reason = None;
        super::wait_until("the hub drops the worker", || match self.heard() {
            Ok(Some(ToWorker::Evicted { reason: why })) => {
                reason = Some(why);
                false
            }
            Ok(_) => false,
            Err(_) => true,
        });
        reason
    }

    /// The next request, from whichever lane has one, and which lane that is.
    ///
    /// # Panics
    /// There is none within a generous time.
    pub fn wait_claim(&mut self) -> (usize, Claim) {
        let mut claimed = None;
        super::wait_until("a request comes", || {
            claimed = self.claim();
            claimed.is_some()
        });
        claimed.expect("just seen")
    }

    /// The next request, if there is one, and its lane.
    pub fn claim(&mut self) -> Option<(usize, Claim)> {
        let mut lanes = self.lanes.iter_mut().enumerate();
        lanes.find_map(|(index, lane)| Some((index, lane.claim()?)))
    }

    fn take_message(&mut self) -> Option<ToWorker> {
        let length = u32::from_le_bytes(*self.received.first_chunk::<4>()?) as usize;
        if self.received.len() < 4 + length {
            return None;
        }
        let mut json: Vec<u8> = self.received.drain(..4 + length).skip(4).collect();
        Some(simd_json::from_slice(&mut json).expect("the hub speaks as documented"))
    }
}

/// Rests for so short a time that a worker that polls is neither late nor in the way.
pub fn breathe() {
    std::thread::sleep(Duration::from_micros(200));
}
