//! The demo's page in a real browser: what it shows, and that events survive dropped connections and
//! restarts of the hub. Needs Chromium.
// What the binary is built with.
#![cfg(all(feature = "gateway", feature = "tokio"))]

mod support;

use std::time::Duration;

use simd_json::prelude::*;

use support::chromium::{Browser, CHROMIUM};
use support::proxy::Proxy;
use support::scratch::ScratchDir;
use support::{Hub, HubOptions, tools, wait_within};

/// Notes every event as the browser gives it to the page, whatever the page makes of it.
const NOTE_EVENTS: &str = "
window.seen = [];
window.sources = [];
window.EventSource = class extends EventSource {
  constructor(...args) {
    super(...args);
    sources.push(this);
    for (const type of ['tick', 'note', 'sse_gap'])
      super.addEventListener(type, event => seen.push([type, event.lastEventId, event.data]));
  }
};";

fn demo_on(port: u16, dir: ScratchDir) -> Hub {
    // Longer than by default, for machines that are busy.
    let grace = ["--startup-grace", "20"];
    let options = HubOptions::new().demo().args(grace).port(port);
    let mut hub = options.start_in(dir);
    hub.process.wait_line("demo worker attached (pid ");
    hub
}

/// What the page was given: type, id and data of each event.
fn seen(browser: &mut Browser) -> Vec<(String, String, String)> {
    let value = browser.value("seen");
    let events = value.as_array().expect("a list").iter();
    let text = |event: &simd_json::OwnedValue, part: usize| {
        let part = event.get_idx(part).and_then(|p| p.as_str());
        part.expect("a text").to_string()
    };
    events
        .map(|event| (text(event, 0), text(event, 1), text(event, 2)))
        .collect()
}

/// The numbers in the ids of these events: they come one after the other where nothing is lost or
/// doubled.
fn sequence(events: &[(String, String, String)]) -> Vec<u64> {
    let number = |id: &String| id.rsplit_once('-').and_then(|(_, n)| n.parse().ok());
    events
        .iter()
        .map(|(_, id, _)| number(id).expect("an id of the hub"))
        .collect()
}

/// Stops the hub. Returns how many events the page was given, and which run of the hub the last of
/// them came from.
fn stop(hub: &mut Hub, browser: &mut Browser) -> (usize, String) {
    assert_eq!(hub.stop().code(), Some(0));
    browser.wait(
        "the page says that the stream is gone",
        "document.getElementById('stream').textContent.includes('reconnecting')",
    );
    let events = seen(browser);
    let (_, id, _) = events.last().expect("an event");
    let epoch = id.split('-').next().unwrap_or_default();
    (events.len(), epoch.to_string())
}

#[test]
fn the_page_shows_the_hub_and_survives_what_the_network_does() {
    let name = "the demo's page in a browser";
    if !tools::are_there(name, &[CHROMIUM], &[], "apt-get install chromium") {
        return;
    }
    let mut hub = demo_on(0, ScratchDir::new());
    let port = hub.address.port();
    let mut browser = Browser::start();
    browser.before_each_page(NOTE_EVENTS);
    browser.open(&hub.url("/"));

    shows_events(&hub, &mut browser);
    shows_workers_and_slots(&hub, &mut browser);
    shows_latency(&mut browser);
    // The hub goes, and another comes to the same port.
    browser.wait("ticks", "seen.length >= 3");
    let (known, epoch) = stop(&mut hub, &mut browser);
    let mut hub = demo_on(port, hub.into_dir());
    goes_on_behind_a_gap(&mut browser, known, &epoch);
    // The browser did that by itself: it was let wait for the worker, and never got an error.
    assert_eq!(browser.value("sources.length").cast_f64(), Some(1.0));

    // Once more, and the worker comes too late: an error is the end to an EventSource, not to the page.
    let (known, epoch) = stop(&mut hub, &mut browser);
    let sources = browser.value("sources.length").cast_f64().unwrap();
    let no_grace = HubOptions::new().args(["--startup-grace", "0"]);
    let hub = no_grace.port(port).start_in(hub.into_dir());
    browser.wait(
        "the page tries again by itself",
        &format!("sources.length > {sources}"),
    );
    let _worker = hub.worker();
    goes_on_behind_a_gap(&mut browser, known, &epoch);
    let resumes = browser.value("sources.at(-1).url.includes('?last_event_id=')");
    assert_eq!(resumes.as_bool(), Some(true));

    // The same page through a network that fails, while the hub goes on.
    let proxy = Proxy::start(hub.address);
    browser.open(&format!("http://{}/", proxy.address));
    loses_nothing_on_the_way(&hub, &proxy, &mut browser);
    page_kept_its_rules(
        &browser,
        &[hub.address.to_string(), proxy.address.to_string()],
    );
}

