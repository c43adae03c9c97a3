//! The worker processes of the soak: every kind of answer there is, under paths that begin with the
//! worker's name. The test binary itself, started again; never called in the process of the test.

use std::io::{self, Write};
use std::process::Command;
use std::time::Duration;

use slotway::worker::{Error, Event, PublishError, Request, Response, SseRoute, Target, Worker};

use crate::support::Hub;
use crate::support::pattern::pattern;
use crate::support::process::Process;

const NAME: &str = "SLOTWAY_SOAK_WORKER";
const SOCKET: &str = "SLOTWAY_SOAK_SOCKET";
const TOKIO: &str = "SLOTWAY_SOAK_TOKIO";

/// How a worker is called and made.
#[derive(Clone, Debug)]
pub struct Kind {
    pub name: &'static str,
    /// Handlers in an event loop in place of threads.
    pub tokio: bool,
}

impl Kind {
    /// Starts one, and returns when its routes are served.
    pub fn start(&self, hub: &Hub) -> Process {
        let own = std::env::current_exe().expect("the test knows its binary");
        let mut command = Command::new(own);
        command
            .args(["worker_process", "--exact", "--ignored"])
            .args(["--nocapture", "--test-threads=1"])
            .env_remove("SLOTWAY_SOCKET")
            .env(NAME, self.name)
            .env(SOCKET, &hub.socket);
        if self.tokio {
            command.env(TOKIO, "1");
        }
        let process = Process::start(self.name, command);
        hub.wait_attached(self.name, process.pid());
        process
    }
}

/// The worker process. Ends with 0 when it was told to stop or replaced.
pub fn run() {
    let Ok(name) = std::env::var(NAME) else {
        println!("started by hand: nothing to serve");
        return;
    };
    let socket = std::env::var(SOCKET).expect("a socket");
    let worker = Worker::new(name.clone())
        .socket(socket)
        .threads(8)
        .sse_route(
            &format!("/{name}/rooms/{{room}}"),
            SseRoute::new().replay(true),
        )
        .sse_route(&format!("/{name}/plain/{{room}}"), SseRoute::new());
    let result = if std::env::var_os(TOKIO).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async_routes(worker, name).run_async())
    } else {
        blocking_routes(worker, name).run()
    };
    match result {
        Ok(()) => {}
        Err(Error::Replaced { .. }) => println!("replaced"),
        Err(error) => panic!("the worker failed: {error}"),
    }
}

fn hello(name: &str, request: &Request) -> String {
    format!("{name} {}", request.query("n").unwrap_or_default())
}

fn number(request: &Request, name: &str) -> u64 {
    let text = request.param(name).expect("the route has it");
    text.parse().expect("a number")
}

/// What `push/{kind}/{room}/{n}` is to push, and where.
fn event(name: &str, request: &Request) -> (Target, Event) {
    let param = |name| request.param(name).expect("the route has it").into_owned();
    let path = format!("/{name}/{}/{}", param("kind"), param("room"));
    (
        Target::path(path),
        Event::new(param("n")).event("tick").retry(RETRY),
    )
}

const RETRY: Duration = Duration::from_millis(100);

fn blocking_routes(worker: Worker, name: String) -> Worker {
    let at = |path: &str| format!("/{name}/{path}");
    let (hello_name, push_name) = (name.clone(), name.clone());
    worker
        .route("GET", &at("hello"), move |request: Request| {
            hello(&hello_name, &request)
        })
        .route("POST", &at("relay"), |request: Request| {
            Response::ok().body(request.into_body())
        })
        .route("POST", &at("invert"), |request: Request| {
            let mut body = request.into_body();
            Response::ok().stream(move |out| {
                while let Some(part) = body.read_chunk()? {
                    let inverted: Vec<u8> = part.iter().map(|byte| !byte).collect();
                    out.write_all(&inverted)?;
                }
                Ok(())
            })
        })
        .route("GET", &at("pattern/{n}"), |request: Request| {
            let n = number(&request, "n");
            Response::ok().stream(move |out| write_pattern(out, n))
        })
        .route("GET", &at("sleep/{ms}"), |request: Request| {
            std::thread::sleep(Duration::from_millis(number(&request, "ms")));
            "slept"
        })
        .route("GET", &at("wait"), |request: Request| {
            while !request.is_cancelled() {
                std::thread::sleep(Duration::from_millis(20));
            }
            "nobody hears this"
        })
        .route(
            "POST",
            &at("push/{kind}/{room}/{n}"),
            move |request: Request| -> Result<Response, PublishError> {
                let (target, event) = event(&push_name, &request);
                request.events().push(target, event)?;
                Ok(Response::no_content())
            },
        )
        .route(
            "POST",
            &at("emit/{n}"),
            |request: Request| -> Result<Response, PublishError> {
                let n = number(&request, "n").to_string();
                request.events().emit("tick", &n)?;
                Ok(Response::no_content())
            },
        )
}

fn write_pattern(out: &mut dyn Write, n: u64) -> io::Result<()> {
    let mut written = 0;
    while written < n {
        let part = pattern(written, part_of(written, n));
        out.write_all(part)?;
        written += part.len() as u64;
    }
    Ok(())
}

/// Sizes that fit nothing, so that frames end anywhere.
fn part_of(written: u64, n: u64) -> usize {
    (n - written).min(1 + (written * 7919) % 200_000) as usize
}

fn async_routes(worker: Worker, name: String) -> Worker {
    let at = |path: &str| format!("/{name}/{path}");
    let (hello_name, push_name) = (name.clone(), name.clone());
    worker
        .route_async("GET", &at("hello"), move |request: Request| {
            let said = hello(&hello_name, &request);
            async move { said }
        })
        .route_async("POST", &at("relay"), |request: Request| async move {
            Response::ok().body(request.into_body())
        })
        .route_async("POST", &at("invert"), |request: Request| async move {
            let mut body = request.into_body();
            Response::ok().stream_async(move |mut out| async move {
                while let Some(part) = body.next_chunk().await? {
                    let inverted: Vec<u8> = part.iter().map(|byte| !byte).collect();
                    out.write(inverted).await?;
                }
                Ok(())
            })
        })
        .route_async("GET", &at("pattern/{n}"), |request: Request| async move {
            let n = number(&request, "n");
            Response::ok().stream_async(move |mut out| async move {
                let mut written = 0;
                while written < n {
                    let part = pattern(written, part_of(written, n));
                    out.write(part).await?;
                    written += part.len() as u64;
                }
                Ok(())
            })
        })
        .route_async("GET", &at("sleep/{ms}"), |request: Request| async move {
            tokio::time::sleep(Duration::from_millis(number(&request, "ms"))).await;
            "slept"
        })
        .route_async("GET", &at("wait"), |request: Request| async move {
            while !request.is_cancelled() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            "nobody hears this"
        })
        .route_async(
            "POST",
            &at("push/{kind}/{room}/{n}"),
            move |request: Request| {
                let (target, event) = event(&push_name, &request);
                async move {
                    request.events().push_async(target, event).await?;
                    Ok::<_, PublishError>(Response::no_content())
                }
            },
        )
        .route_async("POST", &at("emit/{n}"), |request: Request| async move {
            let n = number(&request, "n").to_string();
            request.events().emit_async("tick", &n).await?;
            Ok::<_, PublishError>(Response::no_content())
        })
}
