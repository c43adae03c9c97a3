//! Reads of shared memory that cannot fail, whatever its other user does and however short memory is.
//!
//! The size of shared memory is sealed, but who may write it may also give its pages back, and nothing
//! forbids that. They read as zeros again, for which the kernel has to find memory; where it finds none,
//! under strict accounting (`vm.overcommit_memory=2`), the reader gets SIGBUS. Here the memory is then
//! replaced by zeros that are private to this process. What the other side makes of its memory is
//! checked anyway, and zeros are as good as anything else it could have written.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

use libc::{c_int, c_void, sigaction, siginfo_t};

/// Most ranges at one time; those beyond are read without this.
const MOST: usize = 1 << 17;
const FREE: usize = 0;

/// The first byte of a range and the one behind its last. The end is set first and cleared last.
struct Range {
    start: AtomicUsize,
    end: AtomicUsize,
}

static RANGES: [Range; MOST] = [const {
    Range {
        start: AtomicUsize::new(FREE),
        end: AtomicUsize::new(FREE),
    }
}; MOST];
/// Behind the last range that was ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// What SIGBUS did before.
static FORMER: OnceLock<sigaction> = OnceLock::new();

/// Has this process survive reads of [`GuardedRange`]s, once and for all. Other faults do what they did.
///
/// # Errors
/// The system's.
pub fn install() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut result = Ok(());
    INSTALL.call_once(|| result = set_handler());
    result
}

fn set_handler() -> io::Result<()> {
    // SAFETY: all zeros are a valid sigaction: no flags, no signals masked, the default action.
    let mut action: sigaction = unsafe { zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    // Rust gives each thread a stack for signals, since an overflow of its own is one of them.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let mut former = MaybeUninit::uninit();
    // SAFETY: reads the former action into a place for one.
    let asked = unsafe { libc::sigaction(libc::SIGBUS, null_mut(), former.as_mut_ptr()) };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has filled it.
    FORMER.get_or_init(|| unsafe { former.assume_init() });
    // SAFETY: the handler does only what a signal handler may: atomics, and system calls.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A range of a mapping that may be read without fear, until this is dropped. Drop it before the mapping.
#[derive(Debug)]
pub struct GuardedRange(usize);

impl GuardedRange {
    /// The range of `len` bytes, whole pages, from `start` on. `None` where there are too many.
    pub fn new(start: *const u8, len: usize) -> Option<GuardedRange> {
        let end = start.addr() + len;
        let claimed = RANGES.iter().position(|range| {
            let free = range.end.load(Ordering::Relaxed) == FREE;
            let claim = || {
                let (old, new) = (FREE, end);
                let orders = (Ordering::AcqRel, Ordering::Relaxed);
                range.end.compare_exchange(old, new, orders.0, orders.1)
            };
            free && claim().is_ok()
        })?;
        RANGES[claimed].start.store(start.addr(), Ordering::Release);
        USED.fetch_max(claimed + 1, Ordering::AcqRel);
        Some(GuardedRange(claimed))
    }
}

impl Drop for GuardedRange {
    fn drop(&mut self) {
        RANGES[self.0].start.store(FREE, Ordering::Release);
        RANGES[self.0].end.store(FREE, Ordering::Release);
    }
}

/// The range that an address is in.
fn guarded(address: usize) -> Option<(usize, usize)> {
    let used = USED.load(Ordering::Acquire);
    let mut ranges = RANGES[..used].iter().map(|range| {
        let start = range.start.load(Ordering::Acquire);
        (start, range.end.load(Ordering::Acquire))
    });
    ranges.find(|(start, end)| *start != FREE && (*start..*end).contains(&address))
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel calls this with the details of the fault.
    let address = unsafe { (*info).si_addr() }.addr();
    // SAFETY: the thread's own errno, which the interrupted code may be about to look at.
    let errno = unsafe { *libc::__errno_location() };
    let is_read_on = guarded(address).is_some_and(|(start, end)| put_zeros(start, end - start));
    if !is_read_on {
        // Back to the instruction, and to what it would have led to.
        if let Some(former) = FORMER.get() {
            // SAFETY: puts back what was there, as the system gave it.
            unsafe { libc::sigaction(signal, former, null_mut()) };
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Puts zeros in the place of a range: of all of it, so that however many pages are missing, it stays one
/// mapping.
fn put_zeros(start: usize, len: usize) -> bool {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let at = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the range is guarded, and so part of a read-only mapping that exists: it is replaced by
    // memory that can be read like it. Its bytes may change at any time, as before.
    let mapped = unsafe { libc::mmap(at, len, libc::PROT_READ, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    /// Two pages of ones, mapped for reading.
    fn ones(page: usize) -> (File, *const u8) {
        let file = File::from(memfd_create("slotway-test", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(2 * page as u64).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![1; 2 * page], 0).unwrap();
        let fd = file.as_raw_fd();
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(null_mut(), 2 * page, protection, flags, fd, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        (file, at.cast())
    }

    fn read(at: *const u8) -> u8 {
        // SAFETY: a byte of a mapping that the test has made.
        unsafe { at.read_volatile() }
    }

    #[test]
    fn a_page_that_cannot_be_had_reads_as_zeros() {
        install().unwrap();
        install().unwrap();
        let page = rustix::param::page_size();
        let (file, at) = ones(page);
        let guard = GuardedRange::new(at, 2 * page).unwrap();
        assert_eq!((read(at), read(at.wrapping_add(page))), (1, 1));
        // Nothing is behind the second page then, as where no memory can be found for it.
        file.set_len(page as u64).unwrap();
        assert_eq!(read(at.wrapping_add(page + 7)), 0);
        assert_eq!(read(at.wrapping_add(2 * page - 1)), 0);
        assert_eq!(read(at), 0, "the whole range is given up");
        drop(guard);
        assert!(guarded(at.addr()).is_none());
        // SAFETY: the mapping that the test has made, of which nothing is used any more.
        unsafe { libc::munmap(at.cast_mut().cast(), 2 * page) };
    }

    #[test]
    fn ranges_end_where_they_end() {
        let page = rustix::param::page_size();
        let (_file, at) = ones(page);
        let guard = GuardedRange::new(at, page).unwrap();
        let within = |offset: usize| guarded(at.wrapping_add(offset).addr()).is_some();
        assert!(within(0) && within(page - 1) && !within(page));
        assert!(guarded(at.addr() - 1).is_none());
        drop(guard);
        assert!(!within(0));
        // SAFETY: as above.
        unsafe { libc::munmap(at.cast_mut().cast(), 2 * page) };
    }
}
