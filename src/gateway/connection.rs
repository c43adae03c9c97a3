//! One client connection: head after head, each answered before the next is looked at. Between requests
//! it keeps little more than its socket.

use std::future::Future;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;

use monoio::io::Splitable;
use monoio::net::UnixStream;

use crate::gateway::hold::Released;
use crate::gateway::input::{Input, ReadDone, read_more};
use crate::gateway::output::{Manner, Output};
use crate::gateway::plan::{Action, Plan};
use crate::gateway::problem::Problem;
use crate::gateway::shard::Shard;
use crate::gateway::watch::Entered;
use crate::http::{ChunkDecoder, Fault, HeadBounds, HeadScanner};
use crate::limits::{BRISK_MS, LINGER_BYTES, LINGER_MS, MAX_TRIES, SMALL_BODY, TICK_SLOW_MS};
use crate::message::{BodyLength, Method, Version};

/// How an answer is made to something that is no request, or none that could be read: `bytes` are what
/// has come of it. Only that it would be HEAD matters: its answer has no body (RFC 9110, section 9.3.2).
fn to_no_request(bytes: &[u8]) -> Manner {
    let is_head = bytes.trim_ascii_start().starts_with(b"HEAD ");
    Manner {
        method: if is_head { Method::Head } else { Method::Get },
        version: Version::Http11,
        keep_alive: false,
        cors: false,
    }
}

/// One client connection. `F` is the future of a read under way.
pub(super) struct Connection<'a, F> {
    // Left before the socket closes: the fields are dropped in this order.
    pub(super) entered: Entered,
    pub(super) shard: &'a Rc<Shard>,
    pub(super) input: Input<'a, F>,
    pub(super) output: Output,
    pub(super) peer: Option<SocketAddr>,
    /// Whether the client's last request came soon after an answer, as the next one then probably does.
    pub(super) brisk: bool,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next request may come.
    Stay,
    /// The next request may come, but probably not soon. Nothing has come since this time.
    Rest(u64),
    /// It closes, once the client has had a chance to read the answer.
    Close,
    /// It closes at once.
    Drop,
}

/// What came instead of, or as, the next head.
enum Head {
    Complete(HeadBounds),
    Bad(Fault),
    TooSlow(Manner),
    /// Nothing since this time, and probably not soon.
    Later(u64),
    Nothing,
}

/// Why a request body did not arrive.
#[derive(Debug)]
pub(super) enum BodyFault {
    /// It breaks a rule of HTTP.
    Http(Fault),
    /// It took too long.
    TooSlow,
    /// It is longer than the bytes that are taken.
    TooLong(u64),
    /// The client is gone.
    Gone,
}

/// Serves a client until it leaves or misbehaves, or refuses it with a problem. `peer` is `None` on a
/// Unix socket.
pub async fn serve(
    shard: Rc<Shard>,
    socket: OwnedFd,
    peer: Option<SocketAddr>,
    refusal: Option<Problem>,
) {
    // To io_uring every stream socket is the same; monoio's type for Unix sockets serves all.
    let Ok(stream) = UnixStream::from_std(socket.into()) else {
        return;
    };
    let entered = shard.watches.enter(stream.as_raw_fd());
    let (reader, writer) = stream.into_split();
    let pending = pin!(None);
    let output = Output::new(
        writer,
        entered.watch.clone(),
        shard.clock.clone(),
        shard.config.clients.write_timeout_ms,
        shard.spilled.clone(),
        shard.later.clone(),
        shard.passed.clone(),
    );
    let input = Input::new(read_more, pending, reader);
    let mut connection = Connection {
        entered,
        shard: &shard,
        input,
        output,
        peer,
        brisk: false,
    };
    match refusal {
        None => connection.run().await,
        Some(problem) => Box::pin(connection.turn_away(problem)).await,
    }
}

