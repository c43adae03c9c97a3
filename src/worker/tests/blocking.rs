//! Blocking workers: answers, bodies of every size, and what happens when a side goes away.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::hub::{Ask, FakeHub, GUARD, HubLane, Id};
use super::{Bench, geometry, noise, quiet};
use crate::control::{FieldError, ToHub, ToWorker};
use crate::message::Method;
use crate::shm::region::Word;
use crate::worker::session::Sleep;
use crate::worker::{BodyError, Error, Request, Response, Worker};

fn get(target: &str) -> Ask<'_> {
    Ask::new(Method::Get, target, 0)
}

fn echo_worker() -> Worker {
    quiet("echo")
        .route("POST", "/echo", |req: Request| {
            Response::ok().body(req.into_body())
        })
        .threads(1)
}

pub(super) const ECHO: Ask<'static> = Ask {
    method: Method::Post,
    target: "/echo",
    route: 0,
    params: &[],
    fields: &[],
};

/// Sends `total` bytes of noise in frames and checks that they come back, in one thread as a hub
/// does: whichever side can move is moved.
pub(super) fn echo_in_frames(lane: &mut HubLane, seed: u64, total: u64, announced: bool) -> Id {
    const FRAME: u64 = 60_000;
    let length = announced.then_some(total);
    let id = lane.begin(&ECHO, &noise(seed, 0, 1000), length, false);
    let (mut sent, mut received, mut end) = (1000, 0, false);
    while !end {
        let mut moved = false;
        while sent < total {
            let part = FRAME.min(total - sent);
            let bytes = noise(seed, sent, part as usize);
            if !lane.try_send(id, &bytes, length, sent + part == total) {
                break;
            }
            sent += part;
            moved = true;
        }
        while let Some(part) = lane.poll_part(id) {
            if let Some((status, _)) = part.head {
                assert_eq!((status, part.total), (200, length));
            }
            assert!(
                part.body == noise(seed, received, part.body.len()),
                "at byte {received}"
            );
            received += part.body.len() as u64;
            end = part.end;
            assert!(!part.abort);
            lane.give_back(part.run);
            moved = true;
        }
        if !moved {
            lane.wait();
        }
    }
    assert_eq!(received, total);
    id
}

#[test]
fn a_handler_sees_the_whole_request() {
    let (seen, looked) = channel();
    let handler = move |req: Request| {
        let owned = |bytes: &[u8]| bytes.to_vec();
        let headers: Vec<_> = req.headers().map(|(n, v)| (owned(n), owned(v))).collect();
        let pairs: Vec<_> = req
            .query_pairs()
            .map(|(n, v)| (n.into_owned(), v.into_owned()))
            .collect();
        seen.send((
            (
                req.method(),
                req.path().into_owned(),
                owned(req.target()),
                req.route().to_owned(),
            ),
            (
                req.param("id").map(|p| p.into_owned()),
                req.param_raw("id").map(owned),
            ),
            (
                req.param("other").is_none(),
                req.query("q").map(|q| q.into_owned()),
            ),
            (
                headers,
                pairs,
                req.header("HOST").map(owned),
                req.header("nope").map(owned),
            ),
            (
                req.peer(),
                req.body().map(owned),
                req.body_length(),
                req.is_cancelled(),
            ),
        ))
        .unwrap();
        (201, "made")
    };
    let worker = quiet("w")
        .route("GET", "/a", |_| "a")
        .route("PUT", "/items/{id}", handler);
    let mut bench = Bench::start(1, geometry(64), worker);
    assert_eq!(bench.attached.registration.name, "w");
    assert_eq!(bench.attached.registration.routes[1].path, "/items/{id}");
    let ask = Ask {
        method: Method::Put,
        target: "/items/7%20x?q=1+2&q=2&flag",
        route: 1,
        params: &["7%20x"],
        fields: &[("Host", b"h"), ("X", b"\xFF"), ("x", b"two")],
    };
    let reply = bench.attached.lanes[0].round(&ask, b"content");
    assert_eq!(
        (reply.status, &reply.body[..], reply.total),
        (201, &b"made"[..], Some(4))
    );
    assert_eq!(reply.fields, "content-type: text/plain; charset=utf-8\r\n");
    let (line, id, absent, head, rest) = looked.recv().unwrap();
    let target = b"/items/7%20x?q=1+2&q=2&flag".to_vec();
    assert_eq!(
        line,
        (
            Method::Put,
            "/items/7%20x".into(),
            target,
            "/items/{id}".into()
        )
    );
    assert_eq!(id, (Some("7 x".into()), Some(b"7%20x".to_vec())));
    assert_eq!(absent, (true, Some("1 2".into())));
    let line = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
    assert_eq!(
        head.0,
        [line(b"Host", b"h"), line(b"X", b"\xFF"), line(b"x", b"two")]
    );
    assert_eq!(head.1.len(), 3);
    assert_eq!((head.2, head.3), (Some(b"h".to_vec()), None));
    let peer = Some("127.0.0.1:4711".parse().unwrap());
    assert_eq!(rest, (peer, Some(b"content".to_vec()), Some(7), false));
}

