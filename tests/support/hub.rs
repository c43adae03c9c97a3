//! Real hubs and demo workers: started on ports and sockets of their own, stopped with the test.
//! Never two hubs on one path.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use simd_json::OwnedValue;
use simd_json::prelude::*;

use super::client::{Answer, Client};
use super::process::{Process, SLOTWAY};
use super::scratch::ScratchDir;
use super::{json, wait_until};

/// How a hub is to be started.
#[derive(Debug, Default)]
pub struct HubOptions {
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    demo: bool,
    port: u16,
    wrapper: Option<Command>,
}

impl HubOptions {
    /// `slotway serve --port 0` and a socket in a private directory.
    pub fn new() -> HubOptions {
        HubOptions::default()
    }

    /// Further command-line arguments.
    pub fn args<I: IntoIterator<Item: Into<OsString>>>(mut self, args: I) -> HubOptions {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// A variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> HubOptions {
        self.env.push((name.into(), value.into()));
        self
    }

    /// `slotway demo` in place of `slotway serve`.
    pub fn demo(mut self) -> HubOptions {
        self.demo = true;
        self
    }

    /// This port in place of any that is free.
    pub fn port(mut self, port: u16) -> HubOptions {
        self.port = port;
        self
    }

    /// Has this command start it, with the hub's command line behind its own arguments.
    pub fn wrapper(mut self, wrapper: Command) -> HubOptions {
        self.wrapper = Some(wrapper);
        self
    }

    /// Starts it and waits until it listens.
    pub fn start(self) -> Hub {
        self.start_in(ScratchDir::new())
    }

    /// As [`HubOptions::start`], in a directory that another hub has used before.
    pub fn start_in(self, dir: ScratchDir) -> Hub {
        let mut process = self.spawn(&dir);
        let url = process.wait_line("listening on http://");
        let socket = PathBuf::from(process.wait_line("workers attach at "));
        let address = url
            .parse()
            .unwrap_or_else(|error| panic!("'{url}' is no address: {error}"));
        Hub {
            process,
            dir,
            address,
            socket,
        }
    }

    /// Starts it without waiting, for starts that are to fail.
    pub fn spawn(&self, dir: &ScratchDir) -> Process {
        let mut command = slotway(dir);
        command.arg(if self.demo { "demo" } else { "serve" });
        command.arg("--port").arg(self.port.to_string());
        if !self.args.iter().any(|arg| arg == "--socket") {
            command.arg("--socket").arg(dir.path().join("hub.sock"));
        }
        command.args(&self.args).envs(self.env.iter().cloned());
        if let Some(wrapper) = &self.wrapper {
            command = wrapped(wrapper, &command);
        }
        Process::start("the hub", command)
    }
}

/// A command in the environment and directory of `inner`, which `outer` runs.
fn wrapped(outer: &Command, inner: &Command) -> Command {
    let mut command = Command::new(outer.get_program());
    command.args(outer.get_args());
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(dir) = inner.get_current_dir() {
        command.current_dir(dir);
    }
    command
}

/// A command that runs the binary and sees nothing of the caller's configuration.
pub fn slotway(dir: &ScratchDir) -> Command {
    let mut command = Command::new(SLOTWAY);
    for name in ["HUB_SECRET", "HUB_BIND", "SLOTWAY_SOCKET"] {
        command.env_remove(name);
    }
    command
        .env("RUST_LOG", "info")
        .env("XDG_RUNTIME_DIR", dir.path())
        .env("TMPDIR", dir.path())
        .current_dir(dir.path());
    command
}

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    // Dropped in this order: the directory last.
    /// Its process.
    pub process: Process,
    /// Its first TCP listener.
    pub address: SocketAddr,
    /// Where workers attach.
    pub socket: PathBuf,
    /// The directory it may use.
    pub dir: ScratchDir,
}

impl Hub {
    /// A hub with default options.
    pub fn start() -> Hub {
        HubOptions::new().start()
    }

    /// A hub with default options and a demo worker that serves.
    pub fn with_worker() -> (Hub, Worker) {
        let hub = Hub::start();
        let worker = hub.worker();
        (hub, worker)
    }

    /// A demo worker; returns when its routes are served.
    pub fn worker(&self) -> Worker {
        self.worker_with("demo", &[])
    }

    /// A demo worker of this name with further arguments; returns when its routes are served.
    pub fn worker_with(&self, name: &str, args: &[&str]) -> Worker {
        let worker = Worker::spawn(&self.dir, &self.socket, name, args);
        self.wait_attached(name, worker.process.pid());
        worker
    }

    /// Waits until the worker with this name and process is attached on every shard.
    pub fn wait_attached(&self, name: &str, pid: u32) {
        wait_until(&format!("worker '{name}' (pid {pid}) attaches"), || {
            self.health_of(name).is_some_and(|worker| {
                worker.get_str("state") == Some("attached")
                    && worker.get_u64("pid") == Some(u64::from(pid))
            })
        });
    }

    /// A new connection.
    pub fn connect(&self) -> Client {
        Client::tcp(self.address)
    }

    /// One GET on a connection of its own.
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "", b"")
    }

    /// One request on a connection of its own. `fields` are whole field lines.
    pub fn request(&self, method: &str, path: &str, fields: &str, body: &[u8]) -> Answer {
        let mut client = self.connect();
        client.request(method, path, fields, body);
        client.answer_to(method)
    }

    /// A URL of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What `/health` says.
    pub fn health(&self) -> OwnedValue {
        let answer = self.get("/health");
        assert_eq!(answer.status, 200, "{answer:?}");
        json(&answer.body)
    }

    /// What `/health` says of the worker with this name.
    pub fn health_of(&self, name: &str) -> Option<OwnedValue> {
        let health = self.health();
        let workers = health.get_array("workers").expect("a list of workers");
        let of_name = |w: &&OwnedValue| w.get_str("name") == Some(name);
        // While one is replaced both may be listed; the newcomer is the one that counts.
        let attached = |w: &&OwnedValue| of_name(w) && w.get_str("state") == Some("attached");
        workers
            .iter()
            .find(attached)
            .or_else(|| workers.iter().find(of_name))
            .cloned()
    }

    /// What `/internal/slots` says.
    pub fn slots(&self) -> OwnedValue {
        let answer = self.get("/internal/slots");
        assert_eq!(answer.status, 200, "{answer:?}");
        json(&answer.body)
    }

    /// Slots in use, all workers together.
    pub fn slots_in_use(&self) -> u64 {
        let report = self.slots();
        let workers = report.get_array("workers").expect("a list of workers");
        workers
            .iter()
            .map(|w| w.get_u64("in_use").expect("in_use"))
            .sum()
    }

    /// Waits until no slot is in use.
    pub fn wait_idle(&self) {
        wait_until("no slot is in use", || self.slots_in_use() == 0);
    }

    /// SIGTERM, and how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.signal("TERM");
        self.process.wait()
    }

    /// Gives the directory up, so that another hub can be started in it.
    pub fn into_dir(self) -> ScratchDir {
        let Hub { process, dir, .. } = self;
        drop(process);
        dir
    }
}

/// A running demo worker.
#[derive(Debug)]
pub struct Worker {
    /// Its process.
    pub process: Process,
}

impl Worker {
    /// Starts a demo worker without waiting for its attach.
    pub fn spawn(dir: &ScratchDir, socket: &Path, name: &str, args: &[&str]) -> Worker {
        let mut command = slotway(dir);
        command.args(["demo-worker", "--name", name, "--socket"]);
        command.arg(socket).args(args);
        Worker {
            process: Process::start(format!("worker '{name}'"), command),
        }
    }
}
