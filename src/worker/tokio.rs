//! A worker in an event loop: one task takes requests from every lane, polls each handler once on
//! the spot, and spawns the ones that have to wait.

use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ::tokio::sync::mpsc;
use ::tokio::task::{spawn_blocking, yield_now};
use ::tokio::time::{Instant, sleep_until, timeout};

use crate::control::ToHub;
use crate::shm::spin::Spin;
use crate::sys::clock::monotonic_ns;
use crate::worker::answer::Answer;
use crate::worker::attach::{Control, attach};
use crate::worker::blocking::listen;
use crate::worker::builder::Settings;
use crate::worker::course::{Backoff, Course};
use crate::worker::error::Error;
use crate::worker::lane::{Incoming, Lane};
use crate::worker::poll_guard::Polling;
use crate::worker::response::{Payload, Response};
use crate::worker::service::{Handler, Service, handle_blocking, log_panic, open};
use crate::worker::session::{CANCEL_CHECK, Session, Sleep};
use crate::worker::stop::StopListener;
use crate::worker::writer::{send_async, send_blocking, try_send};

/// Requests taken before other tasks get a turn.
const REQUESTS_PER_TURN: usize = 64;

/// Looks at the rings before other tasks get a turn, when it looks on instead of sleeping.
const LOOKS_PER_TURN: usize = 4;

/// Runs a worker until it is stopped, replaced, or cannot go on.
pub(crate) async fn run(settings: &Settings, service: &Arc<Service>) -> Result<(), Error> {
    let system = |what| move |source| Error::System { what, source };
    let stop = StopListener::new(&settings.handle, settings.handle_signals)
        .map_err(system("listen for signals"))?;
    let stop = async_fd(stop.socket())
        .map_err(system("watch for signals"))
        .map(|fd| (stop, fd))?;
    // Every handler that runs holds a sender; when the last is dropped, all have finished.
    let (running, mut finished) = mpsc::channel::<()>(1);
    let mut course = Course::default();
    let result = supervise(settings, service, &stop, &running, &mut course).await;
    // First, or a handler that waits to publish would not finish.
    settings.link.stop();
    drop(running);
    if !course.forced {
        let _ = timeout(settings.drain_timeout, finished.recv()).await;
    }
    result
}

type Stop = (StopListener, AsyncFd<OwnedFd>);

async fn supervise(
    settings: &Settings,
    service: &Arc<Service>,
    stop: &Stop,
    running: &mpsc::Sender<()>,
    course: &mut Course,
) -> Result<(), Error> {
    let mut was_attached = false;
    let started = Instant::now();
    loop {
        let mut backoff = Backoff::new();
        let (control, session) = loop {
            let (path, routes) = (settings.socket.clone(), service.clone());
            let attached = spawn_blocking(move || attach(&path, &routes, Sleep::Task)).await;
            match attached.map_err(|e| Error::System {
                what: "connect",
                source: e.into(),
            })? {
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
            if stops_within(stop, backoff.next_delay()).await {
                return Ok(());
            }
        };
        was_attached = true;
        tracing::info!(name = service.name(), socket = %settings.socket.display(), "attached");
        let attached_at = Instant::now();
        // Before anybody serves: a handler may publish at once.
        settings.link.link().attach(&session);
        let pump = ::tokio::spawn(pump(session.clone(), running.clone()));
        let watched = watch(control, stop, course, settings.drain_timeout).await;
        settings.link.link().detach();
        session.close();
        // A pump never fails; what a handler does is caught in it.
        let _ = pump.await;
        watched.map_err(|source| Error::System {
            what: "watch the attach socket",
            source,
        })?;
        if let Some(result) = course.on_end(settings.reconnect, settings.socket.clone()) {
            return result;
        }
        if attached_at.elapsed() < Duration::from_secs(1)
            && stops_within(stop, Duration::from_millis(200)).await
        {
            return Ok(());
        }
    }
}

// The successor of this constructor is unsafe, and newer than the oldest tokio that serves here. What
// it asks for holds: the descriptor is owned by the `AsyncFd`, and nobody replaces it.
#[allow(deprecated)]
fn async_fd(fd: impl AsFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd.as_fd().try_clone_to_owned()?, Interest::READABLE)
}

