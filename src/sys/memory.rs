//! Memory that two processes share: a sealed memfd and its mapping. Only raw pointers leave this
//! file, never a slice: the other process can write while we look.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
    ftruncate, memfd_create,
};
use rustix::io::Errno;

use super::fault_guard::GuardedRange;

/// The seals on memory that its creator reads and the peer writes: nobody can change its size, so
/// no access to the mapping can fault, nor add or remove a seal.
const SIZE_SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);
/// The seals on memory that its creator alone writes, through a mapping that was there before.
const READ_ONLY_SEALS: SealFlags = SIZE_SEALS.union(SealFlags::FUTURE_WRITE);

/// A sealed memfd, ready to be sent to a peer. Its mapping is separate and outlives it.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    len: usize,
}

impl SharedMemory {
    /// Memory of `len` zero bytes that this process writes and every other can only read: a later
    /// writable mapping, `mprotect`, `write` and any change of size are refused by the kernel.
    ///
    /// `name` is only seen in `/proc/PID/maps`; it is no path and need not be unique.
    ///
    /// # Errors
    /// `InvalidInput` for a length of zero; `OutOfMemory` or `StorageFull` when the memory cannot
    /// be reserved; `EMFILE` when no descriptor is free.
    pub fn create_written_here(name: &str, len: usize) -> io::Result<(Self, WritableMapping)> {
        let memory = Self::create(name, len)?;
        // The order matters: the seal refuses every writable mapping but those already made.
        let mapping = WritableMapping::new(memory.as_fd(), len)?;
        fcntl_add_seals(&memory.fd, READ_ONLY_SEALS)?;
        Ok((memory, mapping))
    }

    /// Memory of `len` zero bytes that the peer writes and this process only reads.
    ///
    /// The peer may give pages back (`fallocate` with a hole): they read as zeros again, and the
    /// kernel allocates them anew when touched. Where it cannot, they read as zeros all the same if
    /// [`install`](super::fault_guard::install) was called.
    ///
    /// # Errors
    /// As for [`SharedMemory::create_written_here`].
    pub fn create_written_by_peer(name: &str, len: usize) -> io::Result<(Self, ReadOnlyMapping)> {
        let memory = Self::create(name, len)?;
        fcntl_add_seals(&memory.fd, SIZE_SEALS)?;
        let mut mapping = ReadOnlyMapping::new(memory.as_fd(), len)?;
        mapping.guard = GuardedRange::new(mapping.as_ptr(), len);
        Ok((memory, mapping))
    }

    /// Maps memory received from a peer that writes it, after checking that it is what
    /// [`SharedMemory::create_written_here`] makes: `len` bytes whose size is sealed. The
    /// descriptor is closed; the mapping stays.
    ///
    /// # Errors
    /// `InvalidData` when the size or the seals are not those.
    pub fn accept_read_only(fd: OwnedFd, len: usize) -> io::Result<ReadOnlyMapping> {
        check_len(fd.as_fd(), len)?;
        check_seals(fd.as_fd(), READ_ONLY_SEALS)?;
        ReadOnlyMapping::new(fd.as_fd(), len)
    }

    /// Maps memory received from a peer that reads it, after checking that it is what
    /// [`SharedMemory::create_written_by_peer`] makes: `len` bytes whose size is sealed. The
    /// descriptor is closed; the mapping stays.
    ///
    /// # Errors
    /// `InvalidData` when the size or the seals are not those; `PermissionDenied` when it is
    /// sealed against writing.
    pub fn accept_writable(fd: OwnedFd, len: usize) -> io::Result<WritableMapping> {
        check_len(fd.as_fd(), len)?;
        check_seals(fd.as_fd(), SIZE_SEALS)?;
        WritableMapping::new(fd.as_fd(), len)
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Always false: memory of no bytes cannot be created.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Another descriptor of the same memory, close-on-exec.
    ///
    /// # Errors
    /// `EMFILE` or `ENFILE` when no descriptor is free.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// A memfd of `len` reserved bytes, not sealed yet.
    fn create(name: &str, len: usize) -> io::Result<Self> {
        let size = u64::try_from(len)
            .ok()
            .filter(|&size| size > 0 && i64::try_from(size).is_ok())
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("shared memory {name:?} of {len} bytes cannot be created: give it at least 1 byte and less than 2^63"),
                )
            })?;
        let fd = create_memfd(name)?;
        ftruncate(&fd, size).map_err(|error| cannot_reserve(name, len, error))?;
        // Reserved now, so that a later write cannot find the memory gone (SIGBUS).
        rustix::io::retry_on_intr(|| fallocate(&fd, FallocateFlags::empty(), 0, size))
            .map_err(|error| cannot_reserve(name, len, error))?;
        Ok(Self { fd, len })
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<SharedMemory> for OwnedFd {
    fn from(memory: SharedMemory) -> Self {
        memory.fd
    }
}