fn shows_events(hub: &Hub, browser: &mut Browser) {
    browser.wait(
        "the stream is live",
        "document.getElementById('stream')?.textContent.includes('live') ?? false",
    );
    browser.wait(
        "ticks are counted",
        "Number(document.getElementById('received').textContent) >= 2",
    );
    browser.wait(
        "ticks are listed",
        "document.querySelectorAll('#events li').length >= 2",
    );
    assert_eq!(browser.text("listeners"), "1");
    // Markup in an event is text to the page.
    let note = r#"{"path": "/demo/ticks", "event_type": "note", "data": "two\nlines <b id=bold>"}"#;
    let pushed = hub.request("POST", "/internal/sse-push", "", note.as_bytes());
    assert_eq!(pushed.status, 200, "{pushed:?}");
    browser.wait(
        "a note is listed",
        r"[...document.querySelectorAll('#events li')].some(li => li.textContent.includes('two\nlines <b id=bold>'))",
    );
    assert_eq!(
        browser.value("document.getElementById('bold')").as_bool(),
        None
    );
    let events = seen(browser);
    let numbers = sequence(&events);
    let first = numbers[0];
    let expected: Vec<u64> = (first..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "{events:?}");
}

fn shows_workers_and_slots(hub: &Hub, browser: &mut Browser) {
    browser.wait(
        "the worker is shown",
        "document.querySelector('#workers tr th')?.textContent === 'demo'",
    );
    let worker = hub.health_of("demo").expect("the demo worker");
    let row =
        browser.value("[...document.querySelectorAll('#workers td')].map(td => td.textContent)");
    let cell = |index: usize| {
        row.get_idx(index)
            .and_then(|c| c.as_str())
            .unwrap_or_default()
    };
    assert_eq!(cell(0), "attached");
    assert_eq!(cell(1), worker.get_u64("pid").unwrap().to_string());
    assert_eq!(cell(2), worker.get_u64("route_count").unwrap().to_string());
    assert!(cell(3).parse::<u64>().is_ok(), "requests: {row}");
    let slots = hub.slots();
    let total = slots.get_array("workers").unwrap()[0].get_u64("total_slots");
    let total = total.expect("a number of slots");
    assert!(cell(4).ends_with(&format!(" of {total}")), "slots: {row}");
    let meter = browser.value("document.querySelector('#workers meter').max");
    assert_eq!(meter.cast_f64(), Some(total as f64));
    assert!(browser.text("hub").contains(env!("CARGO_PKG_VERSION")));
}

fn shows_latency(browser: &mut Browser) {
    browser.value("document.getElementById('send').click()");
    browser.wait(
        "latencies",
        "document.getElementById('summary').textContent.includes('median')",
    );
    let points = browser.value("document.querySelectorAll('#plot circle').length");
    assert_eq!(points.cast_f64(), Some(200.0));
    // Every point is within the picture, and they are not all the same.
    let spread = browser.value(
        "(() => { const y = [...document.querySelectorAll('#plot circle')].map(c => c.cy.baseVal.value);
          return y.every(y => y >= 0 && y <= 260) && new Set(y).size > 1; })()",
    );
    assert_eq!(spread.as_bool(), Some(true));
    let label = browser.value("document.getElementById('plot').ariaLabel");
    assert!(label.as_str().unwrap().contains("median"), "{label}");
}

