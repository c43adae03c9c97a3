//! Replays a committed fuzz corpus in an ordinary test, so that what a fuzz target once reached stays
//! covered where nobody fuzzes. Never part of a normal build.

use std::fs;
use std::path::Path;

/// Runs `check` on every file of `fuzz/corpus/TARGET`. The file at fault is the last one printed.
pub fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{} has lost its seeds", folder.display());
    // Miri is slow: of many files it is shown some.
    let step = if cfg!(miri) {
        files.len().div_ceil(32)
    } else {
        1
    };
    println!("one in {step} of {} files", files.len());
    for file in files.into_iter().step_by(step) {
        println!("{}", file.display());
        check(&fs::read(&file).unwrap());
    }
}
