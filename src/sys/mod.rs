//! The only direct system calls of the crate: shared memory, wakes, descriptors over sockets,
//! timers, listeners and what the kernel knows about processes. No policy and no protocol here.

pub mod clock;
pub mod eventfd;
pub mod fault_guard;
pub mod fd_pass;
pub mod futex;
#[cfg(feature = "gateway")]
pub mod listen;
#[cfg_attr(any(miri, slotway_heap), path = "memory_heap.rs")]
pub mod memory;
pub mod poll;
#[cfg(feature = "gateway")]
pub mod probe;
pub mod process;
#[cfg(feature = "gateway")]
pub mod ring_write;
pub mod signal;
#[cfg(feature = "gateway")]
pub mod socket_file;
#[cfg(feature = "gateway")]
pub mod stream_socket;
pub mod timer;
pub mod wake_fd;

mod counter;
