//! Where everything stands in a lane's two memories. Offsets only; no memory is touched here.
//!
//! A lane joins one hub shard with one worker process. Both its memories have the same shape:
//!
//! ```text
//! 0               header: identity, then one control word per cache line
//! RING_OFFSET     ring of descriptors, written by the owner of the memory
//! cancel_offset   one word per exchange (request memory; zero and unused in response memory)
//! arena_offset    the slots
//! ```

use crate::limits::{MAX_ARENA, MAX_SLOT_SIZE, MAX_SLOTS, MIN_SLOTS, PAGE};
use crate::shm::descriptor::Descriptor;

/// First eight bytes of a request memory.
pub const MAGIC: u64 = u64::from_le_bytes(*b"slotway\x01");
/// Version of everything `docs/SHM_ABI.md` describes. A worker refuses any other.
pub const ABI_VERSION: u32 = 1;

/// Offset of the identity at the start of the request memory.
pub const IDENTITY_OFFSET: usize = 0;
/// Producer index of the ring in this memory, free-running.
pub const TAIL_OFFSET: usize = 0x80;
/// Consumer index of the ring in the *other* memory, free-running.
pub const HEAD_OFFSET: usize = 0xC0;
/// Request memory: the futex word the hub increments to wake the worker. Response memory: unused.
pub const DOORBELL_OFFSET: usize = 0x100;
/// Request memory: the hub's arm number, zero while it is awake.
/// Response memory: how many of the worker's threads (or event loops) sleep.
pub const SLEEP_OFFSET: usize = 0x140;
/// Not zero while the owner of this memory waits for slots of it to come back.
pub const STARVED_OFFSET: usize = 0x180;
/// Request memory: the [`Phase`] of the lane. Response memory: unused.
pub const PHASE_OFFSET: usize = 0x1C0;
/// Offset of the ring.
pub const RING_OFFSET: usize = PAGE;

/// A body within a frame starts at the next multiple of this after the head.
pub const BODY_ALIGN: usize = 64;

/// The identity at the start of a request memory. All integers are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Identity {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub abi_version: u32,
    /// Slots in each arena.
    pub slots: u32,
    /// Bytes in a slot.
    pub slot_size: u32,
    /// Descriptors in each ring; a power of two.
    pub ring_entries: u32,
    /// Offset of the cancel words.
    pub cancel_offset: u32,
    /// Offset of the arena.
    pub arena_offset: u32,
    /// Bytes in each memory.
    pub memory_len: u64,
}

const _: () = assert!(size_of::<Identity>() == 40);
const _: () = assert!(size_of::<Identity>() <= TAIL_OFFSET);
const _: () = assert!(PHASE_OFFSET + 4 <= RING_OFFSET);
const _: () = assert!(cfg!(target_endian = "little"), "the ABI is little-endian");

/// What the hub says of a lane as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Requests may come.
    Open = 0,
    /// No further request comes; what is in flight may be finished.
    Draining = 1,
    /// The hub has let go; nothing is read any more.
    Closed = 2,
}

impl Phase {
    /// The phase with this number; an unknown one counts as closed.
    pub const fn from_u32(value: u32) -> Phase {
        match value {
            0 => Phase::Open,
            1 => Phase::Draining,
            _ => Phase::Closed,
        }
    }
}

/// The number and size of a lane's slots, checked, with everything that follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    slots: u32,
    slot_size: u32,
}

/// Why a geometry is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// The number of slots is out of range.
    Slots(u32),
    /// The slot size is out of range or no multiple of the page.
    SlotSize(u32),
    /// The arena (slots times slot size) is too large.
    Arena(u64),
}

impl std::fmt::Display for GeometryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            GeometryError::Slots(n) => {
                write!(
                    f,
                    "{n} slots: give a number from {MIN_SLOTS} to {MAX_SLOTS}"
                )
            }
            GeometryError::SlotSize(n) => write!(
                f,
                "slot size {n}: give a multiple of the page ({PAGE}) from {PAGE} to {MAX_SLOT_SIZE}"
            ),
            GeometryError::Arena(n) => write!(
                f,
                "slots times slot size is {n} bytes: at most {MAX_ARENA} are possible in one direction of a lane"
            ),
        }
    }
}

