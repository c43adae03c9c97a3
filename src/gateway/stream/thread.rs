//! The streams thread: its runtime, its one task, and the order of its work. Messages are taken, what
//! they queue is written, and only then are more taken: that is how publishing too fast slows down
//! the publisher, and not whoever listens.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Sleep, sleep};

use crate::gateway::mailbox::{Mailbox, Sender};
use crate::gateway::shard::Command;
use crate::gateway::stream::fanout::{Fanout, LOOK_AHEAD};
use crate::gateway::stream::turns::Turns;
use crate::gateway::stream::writer::{Buffers, Outcome, Writer};
use crate::gateway::stream::{Published, ReplyTo, StreamConfig, Streams, ToStreams};
use crate::limits::{MAX_EVENT_TEXT, MAX_QUEUE_BYTES, RING_MEMORY, STOP_EVENTS_MS};
use crate::sse::Frame;
use crate::sys::clock::monotonic_ms;
use crate::sys::probe::UringSupport;
use crate::sys::process::memlock_limit;

/// Events that may be queued before what is queued is written; fewer where queues are shorter.
const EVENTS_PER_ROUND: usize = 16;
/// Events that may be taken before the runtime looks at sockets and timers.
const EVENTS_PER_TURN: usize = 256;
/// Bytes of events after which no further one is queued before what is queued is written. A queue
/// takes this and the largest of all events.
const BYTES_PER_ROUND: usize = MAX_QUEUE_BYTES / 4;
const _: () = assert!(BYTES_PER_ROUND + MAX_EVENT_TEXT <= MAX_QUEUE_BYTES);
/// Entries of the ring's submission queue: every write that can be under way.
const RING_ENTRIES: u32 = 512;
/// Time between two looks whether who is waited for still reads.
const PATIENCE: Duration = Duration::from_millis(50);
/// Time between two looks at what is due.
const TICK: Duration = Duration::from_secs(1);

/// What the thread is started with.
pub struct ThreadParts {
    /// Its own address.
    pub streams: Streams,
    /// Where messages come from.
    pub messages: Mailbox<ToStreams>,
    /// The way to every shard.
    pub shards: Vec<Sender<Command>>,
    /// How to serve.
    pub config: StreamConfig,
    /// Which ring flags the kernel takes.
    pub uring: UringSupport,
    /// Where it says that it has all it needs; dropped without a word where it has not.
    pub ready: mpsc::Sender<()>,
}

/// Runs the thread until it is told to stop.
///
/// # Errors
/// The ring cannot be set up.
pub fn run(parts: ThreadParts) -> io::Result<()> {
    let mut uring = tokio_uring::uring_builder();
    if parts.uring.coop_taskrun {
        uring.setup_coop_taskrun();
    }
    if parts.uring.single_issuer {
        uring.setup_single_issuer();
    }
    let mut builder = tokio_uring::builder();
    builder.entries(RING_ENTRIES).uring_builder(&uring);
    let runtime = tokio_uring::Runtime::new(&builder)?;
    // The one task yields when it has nothing to do, so it needs no budget.
    runtime.block_on(tokio::task::unconstrained(serve(parts)))
}

async fn serve(parts: ThreadParts) -> io::Result<()> {
    let Buffers {
        buffers,
        unregistered,
    } = Buffers::new(
        memlock_limit().soft,
        parts.shards.len() as u64 * RING_MEMORY,
    );
    // Before it is said aloud: who has heard of it may ask.
    let why = unregistered.as_ref().map(ToString::to_string);
    parts.streams.stats.set_unregistered(why);
    match &unregistered {
        None => tracing::info!(
            buffers = buffers.len(),
            "streams write from registered buffers"
        ),
        Some(error) => tracing::warn!(
            "streams write from plain buffers: none can be registered with the kernel ({error}). Raise `ulimit -l`, or LimitMEMLOCK= of the service, to 16 MiB"
        ),
    }
    let bell = bell(&parts.messages)?;
    // Nothing is missing any more. Nobody may be interested.
    let _ = parts.ready.send(());
    drop(parts.ready);
    let events_per_round = EVENTS_PER_ROUND.min(parts.config.queue_events);
    let thread = Thread {
        writer: Writer::new(buffers),
        fanout: Fanout::new(parts.streams, parts.config, parts.shards, monotonic_ms()),
        messages: parts.messages,
        inbox: VecDeque::new(),
        turns: Turns::default(),
        events_per_round,
        events_this_round: 0,
        events_this_turn: 0,
        next_sweep_ms: 0,
        heartbeat: Frame::comment("keep-alive"),
        stop_by_ms: None,
        stopping: false,
    };
    thread.run(bell).await;
    Ok(())
}

