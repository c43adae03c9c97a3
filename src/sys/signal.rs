//! SIGTERM and SIGINT, told to whoever listens, for as long as somebody does: then what was there
//! before is put back. Never forgets a handler of the program's own, and runs it too.
//!
//! `signal-hook` would do but for the putting back: its handler stays for ever, and swallows what
//! would have ended the program.

use std::cell::Cell;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use libc::{c_int, c_void, sigaction, siginfo_t};

const SIGNALS: [c_int; 2] = [libc::SIGTERM, libc::SIGINT];
/// Most that listen at one time.
const MOST: usize = 64;
const NOBODY: c_int = -1;

/// Where the handler writes a byte for each signal.
static RINGS: [AtomicI32; MOST] = [const { AtomicI32::new(NOBODY) }; MOST];
/// Threads that are writing to one of them.
static RINGING: AtomicUsize = AtomicUsize::new(0);
/// The handlers that ours took the place of, as numbers, and how they are called.
static FORMER: [(AtomicUsize, AtomicI32); 2] =
    [const { (AtomicUsize::new(libc::SIG_DFL), AtomicI32::new(0)) }; 2];
static INSTALLED: Mutex<Installed> = Mutex::new(Installed {
    listeners: 0,
    former: [None; 2],
});

thread_local! {
    /// The signal for which this thread is in a handler that ours has called; 0 for none.
    static PASSED_ON: Cell<c_int> = const { Cell::new(0) };
}

struct Installed {
    listeners: usize,
    former: [Option<sigaction>; 2],
}

