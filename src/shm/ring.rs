//! Single-producer, single-consumer rings of descriptors, as in virtio's split: each index has one
//! writer, which keeps its own copy and never reads back what it shares.
//! Nothing here trusts the other side: its index is checked before it is used.

use crate::shm::atomics::{AtomicU32, Ordering, load_acquire};
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
    /// A producer whose index has come this far, so that a check need not count to 2³² to see it wrap.
    #[cfg(any(test, fuzzing, slotway_loom))]
    pub fn starting_at(index: u32) -> Producer {
        Producer {
            tail: index,
            published: index,
            head_seen: index,
        }
    }

    /// Queues a descriptor. The consumer sees it after [`Producer::publish`].
    ///
    /// # Errors
    /// [`PushError::Full`] and [`PushError::BadIndex`].
    pub fn push(&mut self, ring: &impl WriteRing, d: Descriptor) -> Result<(), PushError> {
        if self.tail.wrapping_sub(self.head_seen) >= ring.entries() {
            // SYNC POINT entry-reuse: pairs with the release in `Consumer::release`, so that the
            // consumer's reading of the entry is over before it is written again.
            let head = load_acquire(ring.head());
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
    /// Entries taken so far; runs ahead of what is released.
    head: u32,
    /// The producer's index as last seen; refreshed only when the ring looks empty.
    tail_seen: u32,
    released: u32,
}

impl Consumer {
    /// The counterpart of [`Producer::starting_at`].
    #[cfg(any(test, fuzzing, slotway_loom))]
    pub fn starting_at(index: u32) -> Consumer {
        Consumer {
            head: index,
            tail_seen: index,
            released: index,
        }
    }

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
        let tail = load_acquire(ring.tail());
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const ENTRIES: u32 = 4;

    /// A ring in ordinary memory, whose indices stand where the test wants them.
    struct TestRing {
        tail: AtomicU32,
        head: AtomicU32,
        entries: RefCell<[Descriptor; ENTRIES as usize]>,
    }

    impl TestRing {
        fn starting_at(index: u32) -> TestRing {
            TestRing {
                tail: AtomicU32::new(index),
                head: AtomicU32::new(index),
                entries: RefCell::default(),
            }
        }
    }

    impl RingIndices for TestRing {
        fn tail(&self) -> &AtomicU32 {
            &self.tail
        }
        fn head(&self) -> &AtomicU32 {
            &self.head
        }
        fn entries(&self) -> u32 {
            ENTRIES
        }
    }

    impl WriteRing for TestRing {
        fn write(&self, index: u32, descriptor: Descriptor) {
            self.entries.borrow_mut()[(index % ENTRIES) as usize] = descriptor;
        }
    }

    impl ReadRing for TestRing {
        fn read(&self, index: u32) -> Descriptor {
            self.entries.borrow()[(index % ENTRIES) as usize]
        }
    }

    fn numbered(number: u32) -> Descriptor {
        Descriptor {
            generation: number,
            ..Descriptor::default()
        }
    }

    #[test]
    fn descriptors_come_in_order_past_the_wrap_of_the_indices() {
        let start = u32::MAX - 5;
        let ring = TestRing::starting_at(start);
        let mut producer = Producer::starting_at(start);
        let mut consumer = Consumer::starting_at(start);
        let (mut sent, mut taken) = (0, 0);
        for round in 0..40 {
            for _ in 0..=round % ENTRIES {
                producer.push(&ring, numbered(sent)).unwrap();
                sent += 1;
            }
            assert_eq!(consumer.pop(&ring), Ok(None), "not published yet");
            assert_eq!(producer.unpublished(), round % ENTRIES + 1);
            assert_eq!(producer.publish(&ring), round % ENTRIES + 1);
            while let Some(d) = consumer.pop(&ring).unwrap() {
                assert_eq!(d, numbered(taken));
                taken += 1;
                assert_eq!(consumer.seen(), sent - taken);
            }
            assert_eq!(taken, sent);
            consumer.release(&ring);
        }
    }

    #[test]
    fn a_full_ring_takes_more_only_after_a_release() {
        let start = u32::MAX - 1;
        let ring = TestRing::starting_at(start);
        let mut producer = Producer::starting_at(start);
        let mut consumer = Consumer::starting_at(start);
        for number in 0..ENTRIES {
            producer.push(&ring, numbered(number)).unwrap();
        }
        producer.publish(&ring);
        assert_eq!(producer.push(&ring, numbered(9)), Err(PushError::Full));
        assert_eq!(consumer.pop(&ring), Ok(Some(numbered(0))));
        assert_eq!(producer.push(&ring, numbered(9)), Err(PushError::Full));
        consumer.release(&ring);
        assert_eq!(producer.push(&ring, numbered(9)), Ok(()));
        assert_eq!(producer.push(&ring, numbered(9)), Err(PushError::Full));
    }

    #[test]
    fn indices_that_cannot_be_true_are_refused() {
        for start in [0, u32::MAX - 1, 1 << 31] {
            let ring = TestRing::starting_at(start);
            let mut consumer = Consumer::starting_at(start);
            for tail in [ENTRIES + 1, u32::MAX, 1 << 31] {
                ring.tail.store(start.wrapping_add(tail), Ordering::Relaxed);
                assert_eq!(consumer.pop(&ring), Err(BadIndex), "{tail} from {start}");
            }
            ring.tail.store(start.wrapping_add(3), Ordering::Relaxed);
            assert!(consumer.pop(&ring).unwrap().is_some());
            ring.tail.store(start.wrapping_add(2), Ordering::Relaxed);
            assert_eq!(consumer.refresh(&ring), Err(BadIndex), "it moved backwards");

            let ring = TestRing::starting_at(start);
            let mut producer = Producer::starting_at(start);
            for number in 0..ENTRIES {
                producer.push(&ring, numbered(number)).unwrap();
            }
            producer.publish(&ring);
            for head in [u32::MAX, ENTRIES + 1, 1 << 31] {
                ring.head.store(start.wrapping_add(head), Ordering::Relaxed);
                assert_eq!(
                    producer.push(&ring, numbered(9)),
                    Err(PushError::BadIndex),
                    "{head} from {start}"
                );
            }
        }
    }
}
