//! The demo's stream: a tick a second while somebody listens, and a little longer, so that a client
//! that comes back finds something it has missed. Without listeners nothing runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::worker::{Connect, Event, Events, PublishError, Response, SseRoute, Target};

/// Where the stream is.
pub const PATH: &str = "/demo/ticks";

const PERIOD: Duration = Duration::from_secs(1);
/// Ticks without a listener after which there are no more.
const PATIENCE: u32 = 10;

/// The stream's route; a client that connects starts the ticks.
pub fn route(events: Events) -> SseRoute {
    let ticker = Arc::new(Ticker {
        events,
        state: Mutex::default(),
    });
    SseRoute::new()
        .replay(true)
        .on_connect(move |_: &Connect| ticker.start())
}

struct Ticker {
    events: Events,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether a thread ticks.
    running: bool,
    /// Ticks since somebody connected, or was known to listen.
    unheard: u32,
    /// The last one.
    tick: u64,
}

impl Ticker {
    fn start(self: &Arc<Self>) -> Result<(), Response> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.unheard = 0;
        if !state.running {
            let ticker = self.clone();
            let thread = std::thread::Builder::new().name("ticks".into());
            thread.spawn(move || ticker.run()).map_err(|error| {
                Response::text(format!("no thread for ticks: {error}\n")).status(503)
            })?;
            state.running = true;
        }
        Ok(())
    }

    /// Ticks until nobody has listened for a while. Who listens is what the hub says of each tick, so
    /// that listeners who went with a hub that was killed do not count for ever.
    fn run(&self) {
        let mut listeners = 1;
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.unheard >= PATIENCE {
                state.running = false;
                return;
            }
            let tick = state.tick + 1;
            let data = format!(r#"{{"tick":{tick},"listeners":{listeners}}}"#);
            let sent = self
                .events
                .try_push(Target::path(PATH), Event::new(data).event("tick"));
            if sent.is_ok() {
                state.tick = tick;
            }
            drop(state);
            match sent {
                Ok(receipt) => match receipt.wait(PERIOD) {
                    Some(delivery) => listeners = delivery.reached + delivery.dropped,
                    None if receipt.is_lost() => listeners = 0,
                    // The hub has much to do.
                    None => {}
                },
                Err(PublishError::Full) => {}
                Err(_) => listeners = 0,
            }
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.unheard = if listeners > 0 { 0 } else { state.unheard + 1 };
            drop(state);
            std::thread::sleep(PERIOD);
        }
    }
}
