//! Copies of frames of events on their way from a shard to the streams thread. What the lanes of
//! workers of one name have copied stands in one line, so that a worker's events do not overtake those of
//! the namesake whose place it takes. A copy is its lane's own: where one ends without an orderly end, its
//! copies are taken out at once, so a worker that comes and goes leaves none behind, however busy the
//! streams thread is.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::gateway::lane::{EventFrame, EventOutcome};

/// A lane of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The worker's index.
    pub index: usize,
    /// Which of its attaches.
    pub attach: u64,
}

/// A frame of events, and a copy of its bytes.
#[derive(Debug)]
pub struct CopiedFrame {
    /// The lane it came out of.
    pub origin: Origin,
    /// The frame, to be returned to the worker.
    pub frame: EventFrame,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// How far it was gone through.
    pub progress: Progress,
}

/// How far a frame of events was gone through.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes that are done.
    pub done: usize,
    /// Records that were in them.
    pub records: u64,
    /// What has become of these.
    pub outcome: EventOutcome,
}

/// The copies of one shard's lanes to workers of one name. The shard puts them in and sends the streams
/// thread a message that releases them, so that no event is seen before what was sent to the thread before
/// it. There is one such message under way: what is put in meanwhile waits for another, which the thread
/// sends itself.
#[derive(Debug, Default)]
pub struct Handover(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// First those that are released, then those that are announced, then those that wait.
    frames: VecDeque<CopiedFrame>,
    /// How many of them may be taken.
    released: usize,
    /// How many the message under way releases.
    announced: usize,
    is_under_way: bool,
    /// Whether the streams thread has this among what it goes through.
    is_listed: bool,
    /// Whose frame was taken last, unless that lane has ended since.
    taken: Option<Origin>,
    /// Lanes that are about to be ended: nothing more is taken from them.
    refused: Vec<Origin>,
}

/// What releasing frames has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// This is to be listed among what the thread goes through.
    pub lists: bool,
    /// Another message is to be sent.
    pub again: bool,
}

impl Handover {
    /// Adds frames. Returns whether a message that [releases](Handover::release) them is to be sent.
    pub fn put(&self, mut frames: Vec<CopiedFrame>) -> bool {
        let mut state = self.state();
        if !state.refused.is_empty() {
            frames.retain(|frame| !state.refused.contains(&frame.origin));
        }
        if frames.is_empty() {
            return false;
        }
        let count = frames.len();
        state.frames.extend(frames);
        if std::mem::replace(&mut state.is_under_way, true) {
            return false;
        }
        state.announced = count;
        true
    }

    /// The message has come: what it stands for may be taken.
    pub fn release(&self) -> Released {
        let mut state = self.state();
        state.released += state.announced;
        state.announced = state.frames.len() - state.released;
        state.is_under_way = state.announced > 0;
        Released {
            lists: state.released > 0 && !std::mem::replace(&mut state.is_listed, true),
            again: state.is_under_way,
        }
    }

    /// The next frame that may be taken. `None`: there is nothing, and this is not listed any more.
    pub fn take(&self) -> Option<CopiedFrame> {
        let mut state = self.state();
        if state.released == 0 {
            state.is_listed = false;
            return None;
        }
        state.released -= 1;
        let frame = state.frames.pop_front();
        state.taken = frame.as_ref().map(|frame| frame.origin);
        frame
    }

    /// Puts the frame back that was taken last, to be taken again.
    pub fn put_back(&self, frame: CopiedFrame) {
        let mut state = self.state();
        if state.taken.take() == Some(frame.origin) {
            state.frames.push_front(frame);
            state.released += 1;
        }
    }

    /// The lane whose frame is to be taken next.
    pub fn next_is_of(&self) -> Option<Origin> {
        let state = self.state();
        let next = state.frames.front().filter(|_| state.released > 0);
        next.map(|frame| frame.origin)
    }

    /// Where nothing is to be taken, this is not listed any more. Returns whether that is so.
    pub fn delist_if_empty(&self) -> bool {
        let mut state = self.state();
        if state.released == 0 {
            state.is_listed = false;
        }
        !state.is_listed
    }

    /// The lane whose frame was taken last has sent what are no events, and will be ended for it: nothing of
    /// it is taken any more.
    pub fn refuse(&self, origin: Origin) {
        self.take_out(origin, true);
    }

    /// A lane has ended, and puts nothing in any more: what was not taken of it is forgotten.
    pub fn forget(&self, origin: Origin) {
        self.take_out(origin, false);
    }

