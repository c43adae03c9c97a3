//! HTTP/1.1 and HTTP/1.0 as pure functions (RFC 9110, RFC 9112): bytes come in, decisions and bytes
//! go out. Nothing here does I/O, reads a clock, or repairs what a peer sent wrongly.

pub mod chunked;
pub mod date;
pub mod fault;
mod grammar;
#[cfg(any(test, fuzzing))]
pub mod naive;
pub mod passed;
pub mod problem;
pub mod request;
pub mod response;
pub mod scan;
pub mod status;
mod target;
pub mod worker_fields;

pub use chunked::{
    CHUNK_SUFFIX, ChunkDecoder, ChunkPrefix, ChunkStep, LAST_CHUNK, chunk_prefix, decode_whole,
};
pub use date::imf_fixdate;
pub use fault::Fault;
pub use passed::PassedFields;
pub use problem::problem_body;
pub use request::parse_head;
pub use response::{
    BodyFraming, CONTINUE, HeadStyle, encode_own_head, encode_worker_head, framing_for,
};
pub use scan::{HeadBounds, HeadScanner};
pub use worker_fields::WorkerHeadFault;
