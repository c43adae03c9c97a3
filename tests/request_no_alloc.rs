//! A request on a connection that stays open costs the shard no allocation, and the event loop of a worker
//! one, for the future of its handler. Who falls silent gives up what serving takes. Both run in this
//! process, so that their allocations can be counted; nothing else is tested here.
// What the hub and the demo worker are built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::fs;
use std::io::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slotway::hub::{ClientLimits, HubConfig, RunningHub, StreamConfig, start};
use slotway::limits::{
    DEFAULT_HISTORY_EVENTS, DEFAULT_QUEUE_EVENTS, DEFAULT_SLOT_SIZE, DEFAULT_SLOTS,
};
use slotway::shm::layout::Geometry;
use slotway::sse::SlowPolicy;
use support::scratch::ScratchDir;
use support::{Client, GUARD, Worker};

/// Requests before counting: until every buffer has the size it keeps.
const WARM_UP: usize = 300;
/// Requests that are counted.
const REQUESTS: usize = 2000;
/// Bytes of a large body: no buffer of the shard's holds it.
const BODY: usize = 65536;

struct Counting;

/// Held by the test that counts.
static TURN: Mutex<()> = Mutex::new(());
/// The thread whose allocations count; 0 while none does.
static WATCHED: AtomicUsize = AtomicUsize::new(0);
/// Its allocations.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Bytes it has allocated less those it has freed.
static HELD: AtomicI64 = AtomicI64::new(0);
/// How many of the next ones are to be shown.
static TO_SHOW: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// This thread's id; 0 while it has not been asked for.
    static THREAD: Cell<usize> = const { Cell::new(0) };
    /// Within showing an allocation, which allocates.
    static SHOWING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is the watched thread.
fn is_watched() -> bool {
    let watched = WATCHED.load(Ordering::Acquire);
    if watched == 0 {
        return false;
    }
    if THREAD.get() == 0 {
        THREAD.set(rustix::thread::gettid().as_raw_nonzero().get() as usize);
    }
    THREAD.get() == watched && !SHOWING.get()
}

fn hold(bytes: i64) {
    if is_watched() {
        HELD.fetch_add(bytes, Ordering::AcqRel);
    }
}

fn count(layout: Layout) {
    if !is_watched() {
        return;
    }
    ALLOCATIONS.fetch_add(1, Ordering::AcqRel);
    let less = |n: usize| n.checked_sub(1);
    if TO_SHOW
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, less)
        .is_ok()
    {
        SHOWING.set(true);
        let place = Backtrace::force_capture();
        // Not by eprintln, which the harness would have to be asked for.
        let _ = writeln!(
            std::io::stderr(),
            "{} bytes on the watched thread:\n{place}",
            layout.size()
        );
        SHOWING.set(false);
    }
}

// SAFETY: every call is handed to the system allocator unchanged; counting touches only statics and
// const-initialised thread-locals without destructors. What it allocates to show an allocation is not
// counted again.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout);
        hold(layout.size() as i64);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        hold(-(layout.size() as i64));
        // SAFETY: `block` came from the system allocator with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout);
        hold(size as i64 - layout.size() as i64);
        // SAFETY: `block` came from the system allocator with this layout.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn hub(dir: &ScratchDir) -> RunningHub {
    start(HubConfig {
        tcp: vec!["127.0.0.1:0".parse().unwrap()],
        unix: Vec::new(),
        socket: Some(dir.path().join("hub.sock")),
        geometry: Geometry::new(DEFAULT_SLOTS, DEFAULT_SLOT_SIZE).unwrap(),
        shards: 1,
        timeout_ms: 30_000,
        startup_grace_ms: 0,
        secret: None,
        instrumentation: false,
        clients: ClientLimits::default(),
        max_connections: None,
        streams: StreamConfig {
            history_events: DEFAULT_HISTORY_EVENTS,
            queue_events: DEFAULT_QUEUE_EVENTS,
            slow: SlowPolicy::DropNewest,
            heartbeat_ms: 15_000,
            write_timeout_ms: 30_000,
            sweep_interval_ms: 5_000,
            orphan_timeout_ms: 60_000,
        },
        // Later than the test's end: a ping's answer is no part of a request.
        ping_interval_ms: 3_600_000,
        ping_timeout_ms: 2_000,
        remember_ms: 60_000,
        evicted_pause_ms: 1_000,
    })
    .unwrap()
}

