//! One thread of a child process, stopped and stepped instruction by instruction. Never touches a
//! process that the test did not start, and never changes what the thread does.

use std::io;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use rustix::process::{Pid, setpriority_process};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

/// A stopped thread. Traced by the thread that attached, so it stays with that one.
#[derive(Debug)]
pub struct Tracee {
    tid: libc::pid_t,
    /// A signal that came on the way and is delivered with the next step.
    signal: libc::c_int,
    /// Whether it is still busy with its last step.
    busy: bool,
    gone: bool,
    not_send: PhantomData<*const ()>,
}

/// What a step has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One instruction was executed, and the thread is stopped again.
    Done,
    /// The thread waits for something in the kernel, and has for the time that was given.
    Asleep,
    /// The thread is no more.
    Gone,
}

impl Tracee {
    /// Stops a thread of a child.
    ///
    /// # Errors
    /// The system's: `EPERM` where another traces it, or a policy forbids.
    pub fn stop(tid: u32) -> io::Result<Tracee> {
        let mut tracee = Tracee {
            tid: tid as libc::pid_t,
            signal: 0,
            busy: true,
            gone: false,
            not_send: PhantomData,
        };
        // A test that panics must not leave a stopped child behind that nobody can kill.
        tracee.request(libc::PTRACE_SEIZE, libc::PTRACE_O_EXITKILL)?;
        tracee.request(libc::PTRACE_INTERRUPT, 0)?;
        match tracee.wait(super::GUARD)? {
            Step::Done => {}
            other => return Err(io::Error::other(format!("it did not stop: {other:?}"))),
        }
        tracee.share_processor()?;
        Ok(tracee)
    }

    /// Has both threads run on the processor this one is on: a step is then a switch between two
    /// threads, and not a call from one processor to another.
    fn share_processor(&self) -> io::Result<()> {
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        let thread = Pid::from_raw(self.tid);
        sched_setaffinity(thread, &here)?;
        sched_setaffinity(None, &here)?;
        // On a busy machine others would be let in at every step. Only root may ask for more than
        // patience.
        for thread in [thread, None] {
            let _ = setpriority_process(thread, -10);
        }
        Ok(())
    }

    /// Executes one instruction. A system call is one; where it sleeps for longer than `patience`, the
    /// thread is left there, and the next call waits for it again.
    ///
    /// # Errors
    /// The system's.
    pub fn step(&mut self, patience: Duration) -> io::Result<Step> {
        let mut may_sleep = true;
        if !self.busy {
            may_sleep = self.is_before_a_system_call()?;
            let signal = std::mem::take(&mut self.signal);
            self.request(libc::PTRACE_SINGLESTEP, signal)?;
            self.busy = true;
        }
        match may_sleep {
            true => self.wait(patience),
            false => self.wait_for_ever(),
        }
    }

    /// Kills the process, as `kill -9` does, and waits until this thread of it is gone: before that,
    /// nobody else is told of the end.
    ///
    /// # Panics
    /// It does not end.
    pub fn kill(mut self, process: u32) {
        super::process::send_signal(process, "KILL");
        self.busy = true;
        super::wait_until("the thread ends", || {
            let step = self.wait(Duration::ZERO);
            step.expect("the thread can be waited for") == Step::Gone
        });
    }

    /// Waits for a step that cannot take long.
    fn wait_for_ever(&mut self) -> io::Result<Step> {
        let step = self.look(0)?;
        step.ok_or_else(|| io::Error::other("a blocking wait returned with nothing"))
    }

    fn wait(&mut self, patience: Duration) -> io::Result<Step> {
        let began = Instant::now();
        loop {
            if let Some(step) = self.look(libc::WNOHANG)? {
                return Ok(step);
            }
            if began.elapsed() > patience && self.sleeps() {
                return Ok(Step::Asleep);
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// What has become of the thread; `None` where it is still busy.
    fn look(&mut self, flags: libc::c_int) -> io::Result<Option<Step>> {
        let mut status = 0;
        // SAFETY: `status` is a place for the status; the call touches nothing else of ours.
        let found = unsafe { libc::waitpid(self.tid, &mut status, libc::__WALL | flags) };
        match found {
            -1 if errno() == libc::ECHILD => {}
            -1 => return Err(io::Error::last_os_error()),
            0 => return Ok(None),
            _ if libc::WIFSTOPPED(status) => {
                self.busy = false;
                let signal = libc::WSTOPSIG(status);
                // An interruption that was asked for is no signal; a real one is passed on.
                if signal != libc::SIGTRAP && status >> 16 == 0 {
                    self.signal = signal;
                }
                return Ok(Some(Step::Done));
            }
            _ => {}
        }
        self.gone = true;
        Ok(Some(Step::Gone))
    }

    /// Whether the next instruction enters the kernel.
    fn is_before_a_system_call(&self) -> io::Result<bool> {
        const RIP: usize = std::mem::offset_of!(libc::user_regs_struct, rip);
        // `0f 05`.
        const SYSCALL: u16 = 0x050f;
        let at = self.peek(libc::PTRACE_PEEKUSER, RIP)?;
        Ok(self.peek(libc::PTRACE_PEEKTEXT, at)? as u16 == SYSCALL)
    }

    fn peek(&self, request: libc::c_uint, at: usize) -> io::Result<usize> {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: both requests read a word of the other process; the address is one of its own, or
        // of its registers, and nothing of this process is touched but `errno`.
        let word = unsafe {
            *libc::__errno_location() = 0;
            libc::ptrace(request, self.tid, at as *mut libc::c_void, null)
        };
        match (word, errno()) {
            (-1, error @ 1..) => Err(io::Error::from_raw_os_error(error)),
            _ => Ok(word as usize),
        }
    }

    /// Whether it waits in the kernel, and not just for a processor.
    fn sleeps(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.tid));
        let state = stat.ok().and_then(|stat| {
            let (_, rest) = stat.rsplit_once(") ")?;
            rest.chars().next()
        });
        !matches!(state, Some('R' | 'D' | 't'))
    }

    fn request(&self, request: libc::c_uint, data: libc::c_int) -> io::Result<()> {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: the requests used here take a number as data and no address of ours, and change no
        // memory of this process.
        let result =
            unsafe { libc::ptrace(request, self.tid, null, data as usize as *mut libc::c_void) };
        match result {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = setpriority_process(None, 0);
        // A test that fails must be able to wait for the end of its child.
        if !self.gone {
            if self.busy {
                let _ = self.request(libc::PTRACE_INTERRUPT, 0);
                let _ = self.wait(super::GUARD);
            }
            let _ = self.request(libc::PTRACE_DETACH, 0);
        }
    }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// The thread of a process with this name (its first 15 bytes), once there is one.
///
/// # Panics
/// There is none.
pub fn thread_named(pid: u32, name: &str) -> u32 {
    let mut found = None;
    super::wait_until(&format!("a thread '{name}' of process {pid}"), || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
        found = threads.flatten().find_map(|entry| {
            let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            let matches = comm.trim_end() == &name[..name.len().min(15)];
            matches.then(|| entry.file_name().to_str()?.parse().ok())?
        });
        found.is_some()
    });
    found.expect("just seen")
}
