//! One event to many subscribers: the processor time that the streams thread takes for each delivery,
//! and beside it that of a plain loop of io_uring sends to the same sockets, which is what the kernel
//! takes for the same bytes, and of the same loop with writes from a registered buffer.
//!
//! What is reported as time is processor time of the sending thread alone; whoever reads runs on
//! another core. Each event is received by everybody before the next is published. Since the two are
//! measured one after the other, on a noisy machine the ratio printed at the end of each size says
//! more than their quotient: there they take turns.

use std::cell::Cell;
use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use io_uring::{IoUring, opcode, types};
use rustix::event::epoll;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use slotway::gateway::connections::Connections;
use slotway::gateway::mailbox::{Mailbox, mailbox};
use slotway::gateway::shard::Command;
use slotway::gateway::stream::thread::{ThreadParts, run};
use slotway::gateway::stream::{
    Client, Publication, Reading, ReplyTo, StreamConfig, Streams, Target, ToStreams, Wanted,
};
use slotway::limits::{DEFAULT_HISTORY_EVENTS, DEFAULT_QUEUE_EVENTS};
use slotway::sse::SlowPolicy;
use slotway::sys::poll;
use slotway::sys::probe::check_io_uring;
use slotway::sys::process::raise_nofile_limit;

const DATA: &str =
    r#"{"channel":"c","v":"0123456789012345678901234567890123456789012345678901234"}"#;

/// The other ends of the connections, read on a core of their own; counts events.
struct Readers {
    shared: Arc<Counter>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counter {
    events: AtomicU64,
    /// Who waits for events is called when there are so many.
    wanted: AtomicU64,
    stop: AtomicBool,
}

impl Readers {
    fn start(sockets: Vec<TcpStream>) -> Readers {
        let shared = Arc::new(Counter {
            wanted: AtomicU64::new(u64::MAX),
            ..Counter::default()
        });
        let (counter, waiting) = (shared.clone(), thread::current());
        let thread = thread::spawn(move || {
            pin(0);
            let ready = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
            for (key, socket) in sockets.iter().enumerate() {
                socket.set_nonblocking(true).unwrap();
                let key = epoll::EventData::new_u64(key as u64);
                epoll::add(&ready, socket, key, epoll::EventFlags::IN).unwrap();
            }
            let mut list = Vec::with_capacity(1024);
            let mut bytes = vec![0; 65536];
            while !counter.stop.load(Ordering::Relaxed) {
                let timeout = Some(&rustix::event::Timespec {
                    tv_sec: 0,
                    tv_nsec: 20_000_000,
                });
                epoll::wait(&ready, rustix::buffer::spare_capacity(&mut list), timeout).unwrap();
                let mut found = 0;
                for event in list.drain(..) {
                    let mut socket = &sockets[event.data.u64() as usize];
                    while let Ok(count @ 1..) = socket.read(&mut bytes) {
                        // Events are short and arrive whole, as nothing is queued behind them.
                        found += memchr::memmem::find_iter(&bytes[..count], b"\ndata: ").count();
                    }
                }
                let events =
                    counter.events.fetch_add(found as u64, Ordering::SeqCst) + found as u64;
                if events >= counter.wanted.load(Ordering::SeqCst) {
                    waiting.unpark();
                }
            }
        });
        Readers {
            shared,
            thread: Some(thread),
        }
    }

