//! Single-producer, single-consumer rings of descriptors, as in virtio's split: each index has one
//! writer, which keeps its own copy and never reads back what it shares.
//! Nothing here trusts the other side: its index is checked before it is used.

use crate::shm::atomics::{AtomicU32, Ordering};
use crate::shm::descriptor::Descriptor;

/// The two indices of a ring, and its size.
pub trait RingIndices {
    /// The producer's index, written by the producer.
    fn tail(&self) -> &AtomicU32;
    /// The consumer's index, written by the consumer.
    fn head(&self) -> &AtomicU32;
    /// Number of entries; a power of two.
    fn entries(&self) -> u32;
}

/// A ring seen by its producer.
pub trait WriteRing: RingIndices {
    /// Writes the entry at `index` modulo the number of entries; called only for an entry that the
    /// indices give to the producer.
    fn write(&self, index: u32, descriptor: Descriptor);
}

/// A ring seen by its consumer.
pub trait ReadRing: RingIndices {
    /// Copies the entry at `index` modulo the number of entries; called only for an entry that the
    /// indices give to the consumer. What comes back may be anything if the producer lies.
    fn read(&self, index: u32) -> Descriptor;
}

/// The other side's index cannot be true: it has crashed or lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadIndex;

/// Why a descriptor was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// Every entry is taken until the consumer moves on.
    Full,
    /// The consumer's index cannot be true.
    BadIndex,
}

/// The producing end of a ring.
#[derive(Debug, Default)]
pub struct Producer {
    /// Entries written so far; runs ahead of what is published.
    tail: u32,
    published: u32,
    /// The consumer's index as last seen; refreshed only when the ring looks full.
    head_seen: u32,
}

impl Producer {
    /// Queues a descriptor. The consumer sees it after [`Producer::publish`].
    ///
    /// # Errors
    /// [`PushError::Full`] and [`PushError::BadIndex`].
    pub fn push(&mut self, ring: &impl WriteRing, d: Descriptor) -> Result<(), PushError> {
        if self.tail.wrapping_sub(self.head_seen) >= ring.entries() {
            // SYNC POINT entry-reuse: pairs with the release in `Consumer::release`, so that the
            // consumer's reading of the entry is over before it is written again.
            let head = ring.head().load(Ordering::Acquire);
            if self.published.wrapping_sub(head) > ring.entries() {
                return Err(PushError::BadIndex);
            }
            self.head_seen = head;
            if self.tail.wrapping_sub(head) >= ring.entries() {
                return Err(PushError::Full);
            }
        }
        ring.write(self.tail, d);
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Shows the consumer everything queued. Returns how many descriptors that were.
    pub fn publish(&mut self, ring: &impl RingIndices) -> u32 {
        let count = self.tail.wrapping_sub(self.published);
        if count > 0 {
            // SYNC POINT entry-publish: pairs with the acquire in `Consumer::pop`.
            ring.tail().store(self.tail, Ordering::Release);
            self.published = self.tail;
        }
        count
    }

    /// Descriptors queued but not yet published.
    pub fn unpublished(&self) -> u32 {
        self.tail.wrapping_sub(self.published)
    }
}

/// The consuming end of a ring.
#[derive(Debug, Default)]
pub struct Consumer {
    head: u32,
    tail_seen: u32,
    released: u32,
}

impl Consumer {
    /// Takes the next descriptor, if one is published.
    ///
    /// # Errors
    /// The producer's index cannot be true.
    pub fn pop(&mut self, ring: &impl ReadRing) -> Result<Option<Descriptor>, BadIndex> {
        if self.head == self.tail_seen && !self.refresh(ring)? {
            return Ok(None);
        }
        let descriptor = ring.read(self.head);
        self.head = self.head.wrapping_add(1);
        Ok(Some(descriptor))
    }

    /// How many descriptors were published and not yet taken, as of the last look at the index.
    pub fn seen(&self) -> u32 {
        self.tail_seen.wrapping_sub(self.head)
    }

    /// Looks at the producer's index; `true` when there is something to take.
    ///
    /// # Errors
    /// The producer's index cannot be true.
    pub fn refresh(&mut self, ring: &impl RingIndices) -> Result<bool, BadIndex> {
        // SYNC POINT entry-publish: pairs with the release in `Producer::publish`.
        let tail = ring.tail().load(Ordering::Acquire);
        let ready = tail.wrapping_sub(self.head);
        // An index that moved backwards looks like one that ran far ahead.
        if ready > ring.entries() || ready < self.tail_seen.wrapping_sub(self.head) {
            return Err(BadIndex);
        }
        self.tail_seen = tail;
        Ok(ready > 0)
    }

    /// Gives the entries taken so far back to the producer.
    pub fn release(&mut self, ring: &impl RingIndices) {
        if self.released != self.head {
            // SYNC POINT entry-reuse: pairs with the acquire in `Producer::push`.
            ring.head().store(self.head, Ordering::Release);
            self.released = self.head;
        }
    }
}
