//! Finds out at start whether io_uring can be used, and if not, why and which command helps. Sets
//! up and drops a small ring; changes nothing.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};
use rustix::io::Errno;

/// What the kernel offers beyond a plain ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UringSupport {
    /// `IORING_SETUP_COOP_TASKRUN` (Linux 5.19): completions do not interrupt a running thread.
    pub coop_taskrun: bool,
    /// `IORING_SETUP_SINGLE_ISSUER` (Linux 6.0): the kernel may rely on one submitting thread.
    pub single_issuer: bool,
}

/// Why io_uring cannot be used. Its `Display` says what is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UringUnavailable {
    /// What stands in the way.
    pub cause: Cause,
    /// The error number the kernel gave.
    pub errno: i32,
    /// The running kernel, as `uname -r` prints it.
    pub release: String,
}

/// What stands in the way of io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The kernel is older than 5.6, or a substitute for one that lacks operations.
    KernelTooOld,
    /// The kernel is recent enough but built without `CONFIG_IO_URING`.
    NotCompiledIn,
    /// `kernel.io_uring_disabled` is 1: only for members of `kernel.io_uring_group`.
    DisabledForUnprivileged,
    /// `kernel.io_uring_disabled` is 2: for nobody.
    DisabledForAll,
    /// A seccomp filter (Docker's default profile, systemd's, a sandbox's) refuses the call.
    Seccomp,
    /// A security module (SELinux, AppArmor) or the like refuses the call.
    Forbidden,
    /// The limit on locked memory is too small (kernels before 5.12 and from 6.14 on count rings into
    /// it).
    LockedMemory,
    /// This process, or the whole system, has no descriptor left.
    Descriptors,
    /// None of these.
    Other,
}

/// Sets up a small ring, with the best flags the kernel takes, and looks whether it knows the
/// operations that a server needs.
///
/// # Errors
/// What stands in the way.
pub fn check_io_uring() -> Result<UringSupport, UringUnavailable> {
    let attempts = [(true, true), (true, false), (false, false)];
    let mut refusal = Errno::INVAL.raw_os_error();
    for (coop_taskrun, single_issuer) in attempts {
        match try_ring(coop_taskrun, single_issuer) {
            Ok(()) => {
                return Ok(UringSupport {
                    coop_taskrun,
                    single_issuer,
                });
            }
            Err(error) => {
                refusal = error.raw_os_error().unwrap_or(refusal);
                // Only an unknown flag is worth another attempt.
                if refusal != Errno::INVAL.raw_os_error() {
                    break;
                }
            }
        }
    }
    Err(classify(refusal, &Evidence::gather()))
}

fn try_ring(coop_taskrun: bool, single_issuer: bool) -> io::Result<()> {
    let mut builder = IoUring::builder();
    if coop_taskrun {
        builder.setup_coop_taskrun();
    }
    if single_issuer {
        builder.setup_single_issuer();
    }
    let ring: IoUring = builder.build(8)?;
    let mut probe = Probe::new();
    match ring.submitter().register_probe(&mut probe) {
        Ok(()) => {}
        // The probe came with the operations it is asked about (5.6).
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            return Err(Errno::NOSYS.into());
        }
        Err(error) => return Err(error),
    }
    let needed = [
        opcode::Accept::CODE,
        opcode::AsyncCancel::CODE,
        opcode::Connect::CODE,
        opcode::PollAdd::CODE,
        opcode::Read::CODE,
        opcode::Recv::CODE,
        opcode::Send::CODE,
        opcode::Timeout::CODE,
        opcode::Write::CODE,
    ];
    if needed.iter().all(|&code| probe.is_supported(code)) {
        Ok(())
    } else {
        Err(Errno::NOSYS.into())
    }
}

/// What the machine says about itself, for telling the causes of one error number apart.
#[derive(Clone, Debug, Default)]
struct Evidence {
    /// `/proc/sys/kernel/io_uring_disabled`, where there is such a file (Linux 6.6).
    io_uring_disabled: Option<u32>,
    /// The `Seccomp:` line of `/proc/self/status`: 0 none, 1 strict, 2 filter.
    seccomp_mode: Option<u32>,
    /// `uname -r`.
    release: String,
}

impl Evidence {
    fn gather() -> Self {
        let number = |text: &str| text.trim().parse().ok();
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            io_uring_disabled: number(&read("/proc/sys/kernel/io_uring_disabled")),
            seccomp_mode: read("/proc/self/status")
                .lines()
                .find_map(|line| line.strip_prefix("Seccomp:"))
                .and_then(number),
            release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
        }
    }
}

