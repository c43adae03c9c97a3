//! The command line: what is asked for, checked, and handed to the part that does it.

mod args;
mod client_args;
mod demo;
mod serve;
mod status;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::Parser;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::cli::args::{Cli, Command};

/// Lines of the log that may wait to be written.
const LOG_LINES: usize = 4096;
/// How long the end of the process waits for them to be written.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs the command that the process was started with. Exit code 0: done; 1: it failed, and the
/// reason was printed; 2: it was asked for wrongly.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let (log, guard) = log_writer();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_writer(log)
        // It would complain on the very stream that could not be written to, and a log that nobody
        // can read, on a full disk or in a broken pipe, must not end a thread that serves.
        .log_internal_errors(false)
        .init();
    let result = match cli.command {
        Command::Serve(args) => args.config().and_then(serve::serve),
        Command::Demo(args) => args.config().and_then(demo::demo),
        Command::DemoWorker(args) => demo::worker(&args),
        Command::Status(args) => status::status(&args),
    };
    let code = result.as_ref().err().map_or(0, |failure| failure.code);
    last_words(guard, result.err());
    ExitCode::from(code)
}

/// Writes what is left of the log, and why the command failed, but does not wait for ever for somebody to
/// read it.
fn last_words(guard: Option<WorkerGuard>, failure: Option<Failure>) {
    let (written, all) = mpsc::channel();
    let last = failure.clone();
    let spawned = std::thread::Builder::new().spawn(move || {
        drop(guard);
        last.iter().for_each(complain);
        let _ = written.send(());
    });
    match spawned {
        Ok(_) => drop(all.recv_timeout(LAST_WORDS)),
        // Threads may be what is missing.
        Err(_) => failure.iter().for_each(complain),
    }
}

fn complain(failure: &Failure) {
    // Not by eprintln, which panics where nobody can read it.
    let _ = writeln!(std::io::stderr(), "slotway: {}", failure.message);
}

/// Where the log is written: by a thread of its own, so that nobody who serves waits for who reads it.
/// Lines that nobody takes are lost. The second is to be kept until the end.
fn log_writer() -> (BoxMakeWriter, Option<WorkerGuard>) {
    // It would panic without a thread, of which there are none left where the hub cannot start either.
    if std::thread::Builder::new().spawn(|| {}).is_err() {
        return (BoxMakeWriter::new(std::io::stderr), None);
    }
    let (log, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    (BoxMakeWriter::new(log), Some(guard))
}

/// Why a command failed.
#[derive(Clone, Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// It was asked for wrongly.
    fn usage(message: impl Into<String>) -> Failure {
        Failure {
            code: 2,
            message: message.into(),
        }
    }

    /// It could not be done.
    fn failed(message: impl std::fmt::Display) -> Failure {
        Failure {
            code: 1,
            message: message.to_string(),
        }
    }
}