    fn take_out(&self, origin: Origin, refuses: bool) {
        let forgotten = {
            let mut guard = self.state();
            let state = &mut *guard;
            state.refused.retain(|refused| *refused != origin);
            // Where the lane has ended meanwhile, nobody would take it from the list again.
            if refuses && state.taken == Some(origin) {
                state.refused.push(origin);
            }
            let announced = state.released..state.released + state.announced;
            let (mut forgotten, mut kept) = (Vec::new(), VecDeque::new());
            for (place, frame) in std::mem::take(&mut state.frames).into_iter().enumerate() {
                if frame.origin != origin {
                    kept.push_back(frame);
                    continue;
                }
                forgotten.push(frame);
                if place < announced.start {
                    state.released -= 1;
                } else if place < announced.end {
                    state.announced -= 1;
                }
            }
            state.frames = kept;
            state.taken = state.taken.filter(|taken| *taken != origin);
            forgotten
        };
        // Behind the lock: nobody is to wait for it.
        drop(forgotten);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::descriptor::Run;

    const NOTHING: Released = Released {
        lists: false,
        again: false,
    };

    const OLD: Origin = Origin {
        index: 0,
        attach: 1,
    };
    const NEW: Origin = Origin {
        index: 1,
        attach: 2,
    };

    fn frame(origin: Origin, first: u32) -> CopiedFrame {
        CopiedFrame {
            origin,
            frame: EventFrame {
                run: Run { first, slots: 1 },
                len: 0,
                records: 1,
            },
            bytes: Vec::new(),
            progress: Progress::default(),
        }
    }

    fn take(handover: &Handover) -> Option<u32> {
        handover.take().map(|copied| copied.frame.run.first)
    }

    #[test]
    fn frames_are_taken_in_order_and_not_before_they_are_released() {
        let handover = Handover::default();
        assert!(handover.put(vec![frame(OLD, 1), frame(OLD, 2)]));
        assert!(!handover.put(vec![frame(OLD, 3)]), "a message is under way");
        assert_eq!(take(&handover), None);
        let (lists, again) = (true, true);
        assert_eq!(handover.release(), Released { lists, again });
        assert_eq!(handover.next_is_of(), Some(OLD));
        assert_eq!(take(&handover), Some(1));
        handover.put_back(frame(OLD, 1));
        assert_eq!(
            [(); 3].map(|()| take(&handover)),
            [Some(1), Some(2), None],
            "the third came behind the first message"
        );
        assert_eq!(handover.next_is_of(), None);
        assert!(
            !handover.put(vec![frame(OLD, 4)]),
            "the second is under way"
        );
        let (lists, again) = (true, true);
        assert_eq!(handover.release(), Released { lists, again });
        assert!(!handover.delist_if_empty());
        assert_eq!(handover.release(), NOTHING, "it is listed");
        assert_eq!([(); 3].map(|()| take(&handover)), [Some(3), Some(4), None]);
        assert!(handover.put(vec![frame(OLD, 5)]));
    }

    #[test]
    fn who_takes_a_workers_place_does_not_overtake_it() {
        let handover = Handover::default();
        assert!(handover.put(vec![frame(OLD, 1)]));
        // What comes while that is announced waits for the next message, whoever it is from.
        assert!(!handover.put(vec![frame(OLD, 2), frame(OLD, 3)]));
        assert!(!handover.put(vec![frame(NEW, 1)]));
        assert!(!handover.put(vec![frame(OLD, 4)]));
        assert!(handover.release().again);
        assert!(!handover.release().again);
        let taken = std::iter::from_fn(|| handover.take());
        let taken = taken.map(|copied| (copied.origin, copied.frame.run.first));
        assert!(taken.eq([(OLD, 1), (OLD, 2), (OLD, 3), (NEW, 1), (OLD, 4)]));
    }

    #[test]
    fn an_ended_lane_keeps_nothing_and_takes_nothing_of_others_along() {
        let handover = Handover::default();
        assert!(handover.put(vec![frame(OLD, 1), frame(NEW, 1), frame(OLD, 2)]));
        assert!(handover.release().lists);
        assert!(handover.put(vec![frame(OLD, 3), frame(NEW, 2)]));
        assert!(!handover.put(vec![frame(NEW, 3), frame(OLD, 4), frame(NEW, 4)]));
        let under_way = handover.take().expect("it was released");
        handover.forget(OLD);
        handover.put_back(under_way);
        assert_eq!([(); 2].map(|()| take(&handover)), [Some(1), None]);
        let (lists, again) = (true, true);
        assert_eq!(handover.release(), Released { lists, again });
        assert_eq!([(); 2].map(|()| take(&handover)), [Some(2), None]);
        let again = false;
        assert_eq!(handover.release(), Released { lists, again });
        handover.forget(NEW);
        assert!(handover.state().frames.is_empty());
        assert!(handover.delist_if_empty());
        assert_eq!(handover.release(), NOTHING);
        assert!(handover.put(vec![frame(NEW, 5)]), "nothing is under way");
        handover.forget(NEW);
        assert_eq!(handover.release(), NOTHING);
        assert_eq!(take(&handover), None);
    }

    #[test]
    fn nothing_more_comes_of_a_lane_that_is_refused() {
        let handover = Handover::default();
        assert!(handover.put(vec![frame(OLD, 1), frame(NEW, 1), frame(OLD, 2)]));
        assert!(handover.release().lists);
        assert_eq!(take(&handover), Some(1));
        handover.refuse(OLD);
        assert!(!handover.put(vec![frame(OLD, 3)]));
        assert!(handover.put(vec![frame(NEW, 2)]));
        handover.release();
        let left = std::iter::from_fn(|| handover.take());
        assert!(
            left.map(|f| (f.origin, f.frame.run.first))
                .eq([(NEW, 1), (NEW, 2)])
        );
        handover.forget(OLD);
        handover.refuse(OLD);
        assert!(handover.state().refused.is_empty(), "it is no more");
    }
}
