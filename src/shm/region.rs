//! Typed access to a lane's two mapped memories. The raw pointers stay in this file: what leaves it
//! is bounds-checked, and bytes the other side may write leave it only as copies.
//!
//! Both processes hold the same pair, seen from opposite ends: the memory a process *owns* it alone
//! writes, the memory of its *peer* it maps read-only. The hub does not trust the worker and so
//! never borrows from its memory; the worker trusts the hub, which leaves a request alone until it
//! is returned, and so may.

use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, compiler_fence};

use crate::shm::arena::SlotMap;
use crate::shm::atomics::{AtomicU32, load_acquire};
use crate::shm::descriptor::{Descriptor, Run};
use crate::shm::layout::{
    ABI_VERSION, DOORBELL_OFFSET, Geometry, HEAD_OFFSET, IDENTITY_OFFSET, Identity, MAGIC,
    PHASE_OFFSET, RING_OFFSET, SLEEP_OFFSET, STARVED_OFFSET, TAIL_OFFSET,
};
use crate::shm::ring::{ReadRing, RingIndices, WriteRing};
use crate::sys::memory::{ReadOnlyMapping, WritableMapping};

/// The end of a lane that the hub holds.
#[derive(Debug)]
pub struct HubSide;
/// The end of a lane that the worker holds.
#[derive(Debug)]
pub struct WorkerSide;

/// A control word of a memory's header; see [`crate::shm::layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
#[repr(usize)]
pub enum Word {
    Tail = TAIL_OFFSET,
    Head = HEAD_OFFSET,
    Doorbell = DOORBELL_OFFSET,
    Sleep = SLEEP_OFFSET,
    Starved = STARVED_OFFSET,
    Phase = PHASE_OFFSET,
}

/// Both memories of a lane, from one end.
#[derive(Debug)]
pub struct LaneMemory<Side> {
    own: WritableMapping,
    peer: ReadOnlyMapping,
    geometry: Geometry,
    side: PhantomData<Side>,
}

impl<Side> LaneMemory<Side> {
    /// The number and size of the slots.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// A control word this process writes.
    pub fn own_word(&self, word: Word) -> &AtomicU32 {
        // SAFETY: the offset lies in the header page, which every mapping of a lane has (checked at
        // construction), it is aligned to four, and the mapping lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.own.as_mut_ptr().add(word as usize).cast()) }
    }

    /// A control word the other process writes. Only loads are possible: the mapping is read-only.
    pub fn peer_word(&self, word: Word) -> &AtomicU32 {
        // SAFETY: as in `own_word`; callers only load, relaxed or with `load_acquire`, which works on a
        // read-only page.
        unsafe { AtomicU32::from_ptr(self.peer.as_ptr().cast_mut().add(word as usize).cast()) }
    }

    /// The ring this process fills.
    pub fn outbound(&self) -> Outbound<'_, Side> {
        Outbound(self)
    }

    /// The ring this process empties.
    pub fn inbound(&self) -> Inbound<'_, Side> {
        Inbound(self)
    }

    /// The bytes of slots this process owns and has not lent.
    pub fn bytes_mut<'a>(&'a self, slots: &'a mut Slots) -> &'a mut [u8] {
        let (at, len) = self
            .span(slots.run)
            .expect("an arena's run lies in its own memory");
        // SAFETY: the range lies in the arena of a writable mapping that lives as long as `self`.
        // `Slots` is not clonable and its run comes from the arena's allocator, so no other
        // reference to these bytes exists; the other process maps them read-only.
        unsafe { std::slice::from_raw_parts_mut(self.own.as_mut_ptr().add(at), len) }
    }

    /// Where a part of this process's own slots stands in memory, for the kernel to fill.
    /// `None` where the part reaches past the slots.
    pub fn own_part(&self, slots: &Slots, offset: usize, len: usize) -> Option<NonNull<u8>> {
        let (at, size) = self.span(slots.run)?;
        if offset > size || len > size - offset {
            return None;
        }
        // SAFETY: `at + offset` is within the mapping, as just checked.
        NonNull::new(unsafe { self.own.as_mut_ptr().add(at + offset) })
    }

    /// Offset and length of a run within either memory; `None` where no arena holds it.
    fn span(&self, run: Run) -> Option<(usize, usize)> {
        let slots = self.geometry.slots();
        if run.first > slots || run.slots > slots - run.first {
            return None;
        }
        let size = self.geometry.slot_size();
        let at = self.geometry.arena_offset() + run.first as usize * size;
        Some((at, run.slots as usize * size))
    }

    fn peer_span(&self, run: Run, offset: usize, len: usize) -> Option<*const u8> {
        let (at, size) = self.span(run)?;
        if offset > size || len > size - offset {
            return None;
        }
        // SAFETY: `at + offset` is within the mapping, as just checked.
        Some(unsafe { self.peer.as_ptr().add(at + offset) })
    }

    fn checked(
        own: WritableMapping,
        peer: ReadOnlyMapping,
        geometry: Geometry,
    ) -> io::Result<Self> {
        if own.len() < geometry.memory_len() || peer.len() < geometry.memory_len() {
            return Err(io::Error::other(
                "a lane's memory is smaller than its geometry says",
            ));
        }
        Ok(LaneMemory {
            own,
            peer,
            geometry,
            side: PhantomData,
        })
    }
}