#[test]
fn every_kind_of_answer_arrives() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Item {
        id: u32,
    }
    let worker = quiet("w")
        .route("GET", "/0", |_| ())
        .route("GET", "/1", |_| vec![1u8, 2, 3])
        .route("GET", "/2", |_| Response::json(&Item { id: 7 }))
        .route("POST", "/3", |mut req: Request| {
            let item: Item = req.json()?;
            Ok::<_, BodyError>(format!("{}", item.id + 1))
        })
        .route("GET", "/4", |_| Err::<(), _>("on purpose"))
        .route("GET", "/5", |_| Err::<(), _>(Response::not_found()))
        .route("GET", "/6", |_| {
            Response::ok().header("x", "1").header("X", b"\xFFtwo")
        })
        .route("GET", "/7", |_| Response::ok().header("bad name", "1"))
        .route("GET", "/8", |_| Response::ok().header("split", "a\r\nb: c"))
        .route("GET", "/9", |_| Response::new(99))
        .route("GET", "/10", |_| Response::new(304).body("not to be sent"))
        .route("GET", "/11", |_| {
            Response::ok().header("long", vec![b'a'; 20_000])
        });
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let mut round = |route: u32, body: &[u8]| {
        let method = if route == 3 {
            Method::Post
        } else {
            Method::Get
        };
        let reply = lane.round(&Ask::new(method, "/x", route), body);
        (reply.status, reply.body)
    };
    assert_eq!(round(0, b""), (204, vec![]));
    assert_eq!(round(1, b""), (200, vec![1, 2, 3]));
    assert_eq!(round(2, b""), (200, b"{\"id\":7}".to_vec()));
    assert_eq!(round(3, b"{\"id\":41}"), (200, b"42".to_vec()));
    assert_eq!(round(3, b"no json").0, 400);
    assert_eq!(round(4, b"").0, 500);
    assert_eq!(round(5, b"").0, 404);
    assert_eq!(round(7, b"").0, 500);
    assert_eq!(round(8, b"").0, 500);
    assert_eq!(round(9, b"").0, 500);
    assert_eq!(round(10, b""), (304, vec![]));
    assert_eq!(round(11, b"").0, 500);
    assert_eq!(round(99, b"").0, 500);
    let id = lane.ask(&Ask::new(Method::Get, "/6", 6), b"");
    let (status, fields) = lane.next_part(id).head.unwrap();
    assert_eq!((status, &fields[..]), (200, &b"x: 1\r\nX: \xFFtwo\r\n"[..]));
}

