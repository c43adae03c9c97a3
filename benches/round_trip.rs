//! Hub to worker process and back without HTTP: a descriptor each way through the rings of a real
//! lane, with the wakes. A plain futex ping-pong between the same processes stands beside it: the
//! floor of whatever wakes another process.
//!
//! The bench starts itself again as the worker. Pinned to one core, a round trip is two context
//! switches; on any core it includes waking an idle one, which is what the machine makes of it.

use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::atomic::Ordering;

use criterion::{Criterion, Throughput, criterion_group};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use slotway::shm::descriptor::{Completion, Descriptor, END, Submission};
use slotway::shm::doorbell::{Caller, Sleeper, should_ring, sleep_begin, sleep_end};
use slotway::shm::layout::{Geometry, Phase};
use slotway::shm::region::{HubSide, LaneMemory, Word, WorkerSide};
use slotway::shm::ring::{Consumer, Producer};
use slotway::sys::eventfd::EventFd;
use slotway::sys::fd_pass::{recv_with_fds, send_with_fds};
use slotway::sys::futex;
use slotway::sys::memory::SharedMemory;
use slotway::sys::wake_fd::WakeFd;

/// Set in the worker's environment to the name of its [`Mode`].
const WORKER: &str = "SLOTWAY_BENCH_WORKER";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A lane whose worker sleeps on its futex.
    Futex,
    /// A lane whose worker sleeps on its eventfd.
    Eventfd,
    /// No lane: each side moves a word and wakes the other.
    PingPong,
}

const MODES: [(&str, Mode); 3] = [
    ("futex", Mode::Futex),
    ("eventfd", Mode::Eventfd),
    ("futex_ping_pong", Mode::PingPong),
];

fn geometry() -> Geometry {
    Geometry::new(64, 4096).expect("the geometry is possible")
}

/// Two doorbells and the memory between them, from either end. `Wake` is the end of the worker's.
struct Lane<Side, Wake> {
    memory: LaneMemory<Side>,
    hub_eventfd: EventFd,
    worker_wake: Wake,
    producer: Producer,
    consumer: Consumer,
}

/// The hub's end.
struct Hub {
    lane: Lane<HubSide, EventFd>,
    mode: Mode,
    caller: Caller,
    sleeper: Sleeper,
    number: u32,
    worker: Child,
}

impl Hub {
    /// Makes a lane, starts the worker, and hands it the four descriptors.
    fn start(name: &str, mode: Mode) -> io::Result<Hub> {
        let geometry = geometry();
        let len = geometry.memory_len();
        let (request, written) = SharedMemory::create_written_here("bench-request", len)?;
        let (response, read) = SharedMemory::create_written_by_peer("bench-response", len)?;
        // The hub waits on its own with a plain read, so that one blocks.
        let (hub_eventfd, worker_eventfd) = (EventFd::new(false)?, EventFd::new(true)?);
        let worker_wake = WakeFd::new(&worker_eventfd)?;
        let (ours, theirs) = UnixStream::pair()?;
        let worker = Command::new(env::current_exe()?)
            .env(WORKER, name)
            .stdin(OwnedFd::from(theirs))
            .spawn()?;
        let fds = [
            request.as_fd(),
            response.as_fd(),
            hub_eventfd.as_fd(),
            worker_wake.as_fd(),
        ];
        send_with_fds(&ours, b"4", &fds)?;
        Ok(Hub {
            lane: Lane {
                memory: LaneMemory::<HubSide>::new(written, read, geometry)?,
                hub_eventfd,
                worker_wake: worker_eventfd,
                producer: Producer::default(),
                consumer: Consumer::default(),
            },
            mode,
            caller: Caller::default(),
            sleeper: Sleeper::default(),
            number: 0,
            worker,
        })
    }

    fn round_trip(&mut self) {
        self.number = self.number.wrapping_add(1).max(1);
        match self.mode {
            Mode::PingPong => self.ping_pong(),
            Mode::Futex | Mode::Eventfd => self.exchange(),
        }
    }

    fn exchange(&mut self) {
        let lane = &mut self.lane;
        let request = Descriptor {
            kind: Submission::Request as u8,
            flags: END,
            generation: self.number,
            ..Descriptor::default()
        };
        let ring = lane.memory.outbound();
        lane.producer
            .push(&ring, request)
            .expect("the ring has room");
        lane.producer.publish(&ring);
        let doorbell = lane.memory.own_word(Word::Doorbell);
        if self
            .caller
            .call(doorbell, lane.memory.peer_word(Word::Sleep))
            > 0
        {
            if self.mode == Mode::Futex {
                futex::wake(doorbell, 1).expect("the word is valid");
            } else {
                lane.worker_wake.ring().expect("the eventfd is valid");
            }
        }
        let answer = self.take_answer();
        assert_eq!(answer.generation, self.number);
    }

    fn take_answer(&mut self) -> Descriptor {
        let lane = &mut self.lane;
        let (ring, armed) = (lane.memory.inbound(), lane.memory.own_word(Word::Sleep));
        loop {
            if let Some(answer) = lane.consumer.pop(&ring).expect("the index is true") {
                lane.consumer.release(&ring);
                return answer;
            }
            self.sleeper.arm(armed);
            if !lane.consumer.refresh(&ring).expect("the index is true") {
                wait_for(&lane.hub_eventfd);
            }
            self.sleeper.disarm(armed);
        }
    }

