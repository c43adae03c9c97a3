//! A request body on its way to the worker, frame by frame, at the pace of whoever is slower. The
//! kernel receives into the frame wherever the bytes need no decoding.

use std::future::Future;
use std::rc::Rc;

use crate::gateway::buffers::SlotBuffer;
use crate::gateway::clock::Clock;
use crate::gateway::connection::{BodyFault, exceeds};
use crate::gateway::input::{Input, ReadDone};
use crate::gateway::lane::{Exchange, Failure, RequestFrame, Share};
use crate::gateway::receiver::Receiver;
use crate::http::{ChunkDecoder, ChunkStep};
use crate::limits::{MAX_STREAM_FRAME, SHORT_STREAM_FRAME, STREAM_WINDOW};
use crate::message::BodyLength;
use crate::shm::descriptor::END;
use crate::shm::layout::Geometry;
use crate::shm::region::Slots;

/// Why an upload ended early.
pub(super) enum UploadEnd {
    /// The client's fault.
    Client(BodyFault),
    /// The worker's.
    Worker(Failure),
}

/// A request body on its way to the worker.
///
/// A client that is slow holds slots only within the [share](crate::gateway::lane::Lane::share) of the
/// lane that is for that. Beyond it, bytes come into the connection's buffer, and take slots when they
/// are there.
pub(super) struct Upload<'a> {
    exchange: &'a Exchange<'a>,
    receiver: Receiver<'a>,
    clock: &'a Rc<Clock>,
    timeout_ms: u64,
    body: Unfinished,
    /// How many bytes the client had sent at once when a frame was last received into.
    at_once: usize,
}

/// A body that is still to be received.
pub(super) struct Unfinished {
    /// How long it is.
    pub(super) length: BodyLength,
    /// How many bytes of it are taken where that is not known in advance.
    pub(super) most: u64,
    /// What its head has of the share, until the body is complete.
    pub(super) share: Option<Share>,
}

