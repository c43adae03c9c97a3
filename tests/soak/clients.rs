//! The clients of the soak that ask and want an answer, and those that misbehave. Each runs on a
//! thread of its own until the run is over, and checks every byte it gets.

use std::io::Write;
use std::time::Duration;

use crate::shared::{Deed, Line, Shared};
use crate::support::Random;
use crate::support::client::{Answer, request_bytes};
use crate::support::pattern::pattern;
use crate::weather::Whom;

/// The largest body.
const LARGEST: u64 = 4 << 20;
/// A body longer than this is written beside reading, or two full sockets would wait for each other.
const WRITTEN_AT_ONCE: usize = 64 * 1024;

/// Something a client does on its connection; `true` where the connection is good for more.
type Act = fn(&Shared, &mut Random, &mut Line) -> bool;

/// Small requests on connections that last.
pub fn small(shared: &Shared, random: Random) {
    repeat(
        shared,
        random,
        1,
        200,
        |shared, random, line| match random.below(10) {
            0..=6 => get_hello(shared, random, line),
            7 | 8 => pipeline(shared, random, line),
            _ => sleep(shared, random, line),
        },
    );
}

/// Small requests on a connection each.
pub fn fresh(shared: &Shared, random: Random) {
    repeat(shared, random, 2, 1, get_hello);
}

/// Bodies there and back.
pub fn echo(shared: &Shared, random: Random) {
    repeat(
        shared,
        random,
        20,
        20,
        |shared, random, line| match random.below(4) {
            0 => download(shared, random, line),
            1 => send_chunked(shared, random, line),
            _ => send_known(shared, random, line),
        },
    );
}

/// Requests that nobody answers in time.
pub fn slow(shared: &Shared, random: Random) {
    repeat(shared, random, 50, 3, |shared, random, line| {
        let worker = shared.some_worker(random);
        let path = format!("/{}/wait", shared.name(worker));
        let deed = Deed::new(&path, Whom::Worker(worker), 504);
        if line
            .client
            .try_send(request_bytes("GET", &path, "", b""))
            .is_err()
        {
            // The answer says why.
            shared.tally.count("unsent");
        }
        answered(shared, &deed, line, |_| true)
    });
}

