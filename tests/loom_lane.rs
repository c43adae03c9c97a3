//! Every interleaving, and every stale value the memory model allows, of the lane's rings and of its
//! protocols for sleeping and waking. Kernel objects are modelled; never a clock, never real sleep.
//!
//! A lost wake shows as a deadlock, which loom reports; a descriptor that is read while it is written
//! shows as a data race on its cell. Runs with
//! `RUSTFLAGS="--cfg slotway_loom" cargo test --no-default-features --release --test loom_lane`.
#![cfg(slotway_loom)]

use std::collections::VecDeque;

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use slotway::shm::descriptor::{Completion, Descriptor};
use slotway::shm::doorbell::{
    Caller, Sleeper, is_starved, sate, should_ring, sleep_begin, sleep_end, starve,
};
use slotway::shm::ring::{Consumer, Producer, PushError, ReadRing, RingIndices, WriteRing};

/// A ring whose entries loom watches one by one.
struct Ring {
    tail: AtomicU32,
    head: AtomicU32,
    entries: Vec<UnsafeCell<Descriptor>>,
}

// SAFETY: loom's cell is not `Sync` by itself; that the indices keep producer and consumer apart is
// what these models prove, and loom fails a model in which they do not.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(entries: u32, index: u32) -> Ring {
        Ring {
            tail: AtomicU32::new(index),
            head: AtomicU32::new(index),
            entries: (0..entries).map(|_| UnsafeCell::default()).collect(),
        }
    }

    fn entry(&self, index: u32) -> &UnsafeCell<Descriptor> {
        &self.entries[index as usize % self.entries.len()]
    }
}

impl RingIndices for Ring {
    fn tail(&self) -> &AtomicU32 {
        &self.tail
    }
    fn head(&self) -> &AtomicU32 {
        &self.head
    }
    fn entries(&self) -> u32 {
        self.entries.len() as u32
    }
}

impl WriteRing for Ring {
    fn write(&self, index: u32, descriptor: Descriptor) {
        // SAFETY: loom checks that nobody else uses the cell meanwhile.
        self.entry(index)
            .with_mut(|place| unsafe { place.write(descriptor) });
    }
}

impl ReadRing for Ring {
    fn read(&self, index: u32) -> Descriptor {
        // SAFETY: loom checks that nobody writes the cell meanwhile.
        self.entry(index).with(|place| unsafe { place.read() })
    }
}

fn numbered(number: u32) -> Descriptor {
    Descriptor {
        generation: number,
        ..Descriptor::default()
    }
}

/// A futex: comparing and going to sleep are one step, and a wake reaches only those who sleep.
#[derive(Default)]
struct Futex {
    sleepers: Mutex<(u32, VecDeque<u32>)>,
    woken: Condvar,
}

impl Futex {
    fn wait(&self, word: &AtomicU32, expected: u32) {
        let mut state = self.sleepers.lock().unwrap();
        if word.load(Ordering::Relaxed) != expected {
            return;
        }
        state.0 += 1;
        let ticket = state.0;
        state.1.push_back(ticket);
        while state.1.contains(&ticket) {
            state = self.woken.wait(state).unwrap();
        }
    }

    fn wake_one(&self) {
        let woken = self.sleepers.lock().unwrap().1.pop_front();
        if woken.is_some() {
            self.woken.notify_all();
        }
    }
}

/// An eventfd: a count that one side adds to and the other waits for and takes.
#[derive(Default)]
struct EventFd {
    count: Mutex<u32>,
    rung: Condvar,
}

impl EventFd {
    fn ring(&self) {
        *self.count.lock().unwrap() += 1;
        self.rung.notify_one();
    }

    fn read(&self) {
        let mut count = self.count.lock().unwrap();
        while *count == 0 {
            count = self.rung.wait(count).unwrap();
        }
        *count = 0;
    }
}

/// How often a model with two threads may be interrupted where it need not be. Every broken variant
/// of the protocol that was tried shows with fewer.
const TWO_THREADS: usize = 4;
/// The same for three threads, where each interruption costs far more.
const THREE_THREADS: usize = 3;

/// Explores a model. Blocking and yielding do not count as interruptions.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

// Rings.

