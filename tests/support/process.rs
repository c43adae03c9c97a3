//! Child processes that cannot outlive the test: killed by their own pid and reaped when dropped.
//! Never signals a process it did not start.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::GUARD;

/// The binary under test. A run that outlives the next build has a copy, which
/// `SLOTWAY_TEST_BINARY` names.
pub fn slotway_binary() -> OsString {
    std::env::var_os("SLOTWAY_TEST_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_slotway").into())
}

/// A running child, with what it has printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    /// What it printed on stdout.
    pub stdout: Lines,
    /// What it printed on stderr.
    pub stderr: Lines,
}

impl Process {
    /// Starts `command`, called `name` in messages.
    pub fn start(name: impl Into<String>, mut command: Command) -> Process {
        let name = name.into();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let stdout = Lines::collect(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Lines::collect(child.stderr.take().expect("stderr is a pipe"));
        Process {
            name,
            child,
            status: None,
            stdout,
            stderr,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("the child can be waited for");
        }
        self.status
    }

    /// Sends a signal, by its name as `kill -s` takes it.
    pub fn signal(&mut self, signal: &str) {
        // A pid that was reaped may belong to somebody else.
        assert!(self.ended().is_none(), "{} has ended already", self.name);
        send_signal(self.pid(), signal);
    }

    /// Kills it as `kill -9` does, and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.status = Some(self.child.wait().expect("the child can be waited for"));
    }

    /// Waits for its end, and for all that it has printed.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                self.stdout.wait_closed();
                self.stderr.wait_closed();
                return status;
            }
            assert!(
                start.elapsed() < GUARD,
                "{} did not end; its log:\n{}",
                self.name,
                self.stderr.text()
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Waits for a line on stdout that starts with `prefix`, and returns what follows.
    pub fn wait_line(&mut self, prefix: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(rest) = self.stdout.find(prefix) {
                return rest;
            }
            if self.ended().is_some() {
                // The line may have come together with the end.
                let status = self.wait();
                if let Some(rest) = self.stdout.find(prefix) {
                    return rest;
                }
                panic!(
                    "{} ended ({status}) before it printed '{prefix}…'; stdout:\n{}\nstderr:\n{}",
                    self.name,
                    self.stdout.text(),
                    self.stderr.text()
                );
            }
            assert!(
                start.elapsed() < GUARD,
                "{} never printed '{prefix}…'; stdout:\n{}\nstderr:\n{}",
                self.name,
                self.stdout.text(),
                self.stderr.text()
            );
            self.stdout.wait_change(Duration::from_millis(20));
        }
    }

    /// Processor time it has used, in milliseconds, all its threads together.
    pub fn cpu_ms(&self) -> u64 {
        let path = format!("/proc/{}/stat", self.pid());
        let stat = std::fs::read_to_string(&path).expect("the process lives");
        let (_, rest) = stat.rsplit_once(") ").expect("a name in brackets");
        // Fields 14 and 15 of the whole line, of which the first two are gone (proc(5)).
        let ticks: u64 = rest
            .split(' ')
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("a number of ticks"))
            .sum();
        ticks * 1000 / rustix::param::clock_ticks_per_second()
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(path).expect("the process lives").count()
    }

    /// A number of kibibytes out of `/proc/PID/status`, for example `VmRSS`.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(&path).expect("the process lives");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
            .unwrap_or_else(|| panic!("{path} has no {field}"));
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number of kB")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
        if std::thread::panicking() {
            self.stderr.wait_closed();
            eprintln!(
                "--- {} (pid {}, {}) wrote on stderr:\n{}---",
                self.name,
                self.pid(),
                self.status.map_or("?".into(), |s| s.to_string()),
                self.stderr.text()
            );
        }
    }
}

/// Sends a signal to a process that a child of this test started, by its id.
pub fn send_signal(pid: u32, signal: &str) {
    let signal = match signal {
        "KILL" => rustix::process::Signal::KILL,
        "HUP" => rustix::process::Signal::HUP,
        "TERM" => rustix::process::Signal::TERM,
        "STOP" => rustix::process::Signal::STOP,
        "CONT" => rustix::process::Signal::CONT,
        "INT" => rustix::process::Signal::INT,
        other => panic!("the tests do not send {other}"),
    };
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("a pid is not 0");
    rustix::process::kill_process(pid, signal).expect("the signal can be sent");
}

/// Whether a process with this id exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => {
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
            !matches!(state, Some(Some('Z' | 'X')))
        }
        Err(_) => false,
    }
}

/// The lines of a pipe, collected by a thread of their own so that the child never blocks.
#[derive(Clone, Debug)]
pub struct Lines(Arc<(Mutex<Collected>, Condvar)>);

#[derive(Debug, Default)]
struct Collected {
    lines: Vec<String>,
    closed: bool,
}

impl Lines {
    fn collect(pipe: impl Read + Send + 'static) -> Lines {
        let lines = Lines(Arc::new((Mutex::default(), Condvar::new())));
        let writer = lines.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end().to_string();
                line.clear();
                writer.0.0.lock().unwrap().lines.push(text);
                writer.0.1.notify_all();
            }
            writer.0.0.lock().unwrap().closed = true;
            writer.0.1.notify_all();
        });
        lines
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        let mut text = self.0.0.lock().unwrap().lines.join("\n");
        text.push('\n');
        text
    }

    /// What follows `prefix` in the first line that starts with it.
    pub fn find(&self, prefix: &str) -> Option<String> {
        let collected = self.0.0.lock().unwrap();
        let rest = collected.lines.iter().find_map(|l| l.strip_prefix(prefix));
        rest.map(str::to_string)
    }

    /// What follows `prefix` in each line that starts with it.
    pub fn find_all(&self, prefix: &str) -> Vec<String> {
        let collected = self.0.0.lock().unwrap();
        let rest = collected
            .lines
            .iter()
            .filter_map(|l| l.strip_prefix(prefix));
        rest.map(str::to_string).collect()
    }

    /// Whether any line holds this text.
    pub fn contains(&self, text: &str) -> bool {
        self.0
            .0
            .lock()
            .unwrap()
            .lines
            .iter()
            .any(|l| l.contains(text))
    }

    fn wait_change(&self, timeout: Duration) {
        let collected = self.0.0.lock().unwrap();
        drop(self.0.1.wait_timeout(collected, timeout).unwrap());
    }

    /// Waits until no process holds the pipe's other end any more. A grandchild may hold it for
    /// longer than the child lived, so not for ever.
    fn wait_closed(&self) {
        let collected = self.0.0.lock().unwrap();
        let wait = Duration::from_secs(2);
        drop(
            self.0
                .1
                .wait_timeout_while(collected, wait, |c| !c.closed)
                .unwrap(),
        );
    }
}