    /// Waits until so many events have arrived altogether. Sleeps meanwhile, for whoever spins takes
    /// time from the one thread or the other.
    fn wait_for(&self, events: u64) {
        let start = Instant::now();
        self.shared.wanted.store(events, Ordering::SeqCst);
        while self.shared.events.load(Ordering::SeqCst) < events {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "an event was lost"
            );
            thread::park_timeout(Duration::from_millis(100));
        }
        self.shared.wanted.store(u64::MAX, Ordering::SeqCst);
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connected pairs of sockets: the sending ends, and the receiving ones.
fn connections(count: usize) -> (Vec<OwnedFd>, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pair = |_| {
        let theirs = TcpStream::connect(address).unwrap();
        let ours = listener.accept().unwrap().0;
        ours.set_nodelay(true).unwrap();
        (OwnedFd::from(ours), theirs)
    };
    (0..count).map(pair).unzip()
}

/// The streams thread with its subscribers.
struct Fanout {
    streams: Streams,
    replies: Mailbox<Command>,
    tid: i32,
    thread: Option<JoinHandle<()>>,
}

impl Fanout {
    fn start(sockets: Vec<OwnedFd>) -> Fanout {
        let (to_streams, messages) = mailbox().unwrap();
        let (to_shard, replies) = mailbox().unwrap();
        let streams = Streams::new(to_streams, 0xfeed);
        let parts = ThreadParts {
            streams: streams.clone(),
            messages,
            shards: vec![to_shard],
            config: StreamConfig {
                history_events: DEFAULT_HISTORY_EVENTS,
                queue_events: DEFAULT_QUEUE_EVENTS,
                slow: SlowPolicy::DropNewest,
                heartbeat_ms: 3_600_000,
                write_timeout_ms: 30_000,
                sweep_interval_ms: 0,
                orphan_timeout_ms: 0,
            },
            uring: check_io_uring().unwrap(),
            ready: mpsc::channel().0,
        };
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            pin(1);
            tell.send(gettid().as_raw_nonzero().get()).unwrap();
            run(parts).unwrap();
        });
        let connections = Connections::new(sockets.len());
        for socket in sockets {
            let client = Client {
                socket,
                place: connections.enter().expect("a place for each"),
                head: b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
            };
            let reading = Reading {
                chunked: true,
                last_event_id: None,
            };
            streams.send(ToStreams::Subscribe(
                Box::new(client),
                reading,
                Wanted::default(),
            ));
        }
        Fanout {
            streams,
            replies,
            tid: told.recv().unwrap(),
            thread: Some(thread),
        }
    }

    /// Publishes an event, and waits until it is queued for everybody.
    fn publish(&self) {
        let publication = Publication {
            target: Target::Everybody("bench".into()),
            event_type: "tick".into(),
            data: DATA.into(),
            id: None,
            retry_ms: None,
        };
        let reply_to = ReplyTo {
            shard: 0,
            ticket: 0,
        };
        self.streams
            .send(ToStreams::Publish(Box::new(publication), reply_to));
        while self.replies.take().is_empty() {
            poll::readable(&[std::os::fd::AsFd::as_fd(&self.replies)], None).unwrap();
        }
    }
}

impl Drop for Fanout {
    fn drop(&mut self) {
        self.streams.send(ToStreams::Stop);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// How the plain loop hands bytes to the kernel.
#[derive(Clone, Copy)]
enum How {
    /// `IORING_OP_SEND`.
    Send,
    /// `IORING_OP_WRITE_FIXED`, from a registered buffer: the operation that the streams thread uses.
    WriteFixed,
}

/// Sends the same bytes to every socket, with no more than the ring needs, on a thread of its own as
/// the streams are.
struct PlainLoop {
    orders: mpsc::Sender<()>,
    tid: i32,
    thread: Option<JoinHandle<()>>,
}

impl PlainLoop {
    /// The sockets must stay open for as long as it lives.
    fn start(how: How, sockets: Vec<RawFd>, bytes: Vec<u8>) -> PlainLoop {
        let (orders, ordered) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            pin(1);
            tell.send(gettid().as_raw_nonzero().get()).unwrap();
            let mut builder = IoUring::builder();
            builder.setup_coop_taskrun().setup_single_issuer();
            let mut ring = builder.build(256).unwrap();
            let buffer = libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            // SAFETY: the ring goes before the bytes do.
            unsafe { ring.submitter().register_buffers(&[buffer]).unwrap() };
            while ordered.recv().is_ok() {
                send(&mut ring, how, &sockets, &bytes);
            }
        });
        PlainLoop {
            orders,
            tid: told.recv().unwrap(),
            thread: Some(thread),
        }
    }
}