impl<'a> Upload<'a> {
    /// Of a body of which nothing was handed to the worker yet. The worker has `timeout_ms` for each
    /// frame's slots, and for its answer once the body is complete.
    pub(super) fn new(
        exchange: &'a Exchange<'a>,
        receiver: Receiver<'a>,
        clock: &'a Rc<Clock>,
        timeout_ms: u64,
        body: Unfinished,
    ) -> Upload<'a> {
        Upload {
            exchange,
            receiver,
            clock,
            timeout_ms,
            body,
            at_once: 0,
        }
    }

    /// Receives all of it and hands it to the worker.
    pub(super) async fn run<F: Future<Output = ReadDone>>(
        &mut self,
        input: &mut Input<'_, F>,
    ) -> Result<(), UploadEnd> {
        match self.body.length {
            BodyLength::None => Ok(()),
            BodyLength::Known(length) => self.run_known(input, length).await,
            BodyLength::Chunked => self.run_chunked(input).await,
        }
    }

    /// Bytes that the kernel has received go into the frame as they are.
    async fn run_known<F: Future<Output = ReadDone>>(
        &mut self,
        input: &mut Input<'_, F>,
        length: u64,
    ) -> Result<(), UploadEnd> {
        let mut left = length;
        while left > 0 {
            if input.buffered().is_empty() && !self.may_receive() {
                self.fill(input).await?;
            }
            let mut slots = self.allocate().await?;
            let most = (self.bytes_in(&slots) as u64).min(left) as usize;
            let buffered = input.buffered();
            let lane = self.exchange.lane();
            let filled = if !buffered.is_empty() {
                let filled = buffered.len().min(most);
                lane.memory().bytes_mut(&mut slots)[..filled].copy_from_slice(&buffered[..filled]);
                input.consume(filled);
                filled
            } else if let Some(share) = lane.share(slots.run().slots as usize) {
                let (back, filled) = self.receive(input, slots, 0, most).await?;
                drop(share);
                slots = back;
                filled
            } else {
                // Others have become slow meanwhile.
                lane.release(slots);
                continue;
            };
            left -= filled as u64;
            self.submit(slots, filled, Some(length), left == 0);
        }
        Ok(())
    }

    async fn run_chunked<F: Future<Output = ReadDone>>(
        &mut self,
        input: &mut Input<'_, F>,
    ) -> Result<(), UploadEnd> {
        let mut decoder = ChunkDecoder::default();
        let mut taken = 0;
        loop {
            if input.buffered().is_empty() && (decoder.data_remaining() == 0 || !self.may_receive())
            {
                self.fill(input).await?;
            }
            let slots = self.allocate().await?;
            let (slots, filled) = self
                .fill_frame(input, &mut decoder, &mut taken, slots)
                .await?;
            let ended = decoder.is_done();
            if filled > 0 {
                self.submit(slots, filled, None, ended);
            } else {
                self.exchange.lane().release(slots);
                if ended {
                    self.body.share = None;
                    self.exchange.end(self.clock.now_ms() + self.timeout_ms);
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Decodes what has arrived into one frame; waits for more only where there is nothing, and only
    /// within a chunk. Returns how many bytes of data the frame has; `taken` counts them too.
    async fn fill_frame<F: Future<Output = ReadDone>>(
        &mut self,
        input: &mut Input<'_, F>,
        decoder: &mut ChunkDecoder,
        taken: &mut u64,
        mut slots: Slots,
    ) -> Result<(Slots, usize), UploadEnd> {
        let http = |fault| UploadEnd::Client(BodyFault::Http(fault));
        let lane = self.exchange.lane();
        let room = self.bytes_in(&slots);
        let mut filled = 0;
        while filled < room && !decoder.is_done() {
            let buffered = input.buffered();
            if buffered.is_empty() {
                let within = decoder.data_remaining().min(room as u64) as usize;
                if filled > 0 || within == 0 {
                    break;
                }
                let Some(share) = lane.share(slots.run().slots as usize) else {
                    break;
                };
                // Inside a chunk the kernel receives straight into the frame, up to its end.
                let (mut back, received) = self.receive(input, slots, 0, within).await?;
                drop(share);
                let bytes = &lane.memory().bytes_mut(&mut back)[..received];
                decoder.advance(bytes).map_err(http)?;
                *taken += received as u64;
                return Ok((back, received));
            }
            let view = &buffered[..buffered.len().min(room - filled)];
            let used = match decoder.advance(view) {
                Ok(ChunkStep::Data(range)) => {
                    let end = range.end;
                    let part = &view[range];
                    lane.memory().bytes_mut(&mut slots)[filled..][..part.len()]
                        .copy_from_slice(part);
                    filled += part.len();
                    *taken += part.len() as u64;
                    end
                }
                Ok(ChunkStep::End(end)) => end,
                Ok(ChunkStep::NeedMore) => view.len(),
                Err(fault) => {
                    lane.release(slots);
                    return Err(http(fault));
                }
            };
            input.consume(used);
            if exceeds(self.body.most, *taken, decoder) {
                lane.release(slots);
                return Err(UploadEnd::Client(BodyFault::TooLong(self.body.most)));
            }
        }
        Ok((slots, filled))
    }

    async fn fill<F: Future<Output = ReadDone>>(
        &mut self,
        input: &mut Input<'_, F>,
    ) -> Result<(), UploadEnd> {
        self.receiver.fill(input).await.map_err(UploadEnd::Client)
    }

    async fn receive<F: Future<Output = ReadDone>>(
        &mut self,
        input: &mut Input<'_, F>,
        slots: Slots,
        offset: usize,
        most: usize,
    ) -> Result<(Slots, usize), UploadEnd> {
        let buffer = SlotBuffer::new(self.exchange.lane(), slots, offset, most);
        // The part lies within the slots.
        let buffer = buffer.ok_or(UploadEnd::Client(BodyFault::Gone))?;
        let (result, buffer) = self.receiver.fill_slots(input, buffer).await;
        result.map_err(UploadEnd::Client)?;
        self.at_once = buffer.received();
        Ok((buffer.into_slots(), self.at_once))
    }

    /// Whether the client may fill a frame at its own pace.
    fn may_receive(&self) -> bool {
        self.exchange.lane().may_receive(self.most_slots())
    }

    async fn allocate(&self) -> Result<Slots, UploadEnd> {
        let deadline_ms = self.clock.now_ms() + self.timeout_ms;
        let expired = || self.clock.now_ms() >= deadline_ms;
        let slots = self
            .exchange
            .allocate(self.most_slots(), STREAM_WINDOW, expired)
            .await;
        slots.map_err(UploadEnd::Worker)
    }

    fn submit(&mut self, slots: Slots, filled: usize, total: Option<u64>, last: bool) {
        let slots = self.exchange.lane().trim(slots, filled);
        let flags = if last { END } else { 0 };
        // Until the body is complete it is the client's pace that counts, not the worker's.
        let due_ms = if last {
            self.body.share = None;
            self.clock.now_ms() + self.timeout_ms
        } else {
            u64::MAX
        };
        let frame = RequestFrame {
            head_len: 0,
            body_len: filled,
            total,
            flags,
        };
        self.exchange.submit(slots, frame, due_ms);
    }

    /// Most slots in the next frame: a sixteenth of the arena, so that many bodies can be under way, and
    /// less while the client does not fill that.
    fn most_slots(&self) -> usize {
        let geometry = self.geometry();
        let most = if self.at_once < SHORT_STREAM_FRAME {
            SHORT_STREAM_FRAME
        } else {
            MAX_STREAM_FRAME
        };
        geometry.slots_for(most.min(geometry.arena_len() / 16))
    }

    fn bytes_in(&self, slots: &Slots) -> usize {
        slots.run().slots as usize * self.geometry().slot_size()
    }

    fn geometry(&self) -> Geometry {
        self.exchange.lane().geometry()
    }
}
