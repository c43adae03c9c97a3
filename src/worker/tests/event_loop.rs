//! Workers on tokio, of either flavour.

use std::io::Write;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::blocking::{ECHO, echo_in_frames};
use super::hub::{Ask, GUARD, HubLane};
use super::{Bench, geometry, noise, quiet};
use crate::control::{ToHub, ToWorker};
use crate::message::Method;
use crate::shm::layout::Geometry;
use crate::worker::{BodyError, Error, Request, Response, Worker};

pub(super) fn start(threads: usize, lanes: usize, geometry: Geometry, worker: Worker) -> Bench {
    Bench::start_with(lanes, geometry, worker, move |worker| {
        let mut builder = match threads {
            1 => ::tokio::runtime::Builder::new_current_thread(),
            _ => ::tokio::runtime::Builder::new_multi_thread(),
        };
        builder
            .enable_all()
            .build()
            .unwrap()
            .block_on(worker.run_async())
    })
}

fn worker() -> Worker {
    quiet("w")
        .route_async("POST", "/echo", |req: Request| async {
            Response::ok().body(req.into_body())
        })
        .route_async("GET", "/sleep", |_| async {
            ::tokio::time::sleep(Duration::from_millis(20)).await;
            "slept"
        })
        .route("GET", "/blocking", |_| {
            std::thread::sleep(Duration::from_millis(1));
            "blocked"
        })
        .route_async("POST", "/count", |req: Request| async {
            let (mut body, mut count) = (req.into_body(), 0);
            while let Some(part) = body.next_chunk().await? {
                count += part.len();
            }
            Ok::<_, BodyError>(count.to_string())
        })
        .route_async("GET", "/stream", |_| async {
            Response::ok().stream_async_sized(3_000_000, |mut out| async move {
                for part in 0..3000 {
                    out.write(noise(1, part * 1000, 1000)).await?;
                }
                Ok(())
            })
        })
        .route_async("GET", "/blocking-stream", |_| async {
            Response::ok().stream(|out| {
                (0..100).try_for_each(|part| out.write_all(&noise(2, part * 10_000, 10_000)))
            })
        })
        .route_async("GET", "/panic", |_| async {
            ::tokio::task::yield_now().await;
            panic!("on purpose");
            #[allow(unreachable_code)]
            "never"
        })
        .route_async("GET", "/late", |_| async {
            Response::ok().stream_async(|mut out| async move {
                out.write("begun").await?;
                out.send().await?;
                panic!("on purpose, mid-stream")
            })
        })
        .route_async("GET", "/stolen", |_| async {
            Response::ok().stream_async(|mut out| async move {
                out.write("begun").await?;
                std::thread::spawn(move || drop(out));
                Ok(())
            })
        })
        .route_async("POST", "/wrong", |mut req: Request| async move {
            match req.read_body(1 << 20) {
                Err(BodyError::WouldBlock) => "refused",
                _ => "blocked",
            }
        })
        .route_async("POST", "/json", |mut req: Request| async move {
            let numbers: Vec<u32> = req.json_async().await?;
            Ok::<_, BodyError>(numbers.len().to_string())
        })
        .route_async("GET", "/large", |_| async { noise(3, 0, 1_000_000) })
}

fn ask(route: u32) -> Ask<'static> {
    let is_post = [0, 3, 9, 10].contains(&route);
    Ask::new(
        if is_post { Method::Post } else { Method::Get },
        "/x",
        route,
    )
}