fn classify(errno: i32, evidence: &Evidence) -> UringUnavailable {
    let filtered = evidence.seccomp_mode == Some(2);
    // A release that cannot be read tells nothing; then the error number must do.
    let version = version(&evidence.release);
    let too_old = version.is_some_and(|version| version < (5, 6));
    let cause = match Errno::from_raw_os_error(errno) {
        Errno::NOSYS | Errno::INVAL if too_old => Cause::KernelTooOld,
        // Some sandboxes let forbidden calls look as if they did not exist.
        Errno::NOSYS if filtered => Cause::Seccomp,
        Errno::NOSYS if version.is_some() => Cause::NotCompiledIn,
        Errno::NOSYS | Errno::INVAL => Cause::KernelTooOld,
        Errno::PERM | Errno::ACCESS => match evidence.io_uring_disabled {
            Some(1) => Cause::DisabledForUnprivileged,
            Some(2) => Cause::DisabledForAll,
            _ if filtered => Cause::Seccomp,
            _ => Cause::Forbidden,
        },
        Errno::NOMEM => Cause::LockedMemory,
        Errno::MFILE | Errno::NFILE => Cause::Descriptors,
        _ => Cause::Other,
    };
    UringUnavailable {
        cause,
        errno,
        release: evidence.release.clone(),
    }
}

/// Major and minor version of a release such as `6.18.4-arch1`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

impl fmt::Display for UringUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = io::Error::from_raw_os_error(self.errno);
        write!(f, "io_uring cannot be used: {error}. ")?;
        let release = &self.release;
        match self.cause {
            Cause::KernelTooOld => write!(
                f,
                "The kernel ({release}) lacks io_uring or operations needed here: run Linux 5.6 or later (6.1 or later is advised). Under gVisor and the like, use a runtime with the host's kernel, for example `docker run --runtime=runc`."
            ),
            Cause::NotCompiledIn => write!(
                f,
                "The kernel ({release}) is recent enough but has no io_uring compiled in: use one built with CONFIG_IO_URING=y (check with `grep IO_URING /boot/config-{release}`)."
            ),
            Cause::DisabledForUnprivileged => f.write_str(
                "/proc/sys/kernel/io_uring_disabled is 1, which leaves io_uring to one group: allow it with `sysctl -w kernel.io_uring_disabled=0`, or run as a member of a group named by `sysctl -w kernel.io_uring_group=GID` (both as root, on the host if this is a container).",
            ),
            Cause::DisabledForAll => f.write_str(
                "/proc/sys/kernel/io_uring_disabled is 2, which forbids it to every process: allow it with `sysctl -w kernel.io_uring_disabled=0` (as root, on the host if this is a container).",
            ),
            Cause::Seccomp => f.write_str(
                "A seccomp filter of this process refuses it (Seccomp: 2 in /proc/self/status), as Docker's default profile does: start the container with `docker run --security-opt seccomp=PROFILE.json`, where the profile allows io_uring_setup, io_uring_enter and io_uring_register, or, to try it, with `--security-opt seccomp=unconfined`. For a systemd unit, add `SystemCallFilter=io_uring_setup io_uring_enter io_uring_register`.",
            ),
            Cause::Forbidden => f.write_str(
                "Neither kernel.io_uring_disabled nor a seccomp filter explains it, so a security module refuses it: look for the refusal with `ausearch -m AVC -ts recent` (SELinux) or `journalctl -k --grep=apparmor` (AppArmor), and allow io_uring for this program.",
            ),
            Cause::LockedMemory => write!(
                f,
                "Its memory cannot be had. Many kernels (this is {release}) count rings into the limit on locked memory, all processes of a user together: raise it with `ulimit -l unlimited` (LimitMEMLOCK=infinity in a systemd unit, `docker run --ulimit memlock=-1`). If that is no help, free memory or raise the memory limit of the cgroup."
            ),
            Cause::Descriptors => f.write_str(
                "No file descriptor is free: raise the limit with `ulimit -n 65536` (LimitNOFILE=65536 in a systemd unit), or fs.file-max if the whole system has run out.",
            ),
            Cause::Other => write!(
                f,
                "The cause is not a known one (error {} on kernel {release}); `dmesg` may tell more.",
                self.errno
            ),
        }
    }
}