impl<F: Future<Output = ReadDone>> Connection<'_, F> {
    async fn run(&mut self) {
        self.rest(self.shard.clock.now_ms()).await;
        // That it speaks at once says nothing of what comes after its first answer.
        self.expect_soon(false);
        // What serving a request takes is in a box of its own, to be had and given back: most
        // connections say nothing most of the time.
        while self.input.holds_bytes()
            && let Next::Rest(since_ms) = Box::pin(self.talk()).await
        {
            self.output.shrink();
            self.entered.watch.shrink();
            self.rest(since_ms).await;
        }
    }

    /// Answers requests until the client is silent for a while, or its connection has ended.
    async fn talk(&mut self) -> Next {
        loop {
            let next = match self.next_head().await {
                Head::Complete(bounds) => self.answer(bounds).await,
                Head::Bad(fault) => {
                    let manner = to_no_request(self.input.buffered());
                    self.refuse(fault.into(), manner).await
                }
                Head::TooSlow(manner) => self.refuse(Problem::too_slow(), manner).await,
                Head::Later(since_ms) => Next::Rest(since_ms),
                Head::Nothing => Next::Drop,
            };
            match next {
                Next::Stay => {}
                Next::Close => {
                    self.linger().await;
                    return Next::Drop;
                }
                Next::Rest(_) | Next::Drop => return next,
            }
        }
    }

    async fn turn_away(&mut self, problem: Problem) {
        if self.refuse(problem, to_no_request(b"")).await == Next::Close {
            self.linger().await;
        }
    }

    /// Waits for the first bytes of a request, or the end of the connection, which has been silent since
    /// `began_ms`.
    async fn rest(&mut self, began_ms: u64) {
        let (watch, clock) = (&self.entered.watch, &self.shard.clock);
        watch.expect_read(began_ms + self.shard.config.clients.idle_timeout_ms);
        watch.set_resting(true);
        // An error shows as the end of the input.
        let _ = self.input.fill().await;
        watch.set_resting(false);
        let rested_ms = clock.now_ms() - began_ms;
        self.expect_soon(rested_ms < BRISK_MS);
    }

    /// The same for as long as a brisk client usually takes. Returns whether it has spoken, or left;
    /// otherwise the read goes on.
    async fn rest_briefly(&mut self, began_ms: u64) -> bool {
        if self.shard.config.clients.idle_timeout_ms < BRISK_MS + TICK_SLOW_MS {
            // The tick at which it had been brief would come when the whole is over.
            self.rest(began_ms).await;
            return true;
        }
        let watch = &self.entered.watch;
        watch.expect_read(began_ms + BRISK_MS);
        watch.set_resting(true);
        let received = watch.until_late(self.input.fill()).await;
        watch.set_resting(false);
        if received.is_none() {
            self.expect_soon(false);
            return false;
        }
        let rested_ms = self.shard.clock.now_ms() - began_ms;
        self.expect_soon(rested_ms < BRISK_MS);
        true
    }

    fn expect_soon(&mut self, brisk: bool) {
        self.brisk = brisk;
        self.input.expect_soon(brisk);
    }

    /// Receives until a head is complete.
    async fn next_head(&mut self) -> Head {
        let mut scanner = HeadScanner::default();
        let mut began = false;
        let mut has_rested = false;
        loop {
            match scanner.scan(self.input.buffered()) {
                Ok(Some(bounds)) => {
                    self.entered.watch.clear_read();
                    if !has_rested {
                        // Who has rested has just looked; what is left of the time counts from here.
                        self.shard.clock.now_ms();
                    }
                    return Head::Complete(bounds);
                }
                Ok(None) => {}
                Err(fault) => return Head::Bad(fault),
            }
            // RFC 9112, section 2.2: some clients send an empty line behind a body. It begins no head.
            let resting = !self.input.holds_bytes() || self.input.buffered() == b"\r\n";
            if self.input.has_ended() {
                return Head::Nothing;
            }
            if resting {
                // Also where the hub stops: what has come already is still answered, and who rests is
                // shut down at the next tick.
                if !self.brisk {
                    return Head::Later(self.shard.clock.now_ms());
                }
                // Right behind an answer.
                let began_ms = self.shard.clock.recent_ms();
                if !self.rest_briefly(began_ms).await {
                    return Head::Later(began_ms);
                }
                began = false;
                has_rested = true;
                continue;
            }
            if !began {
                // One deadline for the whole head, from its first byte on: a client that sends a
                // byte now and then gains nothing.
                let limit = self.shard.config.clients.head_timeout_ms;
                self.entered
                    .watch
                    .expect_read(self.shard.clock.now_ms() + limit);
                began = true;
            }
            has_rested = false;
            let manner = to_no_request(self.input.buffered());
            // An error shows as the end of the input.
            let received = self.entered.watch.until_late(self.input.fill()).await;
            if received.is_none() {
                return Head::TooSlow(manner);
            }
        }
    }

    async fn answer(&mut self, bounds: HeadBounds) -> Next {
        let mut tries = 0;
        let mut decoded = None;
        let Plan {
            mut manner,
            body,
            expects_continue,
            action,
        } = loop {
            let raw = &self.input.buffered()[bounds.start..bounds.end];
            let mut plan = match self.shard.plan(raw, self.peer) {
                Ok(plan) => plan,
                Err(fault) => {
                    let manner = to_no_request(raw);
                    return self.refuse(fault.into(), manner).await;
                }
            };
            let dispatch = match plan.action {
                Action::Dispatch(dispatch) => dispatch,
                Action::Hold(problem) => match self.shard.hold().await {
                    Released::Routes => continue,
                    Released::Time => {
                        plan.action = Action::Problem(problem);
                        break plan;
                    }
                    // Without an answer: a client that takes one for the end comes back like this.
                    Released::Stop => return Next::Drop,
                },
                _ => break plan,
            };
            if let BodyLength::Known(len @ ..=SMALL_BODY) = plan.body
                && self.input.buffered().len() < bounds.end + len as usize
            {
                // Before anything of a worker is held, and be it that its lane is there: it may be another
                // worker's by then.
                drop(dispatch);
                let received = self
                    .receive_small(bounds, len as usize, plan.expects_continue)
                    .await;
                match received {
                    Ok(()) => continue,
                    Err(fault) => {
                        self.input.consume(bounds.end);
                        return self.refuse_body(fault, plan.manner).await;
                    }
                }
            }
            if plan.body == BodyLength::Chunked {
                // One that is all there has arrived, and waits behind none that is still arriving.
                let most = dispatch.max_body;
                decoded = decoded.or_else(|| self.input.decode_chunked(bounds.end, most));
                plan.body = match decoded {
                    None => BodyLength::Chunked,
                    Some(0) => BodyLength::None,
                    // Another worker has the route since it was decoded.
                    Some(len) if len as u64 > most => {
                        plan.action = Action::Problem(Problem::body_too_long(most));
                        break plan;
                    }
                    Some(len) => BodyLength::Known(len as u64),
                };
            }
            self.entered.watch.keep_lane(dispatch.lane.address());
            let next = self
                .dispatch(
                    &dispatch,
                    plan.manner,
                    plan.body,
                    plan.expects_continue,
                    bounds,
                )
                .await;
            self.entered.watch.keep_lane(0);
            if let Some(next) = next {
                return next;
            }
            // The worker went while the request waited for a slot of it. Whoever has the route now
            // may answer, but a request does not chase workers for ever.
            tries += 1;
            if tries == MAX_TRIES {
                plan.action = Action::Problem(Problem::no_worker(dispatch.lane.name()));
                break plan;
            }
        };
        if let Action::Delegate(worker) = &action {
            let next = self.delegate(bounds, manner, worker).await;
            self.entered.watch.keep_lane(0);
            return next;
        }
        self.input.consume(bounds.end);
        if let Action::Subscribe(wanted, last_event_id) = action {
            return self.subscribe(wanted, last_event_id, manner).await;
        }
        if let Action::Control(path) = action {
            return self.control(&path, manner, body, expects_continue).await;
        }
        if let Action::Problem(problem) = action {
            return self.refuse_unread(problem, manner, body).await;
        }
        // RFC 9112, section 9.3: what is left of a body that is not read must not be taken for a request.
        manner.keep_alive &= body == BodyLength::None;
        let sent = match action {
            Action::Preflight => self.output.send_own(204, PREFLIGHT, b"", manner).await,
            Action::Options(allow) => {
                self.output
                    .send_own(204, &[("allow", &allow)], b"", manner)
                    .await
            }
            Action::StreamHead => self.output.send_own(200, STREAM_HEAD, b"", manner).await,
            _ => Ok(()),
        };
        after(sent, manner)
    }

    /// Sends an error answer.
    pub(super) async fn refuse(&mut self, problem: Problem, manner: Manner) -> Next {
        let mut allow = String::new();
        let fields = problem.fields(&mut allow);
        let sent = self
            .output
            .send_own(problem.status, &fields, &problem.body(), manner)
            .await;
        after(sent, manner)
    }

    /// Closes in a way that lets the answer arrive: with unread bytes the kernel would reset the
    /// connection, and the client could lose what it has not read yet (RFC 9112, section 9.6).
    async fn linger(&mut self) {
        if self.output.shut_down().await.is_err() {
            return;
        }
        self.entered
            .watch
            .expect_read(self.shard.clock.now_ms() + LINGER_MS);
        let mut left = LINGER_BYTES;
        self.input.expect_much();
        while !self.input.has_ended() && left > 0 {
            // First of all what is there: without room nothing could be received.
            let all = self.input.buffered().len();
            self.input.consume(all);
            let received = self.input.fill().await.unwrap_or(0);
            left = left.saturating_sub(received);
        }
    }
}

