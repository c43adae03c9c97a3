//! The SDK against a hub that is played by hand, over real memfds and a real socket.

mod blocking;
#[cfg(feature = "tokio")]
mod event_loop;
mod events;
mod hub;
mod streams;

use std::thread::{self, JoinHandle};

use crate::shm::layout::Geometry;
use crate::worker::{Error, Worker, WorkerHandle};
use hub::{Attached, FakeHub};

/// A worker that runs on threads of its own, attached to a hub.
struct Bench {
    hub: FakeHub,
    attached: Attached,
    handle: WorkerHandle,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl Bench {
    fn start(lanes: usize, geometry: Geometry, worker: Worker) -> Bench {
        Bench::start_with(lanes, geometry, worker, Worker::run)
    }

    fn start_with(
        lanes: usize,
        geometry: Geometry,
        worker: Worker,
        run: impl FnOnce(Worker) -> Result<(), Error> + Send + 'static,
    ) -> Bench {
        let hub = FakeHub::new();
        let worker = worker.socket(hub.socket());
        let handle = worker.handle();
        let thread = thread::spawn(move || run(worker));
        let attached = hub.accept(lanes, geometry);
        Bench {
            hub,
            attached,
            handle,
            thread: Some(thread),
        }
    }

    /// What `run` has returned.
    fn result(&mut self) -> Result<(), Error> {
        self.thread
            .take()
            .expect("asked for once")
            .join()
            .expect("the worker does not panic")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Twice: a hub that is played by hand does not answer the first.
            self.handle.stop();
            self.handle.stop();
            if !thread::panicking() {
                thread
                    .join()
                    .expect("the worker does not panic")
                    .expect("stopping is no error");
            }
        }
    }
}

/// A worker that leaves the signals of the test process alone.
fn quiet(name: &str) -> Worker {
    Worker::new(name).handle_signals(false)
}

fn geometry(slots: u32) -> Geometry {
    Geometry::new(slots, 4096).unwrap()
}

/// Bytes that differ from block to block, the same for the same seed and offset.
fn noise(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    let mut word = offset / 8;
    while out.len() < len + 8 {
        let mut z = seed ^ word.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        out.extend_from_slice(&(z ^ (z >> 27)).to_le_bytes());
        word += 1;
    }
    let skip = (offset % 8) as usize;
    out.drain(..skip);
    out.truncate(len);
    out
}