/// Requests to stop that have come; waits for the first.
async fn stop_requests(stop: &Stop) -> usize {
    loop {
        let Ok(mut ready) = stop.1.readable().await else {
            return 1;
        };
        let count = stop.0.take();
        if count > 0 {
            return count;
        }
        ready.clear_ready();
    }
}

async fn stops_within(stop: &Stop, time: Duration) -> bool {
    timeout(time, stop_requests(stop)).await.is_ok()
}

/// Listens to the hub until it is gone, or stopping has taken too long.
async fn watch(
    mut control: Control,
    stop: &Stop,
    course: &mut Course,
    drain_timeout: Duration,
) -> std::io::Result<()> {
    control.socket().set_nonblocking(true)?;
    let readable = async_fd(control.socket())?;
    let mut deadline = None;
    loop {
        let overdue = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        ::tokio::select! {
            ready = readable.readable() => {
                let mut ready = ready?;
                // Cleared before reading, so that what comes meanwhile is noticed.
                ready.clear_ready();
                loop {
                    let before = control.bytes_read();
                    if !listen(&mut control, course) {
                        return Ok(());
                    }
                    if control.bytes_read() == before {
                        break;
                    }
                }
            }
            count = stop_requests(stop) => for _ in 0..count {
                course.forced = course.stopping;
                if course.forced || control.send(&ToHub::Drain).is_err() {
                    course.stopping = true;
                    return Ok(());
                }
                course.stopping = true;
                deadline = Some(Instant::now() + drain_timeout);
            },
            () = overdue => {
                course.forced = true;
                tracing::warn!("requests were still unfinished after {drain_timeout:?}: leaving them");
                return Ok(());
            }
        }
    }
}

/// Takes requests from every lane until the session closes.
async fn pump(session: Arc<Session>, running: mpsc::Sender<()>) {
    let bells: Result<Vec<_>, _> = session
        .lanes()
        .iter()
        .map(|lane| async_fd(lane.own_bell()))
        .collect();
    let bells = match bells {
        Ok(bells) => bells,
        Err(error) => {
            tracing::error!(%error, "the lanes' doorbells cannot be watched: giving up this attach");
            return session.break_off();
        }
    };
    let mut start = 0;
    let mut spin = Spin::new();
    // Requests since other tasks had a turn.
    let mut taken_in_turn = 0;
    while !session.is_closed() {
        let mut taken = 0;
        while taken_in_turn < REQUESTS_PER_TURN
            && let Some((lane, request)) = session.next(&mut start)
        {
            taken += 1;
            taken_in_turn += 1;
            dispatch(&session, lane, request, &running);
        }
        if taken > 0 {
            spin.found(taken, monotonic_ns);
        }
        if taken_in_turn == REQUESTS_PER_TURN || session.has_more() {
            taken_in_turn = 0;
            yield_now().await;
        } else if spin.looks_on(monotonic_ns) {
            // The hub may be on this very processor. Other tasks have their turn more rarely, since that
            // costs more.
            let nothing_new = || !session.is_ready() && !session.has_backlog();
            (0..LOOKS_PER_TURN)
                .take_while(|_| nothing_new())
                .for_each(|_| thread::yield_now());
            taken_in_turn = 0;
            yield_now().await;
        } else if session.must_watch() {
            // The only thing that comes without a call is the end of a client.
            let _ = timeout(CANCEL_CHECK, wait(&session, &bells, true)).await;
            session.fail_cancelled();
        } else {
            wait(&session, &bells, false).await;
        }
        session.lanes().iter().for_each(Lane::end_turn);
    }
}

/// Waits until there may be something in a ring or in the backlog, or, where nobody watches yet, a client
/// whose end comes without a call.
async fn wait(session: &Session, bells: &[AsyncFd<OwnedFd>], watches: bool) {
    let sleeping = session.announce_sleep(|_, _| {});
    let mut idle = Idle {
        session,
        waker: None,
    };
    poll_fn(|cx| {
        idle.enter(cx.waker());
        let has_work = session.has_backlog() || session.is_ready() || session.has_more();
        let is_unwatched = !watches && session.awaits_clients();
        if session.is_closed() || has_work || is_unwatched {
            return Poll::Ready(());
        }
        for bell in bells {
            // The readiness is edge-triggered: every ring makes a new one, so it need not be drained.
            if let Poll::Ready(ready) = bell.poll_read_ready(cx) {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
                return Poll::Ready(());
            }
        }
        Poll::Pending
    })
    .await;
    drop(sleeping);
}

