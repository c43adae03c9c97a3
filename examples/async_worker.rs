//! A worker with async handlers: `cargo run --example async_worker`, with the hub running.

use std::time::Duration;

use slotway::worker::{Error, Request, Response, Worker};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    Worker::new("async-hello")
        .route_async("GET", "/wait/{ms}", |req: Request| async move {
            let Some(Ok(ms)) = req.param("ms").map(|ms| ms.parse()) else {
                return Response::text("not a number of milliseconds\n").status(400);
            };
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Response::text(format!("waited {ms} ms\n"))
        })
        .route_async("GET", "/ticks", |_: Request| async {
            Response::ok()
                .header("content-type", "text/plain")
                .stream_async(|mut out| async move {
                    for tick in 0..10 {
                        out.write(format!("tick {tick}\n")).await?;
                        out.send().await?;
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Ok(())
                })
        })
        .run_async()
        .await
}
