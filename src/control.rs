//! The control API in types: what a registration is, what the hub reports of itself, and what is
//! said over the attach socket. Hub, worker SDK and command line all speak these; no I/O here.

mod health;

pub use self::health::{
    ConnectionsHealth, Health, SlotReport, SlotState, SlotsReport, StreamsHealth, Traffic,
    WorkerHealth, WorkerSlots, WorkerState,
};

use std::collections::{BTreeMap, HashSet};
use std::fmt;
#[cfg(not(slotway_loom))]
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use simd_json::{ErrorType, ValueType};

use crate::limits::{MAX_NAME, MAX_ROUTES};
use crate::message::Method;
use crate::quote::quote;
use crate::route::Pattern;
use crate::sse::SlowPolicy;

/// What a worker asks for: `POST /internal/register`, and the body of [`ToHub::Attach`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The worker's name; a newcomer with the same name replaces the one before.
    pub name: String,
    /// The routes it answers. A route's index in this list is its number in the slot ABI.
    pub routes: Vec<RouteSpec>,
}

/// One route of a [`Registration`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSpec {
    /// Request method.
    pub method: String,
    /// Path pattern: literals, `{param}` for a whole segment, `{*rest}` at the end.
    pub path: String,
    /// Whether the hub owns the connections of this route as Server-Sent Events.
    #[serde(default)]
    pub sse: bool,
    /// Whether events of this route are numbered and kept for clients that come back. Only with
    /// `sse`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replay: bool,
    /// What happens to a client of this route that does not keep up; the hub's own setting where
    /// nothing is said. Only with `sse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow: Option<SlowPolicy>,
    /// Most bytes of body the hub takes for this route, 0 for any number; the hub's own setting where
    /// nothing is said. Not with `sse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<u64>,
}

/// What is special about a route whose connections the hub owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// Whether events are numbered and kept for clients that come back.
    pub replay: bool,
    /// What happens to a client that does not keep up; `None` for the hub's own setting.
    pub slow: Option<SlowPolicy>,
}

/// A [`Registration`] that was found good.
#[derive(Clone, Debug)]
pub struct ValidRegistration {
    /// The worker's name.
    pub name: String,
    /// Its routes, in the order given.
    pub routes: Vec<ValidRoute>,
}

/// One route of a [`ValidRegistration`].
#[derive(Clone, Debug)]
pub struct ValidRoute {
    /// Request method.
    pub method: Method,
    /// The parsed pattern.
    pub pattern: Pattern,
    /// Given where the hub owns the connections of this route.
    pub stream: Option<StreamOptions>,
    /// Most bytes of body, 0 for any number, where the route says it.
    pub max_body: Option<u64>,
}

/// What is wrong with a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// The offending member, as a path into the JSON body: `name`, `routes[3].path`.
    pub field: String,
    /// What is wrong with it and what to write instead.
    pub detail: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.detail)
    }
}

impl std::error::Error for FieldError {}

/// Reads a JSON object. `whole` names it in an error where no member of it can be named. For what is made
/// of members an array would do to serde, in the order in which they happen to be declared.
///
/// # Errors
/// What is wrong, in plain words.
pub fn from_object<'a, T: Deserialize<'a>>(
    whole: &str,
    json: &'a mut [u8],
) -> Result<T, FieldError> {
    if json.trim_ascii_start().first() == Some(&b'[') {
        return Err(FieldError {
            field: whole.to_owned(),
            detail: "an array stands where an object is expected".into(),
        });
    }
    simd_json::from_slice(json).map_err(|error| bad_json(whole, &error))
}

