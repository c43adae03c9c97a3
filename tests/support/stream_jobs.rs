//! What a worker with streams is told to publish, and every way in which the SDK does it; for
//! `stream_worker`. Nothing here knows who listens.

use serde::{Deserialize, Serialize};
use slotway::worker::{Event, Events, PublishError, Receipt, Target};

use super::GUARD;

/// Events to be published.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Job {
    /// To this path.
    pub path: Option<String>,
    /// To this connection.
    pub connection: Option<String>,
    /// So many; the data of each begins with its number.
    pub count: u64,
    /// The number of the first.
    pub first: u64,
    /// Bytes of data.
    pub size: usize,
    /// So many in each call; 0 for one by one without a list.
    pub batch: usize,
}

impl Job {
    fn target(&self) -> Option<Target> {
        let path = self.path.clone().map(Target::path);
        path.or_else(|| self.connection.clone().map(Target::connection))
    }

    fn numbers(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.count
    }

    fn data(&self, number: u64) -> String {
        let data = format!("{number} ");
        let padding = self.size.saturating_sub(data.len());
        data + &"x".repeat(padding)
    }

    fn batches(&self, target: &Target) -> Vec<Vec<(Target, Event)>> {
        let numbers: Vec<u64> = self.numbers().collect();
        let event = |n: &u64| (target.clone(), Event::new(self.data(*n)).event("tick"));
        let batches = numbers.chunks(self.batch.max(1));
        batches.map(|b| b.iter().map(event).collect()).collect()
    }
}

pub fn publish(events: &Events, job: &Job) {
    let Some(target) = job.target() else {
        for number in job.numbers() {
            events.emit("tick", &job.data(number)).expect("emitted");
        }
        return;
    };
    if job.batch == 0 {
        for number in job.numbers() {
            let event = Event::new(job.data(number)).event("tick");
            events.push(target.clone(), event).expect("pushed");
        }
        return;
    }
    for batch in job.batches(&target) {
        events.push_all(batch).expect("pushed");
    }
}

pub async fn publish_async(events: &Events, job: &Job) {
    let Some(target) = job.target() else {
        for number in job.numbers() {
            let emitted = events.emit_async("tick", &job.data(number)).await;
            emitted.expect("emitted");
        }
        return;
    };
    if job.batch == 0 {
        for number in job.numbers() {
            let event = Event::new(job.data(number)).event("tick");
            let pushed = events.push_async(target.clone(), event).await;
            pushed.expect("pushed");
        }
        return;
    }
    for batch in job.batches(&target) {
        events.push_all_async(batch).await.expect("pushed");
    }
}

/// Publishes in every way in turn, to a path and to a connection there.
pub fn mixed(events: &Events, job: &Job) {
    let path = Target::path(job.path.clone().expect("a path"));
    let one = Target::connection(job.connection.clone().expect("a connection"));
    for number in job.numbers() {
        let event = Event::new(job.data(number)).event("tick");
        match number % 4 {
            0 => events.push(path.clone(), event).expect("pushed"),
            1 => events.push_all([(one.clone(), event)]).expect("pushed"),
            2 => match events.try_push(path.clone(), event.clone()) {
                Ok(_) => {}
                Err(PublishError::Full) => events.push(path.clone(), event).expect("pushed"),
                Err(error) => panic!("{error}"),
            },
            _ => events.push(one.clone(), event).expect("pushed"),
        }
    }
}

/// `reached dropped no_connection closing`, or why it was not sent.
pub fn try_one(events: &Events, job: &Job) -> String {
    let target = job.target().expect("a target");
    match events.try_push(target, Event::new(job.data(job.first))) {
        Ok(receipt) => match receipt.wait(GUARD) {
            Some(delivery) => format!(
                "{} {} {} {}",
                delivery.reached, delivery.dropped, delivery.no_connection, delivery.closing
            ),
            None => format!("unknown, lost: {}", receipt.is_lost()),
        },
        Err(error) => format!("{error:?}"),
    }
}

/// Tries without waiting until so many were taken: `taken reached dropped`, all receipts together.
pub fn flood(events: &Events, job: &Job) -> String {
    let target = job.target().expect("a target");
    let mut receipts: Vec<Receipt> = Vec::new();
    let mut full = 0u64;
    while (receipts.len() as u64) < job.count {
        let number = job.first + receipts.len() as u64;
        let event = Event::new(job.data(number)).event("tick");
        match events.try_push(target.clone(), event) {
            Ok(receipt) => receipts.push(receipt),
            Err(PublishError::Full) => {
                full += 1;
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
    let known = receipts.iter().map(|r| r.wait(GUARD).expect("an outcome"));
    let (reached, dropped) = known.fold((0, 0), |(reached, dropped), delivery| {
        (reached + delivery.reached, dropped + delivery.dropped)
    });
    println!("full {full} times");
    format!("{} {reached} {dropped}", receipts.len())
}
