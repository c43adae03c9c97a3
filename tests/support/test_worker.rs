//! A worker process that answers what the tests want to see: the test binary itself, started again.
//! Uses the SDK as any worker would; never called in the process of the tests.
//!
//! A test file that starts one holds this:
//! ```ignore
//! #[test]
//! #[ignore = "the worker process of the other tests, which they start"]
//! fn worker_process() {
//!     support::test_worker::run();
//! }
//! ```

use std::io::{self, Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use slotway::worker::{Request, Response, Worker};

use super::evil_worker;
use super::hub::Hub;
use super::pattern::{Checker, pattern};
use super::process::Process;

const NAME: &str = "SLOTWAY_TEST_NAME";
const ROUTES: &str = "SLOTWAY_TEST_ROUTES";
const KIND: &str = "SLOTWAY_TEST_KIND";
const SOCKET: &str = "SLOTWAY_TEST_SOCKET";

/// What a handler saw of a request.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub worker: String,
    pub method: String,
    pub version: String,
    pub target: Vec<u8>,
    pub path: String,
    pub route: String,
    /// Name, raw and decoded.
    pub params: Vec<(String, Vec<u8>, String)>,
    pub query_raw: Option<Vec<u8>>,
    pub query: Vec<(String, String)>,
    pub headers: Vec<(String, Vec<u8>)>,
    pub peer: Option<String>,
    pub body_length: Option<u64>,
    pub body: Option<Vec<u8>>,
}

/// A JSON document both ways.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub item: String,
    pub count: u32,
    pub notes: Vec<String>,
}

/// Starts a worker whose routes all answer with [`Seen`]. `routes` are `METHOD /pattern`.
pub fn start_reflector(hub: &Hub, name: &str, routes: &[&str]) -> Process {
    start(hub, "reflector", name, &routes.join("\n"))
}

/// Starts a worker with the routes of [`blocking_worker`].
pub fn start_blocking(hub: &Hub, name: &str) -> Process {
    start(hub, "blocking", name, "")
}

/// Starts a worker of one thread that answers `POST /token/{token}` and `GET /slow/{ms}/{token}` with
/// the token and the body.
pub fn start_token(hub: &Hub, name: &str) -> Process {
    start(hub, "token", name, "")
}

/// Starts an evil worker (`super::evil_worker`), without waiting for it. `crossing`: whether it may
/// name frames in answers they were not made for.
pub fn start_evil(hub: &Hub, name: &str, seed: u64, time: Duration, crossing: bool) -> Process {
    let settings = format!("{seed} {} {crossing}", time.as_millis());
    spawn(hub, "evil", name, &settings)
}

/// Starts a worker with the routes of [`async_worker`].
pub fn start_async(hub: &Hub, name: &str) -> Process {
    start(hub, "async", name, "")
}

fn start(hub: &Hub, kind: &str, name: &str, routes: &str) -> Process {
    let process = spawn(hub, kind, name, routes);
    hub.wait_attached(name, process.pid());
    process
}

