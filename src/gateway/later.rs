//! Ends of sends that nobody is in a hurry to hear of. While many answers come at a time, a connection
//! whose answer the ring has taken is left alone until the next ones come: by then its client has often
//! asked again, and the first receive finds the request, where right behind the answer it would find
//! nothing, be registered with the socket, be called, and receive a second time.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsFd;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use monoio::net::UnixStream;

use crate::limits::{BRISK_ANSWERS, BRISK_TO_COME, LATER_DOUBT, LATER_US};
use crate::sys::timer::TimerFd;

/// The connections of a shard that are left alone.
#[derive(Debug)]
pub struct Later {
    brisk: Cell<bool>,
    /// How often many answers may yet come at a time without anybody being left alone.
    doubt: Cell<u32>,
    waiting: RefCell<Vec<Waker>>,
    /// Nobody would be called when the time is up.
    broken: Cell<bool>,
    /// Runs out where no answers come for a while.
    timer: TimerFd,
}

impl Later {
    /// Nobody is left alone yet.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new() -> io::Result<Later> {
        Ok(Later {
            brisk: Cell::new(false),
            doubt: Cell::new(0),
            waiting: RefCell::new(Vec::new()),
            broken: Cell::new(false),
            timer: TimerFd::new()?,
        })
    }

    /// Whether many answers come at a time.
    pub fn is_brisk(&self) -> bool {
        self.brisk.get()
    }

    /// So many answers have come out of a lane, and so many more are awaited: it is the turn of those who
    /// were left alone.
    pub fn note(&self, answers: usize, awaited: usize) {
        // Those who are called now ask again. Where hardly any are to come, there is nothing to wait for.
        let to_come = awaited + self.waiting.borrow().len();
        let many = answers >= BRISK_ANSWERS && to_come >= BRISK_TO_COME;
        let doubt = self.doubt.get();
        self.brisk.set(many && doubt == 0 && !self.broken.get());
        if many && doubt > 0 {
            self.doubt.set(doubt - 1);
        }
        self.call();
    }

    /// Calls those who were left alone.
    pub fn call(&self) {
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }

    /// Begins an operation of the ring, and waits for its end: where that is not urgent and many answers
    /// come at a time, not before the next ones.
    pub async fn end_of<T>(&self, operation: impl Future<Output = T>, unhurried: bool) -> T {
        let mut operation = pin!(operation);
        if unhurried && self.is_brisk() {
            let mut nobody = Context::from_waker(Waker::noop());
            if let Poll::Ready(done) = operation.as_mut().poll(&mut nobody) {
                return done;
            }
            self.wait().await;
        }
        operation.await
    }

    /// Waits to be called; whoever is called for something else goes on, too.
    async fn wait(&self) {
        let mut has_waited = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut has_waited, true) {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            if waiting.is_empty() {
                // Setting a timer that exists does not fail for this delay.
                let _ = self.timer.set_once(Duration::from_micros(LATER_US));
            }
            waiting.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Sees to it that nobody is left alone for longer than [`LATER_US`]. Never ends but by error.
    ///
    /// # Errors
    /// The timer's descriptor cannot be used.
    pub async fn run(&self) -> io::Result<()> {
        let result = self.keep_time().await;
        self.broken.set(true);
        self.brisk.set(false);
        self.call();
        result
    }

    async fn keep_time(&self) -> io::Result<()> {
        let timer = UnixStream::from_std(self.timer.as_fd().try_clone_to_owned()?.into())?;
        loop {
            timer.readable(true).await?;
            if self.timer.drain()? > 0 && !self.waiting.borrow().is_empty() {
                // A worker takes its time: clients that ask again at once were kept waiting.
                self.brisk.set(false);
                self.doubt.set(LATER_DOUBT);
                self.call();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use monoio::{IoUringDriver, RuntimeBuilder};

    use super::*;

    const MANY: usize = 1000;

    /// Ends when it is looked at for the second time, as an operation that the ring has done meanwhile.
    async fn operation() {
        let mut begun = false;
        poll_fn(|_| match std::mem::replace(&mut begun, true) {
            false => Poll::Pending,
            true => Poll::Ready(()),
        })
        .await;
    }

    #[test]
    fn an_end_is_noticed_when_the_next_answers_come() {
        let later = Later::new().unwrap();
        later.note(BRISK_ANSWERS, MANY);
        let cx = &mut Context::from_waker(Waker::noop());
        let mut end = pin!(later.end_of(operation(), true));
        assert!(end.as_mut().poll(cx).is_pending());
        assert_eq!(later.waiting.borrow().len(), 1);
        later.note(1, MANY);
        assert!(later.waiting.borrow().is_empty() && !later.is_brisk());
        assert!(end.as_mut().poll(cx).is_ready());
    }

    #[test]
    fn nobody_is_left_alone_where_no_further_answers_are_to_come() {
        let later = Later::new().unwrap();
        for (to_come, brisk) in [
            (0, false),
            (BRISK_TO_COME - 1, false),
            (BRISK_TO_COME, true),
        ] {
            later.note(BRISK_ANSWERS, to_come);
            assert_eq!(later.is_brisk(), brisk, "{to_come}");
        }
        later.note(BRISK_ANSWERS - 1, MANY);
        assert!(!later.is_brisk());
    }

    #[test]
    fn an_operation_that_ends_at_once_waits_for_nothing() {
        let later = Later::new().unwrap();
        later.note(BRISK_ANSWERS, MANY);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(pin!(later.end_of(async {}, true)).poll(cx).is_ready());
        assert!(later.waiting.borrow().is_empty());
    }

    #[test]
    fn nobody_is_left_alone_where_no_answers_come_and_then_not_for_a_while() {
        let mut runtime = RuntimeBuilder::<IoUringDriver>::new().build().unwrap();
        runtime.block_on(async {
            let later = Rc::new(Later::new().unwrap());
            let calling = later.clone();
            monoio::spawn(async move { calling.run().await });
            later.note(BRISK_ANSWERS, MANY);
            later.end_of(operation(), true).await;
            for _ in 0..LATER_DOUBT {
                later.note(BRISK_ANSWERS, MANY);
                assert!(!later.is_brisk());
                later.note(1, MANY);
            }
            later.note(BRISK_ANSWERS, MANY);
            assert!(later.is_brisk());
        });
    }
}
