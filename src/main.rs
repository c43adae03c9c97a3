//! The `slotway` binary: everything it does is in [`slotway::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    slotway::cli::main()
}
