//! What clients that are slow may hold of a lane: a share of its request slots, and whether it is time to
//! be less patient with them. Decisions only: who is slow, and what becomes of it, is known elsewhere.

use std::rc::Rc;

use super::{Failure, Lane};
use crate::gateway::watch::Pressure;

impl Lane {
    /// What tells the lane from others while it exists.
    pub fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Whether clients hold most of what the worker answers with.
    pub fn is_crowded(&self) -> bool {
        self.core.borrow().is_crowded()
    }

    /// Whether somebody waits, or is about to, for what clients may hold that are slow: who sends slowly
    /// holds slots of requests, who reads slowly those of answers, and both an exchange.
    pub fn pressure(&self) -> Pressure {
        let core = self.core.borrow();
        // A lane that drains takes no newcomers.
        let wanted = match self.draining.get() {
            true => 0,
            false => core.missing(),
        };
        let for_any = !self.newcomers.is_empty() || wanted > 0;
        Pressure {
            lane: self.address(),
            on_senders: for_any || !self.uploads.is_empty(),
            on_readers: for_any || core.is_starving_worker(),
            wanted,
            in_line: self.newcomers.len(),
        }
    }

    /// Whether clients may hold `slots` more slots with requests that have not arrived: five eighths of
    /// the arena are for that. The rest stays with those that have, however many clients are slow.
    pub fn may_receive(&self, slots: usize) -> bool {
        let most = self.geometry.slots() as usize * 5 / 8;
        self.receiving.get() as usize + slots <= most
    }

    /// A part of what clients may hold at their own pace; `None` while it is used up.
    pub fn share(self: &Rc<Lane>, slots: usize) -> Option<Share> {
        let taken = slots as u32;
        self.may_receive(slots).then(|| {
            self.receiving.set(self.receiving.get() + taken);
            Share {
                lane: self.clone(),
                slots: taken,
            }
        })
    }

    /// As [`Lane::share`], for a request that has nothing yet; `None` also while others wait in line.
    pub fn share_at_once(self: &Rc<Lane>, slots: usize) -> Option<Share> {
        self.uploads.is_empty().then(|| self.share(slots)).flatten()
    }

    /// As [`Lane::share`], waiting in line until `expired` says that it has waited long enough.
    ///
    /// # Errors
    /// The worker is gone, or the time is up.
    pub async fn wait_for_share(
        self: &Rc<Lane>,
        slots: usize,
        expired: impl Fn() -> bool,
    ) -> Result<Share, Failure> {
        self.acquire(&self.uploads, |_| self.share(slots), expired)
            .await
    }
}

/// A part of what clients may hold at their own pace, for as long as one does.
#[derive(Debug)]
pub struct Share {
    lane: Rc<Lane>,
    slots: u32,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.lane
            .receiving
            .set(self.lane.receiving.get() - self.slots);
        self.lane.uploads.wake_first();
    }
}
