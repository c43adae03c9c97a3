//! The task that drives a lane: takes completions, publishes submissions, wakes the worker, and
//! sleeps on the hub's eventfd. It runs behind the tasks that were ready before it, so that what
//! they submit in one turn of the loop is published, and the worker woken, once.

use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use monoio::fs::File;

use crate::control::WakeMode;
use crate::gateway::lane::{Lane, Violation};
use crate::limits::COMPLETIONS_PER_TURN;
use crate::shm::region::Word;
use crate::sys::futex;

/// Why [`Lane::drive`] has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The worker is gone or was thrown out.
    Dead,
    /// The lane was told to drain and has.
    Drained,
}

/// What a look at the lane found.
#[derive(PartialEq, Eq)]
enum Look {
    Busy,
    Quiet,
    Ended(Ended),
}

impl Lane {
    /// Drives the lane until the worker is gone or the lane has drained.
    pub async fn drive(self: Rc<Lane>, doorbell: OwnedFd) -> Ended {
        let Ok(doorbell) = File::from_std(doorbell.into()) else {
            return Ended::Dead;
        };
        let mut buffer = Box::new([0; 8]);
        loop {
            if let Some(ended) = self.run_while_busy().await {
                return ended;
            }
            let mut ring = pin!(doorbell.read_at(buffer, 0));
            let armed = self.core.borrow_mut().arm();
            // What arrived before the worker could know that the hub sleeps is seen by this look;
            // what arrives later rings.
            if self.judge(armed).is_none() {
                return Ended::Dead;
            }
            let rung = poll_fn(|cx| {
                match self.look(cx) {
                    Look::Ended(ended) => return Poll::Ready(Err(ended)),
                    Look::Busy => cx.waker().wake_by_ref(),
                    Look::Quiet => {}
                }
                ring.as_mut().poll(cx).map(Ok)
            })
            .await;
            self.core.borrow_mut().disarm();
            match rung {
                Ok((Ok(_), rest)) => {
                    buffer = rest;
                    self.stats.count_wake_to_hub();
                }
                Ok((Err(_), _)) => {
                    self.judge::<()>(Err(Violation::Doorbell));
                    return Ended::Dead;
                }
                Err(ended) => return ended,
            }
        }
    }

    /// Looks at the lane, turn after turn of the event loop, until there is nothing to do.
    async fn run_while_busy(&self) -> Option<Ended> {
        poll_fn(|cx| match self.look(cx) {
            Look::Busy => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Look::Quiet => Poll::Ready(None),
            Look::Ended(ended) => Poll::Ready(Some(ended)),
        })
        .await
    }

    fn look(&self, cx: &mut Context<'_>) -> Look {
        {
            let mut driver = self.driver.borrow_mut();
            if !driver.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *driver = Some(cx.waker().clone());
            }
        }
        let now_ms = self.clock.now_ms();
        let taken = self
            .core
            .borrow_mut()
            .take_completions(COMPLETIONS_PER_TURN, now_ms);
        let Some(turn) = self.judge(taken) else {
            return Look::Ended(Ended::Dead);
        };
        if turn.slots_returned {
            self.wake_first_in_line();
        }
        self.publish();
        if self.is_dead() {
            Look::Ended(Ended::Dead)
        } else if self.is_drained() {
            Look::Ended(Ended::Drained)
        } else if turn.taken > 0 {
            Look::Busy
        } else {
            Look::Quiet
        }
    }

    fn publish(&self) {
        if !self.core.borrow_mut().publish() {
            return;
        }
        // Neither call can do harm if it fails: a worker that is gone is noticed elsewhere.
        let _ = match self.wake {
            WakeMode::Futex => futex::wake(self.memory.own_word(Word::Doorbell), 1).map(drop),
            WakeMode::Eventfd => self.worker_doorbell.ring(),
        };
    }
}
