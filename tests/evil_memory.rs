//! What a worker is refused and what it never gets to see: its lanes' memory cannot be shrunk, its
//! requests cannot be written, holes in its answers are zeros, nothing it sends over the attach socket
//! reaches the hub's descriptors, and no byte of another worker's requests is in its memory.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::collections::BTreeSet;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::fs::{
    FallocateFlags, OFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, ftruncate,
};
use rustix::io::Errno;
use rustix::mm::{Advice, MprotectFlags, MremapFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use simd_json::prelude::*;
use slotway::control::WakeMode;

use support::raw_worker::{Mapped, RawWorker, attach_message, breathe, connect, framed};
use support::test_worker::start_token;
use support::{Client, Hub, HubOptions, Random, test_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    test_worker::run();
}

fn attach(hub: &Hub, name: &str, routes: &[&str]) -> RawWorker {
    let worker = RawWorker::attach(&hub.socket, name, routes, WakeMode::Futex);
    let worker = worker.expect("the hub accepts");
    hub.wait_attached(name, std::process::id());
    worker
}

/// One request to a worker by hand, answered with its own target.
fn round(hub: &Hub, worker: &mut RawWorker, target: &str) {
    let mut client = hub.connect();
    client.request("GET", target, "", b"");
    let (lane, claim) = worker.wait_claim();
    worker.lanes[lane].answer(&claim, 200, claim.target.as_bytes());
    assert_eq!(client.answer().text(), target);
}

#[test]
fn the_kernel_refuses_what_would_hurt_the_hub() {
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let mut worker = attach(&hub, "w", &["GET /w/{token}"]);
    let lane = &worker.lanes[0];
    let len = lane.request.len() as u64;
    let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;

    for memory in [&lane.request_fd, &lane.response_fd] {
        // Another size, by whatever call.
        for other in [0, 4096, len - 1, len + 1, 2 * len] {
            assert_eq!(ftruncate(memory, other), Err(Errno::PERM));
        }
        let grow = fallocate(memory, FallocateFlags::empty(), len, 4096);
        assert_eq!(grow, Err(Errno::PERM));
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        let truncated = rustix::fs::open(
            &*path,
            OFlags::RDWR | OFlags::TRUNC,
            rustix::fs::Mode::empty(),
        );
        assert_eq!(truncated.map(drop), Err(Errno::PERM));
        // Other seals, which could keep the hub from what it needs.
        for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE, SealFlags::GROW] {
            assert_eq!(fcntl_add_seals(memory, seal), Err(Errno::PERM));
        }
        let seals = fcntl_get_seals(memory).expect("a memfd");
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
    }

    // The requests: not by a call, not by a mapping, not by changing one.
    let request = &lane.request_fd;
    assert_eq!(rustix::io::pwrite(request, b"x", 0), Err(Errno::PERM));
    assert_eq!(fallocate(request, holes, 0, 4096), Err(Errno::PERM));
    let writable = Mapped::new(request, lane.request.len(), true);
    assert_eq!(writable.map(drop), Err(Errno::PERM));
    let path = format!("/proc/self/fd/{}", request.as_raw_fd());
    let again = rustix::fs::open(&*path, OFlags::RDWR, rustix::fs::Mode::empty());
    let again = again.expect("a memfd can be opened again, by its own user");
    let writable = Mapped::new(&again, lane.request.len(), true);
    assert_eq!(writable.map(drop), Err(Errno::PERM));
    assert_eq!(rustix::io::pwrite(&again, b"x", 0), Err(Errno::PERM));
    let source = rustix::fs::open("/proc/self/exe", OFlags::RDONLY, rustix::fs::Mode::empty());
    let source = source.expect("this program");
    let sent = rustix::fs::sendfile(request, &source, Some(&mut 0), 4096);
    assert!(sent.is_err(), "sendfile wrote to the requests");
    assert_eq!(protect(&lane.request), Err(Errno::ACCESS));
    assert_eq!(remove(&lane.request), Err(Errno::ACCESS));
    let remapped = remap(&lane.request);
    assert_eq!(protect(&remapped), Err(Errno::ACCESS));

    // After all that the lane is what it was.
    round(&hub, &mut worker, "/w/after");
    assert!(
        hub.process
            .stderr
            .text()
            .lines()
            .all(|l| !l.contains("evicted"))
    );
}

