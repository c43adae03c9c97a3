//! SSE routes: how they are registered, what their handlers see, and what the hub gets to hear.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;

use super::hub::{Ask, GUARD, HubLane, Reply};
use super::{Bench, geometry, quiet};
use crate::control::Lifecycle;
use crate::message::Method;
use crate::shm::codec::LifecycleFlags;
use crate::worker::{
    Connect, Disconnect, Error, Response, SlowPolicy, SseRoute, Target, Verdict, Worker,
};

fn ask(route: u32) -> Ask<'static> {
    Ask {
        method: Method::Get,
        target: "/rooms/7%20x?q=1",
        route,
        params: &["7%20x"],
        fields: &[("Last-Event-ID", b"raw")],
    }
}

fn params() -> BTreeMap<String, String> {
    BTreeMap::from([("room".into(), "7 x".into())])
}

fn connect(last_event_id: Option<&str>, replayed: bool) -> Lifecycle {
    Lifecycle::Connect {
        connection_id: "c-1".into(),
        path: "/rooms/7%20x".into(),
        params: params(),
        last_event_id: last_event_id.map(str::to_owned),
        replayed,
    }
}

fn disconnect() -> Lifecycle {
    Lifecycle::Disconnect {
        connection_id: "c-1".into(),
        path: "/rooms/7%20x".into(),
        params: params(),
        lasted_ms: 1234,
    }
}

fn told(lane: &mut HubLane, route: u32, what: &Lifecycle) -> Reply {
    let replayed = matches!(what, Lifecycle::Connect { replayed: true, .. });
    let id = lane.tell(&ask(route), what, replayed);
    let reply = lane.reply(id);
    lane.settle();
    reply
}

#[test]
fn a_route_is_registered_with_what_it_asks_for() {
    let worker = quiet("w").sse_route("/plain", SseRoute::new()).sse_route(
        "/rooms/{room}",
        SseRoute::new().replay(true).slow(SlowPolicy::Disconnect),
    );
    let bench = Bench::start(1, geometry(64), worker);
    let routes = &bench.attached.registration.routes;
    assert!(
        routes
            .iter()
            .all(|route| route.sse && route.method == "GET")
    );
    assert_eq!((routes[0].replay, routes[0].slow), (false, None));
    assert_eq!(
        (routes[1].replay, routes[1].slow),
        (true, Some(SlowPolicy::Disconnect))
    );
}

#[test]
fn handlers_see_who_comes_and_who_goes() {
    let (seen, looked) = channel();
    let left = seen.clone();
    let route = SseRoute::new()
        .on_connect(move |c: &Connect| {
            let said = format!(
                "{} {} {:?} {} {} {:?} {:?} {:?}",
                c.connection_id(),
                c.path(),
                c.last_event_id(),
                c.is_replayed(),
                c.param("room").unwrap(),
                c.query("q"),
                c.header("last-event-id").map(<[u8]>::to_vec),
                c.request().route(),
            );
            seen.send(said).unwrap();
        })
        .on_disconnect(move |d: &Disconnect| {
            let said = format!(
                "{} {} {:?} {:?} {:?} {}",
                d.connection_id(),
                d.path(),
                d.param("room"),
                d.param("other"),
                d.lasted(),
                d.request().path(),
            );
            left.send(said).unwrap();
        });
    let worker = quiet("w").sse_route("/rooms/{room}", route);
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let raw = Some(b"raw".to_vec());
    for (last, replayed) in [(None, false), (Some("9"), true)] {
        let reply = told(lane, 0, &connect(last, replayed));
        assert_eq!((reply.status, reply.total), (200, Some(0)));
        assert_eq!((&reply.fields[..], reply.frames), ("", 1));
        assert_eq!(
            looked.recv_timeout(GUARD).unwrap(),
            format!(
                "c-1 /rooms/7%20x {last:?} {replayed} 7 x Some(\"1\") {raw:?} \"/rooms/{{room}}\""
            )
        );
    }
    assert_eq!(told(lane, 0, &disconnect()).status, 204);
    assert_eq!(
        looked.recv_timeout(GUARD).unwrap(),
        "c-1 /rooms/7%20x Some(\"7 x\") None 1.234s /rooms/7%20x"
    );
}