/// A hub in this process, and the turn to count.
struct Stage {
    _turn: MutexGuard<'static, ()>,
    dir: ScratchDir,
    hub: RunningHub,
}

impl Stage {
    fn new() -> Stage {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = ScratchDir::new();
        let hub = hub(&dir);
        Stage {
            _turn: turn,
            dir,
            hub,
        }
    }

    /// A demo worker that is attached.
    fn demo(&self) -> Worker {
        let worker = Worker::spawn(&self.dir, &self.hub.socket, "demo", &[]);
        assert!(self.hub.wait_for_worker(worker.process.pid(), GUARD));
        worker
    }

    /// Nothing is watched any more, and the hub stops. The turn ends behind that.
    fn end(self) {
        WATCHED.store(0, Ordering::Release);
        let mut stopper = &self.hub.stopper().unwrap();
        stopper.write_all(b"x").unwrap();
        self.hub.wait().unwrap();
    }
}

/// The id of this process's thread of this name.
fn thread(name: &str) -> usize {
    let named = fs::read_dir("/proc/self/task").unwrap().find_map(|task| {
        let task = task.unwrap();
        let found = fs::read_to_string(task.path().join("comm")).ok()?;
        (found.trim_end() == name).then(|| task.file_name().into_string().unwrap())
    });
    let id = named.unwrap_or_else(|| panic!("there is no thread '{name}'"));
    id.parse().unwrap()
}

/// Has so many of the next allocations shown, if that is wanted.
fn show(count: usize) {
    if std::env::var_os("SLOTWAY_SHOW_ALLOCATIONS").is_some() {
        TO_SHOW.store(count, Ordering::Release);
    }
}

/// Allocations of the watched thread while this runs.
fn counted(what: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.load(Ordering::Acquire);
    what();
    ALLOCATIONS.load(Ordering::Acquire) - before
}

/// Bodies that are received into slots and sent from slots: too long for a buffer, and answered in one
/// frame.
fn echo(client: &mut Client, times: usize) {
    let body = [b'x'; BODY];
    for _ in 0..times {
        client.request("POST", "/echo", "", &body);
        let answer = client.answer();
        assert!(answer.status == 200 && answer.body == body);
    }
}

fn hello(client: &mut Client, times: usize) {
    for _ in 0..times {
        let answer = client.get("/hello");
        assert_eq!((answer.status, answer.text()), (200, "Hello, World!"));
    }
}

/// Allocations of so many requests for `/hello`, sixteen of which are under way together.
fn together(hub: &RunningHub, requests: usize) -> u64 {
    let mut clients: Vec<Client> = (0..16).map(|_| Client::tcp(hub.tcp[0])).collect();
    let round = |clients: &mut [Client]| {
        for client in &mut *clients {
            client.request("GET", "/hello", "", b"");
        }
        for client in clients {
            assert_eq!(client.answer().status, 200);
        }
    };
    (0..WARM_UP).for_each(|_| round(&mut clients));
    let rounds = requests / clients.len();
    counted(|| (0..rounds).for_each(|_| round(&mut clients)))
}

