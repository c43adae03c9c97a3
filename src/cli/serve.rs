//! `slotway serve`: a hub until a signal ends it.

use std::io::Write;

use crate::cli::Failure;
use crate::hub::{self, HubConfig, RunningHub};

/// Runs a hub until SIGTERM or SIGINT.
pub fn serve(config: HubConfig) -> Result<(), Failure> {
    let hub = start(config)?;
    hub.wait().map_err(Failure::failed)
}

/// Starts a hub that signals end, and says where it is.
pub fn start(config: HubConfig) -> Result<RunningHub, Failure> {
    let unix = config.unix.clone();
    let hub = hub::start(config).map_err(Failure::failed)?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        let stopper = hub.stopper().map_err(Failure::failed)?;
        signal_hook::low_level::pipe::register(signal, stopper).map_err(Failure::failed)?;
    }
    let mut lines = String::new();
    for address in &hub.tcp {
        lines += &format!("listening on http://{address}\n");
    }
    for path in &unix {
        lines += &format!("listening on unix:{}\n", path.display());
    }
    lines += &format!("workers attach at {}\n", hub.socket.display());
    // Nobody may be there to read it, or the disk may be full: no reason not to serve.
    if let Err(failure) = print(&lines) {
        tracing::warn!("{}; serving all the same:\n{lines}", failure.message);
    }
    Ok(hub)
}

/// Prints to standard output at once, also where that is a pipe.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Failure::failed(format!("cannot write to standard output: {e}")))
}
