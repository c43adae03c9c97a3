//! Declares a worker: its name, its routes, and how it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::control::{DEFAULT_PORT, FieldError, RouteSpec, default_socket};
use crate::worker::blocking;
use crate::worker::error::Error;
use crate::worker::events::{Events, LinkOwner};
use crate::worker::request::Request;
use crate::worker::response::{IntoResponse, Response};
use crate::worker::service::{Handler, Handlers, Service};
use crate::worker::sse_route::SseRoute;
use crate::worker::stop::WorkerHandle;

/// The environment variable that names the hub's socket, whatever the program says.
pub const SOCKET_VARIABLE: &str = "SLOTWAY_SOCKET";

/// A worker: a name and routes, to be run.
#[derive(Debug)]
pub struct Worker {
    name: String,
    routes: Vec<(RouteSpec, Handlers)>,
    settings: Settings,
    /// Whether a limit was set before there was a route for it.
    max_body_of_none: bool,
}

/// How a worker runs.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) socket: PathBuf,
    pub(crate) threads: usize,
    pub(crate) reconnect: bool,
    pub(crate) handle_signals: bool,
    pub(crate) patience: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) handle: WorkerHandle,
    pub(crate) link: LinkOwner,
}

impl Worker {
    /// A worker without routes. A newcomer with the same name replaces the worker before.
    pub fn new(name: impl Into<String>) -> Worker {
        Worker {
            name: name.into(),
            routes: Vec::new(),
            max_body_of_none: false,
            settings: Settings {
                socket: default_socket(DEFAULT_PORT),
                threads: available_parallelism().map_or(1, usize::from),
                reconnect: true,
                handle_signals: true,
                patience: Duration::from_secs(5),
                drain_timeout: Duration::from_secs(35),
                handle: WorkerHandle::default(),
                link: LinkOwner::default(),
            },
        }
    }

    /// Adds a route: a method, a path pattern (`/items/{id}`, `/files/{*rest}`) and what answers it.
    /// What is wrong with either is said by [`Worker::run`].
    ///
    /// The handler runs on a thread that may block. GET routes answer HEAD too.
    pub fn route<R: IntoResponse>(
        self,
        method: &str,
        path: &str,
        handler: impl Fn(Request) -> R + Send + Sync + 'static,
    ) -> Worker {
        let handler = move |request: Request| -> Response { handler(request).into_response() };
        self.with_route(method, path, Handler::Blocking(Box::new(handler)))
    }

    /// Adds a route whose handler is async. Such a worker is run by [`Worker::run_async`].
    #[cfg(feature = "tokio")]
    pub fn route_async<R, F>(
        self,
        method: &str,
        path: &str,
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) -> Worker
    where
        R: IntoResponse,
        F: Future<Output = R> + Send + 'static,
    {
        let handler = move |request: Request| -> crate::worker::response::BoxFuture<Response> {
            let answer = handler(request);
            Box::pin(async move { answer.await.into_response() })
        };
        self.with_route(method, path, Handler::Async(Box::new(handler)))
    }

    /// Adds a route whose clients stay connected for Server-Sent Events: a GET path, and who may
    /// connect. The hub keeps the connections; events for them are sent with [`Worker::events`].
    ///
    /// ```no_run
    /// use slotway::worker::{Connect, Event, SseRoute, Target, Worker};
    ///
    /// # fn main() -> Result<(), slotway::worker::Error> {
    /// let room = SseRoute::new().on_connect(|c: &Connect| c.param("room").as_deref() != Some("13"));
    /// let worker = Worker::new("chat").sse_route("/rooms/{room}", room);
    /// let events = worker.events();
    /// std::thread::spawn(move || {
    ///     let room = Target::route("/rooms/{room}", [("room", "7")]);
    ///     events.push(room, Event::new("hello").event("said"))
    /// });
    /// worker.run()
    /// # }
    /// ```
    pub fn sse_route(mut self, path: &str, route: SseRoute) -> Worker {
        self.routes.push(route.into_parts(path));
        self
    }

    /// Publishes events, from now on and for as long as the worker runs.
    pub fn events(&self) -> Events {
        Events::new(self.settings.link.link().clone())
    }

