//! The options of each command, and the checks that need more than one of them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cli::Failure;
use crate::cli::client_args::ClientArgs;
use crate::control::DEFAULT_PORT;
use crate::hub::{HubConfig, StreamConfig};
use crate::limits::{
    DEFAULT_HISTORY_EVENTS, DEFAULT_QUEUE_EVENTS, DEFAULT_SLOT_SIZE, DEFAULT_SLOTS,
    DEFAULT_TIMEOUT_MS, EVICTED_PAUSE_MS, HEARTBEAT_MS, MAX_EVICTED_PAUSE_MS, MAX_SHARDS,
    MIN_SECRET, ORPHAN_TIMEOUT_MS, PING_INTERVAL_MS, PING_TIMEOUT_MS, REMEMBER_MS,
    STARTUP_GRACE_MS, SWEEP_INTERVAL_MS,
};
use crate::shm::layout::Geometry;
use crate::sse::SlowPolicy;

/// An io_uring HTTP gateway that hands requests to worker processes through shared memory.
#[derive(Debug, Parser)]
#[command(name = "slotway", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the hub: listen for HTTP clients and for workers.
    Serve(ServeArgs),
    /// Run the hub together with a demo worker in a process of its own.
    Demo(ServeArgs),
    /// Run the demo worker alone, attached to a running hub.
    DemoWorker(DemoWorkerArgs),
    /// Show the workers, routes and slots of a running hub.
    Status(StatusArgs),
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// TCP port to listen on; 0 lets the system choose one.
    #[arg(long, default_value_t = DEFAULT_PORT)]
    port: u16,

    /// IP address to listen on. Any but a loopback address needs HUB_SECRET.
    #[arg(long, env = "HUB_BIND", default_value = "127.0.0.1", value_name = "IP")]
    bind: IpAddr,

    /// A further place to listen on: unix:PATH, or IP:PORT. May be repeated.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen)]
    listen: Vec<Listen>,

    /// Unix socket that workers attach through [default: hub-PORT.sock in $XDG_RUNTIME_DIR/slotway,
    /// or in slotway-UID in the temp directory].
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// Seconds a worker may take to answer; fractions are allowed.
    #[arg(long, default_value_t = DEFAULT_TIMEOUT_MS as f64 / 1000.0, value_name = "SECONDS")]
    timeout: f64,

    /// Seconds after its start in which the hub lets clients that accept text/event-stream wait for a
    /// worker that is still to come, instead of answering 404 or 503; 0 turns it off.
    #[arg(long, default_value_t = STARTUP_GRACE_MS as f64 / 1000.0, value_name = "SECONDS")]
    startup_grace: f64,

    /// Slots in each direction of a lane. A lane joins one shard and one worker.
    #[arg(long, default_value_t = DEFAULT_SLOTS)]
    slots: u32,

    /// Bytes in a slot; a multiple of 4096. Larger bodies take several slots, or are streamed.
    #[arg(long, default_value_t = DEFAULT_SLOT_SIZE, value_name = "BYTES")]
    slot_size: u32,

    /// Front-end threads [default: one for each CPU this process may use].
    #[arg(long)]
    shards: Option<usize>,

    /// Log where the time of each request went.
    #[arg(long)]
    instrumentation: bool,

    #[command(flatten)]
    clients: ClientArgs,

    /// Milliseconds between two looks for event stream clients that have gone; 0 turns them off.
    #[arg(long, default_value_t = SWEEP_INTERVAL_MS, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(0..=86_400_000))]
    sse_sweep_interval_ms: u64,

    /// Events that each topic remembers for event stream clients that come back, at most 1 MiB of
    /// them; 0 for none.
    #[arg(long, default_value_t = DEFAULT_HISTORY_EVENTS, value_name = "EVENTS")]
    sse_history: usize,

    /// Events that may wait for one event stream client, at most 1 MiB of them.
    #[arg(long, default_value_t = DEFAULT_QUEUE_EVENTS, value_name = "EVENTS")]
    sse_queue: usize,

    /// What happens to an event stream client that does not keep up, where its route says nothing.
    #[arg(long, value_enum, default_value_t = Slow::DropNewest)]
    sse_slow: Slow,

    /// Seconds after which an event stream that has nothing else to say sends a comment; at least 1.
    /// With more than 15, a client that vanished without a word is noticed later than in 30 seconds.
    #[arg(long, default_value_t = HEARTBEAT_MS / 1000, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    sse_heartbeat: u64,

    /// Seconds for which event streams are kept while their worker is away.
    #[arg(long, default_value_t = ORPHAN_TIMEOUT_MS as f64 / 1000.0, value_name = "SECONDS")]
    sse_orphan_timeout: f64,

    /// Milliseconds between two pings of a worker; three unanswered ones in a row evict it.
    #[arg(long, default_value_t = PING_INTERVAL_MS, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    ping_interval_ms: u64,

    /// Milliseconds a worker has to answer a ping.
    #[arg(long, default_value_t = PING_TIMEOUT_MS, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    ping_timeout_ms: u64,

    /// Milliseconds before a worker that was evicted for breaking the protocol may attach again; twice
    /// as long each time, up to 30 s. 0 for none.
    #[arg(long, default_value_t = EVICTED_PAUSE_MS, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(0..=MAX_EVICTED_PAUSE_MS))]
    evicted_pause_ms: u64,

    /// Milliseconds for which the routes of a worker that is gone answer 503 instead of 404.
    #[arg(long, default_value_t = REMEMBER_MS, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(0..=86_400_000))]
    remember_ms: u64,

    /// Opens the control paths (/internal/*) to other machines; at least 16 characters. Only from
    /// the environment, so that it does not show in the process list.
    #[arg(long = "secret-from-environment", env = "HUB_SECRET", hide = true)]
    secret: Option<String>,
}

