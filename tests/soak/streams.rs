//! The streams of the soak: who publishes, and who listens, comes back, and checks that nothing was
//! lost, doubled or moved that need not be.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::shared::{Deed, Line, Shared};
use crate::support::Random;
use crate::support::client::request_bytes;
use crate::support::sse::{Message, Sse};
use crate::weather::{Blow, Whom};

/// What is published, numbered from 0.
pub struct Topic {
    /// Where it is listened to.
    pub path: String,
    /// A request for this path, a number behind it, publishes. Empty: `/internal/emit` does.
    pub publish: String,
    /// Whose worker carries it.
    pub whom: Whom,
    /// Whether it is remembered for those who come back.
    pub is_kept: bool,
    /// When each number was published, and whether that was confirmed.
    sent: Mutex<Vec<(Instant, bool)>>,
}

/// After this time an event that was confirmed has left the memory it came in.
const ON_THE_WAY: Duration = Duration::from_secs(2);

impl Topic {
    /// A path of a worker's.
    pub fn room(shared: &Shared, worker: usize, kind: &str, room: u32) -> Topic {
        let name = shared.name(worker);
        Topic {
            path: format!("/{name}/{kind}/{room}"),
            publish: format!("/{name}/push/{kind}/{room}/"),
            whom: Whom::Worker(worker),
            is_kept: kind == "rooms",
            sent: Mutex::default(),
        }
    }

    /// What a worker emits to everybody.
    pub fn broadcast(shared: &Shared, worker: usize) -> Topic {
        let name = shared.name(worker);
        Topic {
            path: format!("/events?source={name}"),
            publish: format!("/{name}/emit/"),
            whom: Whom::Worker(worker),
            is_kept: true,
            sent: Mutex::default(),
        }
    }

    /// What is emitted over HTTP, to a channel.
    pub fn channel() -> Topic {
        Topic {
            path: "/events/soak".into(),
            publish: String::new(),
            whom: Whom::Hub,
            is_kept: true,
            sent: Mutex::default(),
        }
    }

