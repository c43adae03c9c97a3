//! What one attach has brought: the lanes, what was taken from them and waits for a thread, and the
//! threads that sleep. Whoever waits for anything here looks at the rings meanwhile, so that a
//! worker of a single thread cannot wait for a frame that only it could take.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::shm::doorbell::{sleep_begin, sleep_end};
use crate::shm::region::Word;
use crate::sys::clock::monotonic_ms;
use crate::sys::{futex, poll};
use crate::worker::lane::{Incoming, Lane};
use crate::worker::parker::Parker;
use crate::worker::service::Service;

/// How often a handler that waits looks whether its client is still there.
pub(crate) const CANCEL_CHECK: Duration = Duration::from_millis(500);

/// How the threads of a session sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// On the doorbell words and their own, by `futex_waitv`.
    Futex,
    /// In `poll`, on the lanes' doorbells and their own: for kernels without `futex_waitv`.
    Poll,
    /// One task of an event loop looks at the rings; threads only wait for it.
    Task,
}

/// One attach, from the lanes' arrival to their loss.
#[derive(Debug)]
pub(crate) struct Session {
    lanes: Box<[Lane]>,
    service: Arc<Service>,
    sleep: Sleep,
    closed: AtomicBool,
    /// Requests that a waiting handler took from a ring on its way to something else.
    backlog: Mutex<VecDeque<(usize, Incoming)>>,
    /// Whether there are any; written under their lock.
    backlogged: AtomicBool,
    /// Threads with nothing to do.
    idle: Mutex<Vec<Waker>>,
    /// Whether the event loop that sleeps looks for clients that have gone.
    watched: AtomicBool,
    /// When to look again for clients that have gone.
    cancel_check_ms: AtomicU64,
    /// Shut down when the lanes turn out to be of no use, so that whoever watches it notices.
    socket: UnixStream,
}

impl Session {
    /// A session over lanes that nobody has used yet.
    pub(crate) fn new(
        lanes: Vec<Lane>,
        service: Arc<Service>,
        sleep: Sleep,
        socket: UnixStream,
    ) -> Arc<Session> {
        let lanes = lanes.into_iter().map(|lane| match sleep {
            Sleep::Task => lane.in_event_loop(),
            Sleep::Futex | Sleep::Poll => lane,
        });
        Arc::new(Session {
            lanes: lanes.collect(),
            service,
            sleep,
            closed: AtomicBool::new(false),
            backlog: Mutex::default(),
            backlogged: AtomicBool::new(false),
            idle: Mutex::default(),
            watched: AtomicBool::new(false),
            cancel_check_ms: AtomicU64::new(0),
            socket,
        })
    }

    /// The lane with this index.
    pub(crate) fn lane(&self, index: usize) -> &Lane {
        &self.lanes[index]
    }

    /// All lanes.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    /// The routes and their handlers.
    pub(crate) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// How threads sleep here.
    pub(crate) fn sleep_kind(&self) -> Sleep {
        self.sleep
    }

