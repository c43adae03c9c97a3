//! A stretch of network between a client and a hub that a test can cut. It passes bytes on and looks
//! only for heads of requests; the requests through it have no bodies.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A listener on loopback that leads to a hub.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Where clients connect.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Where connections lead; nowhere while the network is down.
    hub: Option<SocketAddr>,
    open: Vec<Connection>,
    heads: Vec<String>,
}

#[derive(Debug)]
struct Connection {
    client: TcpStream,
    hub: TcpStream,
    /// What the client asked for last.
    head: Arc<Mutex<String>>,
}

impl Proxy {
    /// A proxy in front of this hub, for as long as the test's process lives.
    pub fn start(hub: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let proxy = Proxy {
            address: listener.local_addr().unwrap(),
            state: Arc::new(Mutex::new(State {
                hub: Some(hub),
                open: Vec::new(),
                heads: Vec::new(),
            })),
        };
        let accepting = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accepting.serve(client);
            }
        });
        proxy
    }

    /// Cuts the connections whose last request was for this path, and says how many there were.
    pub fn cut(&self, path: &str) -> usize {
        let mut state = self.lock();
        let open = state.open.len();
        state.open.retain(|connection| {
            let concerned = target(&connection.head()).starts_with(path);
            if concerned {
                connection.cut();
            }
            !concerned
        });
        open - state.open.len()
    }

    /// Takes the network down: connections are cut, and new ones end at once.
    pub fn down(&self) {
        let mut state = self.lock();
        state.hub = None;
        state.open.drain(..).for_each(|c| c.cut());
    }

    /// Brings it up again, to this hub.
    pub fn up(&self, hub: SocketAddr) {
        self.lock().hub = Some(hub);
    }

    /// The heads of the requests for this path, in order.
    pub fn heads(&self, path: &str) -> Vec<String> {
        let heads = self.lock().heads.clone();
        heads
            .into_iter()
            .filter(|head| target(head).starts_with(path))
            .collect()
    }

    fn serve(&self, client: TcpStream) {
        let mut state = self.lock();
        // Dropped, and so closed, where there is no way.
        let Some(hub) = state.hub.and_then(|hub| TcpStream::connect(hub).ok()) else {
            return;
        };
        client.set_nodelay(true).unwrap();
        hub.set_nodelay(true).unwrap();
        let head = Arc::new(Mutex::new(String::new()));
        let (requests, to_hub) = (client.try_clone().unwrap(), hub.try_clone().unwrap());
        let (answers, to_client) = (hub.try_clone().unwrap(), client.try_clone().unwrap());
        state.open.push(Connection {
            client,
            hub,
            head: head.clone(),
        });
        drop(state);
        let proxy = self.clone();
        std::thread::spawn(move || {
            let mut seen = Vec::new();
            pass(requests, to_hub, |bytes| {
                seen.extend_from_slice(bytes);
                while let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                    let text = String::from_utf8_lossy(&seen[..end]).into_owned();
                    seen.drain(..end + 4);
                    *head.lock().unwrap() = text.clone();
                    proxy.lock().heads.push(text);
                }
            });
        });
        std::thread::spawn(move || pass(answers, to_client, |_| {}));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn head(&self) -> String {
        self.head.lock().unwrap().clone()
    }

    fn cut(&self) {
        for stream in [&self.client, &self.hub] {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// The request target of a head.
fn target(head: &str) -> &str {
    head.split(' ').nth(1).unwrap_or_default()
}

/// Passes bytes on until either side ends.
fn pass(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        look(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
