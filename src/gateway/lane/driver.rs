//! The task that drives a lane: takes completions, publishes submissions, wakes the worker, and
//! sleeps on the hub's eventfd. It runs behind the tasks that were ready before it, so that what
//! they submit in one turn of the loop is published, and the worker woken, once.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use monoio::fs::File;

use crate::control::WakeMode;
use crate::gateway::lane::{Lane, Violation};
use crate::gateway::later::Later;
#[cfg(doc)]
use crate::gateway::stream::handover::Handover;
use crate::gateway::yields::Yields;
use crate::limits::COMPLETIONS_PER_TURN;
use crate::shm::region::Word;
use crate::shm::spin::Spin;
use crate::sys::clock::monotonic_ns;
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
enum Look {
    /// Something, and so many beginnings of answers.
    Busy {
        begun: usize,
    },
    /// Nothing. Whether the worker is being called.
    Quiet {
        calls: bool,
    },
    Ended(Ended),
}

impl Lane {
    /// Drives the lane until the worker is gone or the lane has drained. `hub_bell` is the eventfd
    /// the worker rings, `worker_bell` the one it is woken by. `publish` is to
    /// have the streams thread [release](Handover::release) what was [handed over](Lane::handover).
    pub async fn drive(
        self: Rc<Lane>,
        hub_bell: OwnedFd,
        worker_bell: OwnedFd,
        later: &Later,
        yields: &Yields,
        publish: impl Fn(),
    ) -> Ended {
        let bells = File::from_std(hub_bell.into()).and_then(|hub| {
            let worker = File::from_std(worker_bell.into())?;
            Ok((hub, worker))
        });
        let Ok((hub_bell, worker_bell)) = bells else {
            return Ended::Dead;
        };
        let (ringing, rung) = (pin!(None), pin!(None));
        let mut caller = BellRinger::new(ring, ringing, worker_bell);
        let mut listener = BellListener::new(hear, rung, hub_bell);
        let mut spin = Spin::new();
        // Whether the worker knows that the hub sleeps.
        let mut armed = false;
        // Whether the last look was one instead of sleeping.
        let mut looked_on = false;
        poll_fn(|cx| {
            loop {
                let look = self.look(&mut caller, later, &publish, cx);
                if let Look::Ended(ended) = look {
                    return Poll::Ready(ended);
                }
                let is_busy = matches!(look, Look::Busy { .. });
                let calls = matches!(look, Look::Quiet { calls: true });
                match look {
                    Look::Busy { begun: 0 } => spin.found_other(monotonic_ns),
                    Look::Busy { begun } => {
                        let awaited = self.core.borrow().awaited();
                        spin.found(begun + awaited, monotonic_ns);
                    }
                    _ => {}
                }
                let looks_on = !is_busy && self.looks_on(&mut spin);
                let goes_on = looks_on || is_busy;
                if armed {
                    match listener.poll(cx) {
                        Poll::Pending if !goes_on => return Poll::Pending,
                        Poll::Pending => {}
                        Poll::Ready(Ok(())) => self.stats.count_wake_to_hub(),
                        Poll::Ready(Err(_)) => {
                            self.judge::<()>(Err(Violation::Doorbell));
                            return Poll::Ready(Ended::Dead);
                        }
                    }
                    self.core.borrow_mut().disarm();
                    armed = false;
                } else if !goes_on {
                    let arming = self.core.borrow_mut().arm();
                    if self.judge(arming).is_none() {
                        return Poll::Ready(Ended::Dead);
                    }
                    // Asleep as far as the worker knows. What arrived before it could know is seen by
                    // one more look; what arrives later rings.
                    armed = true;
                }
                // Awake until there is nothing to do. Those who have been answered, and whoever else is
                // ready, have their turn before the next look.
                let looked_on = std::mem::replace(&mut looked_on, looks_on);
                if looks_on && looked_on && !calls {
                    // The worker may be on this very processor.
                    yields.look_again(cx.waker());
                    return Poll::Pending;
                }
                if goes_on {
                    // What is to be sent, and the worker's bell, mostly go to the kernel before the
                    // processor is given up.
                    yields.again(cx.waker());
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    /// Whether to look once more before sleeping, for an answer that may be about to come.
    fn looks_on(&self, spin: &mut Spin) -> bool {
        if self.core.borrow().awaited() == 0 {
            spin.rest();
            return false;
        }
        spin.looks_on(monotonic_ns)
    }

    fn look<F: Future<Output = Bell>>(
        &self,
        caller: &mut BellRinger<'_, F>,
        later: &Later,
        publish: &impl Fn(),
        cx: &mut Context<'_>,
    ) -> Look {
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
        if turn.answers > 0 {
            later.note(turn.answers, self.core.borrow().awaited());
        }
        if turn.room_made {
            self.wake_first_in_line();
        }
        let (is_to_be_released, has_more) = self.hand_events_over();
        if is_to_be_released {
            publish();
        }
        let asleep = self.core.borrow_mut().publish();
        match self.wake {
            // A worker that is gone is noticed elsewhere.
            WakeMode::Futex if asleep => {
                let _ = futex::wake(self.memory.own_word(Word::Doorbell), 1);
            }
            WakeMode::Futex => {}
            WakeMode::Eventfd => caller.proceed(asleep, cx),
        }
        if self.is_dead() {
            Look::Ended(Ended::Dead)
        } else if self.is_drained() {
            Look::Ended(Ended::Drained)
        } else if turn.taken > 0 || has_more {
            Look::Busy { begun: turn.begun }
        } else {
            Look::Quiet { calls: asleep }
        }
    }
}

/// The eventfd that wakes a worker, and the number that is written to it.
type Bell = (File, Box<[u8; 8]>);

async fn ring((file, one): Bell) -> Bell {
    // A bell that cannot be rung has been rung often enough.
    let (_, one) = file.write_at(one, 0).await;
    (file, one)
}

/// Listens to the hub's bell, one read at a time. `F` is the future of [`hear`].
struct BellListener<'a, F> {
    hear: fn(Bell) -> F,
    hearing: Pin<&'a mut Option<F>>,
    bell: Option<Bell>,
}

async fn hear((file, count): Bell) -> (io::Result<()>, Bell) {
    let (result, count) = file.read_at(count, 0).await;
    (result.map(drop), (file, count))
}

impl<'a, F: Future<Output = (io::Result<()>, Bell)>> BellListener<'a, F> {
    fn new(hear: fn(Bell) -> F, hearing: Pin<&'a mut Option<F>>, file: File) -> Self {
        BellListener {
            hear,
            hearing,
            bell: Some((file, Box::new([0; 8]))),
        }
    }

    /// Waits until the bell has been rung since the last time it was heard.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(bell) = self.bell.take() {
            self.hearing.set(Some((self.hear)(bell)));
        }
        let Some(hearing) = self.hearing.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let (result, bell) = ready!(hearing.poll(cx));
        self.hearing.set(None);
        self.bell = Some(bell);
        Poll::Ready(result)
    }
}

/// Rings a worker's bell, one write at a time, as operations of the ring, which go to the kernel with
/// the others. `F` is the future of [`ring`].
struct BellRinger<'a, F> {
    ring: fn(Bell) -> F,
    ringing: Pin<&'a mut Option<F>>,
    bell: Option<Bell>,
    due: bool,
}

impl<'a, F: Future<Output = Bell>> BellRinger<'a, F> {
    fn new(ring: fn(Bell) -> F, ringing: Pin<&'a mut Option<F>>, file: File) -> Self {
        let bell = Some((file, Box::new(1u64.to_ne_bytes())));
        BellRinger {
            ring,
            ringing,
            bell,
            due: false,
        }
    }

    /// Goes on with the write under way, and begins one if `call` or an earlier one asks for it.
    fn proceed(&mut self, call: bool, cx: &mut Context<'_>) {
        self.due |= call;
        loop {
            if let Some(ringing) = self.ringing.as_mut().as_pin_mut() {
                let Poll::Ready(bell) = ringing.poll(cx) else {
                    return;
                };
                self.ringing.set(None);
                self.bell = Some(bell);
            }
            let Some(bell) = self.bell.take_if(|_| self.due) else {
                return;
            };
            self.due = false;
            self.ringing.set(Some((self.ring)(bell)));
        }
    }
}
