//! One request on its way through the hub, and its answer, without sockets and tasks: the functions
//! that `gateway::plan`, `exchange`, `lane::driver` and `output` call, in their order. The worker's end
//! of the lane is played between the two halves, and not counted.

use std::hint::black_box;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::task::Waker;

use slotway::gateway::lane::{ExchangeId, LaneCore, RequestFrame};
use slotway::gateway::stats::LaneStats;
use slotway::gateway::{Routes, Target};
use slotway::http::{
    HeadScanner, HeadStyle, PassedFields, encode_worker_head, framing_for, imf_fixdate, parse_head,
};
use slotway::limits::COMPLETIONS_PER_TURN;
use slotway::message::{Method, Params, RequestHead};
use slotway::route::{Lookup, Pattern, RouteTableBuilder};
use slotway::shm::codec::{
    LifecycleFlags, RequestParts, decode_response, encode_request, encoded_request_len,
    response_prefix,
};
use slotway::shm::descriptor::{Completion, Descriptor, END, Submission};
use slotway::shm::layout::{Geometry, body_offset};
use slotway::shm::region::{HubSide, LaneMemory, WorkerSide};
use slotway::shm::ring::{Consumer, Producer};
use slotway::sys::memory::SharedMemory;

use crate::paths::{SEED, part};

/// The hub's defaults.
const GEOMETRY: Geometry = match Geometry::new(512, 4096) {
    Ok(geometry) => geometry,
    Err(_) => panic!("the defaults are possible"),
};
const FIELDS: &[u8] = b"content-type: text/plain; charset=utf-8\r\n";
const BODY: &[u8] = b"Hello, World!";
const NOW_MS: u64 = 1_000;
const DEADLINE_MS: u64 = 31_000;

/// Both ends of a lane, and what a shard keeps for its connections.
pub struct HubPath {
    request: &'static [u8],
    peer: Option<SocketAddr>,
    routes: Routes,
    head: RequestHead,
    params: Params,
    core: LaneCore,
    memory: Arc<LaneMemory<HubSide>>,
    date: [u8; 29],
    response_head: Vec<u8>,
    passed: PassedFields,
    out: Vec<u8>,
    worker: WorkerEnd,
}

/// A worker that has one answer, which stands in its first slot.
struct WorkerEnd {
    memory: LaneMemory<WorkerSide>,
    completions: Producer,
    submissions: Consumer,
    head_len: usize,
}

impl HubPath {
    /// A hub with ten routes that gets this request, of which only the head is there.
    pub fn new(request: &'static str) -> HubPath {
        let len = GEOMETRY.memory_len();
        let (written, written_map) = SharedMemory::create_written_here("bench", len).unwrap();
        let (read, read_map) = SharedMemory::create_written_by_peer("bench", len).unwrap();
        let memory = LaneMemory::<HubSide>::new(written_map, read_map, GEOMETRY).unwrap();
        let memory = Arc::new(memory);
        let head = [&response_prefix(200, FIELDS.len())[..], FIELDS].concat();
        let slot = std::fs::File::from(read.try_clone_fd().unwrap());
        let at = GEOMETRY.arena_offset() as u64;
        slot.write_all_at(&head, at).unwrap();
        slot.write_all_at(BODY, at + body_offset(head.len()) as u64)
            .unwrap();
        let worker = WorkerEnd {
            memory: LaneMemory::<WorkerSide>::open(
                SharedMemory::accept_read_only(written.try_clone_fd().unwrap(), len).unwrap(),
                SharedMemory::accept_writable(read.try_clone_fd().unwrap(), len).unwrap(),
            )
            .unwrap(),
            completions: Producer::default(),
            submissions: Consumer::default(),
            head_len: head.len(),
        };
        let stats = Arc::new(LaneStats::new(GEOMETRY.slots()));
        HubPath {
            request: request.as_bytes(),
            peer: Some(([127, 0, 0, 1], 50_000).into()),
            routes: routes(),
            head: RequestHead::default(),
            params: Params::default(),
            core: LaneCore::new(memory.clone(), stats, DEADLINE_MS),
            memory,
            date: imf_fixdate(784_111_777),
            response_head: Vec::new(),
            passed: PassedFields::default(),
            out: Vec::new(),
            worker,
        }
    }

