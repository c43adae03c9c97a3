//! A client whose machine is gone without a word: no FIN and no reset ever comes from it, and nothing
//! it is sent is acknowledged. Played in a network of the test's own, where packets can be dropped.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use simd_json::json as value;

use support::process::Process;
use support::sse::{Sse, sse_push, stream_count, wait_subscribers};
use support::stream_worker::StreamWorker;
use support::{Hub, stream_worker, tools, wait_within};

/// Set for the process that is in a network of its own.
const INSIDE: &str = "SLOTWAY_TEST_OWN_NETWORK";
/// What the hub promises.
const PROMISE: Duration = Duration::from_secs(30);
/// A wait longer than this is a hang.
const LONG: Duration = Duration::from_secs(120);

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    stream_worker::run();
}

/// What makes a command run in a network namespace of its own: root may have one, and others may where
/// they can become root of a namespace of users.
fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.arg("--net");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

#[test]
fn a_client_that_vanishes_is_given_up_within_thirty_seconds() {
    let test = "a_client_that_vanishes_is_given_up_within_thirty_seconds";
    let programs = ["unshare", "ip", "nft"];
    if !tools::are_there(test, &programs, &[], "apt-get install iproute2 nftables") {
        return;
    }
    let mut probe = unshare();
    probe.args(["sh", "-ec", "ip link set lo up; nft add table inet probe"]);
    let probed = probe.output().expect("unshare starts");
    if !probed.status.success() {
        let said = String::from_utf8_lossy(&probed.stderr);
        return tools::did_not_run(
            test,
            &format!("no network of its own is permitted: {said}"),
            "run it as root, or with --cap-add NET_ADMIN --cap-add SYS_ADMIN",
        );
    }
    let mut command = unshare();
    command
        .arg(std::env::current_exe().expect("the test knows its binary"))
        .args(["within_a_network_of_its_own", "--exact", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env(INSIDE, "yes");
    let mut inside = Process::start("the test in a network of its own", command);
    wait_within(LONG, "it ends", || inside.ended().is_some());
    let status = inside.wait();
    print!("{}", inside.stdout.text());
    assert!(status.success(), "{status}:\n{}", inside.stdout.text());
    let ran = inside.stdout.contains("test result: ok. 1 passed");
    assert!(ran, "nothing ran:\n{}", inside.stdout.text());
}

/// Runs a command that must not fail.
fn run(program: &str, args: &str) {
    let output = Command::new(program).args(args.split(' ')).output();
    let output = output.unwrap_or_else(|error| panic!("{program} {args}: {error}"));
    assert!(output.status.success(), "{program} {args}: {output:?}");
}

/// Has whatever goes between the hub and this client be lost from now on, in both directions.
fn cut(stream: &mut Sse) {
    let port = stream.client().local_address().expect("an address").port();
    for side in ["sport", "dport"] {
        run(
            "nft",
            &format!("add rule inet net lost tcp {side} {port} drop"),
        );
    }
}

#[test]
#[ignore = "run by the test above, in a network of its own"]
fn within_a_network_of_its_own() {
    if std::env::var_os(INSIDE).is_none() {
        println!("started by hand: this network is not to be touched");
        return;
    }
    run("ip", "link set lo up");
    run("nft", "add table inet net");
    run(
        "nft",
        "add chain inet net lost { type filter hook input priority 0 ; }",
    );
    let hub = Hub::start();
    let worker = StreamWorker::start(&hub);
    let mut idle = Sse::open(&hub, "/plain/idle");
    let mut busy = Sse::open(&hub, "/plain/busy");
    let mut listener = Sse::open(&hub, "/events");
    let mut stays = Sse::open(&hub, "/plain/stays");
    for stream in [&mut idle, &mut busy, &mut listener, &mut stays] {
        // Its head is out, and the next thing it is sent is a heartbeat, as late as it can be.
        stream.retry();
    }
    let connected = worker.wait_connected(3);
    assert_eq!(stream_count(&hub, "subscribers"), 4);
    let start = Instant::now();
    for stream in [&mut idle, &mut busy, &mut listener] {
        cut(stream);
    }
    // To this one something is sent at once.
    let push = value!({"path": "/plain/busy", "data": "x"});
    assert_eq!(sse_push(&hub, push).status, 200);

    let told = || worker.process.stdout.find_all("disconnected ").len();
    for count in 1..=2 {
        let what = format!("{count} that have vanished are given up");
        wait_within(LONG, &what, || told() >= count);
        let took = start.elapsed();
        println!("{:?} after {took:?}", worker.disconnected().last());
        assert!(took <= PROMISE, "{took:?}");
    }
    wait_within(LONG, "one of /events is given up", || {
        stream_count(&hub, "subscribers") == 1
    });
    let took = start.elapsed();
    println!("the last was given up after {took:?}");
    assert!(took <= PROMISE, "{took:?}");
    // Nothing is left of them: not at the hub,
    for connected in &connected {
        let push = value!({"connection_id": (connected.id.as_str()), "data": "x"});
        let status = if connected.path == "/plain/stays" {
            200
        } else {
            404
        };
        assert_eq!(sse_push(&hub, push).status, status, "{connected:?}");
    }
    assert_eq!(stays.next().data, "x");
    // and the worker was told once of each, in the order in which they were noticed.
    drop(stays);
    let told = worker.wait_disconnected(3);
    let paths: Vec<&str> = told.iter().map(|d| d.path.as_str()).collect();
    assert_eq!(paths, ["/plain/busy", "/plain/idle", "/plain/stays"]);
    wait_subscribers(&hub, 0);
}
