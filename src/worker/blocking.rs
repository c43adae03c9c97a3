//! A worker on threads: some serve, and the one that called `run` watches the hub.

use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use crate::control::ToHub;
use crate::sys::{futex, poll};
use crate::worker::attach::{Control, attach};
use crate::worker::builder::Settings;
use crate::worker::course::{Backoff, Course};
use crate::worker::error::Error;
use crate::worker::lane::Incoming;
use crate::worker::service::{Service, serve_blocking};
use crate::worker::session::{Session, Sleep, lock};
use crate::worker::stop::StopListener;
use crate::worker::uploads::Uploads;

/// Runs a worker until it is stopped, replaced, or cannot go on.
pub(crate) fn run(settings: &Settings, service: &Arc<Service>) -> Result<(), Error> {
    // Asked once: a kernel does not learn it later.
    let sleep = if futex::has_wait_any() {
        Sleep::Futex
    } else {
        Sleep::Poll
    };
    run_with(settings, service, sleep)
}

/// As [`run`], with the way to sleep chosen.
pub(crate) fn run_with(
    settings: &Settings,
    service: &Arc<Service>,
    sleep: Sleep,
) -> Result<(), Error> {
    let system = |what| move |source| Error::System { what, source };
    let stop = StopListener::new(&settings.handle, settings.handle_signals)
        .map_err(system("listen for signals"))?;
    let pool = Pool::start(settings.threads, service.name())
        .map_err(system("start the worker's threads"))?;
    let mut course = Course::default();
    let result = supervise(settings, service, sleep, &stop, &pool, &mut course);
    // First, or a handler that waits to publish would keep its thread.
    settings.link.stop();
    pool.stop(if course.forced {
        Duration::ZERO
    } else {
        settings.drain_timeout
    });
    result
}

fn supervise(
    settings: &Settings,
    service: &Arc<Service>,
    sleep: Sleep,
    stop: &StopListener,
    pool: &Pool,
    course: &mut Course,
) -> Result<(), Error> {
    let mut was_attached = false;
    let started = Instant::now();
    loop {
        let mut backoff = Backoff::new();
        let (control, session) = loop {
            match attach(&settings.socket, service, sleep) {
                Ok(attached) => break attached,
                Err(error @ Error::Refused(_)) => return Err(error),
                Err(error) => {
                    let is_patient = settings.reconnect
                        && (was_attached || started.elapsed() < settings.patience);
                    if !is_patient {
                        return Err(error);
                    }
                    backoff.log(&error);
                }
            }
            if wait_for_stop(stop, backoff.next_delay()) {
                return Ok(());
            }
        };
        was_attached = true;
        tracing::info!(name = service.name(), socket = %settings.socket.display(), "attached");
        let attached_at = Instant::now();
        // Before anybody serves: a handler may publish at once.
        settings.link.link().attach(&session);
        pool.serve(Some(session.clone()));
        watch(control, stop, course, settings.drain_timeout);
        settings.link.link().detach();
        pool.serve(None);
        session.close();
        if let Some(result) = course.on_end(settings.reconnect, settings.socket.clone()) {
            return result;
        }
        // A hub that accepts and drops the worker at once must not be asked without pause.
        if attached_at.elapsed() < Duration::from_secs(1)
            && wait_for_stop(stop, Duration::from_millis(200))
        {
            return Ok(());
        }
    }
}

/// Whether the worker was asked to stop within this time.
fn wait_for_stop(stop: &StopListener, time: Duration) -> bool {
    let ready = poll::readable(&[stop.socket().as_fd()], Some(time));
    ready.is_ok_and(|ready| ready[0]) && stop.take() > 0
}

