//! What both processes compile: the layout of a lane's memory, its rings, and the codec of a slot.
//! `docs/SHM_ABI.md` describes the same for implementers in other languages.

pub mod arena;
pub mod atomics;
pub mod codec;
#[cfg(any(test, fuzzing))]
pub mod codec_check;
pub mod descriptor;
pub mod doorbell;
pub mod events;
pub mod layout;
mod peer_address;
#[cfg(not(slotway_loom))]
pub mod region;
pub mod ring;
pub mod spin;
