//! Taking connections: each gets a place, and who finds none is told so and sent away. Out of
//! descriptors, a spare one is used for that, so that nobody is left to wait without a word and the
//! listener, which stays readable, never keeps the thread busy.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;

use monoio::net::UnixStream;

use crate::gateway::connection::serve;
use crate::gateway::connections::{Connections, Place};
use crate::gateway::problem::Problem;
use crate::gateway::shard::Shard;
use crate::http::{BodyFraming, HeadStyle, encode_own_head};
use crate::limits::{REFUSALS_AT_ONCE, REFUSALS_IN_A_ROW, REFUSALS_LOG_MS};
use crate::message::Version;
use crate::sys::eventfd::EventFd;
use crate::sys::listen::{accept, is_out_of_descriptors, set_nodelay};
use crate::sys::stream_socket::{discard, send_last};

/// Connections that are taken one after the other before anybody else has a turn.
const ACCEPTED_PER_TURN: usize = 64;

/// What a shard keeps for taking connections.
#[derive(Debug)]
pub struct Acceptor {
    connections: Connections,
    /// Given up for a moment to take a connection when no descriptor is left.
    spare: RefCell<Option<EventFd>>,
    /// Connections that are being told that there is no place.
    turning_away: Cell<usize>,
    error_logged_ms: Cell<u64>,
}

impl Acceptor {
    /// For connections that are counted here.
    pub fn new(connections: Connections) -> Acceptor {
        Acceptor {
            connections,
            spare: RefCell::new(EventFd::new(true).ok()),
            turning_away: Cell::new(0),
            error_logged_ms: Cell::new(0),
        }
    }

    /// How many connections there are and may be.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }
}

impl Shard {
    /// Takes connections from `listener` until the shard stops; `ready` is a duplicate of it for the
    /// ring.
    pub(super) async fn accept_from(self: Rc<Self>, listener: Rc<OwnedFd>, ready: UnixStream) {
        // Refusals cost time, and whoever is refused may come back at once: they have a pace.
        let mut refusals = 0;
        let mut accepted = 0;
        while !self.is_stopping() {
            match accept(listener.as_fd()) {
                Ok(Some((socket, peer))) => match self.acceptor.connections.enter() {
                    Some(place) => {
                        refusals = 0;
                        self.begin(socket, peer, place);
                        accepted += 1;
                        if accepted == ACCEPTED_PER_TURN {
                            // Those who are connected have a turn, however many more come.
                            accepted = 0;
                            self.yields.others_first().await;
                        }
                    }
                    None => {
                        refusals += 1;
                        self.turn_away(socket, peer);
                    }
                },
                Ok(None) => {
                    if let Err(error) = ready.readable(true).await {
                        // A shard that stopped listening would leave its part of the clients waiting.
                        tracing::warn!("cannot watch a listener: {error}");
                        self.pause().await;
                    }
                }
                Err(error) if is_out_of_descriptors(&error) && self.use_spare(&listener) => {
                    refusals += 1;
                }
                Err(error) => {
                    self.log_error(&error);
                    self.pause().await;
                }
            }
            if refusals >= REFUSALS_IN_A_ROW {
                refusals = 0;
                self.pause().await;
            }
        }
    }

    fn begin(self: &Rc<Self>, socket: OwnedFd, peer: Option<SocketAddr>, place: Place) {
        if peer.is_some() {
            let _ = set_nodelay(&socket);
        }
        let shard = self.clone();
        monoio::spawn(async move {
            // Not before the task runs: a tick that came first would find no connection and turn the
            // pulse off again.
            shard.rouse();
            serve(shard.clone(), socket, peer, None).await;
            drop(place);
            shard.wake_if_done();
        });
    }

    /// There is no place: the client hears it, and that it may try again. A few at a time get the
    /// chance to read it whatever they have sent; of more, only the answer is sent.
    fn turn_away(self: &Rc<Self>, socket: OwnedFd, peer: Option<SocketAddr>) {
        self.count_refusal();
        let turning_away = &self.acceptor.turning_away;
        if turning_away.get() >= REFUSALS_AT_ONCE {
            return self.send_away(&socket);
        }
        turning_away.set(turning_away.get() + 1);
        let shard = self.clone();
        monoio::spawn(async move {
            shard.rouse();
            serve(shard.clone(), socket, peer, Some(Problem::no_place())).await;
            let turning_away = &shard.acceptor.turning_away;
            turning_away.set(turning_away.get() - 1);
            shard.wake_if_done();
        });
    }

    /// No descriptor is left: the next client is told so with the spare one. Returns whether there was
    /// one.
    fn use_spare(&self, listener: &OwnedFd) -> bool {
        let spare = self.acceptor.spare.take();
        let had_spare = spare.is_some();
        drop(spare);
        let accepted = match had_spare {
            true => accept(listener),
            false => Ok(None),
        };
        let told = match accepted {
            Ok(Some((socket, _))) => {
                self.count_refusal();
                self.send_away(&socket);
                true
            }
            // Another thread was faster.
            _ => false,
        };
        self.acceptor.spare.replace(EventFd::new(true).ok());
        told
    }

    fn send_away(&self, socket: &OwnedFd) {
        let problem = Problem::no_place();
        let body = problem.body();
        let mut answer = Vec::new();
        let mut allow = String::new();
        let style = HeadStyle {
            version: Version::Http11,
            keep_alive: false,
            date: &self.clock.date(),
            cors: false,
        };
        let framing = BodyFraming::Length(body.len() as u64);
        let fields = problem.fields(&mut allow);
        encode_own_head(&mut answer, problem.status, &fields, framing, &style);
        answer.extend_from_slice(&body);
        send_last(socket, &answer);
        // A request that has arrived and is not read would make the close a reset.
        let _ = discard(socket);
    }

    fn count_refusal(&self) {
        let connections = &self.acceptor.connections;
        if let Some(count) = connections.refuse(self.clock.now_ms()) {
            tracing::warn!(
                "refused {count} connections with 503; there are {connections}. More need a higher limit on open files (ulimit -n, LimitNOFILE=), or a higher --max-connections"
            );
        }
    }

    fn log_error(&self, error: &io::Error) {
        let now_ms = self.clock.now_ms();
        let logged_ms = self.acceptor.error_logged_ms.get();
        if logged_ms == 0 || now_ms >= logged_ms + REFUSALS_LOG_MS {
            self.acceptor.error_logged_ms.set(now_ms.max(1));
            tracing::warn!("cannot accept a connection: {error}; it waits in the backlog");
        }
    }

    /// Waits for the next pulse.
    async fn pause(&self) {
        let mut waited = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut waited, true) {
                return Poll::Ready(());
            }
            self.wake_at_next_tick(cx.waker());
            Poll::Pending
        })
        .await;
    }
}
