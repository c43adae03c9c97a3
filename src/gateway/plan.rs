//! What is to be done with a request: the decision that follows from its head, the route table and
//! the lanes of the shard. Waits for nothing.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::gateway::Target;
use crate::gateway::access::{check_control, is_control_path};
use crate::gateway::lane::Lane;
use crate::gateway::output::Manner;
use crate::gateway::problem::Problem;
use crate::gateway::shard::Shard;
use crate::gateway::stream::Wanted;
use crate::gateway::stream::connect::last_event_id;
use crate::http::{Fault, parse_head};
use crate::message::{BodyLength, Method, Params, RequestHead};
use crate::route::Lookup;
use crate::shm::codec::{LifecycleFlags, RequestParts, encode_request, encoded_request_len};
use crate::urlencoded;

/// Where parsed heads are put; one per shard, so that none is allocated.
#[derive(Debug, Default)]
pub struct Scratch {
    head: RequestHead,
    params: Params,
    /// Which request the scratch holds, so that one that had to wait knows whether it still does.
    holds: u64,
}

impl Scratch {
    /// Parses a head into the scratch. Whatever comes of it, the scratch holds no other request's head any
    /// more, and says so before a byte of it changes: a head that is half parsed is nobody's.
    fn parse(&mut self, raw: &[u8]) -> Result<(), Fault> {
        self.holds += 1;
        parse_head(raw, &mut self.head)
    }
}

/// What is to be done with a request.
pub struct Plan {
    /// How the answer is to be made.
    pub manner: Manner,
    /// How long the body is.
    pub body: BodyLength,
    /// Whether the client waits for `100 Continue`.
    pub expects_continue: bool,
    /// Who answers.
    pub action: Action,
}

/// Who answers a request.
pub enum Action {
    /// A worker.
    Dispatch(Dispatch),
    /// The control plane, at this path.
    Control(String),
    /// The streams thread: a client of `/events`, and the last event it has seen.
    Subscribe(Wanted, Option<String>),
    /// The streams thread, if the worker of this name accepts.
    Delegate(Arc<str>),
    /// The hub, the head of a stream and nothing more.
    StreamHead,
    /// The hub, that the path may be used from other origins.
    Preflight,
    /// The hub, what the path may be used with.
    Options(String),
    /// Whoever comes next, or the hub, what is wrong: it has just started, and the client is to wait.
    Hold(Problem),
    /// The hub, what is wrong.
    Problem(Problem),
}

/// A request on its way to a worker.
pub struct Dispatch {
    /// The lane it takes.
    pub lane: Rc<Lane>,
    /// Bytes of the encoded head.
    pub head_len: usize,
    /// Most bytes of body that are taken.
    pub max_body: u64,
    route: u32,
    holds: u64,
}

impl Shard {
    /// Decides what is to be done with the request whose head these bytes are.
    ///
    /// # Errors
    /// The head is no head; the connection must be closed after the answer.
    pub fn plan(&self, raw: &[u8], peer: Option<SocketAddr>) -> Result<Plan, Fault> {
        let mut scratch = self.scratch.borrow_mut();
        scratch.parse(raw)?;
        let Scratch {
            head,
            params,
            holds,
        } = &mut *scratch;
        let path = head.path.of(raw).unwrap_or_default();
        let mut manner = Manner {
            method: head.method,
            version: head.version,
            keep_alive: head.keep_alive && !self.is_stopping(),
            cors: head.origin.is_some(),
        };
        let action = if is_control(path) {
            // The answer to a control request is for nobody's page to read.
            manner.cors &= !is_control_path(path);
            match self.plan_control(head, raw, path, peer) {
                Ok(action) => action,
                Err(problem) => Action::Problem(problem),
            }
        } else if head.method == Method::Options
            && head.origin.is_some()
            && head.preflight_method.is_some()
        {
            Action::Preflight
        } else if path == b"*" {
            // Asked of the hub itself, not of a resource (RFC 9110, section 9.3.7).
            Action::Options(Method::ALL.map(Method::as_str).join(", "))
        } else {
            let routes = self.routes.borrow();
            match routes.lookup(head.method, path, head.path.start as usize, params) {
                Lookup::Found { target, .. } => match self.lane(target.worker) {
                    None if self.may_hold(head, raw) => {
                        Action::Hold(Problem::no_worker(&target.name))
                    }
                    _ if target.stream.is_some() => plan_stream(head, &target.name),
                    None => Action::Problem(Problem::no_worker(&target.name)),
                    Some(_) if exceeds(head.body, self.max_body(target)) => {
                        Action::Problem(Problem::body_too_long(self.max_body(target)))
                    }
                    Some(lane) => {
                        let parts = RequestParts {
                            route: target.route,
                            head,
                            params,
                            raw,
                            peer,
                            lifecycle: LifecycleFlags::None,
                        };
                        Action::Dispatch(Dispatch {
                            lane,
                            head_len: encoded_request_len(&parts),
                            max_body: self.max_body(target),
                            route: target.route,
                            holds: *holds,
                        })
                    }
                },
                Lookup::NotAllowed(allow) if head.method == Method::Options => {
                    Action::Options(allow.to_string())
                }
                Lookup::NotAllowed(allow) => self.miss(head, raw, Problem::not_allowed(allow)),
                Lookup::NotFound => self.miss(head, raw, Problem::no_route(path)),
            }
        };
        Ok(Plan {
            manner,
            body: head.body,
            expects_continue: head.expects_continue,
            action,
        })
    }