#[derive(Debug, Args)]
pub struct DemoWorkerArgs {
    /// The hub's attach socket [default: that of a hub on port 3200].
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Name to register under.
    #[arg(long, default_value = "demo")]
    pub name: String,

    /// Serve with blocking handlers on this many threads, instead of with an event loop.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Exit when the hub goes away, instead of waiting for it to come back.
    #[arg(long)]
    pub once: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Port of the hub on this machine.
    #[arg(long, default_value_t = DEFAULT_PORT)]
    pub port: u16,

    /// Address of the hub, in place of --port: http://HOST:PORT.
    #[arg(long)]
    pub url: Option<String>,

    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,

    /// The hub's secret, for a hub on another machine.
    #[arg(long = "secret-from-environment", env = "HUB_SECRET", hide = true)]
    pub secret: Option<String>,
}

/// What happens to an event stream client that does not keep up.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Slow {
    /// What comes while its queue is full is dropped, and it is told.
    DropNewest,
    /// What has waited longest is dropped, and it is told.
    DropOldest,
    /// It is disconnected, and may come back and resume.
    Disconnect,
}

#[derive(Clone, Debug)]
enum Listen {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

fn parse_listen(text: &str) -> Result<Listen, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("the path behind unix: is empty".into()),
        Some(path) => Ok(Listen::Unix(path.into())),
        None => text
            .parse()
            .map(Listen::Tcp)
            .map_err(|_| "give unix:PATH or IP:PORT, for example unix:/run/app.sock".into()),
    }
}