#[test]
fn head_gets_the_head_of_get() {
    let worker = quiet("w")
        .route("GET", "/whole", |_| "thirteen chars")
        .route("GET", "/sized", |_| {
            Response::ok().stream_sized(5, |_| panic!("nobody wants the body"))
        })
        .route("GET", "/unsized", |_| {
            Response::ok().stream(|_| panic!("nobody wants the body"))
        })
        .route("GET", "/large", |_| vec![7; 1 << 20]);
    let mut bench = Bench::start(1, geometry(64), worker);
    for (route, total) in [(0, Some(14)), (1, Some(5)), (2, None), (3, Some(1 << 20))] {
        let reply = bench.attached.lanes[0].round(&Ask::new(Method::Head, "/", route), b"");
        assert_eq!(
            (reply.status, reply.total, reply.frames),
            (200, total, 1),
            "route {route}"
        );
        assert!(reply.body.is_empty() && !reply.aborted);
    }
}

#[test]
fn a_large_body_that_fits_is_not_copied_on_the_way_in() {
    let (seen, looked) = channel();
    let worker = quiet("w").route("POST", "/", move |mut req: Request| {
        let at = req.body().unwrap().as_ptr() as usize;
        let bytes = req.read_body(1 << 20).unwrap();
        seen.send(at == bytes.as_ptr() as usize && at == req.body().unwrap().as_ptr() as usize)
            .unwrap();
        bytes
    });
    let mut bench = Bench::start(1, geometry(512), worker);
    let body = noise(1, 0, 300_000);
    let reply = bench.attached.lanes[0].round(&Ask::new(Method::Post, "/", 0), &body);
    assert!(reply.body == body);
    assert!(looked.recv().unwrap());
}

#[test]
fn bodies_longer_than_the_lane_pass_through_one_thread() {
    let mut bench = Bench::start(1, geometry(64), echo_worker());
    let lane = &mut bench.attached.lanes[0];
    for (seed, total, announced) in [(1, 8 << 20, true), (2, 8 << 20, false), (3, 1001, false)] {
        echo_in_frames(lane, seed, total, announced);
        lane.settle();
    }
}

#[test]
fn several_long_bodies_share_a_lane_and_a_thread() {
    // The second upload is taken from the ring by the thread that waits for the first.
    let mut bench = Bench::start(2, geometry(128), echo_worker());
    let [first, second] = &mut bench.attached.lanes[..] else {
        panic!("two lanes")
    };
    let waiting = first.begin(&ECHO, &noise(9, 0, 10), None, false);
    // The echo sends what it has and then waits for more.
    let part = first.next_part(waiting);
    assert_eq!(part.body, noise(9, 0, 10));
    let queued = second.ask(&ECHO, b"queued");
    second.ping(5);
    while second.pongs.is_empty() {
        second.wait();
    }
    assert!(first.try_send(waiting, b"rest", None, true));
    let reply = first.reply_after(part, waiting);
    assert_eq!(reply.body, [&noise(9, 0, 10)[..], b"rest"].concat());
    assert_eq!(second.reply(queued).body, b"queued");
    first.settle();
    second.settle();
}

#[test]
fn downloads_stay_within_their_share_of_the_arena() {
    let worker = quiet("w")
        .route("GET", "/long", |_| {
            Response::ok().stream_sized(10_000_000, |out| {
                (0..1000).try_for_each(|i| out.write_all(&noise(4, i * 10_000, 10_000)))
            })
        })
        .route("GET", "/short", |_| "short")
        .threads(4);
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let stuck: Vec<_> = (0..3)
        .map(|_| lane.ask(&Ask::new(Method::Get, "/long", 0), b""))
        .collect();
    // Three clients that take nothing: the streams come to a halt, and a fourth still gets answers.
    for round in 0..60 {
        let reply = lane.round_among(&Ask::new(Method::Get, "/short", 1), b"", &stuck);
        assert_eq!(reply.body, b"short", "round {round}");
        assert!(
            lane.held_slots() <= 48,
            "streams hold {} of 64 slots",
            lane.held_slots()
        );
    }
    for id in stuck {
        let reply = lane.reply(id);
        assert_eq!((reply.total, reply.aborted), (Some(10_000_000), false));
        assert!(reply.body == noise(4, 0, 10_000_000));
    }
    lane.settle();
}