/// A shared mapping that may be written. Page-aligned; unmapped when dropped.
#[derive(Debug)]
pub struct WritableMapping {
    raw: MmapRaw,
}

impl WritableMapping {
    fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let raw = MmapOptions::new().len(len).map_raw(&fd)?;
        Ok(Self { raw })
    }

    /// The first byte, for reading. Valid until the mapping is dropped.
    pub fn as_ptr(&self) -> *const u8 {
        self.raw.as_ptr()
    }

    /// The first byte, for writing. Valid until the mapping is dropped. Threads of this process
    /// that share the mapping must agree on who writes what.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.raw.as_mut_ptr()
    }

    /// Bytes in the mapping.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Always false: a mapping of no bytes cannot be made.
    pub fn is_empty(&self) -> bool {
        self.raw.len() == 0
    }
}

/// A shared mapping that must not be written: a write through it is a fault. Page-aligned;
/// unmapped when dropped.
#[derive(Debug)]
pub struct ReadOnlyMapping {
    // Before the mapping: fields are dropped in this order.
    guard: Option<GuardedRange>,
    raw: MmapRaw,
}

impl ReadOnlyMapping {
    fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let raw = MmapOptions::new().len(len).map_raw_read_only(&fd)?;
        Ok(Self { guard: None, raw })
    }

    /// The first byte. Valid until the mapping is dropped. What it points to changes under the
    /// reader's eyes: copy once, then check the copy.
    pub fn as_ptr(&self) -> *const u8 {
        self.raw.as_ptr()
    }

    /// Bytes in the mapping.
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Always false: a mapping of no bytes cannot be made.
    pub fn is_empty(&self) -> bool {
        self.raw.len() == 0
    }
}

/// Checks that a received memfd carries at least the seals in `expected`.
///
/// # Errors
/// `InvalidData` naming the seals that are missing, also for a descriptor that takes no seals.
pub fn check_seals(fd: BorrowedFd<'_>, expected: SealFlags) -> io::Result<()> {
    let seals = match fcntl_get_seals(fd) {
        Ok(seals) => seals,
        Err(Errno::INVAL) => {
            return Err(invalid(
                "the received descriptor is not a memfd, so it carries no seals".into(),
            ));
        }
        Err(error) => return Err(error.into()),
    };
    let missing = expected - seals;
    if missing.is_empty() {
        return Ok(());
    }
    Err(invalid(format!(
        "the received shared memory lacks the seals {missing:?} (it has {seals:?}): its sender could change it under us"
    )))
}

/// Checks that a received memfd has exactly `len` bytes.
///
/// # Errors
/// `InvalidData` with both sizes.
pub fn check_len(fd: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    let size = fstat(fd)?.st_size;
    if usize::try_from(size) == Ok(len) && len > 0 {
        return Ok(());
    }
    Err(invalid(format!(
        "the received shared memory has {size} bytes where {len} were announced"
    )))
}

/// A memfd that takes seals and can never be executed, where the kernel (6.3) knows of that.
fn create_memfd(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        outcome => Ok(outcome?),
    }
}