/// Listens to the hub until it is gone, or stopping has taken too long.
fn watch(mut control: Control, stop: &StopListener, course: &mut Course, drain_timeout: Duration) {
    let mut deadline = None;
    loop {
        let timeout = deadline.map(|d: Instant| d.saturating_duration_since(Instant::now()));
        if timeout.is_some_and(|t| t.is_zero()) {
            course.forced = true;
            tracing::warn!("requests were still unfinished after {drain_timeout:?}: leaving them");
            return;
        }
        let fds = [control.socket().as_fd(), stop.socket().as_fd()];
        let Ok(ready) = poll::readable(&fds, timeout) else {
            return;
        };
        if ready[1] {
            for _ in 0..stop.take() {
                course.forced = course.stopping;
                if course.forced || control.send(&ToHub::Drain).is_err() {
                    course.stopping = true;
                    return;
                }
                course.stopping = true;
                deadline = Some(Instant::now() + drain_timeout);
            }
        }
        if ready[0] && !listen(&mut control, course) {
            return;
        }
    }
}

/// Reads what the hub has said. `false`: it is gone.
pub(crate) fn listen(control: &mut Control, course: &mut Course) -> bool {
    match control.receive() {
        Ok(true) => {}
        Ok(false) => return false,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
        Err(error) => {
            tracing::debug!(%error, "the attach socket has failed");
            return false;
        }
    }
    loop {
        match control.next_message() {
            Ok(Some(message)) => course.on_message(message),
            Ok(None) => return true,
            Err(error) => {
                tracing::error!(%error, "the attach socket cannot be understood");
                return false;
            }
        }
    }
}

/// The threads that serve.
struct Pool {
    shared: Arc<PoolShared>,
}

struct PoolShared {
    state: Mutex<PoolState>,
    changed: Condvar,
    uploads: Uploads<Task>,
}

/// A request: whose it is, from which of its lanes, and the request.
type Task = (Arc<Session>, usize, Incoming);

struct PoolState {
    session: Option<Arc<Session>>,
    stop: bool,
    alive: usize,
}

impl Pool {
    fn start(threads: usize, name: &str) -> std::io::Result<Pool> {
        let state = PoolState {
            session: None,
            stop: false,
            alive: 0,
        };
        let shared = Arc::new(PoolShared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            uploads: Uploads::new(threads),
        });
        let pool = Pool { shared };
        for number in 0..threads {
            let shared = pool.shared.clone();
            lock(&shared.state).alive += 1;
            let builder = thread::Builder::new().name(format!("{name}-{number}"));
            let spawned = builder.spawn(move || {
                while let Some(session) = shared.next_session() {
                    serve(&session, &shared.uploads, number);
                }
                lock(&shared.state).alive -= 1;
                shared.changed.notify_all();
            });
            if let Err(error) = spawned {
                lock(&pool.shared.state).alive -= 1;
                pool.stop(Duration::ZERO);
                return Err(error);
            }
        }
        Ok(pool)
    }

    /// Has idle threads serve this session. A thread whose handler takes long follows later.
    fn serve(&self, session: Option<Arc<Session>>) {
        lock(&self.shared.state).session = session;
        self.shared.changed.notify_all();
    }

    /// Waits for the threads to finish, but no longer than this.
    fn stop(&self, patience: Duration) {
        let mut state = lock(&self.shared.state);
        state.stop = true;
        self.shared.changed.notify_all();
        let deadline = Instant::now() + patience;
        while state.alive > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
    }
}

impl PoolShared {
    fn next_session(&self) -> Option<Arc<Session>> {
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                return None;
            }
            if let Some(session) = state.session.clone().filter(|s| !s.is_closed()) {
                return Some(session);
            }
            state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
    }
}

fn serve(session: &Arc<Session>, uploads: &Uploads<Task>, number: usize) {
    let parker = session.parker();
    let waker = Waker::from(parker.clone());
    let mut start = number;
    while !session.is_closed() {
        match session.next(&mut start) {
            Some((lane, request)) if request.inbox.is_some() => {
                let mut upload = uploads.admit((session.clone(), lane, request));
                while let Some((session, lane, request)) = upload {
                    handle(&session, lane, request);
                    upload = uploads.next();
                }
            }
            Some((lane, request)) => handle(session, lane, request),
            None => session.idle(&parker, &waker),
        }
    }
}

/// What panics beyond the handler itself is something of its that is dropped.
fn handle(session: &Arc<Session>, lane: usize, request: Incoming) {
    let _ = catch_unwind(AssertUnwindSafe(|| serve_blocking(session, lane, request)));
}
