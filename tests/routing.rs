//! Which worker and which handler a request reaches, and what a client is told where none answers.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use simd_json::prelude::*;
use support::client::Answer;
use support::test_worker::{Seen, start_reflector};
use support::{Hub, HubOptions, json, test_worker, wait_until};

#[test]
#[ignore = "the worker process of the other tests, which they start"]
fn worker_process() {
    test_worker::run();
}

fn seen(answer: &Answer) -> Seen {
    assert_eq!(answer.status, 200, "{answer:?}");
    simd_json::from_slice(&mut answer.body.clone()).expect("the reflector's JSON")
}

fn register(hub: &Hub, body: &str) -> Answer {
    let fields = "Content-Type: application/json\r\n";
    hub.request("POST", "/internal/register", fields, body.as_bytes())
}

#[test]
fn unknown_paths_are_404() {
    let (hub, _worker) = Hub::with_worker();
    for path in [
        "/nothing",
        "/hello/",
        "/hello/x",
        "/Hello",
        "/items",
        "/items/",
        "/items/a/b",
        "//hello",
        "/hell",
        "/%68ello/x",
    ] {
        let detail = hub.get(path).assert_problem(404);
        assert!(detail.contains(path), "{path}: {detail}");
    }
    let answer = hub.request("POST", "/nothing", "", b"with a body");
    answer.assert_problem(404);
}

#[test]
fn other_methods_are_405_with_allow() {
    let (hub, _worker) = Hub::with_worker();
    for (method, path, allowed) in [
        ("POST", "/hello", vec!["GET", "HEAD"]),
        ("DELETE", "/hello", vec!["GET", "HEAD"]),
        ("GET", "/echo", vec!["POST"]),
        ("PUT", "/items/7", vec!["GET", "HEAD"]),
    ] {
        let answer = hub.request(method, path, "", b"");
        answer.assert_problem(405);
        let allow = answer
            .field("allow")
            .expect("Allow (RFC 9110, section 15.5.6)");
        let methods: Vec<&str> = allow.split(',').map(str::trim).collect();
        for wanted in allowed {
            assert!(methods.contains(&wanted), "{method} {path}: {allow}");
        }
        assert!(!methods.contains(&method), "{method} {path}: {allow}");
    }
    // HEAD is not allowed where GET is not.
    let mut client = hub.connect();
    client.request("HEAD", "/echo", "", b"");
    assert_eq!(client.answer_to("HEAD").status, 405);
}

#[test]
fn literal_beats_parameter_beats_catch_all() {
    let hub = Hub::start();
    let _worker = start_reflector(
        &hub,
        "routes",
        &[
            "GET /{*rest}",
            "GET /a/{x}",
            "GET /a/literal",
            "GET /a/{x}/c",
            "GET /a/b/{y}",
            "GET /files/{*path}",
            "GET /files/{name}/meta",
            "POST /a/literal",
        ],
    );
    for (path, route) in [
        ("/a/literal", "/a/literal"),
        ("/a/other", "/a/{x}"),
        ("/a/b/c", "/a/b/{y}"),
        ("/a/z/c", "/a/{x}/c"),
        ("/a/z/d", "/{*rest}"),
        ("/files/a/meta", "/files/{name}/meta"),
        ("/files/a/b/meta", "/files/{*path}"),
        ("/files/a", "/files/{*path}"),
        ("/elsewhere", "/{*rest}"),
        ("/deep/er/still", "/{*rest}"),
    ] {
        assert_eq!(seen(&hub.get(path)).route, route, "{path}");
    }
    // The method is part of the choice.
    let posted = hub.request("POST", "/a/literal", "", b"");
    assert_eq!(seen(&posted).method, "POST");
    let fallen = hub.request("POST", "/a/other", "", b"");
    fallen.assert_problem(405);
}

#[test]
fn of_equal_routes_the_first_registered_wins() {
    let hub = Hub::start();
    let first = start_reflector(&hub, "first", &["GET /same/{a}", "GET /own/first"]);
    let _second = start_reflector(&hub, "second", &["GET /same/{b}", "GET /own/second"]);
    let answer = seen(&hub.get("/same/x"));
    assert_eq!((&*answer.worker, &*answer.route), ("first", "/same/{a}"));
    assert_eq!(seen(&hub.get("/own/second")).worker, "second");
    assert_eq!(seen(&hub.get("/own/first")).worker, "first");
    drop(first);
}

#[test]
fn parameters_arrive_raw_and_decoded() {
    let hub = Hub::start();
    let _worker = start_reflector(
        &hub,
        "params",
        &["GET /p/{one}/x/{two}", "GET /rest/{*all}"],
    );
    let got = seen(&hub.get("/p/a%20b+c/x/%C3%A4%2F"));
    let expected = [
        ("one".into(), b"a%20b+c".to_vec(), "a b+c".into()),
        ("two".into(), b"%C3%A4%2F".to_vec(), "ä/".into()),
    ];
    assert_eq!(got.params, expected);
    assert_eq!(got.path, "/p/a%20b+c/x/%C3%A4%2F");

    let got = seen(&hub.get("/rest/a/b%2Fc/d?q=1"));
    let expected = [("all".into(), b"a/b%2Fc/d".to_vec(), "a/b/c/d".into())];
    assert_eq!(got.params, expected);
    // The longest parameter that a target may hold arrives whole.
    let long = "x".repeat(8000);
    let got = seen(&hub.get(&format!("/p/{long}/x/y")));
    assert_eq!(got.params[0].2, long);
}

