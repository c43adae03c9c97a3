//! Where the time of a request went, for `--instrumentation`. Reads the clock only when that is on.

use std::time::Instant;

use crate::gateway::GatewayConfig;
use crate::quote::quote;

/// The times of one request; empty while instrumentation is off.
pub struct Timing(Option<Box<Marks>>);

struct Marks {
    request_line: String,
    head: Instant,
    submitted: Option<Instant>,
    answered: Option<Instant>,
}

impl Timing {
    /// The head is complete.
    pub fn start(config: &GatewayConfig) -> Timing {
        Timing(config.instrumentation.then(|| {
            Box::new(Marks {
                request_line: String::new(),
                head: Instant::now(),
                submitted: None,
                answered: None,
            })
        }))
    }

    /// Remembers which request it is.
    pub fn describe(&mut self, raw: &[u8]) {
        if let Some(marks) = &mut self.0 {
            let line = raw.split(|b| *b == b'\r').next().unwrap_or_default();
            marks.request_line = String::from_utf8_lossy(line).into_owned();
        }
    }

    /// The worker was given the request.
    pub fn submitted(&mut self) {
        if let Some(marks) = &mut self.0 {
            marks.submitted = Some(Instant::now());
        }
    }

    /// The worker has answered.
    pub fn answered(&mut self) {
        if let Some(marks) = &mut self.0 {
            marks.answered = Some(Instant::now());
        }
    }

    /// The exchange is over: logs where its time went, in microseconds.
    pub fn finish(&self, status: Option<u16>, worker: &str) {
        let Some(marks) = &self.0 else { return };
        let between = |from: Instant, to: Option<Instant>| {
            to.map(|to| to.duration_since(from).as_micros() as u64)
        };
        let end = Instant::now();
        tracing::info!(
            target: "slotway::timing",
            worker,
            status,
            receive_us = between(marks.head, marks.submitted),
            worker_us = marks.submitted.and_then(|at| between(at, marks.answered)),
            send_us = marks.answered.and_then(|at| between(at, Some(end))),
            total_us = between(marks.head, Some(end)),
            "{}", quote(&marks.request_line),
        );
    }
}
