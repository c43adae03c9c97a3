//! How a running worker is asked to stop: by a signal or by a [`WorkerHandle`].

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use crate::sys::signal::SignalListener;
use crate::worker::session::lock;

/// Asks a worker to stop, from any thread.
#[derive(Clone, Debug, Default)]
pub struct WorkerHandle {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    requests: u32,
    /// Present while the worker runs.
    bell: Option<UnixStream>,
}

impl WorkerHandle {
    /// Has the worker drain: it takes no further request, finishes what it has, and returns from
    /// `run`. Called a second time, it returns without finishing. May be called before `run`.
    pub fn stop(&self) {
        let mut state = lock(&self.state);
        state.requests += 1;
        if let Some(bell) = &mut state.bell {
            // The pipe is full only if it was called very often, and so has been heard.
            let _ = bell.write(&[0]);
        }
    }
}

/// The listening end, while a worker runs.
#[derive(Debug)]
pub(crate) struct StopListener {
    bell: UnixStream,
    handle: WorkerHandle,
    /// Dropped with the listener, which puts the program's own handling of signals back.
    _signals: Option<SignalListener>,
}

impl StopListener {
    pub(crate) fn new(handle: &WorkerHandle, with_signals: bool) -> io::Result<StopListener> {
        let (bell, rings) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        rings.set_nonblocking(true)?;
        let signals = match with_signals {
            true => Some(SignalListener::new(rings.try_clone()?.into())?),
            false => None,
        };
        let listener = StopListener {
            bell,
            handle: handle.clone(),
            _signals: signals,
        };
        let mut state = lock(&handle.state);
        for _ in 0..state.requests {
            (&rings).write_all(&[0])?;
        }
        state.bell = Some(rings);
        drop(state);
        Ok(listener)
    }

    /// The descriptor that becomes readable when there is a request.
    pub(crate) fn socket(&self) -> &UnixStream {
        &self.bell
    }

    /// Requests that have come since the last look.
    pub(crate) fn take(&self) -> usize {
        let mut buffer = [0; 64];
        (&self.bell).read(&mut buffer).unwrap_or(0)
    }
}

impl Drop for StopListener {
    fn drop(&mut self) {
        let mut state = lock(&self.handle.state);
        state.bell = None;
        state.requests = 0;
    }
}
