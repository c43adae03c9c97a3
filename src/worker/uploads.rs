//! How many of a worker's threads may be with requests whose bodies are still arriving. A handler reads
//! at its client's pace, so without a bound a few slow clients would have every thread, and whoever
//! only asks for a page would wait for them.

use std::collections::VecDeque;
use std::sync::Mutex;

use crate::worker::session::lock;

/// One thread in so many is kept from uploads.
const KEPT_PART: usize = 4;

/// The uploads that threads are with, and those in line behind them. Most of the time there are none.
#[derive(Debug)]
pub(crate) struct Uploads<T> {
    most: usize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    served: usize,
    line: VecDeque<T>,
}

impl<T> Uploads<T> {
    /// For a worker with this many threads. A single thread can keep itself from nothing.
    pub(crate) fn new(threads: usize) -> Uploads<T> {
        let kept = threads.div_ceil(KEPT_PART);
        Uploads {
            most: threads.saturating_sub(kept).max(1),
            state: Mutex::new(State {
                served: 0,
                line: VecDeque::new(),
            }),
        }
    }

    /// Gives an upload back to the thread that is to serve it now, or puts it in line. Who serves one
    /// goes on with [`Uploads::next`].
    pub(crate) fn admit(&self, upload: T) -> Option<T> {
        let mut state = lock(&self.state);
        if state.served < self.most {
            state.served += 1;
            return Some(upload);
        }
        state.line.push_back(upload);
        None
    }

    /// An upload has been served: the next in line, for the same thread.
    pub(crate) fn next(&self) -> Option<T> {
        let mut state = lock(&self.state);
        let next = state.line.pop_front();
        state.served -= usize::from(next.is_none());
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_in_four_is_kept_from_uploads() {
        for (threads, most) in [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (8, 6), (16, 12)] {
            let uploads = Uploads::new(threads);
            let admitted = (0..threads + 3).filter(|n| uploads.admit(*n).is_some());
            assert_eq!(admitted.count(), most, "{threads} threads");
        }
    }

    #[test]
    fn who_waits_is_served_in_order() {
        let uploads = Uploads::new(2);
        assert_eq!(uploads.admit('a'), Some('a'));
        assert_eq!(uploads.admit('b'), None);
        assert_eq!(uploads.admit('c'), None);
        assert_eq!(uploads.next(), Some('b'));
        assert_eq!(uploads.admit('d'), None, "b has the place");
        assert_eq!(uploads.next(), Some('c'));
        assert_eq!(uploads.next(), Some('d'));
        assert_eq!(uploads.next(), None);
        assert_eq!(uploads.admit('e'), Some('e'));
    }
}