/// Sends four descriptors through a ring of two, `batch` of them at a time, from `index` on.
fn pass_through(batch: u32, index: u32) {
    const COUNT: u32 = 4;
    check(TWO_THREADS, move || {
        let ring = Arc::new(Ring::new(2, index));
        let far = ring.clone();
        let sender = thread::spawn(move || {
            let mut producer = Producer::starting_at(index);
            for number in 0..COUNT {
                while let Err(error) = producer.push(&*far, numbered(number)) {
                    assert_eq!(error, PushError::Full);
                    thread::yield_now();
                }
                if producer.unpublished() == batch {
                    assert_eq!(producer.publish(&*far), batch);
                }
            }
        });
        let mut consumer = Consumer::starting_at(index);
        let mut expected = 0;
        while expected < COUNT {
            match consumer.pop(&*ring).expect("the indices are true") {
                Some(descriptor) => {
                    assert_eq!(descriptor, numbered(expected));
                    expected += 1;
                    if expected % batch == 0 {
                        consumer.release(&*ring);
                    }
                }
                None => thread::yield_now(),
            }
        }
        sender.join().unwrap();
        assert_eq!(consumer.pop(&*ring), Ok(None));
    });
}

#[test]
fn a_ring_loses_and_doubles_nothing() {
    pass_through(1, 0);
}

#[test]
fn a_ring_loses_and_doubles_nothing_in_batches_and_past_the_wrap_of_its_indices() {
    pass_through(1, u32::MAX - 1);
    pass_through(2, u32::MAX - 2);
}

// Hub to worker.

/// How the worker is woken.
#[derive(Clone, Copy)]
enum Wake {
    Futex,
    Eventfd,
}

/// The way from the hub to a worker: ring, doorbell, and what the worker's threads share.
struct ToWorker {
    ring: Ring,
    doorbell: AtomicU32,
    sleepers: AtomicU32,
    starved: AtomicU32,
    wake: Wake,
    futex: Futex,
    eventfd: EventFd,
    consumer: Mutex<Consumer>,
}

impl ToWorker {
    fn new(wake: Wake) -> Arc<ToWorker> {
        Arc::new(ToWorker {
            ring: Ring::new(4, 0),
            doorbell: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            starved: AtomicU32::new(0),
            wake,
            futex: Futex::default(),
            eventfd: EventFd::default(),
            consumer: Mutex::new(Consumer::default()),
        })
    }

    /// The hub's half, as at the end of a turn of its loop.
    fn call(&self, caller: &mut Caller) {
        if caller.call(&self.doorbell, &self.sleepers) > 0 {
            match self.wake {
                Wake::Futex => self.futex.wake_one(),
                Wake::Eventfd => self.eventfd.ring(),
            }
        }
    }

    /// A worker thread takes the next descriptor, and sleeps as long as there is none.
    fn take(&self) -> Descriptor {
        loop {
            if let Some(descriptor) = self.try_take() {
                return descriptor;
            }
            let remembered = sleep_begin(&self.doorbell, &self.sleepers);
            let ready = self.consumer.lock().unwrap().refresh(&self.ring);
            if !ready.expect("the index is true") {
                match self.wake {
                    Wake::Futex => self.futex.wait(&self.doorbell, remembered),
                    Wake::Eventfd => self.eventfd.read(),
                }
            }
            sleep_end(&self.sleepers);
        }
    }

    /// Who takes one and sees more wakes the next thread.
    fn try_take(&self) -> Option<Descriptor> {
        let (descriptor, more) = {
            let mut consumer = self.consumer.lock().unwrap();
            let descriptor = consumer.pop(&self.ring).expect("the index is true")?;
            consumer.release(&self.ring);
            (descriptor, consumer.seen() > 0)
        };
        if more {
            self.futex.wake_one();
        }
        Some(descriptor)
    }
}

