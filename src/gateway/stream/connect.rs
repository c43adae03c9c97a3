//! What a shard tells workers about streams, and hears from them: an ordinary exchange whose head says
//! that it is about a connection. It is heard to its end even where nobody waits for it any more, so
//! that a worker that accepts too late still learns that the connection has ended.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::control::Lifecycle;
use crate::gateway::StreamRoute;
use crate::gateway::lane::{Lane, RequestFrame};
use crate::gateway::shard::Shard;
use crate::gateway::stream::{Inheritance, News, Notice, StreamRequest, ToStreams, path_key};
use crate::http::parse_head;
use crate::limits::{CONNECT_TIMEOUT_MS, MAX_EVENT_ID, MAX_RESPONSE_HEAD};
use crate::message::{Method, Params, RequestHead};
use crate::route::Lookup;
use crate::shm::codec::{
    LifecycleFlags, RequestParts, decode_response, encode_request, encoded_request_len,
};
use crate::shm::descriptor::END;
use crate::shm::layout::body_offset;
use crate::urlencoded;

/// Longest body of a refusal; a longer one is no answer.
const MAX_REFUSAL: usize = 256 * 1024;

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

/// A worker's answer.
#[derive(Debug)]
pub enum Said {
    /// This status, these fields, this body.
    Answer {
        /// Status code, as the worker gave it.
        status: u16,
        /// Its field section.
        fields: Vec<u8>,
        /// Its body.
        body: Vec<u8>,
    },
    /// Nothing: it is gone.
    Gone,
    /// Something that is no answer.
    Nonsense,
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
    /// Encoded head and body.
    head: Vec<u8>,
    body: Vec<u8>,
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
        let asked = Rc::new(Asked::default());
        let (shard, request, waiting) = (self.clone(), request.clone(), asked.clone());
        monoio::spawn(async move {
            let worker = shown.lane.incarnation().clone();
            let said = converse(&shown, u64::MAX, || waiting.unwanted.get()).await;
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
                let deadline_ms = match news {
                    News::Inherited => u64::MAX,
                    News::Ended(_) => self.clock.now_ms() + self.config.timeout_ms,
                };
                match converse(&shown, deadline_ms, || false).await {
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

/// Says it, and hears the whole answer, which is due at `deadline_ms`. It is not said any more where
/// `unwanted` says so before there is a slot for it.
async fn converse(shown: &Shown, deadline_ms: u64, unwanted: impl Fn() -> bool) -> Said {
    let lane = &shown.lane;
    let geometry = lane.geometry();
    let body_at = body_offset(shown.head.len());
    let len = body_at + shown.body.len();
    let count = geometry.slots_for(len);
    if !lane.may_ever_begin(count) {
        // Whoever waits in front of the line for what never comes holds up everybody.
        return Said::Nonsense;
    }
    let Ok((exchange, mut slots)) = lane.begin(count, false, unwanted).await else {
        return Said::Gone;
    };
    let room = lane.memory().bytes_mut(&mut slots);
    if room.len() < len {
        lane.release(slots);
        return Said::Nonsense;
    }
    room[..shown.head.len()].copy_from_slice(&shown.head);
    room[body_at..len].copy_from_slice(&shown.body);
    let frame = RequestFrame {
        head_len: shown.head.len(),
        body_len: shown.body.len(),
        total: Some(shown.body.len() as u64),
        flags: END,
    };
    exchange.submit(slots, frame, deadline_ms);
    let (mut head, mut body) = (Vec::new(), Vec::new());
    loop {
        let Ok(frame) = exchange.next_frame().await else {
            return Said::Gone;
        };
        let memory = lane.memory();
        let fits = body.len() + frame.body_len <= MAX_REFUSAL;
        let copied = fits
            && memory.copy_response(frame.run, 0, frame.head_len, &mut head)
            && memory.copy_response(frame.run, frame.body_at, frame.body_len, &mut body);
        lane.return_frame(frame.run);
        if !copied || frame.abort {
            return Said::Nonsense;
        }
        if frame.end {
            break;
        }
    }
    match decode_response(&head) {
        Ok((status, fields)) if head.len() <= MAX_RESPONSE_HEAD + 8 => Said::Answer {
            status,
            fields: fields.to_vec(),
            body,
        },
        _ => Said::Nonsense,
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