impl LaneMemory<HubSide> {
    /// The hub's end, over memories it has just made.
    ///
    /// # Errors
    /// A mapping is smaller than the geometry asks.
    pub fn new(
        request: WritableMapping,
        response: ReadOnlyMapping,
        geometry: Geometry,
    ) -> io::Result<Self> {
        let memory = Self::checked(request, response, geometry)?;
        // SAFETY: the identity lies in the header page; nobody else has the memory yet.
        unsafe {
            memory
                .own
                .as_mut_ptr()
                .add(IDENTITY_OFFSET)
                .cast::<Identity>()
                .write(geometry.identity());
        }
        Ok(memory)
    }

    /// The word that tells the worker which generation of an exchange was cancelled last.
    ///
    /// # Panics
    /// If there is no such exchange; indices are the hub's own.
    pub fn cancel_word(&self, exchange: u32) -> &AtomicU32 {
        assert!(exchange < self.geometry.slots());
        let at = self.geometry.cancel_offset() + exchange as usize * 4;
        // SAFETY: the word lies between the ring and the arena, is aligned to four, and the mapping
        // lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.own.as_mut_ptr().add(at).cast()) }
    }

    /// Copies a part of a response frame to the end of `out`; `false`, with nothing appended, where
    /// the part reaches past the frame or the frame past the arena.
    pub fn copy_response(&self, run: Run, offset: usize, len: usize, out: &mut Vec<u8>) -> bool {
        let Some(from) = self.peer_span(run, offset, len) else {
            return false;
        };
        out.reserve(len);
        // SAFETY: `from` has `len` readable bytes and `out` room for as many; they cannot overlap.
        // The worker may write while this reads: the copy may be torn, which is the worker's own
        // loss, since everything in it is validated as a private copy.
        unsafe {
            std::ptr::copy_nonoverlapping(from, out.as_mut_ptr().add(out.len()), len);
            out.set_len(out.len() + len);
        }
        // What is checked and used from here on is the copy: the optimizer must not read the original
        // again in its place, which is the same to it.
        compiler_fence(Ordering::SeqCst);
        true
    }

    /// Where a part of a response frame stands in memory, for the kernel to send from. `None` where
    /// the part reaches past the frame or the frame past the arena.
    pub fn response_part(&self, run: Run, offset: usize, len: usize) -> Option<NonNull<u8>> {
        NonNull::new(self.peer_span(run, offset, len)?.cast_mut())
    }
}

impl LaneMemory<WorkerSide> {
    /// The worker's end, over memories it was sent.
    ///
    /// # Errors
    /// `InvalidData` where the request memory does not say what this crate understands.
    pub fn open(request: ReadOnlyMapping, response: WritableMapping) -> io::Result<Self> {
        let refuse = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        if request.len() < RING_OFFSET {
            return Err(refuse("the request memory has no header".into()));
        }
        // SAFETY: the identity lies in the header page, which the mapping has, and is plain data.
        let identity = unsafe {
            request
                .as_ptr()
                .add(IDENTITY_OFFSET)
                .cast::<Identity>()
                .read()
        };
        if identity.magic != MAGIC {
            return Err(refuse("the request memory is not a slotway lane".into()));
        }
        if identity.abi_version != ABI_VERSION {
            return Err(refuse(format!(
                "the hub speaks version {} of the slot ABI and this worker version {ABI_VERSION}: build both from the same release",
                identity.abi_version
            )));
        }
        let geometry = Geometry::new(identity.slots, identity.slot_size)
            .map_err(|e| refuse(format!("the lane's geometry is impossible: {e}")))?;
        if identity != geometry.identity() {
            return Err(refuse(
                "the lane's offsets do not follow from its geometry".into(),
            ));
        }
        Self::checked(response, request, geometry)
    }

    /// The cancel word of an exchange: the generation that was cancelled last, perhaps with
    /// [`CLIENT_LEFT`](crate::shm::descriptor::CLIENT_LEFT); zero where there is no such exchange.
    pub fn cancelled(&self, exchange: u32) -> u32 {
        if exchange >= self.geometry.slots() {
            return 0;
        }
        let at = self.geometry.cancel_offset() + exchange as usize * 4;
        // SAFETY: as in `cancel_word`, on a read-only mapping that is only loaded from.
        let word = unsafe { AtomicU32::from_ptr(self.peer.as_ptr().cast_mut().add(at).cast()) };
        load_acquire(word)
    }

