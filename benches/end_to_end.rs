//! A request's whole way, from a client's socket through a hub and a worker, each a process of its own,
//! and back. The floor is a server on io_uring that answers by itself (`bare`): what lies between the
//! two is the price of a second process, and of being careful.

#[path = "load/bare.rs"]
mod bare;
#[path = "load/client.rs"]
mod client;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group};

use client::{Load, request};
use support::Hub;

/// What is asked: a path, and the bytes of body that come back.
const CASES: [(&str, &str, usize); 3] = [
    ("hello", "/hello", 0),
    ("echo_16_kib", "/echo", 16 << 10),
    ("echo_1_mib", "/echo", 1 << 20),
];
const HELLO: usize = b"Hello, World!".len();

/// So many requests, on all connections at once; each sends its next when it has its answer.
fn closed_loop(load: &mut Load, requests: u64) -> std::io::Result<Duration> {
    let mut finished = Vec::new();
    let start = Instant::now();
    let mut begun = requests.min(load.connections() as u64);
    (0..begun as usize).try_for_each(|connection| load.begin(connection))?;
    let mut open = begun;
    while open > 0 {
        let moves = load.wait(Some(support::GUARD), &mut finished)?;
        assert!(moves, "{open} answers did not come");
        for connection in finished.drain(..) {
            if begun < requests {
                load.begin(connection)?;
                begun += 1;
            } else {
                open -= 1;
            }
        }
    }
    Ok(start.elapsed())
}

fn end_to_end(c: &mut Criterion) {
    let (hub, _worker) = Hub::with_worker();
    let (_bare, bare) = bare::start();
    for (name, path, body) in CASES {
        for connections in [1, 64] {
            let mut group = c.benchmark_group(format!("end_to_end/{name}/{connections}"));
            group
                .throughput(Throughput::ElementsAndBytes {
                    elements: 1,
                    bytes: if body == 0 { HELLO } else { body } as u64,
                })
                .sample_size(30)
                .warm_up_time(Duration::from_secs(1))
                .measurement_time(Duration::from_secs(3));
            for (server, address) in [("slotway", hub.address), ("bare", bare)] {
                let bytes = request(&address.to_string(), path, body);
                let mut load = Load::connect(address, connections, bytes).expect("it accepts");
                group.bench_function(server, |b| {
                    b.iter_custom(|iters| closed_loop(&mut load, iters).expect("it answers"));
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, end_to_end);

fn main() -> std::io::Result<()> {
    if bare::is_wanted() {
        return bare::serve();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
    Ok(())
}