#[test]
fn whole_bodies_beyond_a_quarter_go_in_frames() {
    let worker = quiet("w")
        .route("GET", "/", |_| noise(5, 0, 3_000_000))
        .route("GET", "/chunks", |_| {
            Response::ok().chunks((0..300).map(|i| Bytes::from(noise(6, i * 1000, 1000))))
        })
        .threads(1);
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let reply = lane.round(&get("/"), b"");
    assert_eq!((reply.total, reply.aborted), (Some(3_000_000), false));
    assert!(reply.frames > 10 && reply.body == noise(5, 0, 3_000_000));
    let reply = lane.round(&Ask::new(Method::Get, "/chunks", 1), b"");
    assert_eq!(reply.total, None);
    assert!(reply.body == noise(6, 0, 300_000));
}

#[test]
fn a_panic_costs_one_answer() {
    let worker = quiet("w")
        .route("GET", "/panic", |_| -> Response { panic!("on purpose") })
        .route("GET", "/late", |_| {
            Response::ok().stream(|out| {
                out.write_all(b"begun")?;
                out.flush()?;
                panic!("on purpose, mid-stream")
            })
        })
        .route("GET", "/early", |_| {
            Response::ok().stream(|_| panic!("before a byte"))
        })
        .route("GET", "/short", |_| {
            Response::ok().stream_sized(10, |out| out.write_all(b"only"))
        })
        .route("GET", "/more", |_| {
            Response::ok().stream_sized(3, |out| out.write_all(b"four"))
        })
        .route("GET", "/fine", |_| "fine")
        .threads(1);
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let mut round = |route| lane.round(&Ask::new(Method::Get, "/", route), b"");
    assert_eq!(round(0).status, 500);
    let late = round(1);
    assert_eq!(
        (late.status, &late.body[..], late.aborted),
        (200, &b"begun"[..], true)
    );
    assert_eq!(
        (round(2).status, round(3).status, round(4).status),
        (500, 500, 500)
    );
    assert_eq!(round(5).body, b"fine");
}

#[test]
fn pings_are_answered_by_a_thread_that_waits() {
    let mut bench = Bench::start(1, geometry(64), echo_worker());
    let lane = &mut bench.attached.lanes[0];
    lane.ping(41);
    while lane.pongs != [41] {
        lane.wait();
    }
    let id = lane.begin(&ECHO, b"", None, false);
    lane.ping(42);
    while lane.pongs != [41, 42] {
        lane.wait();
    }
    assert!(lane.try_send(id, b"x", None, true));
    assert_eq!(lane.reply(id).body, b"x");
    lane.settle();
}

#[test]
fn bytes_may_be_kept_past_the_answer_and_past_the_hub() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let worker = quiet("w")
        .route("POST", "/", move |req: Request| {
            let mut body = req.into_body();
            while let Some(part) = body.read_chunk()? {
                keep.lock().unwrap().push(part);
            }
            Ok::<_, BodyError>("kept")
        })
        .reconnect(false);
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let ask = Ask::new(Method::Post, "/", 0);
    let id = lane.ask(&ask, b"first");
    assert_eq!(lane.reply(id).body, b"kept");
    assert_eq!(lane.free_slots(), 63, "the frame is still lent");
    let clone = kept.lock().unwrap()[0].clone();
    drop(clone);
    kept.lock().unwrap().clear();
    lane.settle();

    let id = lane.begin(&ask, b"second", None, false);
    assert!(lane.try_send(id, b"third", None, true));
    assert_eq!(lane.reply(id).body, b"kept");
    // The hub goes away; the bytes stay, and dropping them harms nobody.
    bench.attached.connection.close();
    assert!(matches!(bench.result(), Err(Error::HubGone { .. })));
    bench.attached.lanes.clear();
    let kept = std::mem::take(&mut *kept.lock().unwrap());
    assert_eq!(kept, [&b"second"[..], b"third"]);
}

