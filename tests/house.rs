//! The rules of the house that a compiler does not check: which floor may import which, where unsafe
//! code may stand, and how long a file may grow.

use std::fs;
use std::path::{Path, PathBuf};

/// What each part of `src` may import, beside itself. `docs/ARCHITECTURE.md` draws the floors.
const FLOORS: [(&str, &[&str]); 16] = [
    ("limits", &[]),
    ("brake", &["limits"]),
    ("quote", &["limits"]),
    ("message", &["limits"]),
    ("route", &["limits", "message"]),
    ("sys", &[]),
    ("sse", &["limits"]),
    ("urlencoded", &[]),
    ("http", &["limits", "message"]),
    ("shm", &["limits", "message", "sys"]),
    (
        "control",
        &["limits", "message", "quote", "route", "sse", "sys"],
    ),
    (
        "worker",
        &[
            "control",
            "limits",
            "message",
            "route",
            "shm",
            "sse",
            "sys",
            "urlencoded",
        ],
    ),
    (
        "gateway",
        &[
            "brake",
            "control",
            "http",
            "limits",
            "message",
            "quote",
            "route",
            "shm",
            "sse",
            "sys",
            "urlencoded",
        ],
    ),
    (
        "hub",
        &[
            "brake",
            "control",
            "gateway",
            "http",
            "limits",
            "message",
            "quote",
            "route",
            "shm",
            "sse",
            "sys",
            "urlencoded",
        ],
    ),
    (
        "cli",
        &[
            "control", "hub", "limits", "message", "shm", "sse", "worker",
        ],
    ),
    // For tests, on every floor.
    ("corpus", &[]),
];

/// Lines of code, without tests, at which a file has more than one job.
const LONGEST: usize = 500;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Each source file: its path below `src`, and its text without the tests at its end.
fn files() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    assert!(paths.len() > 50, "the sources were not found");
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let name = path.strip_prefix(&src).unwrap().display().to_string();
        (name, code.to_owned())
    };
    paths.iter().map(read).collect()
}

fn is_test(name: &str) -> bool {
    name.contains("tests")
}

#[test]
fn lower_floors_never_import_higher_ones() {
    for (name, code) in files() {
        let part = name.split(['/', '.']).next().unwrap();
        if is_test(&name) || matches!(part, "lib" | "main") {
            continue;
        }
        let (_, allowed) = FLOORS
            .iter()
            .find(|(floor, _)| *floor == part)
            .unwrap_or_else(|| panic!("{name} is on no floor: add it to the table"));
        let code_lines = code.lines().filter(|l| !l.trim_start().starts_with("//"));
        for line in code_lines {
            for import in line.split("crate::").skip(1) {
                let end = import.find(|c: char| !c.is_alphanumeric() && c != '_');
                let import = &import[..end.unwrap_or(import.len())];
                assert!(
                    import == part || import == "corpus" || allowed.contains(&import),
                    "src/{name} imports {import}, which is not below it: {line}"
                );
            }
        }
    }
}

#[test]
fn unsafe_code_stands_where_it_is_expected() {
    for (name, code) in files() {
        let expected = name.starts_with("sys/")
            || name.starts_with("shm/")
            || name == "gateway/buffers.rs"
            || is_test(&name);
        let found = code
            .lines()
            .find(|l| l.contains("unsafe ") && !l.trim_start().starts_with("//"));
        assert!(expected || found.is_none(), "src/{name}: {found:?}");
    }
}

#[test]
fn every_file_says_what_it_is_for_and_has_one_job() {
    for (name, code) in files() {
        assert!(
            code.starts_with("//! "),
            "src/{name} does not begin with what it is for"
        );
        let lines = code.lines().count();
        assert!(
            is_test(&name) || lines <= LONGEST,
            "src/{name} has {lines} lines: is it still one job?"
        );
    }
}
