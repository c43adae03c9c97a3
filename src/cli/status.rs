//! `slotway status`: asks a running hub what it knows, and prints it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::Failure;
use crate::cli::args::StatusArgs;
use crate::cli::serve::print;
use crate::control::{Health, SlotsReport};

/// How long the hub may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read: some times what the most workers and routes make.
const MOST: usize = 256 * 1024 * 1024;

#[derive(Serialize)]
struct Everything<'a> {
    health: &'a Health,
    slots: &'a SlotsReport,
}

/// Prints the workers, routes and slots of a hub.
pub fn status(args: &StatusArgs) -> Result<(), Failure> {
    let authority = match &args.url {
        Some(url) => url
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/').to_owned())
            .ok_or_else(|| Failure::usage(format!("--url {url}: give http://HOST:PORT")))?,
        None => format!("127.0.0.1:{}", args.port),
    };
    let health: Health = get(&authority, "/health", args.secret.as_deref())?;
    let slots: SlotsReport = get(&authority, "/internal/slots", args.secret.as_deref())?;
    if args.json {
        let everything = Everything {
            health: &health,
            slots: &slots,
        };
        let json = simd_json::to_string_pretty(&everything).map_err(Failure::failed)?;
        return print(&(json + "\n"));
    }
    print(&tables(&health, &slots))
}

/// The tables for people.
fn tables(health: &Health, slots: &SlotsReport) -> String {
    if health.workers.is_empty() {
        return "no workers\n".into();
    }
    let mut workers = vec![
        [
            "WORKER",
            "STATE",
            "PID",
            "REQUESTS",
            "WAKES",
            "SLOTS IN USE",
        ]
        .map(String::from)
        .to_vec(),
    ];
    let mut routes = vec![["METHOD", "PATH", "WORKER"].map(String::from).to_vec()];
    for worker in &health.workers {
        let own = slots.workers.iter().find(|s| s.name == worker.name);
        workers.push(vec![
            worker.name.clone(),
            worker.state.to_string(),
            worker.pid.map_or("-".into(), |pid| pid.to_string()),
            worker.traffic.requests.to_string(),
            format!(
                "{}/{}",
                worker.traffic.wakes_to_worker, worker.traffic.wakes_to_hub
            ),
            own.map_or("-".into(), |s| format!("{} of {}", s.in_use, s.total_slots)),
        ]);
        for route in &worker.routes {
            routes.push(vec![
                route.method.clone(),
                route.path.clone(),
                worker.name.clone(),
            ]);
        }
    }
    let mut text = columns(&workers);
    if routes.len() > 1 {
        text += "\n";
        text += &columns(&routes);
    }
    text
}

/// Rows with their columns lined up.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let width = |at: usize| {
        rows.iter()
            .map(|r| r[at].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// Reads to the end of the connection, within a bound and a deadline: whatever listens there may be no
/// hub.
fn read_all(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.len() > MOST {
            return Err(io::Error::other("its answer does not come to an end"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Fetches and reads one JSON document. One request on a connection of its own, in HTTP/1.0, so
/// that the end of the answer is the end of the connection.
fn get<T: DeserializeOwned>(
    authority: &str,
    path: &str,
    secret: Option<&str>,
) -> Result<T, Failure> {
    let explain = |error: std::io::Error| {
        Failure::failed(format!(
            "cannot ask the hub at {authority}: {error}. Is it running? Start it with `slotway serve`, or give --port or --url"
        ))
    };
    let mut stream = TcpStream::connect(authority).map_err(explain)?;
    let secret = secret
        .map(|s| format!("X-Hub-Secret: {s}\r\n"))
        .unwrap_or_default();
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\n{secret}\r\n");
    stream.write_all(request.as_bytes()).map_err(explain)?;
    let mut answer = read_all(&mut stream).map_err(explain)?;
    let head_len = answer
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| at + 4);
    let status = answer
        .get(9..12)
        .and_then(|s| std::str::from_utf8(s).ok()?.parse::<u16>().ok());
    let (Some(head_len), Some(status)) = (head_len, status) else {
        return Err(Failure::failed(format!(
            "what listens at {authority} is no hub"
        )));
    };
    let body = &mut answer[head_len..];
    if status != 200 {
        let said = String::from_utf8_lossy(body);
        return Err(Failure::failed(format!(
            "the hub at {authority} answered {status}: {said}"
        )));
    }
    simd_json::from_slice(body).map_err(|e| {
        Failure::failed(format!(
            "what listens at {authority} is no slotway hub: {e}"
        ))
    })
}