fn spawn(hub: &Hub, kind: &str, name: &str, routes: &str) -> Process {
    let own = std::env::current_exe().expect("the test knows its binary");
    let mut command = Command::new(own);
    command
        .args(["worker_process", "--exact", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env_remove("SLOTWAY_SOCKET")
        .env(KIND, kind)
        .env(NAME, name)
        .env(ROUTES, routes)
        .env(SOCKET, &hub.socket);
    Process::start(format!("test worker '{name}'"), command)
}

/// The worker process.
///
/// # Panics
/// The worker fails.
pub fn run() {
    let variable = |name| std::env::var(name).ok();
    let Some(kind) = variable(KIND) else {
        println!("started by hand: nothing to serve");
        return;
    };
    let name = variable(NAME).expect("a name");
    let socket = variable(SOCKET).expect("a socket");
    if kind == "evil" {
        let settings = variable(ROUTES).expect("settings");
        let settings: Vec<&str> = settings.split(' ').collect();
        let [seed, ms, crossing] = settings[..] else {
            panic!("seed, milliseconds, crossing: {settings:?}");
        };
        let time = Duration::from_millis(ms.parse().expect("milliseconds"));
        let seed = seed.parse().expect("a seed");
        return evil_worker::run(socket.as_ref(), &name, seed, time, crossing == "true");
    }
    let worker = Worker::new(name.clone()).socket(socket).threads(3);
    let result = match kind.as_str() {
        "reflector" => {
            let routes = variable(ROUTES).unwrap_or_default();
            let with_route = |worker: Worker, line: &str| {
                let (method, path) = line.split_once(' ').expect("METHOD /pattern");
                let name = name.clone();
                worker.route(method, path, move |request| reflect(&name, request))
            };
            routes.lines().fold(worker, with_route).run()
        }
        "blocking" => blocking_worker(worker).run(),
        "async" => run_async(worker),
        "token" => worker
            .threads(1)
            .route("POST", "/token/{token}", echo_token)
            .route("GET", "/slow/{ms}/{token}", |request: Request| {
                std::thread::sleep(Duration::from_millis(number(&request, "ms")));
                echo_token(request)
            })
            .run(),
        other => panic!("there is no test worker '{other}'"),
    };
    result.unwrap_or_else(|error| panic!("the worker failed: {error}"));
}

fn reflect(worker: &str, mut request: Request) -> Response {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let names: Vec<String> = request
        .route()
        .split('/')
        .filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| name.trim_start_matches('*').to_string())
        .collect();
    let param = |name: &String| {
        let raw = request.param_raw(name).expect("the route has it").to_vec();
        let decoded = request.param(name).expect("the route has it").into_owned();
        (name.clone(), raw, decoded)
    };
    let mut seen = Seen {
        worker: worker.into(),
        method: request.method().to_string(),
        version: format!("{:?}", request.version()),
        target: request.target().to_vec(),
        path: request.path().into_owned(),
        route: request.route().to_string(),
        params: names.iter().map(param).collect(),
        query_raw: request.query_raw().map(<[u8]>::to_vec),
        query: request
            .query_pairs()
            .map(|(n, v)| (n.into_owned(), v.into_owned()))
            .collect(),
        headers: request
            .headers()
            .map(|(name, value)| (text(name), value.to_vec()))
            .collect(),
        peer: request.peer().map(|peer| peer.to_string()),
        body_length: request.body_length(),
        body: None,
    };
    seen.body = request.read_body(1 << 20).ok().map(|body| body.to_vec());
    Response::json(&seen)
}

static BEGUN: AtomicU64 = AtomicU64::new(0);
static CANCELLED: AtomicU64 = AtomicU64::new(0);

/// Handlers on threads that may block.
fn blocking_worker(worker: Worker) -> Worker {
    worker
        .route("GET", "/hello", |_: Request| "Hello, World!")
        .route("GET", "/panic", |_: Request| -> Response {
            panic!("on purpose")
        })
        .route("GET", "/panic-in-stream", |_: Request| {
            Response::ok().stream(|out| {
                out.write_all(b"some")?;
                out.flush()?;
                panic!("on purpose, in the stream")
            })
        })
        .route("GET", "/fail", |_: Request| {
            Err::<Response, _>("an error without a status")
        })
        .route("GET", "/bad-name", |_: Request| {
            Response::text("x").header("bad name", "value")
        })
        .route("GET", "/bad-value", |_: Request| {
            Response::text("x").header("x-split", "a\r\nInjected: yes")
        })
        .route("GET", "/own-framing", |_: Request| {
            Response::text("four")
                .header("Content-Length", "400")
                .header("Transfer-Encoding", "chunked")
                .header("Connection", "upgrade")
                .header("Upgrade", "nothing")
                .header("X-Kept", "yes")
        })
        .route("GET", "/fields", |_: Request| {
            Response::new(203)
                .header("Set-Cookie", "a=1")
                .header("Set-Cookie", "b=2")
                .header("X-Bytes", [b'<', 0x80, 0xff, b'>'])
                .body("fields")
        })
        .route("GET", "/status/{code}", |request: Request| {
            let code = request.param("code").and_then(|c| c.parse().ok());
            Response::new(code.unwrap_or(400)).body("as asked")
        })
        .route("GET", "/nothing", |_: Request| ())
        .route("GET", "/pattern/{n}", |request: Request| {
            let n = number(&request, "n");
            Response::ok().stream(move |out| write_pattern(out, n))
        })
        .route("GET", "/sized/{n}", |request: Request| {
            let n = number(&request, "n");
            Response::ok().stream_sized(n, move |out| write_pattern(out, n))
        })
        .route("GET", "/too-short", |_: Request| {
            Response::ok().stream_sized(400_000, |out| write_pattern(out, 390_000))
        })
        .route("GET", "/too-long", |_: Request| {
            Response::ok().stream_sized(400_000, |out| write_pattern(out, 410_000))
        })
        .route("POST", "/check", |request: Request| check(request))
        .route("POST", "/relay", |request: Request| {
            Response::ok().body(request.into_body())
        })
        .route("POST", "/invert", |request: Request| {
            let mut body = request.into_body();
            Response::ok().stream(move |out| {
                while let Some(part) = body.read_chunk()? {
                    let inverted: Vec<u8> = part.iter().map(|byte| !byte).collect();
                    out.write_all(&inverted)?;
                    out.flush()?;
                }
                Ok(())
            })
        })
        .route("POST", "/json", |mut request: Request| {
            let order: Order = request.json()?;
            let count = order.count * 2;
            Ok::<_, slotway::worker::BodyError>(Response::json(&Order { count, ..order }))
        })
        .route("POST", "/limited", |mut request: Request| {
            let body = request.read_body(1000)?;
            Ok::<_, slotway::worker::BodyError>(body.len().to_string())
        })
        .route("POST", "/ignore", |_: Request| "not read")
        .route("GET", "/fields/{n}", |request: Request| {
            let names = (0..number(&request, "n")).map(|n| format!("x-{n}"));
            names.fold(Response::ok(), |response, name| response.header(&name, "y"))
        })
        .route("GET", "/nominated", |_: Request| {
            Response::text("nominated")
                .header("x-hop", "1")
                .header("connection", "x-hop, close")
                .header("x-hop", "2")
                .header("x-end", "3")
        })
        .route("POST", "/swallow", swallow)
        .route("POST", "/short", swallow)
        .max_body(1000)
        .route("POST", "/long", swallow)
        .max_body(0)
        .route("GET", "/until-cancelled", |request: Request| {
            BEGUN.fetch_add(1, Ordering::SeqCst);
            // The hub cancels at its deadline at the latest; this is for a hub that forgets.
            for _ in 0..6000 {
                if request.is_cancelled() {
                    CANCELLED.fetch_add(1, Ordering::SeqCst);
                    return Response::text("into the void");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Response::text("never cancelled").status(500)
        })
        .route("GET", "/begun", |_: Request| {
            BEGUN.load(Ordering::SeqCst).to_string()
        })
        .route("GET", "/cancelled", |_: Request| {
            CANCELLED.load(Ordering::SeqCst).to_string()
        })
        .route("GET", "/chunks", |_: Request| {
            Response::ok().chunks(["a", "", "bc", "def"].map(Bytes::from))
        })
}

/// The token in the path and the body, as they came.
fn echo_token(mut request: Request) -> Response {
    let token = request
        .param("token")
        .expect("the route has it")
        .into_owned();
    let body = request.read_body(1 << 20).expect("a body").to_vec();
    Response::ok().body([token.as_bytes(), b":", &body].concat())
}

fn number(request: &Request, name: &str) -> u64 {
    let text = request.param(name).expect("the route has it");
    text.parse().expect("a number")
}

fn write_pattern(out: &mut dyn Write, n: u64) -> io::Result<()> {
    let mut written = 0;
    while written < n {
        // Sizes that fit nothing, so that frames end anywhere.
        let len = (n - written).min(1 + (written * 7919) % 200_000) as usize;
        out.write_all(pattern(written, len))?;
        written += len as u64;
    }
    Ok(())
}

/// Reads whatever comes, and only then answers.
fn swallow(request: Request) -> Response {
    match io::copy(&mut request.into_body(), &mut io::sink()) {
        Ok(count) => Response::text(count.to_string()),
        Err(error) => Response::text(format!("{error}")).status(400),
    }
}

fn check(request: Request) -> Response {
    let mut body = request.into_body();
    let mut checker = Checker::default();
    let mut buffer = vec![0; 50_021];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => return Response::text(format!("right: {}", checker.seen)),
            Ok(count) => {
                if let Err(wrong) = checker.take(&buffer[..count]) {
                    return Response::text(wrong).status(422);
                }
            }
            Err(error) => return Response::text(format!("{error}")).status(400),
        }
    }
}

fn run_async(worker: Worker) -> Result<(), slotway::worker::Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async_worker(worker).run_async())
}

