//! Connections that send one request over and over, all of them in one thread on epoll. Never decides
//! when: that is the caller's. An answer that is not 200 with a Content-Length is an error, not a number.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// Bytes read at a time.
const READ: usize = 256 * 1024;

/// A GET, or with a body a POST, for this host and path.
pub fn request(host: &str, path: &str, body: usize) -> Vec<u8> {
    let mut bytes = match body {
        0 => format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes(),
        _ => format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {body}\r\n\r\n")
            .into_bytes(),
    };
    bytes.resize(bytes.len() + body, b'x');
    bytes
}

/// Connections to one server.
pub struct Load {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    request: Vec<u8>,
    ready: Vec<epoll::Event>,
    buffer: Box<[u8]>,
}

struct Connection {
    stream: TcpStream,
    /// Bytes of the request that the kernel has taken.
    sent: usize,
    /// The head of the answer, as far as it is here.
    head: Vec<u8>,
    /// Bytes of body that are still to come, once the head is here.
    remaining: Option<usize>,
}

impl Load {
    /// Connects so many times.
    ///
    /// # Errors
    /// The sockets'.
    pub fn connect(server: SocketAddr, connections: usize, request: Vec<u8>) -> io::Result<Load> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let connect = |index: usize| {
            let stream = TcpStream::connect(server)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(index as u64);
            let edges = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&epoll, &stream, data, edges)?;
            Ok(Connection {
                stream,
                sent: request.len(),
                head: Vec::new(),
                remaining: None,
            })
        };
        let connections = (0..connections).map(connect).collect::<io::Result<_>>()?;
        Ok(Load {
            epoll,
            connections,
            request,
            ready: Vec::with_capacity(1024),
            buffer: vec![0; READ].into(),
        })
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Sends the request on a connection that waits for no answer.
    ///
    /// # Errors
    /// The socket's.
    pub fn begin(&mut self, connection: usize) -> io::Result<()> {
        let connection = &mut self.connections[connection];
        connection.sent = 0;
        connection.head.clear();
        connection.remaining = None;
        connection.send(&self.request)
    }

    /// Waits until something happens, `timeout` at most, and puts the connections whose answers are
    /// whole into `finished`. Returns whether anything has happened.
    ///
    /// # Errors
    /// A socket's; `InvalidData` for an answer that is not 200 with a Content-Length.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        finished: &mut Vec<usize>,
    ) -> io::Result<bool> {
        let timeout = timeout.map(|t| Timespec {
            tv_sec: t.as_secs() as i64,
            tv_nsec: i64::from(t.subsec_nanos()),
        });
        self.ready.clear();
        let ready = spare_capacity(&mut self.ready);
        match epoll::wait(&self.epoll, ready, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        for event in &self.ready {
            let index = event.data.u64() as usize;
            let connection = &mut self.connections[index];
            connection.send(&self.request)?;
            if connection.receive(&mut self.buffer)? {
                finished.push(index);
            }
        }
        Ok(!self.ready.is_empty())
    }
}

impl Connection {
    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        while self.sent < request.len() {
            match self.stream.write(&request[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there. Returns whether the answer is whole now.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(invalid("the server closed the connection")),
                Ok(count) => {
                    self.take(&buffer[..count])?;
                    if self.remaining == Some(0) {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let body = match self.remaining {
            Some(remaining) => {
                let rest = remaining.checked_sub(bytes.len());
                self.remaining = Some(rest.ok_or_else(|| invalid("more than the whole body"))?);
                return Ok(());
            }
            None => {
                self.head.extend_from_slice(bytes);
                let end = memchr::memmem::find(&self.head, b"\r\n\r\n");
                let Some(end) = end else { return Ok(()) };
                self.head.len() - (end + 4)
            }
        };
        self.head.truncate(self.head.len() - body);
        let length = content_length(&self.head)
            .ok_or_else(|| invalid(&format!("answer: {}", self.head.escape_ascii())))?;
        let rest = length.checked_sub(body);
        self.remaining = Some(rest.ok_or_else(|| invalid("more than the whole body"))?);
        Ok(())
    }
}

/// The length of the body of an answer that is 200.
fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    let mut lines = head.split("\r\n");
    lines.next()?.strip_prefix("HTTP/1.1 200")?;
    lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let found = name.eq_ignore_ascii_case("content-length");
        found.then(|| value.trim().parse().ok())?
    })
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