    /// The bytes of a request frame; `None` where the part reaches past the frame or the frame past
    /// the arena. They hold still until the frame is returned: the caller keeps it that long.
    pub fn request_part(&self, run: Run, offset: usize, len: usize) -> Option<&[u8]> {
        let from = self.peer_span(run, offset, len)?;
        // SAFETY: the range lies in a mapping that lives as long as `self`. The hub, which the
        // worker trusts, does not write to a frame between publishing it and its return.
        Some(unsafe { std::slice::from_raw_parts(from, len) })
    }
}

/// Slots that this process holds in its own arena and has not lent to the other.
///
/// Not clonable: whoever has it may write to the slots.
#[derive(Debug, PartialEq, Eq)]
pub struct Slots {
    run: Run,
}

impl Slots {
    /// Which slots these are.
    pub fn run(&self) -> Run {
        self.run
    }
}

/// The allocator of a process's own arena.
#[derive(Debug)]
pub struct Arena {
    map: SlotMap,
}

impl Arena {
    /// An arena of this many free slots. One per memory, or the promise of [`Slots`] is broken.
    pub(crate) fn new(slots: u32) -> Arena {
        Arena {
            map: SlotMap::new(slots),
        }
    }

    /// Takes `count` consecutive slots; `None` where no such run is free or `count` is zero.
    pub fn allocate(&mut self, count: u32) -> Option<Slots> {
        self.map.allocate(count).map(|run| Slots { run })
    }

    /// Gives back slots that were never lent.
    pub fn release(&mut self, slots: Slots) {
        let freed = self.map.release(slots.run);
        debug_assert!(freed, "slots are released once");
    }

    /// Keeps the first `keep` slots, at least one, and frees the rest, which is returned too.
    pub fn trim(&mut self, slots: Slots, keep: u32) -> (Slots, Run) {
        let Run {
            first,
            slots: count,
        } = slots.run;
        let keep = keep.clamp(1, count);
        let rest = Run {
            first: first + keep,
            slots: count - keep,
        };
        if !rest.is_empty() {
            let freed = self.map.release(rest);
            debug_assert!(freed, "slots are released once");
        }
        (
            Slots {
                run: Run { first, slots: keep },
            },
            rest,
        )
    }

    /// Lends slots to the other process. They stay taken until [`Arena::take_back`].
    pub fn lend(slots: Slots) -> Run {
        slots.run
    }

    /// Frees a run that the other process has returned; `false`, with nothing changed, where it was
    /// not taken. Whether it was lent is the caller's to know.
    pub fn take_back(&mut self, run: Run) -> bool {
        self.map.release(run)
    }

    /// Number of free slots.
    pub fn free_count(&self) -> u32 {
        self.map.free_count()
    }
}

/// The ring a process fills: entries and tail in its own memory, head in its peer's.
#[derive(Debug)]
pub struct Outbound<'a, Side>(&'a LaneMemory<Side>);
/// The ring a process empties: entries and tail in its peer's memory, head in its own.
#[derive(Debug)]
pub struct Inbound<'a, Side>(&'a LaneMemory<Side>);

impl<Side> RingIndices for Outbound<'_, Side> {
    fn tail(&self) -> &AtomicU32 {
        self.0.own_word(Word::Tail)
    }
    fn head(&self) -> &AtomicU32 {
        self.0.peer_word(Word::Head)
    }
    fn entries(&self) -> u32 {
        self.0.geometry.ring_entries()
    }
}

impl<Side> WriteRing for Outbound<'_, Side> {
    fn write(&self, index: u32, descriptor: Descriptor) {
        let at = entry_offset(index, self.entries());
        // SAFETY: the entry lies in the ring of the own, writable mapping and is aligned to eight;
        // the indices give it to this producer, and the other process only reads it.
        unsafe {
            self.0
                .own
                .as_mut_ptr()
                .add(at)
                .cast::<Descriptor>()
                .write(descriptor)
        }
    }
}

impl<Side> RingIndices for Inbound<'_, Side> {
    fn tail(&self) -> &AtomicU32 {
        self.0.peer_word(Word::Tail)
    }
    fn head(&self) -> &AtomicU32 {
        self.0.own_word(Word::Head)
    }
    fn entries(&self) -> u32 {
        self.0.geometry.ring_entries()
    }
}

impl<Side> ReadRing for Inbound<'_, Side> {
    fn read(&self, index: u32) -> Descriptor {
        let at = entry_offset(index, self.entries());
        // SAFETY: the entry lies in the ring of the peer's mapping and is aligned to eight. It is
        // copied once, volatile, so that what is validated is what is used even if the peer writes
        // meanwhile; any bytes are a valid `Descriptor`.
        unsafe {
            self.0
                .peer
                .as_ptr()
                .add(at)
                .cast::<Descriptor>()
                .read_volatile()
        }
    }
}

fn entry_offset(index: u32, entries: u32) -> usize {
    RING_OFFSET + (index & (entries - 1)) as usize * size_of::<Descriptor>()
}
