//! What strangers can make of the hub's log: neither many lines, nor long ones, nor any that begin as
//! they like.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::time::Instant;

use slotway::control::{ToWorker, WakeMode};

use support::raw_worker::{RawWorker, attach_message, connect, framed};
use support::{Hub, HubOptions, wait_until};

/// What a forged line would begin with.
const FORGED: &str = "2026-01-01T00:00:00Z  INFO slotway: all is well";
/// Longer than any line of the log has to be.
const LONG_LINE: usize = 2_000;

/// Lines of the hub's log that hold this text.
fn lines(hub: &Hub, text: &str) -> Vec<String> {
    let log = hub.process.stderr.text();
    let lines = log.lines().filter(|line| line.contains(text));
    lines.map(str::to_owned).collect()
}

/// What the field `left_out` of these lines comes to.
fn left_out(lines: &[String]) -> usize {
    let number = |line: &String| -> usize {
        let (_, rest) = line.split_once("left_out=").expect("it counts");
        let end = rest.find(' ').unwrap_or(rest.len());
        rest[..end].parse().expect("a number")
    };
    lines.iter().map(number).sum()
}

/// Sends a first message, and returns why it is refused.
fn refusal(hub: &Hub, json: &[u8]) -> String {
    use std::io::{Read, Write};
    let mut socket = connect(&hub.socket).unwrap();
    socket.write_all(&framed(json)).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    match simd_json::from_slice(&mut answer[4..]) {
        Ok(ToWorker::Refused { error, .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nobody_writes_lines_of_the_log_but_the_hub() {
    let forged = format!("x\n{FORGED}\r\n\x1b[2J");
    let long = format!("{forged}{}", "y".repeat(1_000_000));
    let message = |name: &str, route: &str| {
        simd_json::to_vec(&attach_message(name, &[route], WakeMode::Futex)).unwrap()
    };
    let unknown = |kind: &str| {
        let kind = simd_json::to_string(&kind).unwrap();
        format!("{{\"type\":{kind}}}").into_bytes()
    };
    for text in [&forged, &long] {
        let messages = [
            unknown(text),
            message(text, "GET /a"),
            message("a", &format!("{} /a", text.replace(' ', "_"))),
            message("a", &format!("GET /{text}")),
        ];
        for json in messages {
            // The first line of a kind is logged, whichever that is.
            let hub = Hub::start();
            let told = refusal(&hub, &json);
            assert!(!told.contains(['\n', '\r', '\x1b']), "{told}");
            assert!(told.len() < LONG_LINE, "{told}");
            wait_until("the log says it", || !lines(&hub, "refused a").is_empty());
            let log = hub.process.stderr.text();
            assert!(!log.contains('\x1b'), "{log}");
            for line in log.lines() {
                assert!(!line.starts_with(FORGED), "{log}");
                assert!(line.len() < LONG_LINE, "{} bytes: {line}", line.len());
            }
        }
    }
    // Over HTTP nothing of it is logged, and the answer is as short.
    let hub = Hub::start();
    let body = unknown(&long);
    let answer = hub.request("POST", "/internal/register", "", &body);
    answer.assert_problem(400);
    let name = simd_json::to_string(&long).unwrap();
    let body = format!("{{\"name\":{name},\"routes\":[]}}");
    let answer = hub.request("POST", "/internal/register", "", body.as_bytes());
    answer.assert_problem(400);
    assert!(answer.body.len() < LONG_LINE);
    let body = format!("{{\"path\":{name},\"data\":\"x\"}}").replace("\"x\\n", "\"/x\\n");
    let answer = hub.request("POST", "/internal/sse-push", "", body.as_bytes());
    answer.assert_problem(404);
    assert!(answer.body.len() < LONG_LINE);
    assert!(lines(&hub, "all is well").is_empty());
}

#[test]
fn bad_answers_without_end_are_few_lines_which_count_them() {
    // One shard, and so one lane.
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let mut worker =
        RawWorker::attach(&hub.socket, "bad", &["GET /bad"], WakeMode::Eventfd).unwrap();
    hub.wait_attached("bad", std::process::id());
    let mut client = hub.connect();
    let mut refuse_one = || {
        client.request("GET", "/bad", "", b"");
        let (lane, claim) = worker.wait_claim();
        // No status that may be sent.
        worker.lanes[lane].answer(&claim, 199, b"");
        client.answer().assert_problem(502);
    };
    let start = Instant::now();
    let mut count = 0;
    // The first at once; one more when its time has come, and nothing in between.
    wait_until("the log says it again", || {
        refuse_one();
        count += 1;
        lines(&hub, "answer refused").len() >= 2
    });
    let said = lines(&hub, "answer refused");
    assert_eq!(said.len(), 2, "{count} in {:?}: {said:#?}", start.elapsed());
    assert_eq!(left_out(&said[..1]), 0);
    let counted = left_out(&said);
    // The log is read a moment after it was written.
    assert!(
        (count - 4..=count - 2).contains(&counted),
        "{count}: {said:#?}"
    );
    assert!(count > 100, "it was hardly asked");
}

#[test]
fn workers_that_come_and_go_without_end_are_few_lines_which_count_them() {
    let hub = HubOptions::new()
        .args(["--shards", "1", "--slots", "16"])
        .start();
    let start = Instant::now();
    let count = 200;
    for number in 0..count {
        // Names are free to choose.
        let name = format!("w{number}");
        RawWorker::attach(&hub.socket, &name, &[], WakeMode::Eventfd).unwrap();
    }
    for (said, summary) in [
        (" attached worker=", "that attached"),
        (" gone: ", "that were gone"),
    ] {
        let summary = format!("too many lines about workers {summary} ");
        wait_until("the log counts all of them", || {
            lines(&hub, said).len() + left_out(&lines(&hub, &summary)) == count
        });
        // As many as come in normal operation are all there.
        let lines = lines(&hub, said).len();
        assert!(lines >= 64);
        let most = 64 * (1 + start.elapsed().as_secs() as usize / 10);
        assert!(lines <= most, "{lines} lines in {:?}", start.elapsed());
    }
}

/// A pipe is full after some hundred lines, and so is what the hub keeps of its log in the end.
#[test]
fn a_log_that_nobody_reads_stops_nobody() {
    let unread = r#"mkfifo unread && exec "$0" "$@" 2<>unread"#;
    let mut hub = HubOptions::new()
        .under(["sh", "-c", unread])
        .args(["--instrumentation"])
        .start();
    let _worker = hub.worker();
    let mut client = hub.connect();
    for _ in 0..60 {
        for _ in 0..100 {
            client.request("GET", "/hello", "", b"");
        }
        for _ in 0..100 {
            assert_eq!(client.answer().status, 200);
        }
    }
    assert_eq!(hub.stop().code(), Some(0));
}
