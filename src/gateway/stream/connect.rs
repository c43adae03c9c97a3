//! What a shard tells workers about streams, and when: clients who ask to be connected, and notices of
//! connections that are inherited or have ended. A worker that accepts too late still learns that the
//! connection has ended. How it is said is in `converse`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::control::Lifecycle;
use crate::gateway::StreamRoute;
use crate::gateway::lane::{Failure, Lane, Permit};
use crate::gateway::shard::Shard;
use crate::gateway::stream::converse::{Patience, Said};
use crate::gateway::stream::{Inheritance, News, Notice, StreamRequest, ToStreams, path_key};
use crate::http::parse_head;
use crate::limits::{CONNECT_TIMEOUT_MS, MAX_EVENT_ID};
use crate::message::{Method, Params, RequestHead};
use crate::route::Lookup;
use crate::shm::codec::{LifecycleFlags, RequestParts, encode_request, encoded_request_len};
use crate::urlencoded;

/// What is said to a worker about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A client asks to be connected.
    Connect,
    /// It is connected already.
    Inherited,
    /// It has left, after so many milliseconds.
    Ended(u64),
}

/// A connection as its worker is to be shown it.
pub struct Shown {
    /// The way to the worker.
    pub lane: Rc<Lane>,
    /// The path, as a key.
    pub path: String,
    /// The route.
    pub route: Arc<StreamRoute>,
    /// The id of the last event the client has seen.
    pub last_event_id: Option<String>,
    /// The encoded head.
    pub(super) head: Vec<u8>,
    /// What goes behind it.
    pub(super) body: Vec<u8>,
}

/// Why nobody can be shown a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hidden {
    /// Its path is no stream.
    NoStream,
    /// The worker of its route is not attached here.
    NoWorker,
}

/// Where one who asks waits for the answer.
#[derive(Default)]
pub struct Asked {
    said: RefCell<Option<Said>>,
    waker: RefCell<Option<Waker>>,
    /// Nobody waits any more.
    unwanted: Cell<bool>,
}

impl Shard {
    /// What a worker is shown of a connection: the request as it came, and what has happened, as
    /// JSON.
    ///
    /// # Errors
    /// The route is no stream of an attached worker any more.
    pub fn show(&self, request: &StreamRequest, number: u64, word: Word) -> Result<Shown, Hidden> {
        let raw = &request.head[..];
        let (mut head, mut params) = (RequestHead::default(), Params::default());
        parse_head(raw, &mut head).map_err(|_| Hidden::NoStream)?;
        let path = head.path.of(raw).ok_or(Hidden::NoStream)?;
        let routes = self.routes.borrow();
        let found = routes.lookup(Method::Get, path, head.path.start as usize, &mut params);
        let Lookup::Found { target, .. } = found else {
            return Err(Hidden::NoStream);
        };
        let route = target.stream.clone().ok_or(Hidden::NoStream)?;
        let lane = self.lane(target.worker).ok_or(Hidden::NoWorker)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let values = params
            .as_slice()
            .iter()
            .map(|span| span.of(raw).unwrap_or_default());
        let values = values.map(|value| urlencoded::decode_path(value).into_owned());
        let named: BTreeMap<String, String> = route
            .params
            .iter()
            .map(|name| name.to_string())
            .zip(values)
            .collect();
        let last_event_id = last_event_id(&head, raw);
        let connection_id = self.streams.connection_id(number);
        let told = match word {
            Word::Connect | Word::Inherited => Lifecycle::Connect {
                connection_id,
                path: text(path),
                params: named,
                last_event_id: last_event_id.clone(),
                replayed: word == Word::Inherited,
            },
            Word::Ended(lasted_ms) => Lifecycle::Disconnect {
                connection_id,
                path: text(path),
                params: named,
                lasted_ms,
            },
        };
        let parts = RequestParts {
            route: target.route,
            head: &head,
            params: &params,
            raw,
            peer: request.peer,
            lifecycle: match word {
                Word::Connect => LifecycleFlags::Connect { replayed: false },
                Word::Inherited => LifecycleFlags::Connect { replayed: true },
                Word::Ended(_) => LifecycleFlags::Disconnect,
            },
        };
        let mut encoded = vec![0; encoded_request_len(&parts)];
        encode_request(&mut encoded, &parts).ok_or(Hidden::NoStream)?;
        Ok(Shown {
            lane,
            path: path_key(path),
            route,
            last_event_id,
            head: encoded,
            body: simd_json::to_vec(&told).map_err(|_| Hidden::NoStream)?,
        })
    }

