//! A worker process with streams: it does what queries and jobs tell it, and prints what it hears of
//! connections. The test binary itself, started again, as `test_worker`; never called in the process
//! of the tests.

use std::process::Command;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slotway::worker::{
    Connect, Disconnect, Event, Events, PublishError, Request, Response, SlowPolicy, SseRoute,
    Target, Verdict, Worker,
};

use super::client::Client;
use super::hub::Hub;
use super::process::Process;
use super::sse::Sse;
pub use super::stream_jobs::Job;
use super::stream_jobs::{flood, mixed, publish, publish_async, try_one};
use super::{GUARD, wait_until};

const SETUP: &str = "SLOTWAY_TEST_STREAMS";
const READER: &str = "SLOTWAY_TEST_READER";

/// How the worker is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Setup {
    pub name: String,
    socket: String,
    /// Handlers in an event loop, and calls by eventfd in place of futex.
    pub asynchronous: bool,
    /// Has no stream at `/rooms/{room}`.
    pub without_rooms: bool,
    /// Rooms whose inherited connections are refused.
    pub refused: Vec<String>,
    /// Lets inherited connections wait until it is released, or killed; with handlers in an event loop,
    /// for ever.
    pub holds_inherited: bool,
    /// Sends an event to each connection that it inherits.
    pub greets_inherited: bool,
}

/// A connection that the worker was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    pub id: String,
    pub method: String,
    pub path: String,
    pub route: String,
    pub params: Vec<(String, String)>,
    pub query: Vec<(String, String)>,
    /// The field `X-Mark`.
    pub mark: Option<String>,
    pub last: Option<String>,
    pub replayed: bool,
    pub has_peer: bool,
}

/// A connection whose end the worker was told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnected {
    pub id: String,
    pub path: String,
    pub room: Option<String>,
    pub lasted_ms: u64,
}

/// A running worker with streams.
pub struct StreamWorker {
    pub process: Process,
    pub name: String,
}

impl Setup {
    /// A worker of this name for this hub, with blocking handlers.
    pub fn new(hub: &Hub, name: &str) -> Setup {
        Setup {
            name: name.into(),
            socket: hub.socket.to_str().expect("a path of ASCII").into(),
            asynchronous: false,
            without_rooms: false,
            refused: Vec::new(),
            holds_inherited: false,
            greets_inherited: false,
        }
    }

    /// Starts it, and waits until its routes are served.
    pub fn start(self, hub: &Hub) -> StreamWorker {
        let name = self.name.clone();
        let worker = self.spawn();
        hub.wait_attached(&name, worker.process.pid());
        worker
    }

    /// Starts it.
    pub fn spawn(self) -> StreamWorker {
        let own = std::env::current_exe().expect("the test knows its binary");
        let mut command = Command::new(own);
        command
            .args(["worker_process", "--exact", "--ignored"])
            .args(["--nocapture", "--test-threads=1"])
            .env_remove("SLOTWAY_SOCKET")
            .env(SETUP, simd_json::to_string(&self).expect("JSON"));
        StreamWorker {
            process: Process::start(format!("stream worker '{}'", self.name), command),
            name: self.name,
        }
    }
}

impl StreamWorker {
    /// A worker with blocking handlers whose routes are served.
    pub fn start(hub: &Hub) -> StreamWorker {
        Setup::new(hub, "streams").start(hub)
    }

    /// The connections it was asked about.
    pub fn connected(&self) -> Vec<Connected> {
        self.lines("connected ")
    }

    /// The connections it was told the end of.
    pub fn disconnected(&self) -> Vec<Disconnected> {
        self.lines("disconnected ")
    }

    fn lines<T: for<'a> Deserialize<'a>>(&self, prefix: &str) -> Vec<T> {
        let lines = self.process.stdout.find_all(prefix);
        let parse = |line: String| simd_json::from_slice(&mut line.into_bytes()).expect("JSON");
        lines.into_iter().map(parse).collect()
    }

    /// Waits until it was asked about so many connections, and returns them.
    #[track_caller]
    pub fn wait_connected(&self, count: usize) -> Vec<Connected> {
        wait_until(&format!("{count} connects"), || {
            self.process.stdout.find_all("connected ").len() >= count
        });
        let connected = self.connected();
        assert_eq!(connected.len(), count, "{:?}", connected.last());
        connected
    }

    /// Waits until it was told the end of so many connections, and returns them.
    #[track_caller]
    pub fn wait_disconnected(&self, count: usize) -> Vec<Disconnected> {
        wait_until(&format!("{count} disconnects"), || {
            self.process.stdout.find_all("disconnected ").len() >= count
        });
        let disconnected = self.disconnected();
        assert_eq!(disconnected.len(), count, "{:?}", disconnected.last());
        disconnected
    }

    /// Has it publish events, and returns when it has.
    #[track_caller]
    pub fn publish(&self, hub: &Hub, job: Job) {
        let answer = self.job(hub, "publish", job);
        assert_eq!(answer, "published");
    }

