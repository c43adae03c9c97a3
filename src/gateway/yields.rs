//! Yielding to the other tasks of a shard. In monoio 0.2.4 a task that wakes itself while it runs goes to
//! the front of the queue: it runs again at once, and whoever else is ready waits for as long as it goes
//! on. Who is woken by another task goes to the back, so that is what there is one for.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::task::{Poll, Waker};
use std::thread;

/// The tasks of a shard that have yielded.
#[derive(Debug, Default)]
pub struct Yields {
    yielded: RefCell<Vec<Waker>>,
    /// One of them looks for what another process may do.
    looks_on: Cell<bool>,
    /// The task that wakes them, where it sleeps.
    waking: RefCell<Option<Waker>>,
}

impl Yields {
    /// Has a task run again behind all that are ready now.
    pub fn again(&self, waker: &Waker) {
        self.yielded.borrow_mut().push(waker.clone());
        if let Some(waking) = self.waking.take() {
            waking.wake();
        }
    }

    /// As [`Yields::again`], and gives the processor up in between: what the task looks for may be the
    /// doing of somebody who needs it.
    pub fn look_again(&self, waker: &Waker) {
        self.looks_on.set(true);
        self.again(waker);
    }

    /// Lets the tasks that are ready run.
    pub fn others_first(&self) -> impl Future<Output = ()> {
        let mut has_yielded = false;
        poll_fn(move |cx| {
            if std::mem::replace(&mut has_yielded, true) {
                return Poll::Ready(());
            }
            self.again(cx.waker());
            Poll::Pending
        })
    }

    /// Wakes those who have yielded, as a task of its own. Never ends.
    pub async fn run(&self) {
        poll_fn(|cx| {
            if self.looks_on.take() {
                thread::yield_now();
            }
            self.yielded.borrow_mut().drain(..).for_each(Waker::wake);
            self.waking.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use monoio::{IoUringDriver, RuntimeBuilder};

    use super::*;

    fn wake(yields: &Rc<Yields>) {
        let yields = yields.clone();
        monoio::spawn(async move { yields.run().await });
    }

    #[test]
    fn who_yields_runs_behind_all_that_are_ready() {
        let mut runtime = RuntimeBuilder::<IoUringDriver>::new().build().unwrap();
        runtime.block_on(async {
            let yields = Rc::new(Yields::default());
            let order = Rc::new(RefCell::new(Vec::new()));
            wake(&yields);
            let tasks = ["a", "b", "c"].map(|name| {
                let (yields, order) = (yields.clone(), order.clone());
                monoio::spawn(async move {
                    for _ in 0..3 {
                        order.borrow_mut().push(name);
                        yields.others_first().await;
                    }
                })
            });
            for task in tasks {
                task.await;
            }
            assert_eq!(order.borrow().concat(), "abcabcabc");
        });
    }

    #[test]
    fn who_yields_before_anybody_wakes_is_not_forgotten() {
        let mut runtime = RuntimeBuilder::<IoUringDriver>::new().build().unwrap();
        runtime.block_on(async {
            let yields = Rc::new(Yields::default());
            let yielding = yields.clone();
            let task = monoio::spawn(async move { yielding.others_first().await });
            wake(&yields);
            task.await;
        });
    }
}