#[test]
fn a_body_that_is_not_read_is_returned_all_the_same() {
    let worker = quiet("w")
        .route("POST", "/ignore", |_| "no")
        .route("POST", "/limit", |mut req: Request| {
            req.read_body(5).map(|body| body.len().to_string())
        })
        .threads(1);
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let id = lane.begin(&Ask::new(Method::Post, "/ignore", 0), b"some", None, false);
    assert_eq!(lane.reply(id).body, b"no");
    assert!(lane.try_send(id, b"late", None, false));
    assert!(lane.try_send(id, b"later", None, true));
    lane.settle();
    let limit = Ask::new(Method::Post, "/limit", 1);
    assert_eq!(lane.round(&limit, b"five5").body, b"5");
    assert_eq!(lane.round(&limit, b"six666").status, 413);
    let id = lane.begin(&limit, b"12", None, false);
    assert!(lane.try_send(id, b"345", None, false));
    assert!(lane.try_send(id, b"6", None, false));
    assert_eq!(lane.reply(id).status, 413);
    lane.settle();
}

/// A worker whose only handler reads the body to its end and says how that went.
fn reading_worker() -> (Worker, Receiver<String>) {
    let (said, heard) = channel();
    let worker = quiet("w")
        .threads(1)
        .route("POST", "/", move |req: Request| {
            let mut body = req.into_body();
            let mut buffer = [0; 1000];
            loop {
                match body.read(&mut buffer) {
                    Ok(0) => break said.send("end".into()).unwrap(),
                    Ok(_) => {}
                    Err(error) => break said.send(error.to_string()).unwrap(),
                }
            }
        });
    (worker, heard)
}

#[test]
fn a_reader_learns_that_its_client_has_gone() {
    let (worker, heard) = reading_worker();
    let mut bench = Bench::start(1, geometry(64), worker.reconnect(false));
    let lane = &mut bench.attached.lanes[0];
    let ask = Ask::new(Method::Post, "/", 0);
    let id = lane.begin(&ask, b"some", None, false);
    lane.abort(id);
    assert_eq!(
        heard.recv_timeout(GUARD).unwrap(),
        BodyError::Incomplete.to_string()
    );
    lane.reply(id);
    lane.settle();
    // Also where only the cancel word says so.
    let id = lane.begin(&ask, b"some", None, false);
    lane.settle_frames();
    lane.cancel(id);
    assert_eq!(
        heard.recv_timeout(GUARD).unwrap(),
        BodyError::Incomplete.to_string()
    );
    lane.reply(id);
    lane.settle();
    // And where the hub itself goes.
    lane.begin(&ask, b"some", None, false);
    lane.settle_frames();
    bench.attached.connection.close();
    assert!(matches!(bench.result(), Err(Error::HubGone { .. })));
    let said = heard.recv_timeout(GUARD).unwrap();
    assert_ne!(said, "end");
}

#[test]
fn a_cancelled_request_is_not_handled() {
    let (entered, in_handler) = channel();
    let (leave, may_leave) = channel();
    let may_leave = Mutex::new(may_leave);
    let worker = quiet("w")
        .threads(1)
        .route("GET", "/", move |req: Request| {
            entered.send(req.is_cancelled()).unwrap();
            may_leave.lock().unwrap().recv_timeout(GUARD).unwrap();
            assert!(req.is_cancelled());
        });
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let running = lane.ask(&get("/"), b"");
    assert!(!in_handler.recv_timeout(GUARD).unwrap());
    let queued = lane.ask(&get("/"), b"");
    lane.cancel(running);
    lane.cancel(queued);
    leave.send(()).unwrap();
    lane.reply(running);
    lane.reply(queued);
    lane.settle();
    assert!(in_handler.try_recv().is_err(), "the queued one was handled");
}