    /// One request and its answer; `counts`: the hub's two halves are counted.
    pub fn turn(&mut self, counts: bool) {
        let request = black_box(self.request);
        let id = part(counts, || self.ask(request));
        self.worker.answer();
        part(counts, || self.take_answer(id));
        assert!(self.out.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(self.out.ends_with(BODY));
        self.out.clear();
        self.worker.take_return();
    }

    /// From the bytes of a request to the ring.
    fn ask(&mut self, bytes: &[u8]) -> ExchangeId {
        let bounds = HeadScanner::default().scan(bytes).unwrap().unwrap();
        let raw = &bytes[bounds.start..bounds.end];
        parse_head(raw, &mut self.head).unwrap();
        let path = self.head.path.of(raw).unwrap();
        let at = self.head.path.start as usize;
        let lookup = self
            .routes
            .lookup(self.head.method, path, at, &mut self.params);
        let Lookup::Found { target, .. } = lookup else {
            panic!("the request has a route");
        };
        let parts = RequestParts {
            route: target.route,
            head: &self.head,
            params: &self.params,
            raw,
            peer: self.peer,
            lifecycle: LifecycleFlags::None,
        };
        let slots = GEOMETRY.slots_for(encoded_request_len(&parts));
        let (id, mut slots) = self.core.begin(slots, false).unwrap();
        let room = self.memory.bytes_mut(&mut slots);
        let frame = RequestFrame {
            head_len: encode_request(room, &parts).unwrap(),
            body_len: 0,
            total: Some(0),
            flags: END,
        };
        self.core.submit(id, slots, frame, DEADLINE_MS).unwrap();
        self.core.publish();
        id
    }

    /// From the ring to the bytes of a response.
    fn take_answer(&mut self, id: ExchangeId) {
        let turn = self.core.take_completions(COMPLETIONS_PER_TURN, NOW_MS);
        assert_eq!(turn.unwrap().taken, 2);
        let frame = self.core.poll_frame(id, Waker::noop()).unwrap().unwrap();
        self.response_head.clear();
        let head = &mut self.response_head;
        assert!(
            self.memory
                .copy_response(frame.run, 0, frame.head_len, head)
        );
        let (status, fields) = decode_response(head).unwrap();
        let (method, version) = (self.head.method, self.head.version);
        let (framing, _) = framing_for(status, method, version, frame.total);
        let style = HeadStyle {
            version,
            keep_alive: self.head.keep_alive,
            date: &self.date,
            cors: false,
        };
        let passed = &mut self.passed;
        encode_worker_head(&mut self.out, passed, status, fields, framing, &style).unwrap();
        let out = &mut self.out;
        assert!(
            self.memory
                .copy_response(frame.run, frame.body_at, frame.body_len, out)
        );
        self.core.return_frame(frame.run).unwrap();
        self.core.finish(id).unwrap();
        assert_eq!(self.core.in_use(), 0);
    }
}

impl WorkerEnd {
    fn take(&mut self) -> Descriptor {
        let ring = self.memory.inbound();
        let taken = self.submissions.pop(&ring).unwrap().expect("a submission");
        self.submissions.release(&ring);
        taken
    }

    /// Gives the request's slots back, and answers.
    fn answer(&mut self) {
        let request = self.take();
        assert_eq!(request.kind, Submission::Request as u8);
        let give_back = Descriptor {
            kind: Completion::Return as u8,
            slots: request.slots,
            first: request.first,
            ..Descriptor::default()
        };
        let answer = Descriptor {
            kind: Completion::Response as u8,
            flags: END,
            slots: 1,
            first: 0,
            exchange: request.exchange,
            generation: request.generation,
            head_len: self.head_len as u32,
            body_len: BODY.len() as u32,
            total: BODY.len() as u64,
        };
        let ring = self.memory.outbound();
        self.completions.push(&ring, give_back).unwrap();
        self.completions.push(&ring, answer).unwrap();
        self.completions.publish(&ring);
    }

    /// The hub gives the response's slot back.
    fn take_return(&mut self) {
        assert_eq!(self.take().kind, Submission::Return as u8);
    }
}

fn routes() -> Routes {
    let mut builder = RouteTableBuilder::with_seed(SEED);
    let others = (0..8).map(|i| format!("/service-{i}/{{id}}"));
    let all = others.chain(["/hello".into(), "/items/{id}".into()]);
    for (route, text) in all.enumerate() {
        let target = Target {
            worker: 0,
            route: route as u32,
            name: "bench".into(),
            max_body: None,
            stream: None,
        };
        let pattern = Pattern::parse(&text).unwrap();
        builder.insert(Method::Get, &pattern, target).unwrap();
    }
    builder.build()
}