    /// Whether the hub is gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The hub is gone, or is to be left: everybody who waits is woken and finds that out.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // Said aloud, because bytes that a handler keeps may hold the session, and so its socket,
        // open for long.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        for lane in &self.lanes {
            lane.close();
        }
        self.drop_backlog();
        let idle = std::mem::take(&mut *lock(&self.idle));
        idle.into_iter().for_each(Waker::wake);
    }

    /// The next request, from whichever lane has one. `start` is where the caller looks first, and
    /// moves on so that no lane is favoured.
    pub(crate) fn next(self: &Arc<Self>, start: &mut usize) -> Option<(usize, Incoming)> {
        if self.is_closed() {
            return None;
        }
        if let Some(waiting) = self.take_from_backlog() {
            self.call_next_thread(false);
            return Some(waiting);
        }
        for step in 0..self.lanes.len() {
            let index = (*start + step) % self.lanes.len();
            match self.lanes[index].take(self, index) {
                Ok(taken) => {
                    if let Some(request) = taken.request {
                        *start = index + 1;
                        self.call_next_thread(taken.more);
                        return Some((index, request));
                    }
                }
                Err(_) => self.break_off(),
            }
        }
        None
    }

    /// Takes everything from the rings; requests go to the backlog. Returns whether there was
    /// anything.
    pub(crate) fn pump(self: &Arc<Self>) -> bool {
        let mut any = false;
        for (index, lane) in self.lanes.iter().enumerate() {
            while !self.is_closed() {
                let Ok(taken) = lane.take(self, index) else {
                    self.break_off();
                    break;
                };
                any |= taken.any;
                let Some(request) = taken.request else { break };
                self.add_to_backlog(index, request);
            }
        }
        if self.is_closed() {
            self.drop_backlog();
        }
        self.call_event_loop();
        any
    }

    /// Polls until ready, on a thread that may block. Meanwhile the thread looks at the rings.
    ///
    /// What `poll` waits for must end when the session closes.
    pub(crate) fn block_on<T>(
        self: &Arc<Self>,
        poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> T {
        self.block_on_until(None, poll)
            .expect("without a deadline it waits for the end")
    }

    /// As [`Session::block_on`]; `None` where the deadline comes first.
    pub(crate) fn block_on_until<T>(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        let parker = self.parker();
        let waker = Waker::from(parker.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            parker.reset();
            if let Poll::Ready(value) = poll(&mut cx) {
                return Some(value);
            }
            if self.sleep != Sleep::Task && self.pump() {
                continue;
            }
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            self.sleep(
                &parker,
                Some(left.map_or(CANCEL_CHECK, |left| left.min(CANCEL_CHECK))),
            );
            self.fail_cancelled();
        }
    }

    /// Slots have come back otherwise than by the hand of the event loop: if it has to call more of those
    /// who wait for some, it is to come.
    pub(crate) fn call_event_loop(&self) {
        if self.has_more() {
            self.wake_one_idle();
        }
    }

    /// Somebody waits for slots from now on: the event loop is to look for the end of its client.
    pub(crate) fn have_watched(&self) {
        if self.sleep == Sleep::Task && !self.watched.load(Ordering::Acquire) {
            self.wake_one_idle();
        }
    }

    /// Whether the event loop must look for clients that have gone as long as it sleeps. Whoever comes to
    /// wait after this answer calls the loop if it was `false`.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn must_watch(&self) -> bool {
        // Before the look, whose locks order this and what those who wait find.
        self.watched.store(false, Ordering::Release);
        let must = self.awaits_clients();
        self.watched.store(must, Ordering::Release);
        must
    }

    /// Whether more of those who wait for slots are to be called when this turn of the event loop ends.
    pub(crate) fn has_more(&self) -> bool {
        self.lanes.iter().any(Lane::has_more)
    }

    /// Sleeps until there may be something to do.
    pub(crate) fn idle(&self, parker: &Arc<Parker>, waker: &Waker) {
        parker.reset();
        self.enter_idle(waker);
        if !self.has_backlog() {
            self.sleep(parker, None);
        }
        self.leave_idle(waker);
    }

    /// Notes that `waker` is the one to call when a request is waiting in the backlog or a ring.
    pub(crate) fn enter_idle(&self, waker: &Waker) {
        lock(&self.idle).push(waker.clone());
    }

    /// The counterpart of [`Session::enter_idle`].
    pub(crate) fn leave_idle(&self, waker: &Waker) {
        lock(&self.idle).retain(|other| !other.will_wake(waker));
    }

    /// Whether requests wait that were taken already.
    pub(crate) fn has_backlog(&self) -> bool {
        self.backlogged.load(Ordering::Acquire)
    }

    fn add_to_backlog(&self, lane: usize, request: Incoming) {
        let mut backlog = lock(&self.backlog);
        backlog.push_back((lane, request));
        self.backlogged.store(true, Ordering::Release);
        drop(backlog);
        // Its lock orders the two: who is not found idle now looks at the backlog before it sleeps.
        self.wake_one_idle();
    }

    fn take_from_backlog(&self) -> Option<(usize, Incoming)> {
        if !self.has_backlog() {
            return None;
        }
        let mut backlog = lock(&self.backlog);
        let first = backlog.pop_front();
        self.backlogged
            .store(!backlog.is_empty(), Ordering::Release);
        first
    }

    /// Whether any ring holds something.
    pub(crate) fn is_ready(&self) -> bool {
        self.lanes.iter().any(Lane::is_ready)
    }

    /// A place to sleep at for the calling thread.
    pub(crate) fn parker(&self) -> Arc<Parker> {
        if self.sleep == Sleep::Poll {
            Parker::on_eventfd()
        } else {
            Parker::on_futex()
        }
    }

    /// Wakes whoever waits for a client that has gone. Whoever waits may call this at each turn: every
    /// place of every lane is looked at, so it is done now and then only.
    pub(crate) fn fail_cancelled(&self) {
        let now_ms = monotonic_ms();
        let due_ms = self.cancel_check_ms.load(Ordering::Relaxed);
        if now_ms < due_ms {
            return;
        }
        let next_ms = now_ms + CANCEL_CHECK.as_millis() as u64 / 2;
        self.cancel_check_ms.store(next_ms, Ordering::Relaxed);
        self.lanes.iter().for_each(Lane::fail_cancelled);
    }

    /// Whether somebody waits for a client, whose end comes without a call.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(crate) fn awaits_clients(&self) -> bool {
        self.lanes.iter().any(Lane::awaits_clients)
    }

    /// Tells every lane that somebody sleeps, until the guard is dropped. The rings must be looked
    /// at once more after this. `doorbell` is given each lane's and the value to wait on, in case that
    /// it is waited for by futex.
    pub(crate) fn announce_sleep<'a>(
        &'a self,
        mut doorbell: impl FnMut(&'a AtomicU32, u32),
    ) -> Sleeping<'a> {
        for lane in &self.lanes {
            let memory = lane.memory();
            let rung = memory.peer_word(Word::Doorbell);
            doorbell(rung, sleep_begin(rung, memory.own_word(Word::Sleep)));
        }
        Sleeping { session: self }
    }

    fn sleep(&self, parker: &Parker, timeout: Option<Duration>) {
        if self.sleep == Sleep::Task {
            let (word, quiet) = parker.word();
            let _ = futex::wait(word, quiet, timeout);
            return;
        }
        let by_futex = self.sleep == Sleep::Futex;
        let mut words = Vec::with_capacity(if by_futex { self.lanes.len() + 1 } else { 0 });
        let _sleeping = self.announce_sleep(|doorbell, seen| {
            if by_futex {
                words.push((doorbell, seen));
            }
        });
        if self.is_closed() || parker.is_notified() || self.is_ready() {
            return;
        }
        // However the wait ends, the caller looks at everything again.
        if by_futex {
            words.push(parker.word());
            let _ = futex::wait_any(&words, timeout);
        } else {
            let mut bells: Vec<_> = self
                .lanes
                .iter()
                .map(|lane| lane.own_bell().as_fd())
                .collect();
            bells.extend(parker.bell().map(AsFd::as_fd));
            // Without a bell of its own, the thread cannot be called and has to look.
            let timeout = if parker.bell().is_some() {
                timeout
            } else {
                Some(Duration::from_millis(5))
            };
            let _ = poll::readable(&bells, timeout);
            for lane in &self.lanes {
                let _ = lane.own_bell().drain();
            }
        }
    }

    /// A thread has taken a request: if more wait and another thread sleeps, that one is to come.
    ///
    /// Every ring is looked at, because the call for one of them may have been spent on a thread
    /// that was called for another at the same time.
    fn call_next_thread(&self, more: bool) {
        // In an event loop one task takes all requests.
        if self.sleep == Sleep::Task || lock(&self.idle).is_empty() {
            return;
        }
        if more || self.has_backlog() || self.is_ready() {
            self.wake_one_idle();
        }
    }

    fn wake_one_idle(&self) {
        let waker = lock(&self.idle).pop();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The lanes are of no use any more: whoever watches the attach socket is told.
    pub(crate) fn break_off(&self) {
        tracing::error!("the hub's ring cannot be read as one: giving up this attach");
        self.close();
    }

    fn drop_backlog(&self) {
        // Dropping a request may take other locks, so not under this one.
        let mut backlog = lock(&self.backlog);
        let left = std::mem::take(&mut *backlog);
        self.backlogged.store(false, Ordering::Release);
        drop(backlog);
        drop(left);
    }
}

/// While this exists, the hub calls when it has something.
#[derive(Debug)]
pub(crate) struct Sleeping<'a> {
    session: &'a Session,
}

impl Drop for Sleeping<'_> {
    fn drop(&mut self) {
        for lane in &self.session.lanes {
            sleep_end(lane.memory().own_word(Word::Sleep));
        }
    }
}

/// Locks, also where a thread has panicked with the lock held: what these locks guard is consistent
/// between any two statements that can panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