    /// Has it try to push one event, and returns what its receipt says.
    #[track_caller]
    pub fn try_push(&self, hub: &Hub, job: Job) -> String {
        self.job(hub, "try", job)
    }

    /// Lets what is held go on.
    pub fn release(&self, hub: &Hub) {
        self.job(hub, "release", Job::default());
    }

    #[track_caller]
    pub fn job(&self, hub: &Hub, what: &str, job: Job) -> String {
        let body = simd_json::to_vec(&job).expect("JSON");
        let answer = hub.request("POST", &format!("/jobs/{}/{what}", self.name), "", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text().to_string()
    }
}

/// Starts a process that reads this stream, and prints the type and the start of each event.
pub fn start_reader(hub: &Hub, path: &str) -> Process {
    let own = std::env::current_exe().expect("the test knows its binary");
    let mut command = Command::new(own);
    command
        .args(["worker_process", "--exact", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env(READER, format!("{} {path}", hub.address));
    Process::start("reader", command)
}

fn read(what: &str) {
    let (address, path) = what.split_once(' ').expect("an address and a path");
    let client = Client::tcp(address.parse().expect("an address"));
    let mut stream = Sse::on(client, path, "");
    println!("\nreading");
    while let Some(message) = stream.try_next() {
        let start: String = message.data.chars().take(200).collect();
        println!("{}: {}", message.event, start.trim_end_matches('x'));
    }
}

/// The worker process.
///
/// # Panics
/// The worker fails.
pub fn run() {
    if let Ok(what) = std::env::var(READER) {
        return read(&what);
    }
    let Ok(setup) = std::env::var(SETUP) else {
        println!("started by hand: nothing to serve");
        return;
    };
    // The harness has begun a line.
    println!();
    let setup: Setup = simd_json::from_slice(&mut setup.into_bytes()).expect("a setup");
    let worker = Worker::new(setup.name.clone())
        .socket(&setup.socket)
        .threads(8);
    let result = if setup.asynchronous {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(with_routes(worker, &setup).run_async())
    } else {
        with_routes(worker, &setup).run()
    };
    result.unwrap_or_else(|error| panic!("the worker failed: {error}"));
}

fn with_routes(worker: Worker, setup: &Setup) -> Worker {
    let mut streams = vec![
        ("/plain/{room}", false, None),
        ("/seats/{row}/{seat}", true, None),
        ("/newest/{room}", true, Some(SlowPolicy::DropNewest)),
        ("/oldest/{room}", true, Some(SlowPolicy::DropOldest)),
        ("/cut/{room}", true, Some(SlowPolicy::Disconnect)),
        ("/unnumbered/{room}", false, Some(SlowPolicy::DropOldest)),
    ];
    if !setup.without_rooms {
        streams.push(("/rooms/{room}", true, None));
    }
    let prefix = |what: &str| format!("/jobs/{}/{what}", setup.name);
    let worker = streams.into_iter().fold(worker, |worker, stream| {
        let (path, replay, policy) = stream;
        let route = SseRoute::new().replay(replay);
        let route = policy.into_iter().fold(route, SseRoute::slow);
        worker.sse_route(path, with_handlers(route, setup.clone()))
    });
    let worker = worker
        .route("POST", &prefix("try"), |mut request: Request| {
            let job: Job = request.json().expect("a job");
            try_one(&request.events(), &job)
        })
        .route("POST", &prefix("flood"), |mut request: Request| {
            let job: Job = request.json().expect("a job");
            flood(&request.events(), &job)
        })
        .route("POST", &prefix("mixed"), |mut request: Request| {
            let job: Job = request.json().expect("a job");
            mixed(&request.events(), &job);
            "published"
        })
        .route("POST", &prefix("release"), |_: Request| {
            GATE.open();
            "released"
        });
    if setup.asynchronous {
        worker.route_async("POST", &prefix("publish"), |mut request| async move {
            let job: Job = request.json_async().await.expect("a job");
            publish_async(&request.events(), &job).await;
            "published"
        })
    } else {
        worker.route("POST", &prefix("publish"), |mut request: Request| {
            let job: Job = request.json().expect("a job");
            publish(&request.events(), &job);
            "published"
        })
    }
}

fn with_handlers(route: SseRoute, setup: Setup) -> SseRoute {
    if setup.asynchronous {
        route
            .on_connect_async(move |connect| {
                let verdict = on_connect(&connect, &setup);
                let greeting = greeting(&connect, &setup);
                let holds_inherited = setup.holds_inherited;
                async move {
                    if let Some((target, event)) = greeting {
                        let pushed = connect.events().push_async(target, event).await;
                        pushed.expect("pushed");
                    }
                    match connect.query("verdict").as_deref() {
                        Some("late") => tokio::time::sleep(LATE).await,
                        Some("never") => std::future::pending().await,
                        _ if connect.is_replayed() && holds_inherited => {
                            std::future::pending().await
                        }
                        _ => {}
                    }
                    verdict
                }
            })
            .on_disconnect_async(|disconnect| async move { on_disconnect(&disconnect) })
    } else {
        route
            .on_connect(move |connect: &Connect| {
                let verdict = on_connect(connect, &setup);
                if let Some((target, event)) = greeting(connect, &setup) {
                    connect.events().push(target, event).expect("pushed");
                }
                match connect.query("verdict").as_deref() {
                    Some("late") => std::thread::sleep(LATE),
                    Some("hold") => GATE.pass(),
                    _ if connect.is_replayed() && setup.holds_inherited => GATE.pass(),
                    _ => {}
                }
                verdict
            })
            .on_disconnect(|disconnect: &Disconnect| {
                on_disconnect(disconnect);
                match disconnect.request().query("bye").as_deref() {
                    Some("hold") => GATE.pass(),
                    Some("slow") => std::thread::sleep(SLOW),
                    _ => {}
                }
            })
    }
}

/// Longer than the hub waits.
const LATE: Duration = Duration::from_millis(5_600);

/// What a slow handler takes for each connection that has ended.
const SLOW: Duration = Duration::from_millis(25);

static GATE: Gate = Gate {
    is_open: Mutex::new(false),
    opened: Condvar::new(),
};

/// Where handlers wait until the test lets them go on.
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let closed = self.is_open.lock().unwrap();
        let waited = self
            .opened
            .wait_timeout_while(closed, GUARD, |is_open| !*is_open);
        drop(waited.unwrap());
    }
}

fn on_connect(connect: &Connect, setup: &Setup) -> Verdict {
    let names = connect.route().split('/');
    let names = names.filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'));
    let value = |name: &str| connect.param(name).expect("the route has it").into_owned();
    let pairs = connect.query_pairs();
    let mark = connect.header("x-mark");
    let connected = Connected {
        id: connect.connection_id().into(),
        method: connect.method().to_string(),
        path: connect.path().into_owned(),
        route: connect.route().into(),
        params: names.map(|name| (name.to_string(), value(name))).collect(),
        query: pairs
            .map(|(n, v)| (n.into_owned(), v.into_owned()))
            .collect(),
        mark: mark.map(|mark| String::from_utf8_lossy(mark).into_owned()),
        last: connect.last_event_id().map(String::from),
        replayed: connect.is_replayed(),
        has_peer: connect.peer().is_some(),
    };
    println!("connected {}", simd_json::to_string(&connected).unwrap());
    let events = connect.events();
    let id = connect.connection_id().to_string();
    if connect.is_replayed() {
        let room = connect.param("room").unwrap_or_default();
        if setup.refused.iter().any(|refused| *refused == room) {
            return Verdict::Refuse(Response::text("no more").status(403));
        }
        return Verdict::Accept;
    }
    match connect.query("verdict").as_deref() {
        Some("204") => Verdict::Refuse(Response::no_content().header("X-Why", "stop")),
        Some("fields") => Verdict::AcceptWith(
            Response::text("a body that nobody gets")
                .header("X-Own", "kept")
                .header("Set-Cookie", "a=1")
                .header("Set-Cookie", "b=2")
                .header("Cache-Control", "max-age=60")
                .header("X-Accel-Buffering", "yes"),
        ),
        Some("panic") => panic!("on purpose"),
        Some("push") => {
            let path = String::from_utf8_lossy(connect.path_raw()).into_owned();
            push_one(&events, Target::connection(id.clone()), "to me".into());
            push_one(&events, Target::path(path), "to all".into());
            push_one(&events, Target::connection(id), "to me again".into());
            Verdict::Accept
        }
        Some("after") => {
            std::thread::spawn(move || {
                for number in 0..20 {
                    push_one(&events, Target::connection(id.clone()), number.to_string());
                }
            });
            Verdict::Accept
        }
        Some(code) if code.parse::<u16>().is_ok() => {
            let status = code.parse().expect("a number");
            Verdict::Refuse(
                Response::text(format!("not you: {code}"))
                    .status(status)
                    .header("X-Why", code),
            )
        }
        _ => Verdict::Accept,
    }
}

/// What is sent to a connection that was inherited.
fn greeting(connect: &Connect, setup: &Setup) -> Option<(Target, Event)> {
    let target = Target::connection(connect.connection_id());
    let greets = connect.is_replayed() && setup.greets_inherited;
    greets.then(|| (target, Event::new("still here")))
}

fn push_one(events: &Events, target: Target, data: String) {
    match events.try_push(target.clone(), Event::new(data.clone())) {
        Ok(_) => {}
        // Not in an async handler, which sends only a few.
        Err(PublishError::Full) => events.push(target, Event::new(data)).expect("pushed"),
        Err(error) => panic!("{error}"),
    }
}

fn on_disconnect(disconnect: &Disconnect) {
    let disconnected = Disconnected {
        id: disconnect.connection_id().into(),
        path: disconnect.path().into(),
        room: disconnect.param("room").map(String::from),
        lasted_ms: disconnect.lasted().as_millis() as u64,
    };
    println!(
        "disconnected {}",
        simd_json::to_string(&disconnected).unwrap()
    );
}