    /// Sets how many bytes of body the hub takes for the route that was added last, 0 for any number.
    /// Longer ones are answered with 413. Without this, what the hub was started with counts
    /// (`--max-body`). A route for Server-Sent Events takes no bodies and cannot have this.
    ///
    /// ```no_run
    /// use slotway::worker::{Request, Worker};
    ///
    /// # fn main() -> Result<(), slotway::worker::Error> {
    /// Worker::new("archive")
    ///     .route("PUT", "/backups/{name}", |_: Request| "taken")
    ///     .max_body(0)
    ///     .run()
    /// # }
    /// ```
    pub fn max_body(mut self, bytes: u64) -> Worker {
        match self.routes.last_mut() {
            Some((spec, _)) => spec.max_body = Some(bytes),
            None => self.max_body_of_none = true,
        }
        self
    }

    /// Sets how many threads serve in [`Worker::run`]; at least one. The default is the number of
    /// processors, which suits handlers that compute. Handlers that wait, for a database or a disk,
    /// want more: while all threads are busy, nobody answers, and a worker that does not answer the
    /// hub's pings for half a minute is thrown out. A handler that streams its answer has its thread for
    /// as long as the client reads; for many large answers to the world use async handlers.
    pub fn threads(mut self, threads: usize) -> Worker {
        self.settings.threads = threads.max(1);
        self
    }

    /// Sets the hub's socket. The default is that of a hub on port 3200; the environment variable
    /// `SLOTWAY_SOCKET` wins over both.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Worker {
        self.settings.socket = path.into();
        self
    }

    /// Whether the worker connects again when the hub goes away, which is the default, or returns
    /// [`Error::HubGone`].
    pub fn reconnect(mut self, reconnect: bool) -> Worker {
        self.settings.reconnect = reconnect;
        self
    }

    /// How long the worker waits for a hub that is not there when it starts; 5 seconds by default, and
    /// not at all with `reconnect(false)`. Once attached, it waits for the hub's return without limit.
    pub fn patience(mut self, patience: Duration) -> Worker {
        self.settings.patience = patience;
        self
    }

    /// Whether SIGTERM and SIGINT have the worker drain and return, which is the default. A second
    /// signal makes it return at once. After `run` has returned, both signals do what they did before;
    /// a handler of the program's own is called meanwhile, too.
    pub fn handle_signals(mut self, handle: bool) -> Worker {
        self.settings.handle_signals = handle;
        self
    }

    /// How long requests may take to finish once the worker was asked to stop; 35 seconds by default.
    pub fn drain_timeout(mut self, timeout: Duration) -> Worker {
        self.settings.drain_timeout = timeout;
        self
    }

    /// What stops the worker while it runs.
    pub fn handle(&self) -> WorkerHandle {
        self.settings.handle.clone()
    }

    /// Connects to the hub and serves until the worker is stopped, which is `Ok`.
    ///
    /// When the hub goes away, the worker connects and registers again.
    ///
    /// # Errors
    /// Why the worker cannot run or go on.
    pub fn run(self) -> Result<(), Error> {
        let (settings, service) = self.prepare()?;
        if let Some(route) = service.first_async() {
            return Err(Error::AsyncRoute {
                route: format!("{} {}", route.method, route.path),
            });
        }
        blocking::run(&settings, &service)
    }

    /// As [`Worker::run`], on tokio: async handlers run in its event loop, others by
    /// `spawn_blocking`. Needs a runtime with `enable_all`, of either flavour.
    ///
    /// # Errors
    /// Why the worker cannot run or go on.
    #[cfg(feature = "tokio")]
    pub async fn run_async(self) -> Result<(), Error> {
        let (settings, service) = self.prepare()?;
        crate::worker::tokio::run(&settings, &service).await
    }

    fn with_route(mut self, method: &str, path: &str, handler: Handler) -> Worker {
        let spec = RouteSpec {
            method: method.into(),
            path: path.into(),
            ..RouteSpec::default()
        };
        self.routes.push((spec, Handlers::Requests(handler)));
        self
    }

    pub(crate) fn prepare(mut self) -> Result<(Settings, Arc<Service>), Error> {
        if let Some(socket) = std::env::var_os(SOCKET_VARIABLE).filter(|s| !s.is_empty()) {
            self.settings.socket = socket.into();
        }
        if self.max_body_of_none {
            return Err(Error::Registration(FieldError {
                field: "max_body".into(),
                detail:
                    "it was set before there was a route: call max_body behind the route it is for"
                        .into(),
            }));
        }
        let service = Service::new(self.name, self.routes, self.settings.link.link().clone())
            .map_err(Error::Registration)?;
        Ok((self.settings, service))
    }
}
