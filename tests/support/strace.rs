//! System calls that fail: a running hub, or one that starts, with strace beside it making them fail.
//! Only processes of the test are traced, and a hub that is let go of goes on as if nothing had been.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::hub::{Hub, HubOptions};
use super::process::Process;
use super::scratch::ScratchDir;
use super::{tools, wait_until};

/// Whether strace is there; see [`tools::are_there`].
pub fn is_there(test: &str) -> bool {
    tools::are_there(test, &["strace"], &[], "apt-get install strace")
}

/// Starts a hub of one shard in whose threads `inject` fails, as strace's `-e inject=` takes it. The
/// process is the hub; strace runs beside it.
pub fn start_hub_with(dir: &ScratchDir, inject: &str) -> Process {
    let mut strace: Vec<OsString> = ["strace", "-D", "-f", "-qq", "-o"].map(Into::into).to_vec();
    strace.push(dir.path().join("strace.log").into());
    strace.extend(rule(inject).into_iter().map(Into::into));
    HubOptions::new()
        .args(["--shards", "1"])
        .under(strace)
        .spawn(dir)
}

/// A system call that fails in one thread of a hub for as long as this exists.
#[derive(Debug)]
pub struct Fault {
    strace: Process,
    log: PathBuf,
    hub: u32,
}

impl Fault {
    /// Lets `inject` (as in `accept4:error=EMFILE`) fail in the hub's thread of this name.
    ///
    /// # Panics
    /// strace may not trace the hub.
    pub fn new(hub: &Hub, thread: &str, inject: &str) -> Fault {
        let pid = hub.process.pid();
        let tid = thread_id(pid, thread);
        let name = format!("strace-{}.log", inject.replace([':', '='], "-"));
        let log = hub.dir.path().join(name);
        let mut command = Command::new("strace");
        command.args(["-qq", "-p", &tid.to_string(), "-o"]);
        command.arg(&log).args(rule(inject));
        let mut strace = Process::start("strace", command);
        wait_until("strace has attached", || {
            if strace.ended().is_some() {
                let status = strace.wait();
                panic!(
                    "strace cannot trace the hub ({status}): {}Run the tests as root, or with `sysctl -w kernel.yama.ptrace_scope=0`.",
                    strace.stderr.text()
                );
            }
            tracer(pid, tid) == strace.pid()
        });
        Fault {
            strace,
            log,
            hub: pid,
        }
    }

    /// How often the call has failed.
    pub fn count(&self) -> usize {
        failures(&self.log)
    }

    /// Waits until the call has failed so often.
    pub fn wait(&self, count: usize) {
        wait_until(&format!("a call fails {count} times"), || {
            self.count() >= count
        });
    }

    /// The call works again. Returns how often it has failed.
    pub fn end(mut self) -> usize {
        self.strace.signal("INT");
        self.strace.wait();
        wait_until("strace has let go of the hub", || {
            thread_ids(self.hub)
                .into_iter()
                .all(|tid| tracer(self.hub, tid) == 0)
        });
        failures(&self.log)
    }
}

fn failures(log: &Path) -> usize {
    let log = std::fs::read_to_string(log).unwrap_or_default();
    log.matches("(INJECTED)").count()
}

fn rule(inject: &str) -> Vec<String> {
    let (call, _) = inject.split_once(':').expect("CALL:WHAT");
    let trace = format!("trace={call}");
    ["-e", &trace, "-e", &format!("inject={inject}")]
        .map(String::from)
        .to_vec()
}

fn thread_ids(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the hub lives");
    tasks
        .map(|task| task.unwrap().file_name().to_string_lossy().parse().unwrap())
        .collect()
}

/// The thread of this name. A thread takes its name only when it runs.
fn thread_id(pid: u32, name: &str) -> u32 {
    let named = |tid: &u32| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm"));
        comm.is_ok_and(|comm| comm.trim_end() == name)
    };
    let mut found = None;
    wait_until(&format!("the hub has a thread '{name}'"), || {
        found = thread_ids(pid).into_iter().find(named);
        found.is_some()
    });
    found.expect("it was found")
}

/// Who traces a thread; zero: nobody.
fn tracer(pid: u32, tid: u32) -> u32 {
    let path = format!("/proc/{pid}/task/{tid}/status");
    let status = std::fs::read_to_string(path).expect("the hub lives");
    let line = status.lines().find_map(|l| l.strip_prefix("TracerPid:"));
    line.expect("a tracer")
        .trim()
        .parse()
        .expect("a process id")
}
