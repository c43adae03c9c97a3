//! A worker with a stream. Run the hub with `slotway serve`, this with
//! `cargo run --example ticker_worker`, and listen: `curl -N localhost:3200/ticks/2`.

use std::time::Duration;

use slotway::worker::{Connect, Disconnect, Error, Event, Response, SseRoute, Target, Worker};

fn main() -> Result<(), Error> {
    let every = SseRoute::new()
        .replay(true)
        .on_connect(|c: &Connect| match c.param("seconds").as_deref() {
            Some("1" | "2" | "5") => Ok(()),
            _ => Err(Response::text("only every 1, 2 or 5 seconds\n").status(404)),
        })
        .on_disconnect(|d: &Disconnect| println!("{} left after {:?}", d.path(), d.lasted()));
    let worker = Worker::new("ticker").sse_route("/ticks/{seconds}", every);
    let events = worker.events();
    std::thread::spawn(move || {
        for tick in 1u64.. {
            std::thread::sleep(Duration::from_secs(1));
            for seconds in [1, 2, 5].into_iter().filter(|s| tick.is_multiple_of(*s)) {
                let target = Target::path(format!("/ticks/{seconds}"));
                events.push(target, Event::new(tick.to_string()).event("tick"))?;
            }
        }
        Ok::<_, slotway::worker::PublishError>(())
    });
    worker.run()
}