    fn ping_pong(&mut self) {
        let (ping, pong) = (
            self.lane.memory.own_word(Word::Doorbell),
            self.lane.memory.peer_word(Word::Starved),
        );
        let before = pong.load(Ordering::Acquire);
        ping.store(self.number, Ordering::Release);
        futex::wake(ping, 1).expect("the word is valid");
        while pong.load(Ordering::Acquire) != self.number {
            futex::wait(pong, before, None).expect("the word is valid");
        }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // The worker knows no other end: it holds nothing that a kill could spoil.
        self.worker
            .kill()
            .expect("the worker is a child of this process");
        self.worker
            .wait()
            .expect("the worker is a child of this process");
    }
}

fn wait_for(eventfd: &EventFd) {
    let mut count = [0; 8];
    rustix::io::retry_on_intr(|| rustix::io::read(eventfd, &mut count))
        .expect("the eventfd is valid");
}

/// The worker process: answers until it is killed.
fn work(mode: Mode) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let socket = io::stdin();
    let (_, fds) = recv_with_fds(&socket, &mut [0; 1], 4)?;
    let [request, response, hub_eventfd, worker_wake] = <[OwnedFd; 4]>::try_from(fds)
        .map_err(|fds| io::Error::other(format!("{} descriptors came, not 4", fds.len())))?;
    let len = geometry().memory_len();
    let request = SharedMemory::accept_read_only(request, len)?;
    let response = SharedMemory::accept_writable(response, len)?;
    let mut lane = Lane {
        memory: LaneMemory::<WorkerSide>::open(request, response)?,
        hub_eventfd: hub_eventfd.into(),
        worker_wake: worker_wake.into(),
        producer: Producer::default(),
        consumer: Consumer::default(),
    };
    if mode == Mode::PingPong {
        pong(&lane.memory)
    } else {
        answer(&mut lane, mode)
    }
}

fn pong(memory: &LaneMemory<WorkerSide>) -> io::Result<()> {
    let (ping, pong) = (
        memory.peer_word(Word::Doorbell),
        memory.own_word(Word::Starved),
    );
    let mut last = 0;
    loop {
        let number = ping.load(Ordering::Acquire);
        if number == last {
            futex::wait(ping, last, None)?;
        } else {
            pong.store(number, Ordering::Release);
            futex::wake(pong, 1)?;
            last = number;
        }
    }
}

fn answer(lane: &mut Lane<WorkerSide, WakeFd>, mode: Mode) -> io::Result<()> {
    let (inbound, outbound) = (lane.memory.inbound(), lane.memory.outbound());
    let doorbell = lane.memory.peer_word(Word::Doorbell);
    let sleepers = lane.memory.own_word(Word::Sleep);
    let armed = lane.memory.peer_word(Word::Sleep);
    let last_rung = slotway::shm::atomics::AtomicU32::new(0);
    let phase = lane.memory.peer_word(Word::Phase);
    while Phase::from_u32(phase.load(Ordering::Relaxed)) == Phase::Open {
        while let Some(request) = lane.consumer.pop(&inbound).expect("the index is true") {
            lane.consumer.release(&inbound);
            let answer = Descriptor {
                kind: Completion::Response as u8,
                ..request
            };
            lane.producer
                .push(&outbound, answer)
                .expect("the ring has room");
            lane.producer.publish(&outbound);
            if should_ring(armed, &last_rung) {
                lane.hub_eventfd.ring()?;
            }
        }
        let remembered = sleep_begin(doorbell, sleepers);
        if !lane.consumer.refresh(&inbound).expect("the index is true") {
            if mode == Mode::Futex {
                futex::wait(doorbell, remembered, None)?;
            } else {
                lane.worker_wake.wait()?;
            }
        }
        sleep_end(sleepers);
    }
    Ok(())
}

fn round_trips(c: &mut Criterion) {
    let allowed = sched_getaffinity(None).expect("a process may ask where it runs");
    let mut one = CpuSet::new();
    let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
    one.set(first.expect("it runs somewhere"));
    for (place, cpus) in [("one_core", one), ("any_core", allowed)] {
        // The worker inherits the set.
        sched_setaffinity(None, &cpus).expect("the set is part of what is allowed");
        let mut group = c.benchmark_group(format!("round_trip/{place}"));
        group.throughput(Throughput::Elements(1));
        for (name, mode) in MODES {
            let mut hub = Hub::start(name, mode).expect("the worker starts");
            group.bench_function(name, |b| b.iter(|| hub.round_trip()));
        }
        group.finish();
    }
}

criterion_group!(benches, round_trips);

fn main() -> io::Result<()> {
    if let Ok(wanted) = env::var(WORKER) {
        let mode = MODES.iter().find(|(name, _)| *name == wanted);
        let (_, mode) = mode.ok_or_else(|| io::Error::other(format!("{WORKER}={wanted}")))?;
        return work(*mode);
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    Ok(())
}