#[test]
fn a_request_costs_the_shard_no_allocation() {
    let stage = Stage::new();
    let hub = &stage.hub;
    let worker = stage.demo();
    WATCHED.store(thread("shard-0"), Ordering::Release);

    let mut client = Client::tcp(hub.tcp[0]);
    // The counter counts: a new connection has buffers of its own.
    let first = counted(|| hello(&mut client, 1));
    assert!(first > 0, "nothing was counted");
    hello(&mut client, WARM_UP);
    show(20);
    let one_by_one = counted(|| hello(&mut client, REQUESTS));
    show(0);

    echo(&mut client, WARM_UP);
    show(20);
    let large = counted(|| echo(&mut client, REQUESTS));
    show(0);

    // What the lane and its driver do where many requests are under way.
    let together = together(hub, REQUESTS);

    println!(
        "{one_by_one} allocations in {REQUESTS} requests one by one, {together} together, \
         {large} with {BODY} bytes each way"
    );
    drop((client, worker));
    stage.end();
    // A machine that stands still for a second makes a client look as if it rested, and its connection
    // gives up what it keeps.
    let few = REQUESTS as u64 / 100;
    assert!(
        one_by_one < few && together < few && large < few,
        "{one_by_one}, {together} and {large} allocations in {REQUESTS} requests, one by one, together and \
         with {BODY} bytes each way; SLOTWAY_SHOW_ALLOCATIONS=1 shows where they are"
    );
}

#[test]
fn a_request_costs_the_event_loop_of_a_worker_the_box_of_a_future() {
    let stage = Stage::new();
    let hub = &stage.hub;
    let worker = slotway::worker::Worker::new("counted")
        .socket(&hub.socket)
        .handle_signals(false)
        .reconnect(false)
        .route_async("GET", "/hello", async |_| "Hello, World!");
    let handle = worker.handle();
    let runs = std::thread::Builder::new().name("event-loop".into());
    let runs = runs.spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(worker.run_async())
    });
    let runs = runs.unwrap();
    assert!(hub.wait_for_worker(std::process::id(), GUARD));
    WATCHED.store(thread("event-loop"), Ordering::Release);

    let mut client = Client::tcp(hub.tcp[0]);
    hello(&mut client, WARM_UP);
    show(20);
    let one_by_one = counted(|| hello(&mut client, REQUESTS));
    show(0);
    let together = together(hub, REQUESTS);

    println!("{one_by_one} allocations in {REQUESTS} requests one by one, {together} together");
    drop(client);
    handle.stop();
    runs.join().unwrap().unwrap();
    stage.end();
    // The loop looks after its sleepers now and then.
    let expected = REQUESTS as u64..REQUESTS as u64 + REQUESTS as u64 / 50;
    assert!(
        expected.contains(&one_by_one) && expected.contains(&together),
        "{one_by_one} and {together} allocations in {REQUESTS} requests, one by one and together; \
         SLOTWAY_SHOW_ALLOCATIONS=1 shows where they are"
    );
}

#[test]
fn who_falls_silent_gives_up_what_serving_takes() {
    const CLIENTS: i64 = 64;
    /// With the read under way, which has room for a head.
    const FEW: i64 = 2560;
    let stage = Stage::new();
    let hub = &stage.hub;
    let worker = stage.demo();
    let mut warm = Client::tcp(hub.tcp[0]);
    hello(&mut warm, WARM_UP);
    WATCHED.store(thread("shard-0"), Ordering::Release);

    let held = || HELD.load(Ordering::Acquire);
    let before = held();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::tcp(hub.tcp[0])).collect();
    let began = Instant::now();
    let mut busy = 0;
    // Their next request came soon after an answer, so one more is expected soon. On a machine that stands
    // still meanwhile some have given up already.
    while busy < FEW + 1024 && began.elapsed() < GUARD {
        clients.iter_mut().for_each(|client| hello(client, 3));
        clients.iter_mut().for_each(|client| echo(client, 1));
        busy = (held() - before) / CLIENTS;
    }
    let began = Instant::now();
    let mut silent = busy;
    while silent > FEW && began.elapsed() < GUARD {
        std::thread::sleep(Duration::from_millis(10));
        silent = (held() - before) / CLIENTS;
    }
    println!(
        "{busy} bytes of the shard's for each that is served, {silent} for each that is silent"
    );
    // The read under way is the one that finds the next request.
    clients.iter_mut().for_each(|client| hello(client, 3));

    drop((warm, clients, worker));
    stage.end();
    assert!(
        busy >= FEW + 1024,
        "{busy} bytes are less than serving takes"
    );
    assert!(silent <= FEW, "{silent} bytes for each that is silent");
}
