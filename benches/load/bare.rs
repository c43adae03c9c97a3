//! The floor: a server on one io_uring that answers by itself, in a process of its own. It checks no
//! more of a request than it must to find its end, so nothing that does more can be expected below it.

use std::process::Command;

use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};

use crate::support::process::Process;

/// Set in the process that is the server: the port it listens on, 0 for any.
const BARE: &str = "SLOTWAY_BENCH_BARE";
/// What precedes the address it prints.
const ANNOUNCEMENT: &str = "bare server on ";
/// Bytes of body up to which it is copied behind the head, for one send in place of two.
const COPY_MAX: usize = 8 * 1024;

/// Whether this process was started to be the server.
pub fn is_wanted() -> bool {
    std::env::var_os(BARE).is_some()
}

/// Starts the server; returns its process and its address.
pub fn start() -> (Process, std::net::SocketAddr) {
    let own = std::env::current_exe().expect("the bench knows its binary");
    let mut command = Command::new(own);
    command.env(BARE, "0");
    let mut process = Process::start("the bare server", command);
    let address = process.wait_line(ANNOUNCEMENT);
    let address = address.parse().expect("it prints its address");
    (process, address)
}

/// Is the server, until it is killed.
pub fn serve() -> std::io::Result<()> {
    let port = std::env::var(BARE).unwrap_or_default();
    // As the hub sets its ring up.
    let mut uring = io_uring::IoUring::builder();
    uring.setup_coop_taskrun().setup_single_issuer();
    let mut runtime = RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(4096)
        .uring_builder(uring)
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
        println!("{ANNOUNCEMENT}{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            monoio::spawn(answer_all(stream));
        }
    })
}

async fn answer_all(mut stream: TcpStream) {
    let mut buffer: Vec<u8> = Vec::with_capacity(64 * 1024);
    loop {
        let Some((head, length)) = ends(&buffer) else {
            match receive(&mut stream, buffer).await {
                Some(more) => buffer = more,
                None => return,
            }
            continue;
        };
        let whole = head + length;
        buffer.reserve(whole.saturating_sub(buffer.len()));
        while buffer.len() < whole {
            match receive(&mut stream, buffer).await {
                Some(more) => buffer = more,
                None => return,
            }
        }
        let body = match length {
            0 => &b"Hello, World!"[..],
            _ => &buffer[head..whole],
        };
        let mut answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        let copied = body.len() <= COPY_MAX;
        if copied {
            answer.extend_from_slice(body);
        }
        if stream.write_all(answer).await.0.is_err() {
            return;
        }
        if !copied {
            let (sent, back) = stream
                .write_all(monoio::buf::IoBuf::slice(buffer, head..whole))
                .await;
            if sent.is_err() {
                return;
            }
            buffer = back.into_inner();
        }
        buffer.drain(..whole);
    }
}

/// Where the head ends, and how long the body is.
fn ends(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(head)) = request.parse(bytes) else {
        return None;
    };
    let length = request
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.parse().ok());
    Some((head, length.unwrap_or(0)))
}

/// Receives behind what is there; `None` at the end of the connection.
async fn receive(stream: &mut TcpStream, mut buffer: Vec<u8>) -> Option<Vec<u8>> {
    buffer.reserve(1);
    let room = buffer.len()..buffer.capacity();
    let (count, back) = stream.read(buffer.slice_mut(room)).await;
    matches!(count, Ok(1..)).then(|| back.into_inner())
}