/// What is wrong with JSON that is not what was expected, in plain words. `whole` names it where no
/// member of it can be named.
fn bad_json(whole: &str, error: &simd_json::Error) -> FieldError {
    let missing = |text: &str| {
        Some(
            text.strip_prefix("missing field `")?
                .strip_suffix('`')?
                .to_owned(),
        )
    };
    let at = |detail: &str| match error.index() {
        0 => detail.to_owned(),
        index => format!("{detail}, at byte {index}"),
    };
    let detail = match error.error() {
        ErrorType::Serde(text) => {
            if let Some(field) = missing(text) {
                let detail = format!("'{field}' is missing: add it");
                return FieldError { field, detail };
            }
            // Made by serde for people: which value was met, as it is, and which are possible.
            quote(&text.replace('`', "'"))
        }
        ErrorType::Eof => "it is empty, or ends before its JSON does".into(),
        ErrorType::InvalidUtf8 => at("it is not UTF-8"),
        ErrorType::DepthLimitExceeded => at("it is nested too deep"),
        ErrorType::ExpectedString => at("something stands where a string is expected"),
        ErrorType::ExpectedArray => at("something stands where an array is expected"),
        ErrorType::ExpectedMap => at("something stands where an object is expected"),
        ErrorType::ExpectedBoolean => at("something stands where true or false is expected"),
        ErrorType::ExpectedUnsigned | ErrorType::ExpectedInteger | ErrorType::ExpectedNumber => {
            at("something stands where a number that is not negative is expected")
        }
        ErrorType::Unexpected(wanted, found) => {
            let name = |kind: &Option<ValueType>| {
                kind.map_or("something".into(), |k| format!("{k:?}").to_lowercase())
            };
            at(&format!(
                "{} stands where {} is expected",
                name(found),
                name(wanted)
            ))
        }
        _ => at("it is not valid JSON"),
    };
    FieldError {
        field: whole.into(),
        detail,
    }
}

impl Registration {
    /// Checks every member.
    ///
    /// # Errors
    /// The first member that is wrong.
    pub fn validate(&self) -> Result<ValidRegistration, FieldError> {
        let wrong = |field: String, detail: String| FieldError { field, detail };
        check_name(&self.name).map_err(|detail| wrong("name".into(), detail))?;
        if self.routes.len() > MAX_ROUTES {
            let detail = format!(
                "{} routes: at most {MAX_ROUTES} are possible",
                self.routes.len()
            );
            return Err(wrong("routes".into(), detail));
        }
        let mut seen = HashSet::with_capacity(self.routes.len());
        let mut routes = Vec::with_capacity(self.routes.len());
        for (index, spec) in self.routes.iter().enumerate() {
            let at = |member: &str| format!("routes[{index}].{member}");
            let method = Method::from_token(spec.method.as_bytes()).ok_or_else(|| {
                let known = Method::ALL.map(Method::as_str).join(", ");
                wrong(
                    at("method"),
                    format!(
                        "'{}' is no method here: give one of {known}",
                        quote(&spec.method)
                    ),
                )
            })?;
            let pattern =
                Pattern::parse(&spec.path).map_err(|e| wrong(at("path"), e.to_string()))?;
            if pattern.is_reserved() {
                let detail = format!(
                    "'{}' belongs to the hub: choose a path outside /internal, /health and /events",
                    quote(&spec.path)
                );
                return Err(wrong(at("path"), detail));
            }
            if spec.sse && method != Method::Get {
                return Err(wrong(
                    at("method"),
                    "a route with \"sse\": true is a GET route".into(),
                ));
            }
            if !spec.sse && (spec.replay || spec.slow.is_some()) {
                let member = if spec.replay { "replay" } else { "slow" };
                let detail =
                    format!("\"{member}\" needs \"sse\": true: add that, or leave this out");
                return Err(wrong(at(member), detail));
            }
            if spec.sse && spec.max_body.is_some() {
                let detail = "a route with \"sse\": true takes no bodies: leave this out";
                return Err(wrong(at("max_body"), detail.into()));
            }
            if !seen.insert((method, spec.path.as_str())) {
                let path = quote(&spec.path);
                let detail = format!("{method} {path} stands here twice: leave one out");
                return Err(wrong(at("path"), detail));
            }
            routes.push(ValidRoute {
                method,
                pattern,
                stream: spec.sse.then_some(StreamOptions {
                    replay: spec.replay,
                    slow: spec.slow,
                }),
                max_body: spec.max_body,
            });
        }
        Ok(ValidRegistration {
            name: self.name.clone(),
            routes,
        })
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a worker needs a name that is not empty".into());
    }
    if name.len() > MAX_NAME {
        return Err(format!(
            "{} bytes are too long: at most {MAX_NAME}",
            name.len()
        ));
    }
    if name == "." || name == ".." {
        return Err("a name of dots alone looks like a directory: choose another".into());
    }
    match name
        .chars()
        .find(|c| c.is_control() || matches!(c, '/' | '\\'))
    {
        Some(c) => Err(format!(
            "the character '{}' is not allowed: leave out control characters and path separators",
            c.escape_debug()
        )),
        None => Ok(()),
    }
}

