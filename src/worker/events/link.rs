//! Where publishers find the session of a worker: there may be none yet, or none for a while, and at
//! last there is none any more. It knows nothing of events.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::worker::session::{Session, lock};

/// The way from publishers to the session.
#[derive(Debug, Default)]
pub(crate) struct Link {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    session: Option<Arc<Session>>,
    stopped: bool,
    waiting: Vec<Waker>,
}

/// The worker has stopped, or will never run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped;

impl State {
    fn open_session(&self) -> Result<Option<&Arc<Session>>, Stopped> {
        if self.stopped {
            return Err(Stopped);
        }
        Ok(self.session.as_ref().filter(|s| !s.is_closed()))
    }
}

impl Link {
    /// The worker is attached.
    pub(crate) fn attach(&self, session: &Arc<Session>) {
        self.change(|state| state.session = Some(session.clone()));
    }

    /// The worker is attached no more, and may be again.
    pub(crate) fn detach(&self) {
        self.change(|state| state.session = None);
    }

    /// The session now, if there is one.
    pub(crate) fn session(&self) -> Result<Option<Arc<Session>>, Stopped> {
        Ok(lock(&self.state).open_session()?.cloned())
    }

    /// Waits for a session.
    pub(crate) fn wait(&self) -> Result<Arc<Session>, Stopped> {
        let mut state = lock(&self.state);
        loop {
            if let Some(session) = state.open_session()? {
                return Ok(session.clone());
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As [`Link::wait`], in an event loop.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Result<Arc<Session>, Stopped>> {
        let mut state = lock(&self.state);
        match state.open_session() {
            Ok(Some(session)) => Poll::Ready(Ok(session.clone())),
            Err(stopped) => Poll::Ready(Err(stopped)),
            Ok(None) => {
                if !state.waiting.iter().any(|w| w.will_wake(cx.waker())) {
                    state.waiting.push(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.changed.notify_all();
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// The worker's end of a link: when it goes, nobody waits for a session any more.
#[derive(Debug, Default)]
pub(crate) struct LinkOwner(Arc<Link>);

impl LinkOwner {
    /// The link.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.0
    }

    /// There will be no session any more.
    pub(crate) fn stop(&self) {
        self.0.change(|state| {
            state.session = None;
            state.stopped = true;
        });
    }
}

impl Drop for LinkOwner {
    fn drop(&mut self) {
        self.stop();
    }
}
