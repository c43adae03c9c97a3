//! Where the further frames of one request body wait for their reader. It never touches a ring.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use crate::worker::frame::Frame;
use crate::worker::session::lock;

/// The frames of one request body that have arrived and were not read yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    generation: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Frame>,
    end: Option<End>,
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Complete,
    /// The client has gone, or the hub has.
    Failed,
    /// Nobody reads any more.
    Unwanted,
}

/// The body will never be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Incomplete;

impl Inbox {
    /// The inbox of the exchange with this generation.
    pub(crate) fn new(generation: u32) -> Inbox {
        Inbox {
            generation,
            state: Mutex::default(),
        }
    }

    /// Generation of the exchange.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Adds a frame, if there is one, and notes whether it was the last.
    pub(crate) fn deliver(&self, frame: Option<Frame>, end: bool, abort: bool) {
        let mut state = lock(&self.state);
        let unwanted = match (frame, state.end) {
            (Some(frame), None) => {
                if frame.body().is_empty() {
                    Some(frame)
                } else {
                    state.frames.push_back(frame);
                    None
                }
            }
            (frame, _) => frame,
        };
        if end {
            state
                .end
                .get_or_insert(if abort { End::Failed } else { End::Complete });
        }
        let reader = state.reader.take();
        drop(state);
        // Dropped, and so returned, without the lock.
        drop(unwanted);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Whether a reader would have to wait now.
    pub(crate) fn would_wait(&self) -> bool {
        let state = lock(&self.state);
        state.frames.is_empty() && state.end.is_none()
    }

    /// Nothing more will come.
    pub(crate) fn fail(&self) {
        self.deliver(None, true, true);
    }

    /// Nobody reads any more: frames go straight back.
    pub(crate) fn abandon(&self) {
        let mut state = lock(&self.state);
        state.end = Some(End::Unwanted);
        state.reader = None;
        let frames = std::mem::take(&mut state.frames);
        drop(state);
        drop(frames);
    }

    /// The next frame; `None` at the end of the body.
    pub(crate) fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Result<Frame, Incomplete>>> {
        let mut state = lock(&self.state);
        if let Some(frame) = state.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match state.end {
            Some(End::Complete) => Poll::Ready(None),
            Some(_) => Poll::Ready(Some(Err(Incomplete))),
            None => {
                if !state
                    .reader
                    .as_ref()
                    .is_some_and(|w| w.will_wake(cx.waker()))
                {
                    state.reader = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}
