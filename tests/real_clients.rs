//! Streams as clients that are not ours see them: curl, and the npm packages `eventsource` and
//! `eventsource-parser`, against a real hub and a worker that pushes through shared memory.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use simd_json::OwnedValue;
use simd_json::prelude::*;

use support::process::Process;
use support::proxy::Proxy;
use support::push_worker::{self, Pushed};
use support::scratch::ScratchDir;
use support::{Hub, HubOptions, json, tools, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    push_worker::run();
}

/// An event as a client reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    name: String,
    id: String,
    data: String,
}

/// The client in `tests/npm`.
struct Node(Process);

impl Node {
    fn start(library: &str, url: &str, names: &[&str]) -> Node {
        let names = simd_json::to_string(&names).expect("JSON");
        let mut command = Command::new("node");
        command
            .arg(npm().join("client.mjs"))
            .args([library, url, &names]);
        Node(Process::start(library, command))
    }

    fn said(&self, kind: &str) -> Vec<OwnedValue> {
        let lines = self.0.stdout.find_all("{");
        lines
            .iter()
            .map(|rest| json(format!("{{{rest}").as_bytes()))
            .filter(|value| value.get_str("kind") == Some(kind))
            .collect()
    }

    fn events(&self) -> Vec<Got> {
        let text = |value: &OwnedValue, member| value.get_str(member).expect("a text").to_string();
        self.said("event")
            .iter()
            .map(|value| Got {
                name: text(value, "name"),
                id: text(value, "id"),
                data: text(value, "data"),
            })
            .collect()
    }

    fn wait_open(&self, times: usize) {
        wait_until("the client is connected", || {
            self.said("open").len() >= times
        });
    }

    fn wait_events(&self, count: usize) -> Vec<Got> {
        wait_until(&format!("{count} events"), || {
            self.said("event").len() >= count
        });
        self.events()
    }
}

/// curl, with what it received in a file.
struct Curl {
    process: Process,
    file: PathBuf,
}

impl Curl {
    fn start(dir: &ScratchDir, name: &str, url: &str, args: &[&str]) -> Curl {
        let file = dir.path().join(name);
        let mut command = Command::new("curl");
        // Neither a configuration nor a proxy of whoever runs the tests.
        command
            .args(["-q", "--noproxy", "*", "-sSN", "-o"])
            .arg(&file);
        command.args(args).arg(url);
        Curl {
            process: Process::start("curl", command),
            file,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.file).unwrap_or_default()
    }

    fn wait_for(&self, text: &str) -> Vec<u8> {
        wait_until(&format!("curl gets {text}"), || {
            let bytes = self.bytes();
            bytes.windows(text.len()).any(|w| w == text.as_bytes()) && bytes.ends_with(b"\n\n")
        });
        self.bytes()
    }
}

fn npm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/npm")
}

fn are_there(test: &str) -> bool {
    let modules = npm().join("node_modules");
    let packages = ["eventsource", "eventsource-parser"].map(|name| modules.join(name));
    tools::are_there(
        test,
        &["curl", "node"],
        &[&packages[0], &packages[1]],
        "apt-get install curl nodejs npm && npm ci --prefix tests/npm --ignore-scripts",
    )
}

