//! Receiving a request body at the client's pace: into the connection's buffer or into slots, no slower
//! than a body may come. Decides nothing about what the bytes mean.

use std::future::Future;

use crate::gateway::ClientLimits;
use crate::gateway::buffers::SlotBuffer;
use crate::gateway::clock::Clock;
use crate::gateway::connection::BodyFault;
use crate::gateway::input::{Input, ReadDone};
use crate::gateway::pace::Pace;
use crate::gateway::watch::Watch;

/// What receives one body.
pub(super) struct Receiver<'a> {
    watch: &'a Watch,
    clock: &'a Clock,
    pace: Pace,
    lane: usize,
}

impl<'a> Receiver<'a> {
    /// For a body of which nothing was waited for yet. `lane` is the address of the lane of which it
    /// holds something meanwhile, or 0.
    pub fn new(
        watch: &'a Watch,
        clock: &'a Clock,
        limits: &ClientLimits,
        lane: usize,
    ) -> Receiver<'a> {
        Receiver {
            watch,
            clock,
            pace: Pace::new(limits),
            lane,
        }
    }

    fn expect(&mut self) {
        let now_ms = self.clock.now_ms();
        let deadline_ms = self.pace.wait(now_ms);
        self.watch.expect_body(deadline_ms, self.lane, now_ms);
    }

    /// Receives once into the connection's buffer.
    pub async fn fill<F: Future<Output = ReadDone>>(
        &mut self,
        input: &mut Input<'_, F>,
    ) -> Result<(), BodyFault> {
        self.expect();
        let received = self.watch.until_late(input.fill()).await;
        self.watch.clear_read();
        match received {
            Some(Ok(count @ 1..)) => {
                self.pace.receive(count, self.clock.now_ms());
                Ok(())
            }
            _ => Err(self.fault()),
        }
    }

    /// Receives once into slots. No read may be under way and nothing be buffered.
    pub async fn fill_slots<F: Future<Output = ReadDone>>(
        &mut self,
        input: &mut Input<'_, F>,
        buffer: SlotBuffer,
    ) -> (Result<(), BodyFault>, SlotBuffer) {
        let before = buffer.received();
        self.expect();
        let cancel = self.watch.cancel_when_late();
        let (result, buffer) = input.fill_slots(buffer, cancel).await;
        self.watch.clear_read();
        match result {
            Ok(()) => {
                let count = buffer.received() - before;
                self.pace.receive(count, self.clock.now_ms());
                (Ok(()), buffer)
            }
            Err(_) => (Err(self.fault()), buffer),
        }
    }

    fn fault(&self) -> BodyFault {
        if self.watch.is_late() {
            BodyFault::TooSlow
        } else {
            BodyFault::Gone
        }
    }
}