/// The answer to a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The worker's identity until it is replaced or gone.
    pub worker_id: String,
    /// Kept for the ancestor's clients. There is no such name in the file system: the memory comes
    /// over the socket.
    pub shm_name: String,
    /// The Unix socket through which the worker attaches.
    pub socket: String,
    /// Version of the slot ABI that is spoken there.
    pub abi_version: u32,
}

/// How a worker wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WakeMode {
    /// It blocks on the doorbell word of the request memory.
    Futex,
    /// It polls an eventfd in an event loop.
    Eventfd,
}

/// What a worker says on the attach socket.
///
/// Each message is four bytes of length, little-endian, and that many bytes of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToHub {
    /// The first message.
    Attach {
        /// Version of the slot ABI the worker speaks.
        abi_version: u32,
        /// How it wants to be woken.
        wake: WakeMode,
        /// What it registers.
        registration: Registration,
        /// The identity it was given over HTTP, if it registered there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker_id: Option<String>,
    },
    /// The worker is about to stop: no further requests, please.
    Drain,
}

/// What the hub says on the attach socket, framed as [`ToHub`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToWorker {
    /// The attach was accepted; as many [`ToWorker::Lane`] messages follow.
    Attached {
        /// The worker's identity.
        worker_id: String,
        /// Number of lanes, one for each shard of the hub.
        lanes: u32,
    },
    /// One lane. With its first byte come four file descriptors: request memory, response memory,
    /// the eventfd that wakes the hub, and the eventfd on which the hub wakes the worker.
    Lane {
        /// Index of the lane, from zero.
        index: u32,
    },
    /// The attach was refused; the socket closes.
    Refused {
        /// What is wrong.
        #[serde(flatten)]
        error: FieldError,
        /// Whether the same may be accepted later, since the hub has no room now, or has just evicted a
        /// worker of this name. Hubs that do not know of it leave it out.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        temporary: bool,
    },
    /// No further request comes: the worker asked for it, or another has taken its name. When the
    /// last answer is out the hub closes the socket.
    Draining {
        /// Why.
        reason: String,
    },
    /// The hub has thrown the worker out; the socket closes.
    Evicted {
        /// Why.
        reason: String,
    },
}

/// What the hub tells a worker about a stream on one of its routes, as the body of a request whose head
/// says so ([`LifecycleFlags`](crate::shm::codec::LifecycleFlags)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "sse_lifecycle", rename_all = "snake_case")]
pub enum Lifecycle {
    /// A client wants to be connected. Status 200 accepts it; any other refuses it and is what the
    /// client gets.
    Connect {
        /// Names the connection for as long as it lasts.
        connection_id: String,
        /// The path as received.
        path: String,
        /// The path parameters by name, percent-decoded; what is no UTF-8 then is replaced.
        params: BTreeMap<String, String>,
        /// The last event the client has seen, where it says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_event_id: Option<String>,
        /// The client is connected already, since before this worker attached.
        replayed: bool,
    },
    /// A connection that was accepted has ended. The answer is not looked at.
    Disconnect {
        /// The connection's name.
        connection_id: String,
        /// The path as received.
        path: String,
        /// The path parameters, as in [`Lifecycle::Connect`].
        params: BTreeMap<String, String>,
        /// How long it lasted, in milliseconds.
        lasted_ms: u64,
    },
}

/// The attach socket of the hub on this TCP port, where neither side was told another path:
/// `$XDG_RUNTIME_DIR/slotway/hub-PORT.sock`, or `slotway-UID/hub-PORT.sock` in the temp directory.
#[cfg(not(slotway_loom))]
pub fn default_socket(port: u16) -> PathBuf {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
    let directory = match runtime_dir {
        Some(dir) => PathBuf::from(dir).join("slotway"),
        None => {
            let uid = crate::sys::process::effective_uid();
            std::env::temp_dir().join(format!("slotway-{uid}"))
        }
    };
    directory.join(format!("hub-{port}.sock"))
}