#[test]
fn every_verdict_arrives() {
    let on = |handler: fn(&Connect) -> Verdict| SseRoute::new().on_connect(handler);
    let worker = quiet("w")
        .sse_route("/0/{room}", SseRoute::new())
        .sse_route("/1/{room}", on(|_| Verdict::Accept))
        .sse_route(
            "/2/{room}",
            on(|_| Verdict::Refuse(Response::text("no such room\n").status(404))),
        )
        .sse_route("/3/{room}", SseRoute::new().on_connect(|_: &Connect| true))
        .sse_route("/4/{room}", SseRoute::new().on_connect(|_: &Connect| false))
        .sse_route(
            "/5/{room}",
            SseRoute::new().on_connect(|_: &Connect| {
                Response::ok().header("x-room", "7").body("not to be sent")
            }),
        )
        .sse_route(
            "/6/{room}",
            SseRoute::new().on_connect(|_: &Connect| Response::no_content()),
        )
        .sse_route(
            "/7/{room}",
            SseRoute::new().on_connect(|_: &Connect| (401, "who are you?")),
        )
        .sse_route(
            "/8/{room}",
            SseRoute::new().on_connect(|c: &Connect| {
                let room = c.param("room").ok_or_else(Response::not_found)?;
                if room.contains(' ') {
                    return Err(Response::new(409));
                }
                Ok(())
            }),
        )
        .sse_route(
            "/9/{room}",
            SseRoute::new()
                .on_connect(|_: &Connect| -> bool { panic!("on purpose") })
                .on_disconnect(|_| panic!("on purpose, too")),
        )
        .sse_route("/10/{room}", on(|_| Verdict::Refuse(Response::ok())))
        .sse_route(
            "/11/{room}",
            on(|_| Verdict::AcceptWith(Response::new(201))),
        )
        .sse_route(
            "/12/{room}",
            SseRoute::new().on_connect(|_: &Connect| Response::ok().header("bad name", "1")),
        )
        .threads(1);
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let mut verdict = |route| {
        let reply = told(lane, route, &connect(None, false));
        (reply.status, String::from_utf8(reply.body).unwrap())
    };
    for (route, status, body) in [
        (0, 200, ""),
        (1, 200, ""),
        (2, 404, "no such room\n"),
        (3, 200, ""),
        (4, 403, "forbidden\n"),
        (5, 200, ""),
        (6, 204, ""),
        (7, 401, "who are you?"),
        (8, 409, ""),
    ] {
        assert_eq!(verdict(route), (status, body.to_owned()), "route {route}");
    }
    for route in 9..=12 {
        assert_eq!(verdict(route).0, 500, "route {route}");
    }
    let reply = told(lane, 5, &connect(None, false));
    assert_eq!(reply.fields, "x-room: 7\r\n");
    assert_eq!(told(lane, 0, &disconnect()).status, 204);
    assert_eq!(told(lane, 9, &disconnect()).status, 500);
    assert_eq!(
        told(lane, 0, &connect(None, false)).status,
        200,
        "it lives on"
    );
}

#[test]
fn what_the_hub_would_not_say_is_answered_with_500() {
    let worker = quiet("w")
        .sse_route("/0/{room}", SseRoute::new().on_connect(|_: &Connect| ()))
        .route("GET", "/1/{room}", |_| "an ordinary route");
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    assert_eq!(
        lane.round(&ask(0), b"").status,
        500,
        "no request on a stream"
    );
    assert_eq!(told(lane, 1, &connect(None, false)).status, 500);
    assert_eq!(lane.round(&ask(1), b"").status, 200);
    let flags = LifecycleFlags::Connect { replayed: false };
    for body in [
        &b""[..],
        b"{}",
        b"{\"sse_lifecycle\":\"other\"}",
        br#"{"sse_lifecycle":"disconnect","connection_id":"c","path":"/","params":{},"lasted_ms":1}"#,
    ] {
        let id = lane.begin_as(&ask(0), flags, body, Some(body.len() as u64), true);
        assert_eq!(lane.reply(id).status, 500);
        lane.settle();
    }
}

