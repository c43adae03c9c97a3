//! What the hub answers on its own paths: `/health`, `/internal/*` and `/events`.

use serde::Serialize;

use crate::control::{
    FieldError, Health, Registered, Registration, SlotReport, SlotState, SlotsReport, Traffic,
    WorkerHealth, WorkerSlots, WorkerState, from_object,
};
use crate::gateway::problem::Problem;
use crate::gateway::stream::{Publication, Published, ReplyTo};
use crate::gateway::{Control, ControlAnswer, ControlPlane};
use crate::http::problem::PROBLEM_TYPE;
use crate::hub::events::{self, parse_emit, parse_push};
use crate::hub::journal::{Journal, Line};
use crate::hub::refusal::Refusal;
use crate::hub::registry::{Record, Registry};
use crate::hub::state::{HubState, RegisterRequest};
use crate::message::Method;
use crate::quote::quote;
use crate::shm::layout::ABI_VERSION;
use crate::sys::clock::monotonic_ms;

impl ControlPlane for HubState {
    fn control(&self, method: Method, path: &str, body: &mut [u8]) -> Control {
        let publication = match (path, method) {
            ("/internal/emit", Method::Post) => parse_emit(body),
            ("/internal/sse-push", Method::Post) => parse_push(body),
            ("/internal/register", Method::Post) => return Control::Later,
            _ => return Control::Answer(self.answer(method, path)),
        };
        match publication {
            Ok(publication) => Control::Publish(publication),
            Err(error) => Control::Answer(bad_field(error)),
        }
    }

    fn control_later(&self, _: &str, body: Vec<u8>, reply_to: ReplyTo) {
        self.leave_registration(body, reply_to);
    }

    fn published(&self, publication: &Publication, published: &Published) -> ControlAnswer {
        events::answer(publication, published)
    }
}

impl HubState {
    fn answer(&self, method: Method, path: &str) -> ControlAnswer {
        let read = matches!(method, Method::Get | Method::Head);
        match (path, method) {
            ("/health", _) if read => json(200, &self.health()),
            ("/internal/slots", _) if read => json(200, &self.slots()),
            ("/health" | "/internal/slots", _) => not_allowed("GET, HEAD, OPTIONS"),
            ("/internal/register" | "/internal/emit" | "/internal/sse-push", _) => {
                not_allowed("POST, OPTIONS")
            }
            _ => problem(Problem::new(
                404,
                format!("the hub has no path {}", quote(path)),
                "The control paths are /health, /internal/register, /internal/slots, /internal/emit and /internal/sse-push; events are at /events.",
            )),
        }
    }

    fn health(&self) -> Health {
        let registry = self.read(Registry::clone);
        Health {
            ok: true,
            version: env!("CARGO_PKG_VERSION").into(),
            workers: registry.iter().map(|(_, r)| describe(r)).collect(),
            evictions: registry.evictions(),
            streams: self.streams.stats.health(),
            connections: self.connections.health(),
        }
    }

    fn slots(&self) -> SlotsReport {
        let attached =
            |r: &&Record| matches!(r.state, WorkerState::Attached | WorkerState::Draining);
        let workers = self.read(|registry| {
            registry
                .iter()
                .map(|(_, r)| r)
                .filter(attached)
                .map(report_slots)
                .collect()
        });
        SlotsReport { workers }
    }

    /// Sees to a registration over HTTP. It may take a while, and is for the supervisor's thread.
    pub fn register(&self, (mut body, reply_to): RegisterRequest, journal: &mut Journal) {
        let answer = self.registered(&mut body, journal);
        self.answer_later(reply_to, answer);
    }