/// Handlers in an event loop, beside one that blocks.
fn async_worker(worker: Worker) -> Worker {
    worker
        .route_async("GET", "/hello", |_: Request| async { "Hello, World!" })
        .route_async("GET", "/sleep/{ms}", |request: Request| async move {
            let ms = number(&request, "ms");
            tokio::time::sleep(Duration::from_millis(ms)).await;
            "slept"
        })
        .route_async("GET", "/panic", |_: Request| async {
            tokio::task::yield_now().await;
            if true {
                panic!("on purpose, while polled")
            }
        })
        .route_async("POST", "/relay", |request: Request| async move {
            Response::ok().body(request.into_body())
        })
        .route_async("POST", "/invert", |request: Request| async move {
            let mut body = request.into_body();
            Response::ok().stream_async(move |mut out| async move {
                while let Some(part) = body.next_chunk().await? {
                    let inverted: Vec<u8> = part.iter().map(|byte| !byte).collect();
                    out.write(inverted).await?;
                    out.send().await?;
                }
                Ok(())
            })
        })
        .route_async("POST", "/collect", |mut request: Request| async move {
            let body = request.collect_body(1 << 24).await?;
            Ok::<_, slotway::worker::BodyError>(Response::ok().body(body))
        })
        .route_async("POST", "/check", |request: Request| async move {
            let mut body = request.into_body();
            let mut checker = Checker::default();
            while let Some(part) = body.next_chunk().await? {
                checker.take(&part).map_err(|wrong| {
                    tracing::error!("{wrong}");
                    slotway::worker::BodyError::Incomplete
                })?;
            }
            Ok::<_, slotway::worker::BodyError>(format!("right: {}", checker.seen))
        })
        .route_async("GET", "/pattern/{n}", |request: Request| async move {
            let n = number(&request, "n");
            Response::ok().stream_async(move |mut out| async move {
                let mut written = 0;
                while written < n {
                    let len = (n - written).min(1 + (written * 7919) % 200_000) as usize;
                    out.write(pattern(written, len)).await?;
                    written += len as u64;
                }
                Ok(())
            })
        })
        .route_async("POST", "/json", |mut request: Request| async move {
            let order: Order = request.json_async().await?;
            let count = order.count * 2;
            Ok::<_, slotway::worker::BodyError>(Response::json(&Order { count, ..order }))
        })
        .route("GET", "/blocking/{ms}", |request: Request| {
            std::thread::sleep(Duration::from_millis(number(&request, "ms")));
            "blocked"
        })
}
