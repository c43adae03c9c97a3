//! An HTTP/1.1 client for tests: sends bytes as they are and reads one answer by its framing. Never
//! forgiving: framing that breaks RFC 9112 is a panic.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::GUARD;

/// Either kind of connection.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One connection.
pub struct Client {
    stream: Stream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// A whole answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Reason phrase.
    pub reason: String,
    /// Field lines in order; names as sent.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.status, self.reason)?;
        for (name, value) in &self.fields {
            writeln!(f, "{name}: {}", value.escape_ascii())?;
        }
        let shown = &self.body[..self.body.len().min(400)];
        write!(f, "({} bytes) {}", self.body.len(), shown.escape_ascii())
    }
}

impl Answer {
    /// The value of the only field with this name.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.field_values(name);
        let first = values.next()?;
        assert_eq!(values.next(), None, "{name} stands twice: {self:?}");
        Some(std::str::from_utf8(first).expect("the value is text"))
    }

    /// The values of each field with this name.
    pub fn field_values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let lines = self.fields.iter();
        lines
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// Checks that this is an error the hub explains as it documents, and returns its detail.
    #[track_caller]
    pub fn assert_problem(&self, status: u16) -> String {
        use simd_json::prelude::*;
        assert_eq!(self.status, status, "{self:?}");
        let media_type = self.field("content-type");
        assert_eq!(media_type, Some("application/problem+json"), "{self:?}");
        let body = super::json(&self.body);
        assert_eq!(body.get_u64("status"), Some(status.into()), "{self:?}");
        for member in ["type", "title", "detail", "action"] {
            let text = body.get_str(member);
            assert!(text.is_some_and(|t| !t.is_empty()), "{member}: {self:?}");
        }
        body.get_str("detail").unwrap_or_default().to_string()
    }

    /// How the body ends, by RFC 9112, section 6.3.
    fn framing(&self, method: &str) -> Framing {
        if method == "HEAD" || self.status < 200 || matches!(self.status, 204 | 304) {
            return Framing::None;
        }
        let length = self.field("content-length");
        if let Some(coding) = self.field("transfer-encoding") {
            assert_eq!(coding, "chunked");
            assert_eq!(length, None, "both framings: {self:?}");
            return Framing::Chunked;
        }
        match length {
            Some(digits) => Framing::Length(digits.parse().expect("a decimal length")),
            None => Framing::UntilClose,
        }
    }
}

impl Client {
    /// A connection over TCP, without Nagle's algorithm: each write is a segment.
    pub fn tcp(address: SocketAddr) -> Client {
        Client::try_tcp(address).expect("the hub accepts")
    }

