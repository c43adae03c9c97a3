//! Load that does not wait for the server: requests fall due at random moments of a given rate, as from
//! many clients that know nothing of each other, and latency counts from the moment a request was due,
//! whether a connection was free for it or not. Prints one line of JSON.
//!
//! `cargo run --release --example open_loop -- --rate 20000 http://127.0.0.1:3000/hello`

mod client;

use std::collections::VecDeque;
use std::net::ToSocketAddrs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use client::{Load, request};

const USAGE: &str = "usage: open_loop --rate N [--seconds 5] [--warm-up 1] [--connections 64] \
                     [--body BYTES] [--seed 1] http://HOST:PORT/PATH";
/// How long answers that are still due may take after the end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Sleeping is no more exact than this; what is due earlier is waited for awake.
const SLEEP: Duration = Duration::from_millis(2);

struct Options {
    rate: f64,
    seconds: f64,
    warm_up: f64,
    connections: usize,
    body: usize,
    seed: u64,
    url: String,
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            eprintln!("open_loop: {wrong}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        rate: 0.0,
        seconds: 5.0,
        warm_up: 1.0,
        connections: 64,
        body: 0,
        seed: 1,
        url: String::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if !arg.starts_with("--") {
            options.url = arg;
            continue;
        }
        let value = args.next().unwrap_or_default();
        let understood = match arg.as_str() {
            "--rate" => value.parse().map(|n| options.rate = n).is_ok(),
            "--seconds" => value.parse().map(|n| options.seconds = n).is_ok(),
            "--warm-up" => value.parse().map(|n| options.warm_up = n).is_ok(),
            "--connections" => value.parse().map(|n| options.connections = n).is_ok(),
            "--body" => value.parse().map(|n| options.body = n).is_ok(),
            "--seed" => value.parse().map(|n| options.seed = n).is_ok(),
            _ => false,
        };
        if !understood {
            return Err(format!("'{arg} {value}' is not understood; {USAGE}"));
        }
    }
    let positive = options.rate > 0.0 && options.seconds > 0.0 && options.warm_up >= 0.0;
    if !positive || options.connections == 0 {
        return Err(format!("the numbers are to be positive; {USAGE}"));
    }
    Ok(options)
}

fn run(options: &Options) -> Result<String, String> {
    let rest = options.url.strip_prefix("http://");
    let rest = rest.ok_or_else(|| format!("'{}' is no URL; {USAGE}", options.url))?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (host, path) = rest.split_at(at);
    let path = if path.is_empty() { "/" } else { path };
    let server = host.to_socket_addrs().ok().and_then(|mut all| all.next());
    let server = server.ok_or_else(|| format!("'{host}' is not HOST:PORT; {USAGE}"))?;
    let bytes = request(host, path, options.body);
    let said = |e| format!("{}: {e}", options.url);
    let load = Load::connect(server, options.connections, bytes).map_err(said)?;
    let measured = measure(options, load).map_err(said)?;
    Ok(measured.line(options))
}

/// What became of the requests that were due after the warm-up.
struct Measured {
    /// From when each was due until its answer was whole; of those without an answer, until now.
    latencies: Vec<Duration>,
    /// Answers that were whole before the end.
    in_time: usize,
    unanswered: usize,
}

fn measure(options: &Options, mut load: Load) -> std::io::Result<Measured> {
    let warm_up = Duration::from_secs_f64(options.warm_up);
    let end = warm_up + Duration::from_secs_f64(options.seconds);
    let mut arrivals = Arrivals::new(options.rate, options.seed);
    let mut idle: Vec<usize> = (0..load.connections()).collect();
    let mut since = vec![Duration::ZERO; load.connections()];
    let mut due = VecDeque::new();
    let mut finished = Vec::new();
    let mut measured = Measured {
        latencies: Vec::new(),
        in_time: 0,
        unanswered: 0,
    };
    let start = Instant::now();
    loop {
        let now = start.elapsed();
        while arrivals.next <= now && arrivals.next < end {
            due.push_back(arrivals.next);
            arrivals.advance();
        }
        while let (Some(&at), Some(connection)) = (due.front(), idle.last().copied()) {
            due.pop_front();
            idle.pop();
            since[connection] = at;
            load.begin(connection)?;
        }
        let over = arrivals.next >= end;
        let quiet = due.is_empty() && idle.len() == load.connections();
        if over && (quiet || now >= end + PATIENCE) {
            break;
        }
        let wait = match over {
            true => SLEEP,
            false => arrivals.next.saturating_sub(now).saturating_sub(SLEEP),
        };
        load.wait(Some(wait), &mut finished)?;
        let now = start.elapsed();
        for connection in finished.drain(..) {
            let at = since[connection];
            if at >= warm_up {
                measured.latencies.push(now - at);
            }
            measured.in_time += usize::from(now >= warm_up && now < end);
            idle.push(connection);
        }
    }
    // Who still waits has waited this long at least.
    let now = start.elapsed();
    let busy = (0..load.connections()).filter(|index| !idle.contains(index));
    let open = busy.map(|index| since[index]).chain(due);
    for at in open.filter(|at| *at >= warm_up) {
        measured.latencies.push(now - at);
        measured.unanswered += 1;
    }
    Ok(measured)
}

impl Measured {
    fn line(mut self, options: &Options) -> String {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        let at = |part: f64| {
            let index = (last as f64 * part).round() as usize;
            let latency = self.latencies.get(index).copied().unwrap_or_default();
            latency.as_secs_f64() * 1e6
        };
        format!(
            "{{\"rate\": {}, \"answered_per_second\": {:.0}, \"requests\": {}, \"unanswered\": {}, \
             \"p50_us\": {:.1}, \"p90_us\": {:.1}, \"p99_us\": {:.1}, \"p999_us\": {:.1}, \"max_us\": {:.1}}}",
            options.rate,
            self.in_time as f64 / options.seconds,
            self.latencies.len(),
            self.unanswered,
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(1.0),
        )
    }
}

/// When requests fall due: a Poisson process.
struct Arrivals {
    next: Duration,
    mean_gap: f64,
    state: u64,
}

impl Arrivals {
    fn new(rate: f64, seed: u64) -> Arrivals {
        let mut arrivals = Arrivals {
            next: Duration::ZERO,
            mean_gap: 1.0 / rate,
            state: seed,
        };
        arrivals.advance();
        arrivals
    }

    fn advance(&mut self) {
        // SplitMix64, of which 53 bits make a number in (0, 1].
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let chance = ((z >> 11) + 1) as f64 / (1u64 << 53) as f64;
        self.next += Duration::from_secs_f64(-chance.ln() * self.mean_gap);
    }
}