#[test]
fn a_writer_learns_that_its_client_has_gone() {
    let (said, heard) = channel();
    let worker = quiet("w").threads(1).route("GET", "/", move |_| {
        let said = said.clone();
        Response::ok().stream(move |out| {
            let error = loop {
                if let Err(error) = out.write_all(&[1; 4096]) {
                    break error;
                }
            };
            said.send(error.kind()).unwrap();
            Err(error)
        })
    });
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let id = lane.ask(&get("/"), b"");
    let part = lane.next_part(id);
    lane.cancel(id);
    lane.give_back(part.run);
    let reply_end = loop {
        let part = lane.next_part(id);
        lane.give_back(part.run);
        if part.end {
            break part.abort;
        }
    };
    assert!(reply_end);
    assert_eq!(
        heard.recv_timeout(GUARD).unwrap(),
        std::io::ErrorKind::BrokenPipe
    );
    lane.settle();
}

#[test]
fn all_threads_work_at_once_and_on_every_lane() {
    // Every handler waits for the others: one that is not called hangs the test.
    let barrier = Arc::new(Barrier::new(4));
    let worker = quiet("w").threads(4).route("GET", "/", move |_| {
        barrier.wait();
        "together"
    });
    let mut bench = Bench::start(2, geometry(64), worker);
    for round in 0..200 {
        let split = round % 5;
        let mut ids = Vec::new();
        for number in 0..4 {
            let lane = usize::from(number >= split);
            ids.push((lane, bench.attached.lanes[lane].ask(&get("/"), b"")));
        }
        for (lane, id) in ids {
            assert_eq!(bench.attached.lanes[lane].reply(id).body, b"together");
        }
        bench.attached.lanes.iter_mut().for_each(HubLane::settle);
    }
}

#[test]
fn an_idle_worker_wakes_nobody_and_a_return_alone_rings_no_bell() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let worker = quiet("w")
        .threads(1)
        .route("POST", "/", move |mut req: Request| {
            keep.lock().unwrap().push(req.read_body(100).unwrap());
        });
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let id = lane.ask(&Ask::new(Method::Post, "/", 0), b"kept");
    lane.reply(id);
    while lane
        .memory
        .peer_word(Word::Sleep)
        .load(std::sync::atomic::Ordering::Acquire)
        == 0
    {
        std::thread::yield_now();
    }
    assert!(lane.is_silent_for(Duration::from_millis(50)));
    kept.lock().unwrap().clear();
    // The frame is in the ring, and the hub, which is not starved, was left asleep.
    assert!(lane.look());
    lane.settle();
}

#[test]
fn a_worker_comes_back_when_its_hub_does() {
    let worker = quiet("w").route("GET", "/", |_| "here").threads(2);
    let mut bench = Bench::start(1, geometry(64), worker);
    assert_eq!(bench.attached.lanes[0].round(&get("/"), b"").body, b"here");
    for is_gone_for_a_while in [false, true] {
        bench.hub.stop_listening();
        if is_gone_for_a_while {
            bench.attached.connection.close();
        }
        bench.hub.listen_again();
        bench.attached.connection.close();
        bench.attached = bench.hub.accept(3, geometry(16));
        for lane in &mut bench.attached.lanes {
            assert_eq!(lane.round(&get("/"), b"").body, b"here");
        }
    }
}

#[test]
fn a_handler_that_outlives_its_hub_joins_the_next() {
    let (entered, in_handler) = channel();
    let (leave, may_leave) = channel::<()>();
    let may_leave = Mutex::new(may_leave);
    let worker = quiet("w").threads(1).route("GET", "/", move |_| {
        entered.send(()).unwrap();
        may_leave.lock().unwrap().recv_timeout(GUARD).unwrap();
        "done"
    });
    let mut bench = Bench::start(1, geometry(64), worker);
    bench.attached.lanes[0].ask(&get("/"), b"");
    in_handler.recv_timeout(GUARD).unwrap();
    bench.attached.connection.close();
    bench.attached = bench.hub.accept(1, geometry(64));
    let lane = &mut bench.attached.lanes[0];
    let id = lane.ask(&get("/"), b"");
    leave.send(()).unwrap();
    in_handler.recv_timeout(GUARD).unwrap();
    leave.send(()).unwrap();
    assert_eq!(lane.reply(id).body, b"done");
}