    /// As [`Client::tcp`], where the hub may be away.
    pub fn try_tcp(address: SocketAddr) -> std::io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, GUARD)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(GUARD))?;
        stream.set_write_timeout(Some(GUARD))?;
        Ok(Client::over(Stream::Tcp(stream)))
    }

    /// A connection over TCP that takes little before it is read from.
    pub fn with_small_window(address: SocketAddr) -> Client {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
        // Hubs that other tests start meanwhile must not inherit it.
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
        connect(&socket, &address).expect("the hub accepts");
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(GUARD)).unwrap();
        Client::over(Stream::Tcp(stream))
    }

    /// A connection over a Unix socket.
    pub fn unix(path: &Path) -> Client {
        let stream = UnixStream::connect(path).expect("the hub accepts");
        stream.set_read_timeout(Some(GUARD)).unwrap();
        stream.set_write_timeout(Some(GUARD)).unwrap();
        Client::over(Stream::Unix(stream))
    }

    fn over(stream: Stream) -> Client {
        Client {
            stream,
            buffer: vec![0; 256 * 1024].into(),
            start: 0,
            end: 0,
        }
    }

    /// A second handle to the same connection, to write from another thread.
    pub fn writer(&self) -> Box<dyn Write + Send> {
        match &self.stream {
            Stream::Tcp(stream) => Box::new(stream.try_clone().unwrap()),
            Stream::Unix(stream) => Box::new(stream.try_clone().unwrap()),
        }
    }

    /// The address this end has.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Unix(_) => None,
        }
    }

    /// Sends these bytes in one write.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the hub takes the bytes");
    }

    /// As [`Client::send`], where the hub may have closed already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes.as_ref()),
            Stream::Unix(stream) => stream.write_all(bytes.as_ref()),
        }
    }

    /// Sends a request with `Host`, these whole field lines, and `Content-Length` where there is a
    /// body.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str, fields: &str, body: &[u8]) {
        self.send(request_bytes(method, path, fields, body));
    }

    /// A GET on this connection, and its answer.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, "", b"");
        self.answer()
    }

    /// Says that nothing more will be sent, and stays to read.
    pub fn finish_sending(&mut self) {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// Ends both directions, also for the other handles to this connection.
    pub fn shut_down(&self) {
        // A connection that has ended already needs no end.
        let _ = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// Closes so that the other side gets a reset, as when a client process is killed with unread
    /// bytes.
    pub fn reset(self) {
        if let Stream::Tcp(stream) = &self.stream {
            rustix::net::sockopt::set_socket_linger(stream, Some(std::time::Duration::ZERO))
                .unwrap();
        }
    }

    /// The next final answer to a request that was not HEAD. Interim answers are skipped.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// The next final answer to a request with this method.
    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Answer {
        let mut body = Vec::new();
        let mut answer = self.answer_streamed(method, |part| body.extend_from_slice(part));
        answer.body = body;
        answer
    }

    /// As [`Client::answer_to`], with the body handed to `sink` as it arrives.
    #[track_caller]
    pub fn answer_streamed(&mut self, method: &str, mut sink: impl FnMut(&[u8])) -> Answer {
        let answer = loop {
            let answer = self.head().expect("an answer, not the connection's end");
            if answer.status >= 200 {
                break answer;
            }
        };
        let framing = answer.framing(method);
        self.body(framing, &mut sink)
            .unwrap_or_else(|why| panic!("{why} after {answer:?}"));
        answer
    }

    /// As [`Client::answer`], where the connection may end or break off instead: `None`.
    pub fn try_answer(&mut self) -> Option<Answer> {
        let mut answer = self.head()?;
        let framing = answer.framing("GET");
        let mut body = Vec::new();
        self.body(framing, &mut |part| body.extend_from_slice(part))
            .ok()?;
        answer.body = body;
        Some(answer)
    }

    /// As [`Client::answer_to`], where the hub may be killed at any moment: what was wrong with the
    /// connection is an error.
    pub fn try_answer_to(&mut self, method: &str) -> Result<Answer, String> {
        let mut answer = loop {
            let answer = self
                .try_head()?
                .ok_or("the connection ended before an answer")?;
            if answer.status >= 200 {
                break answer;
            }
        };
        let framing = answer.framing(method);
        let mut body = Vec::new();
        self.body(framing, &mut |part| body.extend_from_slice(part))?;
        answer.body = body;
        Ok(answer)
    }

    /// The data of the next chunk; empty for the last one.
    #[track_caller]
    pub fn chunk(&mut self) -> Vec<u8> {
        let line = self.line().expect("a chunk's size");
        let digits = String::from_utf8(line).expect("text");
        let size = u64::from_str_radix(&digits, 16).expect("a chunk's size");
        let mut data = Vec::new();
        self.counted(size, &mut |part| data.extend_from_slice(part))
            .expect("a whole chunk");
        assert_eq!(
            self.line().as_deref(),
            Some(&b""[..]),
            "CRLF behind a chunk"
        );
        data
    }

    /// The next head, interim or final, as an answer without its body; `None` at the end of the
    /// connection.
    #[track_caller]
    pub fn head(&mut self) -> Option<Answer> {
        self.try_head().unwrap_or_else(|why| panic!("{why}"))
    }

    /// As [`Client::head`], where the connection may also break off within the head.
    pub fn try_head(&mut self) -> Result<Option<Answer>, String> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        loop {
            let line = match self.line() {
                Some(line) => line,
                None if lines.is_empty() && self.buffered().is_empty() => return Ok(None),
                None => return Err(format!("the connection ended within a head: {lines:?}")),
            };
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let mut lines = lines.into_iter();
        let status_line = String::from_utf8(lines.next().expect("a status line")).unwrap();
        let mut parts = status_line.splitn(3, ' ');
        assert_eq!(parts.next(), Some("HTTP/1.1"), "{status_line}");
        let status = parts.next().and_then(|s| s.parse().ok());
        let fields = lines.map(|line| {
            let colon = line.iter().position(|&b| b == b':').expect("a colon");
            let name = String::from_utf8(line[..colon].to_vec()).expect("a name");
            (name, line[colon + 1..].trim_ascii().to_vec())
        });
        Ok(Some(Answer {
            status: status.expect("a status code"),
            reason: parts.next().expect("a reason phrase").to_string(),
            fields: fields.collect(),
            body: Vec::new(),
        }))
    }

    fn body(&mut self, framing: Framing, sink: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        match framing {
            Framing::None => Ok(()),
            Framing::Length(length) => self.counted(length, sink),
            Framing::Chunked => loop {
                let line = self.line().ok_or("the connection ended before a chunk")?;
                let digits = String::from_utf8(line).map_err(|e| e.to_string())?;
                let size = u64::from_str_radix(&digits, 16).map_err(|e| e.to_string())?;
                self.counted(size, sink)?;
                match self.line() {
                    Some(empty) if empty.is_empty() => {}
                    other => return Err(format!("no CRLF behind a chunk: {other:?}")),
                }
                if size == 0 {
                    return Ok(());
                }
            },
            Framing::UntilClose => loop {
                sink(self.buffered());
                self.start = self.end;
                match self.fill() {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => return Err(error.to_string()),
                }
            },
        }
    }

    fn counted(&mut self, mut left: u64, sink: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        while left > 0 {
            if self.buffered().is_empty() && !matches!(self.fill(), Ok(1..)) {
                return Err(format!("the connection ended {left} bytes early"));
            }
            let part = self.buffered().len().min(left.min(1 << 30) as usize);
            sink(&self.buffered()[..part]);
            self.start += part;
            left -= part as u64;
        }
        Ok(())
    }

    /// One line without its CRLF; `None` where the connection ends first.
    fn line(&mut self) -> Option<Vec<u8>> {
        let mut searched = 0;
        loop {
            let buffered = self.buffered();
            if let Some(at) = buffered[searched..].iter().position(|&b| b == b'\n') {
                let end = searched + at;
                let line = buffered[..end]
                    .strip_suffix(b"\r")
                    .expect("CR before LF")
                    .to_vec();
                self.start += end + 1;
                return Some(line);
            }
            searched = buffered.len();
            if !matches!(self.fill(), Ok(1..)) {
                return None;
            }
        }
    }

    /// Checks that the hub has closed its side and sent nothing further.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        assert!(
            self.buffered().is_empty() && matches!(self.fill(), Ok(0)),
            "open, or more came: {}",
            self.buffered().escape_ascii()
        );
    }

    /// Waits until the connection is closed or reset, whatever comes before that.
    #[track_caller]
    pub fn drain_to_end(&mut self) {
        loop {
            self.start = self.end;
            match self.fill() {
                Ok(1..) => {}
                Ok(0) => return,
                Err(error) => {
                    assert_ne!(error.kind(), ErrorKind::WouldBlock, "it stays open");
                    return;
                }
            }
        }
    }

    /// What was received and not used yet.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Whether something has arrived that was not read yet, or the end. Does not wait.
    pub fn has_input(&self) -> bool {
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let fd = match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        };
        let mut fds = [rustix::event::PollFd::new(
            &fd,
            rustix::event::PollFlags::IN,
        )];
        !self.buffered().is_empty() || rustix::event::poll(&mut fds, Some(&now)) == Ok(1)
    }

    /// Forgets the first of what was received.
    pub fn skip(&mut self, count: usize) {
        self.start += count;
        assert!(self.start <= self.end);
    }

    /// Receives more.
    pub fn fill(&mut self) -> std::io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            assert!(self.start > 0, "a line longer than the client's buffer");
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let room = &mut self.buffer[self.end..];
        loop {
            let received = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(room),
                Stream::Unix(stream) => stream.read(room),
            };
            match received {
                // The kernel does not go on by itself where there is a time limit.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => {
                    let received = received?;
                    self.end += received;
                    return Ok(received);
                }
            }
        }
    }
}

/// The bytes of a request as [`Client::request`] sends it.
pub fn request_bytes(method: &str, path: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    let length = match body.len() {
        0 => String::new(),
        n => format!("Content-Length: {n}\r\n"),
    };
    // A test of the Host field brings its own.
    let host = match fields.to_ascii_lowercase().starts_with("host:") {
        true => "",
        false => "Host: localhost\r\n",
    };
    let head = format!("{method} {path} HTTP/1.1\r\n{host}{fields}{length}\r\n");
    [head.as_bytes(), body].concat()
}
