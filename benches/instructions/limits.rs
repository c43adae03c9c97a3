//! The committed numbers of instructions, and how far above them a path may be. Counts nothing.

use std::path::PathBuf;
use std::process::Command;

/// Percent that a path may take more than its number: room for what a compiler's patch release
/// changes, not for a feature.
const TOLERANCE: f64 = 3.0;
/// What begins the line that names the compiler.
const COMPILER: &str = "# Compiler: ";
const HEAD: &str = "\
# Instructions per turn of each path, as `cargo bench --bench instructions` counts them. It fails where
# one takes over 3 % more. Where that is meant, `cargo bench --bench instructions -- --update` writes
# this file anew; the commit says why.
";

/// The file, read.
pub struct Limits {
    counts: Vec<(String, u64)>,
    compiler: String,
}

fn file() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/benches/instructions.toml"
    ))
}

/// What `rustc --version` says, and for which processor: other ones have other copies of `memcpy`.
pub fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output();
    let said = said.map_or(String::from("unknown"), |o| {
        String::from_utf8_lossy(&o.stdout).trim().into()
    });
    format!("{said}, {}", std::env::consts::ARCH)
}

impl Limits {
    /// Reads the committed numbers.
    pub fn read() -> Result<Limits, String> {
        let path = file();
        let text = std::fs::read_to_string(&path)
            .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let mut limits = Limits {
            counts: Vec::new(),
            compiler: String::new(),
        };
        for (index, line) in text.lines().enumerate() {
            if let Some(compiler) = line.strip_prefix(COMPILER) {
                limits.compiler = compiler.into();
            } else if !line.is_empty() && !line.starts_with('#') {
                let pair = line.split_once(" = ");
                let pair = pair.and_then(|(name, n)| Some((name.into(), n.parse().ok()?)));
                let wrong = || format!("{}:{}: not 'name = number'", path.display(), index + 1);
                limits.counts.push(pair.ok_or_else(wrong)?);
            }
        }
        Ok(limits)
    }

    /// Writes these numbers in place of the committed ones.
    pub fn write(counts: &[(&str, u64)]) -> Result<(), String> {
        let mut text = format!("{HEAD}{COMPILER}{}\n", compiler());
        for (name, count) in counts {
            println!("{name:<28}{count:>8}");
            text += &format!("{name} = {count}\n");
        }
        let path = file();
        std::fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
    }

    /// Whether there is a number for each of these paths, and no other.
    pub fn check_names(&self, names: &[&str]) -> Result<(), String> {
        let known: Vec<&str> = self.counts.iter().map(|(name, _)| name.as_str()).collect();
        if known == names {
            return Ok(());
        }
        Err(format!(
            "benches/instructions.toml has {known:?}, the bench {names:?}: \
             run `cargo bench --bench instructions -- --update`"
        ))
    }

    /// Compares what was counted.
    pub fn check(&self, counts: &[(&str, u64)]) -> Result<(), String> {
        let names: Vec<&str> = counts.iter().map(|(name, _)| *name).collect();
        self.check_names(&names)?;
        let (mut above, mut below) = (Vec::new(), false);
        println!("{:<28}{:>8}{:>8}{:>9}", "", "limit", "now", "change");
        for ((name, now), (_, before)) in counts.iter().zip(&self.counts) {
            let change = (*now as f64 / *before as f64 - 1.0) * 100.0;
            println!("{name:<28}{before:>8}{now:>8}{change:>+8.1}%");
            if change > TOLERANCE {
                above.push(*name);
            }
            below |= change < -TOLERANCE;
        }
        if below {
            println!("Something takes less than it did. To hold on to that: {UPDATE}");
        }
        if above.is_empty() {
            return Ok(());
        }
        let mut wrong = format!(
            "more than {TOLERANCE} % above benches/instructions.toml: {}. Find what costs it (`valgrind \
             --tool=callgrind` and `callgrind_annotate` show it by line). If it is worth it: {UPDATE}",
            above.join(", ")
        );
        if self.compiler != compiler() {
            wrong += &format!(
                "\nThe limits were counted with another compiler ({}; now {}). See whether the commit \
                 before the change takes as many instructions.",
                self.compiler,
                compiler()
            );
        }
        Err(wrong)
    }
}

const UPDATE: &str = "`cargo bench --bench instructions -- --update` writes the file anew, and the \
                      commit says why.";