// The successor of this constructor is unsafe, and newer than the oldest tokio that serves here. What
// it asks for holds: the descriptor is owned by the `AsyncFd`, and nobody replaces it.
#[allow(deprecated)]
fn bell(messages: &Mailbox<ToStreams>) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(messages.bell()?, Interest::READABLE)
}

struct Thread {
    fanout: Fanout,
    writer: Writer,
    messages: Mailbox<ToStreams>,
    inbox: VecDeque<ToStreams>,
    /// Lanes that have events.
    turns: Turns,
    events_per_round: usize,
    events_this_round: usize,
    events_this_turn: usize,
    next_sweep_ms: u64,
    heartbeat: Rc<Frame>,
    /// Told to stop: nothing new is begun, and by this time nothing is taken from lanes any more.
    stop_by_ms: Option<u64>,
    /// Nothing is left to be taken, and what is queued is written.
    stopping: bool,
}

impl Thread {
    async fn run(mut self, bell: AsyncFd<OwnedFd>) {
        let mut timer = pin!(sleep(TICK));
        let mut ticking = true;
        let mut patience = pin!(sleep(PATIENCE));
        poll_fn(|cx| {
            self.fanout.readiness().listen(cx.waker());
            self.fanout.now_ms = monotonic_ms();
            self.events_this_turn = 0;
            // Once: what is begun below does not enter the kernel before this task has returned.
            self.finish_writes(cx);
            if self.stopping {
                self.fanout.close_done();
            }
            loop {
                let mut busy = self.look_at_sockets();
                busy |= self.tick(timer.as_mut(), &mut ticking, cx);
                busy |= self.receive(&bell, cx);
                busy |= self.begin_writes();
                if !busy {
                    break;
                }
            }
            self.writer.arm(cx);
            if self.turns.has_parked() && patience.as_mut().poll(cx).is_ready() {
                // Who was waited for may not read any more, which nothing tells of.
                patience.as_mut().reset(Instant::now() + PATIENCE);
                cx.waker().wake_by_ref();
            }
            if self.stopping && !self.fanout.has_subscribers() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    fn finish_writes(&mut self, cx: &mut Context<'_>) {
        let fanout = &mut self.fanout;
        self.writer.poll(cx, |key, outcome| match outcome {
            Outcome::Whole => fanout.written(key),
            Outcome::Short(rest) => fanout.written_in_part(key, rest),
            Outcome::Failed => fanout.write_failed(key),
        });
    }

    fn begin_writes(&mut self) -> bool {
        let had_line = self.fanout.has_line();
        let mut any = false;
        for count in 0.. {
            if !self.writer.has_room() {
                break;
            }
            if count % LOOK_AHEAD == 0 {
                self.fanout.look_ahead();
            }
            let Some(key) = self.fanout.next_in_line() else {
                break;
            };
            any |= self
                .fanout
                .begin_write(key, |socket, queue| self.writer.begin(key, socket, queue));
        }
        // A line of nobody who could be written to is no reason to take no more.
        any || (had_line && !self.fanout.has_line())
    }

    fn look_at_sockets(&mut self) -> bool {
        let ready = self.fanout.readiness().take();
        ready
            .iter()
            .for_each(|key| self.fanout.look_at_socket(*key));
        !ready.is_empty()
    }

    /// Takes messages, as long as what they queue is written in between.
    fn receive(&mut self, bell: &AsyncFd<OwnedFd>, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        self.turns.unpark(&self.fanout);
        loop {
            if self.stop_by_ms.is_some_and(|by| self.fanout.now_ms >= by) {
                self.stop();
            }
            if self.events_this_turn >= EVENTS_PER_TURN {
                // Whoever was blocked may not be any more, which shows when the runtime has looked.
                cx.waker().wake_by_ref();
                return false;
            }
            // Who is being written to is not in the line, and yet has a queue that can overflow.
            if !self.fanout.has_line() && self.writer.is_idle() {
                self.events_this_round = 0;
                self.fanout.bytes_this_round = 0;
            } else if self.events_this_round >= self.events_per_round
                || self.fanout.bytes_this_round >= BYTES_PER_ROUND
            {
                return any;
            }
            if self.turns.has_turn() {
                if self.turns.step(&mut self.fanout) {
                    self.events_this_round += 1;
                    self.events_this_turn += 1;
                }
            } else if !self.turns.are_messages_due() && self.turns.begin() {
            } else if let Some(message) = self.next_message(bell, cx) {
                self.obey(message);
            } else if self.turns.begin() {
            } else if self.stop_by_ms.is_some() && !self.stopping && !self.turns.has_parked() {
                // Its bell was looked at before the thread sent itself what waited to be released.
                self.inbox.extend(self.messages.take());
                if self.inbox.is_empty() {
                    self.stop();
                }
            } else {
                return any;
            }
            any = true;
        }
    }

    fn next_message(&mut self, bell: &AsyncFd<OwnedFd>, cx: &mut Context<'_>) -> Option<ToStreams> {
        while self.inbox.is_empty()
            && let Poll::Ready(rung) = bell.poll_read_ready(cx)
        {
            // Cleared before the mailbox is emptied, so that what comes meanwhile rings again.
            if let Ok(mut rung) = rung {
                rung.clear_ready();
            }
            self.inbox.extend(self.messages.take());
        }
        let message = self.inbox.pop_front();
        self.turns.had_message(message.is_some());
        message
    }

    /// What is queued is still written; nothing more is taken.
    fn stop(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            self.turns = Turns::default();
            self.fanout.close_done();
        }
    }

    fn obey(&mut self, message: ToStreams) {
        let fanout = &mut self.fanout;
        match message {
            // Whoever is still handed over sees the connection end, and a worker its hub.
            ToStreams::Subscribe(..) | ToStreams::Announce(_) | ToStreams::Accept(..)
                if self.stop_by_ms.is_some() => {}
            ToStreams::Events(_) if self.stopping => {}
            ToStreams::Subscribe(client, reading, wanted) => {
                fanout.subscribe(*client, reading, wanted);
            }
            ToStreams::Announce(announced) => fanout.announce(*announced),
            ToStreams::Accept(number, client) => fanout.accept(number, *client),
            ToStreams::Withdraw(number) => fanout.withdraw(number),
            ToStreams::Told(number) => fanout.told(number),
            ToStreams::Inherited(number, worker, outcome) => {
                fanout.inherited(number, worker, outcome);
            }
            ToStreams::Events(events) => {
                let released = events.handover.release();
                if released.again {
                    fanout.streams.send(ToStreams::Events(events.clone()));
                }
                if released.lists {
                    self.turns.list(events);
                }
            }
            ToStreams::Publish(_, ReplyTo { shard, ticket }) if self.stop_by_ms.is_some() => {
                fanout.shards[shard].send(Command::Published(ticket, Published::closing()));
            }
            ToStreams::Publish(publication, ReplyTo { shard, ticket }) => {
                let published = fanout.publish(&publication);
                self.events_this_round += 1;
                self.events_this_turn += 1;
                fanout.shards[shard].send(Command::Published(ticket, published));
            }
            ToStreams::Workers => {
                if let Some(workers) = fanout.streams.take_workers() {
                    fanout.set_workers(workers);
                }
            }
            ToStreams::Stop => self.stop_by_ms = Some(fanout.now_ms + STOP_EVENTS_MS),
        }
    }

    /// Heartbeats, sweeps and deadlines, once a second while there is anybody.
    fn tick(
        &mut self,
        mut timer: Pin<&mut Sleep>,
        ticking: &mut bool,
        cx: &mut Context<'_>,
    ) -> bool {
        if !std::mem::replace(ticking, self.fanout.has_subscribers()) {
            if *ticking {
                timer.as_mut().reset(Instant::now() + TICK);
            } else {
                return false;
            }
        }
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        timer.as_mut().reset(Instant::now() + TICK);
        self.fanout.beat(&self.heartbeat);
        self.fanout.drop_orphans();
        self.fanout.drop_stuck();
        let interval_ms = self.fanout.config.sweep_interval_ms;
        if interval_ms > 0 && self.fanout.now_ms >= self.next_sweep_ms {
            self.next_sweep_ms = self.fanout.now_ms.saturating_add(interval_ms);
            self.fanout.sweep();
        }
        // The timer is polled again, or it would not wake this task.
        true
    }
}
