//! The worker SDK: handlers for routes, served out of the memory that is shared with the hub. It
//! never imports the hub and builds with `default-features = false`.
//!
//! ```no_run
//! use slotway::worker::{Error, Request, Response, Worker};
//!
//! fn main() -> Result<(), Error> {
//!     Worker::new("shop")
//!         .route("GET", "/items/{id}", |req: Request| {
//!             format!("item {}", req.param("id").unwrap_or_default())
//!         })
//!         .route("POST", "/echo", |req: Request| Response::ok().body(req.into_body()))
//!         .run()
//! }
//! ```
//!
//! Handlers are called on several threads at once. A handler that panics costs its client a 500 and
//! nobody else anything. A request whose client has gone before a thread was free for it is not
//! handled at all. Of four threads three at most are with requests whose bodies are still arriving, so that
//! clients who send slowly leave a thread to the others; a body that fits a quarter of the lane and has a
//! length is handed over whole, and does not count.
#![deny(unsafe_code)]

mod answer;
mod attach;
mod blocking;
mod body;
mod builder;
mod course;
mod error;
mod events;
mod frame;
mod inbox;
mod lane;
mod outbound;
mod parker;
mod poll_guard;
mod request;
mod response;
mod service;
mod session;
mod sse_route;
mod stop;
#[cfg(test)]
mod tests;
#[cfg(feature = "tokio")]
mod tokio;
mod uploads;
mod waiting;
mod writer;

pub use crate::control::FieldError;
pub use crate::message::{Method, Version};
pub use crate::sse::{EventFault, SlowPolicy};
pub use body::{Body, BodyError};
pub use builder::{SOCKET_VARIABLE, Worker};
pub use error::Error;
pub use events::{Delivery, Event, Events, PublishError, Receipt, Target};
pub use request::Request;
pub use response::{IntoResponse, Payload, Response};
pub use sse_route::{Connect, Disconnect, IntoVerdict, SseRoute, Verdict};
pub use stop::WorkerHandle;
pub use writer::BodyWriter;