/// Data as a client sees it: each end of a line is LF, and what is no UTF-8 is replaced.
fn as_seen(data: &[u8]) -> String {
    let text = String::from_utf8_lossy(data).into_owned();
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// Everything an event may hold that has ever been trouble.
fn awkward(path: &str) -> Vec<Pushed> {
    let event = |name: &str, data: &[u8]| Pushed {
        path: path.into(),
        name: name.into(),
        data: data.into(),
        ..Pushed::default()
    };
    let with_id = |id: &str, data: &[u8]| Pushed {
        id: Some(id.into()),
        ..event("identified", data)
    };
    let long: Vec<u8> = (0..200_000).map(|i| b'a' + (i % 23) as u8).collect();
    vec![
        event("", b"no name"),
        event("named", b"a name"),
        event("a name: with \u{e4} and spaces", b"x"),
        event("empty", b""),
        event("", b"two\nlines"),
        event("", b"CR\rCRLF\r\nLF\nLF CR\n\rend"),
        event("", b"\n\nends of lines at both ends\r\n\r"),
        event("", "\u{feff}a byte order mark".as_bytes()),
        event("", b"a NUL \0 and \x1b and \x7f"),
        event(
            "",
            b"no UTF-8: \xff \xc3( \xe2\x82 \xf0\x9f\x98 \xed\xa0\x80 end",
        ),
        event(
            "",
            "\u{1f980} \u{2028} \u{85} \u{0b} no ends of lines".as_bytes(),
        ),
        event("", b" a space first, \t and last "),
        event("", b"data: not a field\n: not a comment\nid: 7\n\nevent: x"),
        with_id("1", b"an id"),
        with_id("an id: with \u{e4}, spaces", b"another"),
        with_id("", b"an empty id resets"),
        event("long", &long),
        Pushed {
            retry_ms: Some(4_321),
            ..event("", b"with a retry")
        },
        event("end", b"end"),
    ]
}

#[test]
fn awkward_events_arrive_as_they_were_sent() {
    if !are_there("awkward events at real clients") {
        return;
    }
    let hub = Hub::start();
    let _worker = push_worker::start(&hub);
    let path = "/live/awkward";
    let url = hub.url(path);
    let sent = awkward(path);
    let mut names: Vec<&str> = sent.iter().map(|event| event.name.as_str()).collect();
    names.retain(|name| !name.is_empty());
    names.sort_unstable();
    names.dedup();
    names.push("message");

    let parser = Node::start("eventsource-parser", &url, &[]);
    let source = Node::start("eventsource", &url, &names);
    let curl = Curl::start(&hub.dir, "chunked", &url, &[]);
    let old = Curl::start(&hub.dir, "plain", &url, &["--http1.0"]);
    parser.wait_open(1);
    source.wait_open(1);
    curl.wait_for("retry: ");
    old.wait_for("retry: ");
    sent.iter().for_each(|event| event.push(&hub));

    let expected: Vec<Got> = sent
        .iter()
        .map(|event| Got {
            name: if event.name.is_empty() {
                "message".into()
            } else {
                event.name.clone()
            },
            id: event.id.clone().unwrap_or_default(),
            data: as_seen(&event.data),
        })
        .collect();
    for client in [&parser, &source] {
        let got = client.wait_events(expected.len());
        for (got, expected) in got.iter().zip(&expected) {
            assert_eq!(got, expected);
        }
        assert_eq!(got.len(), expected.len());
        assert!(
            client.said("error").is_empty(),
            "{:?}",
            client.said("error")
        );
    }
    let retries = parser.said("retry");
    let retries: Vec<u64> = retries.iter().filter_map(|r| r.get_u64("ms")).collect();
    assert!(matches!(retries[..], [1_000..3_000, 4_321]), "{retries:?}");

    // Byte for byte, also what is no text; and the same whether chunked or ended by the connection.
    let bytes = curl.wait_for("event: end");
    let (_, events) = split_once(&bytes, b"\n\n").expect("the hub's retry stands first");
    assert_eq!(
        events.escape_ascii().to_string(),
        serialised(&sent).escape_ascii().to_string()
    );
    let plain = old.wait_for("event: end");
    let (_, plain) = split_once(&plain, b"\n\n").expect("the hub's retry stands first");
    assert!(plain == events, "chunked and plain differ");
}

/// The events as the standard has them: the fields in the hub's order, a line of data for each line.
fn serialised(events: &[Pushed]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        if !event.name.is_empty() {
            bytes.extend_from_slice(format!("event: {}\n", event.name).as_bytes());
        }
        if let Some(id) = &event.id {
            bytes.extend_from_slice(format!("id: {id}\n").as_bytes());
        }
        if let Some(ms) = event.retry_ms {
            bytes.extend_from_slice(format!("retry: {ms}\n").as_bytes());
        }
        let mut lines = vec![Vec::new()];
        let mut data = event.data.iter().peekable();
        while let Some(&byte) = data.next() {
            if byte == b'\r' {
                data.next_if(|next| **next == b'\n');
            }
            match byte {
                b'\r' | b'\n' => lines.push(Vec::new()),
                byte => lines.last_mut().expect("a line").push(byte),
            }
        }
        for line in lines {
            bytes.extend_from_slice(&[b"data: ", &line[..], b"\n"].concat());
        }
        bytes.push(b'\n');
    }
    bytes
}

fn split_once<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let place = bytes.windows(at.len()).position(|w| w == at)?;
    Some((&bytes[..place], &bytes[place + at.len()..]))
}

