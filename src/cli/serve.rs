//! `slotway serve`: a hub until a signal ends it.

use std::io::Write;

use crate::cli::Failure;
use crate::hub::{self, HubConfig, RunningHub};

/// Runs a hub until SIGTERM, SIGINT or, unless it is ignored, SIGHUP.
pub fn serve(config: HubConfig) -> Result<(), Failure> {
    let hub = start(config)?;
    hub.wait().map_err(Failure::failed)
}

/// Starts a hub that signals end, and says where it is.
pub fn start(config: HubConfig) -> Result<RunningHub, Failure> {
    let unix = config.unix.clone();
    let hub = hub::start(config).map_err(Failure::failed)?;
    hub.stop_on_signals().map_err(Failure::failed)?;
    let mut lines = String::new();
    for address in &hub.tcp {
        lines += &format!("listening on http://{address}\n");
    }
    for path in &unix {
        lines += &format!("listening on unix:{}\n", path.display());
    }
    lines += &format!("workers attach at {}\n", hub.socket.display());
    announce(&lines);
    Ok(hub)
}

/// Prints where a hub is. One that nobody can read serves all the same.
pub fn announce(text: &str) {
    if let Err(failure) = print(text) {
        tracing::warn!("{}; it was:\n{text}", failure.message);
    }
}

/// Prints to standard output at once, also where that is a pipe.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Failure::failed(format!("cannot write to standard output: {e}")))
}
