//! Events out of a lane: copied for the streams thread, no more at a time than a bound, and returned
//! to the worker when they are in the queues of their subscribers. What is beyond the bound stays in
//! the worker's memory, which is the back-pressure on it.

use std::sync::Arc;

use super::{EventFrame, EventOutcome, Lane, Violation};
use crate::gateway::stream::handover::{CopiedFrame, Handover, Progress};
use crate::limits::{EVENT_BYTES_PER_TURN, MAX_EVENT_COPIES};

/// What a copy of a frame takes beside its bytes, at most.
const COPY_COST: usize = 128;
const _: () = assert!(size_of::<CopiedFrame>() <= COPY_COST);

/// Copies that have not come back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CopiesOut {
    frames: usize,
    bytes: usize,
}

impl CopiesOut {
    /// Whether there are none.
    pub(super) fn is_none(self) -> bool {
        self.frames == 0
    }

    /// Whether a frame of this length may be copied beside them.
    fn has_room(self, len: usize) -> bool {
        self.is_none() || self.bytes + len + COPY_COST <= MAX_EVENT_COPIES
    }

    fn with(self, frame: &EventFrame) -> CopiesOut {
        CopiesOut {
            frames: self.frames + 1,
            bytes: self.bytes + frame.len + COPY_COST,
        }
    }

    fn without(self, frame: &EventFrame) -> CopiesOut {
        CopiesOut {
            frames: self.frames.saturating_sub(1),
            bytes: self.bytes.saturating_sub(frame.len + COPY_COST),
        }
    }
}

impl Lane {
    /// Copies of events on their way to the streams thread, those of namesakes on this shard with them.
    pub fn handover(&self) -> &Arc<Handover> {
        &self.handover
    }

    /// Hands over copies of frames of events, as many as a turn and what is out already leave room for.
    /// Returns whether the streams thread is to be told, and whether there is room for more in the next
    /// turn.
    pub(super) fn hand_events_over(&self) -> (bool, bool) {
        let mut core = self.core.borrow_mut();
        if core.is_dead() {
            return (false, false);
        }
        let mut copied = Vec::new();
        let mut bytes_copied = 0;
        let mut has_more = false;
        while let Some(len) = core.next_event_len() {
            if !self.copies_out.get().has_room(len) {
                break;
            }
            if bytes_copied > 0 && bytes_copied + len > EVENT_BYTES_PER_TURN {
                has_more = true;
                break;
            }
            let Some(frame) = core.take_event_frame() else {
                break;
            };
            let mut bytes = Vec::with_capacity(frame.len);
            // The frame was checked, so there is nothing that could not be copied.
            self.memory
                .copy_response(frame.run, 0, frame.len, &mut bytes);
            bytes_copied += frame.len;
            self.copies_out.set(self.copies_out.get().with(&frame));
            copied.push(CopiedFrame {
                origin: self.origin,
                frame,
                bytes,
                progress: Progress::default(),
            });
        }
        (!copied.is_empty() && self.handover.put(copied), has_more)
    }

    /// Gives a frame of events back to the worker, with what has become of them.
    pub fn return_event(&self, frame: EventFrame, outcome: EventOutcome) {
        self.copies_out.set(self.copies_out.get().without(&frame));
        let call = self.core.borrow_mut().return_event(frame.run, outcome);
        let call = self.judge(call).unwrap_or(false);
        let goes_on = self.draining.get() || self.core.borrow().next_event_len().is_some();
        if call || goes_on {
            self.wake_driver();
        }
    }

    /// The worker has sent events that are none.
    pub fn refuse_events(&self) {
        self.judge::<()>(Err(Violation::BadEvents));
    }

    /// Whether all events that were taken from the ring are in the queues of their subscribers.
    pub(super) fn has_worked_events_off(&self) -> bool {
        self.copies_out.get().is_none() && self.core.borrow().next_event_len().is_none()
    }
}
