//! The routes of a worker and what happens to a request on a thread that may block. A handler that
//! panics costs its client the answer and nobody else anything.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::control::{FieldError, Registration, RouteSpec};
use crate::message::Method;
use crate::worker::answer::Answer;
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
}

/// One route.
#[derive(Debug)]
pub(crate) struct Route {
    spec: RouteSpec,
    params: Box<[Box<str>]>,
    handler: Handler,
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

    /// The handler.
    pub(crate) fn handler(&self) -> &Handler {
        &self.handler
    }
}

/// A worker's name and routes.
#[derive(Debug)]
pub(crate) struct Service {
    name: String,
    routes: Vec<Route>,
}

impl Service {
    /// Checks the registration as the hub would.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub(crate) fn new(
        name: String,
        routes: Vec<(RouteSpec, Handler)>,
    ) -> Result<Arc<Service>, FieldError> {
        let registration = Registration {
            name,
            routes: routes.iter().map(|(spec, _)| spec.clone()).collect(),
        };
        let valid = registration.validate()?;
        let with_params = routes
            .into_iter()
            .zip(&valid.routes)
            .map(|((spec, handler), valid)| {
                let params = valid.pattern.param_names().map(Box::from).collect();
                Route {
                    spec,
                    params,
                    handler,
                }
            });
        Ok(Arc::new(Service {
            routes: with_params.collect(),
            name: valid.name,
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

    /// The route with this number.
    pub(crate) fn route(&self, number: usize) -> Option<&Route> {
        self.routes.get(number)
    }

    /// The first route with an async handler.
    pub(crate) fn first_async(&self) -> Option<&RouteSpec> {
        let found = self
            .routes
            .iter()
            .find(|r| matches!(r.handler, Handler::Async(_)));
        found.map(|route| &route.spec)
    }
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Handler::Blocking(_) => "Blocking",
            Handler::Async(_) => "Async",
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
    if answer.is_cancelled() {
        return None;
    }
    match Request::new(incoming) {
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
    match route.map(Route::handler) {
        Some(Handler::Blocking(handler)) => handle_blocking(handler, request, answer),
        Some(Handler::Async(_)) | None => {
            tracing::error!(
                number = request.route_number(),
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