    fn registered(&self, body: &mut [u8], journal: &mut Journal) -> ControlAnswer {
        let registration: Registration = match from_object("body", body) {
            Ok(registration) => registration,
            Err(error) => return bad_field(error),
        };
        let valid = registration.validate().map_err(Refusal::Wrong);
        let registered = valid
            .and_then(|valid| self.change(|registry, _| registry.register(valid, monotonic_ms())));
        match registered {
            Ok(worker_id) => {
                if journal.takes(Line::Registered) {
                    tracing::info!(
                        worker = registration.name,
                        "registered over HTTP; awaited at {}",
                        self.socket.display()
                    );
                }
                json(
                    200,
                    &Registered {
                        shm_name: format!("slotway:{worker_id}"),
                        worker_id,
                        socket: self.socket.display().to_string(),
                        abi_version: ABI_VERSION,
                    },
                )
            }
            Err(Refusal::Wrong(error)) => bad_field(error),
            Err(Refusal::Full(error)) => problem(Problem::new(
                503,
                error.detail,
                "Nothing was changed. Send the registration again when there is room.",
            )),
        }
    }
}

fn describe(record: &Record) -> WorkerHealth {
    let traffic = record
        .stats
        .iter()
        .map(|s| s.traffic())
        .fold(Traffic::default(), |a, b| Traffic {
            requests: a.requests + b.requests,
            wakes_to_worker: a.wakes_to_worker + b.wakes_to_worker,
            wakes_to_hub: a.wakes_to_hub + b.wakes_to_hub,
            violations: a.violations + b.violations,
        });
    WorkerHealth {
        name: record.name.to_string(),
        worker_id: record.id.clone(),
        route_count: record.registration.routes.len(),
        transport: format!("shm:{}", record.id),
        state: record.state,
        pid: record.pid,
        evicted: record.evicted.clone(),
        traffic,
        routes: record.route_specs(),
    }
}

fn report_slots(record: &Record) -> WorkerSlots {
    let states = record.stats.iter().flat_map(|stats| stats.slot_states());
    let slots: Vec<_> = states
        .enumerate()
        .map(|(index, state)| SlotReport { index, state })
        .collect();
    let free = slots
        .iter()
        .filter(|slot| slot.state == SlotState::Free)
        .count();
    WorkerSlots {
        name: record.name.to_string(),
        total_slots: slots.len(),
        free,
        in_use: slots.len() - free,
        slots,
    }
}

pub(super) fn json<T: Serialize>(status: u16, value: &T) -> ControlAnswer {
    match simd_json::to_vec(value) {
        Ok(body) => ControlAnswer {
            status,
            content_type: "application/json",
            allow: None,
            body,
        },
        Err(error) => problem(Problem::new(
            500,
            format!("the answer could not be written as JSON: {error}"),
            "This is a fault of the hub: report it.",
        )),
    }
}

pub(super) fn problem(problem: Problem) -> ControlAnswer {
    let body = problem.body();
    ControlAnswer {
        status: problem.status,
        content_type: PROBLEM_TYPE,
        allow: None,
        body,
    }
}

fn not_allowed(allow: &'static str) -> ControlAnswer {
    let detail = "the path is the hub's own, but not for this method";
    let answer = problem(Problem::new(
        405,
        detail,
        "Use one of the methods in the Allow field.",
    ));
    ControlAnswer {
        allow: Some(allow),
        ..answer
    }
}

/// 400 with the member that is wrong, as an extension member of the problem (RFC 9457, section 3.2).
pub(super) fn bad_field(error: FieldError) -> ControlAnswer {
    #[derive(Serialize)]
    struct BadField<'a> {
        r#type: &'a str,
        title: &'a str,
        status: u16,
        detail: &'a str,
        field: &'a str,
        action: &'a str,
    }
    let body = BadField {
        r#type: "about:blank",
        title: "Bad Request",
        status: 400,
        detail: &error.detail,
        field: &error.field,
        action: "Correct the member named in `field` and send the request again; nothing was changed.",
    };
    ControlAnswer {
        content_type: PROBLEM_TYPE,
        ..json(400, &body)
    }
}