    /// What becomes of a request that no route takes.
    fn miss(&self, head: &RequestHead, raw: &[u8], problem: Problem) -> Action {
        if self.may_hold(head, raw) {
            Action::Hold(problem)
        } else {
            Action::Problem(problem)
        }
    }

    /// Most bytes of body that are taken for a route.
    fn max_body(&self, target: &Target) -> u64 {
        match target.max_body.unwrap_or(self.config.clients.max_body) {
            0 => u64::MAX,
            bytes => bytes,
        }
    }

    fn plan_control(
        &self,
        head: &RequestHead,
        raw: &[u8],
        path: &[u8],
        peer: Option<SocketAddr>,
    ) -> Result<Action, Problem> {
        if is_control_path(path) {
            check_control(head, raw, peer, self.config.secret.as_deref())?;
        } else if head.method == Method::Options && head.preflight_method.is_some() {
            return Ok(Action::Preflight);
        }
        if let Some(rest) = path.strip_prefix(b"/events") {
            return Ok(plan_events(head, raw, rest));
        }
        if head.method == Method::Options
            && let Some((_, allow)) = CONTROL_METHODS.iter().find(|(known, _)| *known == path)
        {
            return Ok(Action::Options((*allow).into()));
        }
        Ok(Action::Control(String::from_utf8_lossy(path).into_owned()))
    }

    /// Writes the head of a planned request into a slot. Parses it again if another request was
    /// planned meanwhile. `None` where the slot is too small or the bytes are no head any more.
    pub fn encode_planned(
        &self,
        dispatch: &Dispatch,
        raw: &[u8],
        peer: Option<SocketAddr>,
        out: &mut [u8],
    ) -> Option<usize> {
        let mut scratch = self.scratch.borrow_mut();
        let is_held = scratch.holds == dispatch.holds;
        if !is_held {
            scratch.parse(raw).ok()?;
        }
        let Scratch { head, params, .. } = &mut *scratch;
        if !is_held {
            // The routes may have changed while the request waited: it keeps the route it was
            // given, and the parameters are found by matching that route's own place again.
            let path = head.path.of(raw)?;
            let routes = self.routes.borrow();
            match routes.lookup(head.method, path, head.path.start as usize, params) {
                Lookup::Found { target, .. }
                    if target.route == dispatch.route && *target.name == *dispatch.lane.name() => {}
                _ => return None,
            }
        }
        let parts = RequestParts {
            route: dispatch.route,
            head,
            params,
            raw,
            peer,
            lifecycle: LifecycleFlags::None,
        };
        // The body's place depends on it. Another length is another route with the same number.
        encode_request(out, &parts).filter(|len| *len == dispatch.head_len)
    }
}

/// What becomes of a request to a route that a worker delegates.
fn plan_stream(head: &RequestHead, worker: &Arc<str>) -> Action {
    match (head.method, head.body) {
        (Method::Head, _) => Action::StreamHead,
        (_, BodyLength::None) => Action::Delegate(worker.clone()),
        _ => Action::Problem(Problem::stream_with_body()),
    }
}

/// What becomes of a request to `/events`; `rest` is what follows that in the path.
fn plan_events(head: &RequestHead, raw: &[u8], rest: &[u8]) -> Action {
    let channel = match rest {
        [] | [b'/'] => None,
        [b'/', name @ ..] if !name.contains(&b'/') => {
            Some(urlencoded::decode_path(name).into_owned())
        }
        _ => return Action::Problem(Problem::no_channel(rest)),
    };
    match (head.method, head.body) {
        (Method::Head, _) => Action::StreamHead,
        (Method::Get, BodyLength::None) => {
            let query = head
                .query
                .and_then(|query| query.of(raw))
                .unwrap_or_default();
            let value = |wanted: &str| {
                let mut pairs = urlencoded::pairs(query);
                let found = pairs.find(|(name, _)| name == wanted);
                found.map(|(_, value)| value.into_owned())
            };
            let wanted = Wanted {
                channel,
                source: value("source"),
                event_type: value("type"),
            };
            Action::Subscribe(wanted, last_event_id(head, raw))
        }
        (Method::Get, _) => Action::Problem(Problem::stream_with_body()),
        (Method::Options, _) => Action::Options("GET, HEAD, OPTIONS".into()),
        _ => Action::Problem(Problem::not_allowed(
            [Method::Get, Method::Head].into_iter().collect(),
        )),
    }
}

/// The control plane's paths, and what OPTIONS says of them.
const CONTROL_METHODS: [(&[u8], &str); 5] = [
    (b"/health", "GET, HEAD, OPTIONS"),
    (b"/internal/slots", "GET, HEAD, OPTIONS"),
    (b"/internal/register", "POST, OPTIONS"),
    (b"/internal/emit", "POST, OPTIONS"),
    (b"/internal/sse-push", "POST, OPTIONS"),
];

/// Whether a body is known to be longer than `limit`.
fn exceeds(body: BodyLength, limit: u64) -> bool {
    matches!(body, BodyLength::Known(length) if length > limit)
}

/// Whether a path belongs to the hub.
fn is_control(path: &[u8]) -> bool {
    const OWN: [&[u8]; 3] = [b"/internal", b"/health", b"/events"];
    OWN.iter().any(|own| match path.strip_prefix(*own) {
        Some(rest) => rest.is_empty() || rest[0] == b'/',
        None => false,
    })
}