#[test]
fn a_drain_finishes_what_is_there() {
    let (entered, in_handler) = channel();
    let (leave, may_leave) = channel::<()>();
    let may_leave = Mutex::new(may_leave);
    let worker = quiet("w").threads(1).route("GET", "/", move |_| {
        entered.send(()).unwrap();
        may_leave.lock().unwrap().recv_timeout(GUARD).unwrap();
        "finished"
    });
    let mut bench = Bench::start(1, geometry(64), worker);
    let id = bench.attached.lanes[0].ask(&get("/"), b"");
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
fn a_second_request_to_stop_does_not_wait() {
    let (entered, in_handler) = channel();
    let (leave, may_leave) = channel::<()>();
    let may_leave = Mutex::new(may_leave);
    let worker = quiet("w").threads(1).route("GET", "/", move |_| {
        entered.send(()).unwrap();
        may_leave.lock().unwrap().recv_timeout(GUARD).unwrap();
    });
    let mut bench = Bench::start(1, geometry(64), worker);
    bench.attached.lanes[0].ask(&get("/"), b"");
    in_handler.recv_timeout(GUARD).unwrap();
    bench.handle.stop();
    bench.handle.stop();
    assert!(bench.result().is_ok());
    // The handler still holds its part of the lane; the hub has been told all the same.
    assert_eq!(bench.attached.connection.receive(), Some(ToHub::Drain));
    assert_eq!(bench.attached.connection.receive(), None);
    leave.send(()).unwrap();
}

#[test]
fn a_signal_drains() {
    let mut bench = Bench::start(1, geometry(64), echo_worker().handle_signals(true));
    signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
    assert_eq!(bench.attached.connection.receive(), Some(ToHub::Drain));
    bench.attached.connection.close();
    assert!(bench.result().is_ok());
}

#[test]
fn a_replaced_worker_returns() {
    let mut bench = Bench::start(1, geometry(64), echo_worker());
    bench.attached.connection.send(&ToWorker::Draining {
        reason: "a newcomer".into(),
    });
    bench.attached.connection.close();
    match bench.result() {
        Err(Error::Replaced { reason }) => assert_eq!(reason, "a newcomer"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_say_what_to_do() {
    let hub = FakeHub::new();
    let socket = hub.socket();
    let run = |worker: Worker| worker.run().unwrap_err().to_string();

    let error = run(quiet("a/b").socket(&socket));
    assert!(
        error.contains("name:") && error.contains("path separators"),
        "{error}"
    );
    let error = run(quiet("w").route("GET", "/{", |_| ()).socket(&socket));
    assert!(error.contains("routes[0].path"), "{error}");
    let nowhere = socket.with_file_name("nowhere");
    let error = run(quiet("w").socket(&nowhere).patience(Duration::ZERO));
    assert!(
        error.contains("nowhere") && error.contains("slotway serve"),
        "{error}"
    );

    let refusal = FieldError {
        field: "name".into(),
        detail: "not today".into(),
    };
    let worker = quiet("w").socket(&socket);
    let refused = std::thread::spawn(move || worker.run().unwrap_err());
    let (mut connection, ..) = hub.accept_raw();
    connection.send(&ToWorker::Refused {
        error: refusal.clone(),
        temporary: false,
    });
    match refused.join().unwrap() {
        Error::Refused(error) => assert_eq!(error, refusal),
        other => panic!("{other}"),
    }
}

/// What a hub says that has no room now.
fn no_room() -> ToWorker {
    ToWorker::Refused {
        error: FieldError {
            field: "name".into(),
            detail: "too many".into(),
        },
        temporary: true,
    }
}

#[test]
fn a_refusal_that_may_pass_is_waited_out() {
    let hub = FakeHub::new();
    let worker = quiet("w").socket(hub.socket()).patience(GUARD);
    let handle = worker.handle();
    let running = std::thread::spawn(move || worker.run());
    let refuse = || hub.accept_raw().0.send(&no_room());
    refuse();
    refuse();
    let mut attached = hub.accept(1, geometry(16));
    // The hub goes, and comes back without room for a while.
    attached.connection.close();
    (0..3).for_each(|_| refuse());
    let mut attached = hub.accept(1, geometry(16));
    handle.stop();
    assert_eq!(attached.connection.receive(), Some(ToHub::Drain));
    attached.connection.close();
    running.join().unwrap().unwrap();

    // Who is not to wait hears why.
    for worker in [
        quiet("w").socket(hub.socket()).patience(Duration::ZERO),
        quiet("w").socket(hub.socket()).reconnect(false),
    ] {
        let running = std::thread::spawn(move || worker.run().unwrap_err());
        refuse();
        let error = running.join().unwrap();
        assert!(matches!(&error, Error::Full(e) if e.detail == "too many"));
        assert!(error.to_string().contains("too many"), "{error}");
    }
}

#[test]
fn a_hub_that_talks_nonsense_is_an_error() {
    for nonsense in [
        ToWorker::Draining {
            reason: "out of turn".into(),
        },
        ToWorker::Attached {
            worker_id: "id".into(),
            lanes: 0,
        },
        ToWorker::Attached {
            worker_id: "id".into(),
            lanes: u32::MAX,
        },
    ] {
        let hub = FakeHub::new();
        let worker = quiet("w").socket(hub.socket()).reconnect(false);
        let running = std::thread::spawn(move || worker.run().unwrap_err());
        let (mut connection, ..) = hub.accept_raw();
        connection.send(&nonsense);
        assert!(
            matches!(running.join().unwrap(), Error::Attach { .. }),
            "{nonsense:?}"
        );
    }
}

#[test]
fn a_kernel_without_futex_waitv_will_do() {
    let barrier = Arc::new(Barrier::new(2));
    let worker = quiet("w")
        .threads(2)
        .route("POST", "/echo", |req: Request| {
            Response::ok().body(req.into_body())
        })
        .route("GET", "/", move |_| {
            barrier.wait();
            "together"
        });
    let mut bench = Bench::start_with(2, geometry(64), worker, |worker| {
        let (settings, service) = worker.prepare()?;
        crate::worker::blocking::run_with(&settings, &service, Sleep::Poll)
    });
    for number in 0..200 {
        let first = bench.attached.lanes[0].ask(&Ask::new(Method::Get, "/", 1), b"");
        let second = bench.attached.lanes[number % 2].ask(&Ask::new(Method::Get, "/", 1), b"");
        assert_eq!(bench.attached.lanes[0].reply(first).body, b"together");
        assert_eq!(
            bench.attached.lanes[number % 2].reply(second).body,
            b"together"
        );
        bench.attached.lanes.iter_mut().for_each(HubLane::settle);
    }
    echo_in_frames(&mut bench.attached.lanes[1], 11, 2 << 20, false);
    bench.attached.lanes[1].settle();
    bench.attached.connection.close();
    bench.attached = bench.hub.accept(1, geometry(64));
    echo_in_frames(&mut bench.attached.lanes[0], 12, 1 << 20, true);
}

#[test]
fn answers_wait_for_slots_in_the_smallest_lane() {
    // 16 slots: a head of the largest size takes five.
    let worker = quiet("w").threads(3).route("GET", "/", |_| {
        Response::ok()
            .header("x-long", vec![b'v'; 16_000])
            .body(noise(8, 0, 100_000))
    });
    let mut bench = Bench::start(1, geometry(16), worker);
    let lane = &mut bench.attached.lanes[0];
    let ids: Vec<_> = (0..6).map(|_| lane.ask(&get("/"), b"")).collect();
    for id in ids {
        let reply = lane.reply(id);
        assert!(reply.status == 200 && reply.body == noise(8, 0, 100_000));
    }
    lane.settle();
}
