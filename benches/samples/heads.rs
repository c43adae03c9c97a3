//! Short heads for the benches.

/// What a load generator sends.
pub const SMALL: &str = "GET /hello HTTP/1.1\r\nHost: 127.0.0.1:3200\r\n\r\n";

/// Field sections as workers send them. They have one length, so that each displaces the other where
/// those that were checked are remembered.
pub const WORKER_FIELDS: [&str; 2] = [
    "content-type: application/json\r\ncache-control: no-store\r\n\
     x-request-id: 6f1ed002-ab55-9585-9014-ebf0951522d9\r\n",
    "content-type: application/json\r\ncache-control: no-store\r\n\
     x-request-id: a7de01fb-a0ac-4e8b-8a80-8ddc87bd2bea\r\n",
];