/// The browser says an id of a hub that is gone: the first event is the gap, and then it goes on.
fn goes_on_behind_a_gap(browser: &mut Browser, known: usize, epoch: &str) {
    browser.wait(
        "a gap and ticks of the new hub",
        &format!("seen.length >= {known} + 3"),
    );
    let events = seen(browser);
    let after = &events[known..];
    assert_eq!(after[0].0, "sse_gap", "{after:?}");
    assert!(after[0].2.contains(r#""reason":"restart""#), "{after:?}");
    assert!(
        after[1..].iter().all(|(kind, ..)| kind == "tick"),
        "{after:?}"
    );
    assert!(
        after[1..].iter().all(|(_, id, _)| !id.starts_with(epoch)),
        "{after:?}"
    );
    let gaps = events.iter().filter(|(kind, ..)| kind == "sse_gap");
    assert_eq!(browser.text("gaps"), gaps.count().to_string());
    assert_ne!(browser.text("reconnects"), "0");
    browser.wait(
        "the stream is live again",
        "document.getElementById('stream').textContent.includes('live')",
    );
    browser.wait(
        "the gap is explained",
        "[...document.querySelectorAll('#events li')].some(li => li.textContent.includes('restarted'))",
    );
}

/// The browser comes back by itself with the id it saw last, and gets what it has missed.
fn loses_nothing_on_the_way(hub: &Hub, proxy: &Proxy, browser: &mut Browser) {
    browser.wait("ticks through the proxy", "(window.seen?.length ?? 0) >= 2");
    for _ in 0..2 {
        let known = seen(browser).len();
        let heads = proxy.heads("/demo/ticks").len();
        assert_eq!(proxy.cut("/demo/ticks"), 1);
        // What is pushed now is missed, and is to be replayed.
        let note = br#"{"path": "/demo/ticks", "event_type": "note", "data": "missed"}"#;
        let pushed = hub.request("POST", "/internal/sse-push", "", note);
        assert_eq!(pushed.status, 200, "{pushed:?}");
        wait_within(Duration::from_secs(30), "the browser comes back", || {
            proxy.heads("/demo/ticks").len() > heads
        });
        let head = proxy
            .heads("/demo/ticks")
            .pop()
            .unwrap()
            .to_ascii_lowercase();
        assert!(head.contains("\r\nlast-event-id: "), "{head}");
        browser.wait("events go on", &format!("seen.length >= {known} + 3"));
    }
    let events = seen(browser);
    assert_eq!(events.iter().filter(|(kind, ..)| kind == "note").count(), 2);
    assert!(
        events.iter().all(|(kind, ..)| kind != "sse_gap"),
        "{events:?}"
    );
    let numbers = sequence(&events);
    let expected: Vec<u64> = (numbers[0]..).take(numbers.len()).collect();
    assert_eq!(numbers, expected, "lost or doubled: {events:?}");
    assert_eq!(browser.text("reconnects"), "2");
    assert_eq!(browser.text("gaps"), "0");
}

/// No script failed, nothing was refused by the page's own policy, and nobody but the hub was asked.
fn page_kept_its_rules(browser: &Browser, hubs: &[String]) {
    for event in &browser.events {
        let method = event.get_str("method").unwrap_or_default();
        assert_ne!(method, "Runtime.exceptionThrown", "{event}");
        let entry = event.get("params").and_then(|params| params.get("entry"));
        let source = entry.and_then(|entry| entry.get_str("source"));
        assert_ne!(source, Some("security"), "{event}");
        assert_ne!(source, Some("violation"), "{event}");
        if method == "Network.requestWillBeSent" {
            let request = event.get("params").and_then(|params| params.get("request"));
            let url = request.and_then(|r| r.get_str("url")).expect("a URL");
            let own = hubs
                .iter()
                .any(|hub| url.starts_with(&format!("http://{hub}/")));
            assert!(own || url.starts_with("data:"), "the page asks for {url}");
        }
    }
    let asked = |path: &str| {
        let is_there = |event: &&simd_json::OwnedValue| event.encode().contains(path);
        browser.events.iter().find(is_there).is_some()
    };
    assert!(
        asked("/internal/slots") && asked("/demo/ticks"),
        "nothing was watched"
    );
}