impl std::error::Error for GeometryError {}

impl Geometry {
    /// Checks the number of slots and their size.
    ///
    /// # Errors
    /// What is out of range, with the range.
    pub const fn new(slots: u32, slot_size: u32) -> Result<Geometry, GeometryError> {
        if slots < MIN_SLOTS || slots > MAX_SLOTS {
            return Err(GeometryError::Slots(slots));
        }
        if slot_size < PAGE as u32
            || slot_size > MAX_SLOT_SIZE
            || !(slot_size as usize).is_multiple_of(PAGE)
        {
            return Err(GeometryError::SlotSize(slot_size));
        }
        let arena = slots as u64 * slot_size as u64;
        if arena > MAX_ARENA as u64 {
            return Err(GeometryError::Arena(arena));
        }
        Ok(Geometry { slots, slot_size })
    }

    /// Number of slots in each direction.
    pub const fn slots(self) -> u32 {
        self.slots
    }

    /// Bytes in a slot.
    pub const fn slot_size(self) -> usize {
        self.slot_size as usize
    }

    /// Descriptors in each ring. Four times the slots, so that neither side can run out of places:
    /// a slot has at most one frame under way, one return and one cancelled exchange.
    pub const fn ring_entries(self) -> u32 {
        (self.slots * 4).next_power_of_two()
    }

    /// Bytes in each arena.
    pub const fn arena_len(self) -> usize {
        self.slots as usize * self.slot_size as usize
    }

    /// Offset of the cancel words.
    pub const fn cancel_offset(self) -> usize {
        RING_OFFSET + self.ring_entries() as usize * size_of::<Descriptor>()
    }

    /// Offset of the arena, a multiple of the page.
    pub const fn arena_offset(self) -> usize {
        (self.cancel_offset() + self.slots as usize * 4).next_multiple_of(PAGE)
    }

    /// Bytes in each of the lane's two memories.
    pub const fn memory_len(self) -> usize {
        self.arena_offset() + self.arena_len()
    }

    /// How many slots hold `bytes`; at least one.
    pub const fn slots_for(self, bytes: usize) -> usize {
        let n = bytes.div_ceil(self.slot_size as usize);
        if n == 0 { 1 } else { n }
    }

    /// Most bytes of one frame that is to be contiguous: a quarter of the arena, so that no single
    /// exchange can take a lane for itself.
    pub const fn contiguous_max(self) -> usize {
        self.arena_len() / 4
    }

    /// The identity that stands at the start of the request memory.
    pub const fn identity(self) -> Identity {
        Identity {
            magic: MAGIC,
            abi_version: ABI_VERSION,
            slots: self.slots,
            slot_size: self.slot_size,
            ring_entries: self.ring_entries(),
            cancel_offset: self.cancel_offset() as u32,
            arena_offset: self.arena_offset() as u32,
            memory_len: self.memory_len() as u64,
        }
    }
}

/// Offset of the body in a frame whose head has this length.
pub const fn body_offset(head_len: usize) -> usize {
    head_len.next_multiple_of(BODY_ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_without_overlap() {
        for (slots, size) in [(16, 4096), (512, 4096), (4096, 65536), (32768, 4096)] {
            let g = Geometry::new(slots, size).unwrap();
            assert!(g.ring_entries().is_power_of_two());
            assert_eq!(
                g.cancel_offset(),
                RING_OFFSET + g.ring_entries() as usize * 32
            );
            assert!(g.arena_offset() >= g.cancel_offset() + slots as usize * 4);
            assert_eq!(g.arena_offset() % PAGE, 0);
            assert_eq!(g.memory_len() % PAGE, 0);
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_range() {
        assert_eq!(Geometry::new(0, 4096), Err(GeometryError::Slots(0)));
        assert_eq!(Geometry::new(64, 5000), Err(GeometryError::SlotSize(5000)));
        assert_eq!(Geometry::new(64, 0), Err(GeometryError::SlotSize(0)));
        assert!(matches!(
            Geometry::new(32768, 1 << 20),
            Err(GeometryError::Arena(_))
        ));
        let said = Geometry::new(0, 4096).unwrap_err().to_string();
        assert!(said.contains("16 to 32768"), "{said}");
    }
}
