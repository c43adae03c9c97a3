//! Copies of a lane's frames of events on their way from its shard to the streams thread. They are
//! the lane's own: whoever ends it without an orderly end takes them back at once, so a worker that
//! comes and goes leaves none behind, however busy the streams thread is.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::gateway::lane::EventFrame;

/// A frame of events, and a copy of its bytes.
#[derive(Debug)]
pub struct CopiedFrame {
    /// The frame, to be returned to the worker.
    pub frame: EventFrame,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// The copies of one lane. The shard puts them in and sends the streams thread a message that releases
/// them, so that no event is seen before what was sent to the thread before it. A lane has one such
/// message under way: what is put in meanwhile waits for another, which the thread sends itself.
#[derive(Debug, Default)]
pub struct Handover(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<CopiedFrame>,
    /// How many of them may be taken.
    released: usize,
    /// How many the message under way releases; 0 where there is none.
    announced: usize,
    /// How many wait for the next.
    waiting: usize,
    /// Whether the streams thread has the lane among those it goes through.
    is_listed: bool,
    is_void: bool,
}

/// What releasing frames has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// The lane is to be listed.
    pub lists: bool,
    /// Another message is to be sent.
    pub again: bool,
}

/// What there is to be taken.
#[derive(Debug)]
pub enum Next {
    /// A frame.
    Frame(CopiedFrame),
    /// Nothing; the lane is not listed any more.
    Nothing,
    /// Nothing, and nothing will come.
    Void,
}

impl Handover {
    /// Adds frames. Returns whether a message that [releases](Handover::release) them is to be sent.
    pub fn put(&self, frames: Vec<CopiedFrame>) -> bool {
        let mut state = self.state();
        if state.is_void || frames.is_empty() {
            return false;
        }
        let count = frames.len();
        state.frames.extend(frames);
        if state.announced > 0 {
            state.waiting += count;
            return false;
        }
        state.announced = count;
        true
    }

    /// The message has come: what it stands for may be taken.
    pub fn release(&self) -> Released {
        let mut state = self.state();
        if state.is_void {
            return Released {
                lists: false,
                again: false,
            };
        }
        state.released += state.announced;
        state.announced = std::mem::take(&mut state.waiting);
        Released {
            lists: !std::mem::replace(&mut state.is_listed, true),
            again: state.announced > 0,
        }
    }

    /// The next frame that may be taken.
    pub fn take(&self) -> Next {
        let mut state = self.state();
        if state.is_void {
            return Next::Void;
        }
        if state.released > 0
            && let Some(frame) = state.frames.pop_front()
        {
            state.released -= 1;
            return Next::Frame(frame);
        }
        state.is_listed = false;
        Next::Nothing
    }

    /// Puts a frame back that is to be taken again.
    pub fn put_back(&self, frame: CopiedFrame) {
        let mut state = self.state();
        if !state.is_void {
            state.frames.push_front(frame);
            state.released += 1;
        }
    }

    /// Whether nothing will come any more.
    pub fn is_void(&self) -> bool {
        self.state().is_void
    }

    /// The lane has ended: what was not taken is forgotten.
    pub fn void(&self) {
        let forgotten = {
            let mut state = self.state();
            state.is_void = true;
            std::mem::take(&mut state.frames)
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

    fn frame(first: u32) -> CopiedFrame {
        CopiedFrame {
            frame: EventFrame {
                run: Run { first, slots: 1 },
                len: 0,
                records: 1,
            },
            bytes: Vec::new(),
        }
    }

    fn take(handover: &Handover) -> Option<u32> {
        match handover.take() {
            Next::Frame(copied) => Some(copied.frame.run.first),
            Next::Nothing | Next::Void => None,
        }
    }

    #[test]
    fn frames_are_taken_in_order_and_not_before_they_are_released() {
        let handover = Handover::default();
        assert!(handover.put(vec![frame(1), frame(2)]));
        assert!(!handover.put(vec![frame(3)]), "a message is under way");
        assert_eq!(take(&handover), None);
        let (lists, again) = (true, true);
        assert_eq!(handover.release(), Released { lists, again });
        assert_eq!(take(&handover), Some(1));
        handover.put_back(frame(1));
        assert_eq!(
            [(); 3].map(|()| take(&handover)),
            [Some(1), Some(2), None],
            "the third came behind the first message"
        );
        assert!(!handover.put(vec![frame(4)]), "the second is under way");
        let (lists, again) = (true, true);
        assert_eq!(handover.release(), Released { lists, again });
        assert_eq!(handover.release(), NOTHING);
        assert_eq!([(); 3].map(|()| take(&handover)), [Some(3), Some(4), None]);
        assert!(handover.put(vec![frame(5)]));
    }

    #[test]
    fn an_ended_lane_keeps_nothing() {
        let handover = Handover::default();
        assert!(handover.put(vec![frame(1), frame(2)]));
        assert!(handover.release().lists);
        let Next::Frame(under_way) = handover.take() else {
            panic!("two were put in");
        };
        handover.void();
        handover.put_back(under_way);
        assert!(!handover.put(vec![frame(3)]));
        assert_eq!(handover.release(), NOTHING);
        assert!(handover.state().frames.is_empty());
        assert!(matches!(handover.take(), Next::Void));
    }
}