/// The TCP port a hub listens on unless it is told another.
pub const DEFAULT_PORT: u16 = 3200;

/// Longest message on the attach socket, in bytes of JSON.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Longest message of a worker that has attached.
pub const MAX_LATER_MESSAGE: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn registration(name: &str, routes: &[(&str, &str)]) -> Registration {
        let routes = routes
            .iter()
            .map(|(m, p)| RouteSpec {
                method: m.to_string(),
                path: p.to_string(),
                ..RouteSpec::default()
            })
            .collect();
        Registration {
            name: name.into(),
            routes,
        }
    }

    #[test]
    fn a_bad_registration_names_its_field() {
        let long = "n".repeat(MAX_NAME + 1);
        for (name, routes, field) in [
            ("", &[][..], "name"),
            (long.as_str(), &[], "name"),
            ("a/b", &[], "name"),
            ("a\\b", &[], "name"),
            ("a\nb", &[], "name"),
            ("..", &[], "name"),
            ("ok", &[("FETCH", "/a")], "routes[0].method"),
            ("ok", &[("get", "/a")], "routes[0].method"),
            ("ok", &[("GET", "/a"), ("GET", "a")], "routes[1].path"),
            ("ok", &[("GET", "/a/{")], "routes[0].path"),
            ("ok", &[("GET", "/internal/x")], "routes[0].path"),
            (
                "ok",
                &[("GET", "/a"), ("POST", "/a"), ("GET", "/a")],
                "routes[2].path",
            ),
        ] {
            let error = registration(name, routes).validate().unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
        assert!(
            registration("ok", &[("GET", "/a/{id}"), ("PUT", "/a/{id}")])
                .validate()
                .is_ok()
        );
    }

    #[test]
    fn messages_survive_the_wire() {
        let attach = ToHub::Attach {
            abi_version: 1,
            wake: WakeMode::Futex,
            registration: registration("w", &[("GET", "/a")]),
            worker_id: None,
        };
        let mut json = simd_json::to_vec(&attach).unwrap();
        assert_eq!(simd_json::from_slice::<ToHub>(&mut json).unwrap(), attach);
        let refused = ToWorker::Refused {
            error: FieldError {
                field: "name".into(),
                detail: "taken".into(),
            },
            temporary: true,
        };
        let mut json = simd_json::to_vec(&refused).unwrap();
        assert_eq!(
            simd_json::from_slice::<ToWorker>(&mut json).unwrap(),
            refused
        );
    }

    #[test]
    fn the_life_of_a_stream_is_told_as_documented() {
        let params = BTreeMap::from([("room".to_owned(), "7 \u{e4}".to_owned())]);
        let connect = |last_event_id: Option<&str>| Lifecycle::Connect {
            connection_id: "c-1".into(),
            path: "/rooms/7%20%C3%A4".into(),
            params: params.clone(),
            last_event_id: last_event_id.map(str::to_owned),
            replayed: true,
        };
        let disconnect = Lifecycle::Disconnect {
            connection_id: "c-1".into(),
            path: "/rooms/7%20%C3%A4".into(),
            params: params.clone(),
            lasted_ms: u64::MAX,
        };
        let common = concat!(
            r#""connection_id":"c-1","path":"/rooms/7%20%C3%A4","#,
            "\"params\":{\"room\":\"7 \u{e4}\"}"
        );
        for (told, json) in [
            (
                connect(None),
                format!(r#"{{"sse_lifecycle":"connect",{common},"replayed":true}}"#),
            ),
            (
                connect(Some("9")),
                format!(
                    r#"{{"sse_lifecycle":"connect",{common},"last_event_id":"9","replayed":true}}"#
                ),
            ),
            (
                disconnect,
                format!(
                    r#"{{"sse_lifecycle":"disconnect",{common},"lasted_ms":18446744073709551615}}"#
                ),
            ),
        ] {
            assert_eq!(simd_json::to_string(&told).unwrap(), json);
            let back: Lifecycle = simd_json::from_slice(&mut json.into_bytes()).unwrap();
            assert_eq!(back, told);
        }
    }
}
