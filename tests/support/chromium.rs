//! Chromium without a window, driven over two pipes by the DevTools protocol. It sees no network but
//! loopback, and keeps its profile in a directory that goes with the test.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use simd_json::OwnedValue;
use simd_json::json;
use simd_json::prelude::*;

use super::GUARD;
use super::process::Process;
use super::scratch::ScratchDir;

/// The program.
pub const CHROMIUM: &str = "chromium";

/// Written for the shell, which can give a child the descriptors that the protocol is spoken on. Host
/// names lead nowhere, not even through a proxy of the environment.
const START: &str = "exec chromium --headless --remote-debugging-pipe --user-data-dir=profile \
    --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --no-default-browser-check \
    --disable-background-networking --disable-component-update --disable-sync \
    --disable-default-apps --disable-extensions --disable-domain-reliability --no-proxy-server \
    --host-resolver-rules='MAP * ~NOTFOUND, EXCLUDE 127.0.0.1' --log-level=3 \
    about:blank 3<commands 4>messages";

/// A running browser with one page. Ended with the test.
pub struct Browser {
    process: Process,
    commands: File,
    messages: Receiver<OwnedValue>,
    /// What the browser said without having been asked.
    pub events: Vec<OwnedValue>,
    /// Names the page, once there is one.
    session: Option<String>,
    last_id: u64,
    _dir: ScratchDir,
}

impl Browser {
    /// Starts it, with an empty page.
    pub fn start() -> Browser {
        let dir = ScratchDir::new();
        for pipe in ["commands", "messages"] {
            let path = dir.path().join(pipe);
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, &path, FileType::Fifo, mode, 0).expect("a pipe can be made");
        }
        let mut command = Command::new("sh");
        command.args(["-c", START]).current_dir(dir.path());
        // Chromium's own files, and nothing of the user's.
        command.env("HOME", dir.path()).env("TMPDIR", dir.path());
        for name in [
            "XDG_CONFIG_HOME",
            "XDG_CACHE_HOME",
            "DBUS_SESSION_BUS_ADDRESS",
        ] {
            command.env_remove(name);
        }
        let process = Process::start("chromium", command);
        // Each open waits for the shell to open the other end.
        let commands = OpenOptions::new()
            .write(true)
            .open(dir.path().join("commands"))
            .expect("the pipe of commands");
        let messages = listen(&dir.path().join("messages"));
        let mut browser = Browser {
            process,
            commands,
            messages,
            events: Vec::new(),
            session: None,
            last_id: 0,
            _dir: dir,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let target = target.get_str("targetId").expect("a page").to_string();
        let attached = browser.call(
            "Target.attachToTarget",
            json!({"targetId": target, "flatten": true}),
        );
        browser.session = attached.get_str("sessionId").map(str::to_string);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Has every page run this script before its own.
    pub fn before_each_page(&mut self, script: &str) {
        let params = json!({"source": script});
        self.call("Page.addScriptToEvaluateOnNewDocument", params);
    }

    /// Opens a page.
    pub fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url}));
        assert_eq!(opened.get_str("errorText"), None, "{url} does not open");
    }

    /// The value of an expression in the page.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> OwnedValue {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", params);
        let thrown = answer.get("exceptionDetails");
        assert!(thrown.is_none(), "{expression} throws {thrown:?}");
        let value = answer.get("result").and_then(|result| result.get("value"));
        value.cloned().unwrap_or(OwnedValue::null())
    }

    /// The text of the element with this id.
    #[track_caller]
    pub fn text(&mut self, id: &str) -> String {
        let value = self.value(&format!("document.getElementById('{id}').textContent"));
        value.as_str().expect("a text").to_string()
    }

    /// Waits until an expression in the page is true.
    #[track_caller]
    pub fn wait(&mut self, what: &str, expression: &str) {
        let start = Instant::now();
        while self.value(expression).as_bool() != Some(true) {
            if start.elapsed() > GUARD {
                let page = self.value("document.body.innerText");
                panic!("waited {GUARD:?} in vain: {what}; the page says:\n{page}");
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Asks the browser for something, and waits for the answer.
    #[track_caller]
    fn call(&mut self, method: &str, params: OwnedValue) -> OwnedValue {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message.insert("sessionId", session.clone()).unwrap();
        }
        let mut bytes = message.encode().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).expect("chromium listens");
        let start = Instant::now();
        loop {
            let left = GUARD.saturating_sub(start.elapsed());
            match self.messages.recv_timeout(left) {
                Ok(mut answer) if answer.get_u64("id") == Some(id) => {
                    let error = answer.get("error");
                    assert!(error.is_none(), "{method} {params}: {error:?}");
                    return answer.remove("result").unwrap().expect("a result");
                }
                Ok(event) => self.events.push(event),
                Err(RecvTimeoutError::Timeout) => panic!("{method}: no answer in {GUARD:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("{method}: chromium has ended"),
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Killed it would leave its helper processes a moment longer. Asked to close, it ends them.
        let close = json!({"id": 0, "method": "Browser.close"}).encode();
        let asked = self.commands.write_all(close.as_bytes());
        if asked.and_then(|()| self.commands.write_all(b"\0")).is_err() {
            return;
        }
        let start = Instant::now();
        while self.process.ended().is_none() && start.elapsed() < GUARD / 3 {
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
    }
}

/// The messages of the browser, each ended by a NUL.
fn listen(pipe: &Path) -> Receiver<OwnedValue> {
    let file = File::open(pipe).expect("the pipe of messages");
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(file);
        let mut message = Vec::new();
        while let Ok(1..) = reader.read_until(0, &mut message) {
            message.pop();
            if sender.send(super::json(&message)).is_err() {
                return;
            }
            message.clear();
        }
    });
    receiver
}