/// Asks for a mapping to become writable.
fn protect(mapped: &Mapped) -> rustix::io::Result<()> {
    let flags = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: the range is exactly a mapping of ours, which is accessed by atomics alone.
    unsafe { rustix::mm::mprotect(mapped.address().cast(), mapped.len(), flags) }
}

/// Asks for a hole by way of the mapping.
fn remove(mapped: &Mapped) -> rustix::io::Result<()> {
    // SAFETY: the range is exactly a mapping of ours; what it reads afterwards nobody relies on.
    unsafe { rustix::mm::madvise(mapped.address().cast(), mapped.len(), Advice::LinuxRemove) }
}

/// The same memory at another address.
fn remap(mapped: &Mapped) -> Mapped {
    // SAFETY: an old size of zero makes a second mapping of shared memory and leaves the first.
    let address = unsafe {
        rustix::mm::mremap(
            mapped.address().cast(),
            0,
            mapped.len(),
            MremapFlags::MAYMOVE,
        )
    };
    Mapped::adopt(address.expect("a second mapping"), mapped.len())
}

#[test]
fn holes_in_the_answers_are_zeros_and_no_fault() {
    let hub = HubOptions::new().args(["--shards", "1"]).start();
    let neighbour = hub.worker();
    let mut worker = attach(&hub, "w", &["GET /w/{token}"]);
    let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mut client = hub.connect();
    for part in ["head", "body", "all"] {
        client.request("GET", "/w/hole", "", b"");
        let (at, claim) = worker.wait_claim();
        let lane = &mut worker.lanes[at];
        // Sixteen pages, so that the body is sent from the memory and not copied.
        let d = lane
            .frame(&claim, 200, b"", &[b'x'; 16 * 4096])
            .expect("slots");
        let frame = lane.slot_at(d.first) as u64;
        let (from, len) = match part {
            "head" => (frame, 4096),
            "body" => (frame + 4096, 15 * 4096),
            _ => (0, lane.response.len() as u64),
        };
        fallocate(&lane.response_fd, holes, from, len).expect("the worker's to give up");
        lane.push(d);
        if part == "body" {
            let answer = client.answer();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body.len(), 16 * 4096);
            let zeros = answer.body.iter().filter(|&&byte| byte == 0).count();
            assert!(zeros >= 14 * 4096, "{zeros} zeros");
            lane.give_back(&claim.descriptor);
        } else {
            // Status 0 is none.
            client.answer().assert_problem(502);
            lane.give_back(&claim.descriptor);
        }
    }
    // And while the hub reads: nothing but the worker's own answers may suffer.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        client.request("GET", "/w/hole", "", b"");
        let (at, claim) = worker.wait_claim();
        let lane = &mut worker.lanes[at];
        let d = lane
            .frame(&claim, 200, b"", &[b'x'; 16 * 4096])
            .expect("slots");
        let arena = lane.slot_at(0) as u64;
        lane.push(d);
        fallocate(
            &lane.response_fd,
            holes,
            arena,
            lane.geometry.arena_len() as u64,
        )
        .expect("own");
        lane.give_back(&claim.descriptor);
        assert!([200, 502].contains(&client.answer().status));
        assert_eq!(hub.get("/hello").text(), "Hello, World!");
    }
    assert_eq!(remove(&worker.lanes[0].response), Ok(()));
    assert_eq!(hub.get("/hello").text(), "Hello, World!");
    drop(neighbour);
}

fn hub_descriptors(hub: &Hub) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", hub.process.pid()));
    entries.expect("the hub lives").count()
}

/// Sends bytes and descriptors in one message, as many as asked for, of whatever kind.
fn send_descriptors(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    let sent = sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    );
    sent.expect("the hub's socket takes them");
}

