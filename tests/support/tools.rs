//! Programs that are not ours. A test that needs one which is not installed says so loudly, and fails
//! where `CI=true`; it never passes in silence.

use std::io::Write;
use std::path::{Path, PathBuf};

/// Where this program is, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Whether all of these are there; if not, says that the test did not run, and what would change that.
///
/// # Panics
/// Something is missing, and `CI=true`.
pub fn are_there(test: &str, programs: &[&str], files: &[&Path], remedy: &str) -> bool {
    let programs = programs.iter().filter(|name| find(name).is_none());
    let files = files.iter().filter(|file| !file.exists());
    let missing: Vec<String> = programs
        .map(ToString::to_string)
        .chain(files.map(|file| file.display().to_string()))
        .collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join(", ");
    did_not_run(test, &format!("not installed: {missing}"), remedy);
    false
}

/// Says that the test did not run, why, and what would change that.
///
/// # Panics
/// `CI=true`.
pub fn did_not_run(test: &str, why: &str, remedy: &str) {
    let said = format!("TEST DID NOT RUN: {test}: {why}. Try: {remedy}");
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{said}"
    );
    // Not by eprintln, which is kept from whoever runs the tests where they pass.
    let _ = writeln!(std::io::stderr(), "\n{said}\n");
}
