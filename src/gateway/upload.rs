//! A request body on its way to the worker, frame by frame, at the pace of whoever is slower. The
//! kernel receives into the frame wherever the bytes need no decoding.

use std::future::Future;
use std::rc::Rc;

use crate::gateway::buffers::SlotBuffer;
use crate::gateway::clock::Clock;
use crate::gateway::connection::BodyFault;
use crate::gateway::input::{Input, ReadDone};
use crate::gateway::lane::{Exchange, Failure, RequestFrame};
use crate::gateway::watch::Watch;
use crate::http::{ChunkDecoder, ChunkStep};
use crate::limits::{MAX_STREAM_FRAME, STALL_TIMEOUT_MS, STREAM_WINDOW};
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
pub(super) struct Upload<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) geometry: Geometry,
    pub(super) watch: &'a Watch,
    pub(super) clock: &'a Rc<Clock>,
    pub(super) timeout_ms: u64,
}

impl Upload<'_> {
    /// Receives all of it and hands it to the worker.
    pub(super) async fn run<F: Future<Output = ReadDone>>(
        &self,
        input: &mut Input<'_, F>,
        body: BodyLength,
    ) -> Result<(), UploadEnd> {
        match body {
            BodyLength::None => Ok(()),
            BodyLength::Known(length) => self.run_known(input, length).await,
            BodyLength::Chunked => self.run_chunked(input).await,
        }
    }

    /// Bytes that the kernel has received go into the frame as they are.
    async fn run_known<F: Future<Output = ReadDone>>(
        &self,
        input: &mut Input<'_, F>,
        length: u64,
    ) -> Result<(), UploadEnd> {
        let mut left = length;
        while left > 0 {
            let mut slots = self.allocate().await?;
            let most = (self.bytes_in(&slots) as u64).min(left) as usize;
            let buffered = input.buffered();
            let filled = if buffered.is_empty() {
                let (back, filled) = self.receive(input, slots, 0, most).await?;
                slots = back;
                filled
            } else {
                let filled = buffered.len().min(most);
                let lane = self.exchange.lane();
                lane.memory().bytes_mut(&mut slots)[..filled].copy_from_slice(&buffered[..filled]);
                input.consume(filled);
                filled
            };
            left -= filled as u64;
            self.submit(slots, filled, Some(length), left == 0);
        }
        Ok(())
    }

    async fn run_chunked<F: Future<Output = ReadDone>>(
        &self,
        input: &mut Input<'_, F>,
    ) -> Result<(), UploadEnd> {
        let mut decoder = ChunkDecoder::default();
        let http = |fault| UploadEnd::Client(BodyFault::Http(fault));
        loop {
            let mut slots = self.allocate().await?;
            let room = self.bytes_in(&slots);
            let mut filled = 0;
            let mut ended = false;
            // Whatever has arrived goes into one frame; the wait for more is for an empty one only.
            while filled < room && !ended {
                let buffered = input.buffered();
                if buffered.is_empty() {
                    let within = decoder.data_remaining().min(usize::MAX as u64) as usize;
                    if filled > 0 {
                        break;
                    } else if within > 0 {
                        // Inside a chunk the kernel receives straight into the frame, up to its end.
                        let most = within.min(room);
                        let (mut back, received) = self.receive(input, slots, 0, most).await?;
                        let lane = self.exchange.lane();
                        let bytes = &lane.memory().bytes_mut(&mut back)[..received];
                        decoder.advance(bytes).map_err(http)?;
                        (slots, filled) = (back, received);
                    } else {
                        self.watch
                            .expect_read(self.clock.now_ms() + STALL_TIMEOUT_MS);
                        let received = input.fill().await;
                        self.watch.clear_read();
                        if !matches!(received, Ok(1..)) {
                            self.exchange.lane().release(slots);
                            return Err(UploadEnd::Client(gone_or_slow(self.watch)));
                        }
                    }
                    continue;
                }
                let view = &buffered[..buffered.len().min(room - filled)];
                let lane = self.exchange.lane();
                let used = match decoder.advance(view) {
                    Ok(ChunkStep::Data(range)) => {
                        let end = range.end;
                        let part = &view[range];
                        lane.memory().bytes_mut(&mut slots)[filled..][..part.len()]
                            .copy_from_slice(part);
                        filled += part.len();
                        end
                    }
                    Ok(ChunkStep::End(end)) => {
                        ended = true;
                        end
                    }
                    Ok(ChunkStep::NeedMore) => view.len(),
                    Err(fault) => {
                        lane.release(slots);
                        return Err(http(fault));
                    }
                };
                input.consume(used);
            }
            if filled > 0 {
                self.submit(slots, filled, None, ended);
            } else {
                self.exchange.lane().release(slots);
                if ended {
                    self.exchange.end(self.clock.now_ms() + self.timeout_ms);
                }
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn receive<F: Future<Output = ReadDone>>(
        &self,
        input: &mut Input<'_, F>,
        slots: Slots,
        offset: usize,
        most: usize,
    ) -> Result<(Slots, usize), UploadEnd> {
        let buffer = SlotBuffer::new(self.exchange.lane(), slots, offset, most);
        let buffer = buffer.ok_or(UploadEnd::Client(BodyFault::TooLong))?;
        let (result, buffer) = receive_into(input, self.watch, self.clock, buffer).await;
        result.map_err(UploadEnd::Client)?;
        let received = buffer.received();
        Ok((buffer.into_slots(), received))
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

    fn submit(&self, slots: Slots, filled: usize, total: Option<u64>, last: bool) {
        let slots = self.exchange.lane().trim(slots, filled);
        let flags = if last { END } else { 0 };
        // Until the body is complete it is the client's pace that counts, not the worker's.
        let due_ms = if last {
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

    /// Most slots in a frame: a sixteenth of the arena, so that many bodies can be under way.
    fn most_slots(&self) -> usize {
        let geometry = self.geometry;
        geometry.slots_for(MAX_STREAM_FRAME.min(geometry.arena_len() / 16))
    }

    fn bytes_in(&self, slots: &Slots) -> usize {
        slots.run().slots as usize * self.geometry.slot_size()
    }
}

/// Receives once into slots, within the time a body may stall.
pub(super) async fn receive_into<F: Future<Output = ReadDone>>(
    input: &mut Input<'_, F>,
    watch: &Watch,
    clock: &Clock,
    buffer: SlotBuffer,
) -> (Result<(), BodyFault>, SlotBuffer) {
    watch.expect_read(clock.now_ms() + STALL_TIMEOUT_MS);
    let (result, buffer) = input.fill_slots(buffer).await;
    watch.clear_read();
    (result.map_err(|_| gone_or_slow(watch)), buffer)
}

fn gone_or_slow(watch: &Watch) -> BodyFault {
    if watch.fired() {
        BodyFault::TooSlow
    } else {
        BodyFault::Gone
    }
}