#[test]
fn nothing_on_the_attach_socket_harms_the_hub() {
    let seed = support::seed("attach socket");
    let mut random = Random(seed);
    let hub = HubOptions::new()
        .args(["--shards", "2", "--slots", "16"])
        .start();
    let neighbour = hub.worker();
    assert_eq!(hub.get("/hello").status, 200);
    wait_until("connections are closed", || hub_descriptors(&hub) > 0);
    let before = (0..50)
        .map(|_| {
            breathe();
            hub_descriptors(&hub)
        })
        .min()
        .expect("some");
    let json = simd_json::to_vec(&attach_message("x", &["GET /x"], WakeMode::Futex)).expect("JSON");
    let nested = |open: &str, close: &str, depth: usize| {
        let value = [open.repeat(depth), "1".into(), close.repeat(depth)].concat();
        let text = format!(r#"{{"type":"attach","x":{value}}}"#);
        framed(text.as_bytes())
    };
    let mut said: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0],
        framed(b""),
        framed(b"\0"),
        framed(b"null"),
        framed(b"[]"),
        framed(b"{}"),
        framed(br#"{"type":"drain"}"#),
        framed(br#"{"type":"nonsense"}"#),
        framed(br#"{"type":"attach"}"#),
        framed(br#"{"type":"attach","abi_version":-1}"#),
        framed(br#"{"type":"attach","abi_version":2,"wake":"futex","registration":{"name":"x","routes":[]}}"#),
        framed(br#"{"type":"attach","abi_version":1,"wake":"telepathy","registration":{"name":"x","routes":[]}}"#),
        u32::MAX.to_le_bytes().to_vec(),
        (4 * 1024 * 1024 + 1u32).to_le_bytes().to_vec(),
        [(4 * 1024 * 1024u32).to_le_bytes().to_vec(), vec![b' '; 100_000]].concat(),
        nested("[", "]", 1_000),
        nested("[", "]", 2_000_000),
        nested(r#"{"a":"#, "}", 600_000),
    ];
    // Each beginning of an honest message, and honest ones with a byte changed.
    let honest = framed(&json);
    said.extend(
        (1..honest.len())
            .step_by(7)
            .map(|end| honest[..end].to_vec()),
    );
    for _ in 0..60 {
        let mut bent = honest.clone();
        let at = 4 + random.below(bent.len() as u64 - 4) as usize;
        bent[at] = random.next() as u8;
        said.push(bent);
    }
    for bytes in &said {
        let mut socket = connect(&hub.socket).expect("the hub accepts");
        // The hub may hang up before it has heard all of it.
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(std::net::Shutdown::Write);
    }
    assert_eq!(hub.get("/hello").text(), "Hello, World!");

    // Descriptors that nobody asked for: one, as many as go, of every kind; with bytes and among them.
    let file = std::fs::File::open("/proc/self/exe").expect("this program");
    let (one_end, other_end) = std::os::unix::net::UnixStream::pair().expect("a pair");
    for count in [1usize, 4, 5, 253] {
        let socket = connect(&hub.socket).expect("the hub accepts");
        let kinds = [
            file.as_fd(),
            one_end.as_fd(),
            socket.as_fd(),
            other_end.as_fd(),
        ];
        let fds: Vec<_> = (0..count).map(|n| kinds[n % 4]).collect();
        send_descriptors(&socket, &honest[..4], &fds);
        send_descriptors(&socket, &honest[4..], &fds);
        wait_until("it is attached in spite of them", || {
            hub.health_of("x").is_some()
        });
    }
    // One that does not take its lanes, nor listens.
    for _ in 0..20 {
        let mut socket = connect(&hub.socket).expect("the hub accepts");
        socket.write_all(&honest).expect("the hub takes it");
        let _ = socket.shutdown(std::net::Shutdown::Read);
    }
    // The hub hears them in whatever order, and a late one would take the name from the next.
    wait_until("the hub has let go of all of them", || {
        hub_descriptors(&hub) <= before
    });
    // One that attaches twice, and one that drains twice.
    for second in [honest.clone(), framed(br#"{"type":"drain"}"#)] {
        let mut worker = attach(&hub, "x", &["GET /x"]);
        worker
            .send_bytes(&framed(br#"{"type":"drain"}"#))
            .expect("sent");
        let _ = worker.send_bytes(&second);
        worker.wait_lost();
    }
    wait_until("the hub has let go of everything", || {
        hub_descriptors(&hub) <= before
    });
    assert_eq!(hub.get("/hello").text(), "Hello, World!");
    assert!(!hub.process.stderr.contains("panicked"));
    drop(neighbour);
    let mut hub = hub;
    assert_eq!(hub.stop().code(), Some(0));
}

/// The inodes of the lanes that a process has mapped.
fn lane_inodes(pid: u32) -> BTreeSet<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the process lives");
    let lanes = maps.lines().filter(|line| line.contains("memfd:slotway"));
    let inode = |line: &str| line.split_whitespace().nth(4)?.parse().ok();
    lanes.map(|line| inode(line).expect("an inode")).collect()
}

/// A request with a token to a worker of [`start_token`], which is answered rightly.
fn ask_token(client: &mut Client, token: &str) {
    client.request("POST", &format!("/token/{token}"), "", b"body");
    let answer = client.answer();
    assert_eq!(
        (answer.status, answer.text()),
        (200, &*format!("{token}:body"))
    );
}

#[test]
fn a_worker_that_was_stopped_wakes_up_to_nothing_of_anybody_elses() {
    let hub = HubOptions::new()
        .args(["--shards", "2", "--timeout", "0.5"])
        .args(["--ping-interval-ms", "300", "--ping-timeout-ms", "150"])
        .start();
    let neighbour = hub.worker();
    let mut stuck = start_token(&hub, "stuck");
    let mut waiting: Vec<Client> = (0..4).map(|_| hub.connect()).collect();
    for client in &mut waiting {
        // The handler is in the middle of it; what it will have to say is late.
        client.request("GET", "/slow/400/stale", "", b"");
    }
    wait_until("all are in flight", || hub.slots_in_use() == 4);
    stuck.signal("STOP");
    let stopped = Instant::now();
    let its_lanes = lane_inodes(stuck.pid());
    assert_eq!(its_lanes.len(), 4, "two memories for each of two shards");
    let mut slowest = Duration::ZERO;
    let mut client = hub.connect();
    for client_number in 0..50 {
        let asked = Instant::now();
        client.request("POST", "/echo", "", format!("{client_number}").as_bytes());
        assert_eq!(client.answer().text(), format!("{client_number}"));
        slowest = slowest.max(asked.elapsed());
    }
    for client in &mut waiting {
        client.answer().assert_problem(504);
    }
    println!(
        "504 after {:?}; the neighbour's slowest of 50 answers {slowest:?}",
        stopped.elapsed()
    );

    wait_until("it is evicted", || {
        let health = hub.health_of("stuck").expect("it is remembered");
        health
            .get_str("evicted")
            .is_some_and(|why| why.contains("three pings"))
    });
    println!("evicted after {:?}", stopped.elapsed());
    wait_until("the hub has let go of its lanes", || {
        lane_inodes(hub.process.pid()).is_disjoint(&its_lanes)
    });
    let _successor = start_token(&hub, "stuck");
    let lanes_now = lane_inodes(hub.process.pid());
    assert!(lanes_now.is_disjoint(&its_lanes));
    for client in &mut waiting {
        ask_token(client, "from-the-successor");
    }

    stuck.signal("CONT");
    let mut number = 0;
    // Its late answers go nowhere, and it comes back as anybody would: with new lanes.
    wait_until("it has attached again", || {
        number += 1;
        for (index, client) in waiting.iter_mut().enumerate() {
            ask_token(client, &format!("fresh-{index}-{number}"));
        }
        hub.health_of("stuck")
            .is_some_and(|w| w.get_u64("pid") == Some(stuck.pid().into()))
    });
    wait_until("it has let go of the old lanes", || {
        lane_inodes(stuck.pid()).is_disjoint(&its_lanes)
    });
    for client in &mut waiting {
        ask_token(client, "from-the-one-that-was-stopped");
    }
    assert_eq!(hub.health().get_u64("evictions"), Some(1));
    assert_eq!(hub.slots_in_use(), 0);
    drop(neighbour);
}

/// Whose bytes these are: of requests to worker A, to worker B, and to the hub itself or nobody. No
/// two pieces of one, wherever frames put them side by side, look like another.
const CANARIES: [&str; 3] = ["alpha-11111", "bravo-22222", "hub-3333333"];

/// One request full of the canary of whoever it is for.
fn canary_request(random: &mut Random, whose: usize) -> Vec<u8> {
    let canary = CANARIES[whose];
    let path = match whose {
        0 => format!("/a/{canary}"),
        1 => format!("/b/{canary}"),
        _ => match random.below(3) {
            0 => format!("/nowhere/{canary}"),
            1 => format!("/health?{canary}"),
            _ => "/internal/register".to_owned(),
        },
    };
    let sizes = [0, 1, 500, 4_000, 20_000, 60_000, 90_000, 200_000];
    let len = sizes[random.below(sizes.len() as u64) as usize] + random.below(64) as usize;
    let mut body = canary.repeat(len / canary.len() + 1).into_bytes();
    body.truncate(len);
    let fields = format!("X-Canary: {}\r\nCookie: {canary}\r\n", canary.repeat(3));
    if random.below(3) > 0 {
        return support::client::request_bytes("POST", &path, &fields, &body);
    }
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: a\r\n{fields}Transfer-Encoding: chunked\r\n\r\n");
    let mut bytes = head.into_bytes();
    for chunk in body.chunks(1 + random.below(30_000) as usize) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// Requests for both workers and for nobody, one behind the other on one connection. Some
/// connections break off.
fn canary_client(hub: &Hub, random: &mut Random) {
    let whose: Vec<usize> = (0..8).map(|_| random.below(3) as usize).collect();
    let requests = whose.iter().map(|&whose| canary_request(random, whose));
    let requests: Vec<_> = requests.collect();
    let mut bytes = requests.concat();
    let mut whole = requests.len();
    if random.below(4) == 0 {
        // It breaks off in the middle of a request, which gets no answer.
        whole = random.below(requests.len() as u64) as usize;
        let before: usize = requests[..whole].iter().map(Vec::len).sum();
        bytes.truncate(before + random.below(requests[whole].len() as u64) as usize);
    }
    let mut client = hub.connect();
    let mut writer = client.writer();
    let seed = random.next();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut random = Random(seed);
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let part = 1 + random.below(60_000) as usize;
                let (now, later) = rest.split_at(part.min(rest.len()));
                if writer.write_all(now).is_err() {
                    // Refused, and closed: what follows has nowhere to go.
                    return;
                }
                rest = later;
            }
        });
        for whose in whose.into_iter().take(whole) {
            let Some(answer) = client.try_answer() else {
                break;
            };
            if whose < 2 {
                assert_eq!((answer.status, answer.text()), (200, CANARIES[whose]));
            }
            if answer.field("connection") == Some("close") {
                break;
            }
        }
        client.reset();
    });
}

#[test]
fn no_byte_of_a_request_is_ever_in_another_workers_memory() {
    let seed = support::seed("canaries");
    let hub = HubOptions::new()
        .args(["--shards", "2", "--slots", "64"])
        .start();
    let mut workers = [
        attach(&hub, "a", &["POST /a/{canary}"]),
        attach(&hub, "b", &["POST /b/{canary}"]),
    ];
    let claims = std::sync::atomic::AtomicU64::new(0);
    let done = std::sync::atomic::AtomicUsize::new(0);
    const CLIENTS: usize = 3;
    std::thread::scope(|scope| {
        for number in 0..CLIENTS as u64 {
            let (hub, done) = (&hub, &done);
            scope.spawn(move || {
                let _done = CountOnDrop(done);
                let mut random = Random(seed ^ number);
                let start = Instant::now();
                while start.elapsed() < Duration::from_secs(2) {
                    canary_client(hub, &mut random);
                }
            });
        }
        while done.load(std::sync::atomic::Ordering::SeqCst) < CLIENTS {
            let mut idle = true;
            for (own, worker) in workers.iter_mut().enumerate() {
                if let Some((lane, claim)) = worker.claim() {
                    idle = false;
                    let count = claims.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    assert!(claim.target.ends_with(CANARIES[own]), "{}", claim.target);
                    // While requests come and go, too.
                    if count.is_multiple_of(8) {
                        assert_no_canary(worker, own);
                    }
                    worker.lanes[lane].answer(&claim, 200, CANARIES[own].as_bytes());
                }
            }
            if idle {
                breathe();
            }
        }
    });
    for (own, worker) in workers.iter().enumerate() {
        assert_no_canary(worker, own);
        // Its own is there, so the search finds what there is.
        let found = worker
            .lanes
            .iter()
            .any(|lane| find(&lane.request, CANARIES[own]).is_some());
        assert!(found, "not even its own canary is in the memory of {own}");
    }
    println!("{claims:?} requests served and searched for each other's bytes");
}

struct CountOnDrop<'a>(&'a std::sync::atomic::AtomicUsize);

impl Drop for CountOnDrop<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Where the canary stands, and what is around it.
fn find(memory: &Mapped, canary: &str) -> Option<String> {
    let copy = memory.read(0, memory.len());
    let at = memchr::memmem::find(&copy, canary.as_bytes())?;
    let around = &copy[at.saturating_sub(300)..(at + 200).min(copy.len())];
    Some(format!("at {at:#x}: {}", around.escape_ascii()))
}

fn assert_no_canary(worker: &RawWorker, own: usize) {
    for lane in &worker.lanes {
        for (whose, canary) in CANARIES.iter().enumerate() {
            let found = find(&lane.request, canary).filter(|_| whose != own);
            assert_eq!(found, None, "{canary} in the memory of {own}");
        }
    }
}