#[test]
fn every_kind_of_handler_answers() {
    for threads in [1, 2] {
        let mut bench = start(threads, 2, geometry(64), worker());
        for lane in &mut bench.attached.lanes {
            assert_eq!(lane.round(&ask(0), b"back").body, b"back");
            assert_eq!(lane.round(&ask(1), b"").body, b"slept");
            assert_eq!(lane.round(&ask(2), b"").body, b"blocked");
            let reply = lane.round(&ask(4), b"");
            assert!(reply.total == Some(3_000_000) && reply.body == noise(1, 0, 3_000_000));
            let reply = lane.round(&ask(5), b"");
            assert!(reply.total.is_none() && reply.body == noise(2, 0, 1_000_000));
            assert_eq!(lane.round(&ask(6), b"").status, 500);
            let late = lane.round(&ask(7), b"");
            assert_eq!(
                (late.status, &late.body[..], late.aborted),
                (200, &b"begun"[..], true)
            );
            let stolen = lane.round(&ask(8), b"");
            // A race between the writer's end and its future's, which either may win; there is one
            // last word in any case.
            assert!(stolen.status == 500 || stolen.aborted || stolen.body == b"begun");
            assert_eq!(lane.round(&ask(10), b"[1,2,3]").body, b"3");
            assert_eq!(lane.round(&ask(10), b"[1,2").status, 400);
            assert!(lane.round(&ask(11), b"").body == noise(3, 0, 1_000_000));
            let head = lane.round(&Ask::new(Method::Head, "/", 4), b"");
            assert_eq!(
                (head.total, head.body.len(), head.frames),
                (Some(3_000_000), 0, 1)
            );
        }
    }
}

#[test]
fn bodies_longer_than_the_lane_pass_through_an_event_loop() {
    for threads in [1, 2] {
        let mut bench = start(threads, 1, geometry(64), worker());
        let lane = &mut bench.attached.lanes[0];
        echo_in_frames(lane, 21, 4 << 20, true);
        lane.settle();
        echo_in_frames(lane, 22, 4 << 20, false);
        lane.settle();
        let id = lane.begin(&ask(3), b"12345", None, false);
        lane.ping(7);
        while lane.pongs.is_empty() {
            lane.wait();
        }
        assert!(lane.try_send(id, b"678", None, true));
        assert_eq!(lane.reply(id).body, b"8");
        lane.settle();
    }
}

#[test]
fn blocking_in_an_async_handler_is_refused_instead_of_a_deadlock() {
    let mut bench = start(1, 1, geometry(64), worker());
    let lane = &mut bench.attached.lanes[0];
    let id = lane.begin(&ask(9), b"some", None, false);
    assert_eq!(lane.reply(id).body, b"refused");
    assert!(lane.try_send(id, b"rest", None, true));
    lane.settle();
}

#[test]
fn many_at_once_wait_together() {
    let mut bench = start(1, 2, geometry(64), worker());
    for _ in 0..5 {
        for lane in &mut bench.attached.lanes {
            let routes = (0..40).map(|n| n % 3);
            let ids: Vec<_> = routes.map(|route| lane.ask(&ask(route), b"")).collect();
            for id in ids {
                assert_eq!(lane.reply(id).status, 200);
            }
            lane.settle();
        }
    }
}

#[test]
fn a_reader_learns_that_its_client_has_gone() {
    let mut bench = start(1, 1, geometry(64), worker());
    let lane = &mut bench.attached.lanes[0];
    let id = lane.begin(&ask(3), b"some", None, false);
    lane.settle_frames();
    lane.cancel(id);
    assert_eq!(lane.reply(id).status, 400);
    let id = lane.begin(&ECHO, b"some", None, false);
    lane.abort(id);
    let reply = lane.reply(id);
    assert!(reply.aborted || reply.status == 500, "{reply:?}");
    lane.settle();
}

/// A worker with `/0`, a stream without an end, and `/1`, one of 100 000 bytes that asks for slots, does
/// something else for a while, and asks again.
fn streaming() -> Worker {
    quiet("w")
        .route_async("GET", "/0", |_| async {
            Response::ok().stream_async(|mut out| async move {
                loop {
                    out.write(vec![7; 50_000]).await?;
                }
            })
        })
        .route_async("GET", "/1", |_| async {
            Response::ok().stream_async_sized(100_000, |mut out| async move {
                for part in 0..100 {
                    let data = noise(4, part * 1000, 1000);
                    let patience = Duration::from_millis(1);
                    let early = ::tokio::time::timeout(patience, out.write(data.clone())).await;
                    match early {
                        Ok(written) => written?,
                        // It waited for its first slot: one that it has takes as much at once.
                        Err(_) => {
                            ::tokio::time::sleep(Duration::from_millis(2)).await;
                            out.write(data).await?;
                        }
                    }
                    out.send().await?;
                }
                Ok(())
            })
        })
}

