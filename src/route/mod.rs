//! Which route a request belongs to: patterns, and the immutable table that matches paths against
//! them. It never does I/O, never decodes or rewrites a path, and never allocates during a lookup.
//!
//! # What matches what
//! A path is the bytes of the request target up to the query, exactly as they were received. They
//! stay percent-encoded: decoding before routing would let `%2F` split a segment that its sender
//! meant to be one, and two decoders in a row that disagree are how access rules get bypassed. For
//! the same reason nothing is normalised. `//` holds an empty segment, which only an empty literal
//! segment (or a catch-all) matches; `..` is a segment like any other; `/a` and `/a/` are different
//! paths; `%2f` and `%2F` are different literals.
//!
//! Where several patterns match, they are compared from the first segment on: a literal beats a
//! parameter beats a catch-all. Two patterns that differ only in the names of their parameters have
//! the same shape, and of two routes with the same shape and method the first registered stays.
//! Only patterns that have the method take part, so `POST /a/b` reaches `POST /a/{x}` although
//! `GET /a/b` is the better match for the path alone.

mod block;
mod branch;
mod builder;
mod layout;
mod methods;
#[cfg(any(test, fuzzing))]
pub mod naive;
mod node;
mod pattern;
mod places;
mod segment;
mod table;
mod tree;

pub use builder::{InsertError, RouteTableBuilder};
pub use methods::MethodSet;
pub use pattern::{Pattern, PatternError, PatternSegment};
pub use table::{Lookup, Route, RouteTable};