#[test]
fn the_target_may_have_every_form() {
    let hub = Hub::start();
    let _worker = start_reflector(&hub, "targets", &["GET /t", "GET /"]);
    for (target, route) in [
        ("/t?x=%20&x", "/t"),
        ("http://localhost/t?x", "/t"),
        ("HTTP://LOCALHOST/t", "/t"),
        ("http://localhost", "/"),
        ("/?", "/"),
    ] {
        let got = seen(&hub.get(target));
        assert_eq!(got.route, route, "{target}");
        assert_eq!(got.target, target.as_bytes());
    }
}

#[test]
fn head_reaches_the_get_route_unless_there_is_its_own() {
    let hub = Hub::start();
    let _worker = start_reflector(&hub, "heads", &["GET /get", "GET /both", "HEAD /both"]);
    for path in ["/get", "/both"] {
        let mut client = hub.connect();
        client.request("HEAD", path, "", b"");
        let answer = client.answer_to("HEAD");
        assert_eq!(answer.status, 200);
        assert!(answer.field("content-length").is_some(), "{answer:?}");
        // The connection goes on with the next answer.
        assert_eq!(seen(&client.get(path)).method, "GET");
    }
}

#[test]
fn options_names_the_methods() {
    let (hub, _worker) = Hub::with_worker();
    let answer = hub.request("OPTIONS", "/hello", "", b"");
    assert_eq!(answer.status, 204, "{answer:?}");
    let allow = answer.field("allow").expect("Allow");
    assert!(allow.contains("GET") && allow.contains("HEAD"), "{allow}");
    hub.request("OPTIONS", "/nothing", "", b"")
        .assert_problem(404);
}

#[test]
fn browsers_may_use_workers_from_any_origin() {
    let (hub, _worker) = Hub::with_worker();
    let origin = "Origin: https://elsewhere.example\r\n";
    for (method, path) in [("GET", "/hello"), ("GET", "/nothing"), ("GET", "/health")] {
        let answer = hub.request(method, path, origin, b"");
        let allowed = answer.field("access-control-allow-origin");
        assert_eq!(allowed, Some("*"), "{path}: {answer:?}");
    }
    let preflight = format!(
        "{origin}Access-Control-Request-Method: DELETE\r\nAccess-Control-Request-Headers: x-own\r\n"
    );
    for path in ["/hello", "/nothing/yet", "/health"] {
        let answer = hub.request("OPTIONS", path, &preflight, b"");
        assert_eq!(answer.status, 204, "{path}: {answer:?}");
        assert_eq!(answer.field("access-control-allow-origin"), Some("*"));
        for name in [
            "access-control-allow-methods",
            "access-control-allow-headers",
        ] {
            assert!(answer.field(name).is_some(), "{name}: {answer:?}");
        }
    }
    // Those who are no browsers are not bothered with it.
    assert_eq!(hub.get("/hello").field("access-control-allow-origin"), None);
}

#[test]
fn a_bad_registration_is_refused_by_its_field_and_changes_nothing() {
    let (hub, _worker) = Hub::with_worker();
    let before = comparable(&hub);
    let long_name = "n".repeat(129);
    let long_path = format!("/{}", "p".repeat(1100));
    let route = |method: &str, path: &str| format!(r#"{{"method":"{method}","path":"{path}"}}"#);
    let with = |name: &str, routes: &str| format!(r#"{{"name":"{name}","routes":[{routes}]}}"#);
    let good = route("GET", "/fine");
    let cases = [
        (with("", &good), "name"),
        (with(&long_name, &good), "name"),
        (with("a/b", &good), "name"),
        (with("a\\\\b", &good), "name"),
        (with("a\\nb", &good), "name"),
        (with("a\\u0000b", &good), "name"),
        (with("..", &good), "name"),
        (with("w", &route("FETCH", "/a")), "routes[0].method"),
        (with("w", &route("get", "/a")), "routes[0].method"),
        (with("w", &route("", "/a")), "routes[0].method"),
        (with("w", &route("GET", "")), "routes[0].path"),
        (with("w", &route("GET", "a")), "routes[0].path"),
        (with("w", &route("GET", "/a/{")), "routes[0].path"),
        (with("w", &route("GET", "/a/{}")), "routes[0].path"),
        (with("w", &route("GET", "/a/x{id}")), "routes[0].path"),
        (with("w", &route("GET", "/{*rest}/b")), "routes[0].path"),
        (with("w", &route("GET", "/{a}/{a}")), "routes[0].path"),
        (with("w", &route("GET", &long_path)), "routes[0].path"),
        (with("w", &route("GET", "/internal/mine")), "routes[0].path"),
        (with("w", &route("GET", "/health")), "routes[0].path"),
        (with("w", &route("GET", "/events/mine")), "routes[0].path"),
        (with("w", &format!("{good},{good}")), "routes[1].path"),
        (
            with("demo", &format!("{good},{}", route("GET", "bad"))),
            "routes[1].path",
        ),
    ];
    for (body, field) in &cases {
        let answer = register(&hub, body);
        let shown = &body[..body.len().min(120)];
        answer.assert_problem(400);
        let problem = json(&answer.body);
        assert_eq!(
            problem.get_str("field"),
            Some(*field),
            "{shown}: {answer:?}"
        );
        assert_eq!(comparable(&hub), before, "{shown}");
    }
    for body in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"name":1,"routes":[]}"#,
        r#"{"name":"w"}"#,
    ] {
        register(&hub, body).assert_problem(400);
        assert_eq!(comparable(&hub), before, "{body}");
    }
    hub.get("/fine").assert_problem(404);
    assert_eq!(hub.get("/hello").text(), "Hello, World!");
    let wrong_method = hub.get("/internal/register");
    wrong_method.assert_problem(405);
    assert_eq!(wrong_method.field("allow"), Some("POST, OPTIONS"));
}

