//! What sockets tell of themselves: writes that have ended, clients that have left, and the ones that
//! are looked after because nothing is heard of them.

use std::rc::Rc;
use std::task::Context;

use crate::gateway::stream::fanout::Fanout;
use crate::gateway::stream::socket::Socket;
use crate::gateway::stream::subscriber::Subscriber;
use crate::sse::{Frame, Queue};

impl Fanout {
    /// Has `begin` write what waits for a subscriber: it is given the socket and the queue, and says
    /// whether it has begun.
    pub fn begin_write(
        &mut self,
        key: usize,
        begin: impl FnOnce(&Rc<Socket>, &mut Queue) -> bool,
    ) -> bool {
        let now_ms = self.now_ms;
        let Some(subscriber) = self.subscribers.get_mut(key) else {
            return false;
        };
        let Subscriber { queue, socket, .. } = subscriber;
        let Some(socket) = socket else { return false };
        let begun = begin(socket, queue);
        subscriber.writing = begun;
        if begun {
            subscriber.written_ms = now_ms;
        }
        begun
    }

    /// All of a write was taken.
    pub fn written(&mut self, key: usize) {
        self.end_write(key);
        if self
            .subscribers
            .get(key)
            .is_some_and(|s| !s.queue.is_empty())
        {
            self.line_up(key);
        }
    }

    /// A write has filled the socket; `rest` is still to be sent.
    pub fn written_in_part(&mut self, key: usize, rest: &[u8]) {
        let now_ms = self.now_ms;
        if let Some(subscriber) = self.subscribers.get_mut(key) {
            subscriber.queue.unsent(rest);
            subscriber.blocked = true;
            subscriber.blocked_ms = now_ms;
        }
        self.end_write(key);
        self.look_at_socket(key);
    }

    /// A write has failed: the client is gone.
    pub fn write_failed(&mut self, key: usize) {
        self.end_write(key);
        self.close(key);
    }

    /// A socket is ready for something: the client has left or said something, or has made room.
    pub fn look_at_socket(&mut self, key: usize) {
        let Some(subscriber) = self.subscribers.get_mut(key).filter(|s| !s.closed) else {
            return;
        };
        let Subscriber {
            socket: Some(socket),
            waker,
            talk,
            blocked,
            ..
        } = subscriber
        else {
            return;
        };
        let cx = &mut Context::from_waker(waker);
        if socket.poll_ended(talk, cx).is_ready() {
            return self.close(key);
        }
        if *blocked && socket.poll_writable(cx).is_ready() {
            *blocked = false;
            self.line_up(key);
        }
    }

    /// Whether there is anybody to look after.
    pub fn has_subscribers(&self) -> bool {
        !self.subscribers.is_empty()
    }

    /// Sends a comment to everybody who was sent nothing for a while, so that proxies keep the
    /// connection open and a peer that has vanished is noticed.
    pub fn beat(&mut self, heartbeat: &Rc<Frame>) {
        let (now_ms, after_ms) = (self.now_ms, self.config.heartbeat_ms);
        let due = |s: &Subscriber| {
            let is_idle = s.queue.is_empty() && !s.writing && !s.blocked;
            is_idle && s.socket.is_some() && now_ms >= s.written_ms + after_ms
        };
        let due: Vec<usize> = self
            .subscribers
            .iter()
            .filter(|(_, s)| due(s))
            .map(|(key, _)| key)
            .collect();
        for key in due {
            self.subscribers[key].queue.control(heartbeat);
            self.line_up(key);
        }
    }

    /// Ends the connections of clients that take nothing, where the kernel does not: on Unix sockets.
    pub fn drop_stuck(&mut self) {
        let (now_ms, timeout_ms) = (self.now_ms, self.config.write_timeout_ms);
        let is_stuck = |s: &Subscriber| {
            let unwatched = s.socket.as_ref().is_some_and(|socket| !socket.is_watched());
            s.blocked && unwatched && now_ms >= s.blocked_ms.saturating_add(timeout_ms)
        };
        let stuck: Vec<usize> = self
            .subscribers
            .iter()
            .filter(|(_, s)| !s.closed && is_stuck(s))
            .map(|(key, _)| key)
            .collect();
        stuck.into_iter().for_each(|key| self.close(key));
    }

    /// Looks for clients that have gone without the runtime's noticing.
    pub fn sweep(&mut self) {
        let gone = |s: &Subscriber| s.socket.as_ref().is_some_and(|socket| socket.has_ended());
        let gone: Vec<usize> = self
            .subscribers
            .iter()
            .filter(|(_, s)| !s.closed && gone(s))
            .map(|(key, _)| key)
            .collect();
        gone.into_iter().for_each(|key| self.close(key));
    }

    /// Ends every connection for which nothing waits, or that takes nothing.
    pub fn close_done(&mut self) {
        let has_more = |s: &Subscriber| s.writing || !s.queue.is_empty();
        let is_done = |s: &Subscriber| !has_more(s) || s.blocked || s.socket.is_none();
        let done: Vec<usize> = self
            .subscribers
            .iter()
            .filter(|(_, s)| !s.closed && is_done(s))
            .map(|(key, _)| key)
            .collect();
        done.into_iter().for_each(|key| self.close(key));
    }

    fn end_write(&mut self, key: usize) {
        let Some(subscriber) = self.subscribers.get_mut(key) else {
            return;
        };
        subscriber.writing = false;
        if subscriber.closed {
            self.remove(key);
        }
    }
}
