//! Control requests of a shard that wait to hear from another thread what has become of their event, or
//! what the answer is.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use slab::Slab;

use crate::gateway::ControlAnswer;
use crate::gateway::stream::Published;

/// Those who wait.
#[derive(Debug, Default)]
pub struct Replies(RefCell<Slab<Reply>>);

#[derive(Debug, Default)]
struct Reply {
    published: Option<Published>,
    answer: Option<ControlAnswer>,
    waker: Option<Waker>,
}

/// The place of one that waits; given back when dropped.
#[derive(Debug)]
pub struct Ticket<'a> {
    replies: &'a Replies,
    number: usize,
}

impl Replies {
    /// A place to wait at.
    pub fn ticket(&self) -> Ticket<'_> {
        Ticket {
            replies: self,
            number: self.0.borrow_mut().insert(Reply::default()),
        }
    }

    /// This has become of the event of the request with this number.
    pub fn publish(&self, number: usize, published: Published) {
        self.tell(number, |reply| reply.published = Some(published));
    }

    /// This is the answer to the request with this number.
    pub fn answer(&self, number: usize, answer: ControlAnswer) {
        self.tell(number, |reply| reply.answer = Some(answer));
    }

    /// No event goes to anybody any more.
    pub fn close(&self) {
        for (_, reply) in self.0.borrow_mut().iter_mut() {
            reply.published.get_or_insert_with(Published::closing);
            reply.waker.iter().for_each(Waker::wake_by_ref);
        }
    }

    fn tell(&self, number: usize, news: impl FnOnce(&mut Reply)) {
        if let Some(reply) = self.0.borrow_mut().get_mut(number) {
            news(reply);
            reply.waker.iter().for_each(Waker::wake_by_ref);
        }
    }
}

impl Ticket<'_> {
    /// What the place is called in messages.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Waits to hear what has become of an event.
    pub async fn published(self) -> Published {
        self.wait(|reply| reply.published.take()).await
    }

    /// Waits for the answer.
    pub async fn answer(self) -> ControlAnswer {
        self.wait(|reply| reply.answer.take()).await
    }

    async fn wait<T>(&self, take: impl Fn(&mut Reply) -> Option<T>) -> T {
        poll_fn(|cx| {
            let mut replies = self.replies.0.borrow_mut();
            let reply = &mut replies[self.number];
            match take(reply) {
                Some(taken) => Poll::Ready(taken),
                None => {
                    reply.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.replies.0.borrow_mut().remove(self.number);
    }
}