/// One worker thread; the hub publishes and calls twice.
fn one_worker_thread_is_woken(wake: Wake) {
    check(TWO_THREADS, move || {
        let lane = ToWorker::new(wake);
        let far = lane.clone();
        let worker = thread::spawn(move || [far.take(), far.take()]);
        let (mut producer, mut caller) = (Producer::default(), Caller::default());
        for number in 1..=2 {
            producer.push(&lane.ring, numbered(number)).unwrap();
            producer.publish(&lane.ring);
            lane.call(&mut caller);
        }
        assert_eq!(worker.join().unwrap(), [numbered(1), numbered(2)]);
        assert_eq!(lane.sleepers.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn a_worker_thread_on_a_futex_misses_no_request() {
    one_worker_thread_is_woken(Wake::Futex);
}

#[test]
fn a_worker_on_an_eventfd_misses_no_request() {
    one_worker_thread_is_woken(Wake::Eventfd);
}

/// Two worker threads, each of which takes one of two descriptors and is then busy for ever.
fn two_worker_threads_are_woken(batch: u32) {
    check(THREE_THREADS, move || {
        let lane = ToWorker::new(Wake::Futex);
        let workers = [(); 2].map(|()| {
            let far = lane.clone();
            thread::spawn(move || far.take().generation)
        });
        let (mut producer, mut caller) = (Producer::default(), Caller::default());
        for number in 1..=2 {
            producer.push(&lane.ring, numbered(number)).unwrap();
            if producer.unpublished() == batch {
                producer.publish(&lane.ring);
                lane.call(&mut caller);
            }
        }
        let mut taken = workers.map(|worker| worker.join().unwrap());
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
    });
}

#[test]
fn two_worker_threads_miss_no_request() {
    two_worker_threads_are_woken(1);
}

#[test]
fn two_worker_threads_share_a_batch_published_at_once() {
    two_worker_threads_are_woken(2);
}

/// The hub calls for a return only where the worker says that it waits for slots.
#[test]
fn a_worker_that_waits_for_slots_hears_of_a_return() {
    check(TWO_THREADS, || {
        let lane = ToWorker::new(Wake::Futex);
        let far = lane.clone();
        let worker = thread::spawn(move || {
            starve(&far.starved);
            let returned = far.take();
            sate(&far.starved);
            returned
        });
        let (mut producer, mut caller) = (Producer::default(), Caller::default());
        producer.push(&lane.ring, numbered(1)).unwrap();
        producer.publish(&lane.ring);
        if is_starved(&lane.starved) {
            lane.call(&mut caller);
        }
        assert_eq!(worker.join().unwrap(), numbered(1));
    });
}

/// The same where the thread had made up its mind to sleep before slots ran out: another thread of
/// its process did, and relies on it.
#[test]
fn a_sleeping_worker_thread_hears_of_a_return_that_another_waits_for() {
    check(TWO_THREADS, || {
        let lane = ToWorker::new(Wake::Futex);
        let far = lane.clone();
        let worker = thread::spawn(move || {
            let remembered = sleep_begin(&far.doorbell, &far.sleepers);
            starve(&far.starved);
            if far.try_take().is_none() {
                far.futex.wait(&far.doorbell, remembered);
                // The kernel's comparison acquires nothing, so the first look may come too early.
                far.take();
            }
            sleep_end(&far.sleepers);
        });
        let (mut producer, mut caller) = (Producer::default(), Caller::default());
        producer.push(&lane.ring, numbered(1)).unwrap();
        producer.publish(&lane.ring);
        if is_starved(&lane.starved) {
            lane.call(&mut caller);
        }
        worker.join().unwrap();
    });
}

// Worker to hub.

/// The way from a worker to the hub.
struct ToHub {
    ring: Ring,
    armed: AtomicU32,
    starved: AtomicU32,
    eventfd: EventFd,
    producer: Mutex<Producer>,
    last_rung: AtomicU32,
    /// How often the worker rang. Not part of the protocol, so loom need not know of it.
    rings: std::sync::atomic::AtomicU32,
}

impl ToHub {
    fn new() -> Arc<ToHub> {
        Arc::new(ToHub {
            ring: Ring::new(4, 0),
            armed: AtomicU32::new(0),
            starved: AtomicU32::new(0),
            eventfd: EventFd::default(),
            producer: Mutex::new(Producer::default()),
            last_rung: AtomicU32::new(0),
            rings: std::sync::atomic::AtomicU32::new(0),
        })
    }

    fn publish(&self, descriptor: Descriptor) {
        let mut producer = self.producer.lock().unwrap();
        producer.push(&self.ring, descriptor).unwrap();
        producer.publish(&self.ring);
    }

    fn ring_if_asked(&self) {
        if should_ring(&self.armed, &self.last_rung) {
            self.rings.fetch_add(1, Ordering::Relaxed);
            self.eventfd.ring();
        }
    }

    /// A worker thread says something the hub must hear.
    fn send(&self, number: u32) {
        self.publish(numbered(number));
        self.ring_if_asked();
    }

    /// The hub takes `count` completions, sleeping as often as it must. Returns them, and how often
    /// it armed.
    fn receive(&self, count: usize) -> (Vec<u32>, u32) {
        let (mut consumer, mut sleeper) = (Consumer::default(), Sleeper::default());
        let (mut taken, mut arms) = (Vec::new(), 0);
        loop {
            while let Some(descriptor) = consumer.pop(&self.ring).expect("the index is true") {
                taken.push(descriptor.generation);
            }
            consumer.release(&self.ring);
            if taken.len() == count {
                return (taken, arms);
            }
            sleeper.arm(&self.armed);
            arms += 1;
            if !consumer.refresh(&self.ring).expect("the index is true") {
                self.eventfd.read();
            }
            sleeper.disarm(&self.armed);
        }
    }
}

/// Worker threads that send this many completions each. Returns nothing lost, and no arm number
/// answered twice.
fn the_hub_is_woken<const THREADS: usize>(preemptions: usize, sends: [u32; THREADS]) {
    check(preemptions, move || {
        let lane = ToHub::new();
        let workers: Vec<_> = sends
            .into_iter()
            .enumerate()
            .map(|(thread, count)| {
                let far = lane.clone();
                thread::spawn(move || {
                    for n in 0..count {
                        far.send(100 * thread as u32 + n);
                    }
                })
            })
            .collect();
        let (mut taken, arms) = lane.receive(sends.iter().sum::<u32>() as usize);
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap());
        let rings = lane.rings.load(Ordering::Relaxed);
        assert!(rings <= arms, "{rings} rings for {arms} arms");
        taken.sort_unstable();
        let sent = (0..THREADS as u32)
            .zip(sends)
            .flat_map(|(thread, count)| (0..count).map(move |n| 100 * thread + n));
        assert_eq!(taken, sent.collect::<Vec<_>>());
    });
}

#[test]
fn the_hub_misses_no_completion_of_one_thread() {
    the_hub_is_woken(TWO_THREADS, [2]);
}

#[test]
fn the_hub_misses_no_completion_of_two_threads() {
    the_hub_is_woken(THREE_THREADS, [1, 1]);
}

#[test]
fn a_thread_that_was_held_up_does_not_have_another_ring_twice() {
    the_hub_is_woken(3, [1, 2]);
}

// Request slots that come back.

/// A worker thread returns a frame, and rings only for a hub that waits for it.
fn give_back(lane: &ToHub) {
    lane.publish(Descriptor {
        kind: Completion::Return as u8,
        ..Descriptor::default()
    });
    if is_starved(&lane.starved) {
        lane.ring_if_asked();
    }
}

#[test]
fn a_hub_that_runs_out_of_slots_and_goes_to_sleep_hears_of_a_return() {
    check(TWO_THREADS, || {
        let lane = ToHub::new();
        let far = lane.clone();
        let worker = thread::spawn(move || give_back(&far));
        starve(&lane.starved);
        assert_eq!(lane.receive(1).0, [0]);
        sate(&lane.starved);
        worker.join().unwrap();
    });
}

/// The hub's driver sleeps already when a task of the same thread finds no slot: the task has the
/// driver look once more, and the driver goes on sleeping under the same arm number.
#[test]
fn a_hub_that_sleeps_and_then_runs_out_of_slots_hears_of_a_return() {
    check(TWO_THREADS, || {
        let lane = ToHub::new();
        let far = lane.clone();
        let worker = thread::spawn(move || give_back(&far));
        let (mut consumer, mut sleeper) = (Consumer::default(), Sleeper::default());
        sleeper.arm(&lane.armed);
        starve(&lane.starved);
        if !consumer.refresh(&lane.ring).expect("the index is true") {
            lane.eventfd.read();
        }
        let returned = consumer.pop(&lane.ring).expect("the index is true");
        assert!(returned.is_some(), "the ring was for the return");
        worker.join().unwrap();
    });
}
