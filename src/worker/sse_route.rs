//! Routes whose clients stay connected: who may connect, and who has left. The hub keeps the
//! connections and says both in requests of its own, which are read here.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use crate::control::{Lifecycle, RouteSpec};
use crate::message::Method;
use crate::shm::codec::LifecycleFlags;
use crate::sse::SlowPolicy;
use crate::worker::request::Request;
use crate::worker::response::{IntoResponse, Payload, Response};
use crate::worker::service::{Handler, Handlers};

/// A route for Server-Sent Events, for [`Worker::sse_route`](crate::worker::Worker::sse_route).
/// Without handlers everybody may connect.
#[derive(Debug)]
pub struct SseRoute {
    replay: bool,
    slow: Option<SlowPolicy>,
    connect: Handler,
    disconnect: Handler,
}

impl Default for SseRoute {
    fn default() -> SseRoute {
        SseRoute::new()
    }
}

impl SseRoute {
    /// A route that everybody may connect to, without replay.
    pub fn new() -> SseRoute {
        SseRoute {
            replay: false,
            slow: None,
            connect: Handler::Constant(200),
            disconnect: Handler::Constant(204),
        }
    }

    /// Whether the hub numbers the events of each path and remembers the last of them, so that a client
    /// that comes back gets what it has missed. Off unless asked for.
    pub fn replay(mut self, replay: bool) -> SseRoute {
        self.replay = replay;
        self
    }

    /// What happens to a client that does not keep up. Without this, what the hub was started with.
    pub fn slow(mut self, policy: SlowPolicy) -> SseRoute {
        self.slow = Some(policy);
        self
    }

    /// Sets what decides who may connect. It runs on a thread that may block, and has five seconds
    /// before the client is told 504. If it panics, the client gets 500.
    ///
    /// After a restart of the worker it is asked again about every client that is still connected
    /// ([`Connect::is_replayed`]); a refusal then closes the connection.
    pub fn on_connect<V: IntoVerdict>(
        mut self,
        handler: impl Fn(&Connect) -> V + Send + Sync + 'static,
    ) -> SseRoute {
        self.connect = Handler::Blocking(Box::new(move |request| match Connect::new(request) {
            Ok(connect) => handler(&connect).into_verdict().into_response(),
            Err(fault) => fault.answer(),
        }));
        self
    }

    /// As [`SseRoute::on_connect`], with an async handler. The worker is then run by
    /// [`Worker::run_async`](crate::worker::Worker::run_async).
    #[cfg(feature = "tokio")]
    pub fn on_connect_async<V, F>(
        mut self,
        handler: impl Fn(Connect) -> F + Send + Sync + 'static,
    ) -> SseRoute
    where
        V: IntoVerdict,
        F: Future<Output = V> + Send + 'static,
    {
        self.connect = Handler::Async(Box::new(move |request| match Connect::new(request) {
            Ok(connect) => {
                let verdict = handler(connect);
                Box::pin(async move { verdict.await.into_verdict().into_response() })
            }
            Err(fault) => Box::pin(std::future::ready(fault.answer())),
        }));
        self
    }

    /// Sets what is told when a client that was accepted has left: once for each, on a thread that may
    /// block. A panic in it is logged.
    pub fn on_disconnect(
        mut self,
        handler: impl Fn(&Disconnect) + Send + Sync + 'static,
    ) -> SseRoute {
        self.disconnect =
            Handler::Blocking(Box::new(move |request| match Disconnect::new(request) {
                Ok(disconnect) => {
                    handler(&disconnect);
                    Response::no_content()
                }
                Err(fault) => fault.answer(),
            }));
        self
    }

    /// As [`SseRoute::on_disconnect`], with an async handler. The worker is then run by
    /// [`Worker::run_async`](crate::worker::Worker::run_async).
    #[cfg(feature = "tokio")]
    pub fn on_disconnect_async<F>(
        mut self,
        handler: impl Fn(Disconnect) -> F + Send + Sync + 'static,
    ) -> SseRoute
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.disconnect = Handler::Async(Box::new(move |request| match Disconnect::new(request) {
            Ok(disconnect) => {
                let told = handler(disconnect);
                Box::pin(async move {
                    told.await;
                    Response::no_content()
                })
            }
            Err(fault) => Box::pin(std::future::ready(fault.answer())),
        }));
        self
    }

    /// The route as it is registered, and what is called for it.
    pub(crate) fn into_parts(self, path: &str) -> (RouteSpec, Handlers) {
        let spec = RouteSpec {
            method: Method::Get.as_str().into(),
            path: path.into(),
            sse: true,
            replay: self.replay,
            slow: self.slow,
            max_body: None,
        };
        let handlers = Handlers::Streams {
            connect: self.connect,
            disconnect: self.disconnect,
        };
        (spec, handlers)
    }
}

/// A client that wants to connect. It is also the [`Request`] with which it asked: path, parameters,
/// query and header fields.
#[derive(Debug)]
pub struct Connect {
    request: Request,
    connection_id: String,
    last_event_id: Option<String>,
    replayed: bool,
}

