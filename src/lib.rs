//! An io_uring HTTP gateway for one Linux host: clients speak HTTP to the hub, the hub puts each
//! request into a slot of memory it shares with a worker process, and sends the worker's answer back.
//!
//! A worker needs [`worker`] alone; build with `default-features = false` to leave the hub out.
//! `docs/ARCHITECTURE.md` walks a request through the files.

#[cfg(all(feature = "gateway", not(slotway_loom)))]
mod brake;
#[cfg(all(feature = "gateway", feature = "tokio", not(slotway_loom)))]
pub mod cli;
#[cfg(not(slotway_loom))]
pub mod control;
#[cfg(all(test, not(slotway_loom)))]
mod corpus;
#[cfg(all(feature = "gateway", not(slotway_loom)))]
pub mod gateway;
#[cfg(feature = "gateway")]
pub mod http;
#[cfg(all(feature = "gateway", not(slotway_loom)))]
pub mod hub;
pub mod limits;
pub mod message;
#[cfg(not(slotway_loom))]
mod quote;
pub mod route;
pub mod shm;
pub mod sse;
#[cfg(not(slotway_loom))]
pub mod sys;
mod urlencoded;
#[cfg(not(slotway_loom))]
pub mod worker;
