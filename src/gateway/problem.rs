//! The gateway's own answers when a request cannot be served: what is wrong and what to do, as
//! problem details (RFC 9457). Decisions only; sending is the connection's.

use std::borrow::Cow;

use crate::gateway::lane::Failure;
use crate::http::Fault;
use crate::http::problem::PROBLEM_TYPE;
use crate::http::problem_body;
use crate::route::MethodSet;

/// Seconds a client is asked to wait before it tries a route without a worker again.
const RETRY_AFTER: &str = "1";

/// An answer that is not a worker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Status code.
    pub status: u16,
    /// What is wrong.
    pub detail: Cow<'static, str>,
    /// What can be done about it.
    pub action: Cow<'static, str>,
    /// The methods the path knows, for 405.
    pub allow: Option<MethodSet>,
    /// Whether trying again soon makes sense.
    pub retry: bool,
}

impl Problem {
    /// A problem without special fields.
    pub fn new(
        status: u16,
        detail: impl Into<Cow<'static, str>>,
        action: impl Into<Cow<'static, str>>,
    ) -> Problem {
        let (detail, action) = (detail.into(), action.into());
        Problem {
            status,
            detail,
            action,
            allow: None,
            retry: false,
        }
    }

    /// 404: no route matches the path.
    pub fn no_route(path: &[u8]) -> Problem {
        let path = String::from_utf8_lossy(path);
        Problem::new(
            404,
            format!("no worker has registered a route for {path}"),
            "Check the path. `slotway status` lists the routes that are registered.",
        )
    }

    /// 405: the path is known, but not with this method (RFC 9110, section 15.5.6).
    pub fn not_allowed(allow: MethodSet) -> Problem {
        let detail = "the path is registered, but not for this method";
        let action = "Use one of the methods in the Allow field.";
        Problem {
            allow: Some(allow),
            ..Problem::new(405, detail, action)
        }
    }

    /// 503: the route is known, but no worker answers it now.
    pub fn no_worker(name: &str) -> Problem {
        let detail = format!("the worker '{name}', which registered this route, is not attached");
        let action = "Start the worker again, or wait for it to come back.";
        Problem {
            retry: true,
            ..Problem::new(503, detail, action)
        }
    }

    /// 503: there are as many connections as there may be.
    pub fn no_place() -> Problem {
        Problem {
            retry: true,
            ..Problem::new(
                503,
                "the hub has as many connections as it may have",
                "Try again later; give the hub a higher limit on open files, or more --max-connections.",
            )
        }
    }

    /// 503: every slot was in use until the deadline.
    pub fn busy(name: &str) -> Problem {
        let detail = format!("every slot of the worker '{name}' stayed in use");
        let action = "Try again later; give the hub more --slots, or the worker more threads.";
        Problem {
            retry: true,
            ..Problem::new(503, detail, action)
        }
    }

    /// 503: clients have yet to read so many long answers of the hub's that it keeps no more of them.
    pub fn too_much_unread() -> Problem {
        Problem {
            retry: true,
            ..Problem::new(
                503,
                "the hub holds as many long answers for slow clients as it may",
                "Try again later, and read answers as they come.",
            )
        }
    }

    /// What a failed exchange means for the client: 502 or 504.
    pub fn failed(failure: Failure, name: &str) -> Problem {
        match failure {
            Failure::WorkerGone => Problem::new(
                502,
                format!("the worker '{name}' died before it answered"),
                "It is not known whether the request took effect. Look at the worker's log.",
            ),
            Failure::Deadline => Problem::new(
                504,
                format!("the worker '{name}' did not answer in time"),
                "Look at what the worker is doing, or give the hub a longer --timeout.",
            ),
        }
    }

    /// 502: the worker's answer is no valid HTTP.
    pub fn bad_answer(name: &str) -> Problem {
        Problem::new(
            502,
            format!("the answer of the worker '{name}' is not valid HTTP"),
            "The hub's log says which rule it broke.",
        )
    }

    /// 404: a path below `/events` that is no channel.
    pub fn no_channel(rest: &[u8]) -> Problem {
        let rest = String::from_utf8_lossy(rest);
        Problem::new(
            404,
            format!("the hub has no path /events{rest}"),
            "A channel is one segment: /events/CHANNEL.",
        )
    }

    /// 504: a worker has not said whether it accepts a stream.
    pub fn connect_timeout(name: &str) -> Problem {
        Problem::new(
            504,
            format!("the worker '{name}' did not accept or refuse the stream in time"),
            "Look at what the worker is doing; it has 5 seconds to answer.",
        )
    }

    /// 400: a body where an event stream is asked for.
    pub fn stream_with_body() -> Problem {
        Problem::new(
            400,
            "a request for an event stream has no body",
            "Send the request without Content-Length and Transfer-Encoding.",
        )
    }

    /// 408: the request did not arrive in time (RFC 9110, section 15.5.9).
    pub fn too_slow() -> Problem {
        Problem::new(
            408,
            "the request did not arrive in time",
            "Send the whole request without long pauses.",
        )
    }

    /// 413: a longer body than is taken (RFC 9110, section 15.5.14).
    pub fn body_too_long(limit: u64) -> Problem {
        Problem::new(
            413,
            format!("the body is longer than the {limit} bytes that are taken here"),
            "Send a shorter body. For a worker's route, the hub's --max-body or the route's max_body sets the limit.",
        )
    }

    /// 403: a control request that is not allowed from where it comes.
    pub fn forbidden(detail: &'static str, action: &'static str) -> Problem {
        Problem::new(403, detail, action)
    }

    /// The body of the answer.
    pub fn body(&self) -> Vec<u8> {
        problem_body(self.status, &self.detail, &self.action)
    }

    /// The fields of the answer; `allow` keeps the text that one of them needs.
    pub fn fields<'a>(&self, allow: &'a mut String) -> Vec<(&'static str, &'a str)> {
        let mut fields = vec![("content-type", PROBLEM_TYPE)];
        if let Some(methods) = self.allow {
            *allow = methods.to_string();
            fields.push(("allow", allow));
        }
        if self.retry {
            fields.push(("retry-after", RETRY_AFTER));
        }
        fields
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Problem {
        Problem::new(fault.status, fault.detail, fault.action())
    }
}
