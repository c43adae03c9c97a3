//! The task that drives a lane: takes completions, publishes submissions, wakes the worker, and
//! sleeps on the hub's eventfd. It runs behind the tasks that were ready before it, so that what
//! they submit in one turn of the loop is published, and the worker woken, once.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use monoio::fs::File;

use crate::control::WakeMode;
use crate::gateway::lane::{EventFrame, Lane, Violation};
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
enum Look {
    Busy,
    Quiet,
    Ended(Ended),
}

impl Lane {
    /// Drives the lane until the worker is gone or the lane has drained. `hub_bell` is the eventfd
    /// the worker rings, `worker_bell` the one it listens to. `publish` gets its events: frames that
    /// are still to be [returned](Lane::return_event), and copies of their bytes.
    pub async fn drive(
        self: Rc<Lane>,
        hub_bell: OwnedFd,
        worker_bell: OwnedFd,
        publish: impl Fn(VecDeque<(EventFrame, Vec<u8>)>),
    ) -> Ended {
        let bells = File::from_std(hub_bell.into()).and_then(|hub| {
            let worker = File::from_std(worker_bell.into())?;
            Ok((hub, worker))
        });
        let Ok((hub_bell, worker_bell)) = bells else {
            return Ended::Dead;
        };
        let ringing = pin!(None);
        let mut caller = BellRinger::new(ring, ringing, worker_bell);
        let mut buffer = Box::new([0; 8]);
        loop {
            // Awake: look, turn after turn of the event loop, until there is nothing to do.
            let awake = poll_fn(|cx| match self.look(&mut caller, &publish, cx) {
                Look::Busy => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Look::Quiet => Poll::Ready(None),
                Look::Ended(ended) => Poll::Ready(Some(ended)),
            });
            if let Some(ended) = awake.await {
                return ended;
            }
            let mut rung = pin!(hub_bell.read_at(buffer, 0));
            let armed = self.core.borrow_mut().arm();
            if self.judge(armed).is_none() {
                return Ended::Dead;
            }
            // Asleep as far as the worker knows. What arrived before it could know is seen by the
            // first look; what arrives later rings.
            let asleep = poll_fn(|cx| {
                match self.look(&mut caller, &publish, cx) {
                    Look::Ended(ended) => return Poll::Ready(Err(ended)),
                    Look::Busy => cx.waker().wake_by_ref(),
                    Look::Quiet => {}
                }
                rung.as_mut().poll(cx).map(Ok)
            });
            let woken = asleep.await;
            self.core.borrow_mut().disarm();
            match woken {
                Ok((Ok(_), back)) => {
                    buffer = back;
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

    fn look<F: Future<Output = Bell>>(
        &self,
        caller: &mut BellRinger<'_, F>,
        publish: &impl Fn(VecDeque<(EventFrame, Vec<u8>)>),
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
        if turn.room_made {
            self.wake_first_in_line();
        }
        let events = self.take_events();
        if !events.is_empty() {
            publish(events);
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
        } else if turn.taken > 0 {
            Look::Busy
        } else {
            Look::Quiet
        }
    }
}

impl Lane {
    fn take_events(&self) -> VecDeque<(EventFrame, Vec<u8>)> {
        let mut events = VecDeque::new();
        let mut core = self.core.borrow_mut();
        while let Some(frame) = core.take_event_frame() {
            let mut bytes = Vec::with_capacity(frame.len);
            // The frame was checked, so there is nothing that could not be copied.
            self.memory
                .copy_response(frame.run, 0, frame.len, &mut bytes);
            events.push_back((frame, bytes));
        }
        events
    }
}

/// The eventfd that wakes a worker, and the number that is written to it.
type Bell = (File, Box<[u8; 8]>);

async fn ring((file, one): Bell) -> Bell {
    // A bell that cannot be rung has been rung often enough.
    let (_, one) = file.write_at(one, 0).await;
    (file, one)
}

/// Rings a worker's bell, one write at a time, as operations of the ring: the worker shares the open
/// file and could make a plain write block this thread. `F` is the future of [`ring`].
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