impl ServeArgs {
    /// The configuration these options ask for.
    pub fn config(self) -> Result<HubConfig, Failure> {
        let geometry = Geometry::new(self.slots, self.slot_size)
            .map_err(|e| Failure::usage(format!("--slots and --slot-size: {e}")))?;
        let shards = match self.shards {
            Some(shards) if (1..=MAX_SHARDS).contains(&shards) => shards,
            Some(shards) => {
                let message = format!("--shards {shards}: give a number from 1 to {MAX_SHARDS}");
                return Err(Failure::usage(message));
            }
            None => std::thread::available_parallelism()
                .map_or(1, |n| n.get())
                .min(MAX_SHARDS),
        };
        if !(self.timeout >= 0.001 && self.timeout <= 86_400.0) {
            let message = format!(
                "--timeout {}: give seconds from 0.001 to 86400",
                self.timeout
            );
            return Err(Failure::usage(message));
        }
        if !(self.sse_orphan_timeout >= 0.0 && self.sse_orphan_timeout <= 86_400.0) {
            let message = format!(
                "--sse-orphan-timeout {}: give seconds from 0 to 86400",
                self.sse_orphan_timeout
            );
            return Err(Failure::usage(message));
        }
        if !(self.startup_grace >= 0.0 && self.startup_grace <= 3_600.0) {
            let message = format!(
                "--startup-grace {}: give seconds from 0 to 3600",
                self.startup_grace
            );
            return Err(Failure::usage(message));
        }
        if self.sse_queue == 0 {
            return Err(Failure::usage("--sse-queue 0: give at least 1 event"));
        }
        let mut tcp = vec![SocketAddr::new(self.bind, self.port)];
        let mut unix = Vec::new();
        for listen in self.listen {
            match listen {
                Listen::Tcp(address) => tcp.push(address),
                Listen::Unix(path) => unix.push(path),
            }
        }
        let secret = self.secret.filter(|s| !s.is_empty());
        if let Some(secret) = &secret
            && secret.len() < MIN_SECRET
        {
            let message = format!(
                "HUB_SECRET has {} characters: give at least {MIN_SECRET}, for example the output of `openssl rand -hex 16`",
                secret.len()
            );
            return Err(Failure::usage(message));
        }
        if secret
            .as_deref()
            .is_some_and(|s| s.trim() != s || s.contains(|c: char| !(' '..='~').contains(&c)))
        {
            return Err(Failure::usage(
                "HUB_SECRET has a space or line end around it, or something else that no client can send in a field: give printable ASCII characters, for example the output of `openssl rand -hex 16`",
            ));
        }
        if let Some(open) = tcp.iter().find(|a| !a.ip().is_loopback())
            && secret.is_none()
        {
            let message = format!(
                "listening on {open} opens the hub to other machines, and anyone could register workers: set HUB_SECRET (at least {MIN_SECRET} characters), or bind to 127.0.0.1"
            );
            return Err(Failure::usage(message));
        }
        let clients = self.clients.limits()?;
        Ok(HubConfig {
            tcp,
            unix,
            socket: self.socket,
            geometry,
            shards,
            timeout_ms: (self.timeout * 1000.0) as u64,
            startup_grace_ms: (self.startup_grace * 1000.0) as u64,
            secret,
            instrumentation: self.instrumentation,
            clients,
            max_connections: self.clients.max_connections,
            streams: StreamConfig {
                history_events: self.sse_history,
                queue_events: self.sse_queue,
                slow: match self.sse_slow {
                    Slow::DropNewest => SlowPolicy::DropNewest,
                    Slow::DropOldest => SlowPolicy::DropOldest,
                    Slow::Disconnect => SlowPolicy::Disconnect,
                },
                heartbeat_ms: self.sse_heartbeat * 1000,
                write_timeout_ms: clients.write_timeout_ms,
                sweep_interval_ms: self.sse_sweep_interval_ms,
                orphan_timeout_ms: (self.sse_orphan_timeout * 1000.0) as u64,
            },
            ping_interval_ms: self.ping_interval_ms,
            ping_timeout_ms: self.ping_timeout_ms,
            evicted_pause_ms: self.evicted_pause_ms,
            remember_ms: self.remember_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<HubConfig, Failure> {
        let all = ["slotway", "serve"].iter().chain(args);
        match Cli::try_parse_from(all).map(|cli| cli.command) {
            Ok(Command::Serve(args)) => ServeArgs {
                secret: None,
                ..args
            }
            .config(),
            Ok(_) => unreachable!("serve was asked for"),
            Err(error) => Err(Failure::usage(error.to_string())),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn nonsense_is_refused_with_what_is_allowed() {
        for (args, says) in [
            (&["--slots", "0"][..], "16 to 32768"),
            (&["--slot-size", "5000"], "multiple of the page"),
            (&["--slots", "32768", "--slot-size", "1048576"], "at most"),
            (&["--shards", "0"], "1 to 64"),
            (&["--timeout", "0"], "0.001"),
            (&["--timeout", "nan"], "0.001"),
            (&["--startup-grace", "3601"], "0 to 3600"),
            (&["--startup-grace", "nan"], "0 to 3600"),
            (&["--bind", "0.0.0.0"], "HUB_SECRET"),
            (&["--listen", "0.0.0.0:1"], "HUB_SECRET"),
            (&["--listen", "unix:"], "empty"),
            (&["--listen", "/run/x"], "unix:PATH"),
            (&["--max-body", "1MB"], "K, M or G"),
            (&["--max-connections", "0"], "at least 1"),
            (&["--head-timeout", "0"], "0.001"),
            (&["--write-timeout", "100000"], "86400"),
            (&["--body-rate", "2000000000"], "1073741824"),
        ] {
            let failure = config(args).unwrap_err();
            assert_eq!(failure.code, 2);
            assert!(
                failure.message.contains(says),
                "{args:?}: {}",
                failure.message
            );
        }
    }

    #[test]
    fn listening_may_be_repeated() {
        let config =
            config(&["--port", "0", "--listen", "unix:/a", "--listen", "[::1]:0"]).unwrap();
        assert_eq!(config.tcp.len(), 2);
        assert_eq!(config.unix, [PathBuf::from("/a")]);
    }
}
