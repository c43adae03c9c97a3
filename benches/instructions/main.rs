//! Instructions per turn of the hot paths, counted by callgrind, so that a change shows even where
//! wall time is noise. Fails where a path takes more than it may by `benches/instructions.toml`; never
//! writes that file unless told to by `--update`.

#[path = "../samples/browser.rs"]
mod browser;
#[path = "../samples/heads.rs"]
mod heads;
mod hub_path;
mod limits;
mod paths;
#[path = "../samples/routes.rs"]
mod routes;

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use limits::{Limits, compiler};

/// Turns before counting: what grows once has grown, what is looked up lazily is known.
const WARM_UP: u32 = 64;
/// Turns that are counted. A power of two, as are the rings, so that what happens once a round of a
/// ring is spread evenly.
const TURNS: u32 = 1024;
/// Says which path the process is to run, as the child of another that counts.
const PATH: &str = "SLOTWAY_COUNTED_PATH";

fn main() -> ExitCode {
    if let Ok(name) = env::var(PATH) {
        run(&name, TURNS);
        return ExitCode::SUCCESS;
    }
    let args: Vec<String> = env::args().skip(1).collect();
    let result = if !args.iter().any(|arg| arg == "--bench") {
        // As a test: each path works, and each has a limit.
        paths::names().iter().for_each(|name| run(name, 1));
        Limits::read().and_then(|limits| limits.check_names(&paths::names()))
    } else if args.iter().any(|arg| arg == "--update") {
        count_all().and_then(|counts| Limits::write(&counts))
    } else if Command::new("valgrind").arg("--version").output().is_err() {
        missing_valgrind()
    } else {
        Limits::read().and_then(|limits| limits.check(&count_all()?))
    };
    match result {
        // One of all benches, which criterion compares with what the caller has chosen. A failure here
        // would keep cargo from those that follow.
        Err(wrong) if args.iter().any(|arg| arg.contains("baseline")) => {
            println!("{wrong}\n`cargo bench --bench instructions` alone makes that a failure");
            ExitCode::SUCCESS
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("{wrong}");
            ExitCode::FAILURE
        }
    }
}

/// As the tests do where a program is not installed: loud, and a failure where `CI=true`.
fn missing_valgrind() -> Result<(), String> {
    let said =
        "BENCH DID NOT RUN: instructions: not installed: valgrind. Try: apt-get install valgrind";
    if env::var_os("CI").is_some_and(|ci| ci == "true") {
        return Err(said.into());
    }
    eprintln!("\n{said}\n");
    Ok(())
}

fn run(name: &str, turns: u32) {
    let mut turn = paths::path(name);
    (0..WARM_UP).for_each(|_| turn(false));
    (0..turns).for_each(|_| turn(true));
}

/// Counts every path in a process of its own.
fn count_all() -> Result<Vec<(&'static str, u64)>, String> {
    println!("instructions per turn ({})", compiler());
    let counts = paths::names();
    let counts = counts.iter().map(|name| count(name).map(|n| (*name, n)));
    counts.collect()
}

fn count(name: &str) -> Result<u64, String> {
    let own = env::current_exe().map_err(|e| format!("the bench does not know its binary: {e}"))?;
    let file = format!("slotway-callgrind-{}-{name}", std::process::id());
    let file = env::temp_dir().join(file);
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*counted_part*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(own)
        .env(PATH, name)
        .output();
    let run = run.map_err(|e| format!("cannot start valgrind: {e}"))?;
    if !run.status.success() {
        let log = String::from_utf8_lossy(&run.stderr);
        return Err(format!("{name}: valgrind ended ({}):\n{log}", run.status));
    }
    let total = total(&file);
    let _ = std::fs::remove_file(&file);
    let turns = u64::from(TURNS);
    total.map(|total| (total + turns / 2) / turns)
}

/// The number of instructions in a file of callgrind's.
fn total(file: &Path) -> Result<u64, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("totals:"));
    let total = line.and_then(|number| number.trim().parse().ok());
    match total {
        None => Err(format!("{} has no line 'totals: N'", file.display())),
        Some(0) => Err("nothing was counted: callgrind did not find `counted_part`".into()),
        Some(total) => Ok(total),
    }
}
