//! The routes of a worker and what happens to a request on a thread that may block. A handler that
//! panics costs its client the answer and nobody else anything.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::control::{FieldError, Registration, RouteSpec};
use crate::message::Method;
use crate::shm::codec::LifecycleFlags;
use crate::worker::answer::Answer;
use crate::worker::events::Link;
use crate::worker::lane::Incoming;
use crate::worker::request::Request;
use crate::worker::response::{BoxFuture, Response};
use crate::worker::session::Session;
use crate::worker::writer::send_blocking;

/// A route's handler.
pub(crate) enum Handler {
    /// Called on a thread that may block.
    Blocking(Box<dyn Fn(Request) -> Response + Send + Sync>),
    /// Called in an event loop.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    Async(Box<dyn Fn(Request) -> BoxFuture<Response> + Send + Sync>),
    /// Answers this status without a body and calls nobody.
    Constant(u16),
}

/// What is called for the requests of a route.
#[derive(Debug)]
pub(crate) enum Handlers {
    /// An ordinary route.
    Requests(Handler),
    /// A route whose connections the hub keeps: for their beginning and for their end.
    Streams {
        connect: Handler,
        disconnect: Handler,
    },
}

/// One route.
#[derive(Debug)]
pub(crate) struct Route {
    spec: RouteSpec,
    params: Box<[Box<str>]>,
    handlers: Handlers,
}

impl Route {
    /// The pattern.
    pub(crate) fn path(&self) -> &str {
        &self.spec.path
    }

    /// The names of the path parameters, in order.
    pub(crate) fn params(&self) -> &[Box<str>] {
        &self.params
    }

    /// The handler for a request, by what its head says of a stream; `None` where this route has
    /// nothing to do with that.
    pub(crate) fn handler(&self, lifecycle: LifecycleFlags) -> Option<&Handler> {
        match (&self.handlers, lifecycle) {
            (Handlers::Requests(handler), LifecycleFlags::None) => Some(handler),
            (Handlers::Streams { connect, .. }, LifecycleFlags::Connect { .. }) => Some(connect),
            (Handlers::Streams { disconnect, .. }, LifecycleFlags::Disconnect) => Some(disconnect),
            _ => None,
        }
    }

    fn is_async(&self) -> bool {
        let is_async = |handler: &Handler| matches!(handler, Handler::Async(_));
        match &self.handlers {
            Handlers::Requests(handler) => is_async(handler),
            Handlers::Streams {
                connect,
                disconnect,
            } => is_async(connect) || is_async(disconnect),
        }
    }
}

/// A worker's name and routes.
#[derive(Debug)]
pub(crate) struct Service {
    name: String,
    routes: Vec<Route>,
    link: Arc<Link>,
}

impl Service {
    /// Checks the registration as the hub would.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(crate) fn new(
        name: String,
        routes: Vec<(RouteSpec, Handlers)>,
        link: Arc<Link>,
    ) -> Result<Arc<Service>, FieldError> {
        let registration = Registration {
            name,
            routes: routes.iter().map(|(spec, _)| spec.clone()).collect(),
        };
        let valid = registration.validate()?;
        let with_params = routes
            .into_iter()
            .zip(&valid.routes)
            .map(|((spec, handlers), valid)| {
                let params = valid.pattern.param_names().map(Box::from).collect();
                Route {
                    spec,
                    params,
                    handlers,
                }
            });
        Ok(Arc::new(Service {
            routes: with_params.collect(),
            name: valid.name,
            link,
        }))
    }

    /// What is said to the hub.
    pub(crate) fn registration(&self) -> Registration {
        let routes = self.routes.iter().map(|route| route.spec.clone()).collect();
        Registration {
            name: self.name.clone(),
            routes,
        }
    }

    /// The worker's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where those who publish find the session.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The route with this number.
    pub(crate) fn route(&self, number: usize) -> Option<&Route> {
        self.routes.get(number)
    }

    /// The first route with an async handler.
    pub(crate) fn first_async(&self) -> Option<&RouteSpec> {
        let found = self.routes.iter().find(|route| route.is_async());
        found.map(|route| &route.spec)
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Handler::Blocking(_) => "Blocking",
            Handler::Async(_) => "Async",
            Handler::Constant(_) => "Constant",
        })
    }
}

/// Opens a request. `None` where it is answered already: with 500 because it cannot be read, or into
/// the void because its client has gone.
pub(crate) fn open(
    session: &Arc<Session>,
    lane: usize,
    incoming: Incoming,
) -> Option<(Request, Answer)> {
    let mut answer = Answer::new(session.clone(), lane, incoming.exchange);
    // Told once, the end of a stream is not taken back.
    let is_over = answer.is_cancelled();
    match Request::new(incoming) {
        Ok(request) if is_over && request.lifecycle() != LifecycleFlags::Disconnect => None,
        Ok(request) => {
            if request.method() == Method::Head {
                answer.set_bodyless();
            }
            Some((request, answer))
        }
        Err(error) => {
            tracing::error!(%error, "the hub sent a request that cannot be read: answering 500");
            None
        }
    }
}

/// Handles a request from its arrival to its last byte.
pub(crate) fn serve_blocking(session: &Arc<Session>, lane: usize, incoming: Incoming) {
    let Some((request, answer)) = open(session, lane, incoming) else {
        return;
    };
    let route = session.service().route(request.route_number());
    match route.and_then(|route| route.handler(request.lifecycle())) {
        Some(Handler::Blocking(handler)) => handle_blocking(handler, request, answer),
        Some(Handler::Constant(status)) => send_blocking(answer, Response::new(*status)),
        Some(Handler::Async(_)) | None => {
            tracing::error!(
                number = request.route_number(),
                lifecycle = ?request.lifecycle(),
                "the hub sent a request for a route this worker cannot answer: answering 500"
            );
            drop(request);
            send_blocking(answer, Response::internal_error());
        }
    }
}

/// Calls a handler and sends what it answers.
pub(crate) fn handle_blocking(
    handler: &(dyn Fn(Request) -> Response + Send + Sync),
    request: Request,
    answer: Answer,
) {
    let response = catch_unwind(AssertUnwindSafe(|| handler(request))).unwrap_or_else(|panic| {
        log_panic(&*panic);
        Response::internal_error()
    });
    send_blocking(answer, response);
}

/// Puts a handler's panic in the log; the panic hook has told where it was.
pub(crate) fn log_panic(panic: &(dyn Any + Send)) {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(
        panic = text.unwrap_or("no text"),
        "a handler panicked: answering 500"
    );
}
