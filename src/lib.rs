//! An io_uring HTTP gateway for one Linux host: clients speak HTTP to the hub, the hub puts each
//! request into a slot of memory it shares with a worker process, and sends the worker's answer back.

pub mod control;
pub mod limits;
pub mod message;
pub mod route;
pub mod shm;
#[cfg(not(loom))]
pub mod sys;
#[cfg(not(loom))]
pub mod worker;
