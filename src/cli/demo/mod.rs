//! The demo: a hub, and a worker in a process of its own whose routes show what workers can do.
//! Measurements and tests rely on these routes.

mod page;
mod ticks;

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::cli::Failure;
use crate::cli::args::DemoWorkerArgs;
use crate::cli::demo::page::root;
use crate::cli::serve::{announce, start};
use crate::hub::HubConfig;
use crate::message::Method;
use crate::worker::{Error, Request, Response, Worker};

/// What `/bytes/{n}` sends, over and over.
static PATTERN: [u8; 64 * 1024] = {
    let mut pattern = [0; 64 * 1024];
    let mut at = 0;
    while at < pattern.len() {
        pattern[at] = b'a' + (at % 26) as u8;
        at += 1;
    }
    pattern
};

/// How long the demo worker may finish what it does after the hub has gone.
const LEAVE: Duration = Duration::from_secs(1);

/// Runs a hub and a demo worker until a signal ends them.
pub fn demo(config: HubConfig) -> Result<(), Failure> {
    let hub = start(config)?;
    let mut worker = start_worker(&hub.socket)?;
    while !hub.wait_for_worker(worker.id(), Duration::from_millis(100)) {
        if let Some(status) = worker.try_wait().map_err(Failure::failed)? {
            return Err(Failure::failed(format!(
                "the demo worker ended before it served: {status}"
            )));
        }
    }
    announce(&format!("demo worker attached (pid {})\n", worker.id()));
    if let Some(address) = hub.tcp.first() {
        announce(&format!("try: curl http://{address}/hello\n"));
        announce(&format!("or open http://{address}/ in a browser\n"));
    }
    let result = hub.wait().map_err(Failure::failed);
    dismiss(worker).map_err(Failure::failed)?;
    result
}

/// Waits for a worker whose hub is gone. It leaves by itself; but a handler that does not end would
/// keep it, and with it this process, which was told to stop.
fn dismiss(mut worker: Child) -> io::Result<()> {
    let patience = Instant::now() + LEAVE;
    while worker.try_wait()?.is_none() {
        if Instant::now() >= patience {
            worker.kill()?;
            worker.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn start_worker(socket: &Path) -> Result<Child, Failure> {
    let program = std::env::current_exe().map_err(Failure::failed)?;
    Command::new(program)
        .args(["demo-worker", "--once", "--socket"])
        .arg(socket)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| Failure::failed(format!("cannot start the demo worker: {e}")))
}

/// Runs the demo worker.
pub fn worker(args: &DemoWorkerArgs) -> Result<(), Failure> {
    let mut worker = Worker::new(&args.name).reconnect(!args.once);
    if let Some(socket) = &args.socket {
        worker = worker.socket(socket);
    }
    let ticks = ticks::route(worker.events());
    worker = worker.sse_route(ticks::PATH, ticks);
    if let Some(threads) = args.threads {
        return ended(args, blocking_routes(worker.threads(threads.into())).run());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(Failure::failed)?;
    ended(args, runtime.block_on(async_routes(worker).run_async()))
}

/// That the hub is gone is no failure of a worker that was to leave with it.
fn ended(args: &DemoWorkerArgs, result: Result<(), Error>) -> Result<(), Failure> {
    match result {
        Err(Error::HubGone { .. }) if args.once => Ok(()),
        other => other.map_err(Failure::failed),
    }
}

fn async_routes(worker: Worker) -> Worker {
    let worker = worker
        .route_async("GET", "/hello", async |_: Request| hello())
        .route_async("POST", "/echo", async |req: Request| echo(req))
        .route_async("GET", "/items/{id}", async |req: Request| item(&req))
        .route_async("GET", "/whoami", async |_: Request| whoami())
        .route_async("GET", "/bytes/{n}", async |req: Request| bytes(&req))
        .route_async("POST", "/count", async |req: Request| {
            let mut body = req.into_body();
            let mut count = 0;
            while let Some(chunk) = body.next_chunk().await? {
                count += chunk.len();
            }
            Ok::<_, crate::worker::BodyError>(count.to_string())
        })
        .route_async("GET", "/sleep/{ms}", async |req: Request| {
            match number(&req, "ms") {
                Ok(ms) => {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    Response::text(format!("slept {ms} ms\n"))
                }
                Err(refused) => refused,
            }
        });
    Method::ALL
        .into_iter()
        .filter(|m| *m != Method::Head)
        .fold(worker, |worker, method| {
            worker.route_async(method.as_str(), "/", async |req: Request| root(&req))
        })
}

fn blocking_routes(worker: Worker) -> Worker {
    let worker = worker
        .route("GET", "/hello", |_: Request| hello())
        .route("POST", "/echo", echo)
        .route("GET", "/items/{id}", |req: Request| item(&req))
        .route("GET", "/whoami", |_: Request| whoami())
        .route("GET", "/bytes/{n}", |req: Request| bytes(&req))
        .route("POST", "/count", |req: Request| {
            let mut body = req.into_body();
            let mut count = 0;
            while let Some(chunk) = body.read_chunk()? {
                count += chunk.len();
            }
            Ok::<_, crate::worker::BodyError>(count.to_string())
        })
        .route("GET", "/sleep/{ms}", |req: Request| {
            match number(&req, "ms") {
                Ok(ms) => {
                    std::thread::sleep(Duration::from_millis(ms));
                    Response::text(format!("slept {ms} ms\n"))
                }
                Err(refused) => refused,
            }
        });
    Method::ALL
        .into_iter()
        .filter(|m| *m != Method::Head)
        .fold(worker, |worker, method| {
            worker.route(method.as_str(), "/", |req: Request| root(&req))
        })
}

fn hello() -> Response {
    Response::text("Hello, World!")
}

fn echo(req: Request) -> Response {
    let content_type = req
        .header("content-type")
        .unwrap_or(b"application/octet-stream")
        .to_vec();
    Response::ok()
        .header("content-type", content_type)
        .body(req.into_body())
}

fn item(req: &Request) -> Response {
    Response::text(req.param("id").unwrap_or_default().into_owned())
}

fn whoami() -> Response {
    Response::text(std::process::id().to_string())
}

fn bytes(req: &Request) -> Response {
    let n = match number(req, "n") {
        Ok(n) => n,
        Err(refused) => return refused,
    };
    let whole = n / PATTERN.len() as u64;
    let rest = (n % PATTERN.len() as u64) as usize;
    let parts = (0..whole).map(|_| Bytes::from_static(&PATTERN));
    let parts = parts.chain((rest > 0).then(|| Bytes::from_static(&PATTERN[..rest])));
    Response::ok()
        .header("content-type", "application/octet-stream")
        .chunks(parts)
}

fn number(req: &Request, name: &str) -> Result<u64, Response> {
    let text = req.param(name).unwrap_or_default();
    text.parse().map_err(|_| {
        Response::text(format!("'{text}' is not a number: give digits only\n")).status(400)
    })
}