#[test]
fn who_waits_for_slots_learns_that_its_client_has_gone_though_none_come_back() {
    let mut bench = start(1, 1, geometry(64), streaming());
    let lane = &mut bench.attached.lanes[0];
    let ids: Vec<_> = (0..20).map(|_| lane.ask(&ask(0), b"")).collect();
    let mut kept: Vec<_> = ids.iter().map(|id| vec![lane.next_part(*id)]).collect();
    for id in &ids {
        lane.cancel(*id);
    }
    // What the hub has, it keeps.
    for (id, parts) in ids.iter().zip(&mut kept) {
        while !parts.last().is_some_and(|part| part.end) {
            parts.push(lane.next_part(*id));
        }
        assert!(parts.last().is_some_and(|part| part.abort));
    }
    for part in kept.into_iter().flatten() {
        lane.give_back(part.run);
    }
    lane.settle();
}

#[test]
fn many_streams_pass_through_few_slots_though_some_are_busy_elsewhere() {
    for threads in [1, 2] {
        let mut bench = start(threads, 1, geometry(64), streaming());
        let lane = &mut bench.attached.lanes[0];
        let ids: Vec<_> = (0..40).map(|_| lane.ask(&ask(1), b"")).collect();
        let mut bodies = vec![Vec::new(); ids.len()];
        let mut open = ids.len();
        while open > 0 {
            lane.wait();
            for (id, body) in ids.iter().zip(&mut bodies) {
                while let Some(part) = lane.poll_part(*id) {
                    body.extend_from_slice(&part.body);
                    open -= usize::from(part.end);
                    lane.give_back(part.run);
                }
            }
        }
        let expected = noise(4, 0, 100_000);
        assert!(bodies.iter().all(|body| *body == expected));
        lane.settle();
    }
}

#[test]
fn an_event_loop_comes_back_when_its_hub_does_and_drains() {
    let (entered, in_handler) = channel();
    let (leave, may_leave) = channel::<()>();
    let may_leave = Mutex::new(may_leave);
    let worker = worker().route("GET", "/held", move |_| {
        entered.send(()).unwrap();
        may_leave.lock().unwrap().recv_timeout(GUARD).unwrap();
        "finished"
    });
    let mut bench = start(1, 1, geometry(64), worker);
    // A request that will never be answered, and one whose body will not come.
    bench.attached.lanes[0].ask(&ask(1), b"");
    bench.attached.lanes[0].begin(&ask(3), b"some", None, false);
    bench.attached.connection.close();
    bench.attached = bench.hub.accept(2, geometry(16));
    bench
        .attached
        .lanes
        .iter_mut()
        .for_each(|lane: &mut HubLane| {
            assert_eq!(lane.round(&ask(1), b"").body, b"slept");
        });
    let id = bench.attached.lanes[0].ask(&ask(12), b"");
    in_handler.recv_timeout(GUARD).unwrap();
    bench.handle.stop();
    assert_eq!(bench.attached.connection.receive(), Some(ToHub::Drain));
    bench.attached.connection.send(&ToWorker::Draining {
        reason: "asked to".into(),
    });
    leave.send(()).unwrap();
    assert_eq!(bench.attached.lanes[0].reply(id).body, b"finished");
    bench.attached.connection.close();
    assert!(bench.result().is_ok());
}

#[test]
fn async_routes_need_an_event_loop() {
    let error = worker().run().unwrap_err();
    assert!(matches!(&error, Error::AsyncRoute { route } if route == "POST /echo"));
    assert!(error.to_string().contains("run_async"), "{error}");
}