impl std::error::Error for UringUnavailable {}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(
        errno: Errno,
        disabled: Option<u32>,
        seccomp: Option<u32>,
        release: &str,
    ) -> (Cause, String) {
        let evidence = Evidence {
            io_uring_disabled: disabled,
            seccomp_mode: seccomp,
            release: release.into(),
        };
        let unavailable = classify(errno.raw_os_error(), &evidence);
        (unavailable.cause, unavailable.to_string())
    }

    #[test]
    fn each_cause_is_told_apart_and_names_its_remedy() {
        let new = "6.18.4-arch1";
        let cases = [
            (
                Errno::NOSYS,
                None,
                Some(0),
                "4.19.0",
                Cause::KernelTooOld,
                "Linux 5.6",
            ),
            (
                Errno::NOSYS,
                None,
                Some(2),
                "5.4.0-42",
                Cause::KernelTooOld,
                "5.4.0-42",
            ),
            (
                Errno::INVAL,
                None,
                Some(0),
                "5.5.1",
                Cause::KernelTooOld,
                "Linux 5.6",
            ),
            (Errno::INVAL, None, Some(0), new, Cause::KernelTooOld, new),
            (
                Errno::NOSYS,
                None,
                None,
                "unknown",
                Cause::KernelTooOld,
                "unknown",
            ),
            (
                Errno::NOSYS,
                None,
                Some(0),
                new,
                Cause::NotCompiledIn,
                "CONFIG_IO_URING=y",
            ),
            (
                Errno::NOSYS,
                None,
                Some(2),
                new,
                Cause::Seccomp,
                "seccomp=PROFILE.json",
            ),
            (
                Errno::PERM,
                Some(0),
                Some(2),
                new,
                Cause::Seccomp,
                "--security-opt seccomp=",
            ),
            (
                Errno::ACCESS,
                None,
                Some(2),
                new,
                Cause::Seccomp,
                "io_uring_setup",
            ),
            (
                Errno::PERM,
                Some(1),
                Some(0),
                new,
                Cause::DisabledForUnprivileged,
                "sysctl -w kernel.io_uring_disabled=0",
            ),
            (
                Errno::PERM,
                Some(1),
                Some(2),
                new,
                Cause::DisabledForUnprivileged,
                "kernel.io_uring_group",
            ),
            (
                Errno::PERM,
                Some(2),
                Some(0),
                new,
                Cause::DisabledForAll,
                "sysctl -w kernel.io_uring_disabled=0",
            ),
            (
                Errno::PERM,
                Some(2),
                Some(2),
                new,
                Cause::DisabledForAll,
                "is 2",
            ),
            (
                Errno::PERM,
                Some(0),
                Some(0),
                new,
                Cause::Forbidden,
                "ausearch",
            ),
            (Errno::ACCESS, None, None, new, Cause::Forbidden, "AppArmor"),
            (
                Errno::NOMEM,
                None,
                Some(0),
                "5.10.0",
                Cause::LockedMemory,
                "ulimit -l",
            ),
            (
                Errno::MFILE,
                None,
                Some(0),
                new,
                Cause::Descriptors,
                "ulimit -n",
            ),
            (
                Errno::NFILE,
                None,
                Some(0),
                new,
                Cause::Descriptors,
                "fs.file-max",
            ),
            (Errno::IO, None, Some(0), new, Cause::Other, "error 5"),
        ];
        for (errno, disabled, seccomp, release, cause, remedy) in cases {
            let (found, text) = explain(errno, disabled, seccomp, release);
            assert_eq!(found, cause, "{errno:?} {disabled:?} {seccomp:?} {release}");
            assert!(text.contains(remedy), "{text:?} lacks {remedy:?}");
            assert!(text.starts_with("io_uring cannot be used: "), "{text}");
        }
    }

    #[test]
    fn releases_are_read_as_far_as_they_can_be() {
        assert_eq!(version("6.18.4-arch1"), Some((6, 18)));
        assert_eq!(version("5.4"), Some((5, 4)));
        assert_eq!(version("6.1-rc3"), Some((6, 1)));
        for unreadable in ["", "linux", "6", "6.", "99999999999.1"] {
            assert_eq!(version(unreadable), None, "{unreadable}");
        }
    }

    #[test]
    fn the_evidence_of_this_machine_is_found() {
        let evidence = Evidence::gather();
        assert!(version(&evidence.release).is_some(), "{evidence:?}");
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(
            evidence.seccomp_mode.is_some(),
            status.contains("\nSeccomp:")
        );
    }

    #[test]
    fn the_probe_agrees_with_a_ring_set_up_by_hand() {
        match check_io_uring() {
            Ok(support) => {
                try_ring(support.coop_taskrun, support.single_issuer).unwrap();
                assert!(support.coop_taskrun || !support.single_issuer);
            }
            Err(unavailable) => {
                let error = try_ring(false, false).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(unavailable.errno));
            }
        }
    }
}