#[test]
fn the_end_of_a_stream_is_told_even_late() {
    let (seen, looked) = channel();
    let (entered, in_handler) = channel();
    let (leave, may_leave) = channel::<()>();
    let may_leave = std::sync::Mutex::new(may_leave);
    let route = SseRoute::new().on_disconnect(move |_| seen.send(()).unwrap());
    let worker = quiet("w")
        .sse_route("/{room}", route)
        .route("GET", "/wait", move |_| {
            entered.send(()).unwrap();
            may_leave.lock().unwrap().recv_timeout(GUARD).unwrap();
        })
        .threads(1);
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let waiting = lane.ask(&Ask::new(Method::Get, "/wait", 1), b"");
    in_handler.recv_timeout(GUARD).unwrap();
    let id = lane.tell(&ask(0), &disconnect(), false);
    // The hub has given the exchange up before a thread was free for it.
    lane.cancel(id);
    leave.send(()).unwrap();
    assert_eq!(lane.reply(waiting).status, 204);
    looked.recv_timeout(GUARD).expect("it is told all the same");
}

#[test]
fn a_stream_with_an_async_handler_needs_an_event_loop() {
    let route = SseRoute::new();
    #[cfg(feature = "tokio")]
    let route = route.on_disconnect_async(|_| async {});
    let worker = Worker::new("w")
        .sse_route("/{room}", route)
        .reconnect(false);
    let result = worker.socket("/nonexistent/hub.sock").run();
    if cfg!(feature = "tokio") {
        assert!(matches!(result, Err(Error::AsyncRoute { .. })));
    } else {
        assert!(matches!(result, Err(Error::Connect { .. })));
    }
}

#[cfg(feature = "tokio")]
#[test]
fn handlers_may_be_async() {
    use super::event_loop::start;
    let (seen, looked) = channel();
    let (left, blocking_left) = (seen.clone(), seen.clone());
    let route = SseRoute::new()
        .on_connect_async(|c: Connect| async move {
            ::tokio::task::yield_now().await;
            c.last_event_id() != Some("13")
        })
        .on_disconnect_async(move |d: Disconnect| {
            let left = left.clone();
            async move { left.send(d.lasted()).unwrap() }
        });
    let mixed = SseRoute::new()
        .on_connect_async(|_: Connect| async { panic!("on purpose") as bool })
        .on_disconnect(move |d: &Disconnect| blocking_left.send(d.lasted()).unwrap());
    drop(seen);
    let worker = quiet("w")
        .sse_route("/0/{room}", route)
        .sse_route("/1/{room}", mixed)
        .sse_route("/2/{room}", SseRoute::new());
    let mut bench = start(1, 1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    assert_eq!(told(lane, 0, &connect(None, false)).status, 200);
    assert_eq!(told(lane, 0, &connect(Some("13"), true)).status, 403);
    assert_eq!(told(lane, 1, &connect(None, false)).status, 500);
    assert_eq!(told(lane, 2, &connect(None, false)).status, 200);
    for (route, expected) in [(0, 204), (1, 204), (2, 204)] {
        assert_eq!(told(lane, route, &disconnect()).status, expected);
    }
    for _ in 0..2 {
        assert_eq!(
            looked.recv_timeout(GUARD),
            Ok(std::time::Duration::from_millis(1234))
        );
    }
}

#[test]
fn a_request_can_publish() {
    let worker = quiet("w").route("POST", "/say", |mut req: crate::worker::Request| {
        let text = req.read_body(1000).unwrap();
        let event = crate::worker::Event::new(text);
        req.events().push(Target::path("/rooms/7"), event).unwrap();
    });
    let mut bench = Bench::start(1, geometry(64), worker);
    let lane = &mut bench.attached.lanes[0];
    let reply = lane.round(&Ask::new(Method::Post, "/say", 0), b"hello");
    assert_eq!(reply.status, 204);
    let part = lane.next_events();
    assert_eq!(part.records[0].data, b"hello");
}