/// What is said of an event stream in answer to HEAD.
const STREAM_HEAD: &[(&str, &str)] = &[
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-transform"),
    ("x-accel-buffering", "no"),
];

/// What the hub tells a browser that asks whether a page of another origin may send a request.
const PREFLIGHT: &[(&str, &str)] = &[
    ("access-control-allow-methods", "*"),
    ("access-control-allow-headers", "*"),
    ("access-control-max-age", "86400"),
];

impl BodyFault {
    /// What the client is told; `None` where there is nobody to tell.
    pub(super) fn problem(self) -> Option<Problem> {
        match self {
            BodyFault::Http(fault) => Some(fault.into()),
            BodyFault::TooSlow => Some(Problem::too_slow()),
            BodyFault::TooLong(limit) => Some(Problem::body_too_long(limit)),
            BodyFault::Gone => None,
        }
    }
}

/// Whether a chunked body of which `taken` bytes have come is longer than `limit`, or will be with the
/// chunk that is announced.
pub(super) fn exceeds(limit: u64, taken: u64, decoder: &ChunkDecoder) -> bool {
    taken.saturating_add(decoder.data_remaining()) > limit
}

pub(super) fn after(sent: std::io::Result<()>, manner: Manner) -> Next {
    match sent {
        Err(_) => Next::Drop,
        Ok(()) if manner.keep_alive => Next::Stay,
        Ok(()) => Next::Close,
    }
}
