//! Stands in for `memory.rs` under Miri, which knows neither memfds nor shared mappings, and under
//! ThreadSanitizer, which does not see that two mappings are one memory: the pages come from the heap,
//! and a descriptor only names them. Never part of a normal build.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::HashMap;
use std::fs::{File, remove_file};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

/// Pages on the heap, which all mappings of one memory share.
#[derive(Debug)]
struct Pages {
    start: *mut u8,
    len: usize,
}

// SAFETY: the pages are plain bytes; who accesses which, and when, is for the lane's protocol to say,
// as it is for a mapping, and for Miri to check.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, 4096).expect("a size that fits")
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated in `SharedMemory::create` with this layout, and freed once.
        unsafe { dealloc(self.start, Pages::layout(self.len)) };
    }
}

/// Which pages a file names, by its inode. A file that is made later may have the number of one that
/// is gone, and takes its place.
static NAMED: LazyLock<Mutex<HashMap<u64, Arc<Pages>>>> = LazyLock::new(Mutex::default);

/// A file without a path, and as long, to be the name of pages.
fn name(pages: &Arc<Pages>) -> io::Result<OwnedFd> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let file = format!("slotway-memory-{}-{number}", std::process::id());
    let path = std::env::temp_dir().join(file);
    let file = File::create_new(&path)?;
    remove_file(path)?;
    file.set_len(pages.len as u64)?;
    let inode = file.metadata()?.ino();
    let mut named = NAMED.lock().expect("nobody panics with it");
    named.insert(inode, pages.clone());
    Ok(file.into())
}

fn named(fd: OwnedFd, len: usize) -> io::Result<Arc<Pages>> {
    let inode = File::from(fd).metadata()?.ino();
    let named = NAMED.lock().expect("nobody panics with it");
    let pages = named.get(&inode).cloned();
    pages.filter(|pages| pages.len == len).ok_or_else(|| {
        let why = "the descriptor names no memory of this size";
        io::Error::new(io::ErrorKind::InvalidData, why)
    })
}

/// Whoever maps a memory sees what was written before its descriptor was asked for. The socket that takes
/// it there sees to that; ThreadSanitizer does not know it of a system call.
fn hand_on() {
    drop(NAMED.lock().expect("nobody panics with it"));
}

/// As the real one, without seals.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    pages: Arc<Pages>,
}

impl SharedMemory {
    /// Memory that this side writes.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn create_written_here(_: &str, len: usize) -> io::Result<(Self, WritableMapping)> {
        let memory = Self::create(len)?;
        let mapping = WritableMapping(memory.pages.clone());
        Ok((memory, mapping))
    }

    /// Memory that the peer writes.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn create_written_by_peer(_: &str, len: usize) -> io::Result<(Self, ReadOnlyMapping)> {
        let memory = Self::create(len)?;
        let mapping = ReadOnlyMapping(memory.pages.clone());
        Ok((memory, mapping))
    }

    /// Maps memory that the peer writes.
    ///
    /// # Errors
    /// `InvalidData` for another descriptor, or another size.
    pub fn accept_read_only(fd: OwnedFd, len: usize) -> io::Result<ReadOnlyMapping> {
        named(fd, len).map(ReadOnlyMapping)
    }

    /// Maps memory that this side writes.
    ///
    /// # Errors
    /// `InvalidData` for another descriptor, or another size.
    pub fn accept_writable(fd: OwnedFd, len: usize) -> io::Result<WritableMapping> {
        named(fd, len).map(WritableMapping)
    }

    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.pages.len
    }

    /// Always false.
    pub fn is_empty(&self) -> bool {
        self.pages.len == 0
    }

    /// Another descriptor of the same memory.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        hand_on();
        self.fd.try_clone()
    }

    fn create(len: usize) -> io::Result<Self> {
        assert!(len > 0, "no memory has no bytes");
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(Pages::layout(len)) };
        let pages = Arc::new(Pages { start, len });
        let fd = name(&pages)?;
        Ok(SharedMemory { fd, pages })
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        hand_on();
        self.fd.as_fd()
    }
}

impl From<SharedMemory> for OwnedFd {
    fn from(memory: SharedMemory) -> Self {
        hand_on();
        memory.fd
    }
}

/// As the real one.
#[derive(Debug)]
pub struct WritableMapping(Arc<Pages>);

impl WritableMapping {
    /// The first byte, for reading.
    pub fn as_ptr(&self) -> *const u8 {
        self.0.start
    }

    /// The first byte, for writing.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.0.start
    }

    /// Bytes in the mapping.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Always false.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }
}

/// As the real one, but that a write is no fault.
#[derive(Debug)]
pub struct ReadOnlyMapping(Arc<Pages>);

impl ReadOnlyMapping {
    /// The first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.0.start
    }

    /// Bytes in the mapping.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Always false.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }
}