/// A waker in the list of the idle, taken out when dropped.
struct Idle<'a> {
    session: &'a Session,
    waker: Option<Waker>,
}

impl Idle<'_> {
    fn enter(&mut self, waker: &Waker) {
        self.leave();
        self.session.enter_idle(waker);
        self.waker = Some(waker.clone());
    }

    fn leave(&mut self) {
        if let Some(waker) = self.waker.take() {
            self.session.leave_idle(&waker);
        }
    }
}

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

fn dispatch(session: &Arc<Session>, lane: usize, incoming: Incoming, running: &mpsc::Sender<()>) {
    let Some((request, answer)) = open(session, lane, incoming) else {
        return;
    };
    let (number, lifecycle) = (request.route_number(), request.lifecycle());
    let service = session.service();
    let handler = service.route(number).and_then(|r| r.handler(lifecycle));
    match handler {
        Some(Handler::Constant(status)) => send(answer, Response::new(*status), running),
        Some(Handler::Async(handler)) => {
            let begun = start_caught(|| handler(request)).and_then(|mut handling| {
                let first = poll_caught(handling.as_mut(), &mut Context::from_waker(Waker::noop()));
                first.map(|polled| (polled, handling))
            });
            match begun {
                Ok((Poll::Ready(response), _)) => send(answer, response, running),
                Err(()) => send(answer, Response::internal_error(), running),
                Ok((Poll::Pending, handling)) => spawn(
                    async move {
                        let response = caught(Ok(handling))
                            .await
                            .unwrap_or_else(|()| Response::internal_error());
                        send_later(answer, response).await;
                    },
                    running,
                ),
            }
        }
        Some(Handler::Blocking(_)) => {
            let (service, running) = (service.clone(), running.clone());
            drop(spawn_blocking(move || {
                let route = service.route(number);
                if let Some(Handler::Blocking(handler)) = route.and_then(|r| r.handler(lifecycle)) {
                    handle_blocking(handler, request, answer);
                }
                drop(running);
            }));
        }
        None => {
            tracing::error!(
                number,
                ?lifecycle,
                "the hub sent a request for a route this worker does not have: answering 500"
            );
        }
    }
}

/// Sends an answer: at once, as most can be; what takes longer, in a task of its own.
fn send(mut answer: Answer, response: Response, running: &mpsc::Sender<()>) {
    if let Some(response) = try_send(&mut answer, response) {
        spawn(send_later(answer, response), running);
    }
}

async fn send_later(answer: Answer, response: Response) {
    if matches!(response.payload, Payload::Stream(..)) {
        let _ = spawn_blocking(move || send_blocking(answer, response)).await;
    } else {
        send_async(answer, response).await;
    }
}

fn spawn(handling: impl Future<Output = ()> + Send + 'static, running: &mpsc::Sender<()>) {
    let running = running.clone();
    ::tokio::spawn(async move {
        handling.await;
        drop(running);
    });
}

/// Has a handler make its future; `Err` where it panicked.
pub(crate) fn start_caught<F>(start: impl FnOnce() -> F) -> Result<F, ()> {
    let started = catch_unwind(AssertUnwindSafe(|| {
        let _polling = Polling::begin();
        start()
    }));
    started.map_err(|panic| log_panic(&*panic))
}

/// Runs a future in which panics are caught and blocking methods refuse.
pub(crate) async fn caught<F: Future>(started: Result<F, ()>) -> Result<F::Output, ()> {
    let mut future = pin!(started?);
    poll_fn(|cx| match poll_caught(future.as_mut(), cx) {
        Ok(polled) => polled.map(Ok),
        Err(()) => Poll::Ready(Err(())),
    })
    .await
}

/// Polls a future in which blocking methods refuse; `Err` where it panicked.
fn poll_caught<F: Future + ?Sized>(
    future: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Result<Poll<F::Output>, ()> {
    let polled = catch_unwind(AssertUnwindSafe(|| {
        let _polling = Polling::begin();
        future.poll(cx)
    }));
    polled.map_err(|panic| log_panic(&*panic))
}
