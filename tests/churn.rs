//! Workers that come again and again: those that were evicted wait before they may, those that crash do
//! not, and those that are replaced do not drain for ever, nor many of them at a time.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::time::{Duration, Instant};

use simd_json::prelude::*;
use slotway::control::WakeMode;
use slotway::shm::descriptor::{Completion, Descriptor, UNKNOWN_LENGTH};

use support::raw_worker::RawWorker;
use support::{Hub, HubOptions, wait_until, wait_within};

fn try_attach(hub: &Hub, name: &str) -> Result<RawWorker, String> {
    let route = format!("GET /{name}/{{*rest}}");
    RawWorker::attach(&hub.socket, name, &[&route], WakeMode::Eventfd).map_err(|e| e.to_string())
}

/// Attaches; nobody keeps it from that.
#[track_caller]
fn attach(hub: &Hub, name: &str) -> RawWorker {
    let before = attached(hub, name);
    let worker = try_attach(hub, name).expect("nothing stands in its way");
    // The lanes come before the routes that lead to them.
    wait_until("its routes are served", || {
        let now = attached(hub, name);
        now.is_some() && now != before
    });
    worker
}

/// The identity of the worker that is attached under this name.
fn attached(hub: &Hub, name: &str) -> Option<String> {
    let worker = hub.health_of(name)?;
    let is_attached = worker.get_str("state") == Some("attached");
    is_attached.then(|| worker.get_str("worker_id").expect("an identity").to_owned())
}

/// How many workers of this name `/health` has.
fn known(hub: &Hub, name: &str) -> usize {
    let health = hub.health();
    let workers = health.get_array("workers").expect("a list of workers");
    let of_name = workers.iter().filter(|w| w.get_str("name") == Some(name));
    of_name.count()
}

/// Breaks the protocol, and returns when the hub has noticed.
fn be_evicted(mut worker: RawWorker) {
    worker.lanes[0].push(Descriptor::default());
    assert!(worker.wait_lost().is_some(), "it is told why");
}

#[test]
fn who_is_evicted_waits_and_each_time_longer() {
    let pause = Duration::from_millis(400);
    let hub = HubOptions::new()
        .args(["--shards", "2", "--evicted-pause-ms", "400"])
        .start();
    let mut worker = attach(&hub, "liar");
    for times in [1, 2, 4] {
        let before = Instant::now();
        be_evicted(worker);
        let again = try_attach(&hub, "liar");
        // Unless this thread was kept from running for so long.
        if before.elapsed() < pause * times {
            again.map(drop).expect_err("not at once");
        }
        // Others have nothing to do with it.
        let evictions = hub.health().get_u64("evictions");
        assert_eq!(evictions, Some(u64::from(times.ilog2()) + 1));
        drop(attach(&hub, &format!("honest-{times}")));
        if times == 4 {
            // A worker made with the SDK waits by itself.
            let _worker = hub.worker_with("liar", &[]);
            assert!(before.elapsed() >= pause * times);
            assert_eq!(hub.get("/hello").status, 200);
            return;
        }
        let mut returned = None;
        wait_until("it may attach again", || {
            match try_attach(&hub, "liar") {
                Ok(attached) => returned = Some(attached),
                Err(error) => {
                    // For now, and so an SDK asks again.
                    assert!(error.contains("temporary: true"), "{error}");
                    assert!(error.contains("may attach again in"), "{error}");
                }
            }
            returned.is_some()
        });
        assert!(before.elapsed() >= pause * times, "{:?}", before.elapsed());
        worker = returned.expect("just seen");
    }
}

#[test]
fn who_dies_comes_back_at_once() {
    let hub = HubOptions::new().args(["--shards", "2"]).start();
    let start = Instant::now();
    for _ in 0..50 {
        let worker = try_attach(&hub, "mortal").expect("nothing stands in its way");
        // Its end may be noticed before or after the next one comes.
        drop(worker);
    }
    println!("50 attaches in {:?}", start.elapsed());
    assert_eq!(hub.health().get_u64("evictions"), Some(0));
    wait_until("one is remembered", || known(&hub, "mortal") == 1);
}

#[test]
fn of_many_predecessors_the_oldest_goes() {
    let hub = HubOptions::new().args(["--shards", "2"]).start();
    let mut replaced = Vec::new();
    // As many as may drain, and one more.
    for number in 0..5 {
        let mut worker = attach(&hub, "often");
        let mut client = hub.connect();
        client.request("GET", &format!("/often/{number}"), "", b"");
        let (lane, claim) = worker.wait_claim();
        assert_eq!(claim.target, format!("/often/{number}"));
        replaced.push((worker, client, lane, claim));
    }
    assert_eq!(known(&hub, "often"), 5);
    let last = attach(&hub, "often");
    let (mut oldest, mut client, ..) = replaced.remove(0);
    client.answer().assert_problem(502);
    assert_eq!(oldest.wait_lost(), None, "it did nothing wrong");
    // The others finish what they have.
    for (number, (mut worker, mut client, lane, claim)) in replaced.into_iter().enumerate() {
        worker.lanes[lane].answer(&claim, 200, claim.target.as_bytes());
        assert_eq!(client.answer().text(), format!("/often/{}", number + 1));
        assert_eq!(worker.wait_lost(), None);
    }
    wait_until("the last one is left", || known(&hub, "often") == 1);
    drop(last);
}

#[test]
fn who_is_replaced_and_never_finishes_has_an_end() {
    // It has ten seconds longer than a request.
    let patience = Duration::from_secs(11);
    let hub = HubOptions::new()
        .args(["--shards", "1", "--timeout", "1"])
        .start();
    let mut old = attach(&hub, "endless");
    let mut client = hub.connect();
    client.request("GET", "/endless/x", "", b"");
    let (lane, claim) = old.wait_claim();
    let part = |old: &mut RawWorker, kind: Completion| {
        let frame = old.lanes[lane].frame(&claim, 200, b"", b"x");
        let first = kind == Completion::Response;
        old.lanes[lane].push(Descriptor {
            kind: kind as u8,
            flags: 0,
            total: UNKNOWN_LENGTH,
            head_len: frame.map_or(0, |d| if first { d.head_len } else { 0 }),
            ..frame.expect("slots come back")
        });
    };
    part(&mut old, Completion::Response);
    let start = Instant::now();
    let mut new = attach(&hub, "endless");
    // Each part is in time, so the answer never is overdue.
    let mut last = start;
    wait_within(3 * patience, "the old one is let go of", || {
        if last.elapsed() > Duration::from_millis(100) {
            last = Instant::now();
            part(&mut old, Completion::Body);
        }
        assert!(old.claim().is_none(), "nothing new comes");
        match old.heard() {
            Ok(_) => false,
            Err(error) => {
                println!("after {:?}: {error}", start.elapsed());
                true
            }
        }
    });
    assert!(start.elapsed() >= patience, "{:?}", start.elapsed());
    assert_eq!(client.try_answer(), None, "the answer breaks off");
    wait_until("the new one is left", || known(&hub, "endless") == 1);
    assert_eq!(hub.health().get_u64("evictions"), Some(0));
    let mut client = hub.connect();
    client.request("GET", "/endless/y", "", b"");
    let (lane, claim) = new.wait_claim();
    new.lanes[lane].answer(&claim, 200, b"new");
    assert_eq!(client.answer().text(), "new");
}