#[test]
fn an_eventsource_that_is_cut_off_misses_nothing_and_learns_of_a_restart() {
    if !are_there("reconnects of real clients") {
        return;
    }
    let path = "/kept/cut";
    let mut hub = Hub::start();
    let worker = push_worker::start(&hub);
    let proxy = Proxy::start(hub.address);
    let url = format!("http://{}{path}", proxy.address);
    let source = Node::start("eventsource", &url, &["message", "sse_gap"]);
    let mut number = 0;
    let mut push = |hub: &Hub, count: usize| {
        for _ in 0..count {
            let event = Pushed {
                path: path.into(),
                // Soon again, so that the test is short.
                retry_ms: Some(50),
                data: number.to_string().into(),
                ..Pushed::default()
            };
            event.push(hub);
            number += 1;
        }
    };
    source.wait_open(1);
    let mut total = 0;
    for cut in 1..=4 {
        push(&hub, 5);
        source.wait_events(total + 5);
        assert_eq!(proxy.cut(path), 1);
        push(&hub, 5);
        source.wait_open(cut + 1);
        push(&hub, 5);
        total += 15;
        source.wait_events(total);
    }
    let events = source.wait_events(total);
    let data: Vec<String> = events.iter().map(|event| event.data.clone()).collect();
    let expected: Vec<String> = (0..total).map(|number| number.to_string()).collect();
    assert_eq!(data, expected, "lost or doubled");
    let heads = proxy.heads(path);
    assert_eq!(heads.len(), 5, "{heads:?}");
    let resumes = |head: &String| head.to_ascii_lowercase().contains("\r\nlast-event-id: ");
    assert!(
        !resumes(&heads[0]) && heads[1..].iter().all(resumes),
        "{heads:?}"
    );

    // curl says where to go on in either way, and gets the same.
    let last = &events[total - 4].id;
    let field = format!("Last-Event-ID: {last}");
    let by_field = Curl::start(&hub.dir, "field", &hub.url(path), &["-H", &field]);
    let query = format!("{}?last_event_id={last}", hub.url(path));
    let by_query = Curl::start(&hub.dir, "query", &query, &[]);
    for curl in [by_field, by_query] {
        let bytes = curl.wait_for(&format!("data: {}\n", total - 1));
        let text = String::from_utf8(bytes).expect("text");
        let data: Vec<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix("data: "))
            .collect();
        assert_eq!(data, expected[total - 3..]);
    }

    // Another hub takes the place of this one, and the worker finds it by itself. The client is let
    // through when there is somebody to accept it.
    let port = hub.address.port();
    proxy.down();
    assert_eq!(hub.stop().code(), Some(0));
    let hub = HubOptions::new().port(port).start_in(hub.into_dir());
    hub.wait_attached(push_worker::NAME, worker.pid());
    proxy.up(hub.address);
    source.wait_open(6);
    push(&hub, 3);
    let events = source.wait_events(total + 4);
    let after: Vec<_> = events[total..]
        .iter()
        .map(|e| (&e.name[..], &e.data[..]))
        .collect();
    assert_eq!(after[0].0, "sse_gap", "{after:?}");
    assert_eq!(
        json(after[0].1.as_bytes()).get_str("reason"),
        Some("restart")
    );
    let expected = [total, total + 1, total + 2].map(|number| number.to_string());
    let expected: Vec<_> = expected.iter().map(|data| ("message", &data[..])).collect();
    assert_eq!(after[1..], expected);
}

#[test]
fn refusals_are_final() {
    if !are_there("refusals at real clients") {
        return;
    }
    let hub = Hub::start();
    let _worker = push_worker::start(&hub);
    let proxy = Proxy::start(hub.address);
    let url = |path: &str| format!("http://{}{path}", proxy.address);
    // A client that would try again has a timer, and does not end.
    let assert_ends = |mut client: Node, code: u64| {
        assert_eq!(client.0.wait().code(), Some(0), "{code}");
        let errors = client.said("error");
        let last = errors.last().expect("an error");
        assert_eq!(last.get_u64("code"), Some(code), "{errors:?}");
        assert_eq!(last.get_bool("closed"), Some(true), "{errors:?}");
    };
    for status in [401, 403, 404, 204, 503] {
        let path = format!("/refused/{status}");
        assert_ends(Node::start("eventsource", &url(&path), &[]), status);
        assert_eq!(proxy.heads(&path).len(), 1, "{status}");
        let file = format!("refused-{status}");
        let mut curl = Curl::start(&hub.dir, &file, &hub.url(&path), &["-w", "%{http_code}\\n"]);
        assert_eq!(curl.process.wait_line(""), status.to_string());
        let body: &[u8] = if status == 204 { b"" } else { b"refused\n" };
        assert_eq!(curl.process.wait().code(), Some(0));
        assert_eq!(curl.bytes(), body, "{status}");
    }
    // The way to send a client home that was connected.
    let client = Node::start("eventsource", &url("/once"), &["message"]);
    client.wait_open(1);
    let event = Pushed {
        path: "/once".into(),
        retry_ms: Some(50),
        data: b"so that there is a last one".into(),
        ..Pushed::default()
    };
    event.push(&hub);
    client.wait_events(1);
    assert_eq!(proxy.cut("/once"), 1);
    assert_ends(client, 204);
    assert_eq!(proxy.heads("/once").len(), 2);
}
