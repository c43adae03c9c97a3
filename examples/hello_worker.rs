//! A worker to start from. Run the hub with `slotway serve`, this with
//! `cargo run --example hello_worker`, and ask it: `curl localhost:3200/hello/you`.

use slotway::worker::{BodyError, Error, Request, Response, Worker};

fn main() -> Result<(), Error> {
    Worker::new("hello")
        .route("GET", "/hello/{name}", |req: Request| {
            format!("Hello, {}!\n", req.param("name").unwrap_or_default())
        })
        .route("POST", "/echo", |req: Request| {
            let content_type = req.header("content-type").unwrap_or(b"text/plain").to_vec();
            Response::ok()
                .header("content-type", content_type)
                .body(req.into_body())
        })
        .route("POST", "/sum", |mut req: Request| {
            let numbers: Vec<f64> = req.json()?;
            Ok::<_, BodyError>(Response::json(&numbers.iter().sum::<f64>()))
        })
        .run()
}
