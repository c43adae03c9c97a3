//! A worker process with streams, which pushes what the tests tell it to: the test binary itself,
//! started again. A test file that starts one holds a `worker_process` as in `test_worker`.

use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use slotway::worker::{Connect, Event, Request, Response, SseRoute, Target, Worker};

use super::hub::Hub;
use super::process::Process;

const SOCKET: &str = "SLOTWAY_TEST_STREAMS";
/// Its name.
pub const NAME: &str = "streams";

/// An event to be pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    pub path: String,
    /// Empty for none.
    pub name: String,
    pub id: Option<String>,
    pub retry_ms: Option<u64>,
    pub data: Vec<u8>,
}

impl Pushed {
    /// Has the worker push it through the memory it shares with the hub.
    #[track_caller]
    pub fn push(&self, hub: &Hub) {
        let body = simd_json::to_vec(self).expect("JSON");
        let answer = hub.request("POST", "/push", "", &body);
        assert_eq!(answer.status, 204, "{self:?}: {answer:?}");
    }
}

/// Starts it, and waits until it is attached.
pub fn start(hub: &Hub) -> Process {
    let own = std::env::current_exe().expect("the test knows its binary");
    let mut command = Command::new(own);
    command
        .args(["worker_process", "--exact", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env_remove("SLOTWAY_SOCKET")
        .env(SOCKET, &hub.socket);
    let process = Process::start("the worker with streams", command);
    hub.wait_attached(NAME, process.pid());
    process
}

/// The worker process.
///
/// # Panics
/// The worker fails.
pub fn run() {
    let Ok(socket) = std::env::var(SOCKET) else {
        println!("started by hand: nothing to serve");
        return;
    };
    let refusing = SseRoute::new().on_connect(|c: &Connect| {
        let status = c.param("status").and_then(|status| status.parse().ok());
        Response::text("refused\n")
            .status(status.unwrap_or(400))
            .header("www-authenticate", "Bearer")
    });
    let once = SseRoute::new()
        .replay(true)
        .on_connect(|c: &Connect| match c.last_event_id() {
            Some(_) => Err(Response::no_content()),
            None => Ok(()),
        });
    Worker::new(NAME)
        .socket(socket)
        .threads(2)
        .sse_route("/live/{*rest}", SseRoute::new())
        .sse_route("/kept/{*rest}", SseRoute::new().replay(true))
        .sse_route("/refused/{status}", refusing)
        .sse_route("/once", once)
        .route("POST", "/push", push)
        .run()
        .unwrap_or_else(|error| panic!("the worker failed: {error}"));
}

fn push(mut request: Request) -> Result<Response, Box<dyn std::error::Error + Send + Sync>> {
    let Pushed {
        path,
        name,
        id,
        retry_ms,
        data,
    } = request.json()?;
    let mut event = Event::new(data).event(name);
    if let Some(id) = id {
        event = event.id(id);
    }
    if let Some(ms) = retry_ms {
        event = event.retry(Duration::from_millis(ms));
    }
    request.events().push(Target::path(path), event)?;
    Ok(Response::no_content())
}