fn cannot_reserve(name: &str, len: usize, error: Errno) -> io::Error {
    let error = io::Error::from(error);
    let advice = match error.kind() {
        io::ErrorKind::OutOfMemory | io::ErrorKind::StorageFull => {
            ": not enough memory is free (or the memory limit of its cgroup is reached); use fewer or smaller slots, fewer shards, or raise the limit"
        }
        _ => "",
    };
    io::Error::new(
        error.kind(),
        format!("cannot reserve {len} bytes of shared memory for {name:?}: {error}{advice}"),
    )
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

    use super::*;

    const LEN: usize = 3 * 4096;

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let (memory, ours) = SharedMemory::create_written_here("test", LEN).unwrap();
        let theirs = SharedMemory::accept_read_only(memory.try_clone_fd().unwrap(), LEN).unwrap();
        drop(memory);
        assert_eq!((ours.len(), theirs.len()), (LEN, LEN));
        // SAFETY: both mappings hold LEN bytes and nothing else touches them.
        unsafe {
            ours.as_mut_ptr().add(LEN - 1).write_volatile(42);
            assert_eq!(theirs.as_ptr().add(LEN - 1).read_volatile(), 42);
            assert_eq!(theirs.as_ptr().read_volatile(), 0);
        }
    }

    #[test]
    fn memory_written_by_the_peer_is_read_here() {
        let (memory, ours) = SharedMemory::create_written_by_peer("test", LEN).unwrap();
        let theirs = SharedMemory::accept_writable(memory.into(), LEN).unwrap();
        // SAFETY: both mappings hold LEN bytes and nothing else touches them.
        unsafe {
            theirs.as_mut_ptr().add(4096).write_volatile(7);
            assert_eq!(ours.as_ptr().add(4096).read_volatile(), 7);
        }
    }

    #[test]
    fn a_peer_cannot_write_what_we_alone_write() {
        let (memory, ours) = SharedMemory::create_written_here("test", LEN).unwrap();
        let fd = memory.try_clone_fd().unwrap();
        let error = WritableMapping::new(fd.as_fd(), LEN).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(rustix::io::write(&fd, b"x"), Err(Errno::PERM));
        assert_eq!(
            fallocate(
                &fd,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                0,
                4096
            ),
            Err(Errno::PERM)
        );
        // SAFETY: the page is ours.
        unsafe { ours.as_mut_ptr().write_volatile(1) };
    }

    #[test]
    fn a_peer_cannot_make_its_read_only_mapping_writable() {
        let (memory, _ours) = SharedMemory::create_written_here("test", LEN).unwrap();
        let theirs = SharedMemory::accept_read_only(memory.try_clone_fd().unwrap(), LEN).unwrap();
        // SAFETY: the range is exactly the mapping; nobody relies on its protection here.
        let refused = unsafe {
            rustix::mm::mprotect(
                theirs.as_ptr().cast_mut().cast(),
                LEN,
                MprotectFlags::READ | MprotectFlags::WRITE,
            )
        };
        assert_eq!(refused, Err(Errno::ACCESS));
    }

    #[test]
    fn a_peer_cannot_reopen_the_memory_for_writing() {
        let (memory, _ours) = SharedMemory::create_written_here("test", LEN).unwrap();
        let path = format!("/proc/self/fd/{}", memory.as_fd().as_raw_fd());
        let reopened = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let refused = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                LEN,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &reopened,
                0,
            )
        };
        assert_eq!(refused, Err(Errno::PERM));
    }

    #[test]
    fn nobody_can_change_the_size_or_the_seals() {
        let here = SharedMemory::create_written_here("test", LEN).unwrap().0;
        let by_peer = SharedMemory::create_written_by_peer("test", LEN).unwrap().0;
        for memory in [here, by_peer] {
            assert_eq!(ftruncate(&memory, 0), Err(Errno::PERM));
            assert_eq!(ftruncate(&memory, 2 * LEN as u64), Err(Errno::PERM));
            assert_eq!(fcntl_add_seals(&memory, SealFlags::WRITE), Err(Errno::PERM));
            check_len(memory.as_fd(), LEN).unwrap();
        }
    }

    #[test]
    fn all_pages_are_reserved_at_creation() {
        let (memory, _mapping) = SharedMemory::create_written_by_peer("test", 64 * 4096).unwrap();
        let blocks = u64::try_from(fstat(&memory).unwrap().st_blocks).unwrap();
        assert!(blocks * 512 >= 64 * 4096, "{blocks} blocks of 512 bytes");
    }

    #[test]
    fn a_receiver_refuses_another_size_and_missing_seals() {
        let (memory, _mapping) = SharedMemory::create_written_by_peer("test", LEN).unwrap();
        for len in [0, LEN - 1, LEN + 1, usize::MAX] {
            let fd = memory.try_clone_fd().unwrap();
            let error = SharedMemory::accept_writable(fd, len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        let error = SharedMemory::accept_read_only(memory.into(), LEN).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("FUTURE_WRITE"), "{error}");

        let unsealed = SharedMemory::create("test", LEN).unwrap();
        let error = SharedMemory::accept_writable(unsealed.into(), LEN).unwrap_err();
        assert!(error.to_string().contains("SHRINK"), "{error}");
    }

    #[test]
    fn a_receiver_refuses_what_is_no_memfd() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
        let error = SharedMemory::accept_read_only(file.into(), len).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let error = SharedMemory::accept_read_only(reader, LEN).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn impossible_sizes_are_errors_that_say_so() {
        let error = SharedMemory::create_written_here("zero", 0).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = SharedMemory::create_written_here("huge", usize::MAX).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = cannot_reserve("lane", 4096, Errno::NOSPC);
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("4096 bytes"), "{error}");
        assert!(error.to_string().contains("fewer or smaller slots"));
    }
}