impl Drop for PlainLoop {
    fn drop(&mut self) {
        self.orders = mpsc::channel().0;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn send(ring: &mut IoUring, how: How, sockets: &[RawFd], bytes: &[u8]) {
    for part in sockets.chunks(256) {
        for socket in part {
            let (fd, at, len) = (types::Fd(*socket), bytes.as_ptr(), bytes.len() as u32);
            let entry = match how {
                How::Send => opcode::Send::new(fd, at, len).build(),
                How::WriteFixed => opcode::WriteFixed::new(fd, at, len, 0).build(),
            };
            // SAFETY: the bytes outlive the operation, which has completed when this function returns.
            unsafe { ring.submission().push(&entry).unwrap() };
        }
        ring.submit_and_wait(part.len()).unwrap();
        let done = ring
            .completion()
            .filter(|c| c.result() == bytes.len() as i32);
        assert_eq!(done.count(), part.len(), "a send was cut short");
    }
}

/// Keeps the calling thread to one of the cores it may use.
fn pin(which: usize) {
    let allowed = sched_getaffinity(None).unwrap();
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|core| allowed.is_set(*core))
        .collect();
    let mut set = CpuSet::new();
    set.set(cores[which % cores.len()]);
    sched_setaffinity(None, &set).unwrap();
}

/// Processor time a thread of this process has taken, up to when it went to sleep last.
fn cpu_time(tid: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Processor time that a thread takes for `rounds` times `publish`, each received by everybody before
/// the next.
fn measure(tid: i32, rounds: u64, mut publish_and_wait: impl FnMut()) -> Duration {
    let before = cpu_time(tid);
    (0..rounds).for_each(|_| publish_and_wait());
    // It has nothing to do any more, and goes to sleep.
    thread::sleep(Duration::from_millis(2));
    cpu_time(tid) - before
}

/// Turns in which everyone of the comparison is measured once.
const TURNS: usize = 41;

fn quartiles(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let at = |part: usize| ratios[(ratios.len() - 1) * part / 4];
    format!("{:.2} ({:.2} to {:.2})", at(2), at(1), at(3))
}

fn fan_out(c: &mut Criterion) {
    raise_nofile_limit().unwrap();
    pin(0);
    let mut group = c.benchmark_group("sse_fanout");
    group.sample_size(20).warm_up_time(Duration::from_secs(1));
    for subscribers in [100, 1000, 5000] {
        group.throughput(Throughput::Elements(subscribers as u64));
        let (ours, theirs) = connections(subscribers);
        let sockets: Vec<RawFd> = ours.iter().map(AsRawFd::as_raw_fd).collect();
        let readers = Readers::start(theirs);
        let fanout = Fanout::start(ours);
        let plain = PlainLoop::start(How::Send, sockets.clone(), plain_frame());
        let fixed = PlainLoop::start(How::WriteFixed, sockets, plain_frame());
        let sent = Cell::new(0);
        let wait = || {
            sent.set(sent.get() + subscribers as u64);
            readers.wait_for(sent.get());
        };
        let stream = |rounds| {
            measure(fanout.tid, rounds, || {
                fanout.publish();
                wait();
            })
        };
        let loop_of = |plain: &PlainLoop, rounds| {
            measure(plain.tid, rounds, || {
                plain.orders.send(()).unwrap();
                wait();
            })
        };
        // A filter on the command line may want none of this.
        let mut is_wanted = false;
        group.bench_function(BenchmarkId::new("streams_thread", subscribers), |b| {
            is_wanted = true;
            b.iter_custom(stream);
        });
        group.bench_function(BenchmarkId::new("plain_send_loop", subscribers), |b| {
            b.iter_custom(|rounds| loop_of(&plain, rounds));
        });
        group.bench_function(
            BenchmarkId::new("plain_write_fixed_loop", subscribers),
            |b| {
                b.iter_custom(|rounds| loop_of(&fixed, rounds));
            },
        );
        let rounds = (20_000 / subscribers) as u64;
        let (mut of_thread, mut of_fixed) = (Vec::new(), Vec::new());
        if !is_wanted {
            continue;
        }
        for _ in 0..TURNS {
            let [thread, plain, fixed] = [
                stream(rounds),
                loop_of(&plain, rounds),
                loop_of(&fixed, rounds),
            ];
            of_thread.push(thread.as_secs_f64() / plain.as_secs_f64());
            of_fixed.push(fixed.as_secs_f64() / plain.as_secs_f64());
        }
        println!(
            "sse_fanout/{subscribers}: processor time as a multiple of plain_send_loop's, median and quartiles of {TURNS} turns: streams_thread {}, plain_write_fixed_loop {}",
            quartiles(of_thread),
            quartiles(of_fixed),
        );
    }
    group.finish();
}

/// What the plain loop sends: as long as what the streams thread does.
fn plain_frame() -> Vec<u8> {
    let text = format!(
        "b7\r\nevent: tick\nid: 0000feed-123456\ndata: {{\"source\":\"bench\",\"event_type\":\"tick\",\"data\":{DATA:?}}}\n\n\r\n"
    );
    text.into_bytes()
}

criterion_group!(benches, fan_out);
criterion_main!(benches);