/// Clients that leave in the middle of something.
pub fn leaving(shared: &Shared, random: Random) {
    repeat(shared, random, 6, 1, |shared, random, line| {
        let worker = shared.name(shared.some_worker(random));
        let part = random.below(300_000) as usize;
        let client = &mut line.client;
        let sent = match random.below(5) {
            0 => client.try_send(format!("GET /{worker}/hello HTTP/1.1\r\nHos")),
            1 => {
                let head = format!(
                    "POST /{worker}/relay HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"
                );
                client
                    .try_send(head)
                    .and_then(|()| client.try_send(pattern(0, part)))
            }
            2 => {
                let head = format!(
                    "POST /{worker}/invert HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                );
                let chunk = [format!("{part:x}\r\n").as_bytes(), pattern(0, part / 2 + 1)].concat();
                client.try_send(head).and_then(|()| client.try_send(chunk))
            }
            3 => {
                let path = format!("/{worker}/pattern/2000000");
                let sent = client.try_send(request_bytes("GET", &path, "", b""));
                // Some of the answer is read.
                sent.and_then(|()| client.fill()).map(drop)
            }
            _ => client.try_send(request_bytes("GET", &format!("/{worker}/wait"), "", b"")),
        };
        shared
            .tally
            .count(if sent.is_ok() { "left" } else { "unsent" });
        std::thread::sleep(Duration::from_millis(random.below(30)));
        false
    });
}

/// Bytes that are no request, alone or behind one that is.
pub fn garbage(shared: &Shared, random: Random) {
    repeat(shared, random, 10, 1, |shared, random, line| {
        let mut bytes: Vec<u8> = match random.below(6) {
            0 => (0..1 + random.below(4000))
                .map(|_| random.next() as u8)
                .collect(),
            1 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
            2 => b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
            3 => b"GET / HTTP/1.1\r\nHost : a\r\n\r\n".to_vec(),
            4 => [b"GET / HTTP/1.1\r\nHost: a\r\nX: ", [b'x'; 17_000].as_slice(), b"\r\n\r\n"].concat(),
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        };
        // So that nothing waits for the rest of a head.
        bytes.extend_from_slice(b"\r\n\r\n\0\r\n\r\n");
        let before = random.below(2) == 0;
        let worker = shared.some_worker(random);
        if before {
            let path = format!("/{}/hello?n=1", shared.name(worker));
            let deed = Deed::new("hello before garbage", Whom::Worker(worker), 200);
            let first = request_bytes("GET", &path, "", b"");
            let _ = line.client.try_send([first, bytes].concat());
            if !answered(shared, &deed, line, |_| true) {
                return false;
            }
        } else if line.client.try_send(bytes).is_err() {
            shared.tally.count("unsent");
        }
        let deed = Deed::new("garbage", Whom::Hub, 400);
        match line.client.try_head() {
            Ok(Some(answer)) if (400..=505).contains(&answer.status) => {
                shared.tally.count(format!("garbage {}", answer.status));
            }
            Ok(Some(answer)) => shared.tally.wrong(format!("{deed}: {answer:?}")),
            // What it did not read may make a reset overtake the answer.
            Ok(None) | Err(_) => shared.tally.count("garbage cut off"),
        }
        false
    });
}

/// Does `act` over and over, on a new connection after so many times at the latest.
fn repeat(shared: &Shared, mut random: Random, thoughts: u64, acts: u64, act: Act) {
    let mut line: Option<(Line, u64)> = None;
    while !shared.is_over() {
        if shared.still.load(std::sync::atomic::Ordering::SeqCst) {
            drop(line.take());
            shared.rest();
            continue;
        }
        let open = line.take();
        let open = open.or_else(|| Some((shared.connect()?, 1 + random.below(acts * 2 - 1))));
        let Some((mut open, left)) = open else {
            continue;
        };
        let is_good = act(shared, &mut random, &mut open);
        if is_good && left > 1 {
            line = Some((open, left - 1));
        } else if random.below(3) == 0 {
            open.client.reset();
        }
        shared.think(&mut random, thoughts);
    }
}

/// Reads an answer and judges it. Whether the connection is good for more.
fn answered(
    shared: &Shared,
    deed: &Deed,
    line: &mut Line,
    is_right: impl FnOnce(&Answer) -> bool,
) -> bool {
    let outcome = line.client.try_answer_to("GET");
    let stays = outcome
        .as_ref()
        .is_ok_and(|answer| answer.field("connection") != Some("close"));
    shared.judge(deed, line, outcome, is_right);
    stays
}

fn get_hello(shared: &Shared, random: &mut Random, line: &mut Line) -> bool {
    let worker = shared.some_worker(random);
    let (name, n) = (shared.name(worker), random.next());
    let deed = Deed::new(format!("{name}/hello"), Whom::Worker(worker), 200);
    let path = format!("/{name}/hello?n={n}");
    // Where it cannot be sent, the answer says why.
    let _ = line.client.try_send(request_bytes("GET", &path, "", b""));
    answered(shared, &deed, line, |answer| {
        answer.text() == format!("{name} {n}")
    })
}

fn sleep(shared: &Shared, random: &mut Random, line: &mut Line) -> bool {
    let worker = shared.some_worker(random);
    let path = format!("/{}/sleep/{}", shared.name(worker), random.below(60));
    let deed = Deed::new(&path, Whom::Worker(worker), 200);
    let _ = line.client.try_send(request_bytes("GET", &path, "", b""));
    answered(shared, &deed, line, |answer| answer.text() == "slept")
}

fn pipeline(shared: &Shared, random: &mut Random, line: &mut Line) -> bool {
    let mut bytes = Vec::new();
    let mut deeds = Vec::new();
    for _ in 0..2 + random.below(14) {
        let worker = shared.some_worker(random);
        let (name, n) = (shared.name(worker), random.next());
        let deed = Deed::new(format!("{name}/hello in a line"), Whom::Worker(worker), 200);
        let path = format!("/{name}/hello?n={n}");
        bytes.extend(request_bytes("GET", &path, "", b""));
        deeds.push((deed, format!("{name} {n}")));
    }
    let _ = line.client.try_send(bytes);
    deeds
        .iter()
        .all(|(deed, wanted)| answered(shared, deed, line, |answer| answer.text() == wanted))
}

fn download(shared: &Shared, random: &mut Random, line: &mut Line) -> bool {
    let worker = shared.some_worker(random);
    let size = some_size(random);
    let path = format!("/{}/pattern/{size}", shared.name(worker));
    let deed = Deed::new(&path, Whom::Worker(worker), 200);
    let _ = line.client.try_send(request_bytes("GET", &path, "", b""));
    answered(shared, &deed, line, |answer| answer.body == body(size))
}

fn send_known(shared: &Shared, random: &mut Random, line: &mut Line) -> bool {
    let size = some_size(random);
    let worker = shared.some_worker(random);
    let path = format!("/{}/relay", shared.name(worker));
    let sent = body(size);
    let bytes = request_bytes("POST", &path, "", &sent);
    let deed = Deed::new(format!("{path} of {size}"), Whom::Worker(worker), 200);
    exchange(shared, &deed, line, &bytes, |answer| answer.body == sent)
}

fn send_chunked(shared: &Shared, random: &mut Random, line: &mut Line) -> bool {
    let size = some_size(random);
    let worker = shared.some_worker(random);
    let invert = random.below(2) == 0;
    let route = if invert { "invert" } else { "relay" };
    let path = format!("/{}/{route}", shared.name(worker));
    let mut sent = body(size);
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut bytes = head.into_bytes();
    let mut rest = sent.as_slice();
    while !rest.is_empty() {
        let longest = if random.below(4) == 0 { 40 } else { 100_000 };
        let (chunk, behind) = rest.split_at(rest.len().min(1 + random.below(longest) as usize));
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
        rest = behind;
    }
    bytes.extend(b"0\r\n\r\n");
    if invert {
        sent.iter_mut().for_each(|byte| *byte = !*byte);
    }
    let deed = Deed::new(
        format!("{path} of {size}, chunked"),
        Whom::Worker(worker),
        200,
    );
    exchange(shared, &deed, line, &bytes, |answer| answer.body == sent)
}

/// Sends and reads at once where the request is long.
fn exchange(
    shared: &Shared,
    deed: &Deed,
    line: &mut Line,
    bytes: &[u8],
    is_right: impl FnOnce(&Answer) -> bool,
) -> bool {
    if bytes.len() <= WRITTEN_AT_ONCE {
        let _ = line.client.try_send(bytes);
        return answered(shared, deed, line, is_right);
    }
    let mut writer = line.client.writer();
    std::thread::scope(|scope| {
        // Where the hub stops reading, its answer says why.
        let writing = scope.spawn(move || writer.write_all(bytes).is_ok());
        let stays = answered(shared, deed, line, is_right);
        if !stays {
            line.client.shut_down();
        }
        writing.join().expect("writing does not panic") && stays
    })
}

/// From a byte to [`LARGEST`], each power of two as likely as another.
fn some_size(random: &mut Random) -> u64 {
    let bits = random.below(u64::from(LARGEST.ilog2()) + 1);
    (1 << bits) + random.below(1 << bits).min(LARGEST - (1 << bits))
}

fn body(size: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(size as usize);
    while (body.len() as u64) < size {
        let left = size as usize - body.len();
        body.extend_from_slice(pattern(body.len() as u64, left));
    }
    body
}