/// What `/health` says of workers, without what changes by itself.
fn comparable(hub: &Hub) -> Vec<(String, String, u64)> {
    let health = hub.health();
    let workers = health.get_array("workers").expect("workers").iter();
    let text = |w: &simd_json::OwnedValue, name: &str| w.get_str(name).expect(name).to_string();
    workers
        .map(|w| {
            (
                text(w, "name"),
                text(w, "worker_id"),
                w.get_u64("route_count").unwrap(),
            )
        })
        .collect()
}

#[test]
fn a_registration_nobody_attaches_to_is_503_and_then_forgotten() {
    let hub = HubOptions::new().args(["--remember-ms", "1500"]).start();
    let body = r#"{"name":"announced","routes":[{"method":"GET","path":"/announced/{id}"}]}"#;
    let answer = register(&hub, body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let registered = json(&answer.body);
    let id = registered.get_str("worker_id").expect("worker_id");
    assert!(!id.is_empty());
    assert!(
        registered
            .get_str("shm_name")
            .is_some_and(|name| !name.is_empty())
    );
    let socket = registered.get_str("socket").expect("where to attach");
    assert_eq!(socket, hub.socket.to_str().unwrap());
    let health = hub.health_of("announced").expect("it is listed");
    assert_eq!(health.get_str("worker_id"), Some(id));

    wait_until("the route is known", || {
        hub.get("/announced/7").status != 404
    });
    let answer = hub.get("/announced/7");
    answer.assert_problem(503);
    let seconds = answer.field("retry-after").expect("Retry-After");
    assert!(seconds.parse::<u64>().is_ok(), "{seconds}");
    hub.request("POST", "/announced/7", "", b"")
        .assert_problem(405);

    wait_until("it is forgotten", || hub.get("/announced/7").status == 404);
    assert!(hub.health_of("announced").is_none(), "still listed");
}

#[test]
fn a_worker_takes_the_place_that_was_registered_for_it() {
    let hub = Hub::start();
    let body = r#"{"name":"later","routes":[{"method":"GET","path":"/later"}]}"#;
    assert_eq!(register(&hub, body).status, 200);
    wait_until("the route is known", || hub.get("/later").status == 503);
    let _worker = start_reflector(&hub, "later", &["GET /later"]);
    assert_eq!(seen(&hub.get("/later")).worker, "later");
    let workers = hub.health();
    let workers = workers.get_array("workers").expect("workers");
    assert_eq!(workers.len(), 1, "one place, one worker: {workers:?}");
}

#[test]
fn routes_of_a_worker_that_came_back_with_others_are_the_new_ones() {
    let hub = Hub::start();
    let old = start_reflector(&hub, "changing", &["GET /old", "GET /kept"]);
    assert_eq!(hub.get("/old").status, 200);
    let _new = start_reflector(&hub, "changing", &["GET /new", "GET /kept"]);
    wait_until("the old route is gone", || hub.get("/old").status == 404);
    assert_eq!(seen(&hub.get("/new")).worker, "changing");
    assert_eq!(seen(&hub.get("/kept")).worker, "changing");
    drop(old);
    assert_eq!(hub.get("/old").status, 404);
}

#[test]
fn thousands_of_routes_are_told_apart() {
    let hub = Hub::start();
    let routes: Vec<String> = (0..2000)
        .map(|n| format!("GET /group{}/item{n}/{{id}}", n % 50))
        .collect();
    let refs: Vec<&str> = routes.iter().map(String::as_str).collect();
    let _worker = start_reflector(&hub, "many", &refs);
    let mut client = hub.connect();
    for n in (0..2000).step_by(7) {
        let got = seen(&client.get(&format!("/group{}/item{n}/x", n % 50)));
        assert_eq!(got.route, format!("/group{}/item{n}/{{id}}", n % 50));
        client
            .get(&format!("/group{}/item{n}/x", (n + 1) % 50))
            .assert_problem(404);
    }
}