    fn request(&self, number: usize) -> Vec<u8> {
        if !self.publish.is_empty() {
            let path = format!("{}{number}", self.publish);
            return request_bytes("POST", &path, "", b"");
        }
        let data = format!(r#"{{\"channel\":\"soak\",\"n\":{number}}}"#);
        let body = format!(r#"{{"source":"soak","event_type":"tick","data":"{data}"}}"#);
        let fields = "Content-Type: application/json\r\n";
        request_bytes("POST", "/internal/emit", fields, body.as_bytes())
    }

    fn status(&self) -> u16 {
        if self.publish.is_empty() { 200 } else { 204 }
    }

    /// The number in an event.
    fn number(&self, message: &Message) -> u64 {
        if self.publish.is_empty() {
            let data = message.member("data");
            let digits: String = data.chars().filter(char::is_ascii_digit).collect();
            return digits.parse().expect("a number");
        }
        message.number()
    }

    /// Why this number may be missing.
    fn may_miss(&self, shared: &Shared, number: u64) -> bool {
        let sent = self.sent.lock().unwrap();
        match sent.get(number as usize) {
            // The number above it was published, so this one was tried.
            Some((at, confirmed)) => {
                !confirmed || shared.weather.was_foul(self.whom, *at, *at + ON_THE_WAY)
            }
            None => false,
        }
    }
}

/// Publishes to a topic until the run is over.
pub fn publish(shared: &Shared, topic: &Topic, mut random: Random) {
    let mut line: Option<Line> = None;
    while !shared.is_over() {
        if shared.wants_rest() {
            drop(line.take());
            shared.rest();
            continue;
        }
        let Some(mut open) = line.take().or_else(|| shared.connect()) else {
            continue;
        };
        let number = {
            let mut sent = topic.sent.lock().unwrap();
            sent.push((Instant::now(), false));
            sent.len() - 1
        };
        let deed = Deed::new(
            format!("publish {number} to {}", topic.path),
            topic.whom,
            topic.status(),
        );
        let _ = open.client.try_send(topic.request(number));
        let outcome = open.client.try_answer_to("POST");
        let stays = outcome
            .as_ref()
            .is_ok_and(|answer| answer.field("connection") != Some("close"));
        if shared.judge(&deed, &open, outcome, |_| true) {
            topic.sent.lock().unwrap()[number].1 = true;
        }
        if stays {
            line = Some(open);
        }
        shared.think(&mut random, 30);
    }
}

/// Listens to a topic, leaves now and then, and comes back.
pub fn subscribe(shared: &Shared, topic: &Topic, mut random: Random) {
    let mut place = Place::default();
    while !shared.is_over() {
        if shared.wants_rest() {
            shared.rest();
            continue;
        }
        if !topic.is_kept || random.below(5) == 0 {
            place = Place::default();
        }
        let Some(line) = shared.connect() else {
            continue;
        };
        let opened = line.opened;
        let Some(mut stream) = open(shared, topic, line, &place) else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let mut left = 1 + random.below(400);
        while left > 0 && !shared.wants_rest() {
            match stream.look() {
                Ok(Some(message)) => {
                    place.take(shared, topic, &message);
                    left -= 1;
                }
                Ok(None) => {}
                Err(end) => {
                    shared.tally.count(format!("stream ended: {end:?}"));
                    let all = [Blow::Killed, Blow::Terminated];
                    if !shared.weather.felt(Whom::Hub, &all, opened, Instant::now()) {
                        let path = &topic.path;
                        shared
                            .tally
                            .wrong(format!("the stream {path} ended: {end:?}"));
                    }
                    break;
                }
            }
        }
        if place.id.is_none() {
            place.id = stream.begun_at().map(str::to_string);
        }
        if random.below(2) == 0 {
            stream.reset();
        }
        shared.tally.count("stream left");
        shared.think(&mut random, 10);
    }
}

fn open(shared: &Shared, topic: &Topic, mut line: Line, place: &Place) -> Option<Sse> {
    let last = place.id.as_ref();
    let fields = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
    let deed = Deed::new(format!("stream {}", topic.path), topic.whom, 200);
    let Line { client, .. } = &mut line;
    let _ = client.try_send(request_bytes("GET", &topic.path, &fields, b""));
    match client.try_head() {
        Ok(Some(head)) if head.status == 200 => {
            shared.tally.count("stream opened");
            Some(Sse::behind(line.client, head))
        }
        Ok(Some(head)) => {
            shared.judge(&deed, &line, Ok(head), |_| true);
            None
        }
        Ok(None) => {
            shared.judge(&deed, &line, Err("closed without an answer".into()), |_| {
                true
            });
            None
        }
        Err(why) => {
            shared.judge(&deed, &line, Err(why), |_| true);
            None
        }
    }
}

/// How far a subscriber has come.
#[derive(Debug, Default)]
struct Place {
    id: Option<String>,
    number: Option<u64>,
}

impl Place {
    fn take(&mut self, shared: &Shared, topic: &Topic, message: &Message) {
        shared.tally.count("events");
        if message.id.is_some() {
            self.id.clone_from(&message.id);
        }
        let path = &topic.path;
        if let Some(gap) = message.gap() {
            shared.tally.count(format!("gap: {}", gap.reason));
            let blows = [Blow::Killed, Blow::Terminated];
            let now = Instant::now();
            let restarted = shared.weather.felt(Whom::Hub, &blows, shared.began, now);
            if gap.reason != "restart" || !restarted {
                shared.tally.wrong(format!("{path}: {gap:?}"));
            }
            self.number = None;
            return;
        }
        let number = topic.number(message);
        if let Some(last) = self.number {
            if number <= last {
                shared
                    .tally
                    .wrong(format!("{path}: {number} came behind {last}"));
            }
            for missing in last + 1..number {
                if topic.may_miss(shared, missing) {
                    shared.tally.count("events that fell with a process");
                } else {
                    shared
                        .tally
                        .wrong(format!("{path}: {missing} is missing before {number}"));
                }
            }
        }
        self.number = Some(number);
    }
}
