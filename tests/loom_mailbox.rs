//! Every interleaving of the mailbox, whose own source is compiled here over a model of its eventfd: no
//! message is lost, doubled or left behind a silent bell. A lost wake shows as a deadlock. Runs with
//! `RUSTFLAGS="--cfg slotway_loom" cargo test --no-default-features --release --test loom_mailbox`.
#![cfg(slotway_loom)]

// What the test does not use of it.
#[allow(dead_code)]
#[path = "../src/gateway/mailbox.rs"]
mod mailbox;

/// What the mailbox imports.
mod sys {
    pub mod eventfd {
        use std::io;
        use std::os::fd::{AsFd, BorrowedFd};

        use loom::sync::{Condvar, Mutex};

        /// The counter of the one eventfd of a model.
        #[derive(Default)]
        pub struct Counter {
            count: Mutex<u64>,
            changed: Condvar,
        }

        impl Counter {
            /// Waits until the eventfd is readable, as `poll` does: nothing is taken.
            pub fn wait(&self) {
                let mut count = self.count.lock().unwrap();
                while *count == 0 {
                    count = self.changed.wait(count).unwrap();
                }
            }
        }

        loom::lazy_static! {
            pub static ref COUNTER: Counter = Counter::default();
        }

        pub struct EventFd;

        impl EventFd {
            pub fn new(_: bool) -> io::Result<EventFd> {
                Ok(EventFd)
            }

            pub fn ring(&self) -> io::Result<()> {
                *COUNTER.count.lock().unwrap() += 1;
                COUNTER.changed.notify_all();
                Ok(())
            }

            pub fn drain(&self) -> io::Result<bool> {
                Ok(std::mem::take(&mut *COUNTER.count.lock().unwrap()) > 0)
            }
        }

        impl AsFd for EventFd {
            fn as_fd(&self) -> BorrowedFd<'_> {
                unreachable!("a model has no descriptors")
            }
        }
    }
}

use loom::model::Builder;
use loom::thread;

use sys::eventfd::COUNTER;

/// As in `loom_lane.rs`.
const PREEMPTIONS: usize = 3;

/// Threads that send this many messages each, to one that sleeps whenever its bell is silent.
fn every_message_arrives<const THREADS: usize>(sends: [u32; THREADS]) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(move || {
        let (sender, mailbox) = mailbox::mailbox().unwrap();
        let threads: Vec<_> = sends
            .into_iter()
            .enumerate()
            .map(|(thread, count)| {
                let sender = sender.clone();
                thread::spawn(move || {
                    (0..count).for_each(|n| sender.send(10 * thread as u32 + n));
                })
            })
            .collect();
        let mut taken = Vec::new();
        while taken.len() < sends.iter().sum::<u32>() as usize {
            COUNTER.wait();
            taken.extend(mailbox.take());
        }
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(mailbox.take().is_empty(), "a message came twice");
        for (thread, count) in sends.into_iter().enumerate() {
            let of_thread = taken.iter().filter(|m| **m / 10 == thread as u32);
            let numbers: Vec<_> = of_thread.map(|m| m % 10).collect();
            assert_eq!(numbers, Vec::from_iter(0..count), "in the order sent");
        }
    });
}

#[test]
fn no_message_of_one_thread_is_left_behind() {
    every_message_arrives([3]);
}

#[test]
fn no_message_of_two_threads_is_left_behind() {
    every_message_arrives([2, 1]);
}