impl Connect {
    fn new(request: Request) -> Result<Connect, Misread> {
        let replayed = matches!(
            request.lifecycle(),
            LifecycleFlags::Connect { replayed: true }
        );
        match read(&request)? {
            Lifecycle::Connect {
                connection_id,
                last_event_id,
                ..
            } => Ok(Connect {
                request,
                connection_id,
                last_event_id,
                replayed,
            }),
            other => Err(Misread(format!("{other:?} is no connect"))),
        }
    }

    /// The request with which the client asked.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Names the connection for as long as it lasts, for
    /// [`Target::connection`](crate::worker::Target::connection) and [`Disconnect`]. Events for it may
    /// be sent once it is accepted.
    pub fn connection_id(&self) -> &str {
        &self.connection_id
    }

    /// The last event the client has seen, where it says so.
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    /// Whether the client has been connected since before this worker attached, and the hub only asks
    /// whether it may stay.
    pub fn is_replayed(&self) -> bool {
        self.replayed
    }
}

impl Deref for Connect {
    type Target = Request;

    fn deref(&self) -> &Request {
        &self.request
    }
}

/// A client that was connected and is no more.
#[derive(Debug)]
pub struct Disconnect {
    request: Request,
    connection_id: String,
    path: String,
    params: BTreeMap<String, String>,
    lasted: Duration,
}

impl Disconnect {
    fn new(request: Request) -> Result<Disconnect, Misread> {
        match read(&request)? {
            Lifecycle::Disconnect {
                connection_id,
                path,
                params,
                lasted_ms,
            } => Ok(Disconnect {
                request,
                connection_id,
                path,
                params,
                lasted: Duration::from_millis(lasted_ms),
            }),
            other => Err(Misread(format!("{other:?} is no disconnect"))),
        }
    }

    /// The request with which the client had connected.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The name of the connection, as in [`Connect::connection_id`].
    pub fn connection_id(&self) -> &str {
        &self.connection_id
    }

    /// The path the client was connected to, percent-encoded as it came.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path parameter with this name, percent-decoded.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str)
    }

    /// How long it was connected, in whole milliseconds.
    pub fn lasted(&self) -> Duration {
        self.lasted
    }
}

/// Why a request of the hub's own is not understood.
struct Misread(String);

impl Misread {
    fn answer(self) -> Response {
        tracing::error!(
            fault = self.0,
            "what the hub says of a stream is not understood: answering 500"
        );
        Response::internal_error()
    }
}

fn read(request: &Request) -> Result<Lifecycle, Misread> {
    let body = request
        .body()
        .ok_or_else(|| Misread("it comes in parts".into()))?;
    // The parser works in place, and the slots are not for writing.
    simd_json::from_slice(&mut body.to_vec()).map_err(|error| Misread(error.to_string()))
}

/// Whether a client may connect.
#[derive(Debug)]
pub enum Verdict {
    /// It may.
    Accept,
    /// It may, and these field lines go out with the head of its stream. The status must be 200; a body
    /// is left out, and so are the fields that belong to the hub.
    AcceptWith(Response),
    /// It may not, and gets this. The status must not be 200; with 204 browsers do not try again.
    Refuse(Response),
}

impl Verdict {
    fn into_response(self) -> Response {
        match self {
            Verdict::Accept => Response::ok(),
            Verdict::AcceptWith(response) if response.status_code() == 200 => {
                response.body(Payload::Empty)
            }
            Verdict::Refuse(response) if response.status_code() != 200 => response,
            Verdict::AcceptWith(_) => {
                Response::faulty("a client is accepted with the status 200 and no other".into())
            }
            Verdict::Refuse(_) => {
                Response::faulty("a client cannot be refused with the status 200".into())
            }
        }
    }
}

/// What a connect handler may return: a [`Verdict`]; nothing, which accepts; a `bool`, where `false`
/// refuses with 403; a [`Response`], which accepts if its status is 200 and refuses otherwise; a status
/// and an answer, in the same sense; or a result, whose error is the [`Response`] that refuses.
pub trait IntoVerdict {
    /// The verdict.
    fn into_verdict(self) -> Verdict;
}

impl IntoVerdict for Verdict {
    fn into_verdict(self) -> Verdict {
        self
    }
}

impl IntoVerdict for () {
    fn into_verdict(self) -> Verdict {
        Verdict::Accept
    }
}

impl IntoVerdict for bool {
    fn into_verdict(self) -> Verdict {
        if self {
            Verdict::Accept
        } else {
            Verdict::Refuse(Response::text("forbidden\n").status(403))
        }
    }
}

impl IntoVerdict for Response {
    fn into_verdict(self) -> Verdict {
        if self.status_code() == 200 {
            Verdict::AcceptWith(self)
        } else {
            Verdict::Refuse(self)
        }
    }
}

impl<T: IntoResponse> IntoVerdict for (u16, T) {
    fn into_verdict(self) -> Verdict {
        self.into_response().into_verdict()
    }
}

impl<T: IntoVerdict> IntoVerdict for Result<T, Response> {
    fn into_verdict(self) -> Verdict {
        match self {
            Ok(value) => value.into_verdict(),
            Err(response) => Verdict::Refuse(response),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Accept | Verdict::AcceptWith(_) => f.write_str("accepted"),
            Verdict::Refuse(response) => write!(f, "refused with {response}"),
        }
    }
}