    /// Asks a worker whether it takes a connection, for [`CONNECT_TIMEOUT_MS`] at most. `None`: it
    /// has not answered.
    pub async fn ask(
        self: &Rc<Self>,
        shown: Shown,
        request: &StreamRequest,
        number: u64,
    ) -> Option<Said> {
        let deadline_ms = self.clock.now_ms() + CONNECT_TIMEOUT_MS;
        let permit = match self.turn_to_connect(&shown.lane, deadline_ms).await {
            Ok(permit) => permit,
            Err(Failure::Deadline) => return None,
            Err(Failure::WorkerGone) => return Some(Said::Gone),
        };
        let asked = Rc::new(Asked::default());
        let (shard, request, waiting) = (self.clone(), request.clone(), asked.clone());
        monoio::spawn(async move {
            let worker = shown.lane.incarnation().clone();
            let patience = Patience::UntilUnwanted(&waiting.unwanted);
            let said = shard.converse(&shown, permit, patience).await;
            if !waiting.unwanted.get() {
                waiting.answer(said);
            } else if matches!(said, Said::Answer { status: 200, .. }) {
                shard.begin_notice(Notice {
                    number,
                    worker,
                    request,
                    news: News::Ended(0),
                });
            }
        });
        let said = poll_fn(|cx| {
            if let Some(said) = asked.said.borrow_mut().take() {
                return Poll::Ready(Some(said));
            }
            if self.clock.now_ms() >= deadline_ms {
                asked.unwanted.set(true);
                return Poll::Ready(None);
            }
            *asked.waker.borrow_mut() = Some(cx.waker().clone());
            self.wake_at_next_tick(cx.waker());
            Poll::Pending
        });
        said.await
    }

    /// Waits until one more client may ask a worker.
    async fn turn_to_connect(&self, lane: &Lane, deadline_ms: u64) -> Result<Permit, Failure> {
        let mut turn = pin!(lane.windows().connects.enter(|| lane.is_dead()));
        poll_fn(|cx| {
            if let Poll::Ready(permit) = turn.as_mut().poll(cx) {
                return Poll::Ready(permit.ok_or(Failure::WorkerGone));
            }
            if self.clock.now_ms() >= deadline_ms {
                return Poll::Ready(Err(Failure::Deadline));
            }
            self.wake_at_next_tick(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Tells a worker about one of its connections, and the streams thread what came of it.
    pub async fn notify(&self, notice: Notice) {
        let Notice {
            number,
            worker,
            request,
            news,
        } = notice;
        let word = match news {
            News::Inherited => Word::Inherited,
            News::Ended(lasted_ms) => Word::Ended(lasted_ms),
        };
        let outcome = match self.show(&request, number, word) {
            // A successor has not heard of what its predecessor accepted.
            Ok(shown) if *shown.lane.incarnation() == worker => {
                // Whether it takes a connection is heard however late; of an end it only has to know.
                let windows = shown.lane.windows();
                let (window, patience) = match news {
                    News::Inherited => (&windows.inherited, Patience::Connect),
                    News::Ended(_) => (&windows.ended, Patience::Request),
                };
                let said = match window.enter(|| shown.lane.is_dead()).await {
                    Some(permit) => self.converse(&shown, permit, patience).await,
                    None => Said::Gone,
                };
                match said {
                    Said::Answer { status: 200, .. } => Inheritance::Taken,
                    Said::Answer { .. } | Said::Nonsense => Inheritance::Refused,
                    Said::Gone => Inheritance::Unanswered,
                }
            }
            Ok(shown) if shown.lane.incarnation().name != worker.name => Inheritance::Refused,
            Ok(_) | Err(Hidden::NoWorker) => Inheritance::Unanswered,
            Err(Hidden::NoStream) => Inheritance::Refused,
        };
        self.streams.send(match news {
            News::Ended(_) => ToStreams::Told(number),
            News::Inherited => ToStreams::Inherited(number, worker, outcome),
        });
    }
}

impl Asked {
    fn answer(&self, said: Said) {
        *self.said.borrow_mut() = Some(said);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The last event the client has seen: the field `Last-Event-ID`, or `last_event_id` in the query for
/// clients that cannot set one.
pub fn last_event_id(head: &RequestHead, raw: &[u8]) -> Option<String> {
    let field = head.fields().iter().find(|field| {
        field
            .name
            .of(raw)
            .is_some_and(|name| name.eq_ignore_ascii_case(b"last-event-id"))
    });
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let from_field = field.and_then(|field| text(field.value.of(raw)?));
    from_field
        .or_else(|| {
            let query = head.query?.of(raw)?;
            let mut pairs = urlencoded::pairs(query);
            pairs
                .find(|(name, _)| name == "last_event_id")
                .map(|(_, value)| value.into_owned())
        })
        .filter(|id| !id.is_empty())
        .map(|id| {
            // One that is too long is none of the hub's, and still shows that there was one.
            let end = id.floor_char_boundary(MAX_EVENT_ID);
            id[..end].to_owned()
        })
}
