//! One event to many subscribers: the processor time that the streams thread takes for each delivery,
//! and beside it that of a plain loop of io_uring sends to as many sockets, which is what the kernel
//! takes for the same bytes.
//!
//! What is reported as time is processor time of the sending thread alone; whoever reads runs on
//! another core. Each event is received by everybody before the next is published.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use io_uring::{IoUring, opcode, types};
use rustix::event::epoll;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
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
    events: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Readers {
    fn start(sockets: Vec<TcpStream>) -> Readers {
        let (events, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counter, stopped) = (events.clone(), stop.clone());
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
            while !stopped.load(Ordering::Relaxed) {
                let timeout = Some(&rustix::event::Timespec {
                    tv_sec: 0,
                    tv_nsec: 20_000_000,
                });
                epoll::wait(&ready, rustix::buffer::spare_capacity(&mut list), timeout).unwrap();
                for event in list.drain(..) {
                    let mut socket = &sockets[event.data.u64() as usize];
                    while let Ok(count @ 1..) = socket.read(&mut bytes) {
                        // Events are short and arrive whole, as nothing is queued behind them.
                        let found = memchr::memmem::find_iter(&bytes[..count], b"\ndata: ").count();
                        counter.fetch_add(found as u64, Ordering::Relaxed);
                    }
                }
            }
        });
        Readers {
            events,
            stop,
            thread: Some(thread),
        }
    }

    /// Waits until so many events have arrived altogether.
    fn wait_for(&self, events: u64) {
        let start = Instant::now();
        while self.events.load(Ordering::Relaxed) < events {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "an event was lost"
            );
            thread::yield_now();
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
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
                sweep_interval_ms: 0,
                orphan_timeout_ms: 0,
            },
            uring: check_io_uring().unwrap(),
        };
        let (tell, told) = std::sync::mpsc::channel();
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

/// Sends the same bytes to every socket, with no more than the ring needs.
struct PlainLoop<'a> {
    ring: IoUring,
    sockets: &'a [OwnedFd],
}

impl PlainLoop<'_> {
    fn new(sockets: &[OwnedFd]) -> PlainLoop<'_> {
        let mut builder = IoUring::builder();
        builder.setup_coop_taskrun().setup_single_issuer();
        PlainLoop {
            ring: builder.build(256).unwrap(),
            sockets,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        for part in self.sockets.chunks(256) {
            for socket in part {
                let send = opcode::Send::new(
                    types::Fd(socket.as_raw_fd()),
                    bytes.as_ptr(),
                    bytes.len() as u32,
                );
                // SAFETY: sockets and bytes outlive the operation, which has completed when this
                // function returns.
                unsafe { self.ring.submission().push(&send.build()).unwrap() };
            }
            self.ring.submit_and_wait(part.len()).unwrap();
            let done = self
                .ring
                .completion()
                .filter(|c| c.result() == bytes.len() as i32);
            assert_eq!(done.count(), part.len(), "a send was cut short");
        }
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

/// Processor time the calling thread has taken.
fn own_cpu_time() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap()
}

/// Processor time a thread of this process has taken, up to when it went to sleep last.
fn cpu_time(tid: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn fan_out(c: &mut Criterion) {
    raise_nofile_limit().unwrap();
    let mut group = c.benchmark_group("sse_fanout");
    group.sample_size(20).warm_up_time(Duration::from_secs(1));
    for subscribers in [100, 1000, 5000] {
        group.throughput(Throughput::Elements(subscribers as u64));
        let (ours, theirs) = connections(subscribers);
        let readers = Readers::start(theirs);
        let fanout = Fanout::start(ours);
        let mut sent = 0;
        group.bench_function(BenchmarkId::new("streams_thread", subscribers), |b| {
            b.iter_custom(|iters| {
                let before = cpu_time(fanout.tid);
                for _ in 0..iters {
                    fanout.publish();
                    sent += subscribers as u64;
                    readers.wait_for(sent);
                }
                // It has nothing to do any more, and goes to sleep.
                thread::sleep(Duration::from_millis(2));
                cpu_time(fanout.tid) - before
            });
        });
        drop((fanout, readers));

        let (ours, theirs) = connections(subscribers);
        let readers = Readers::start(theirs);
        let mut sent = 0;
        let text = format!(
            "b7\r\nevent: tick\nid: 0000feed-123456\ndata: {{\"source\":\"bench\",\"event_type\":\"tick\",\"data\":{DATA:?}}}\n\n\r\n"
        );
        group.bench_function(BenchmarkId::new("plain_send_loop", subscribers), |b| {
            b.iter_custom(|iters| {
                let (bytes, readers, sent, ours) = (text.as_bytes(), &readers, &mut sent, &ours);
                // On a thread of its own, as the streams are.
                let sending = move || {
                    pin(1);
                    let mut plain = PlainLoop::new(ours);
                    let mut spent = Duration::ZERO;
                    for _ in 0..iters {
                        let before = own_cpu_time();
                        plain.send(bytes);
                        spent += own_cpu_time() - before;
                        *sent += subscribers as u64;
                        readers.wait_for(*sent);
                    }
                    spent
                };
                thread::scope(|scope| scope.spawn(sending).join().unwrap())
            });
        });
        drop((ours, readers));
    }
    group.finish();
}

criterion_group!(benches, fan_out);
criterion_main!(benches);
