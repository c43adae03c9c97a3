//! What is asked of the hub about events over HTTP: `/internal/emit` and `/internal/sse-push`, from
//! JSON to a publication and from its fate to an answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use simd_json::OwnedValue;
use simd_json::prelude::ValueAsScalar;

use crate::control::{FieldError, from_object};
use crate::gateway::ControlAnswer;
use crate::gateway::problem::Problem;
use crate::gateway::stream::{Publication, Published, Target};
use crate::hub::api::{bad_field, json, problem};
use crate::quote::quote;
use crate::sse::EventFault;

/// The body of `POST /internal/emit`.
#[derive(Deserialize)]
struct Emit {
    source: String,
    event_type: String,
    data: OwnedValue,
}

/// The body of `POST /internal/sse-push`.
#[derive(Deserialize)]
struct Push {
    path: Option<String>,
    pattern: Option<String>,
    #[serde(default)]
    params: BTreeMap<String, OwnedValue>,
    connection_id: Option<String>,
    #[serde(default)]
    event_type: String,
    data: OwnedValue,
    id: Option<String>,
    retry: Option<u64>,
}

/// The answer to a push that reached somebody.
#[derive(Serialize)]
struct Delivered {
    delivered: u32,
    dropped: u32,
}

/// The publication that an emit asks for.
///
/// # Errors
/// The member that is wrong.
pub fn parse_emit(body: &mut [u8]) -> Result<Publication, FieldError> {
    let Emit {
        source,
        event_type,
        data,
    } = from_object("body", body)?;
    Ok(Publication {
        target: Target::Everybody(source),
        event_type,
        data: text(data),
        id: None,
        retry_ms: None,
    })
}

/// The publication that a push asks for.
///
/// # Errors
/// The member that is wrong.
pub fn parse_push(body: &mut [u8]) -> Result<Publication, FieldError> {
    let push: Push = from_object("body", body)?;
    let target = match (push.connection_id, push.path, push.pattern) {
        (Some(id), None, None) => Target::Connection(id),
        (None, Some(path), None) if path.starts_with('/') => Target::Path(path),
        (None, Some(_), None) => {
            return Err(wrong(
                "path",
                "a path starts with a slash: give it as clients ask for it, without the query",
            ));
        }
        (None, None, Some(pattern)) => Target::Path(fill(&pattern, push.params)?),
        (None, None, None) => {
            return Err(wrong(
                "path",
                "nobody is named: give path, pattern with params, or connection_id",
            ));
        }
        _ => {
            return Err(wrong(
                "path",
                "give one of path, pattern and connection_id, not several",
            ));
        }
    };
    Ok(Publication {
        target,
        event_type: push.event_type,
        data: text(push.data),
        id: push.id,
        retry_ms: push.retry,
    })
}

/// What the publisher is told.
pub fn answer(publication: &Publication, published: &Published) -> ControlAnswer {
    if let Some(fault) = &published.fault {
        let field = match fault {
            EventFault::NameTooLong(_) | EventFault::NameWithNewline => "event_type",
            EventFault::IdTooLong(_) | EventFault::IdWithNewline | EventFault::IdWithNul => "id",
            EventFault::DataTooLong(_) | EventFault::TextTooLong(_) => "data",
        };
        return bad_field(wrong(field, &fault.to_string()));
    }
    if matches!(publication.target, Target::Everybody(_)) {
        if published.closing {
            return problem(Problem::new(
                503,
                "the hub is stopping, and the event went to nobody",
                "Emit it again when the hub is back.",
            ));
        }
        return json(200, &BTreeMap::<&str, &str>::new());
    }
    match published {
        Published {
            reached: 0,
            closing: true,
            ..
        } => problem(Problem::new(
            410,
            "the connection is closing",
            "Forget it; a client that comes back has a new connection.",
        )),
        Published {
            no_connection: true,
            ..
        } => match &publication.target {
            Target::Path(path) => problem(Problem::new(
                404,
                format!("nobody is connected to the path {}", quote(path)),
                "Check the path, or wait for a client; the worker's connect handler tells when one comes.",
            )),
            _ => problem(Problem::new(
                404,
                "there is no such connection",
                "Check connection_id; the worker's disconnect handler tells when one ends.",
            )),
        },
        Published {
            reached: 0,
            dropped: 1..,
            ..
        } => problem(Problem::new(
            503,
            "the client does not keep up: the event was dropped, and the client will be told",
            "Send less, or have the client read faster.",
        )),
        Published {
            reached, dropped, ..
        } => json(
            200,
            &Delivered {
                delivered: *reached,
                dropped: *dropped,
            },
        ),
    }
}

fn wrong(field: &str, detail: &str) -> FieldError {
    FieldError {
        field: field.into(),
        detail: detail.into(),
    }
}

/// A string as it is, anything else as JSON.
fn text(value: OwnedValue) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => simd_json::to_string(&value).unwrap_or_default(),
    }
}

/// The path that follows from a pattern and the values of its parameters.
fn fill(pattern: &str, params: BTreeMap<String, OwnedValue>) -> Result<String, FieldError> {
    let parsed =
        crate::route::Pattern::parse(pattern).map_err(|e| wrong("pattern", &e.to_string()))?;
    let params: BTreeMap<String, String> = params
        .into_iter()
        .map(|(name, value)| (name, text(value)))
        .collect();
    let filled = parsed.fill(|name| params.get(name).map(String::as_str));
    filled.map_err(|name| {
        wrong(
            &format!("params.{name}"),
            "the pattern has this parameter: give its value",
        )
    })
}