/// Has writes beyond the limit on the size of files (RLIMIT_FSIZE) fail with `EFBIG`, like those on a full
/// disk, instead of ending the process.
pub fn ignore_file_size_signal() {
    // SAFETY: sets a disposition without a handler; the signal exists, so it cannot fail.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Whether the process ignores a signal: whoever started it has said so, as nohup does of SIGHUP.
pub fn is_ignored(signal: c_int) -> bool {
    let mut action = MaybeUninit::<sigaction>::zeroed();
    // SAFETY: only asks; `action` is a place for the answer, and zeroed memory is a valid one.
    let (outcome, action) = unsafe {
        let outcome = libc::sigaction(signal, null(), action.as_mut_ptr());
        (outcome, action.assume_init())
    };
    outcome == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Somebody who is told of SIGTERM and SIGINT until this is dropped.
#[derive(Debug)]
pub struct SignalListener {
    place: usize,
    _ring: OwnedFd,
}

impl SignalListener {
    /// From now on each of the two signals writes a byte to `ring`, a non-blocking socket or pipe.
    ///
    /// # Errors
    /// The system's; too many listen already.
    pub fn new(ring: OwnedFd) -> io::Result<SignalListener> {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = ring.as_raw_fd();
        let free = |place: &AtomicI32| {
            place
                .compare_exchange(NOBODY, fd, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        };
        let place = RINGS.iter().position(free).ok_or_else(|| {
            io::Error::other("64 workers of this process listen for signals already")
        })?;
        if installed.listeners == 0 {
            for (index, signal) in SIGNALS.into_iter().enumerate() {
                match install(index, signal) {
                    Ok(former) => installed.former[index] = former,
                    Err(error) => {
                        installed.put_back();
                        stop_ringing(place);
                        return Err(error);
                    }
                }
            }
        }
        installed.listeners += 1;
        Ok(SignalListener { place, _ring: ring })
    }
}

impl Drop for SignalListener {
    fn drop(&mut self) {
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        installed.listeners -= 1;
        if installed.listeners == 0 {
            installed.put_back();
        }
        stop_ringing(self.place);
    }
}

impl Installed {
    fn put_back(&mut self) {
        for (index, signal) in SIGNALS.into_iter().enumerate() {
            if let Some(former) = self.former[index].take() {
                put_back(signal, &former);
            }
        }
    }
}

/// Afterwards no handler writes to the ring at this place, and it may be closed.
fn stop_ringing(place: usize) {
    RINGS[place].store(NOBODY, Ordering::SeqCst);
    // Closed while a handler writes to it, the number could be somebody else's by then. On this
    // thread none is half done: a handler runs to its end.
    while RINGING.load(Ordering::SeqCst) > 0 {
        std::thread::yield_now();
    }
}

/// Puts our handler in place; returns what was there, or `None` where ours was.
fn install(index: usize, signal: c_int) -> io::Result<Option<sigaction>> {
    let former = current(signal)?;
    if former.sa_sigaction == own_handler() {
        return Ok(None);
    }
    // Before ours can run.
    FORMER[index].1.store(former.sa_flags, Ordering::SeqCst);
    FORMER[index].0.store(former.sa_sigaction, Ordering::SeqCst);
    // SAFETY: every bit pattern of zeros is a valid `sigaction`: no flags, an empty mask.
    let mut own: sigaction = unsafe { zeroed() };
    own.sa_sigaction = own_handler();
    own.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    set(signal, &own)?;
    Ok(Some(former))
}

fn put_back(signal: c_int, former: &sigaction) {
    // Whoever has put a handler over ours since then, and calls ours, keeps it.
    if current(signal).is_ok_and(|now| now.sa_sigaction == own_handler()) {
        // It was taken from the system, which has no reason to refuse it.
        let _ = set(signal, former);
    }
}

fn own_handler() -> usize {
    on_signal as *const () as usize
}

fn current(signal: c_int) -> io::Result<sigaction> {
    let mut action = MaybeUninit::uninit();
    // SAFETY: without a new action the call only writes the current one.
    match unsafe { libc::sigaction(signal, null(), action.as_mut_ptr()) } {
        // SAFETY: the call has succeeded, so it has written the whole of it.
        0 => Ok(unsafe { action.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(signal: c_int, action: &sigaction) -> io::Result<()> {
    // SAFETY: the handler in `action` is `on_signal`, which does only what a handler may, or one that
    // the system has given us as the one in place.
    match unsafe { libc::sigaction(signal, action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Only what a signal handler may do: atomics, `write`, and the handler that was there before.
extern "C" fn on_signal(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    if PASSED_ON.get() == signal {
        // A handler that stands over ours and under it calls in a circle.
        return;
    }
    // SAFETY: `errno` is this thread's own, and is put back so that what was interrupted sees its.
    let errno = unsafe { *libc::__errno_location() };
    let mut rung = false;
    RINGING.fetch_add(1, Ordering::SeqCst);
    for ring in &RINGS {
        let fd = ring.load(Ordering::SeqCst);
        if fd != NOBODY {
            // SAFETY: one byte is read from the stack. The descriptor is open: it is closed only when
            // nobody is between the two counts. A full pipe has been rung already.
            unsafe { libc::write(fd, [0u8].as_ptr().cast(), 1) };
            rung = true;
        }
    }
    RINGING.fetch_sub(1, Ordering::SeqCst);
    let index = usize::from(signal != SIGNALS[0]);
    let (handler, flags) = &FORMER[index];
    let handler = handler.load(Ordering::SeqCst);
    if handler != libc::SIG_DFL && handler != libc::SIG_IGN {
        let outer = PASSED_ON.replace(signal);
        if flags.load(Ordering::SeqCst) & libc::SA_SIGINFO != 0 {
            // SAFETY: the system had this as its handler for the signal, of this kind.
            let call: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            call(signal, info, context);
        } else {
            // SAFETY: as above, of the other kind.
            let call: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            call(signal);
        }
        PASSED_ON.set(outer);
    } else if handler == libc::SIG_DFL
        && !rung
        && current(signal).is_ok_and(|now| now.sa_sigaction == own_handler())
    {
        // Nobody listens any more; a handler that stood over ours kept it from being taken away, and has
        // put it back. Without this the signal would end nothing for ever.
        // SAFETY: every bit pattern of zeros is a valid `sigaction`, and this one is the default's. Both
        // calls are among those a handler may make; the signal waits until this one has returned.
        unsafe {
            libc::sigaction(signal, &zeroed(), std::ptr::null_mut());
            libc::raise(signal);
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}
