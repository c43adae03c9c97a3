//! What must hold of a queue whatever is done to it: steps are made up from bytes, and what came out
//! is judged by what a client understands. Run by tests and by a fuzz target; never part of a normal
//! build.

use std::rc::Rc;

use super::gap::GAP_EVENT;
use super::naive::{NaiveEvent, naive_dechunk, naive_stream};
use super::{Event, EventId, Frame, Pushed, Queue, QueueLimits, SlowPolicy};

const EPOCH: u32 = 0xfeed;

/// Fills, pushes and takes back as the bytes say, then lets the queue run empty. Every event must have
/// come once and in order, or be told of by a gap at its place; and the limits must have been kept.
///
/// # Panics
/// If anything of that is not so.
pub fn check(input: &[u8]) {
    let Some((&[choices, events, bytes, remembered], steps)) = input.split_first_chunk() else {
        return;
    };
    let policies = [
        SlowPolicy::DropNewest,
        SlowPolicy::DropOldest,
        SlowPolicy::Disconnect,
    ];
    let limits = QueueLimits {
        events: usize::from(events % 12),
        bytes: usize::from(bytes) * 8,
    };
    let mut run = Run::new(
        limits,
        policies[usize::from(choices) % 3],
        choices & 64 != 0,
        choices & 32 != 0,
    );
    run.replay(remembered % 8);
    for step in steps.chunks_exact(2) {
        match step[0] % 8 {
            0..=3 => run.push(usize::from(step[0] / 8) * usize::from(step[1]) / 16),
            4 => run.control(),
            5 => run.take_sole(usize::from(step[1])),
            _ => run.fill(usize::from(step[0] / 8).pow(2) / 2, usize::from(step[1])),
        }
    }
    run.finish();
}

struct Run {
    queue: Queue,
    limits: QueueLimits,
    policy: SlowPolicy,
    chunked: bool,
    with_ids: bool,
    /// Data and id of each event, in the order queued.
    published: Vec<(String, Option<EventId>)>,
    comments: usize,
    overflowed: bool,
    displaced: u64,
    refused: u64,
    sent: Vec<u8>,
}

impl Run {
    fn new(limits: QueueLimits, policy: SlowPolicy, chunked: bool, with_ids: bool) -> Self {
        Self {
            queue: Queue::new(limits, policy, chunked),
            limits,
            policy,
            chunked,
            with_ids,
            published: Vec::new(),
            comments: 0,
            overflowed: false,
            displaced: 0,
            refused: 0,
            sent: Vec::new(),
        }
    }

    fn frame(&mut self, len: usize) -> Rc<Frame> {
        let number = self.published.len();
        let id = self.with_ids.then_some(EventId {
            epoch: EPOCH,
            sequence: number as u64 + 1,
        });
        let data = format!("{number} {}", "x".repeat(len));
        let event = Event {
            data: data.as_bytes(),
            ..Event::default()
        };
        let frame = Frame::event(&event, id);
        self.published.push((data, id));
        frame
    }

    fn replay(&mut self, count: u8) {
        self.control();
        let frames: Vec<_> = (0..count)
            .map(|len| self.frame(usize::from(len) * 50))
            .collect();
        self.queue.replay(frames);
        assert_eq!(self.counted(), (0, 0), "what is replayed is not counted");
        self.control();
    }

    fn control(&mut self) {
        let before = self.counted();
        self.queue.control(&Frame::comment("still here"));
        assert_eq!(self.counted(), before, "a comment is not counted");
        self.comments += 1;
    }

    fn push(&mut self, len: usize) {
        let frame = self.frame(len);
        let (events, bytes) = self.counted();
        let limits = self.limits;
        let fits =
            events == 0 || events < limits.events.max(1) && bytes + frame.len() <= limits.bytes;
        let pushed = self.queue.push(&frame);
        let (events_after, bytes_after) = self.counted();
        match pushed {
            Pushed::Queued => {
                assert!(fits && !self.overflowed);
                assert_eq!(events_after, events + 1);
                assert_eq!(bytes_after, bytes + frame.len());
            }
            Pushed::Displaced(count) => {
                assert!(!fits && self.policy == SlowPolicy::DropOldest);
                assert_eq!(events_after, events + 1 - count as usize);
                self.displaced += u64::from(count);
            }
            Pushed::Dropped => {
                assert!(!fits && self.policy == SlowPolicy::DropNewest);
                assert_eq!(self.counted(), (events, bytes));
                self.refused += 1;
            }
            Pushed::Overflow => {
                assert!(self.policy == SlowPolicy::Disconnect && (!fits || self.overflowed));
                assert_eq!(self.counted(), (events, bytes));
                self.overflowed = true;
                self.refused += 1;
            }
        }
        assert!(events_after <= limits.events.max(1));
        assert!(bytes_after <= limits.bytes || events_after == 1);
        assert_eq!(self.queue.lost_total(), self.displaced + self.refused);
        assert!(!self.queue.is_empty() || self.overflowed);
    }

    fn fill(&mut self, room: usize, taken: usize) {
        let before = self.counted();
        let was_empty = self.queue.is_empty();
        let mut out = vec![b'#'; room];
        let filled = self.queue.fill(&mut out);
        assert_eq!(filled == 0, was_empty || room == 0);
        assert!(filled == room || self.queue.is_empty(), "room was left");
        assert!(out[filled..].iter().all(|&b| b == b'#'));
        let taken = taken.min(filled);
        self.sent.extend_from_slice(&out[..taken]);
        self.queue.unsent(&out[taken..filled]);
        let after = self.counted();
        assert!(after.0 <= before.0 && after.1 <= before.1);
        assert!(taken == filled || !self.queue.is_empty());
    }

    /// As `fill`, with the frame itself where it is all there is.
    fn take_sole(&mut self, taken: usize) {
        let before = self.counted();
        let sole = self.queue.sole().map(|(_, bytes)| bytes.to_vec());
        let count = self.queue.take_sole();
        let Some(bytes) = sole else {
            assert_eq!((count, self.counted()), (0, before));
            return;
        };
        assert_eq!(count, bytes.len());
        assert!(self.queue.is_empty(), "it was not the only one");
        assert_eq!(self.counted(), (0, 0));
        let taken = taken.min(count);
        self.sent.extend_from_slice(&bytes[..taken]);
        self.queue.unsent(&bytes[taken..]);
        assert!(taken == count || !self.queue.is_empty());
    }

    fn counted(&self) -> (usize, usize) {
        (self.queue.queued_events(), self.queue.queued_bytes())
    }

    fn finish(mut self) {
        while !self.queue.is_empty() {
            self.fill(255, 255);
        }
        assert_eq!(self.counted(), (0, 0));
        let text = if self.chunked {
            naive_dechunk(&self.sent).expect("whole chunks")
        } else {
            std::mem::take(&mut self.sent)
        };
        let stream = naive_stream(&text).expect("a whole stream");
        assert_eq!(stream.comments.len(), self.comments, "comments get through");

        let mut missing = self.published.iter();
        let mut told: Vec<(u64, String, String)> = Vec::new();
        let mut lost = 0;
        for event in &stream.events {
            if event.name == GAP_EVENT.as_bytes() {
                told.push(told_by(event));
                continue;
            }
            assert!(event.name.is_empty());
            let before = missing.as_slice();
            let place = missing
                .position(|(data, _)| data.as_bytes() == event.data)
                .expect("events come once and in order");
            lost += self.compare(&before[..place], &std::mem::take(&mut told));
            if let Some(id) = before[place].1 {
                assert_eq!(event.last_id, id.to_string().as_bytes());
            }
        }
        lost += self.compare(missing.as_slice(), &told);
        assert_eq!(lost, self.queue.lost_total());
    }

    /// The number of events that were lost at one place, where the client was told this.
    fn compare(&self, lost: &[(String, Option<EventId>)], told: &[(u64, String, String)]) -> u64 {
        let count = lost.len() as u64;
        if self.policy == SlowPolicy::Disconnect {
            assert!(told.is_empty() && (count == 0 || self.overflowed));
            return count;
        }
        assert_eq!(told.iter().map(|gap| gap.0).sum::<u64>(), count);
        let shown = |end: Option<&(String, Option<EventId>)>| match end {
            Some((_, Some(id))) => format!("\"{id}\""),
            _ => "null".to_owned(),
        };
        if let (Some(first), Some(last)) = (told.first(), told.last()) {
            assert_eq!(first.1, shown(lost.first()));
            assert_eq!(last.2, shown(lost.last()));
        }
        count
    }
}

/// How many events a gap tells of, the first and the last.
fn told_by(event: &NaiveEvent) -> (u64, String, String) {
    let text = std::str::from_utf8(&event.data).unwrap();
    let rest = text.strip_prefix(r#"{"reason":"slow","lost":"#).unwrap();
    let (lost, rest) = rest.split_once(r#","from":"#).unwrap();
    let (from, rest) = rest.split_once(r#","to":"#).unwrap();
    let to = rest.strip_suffix('}').unwrap();
    if to != "null" {
        // Whoever comes back after the gap does not get what it told of.
        assert_eq!(event.last_id, to.trim_matches('"').as_bytes());
    }
    (lost.parse().unwrap(), from.to_owned(), to.to_owned())
}

/// A splitmix64 generator: enough chance for a test, and a seed is all it needs.
#[cfg(test)]
pub struct Random(u64);

#[cfg(test)]
impl Random {
    /// With the seed from the environment where a run is to be repeated, else from the clock. Prints
    /// it.
    pub fn seeded() -> Self {
        use std::time::{SystemTime, UNIX_EPOCH};
        let seed = match std::env::var("SLOTWAY_TEST_SEED") {
            Ok(text) => text.parse().expect("SLOTWAY_TEST_SEED is a number"),
            Err(_) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                now.expect("it is later than 1970").as_nanos() as u64
            }
        };
        println!("SLOTWAY_TEST_SEED={seed}");
        Self(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_steps_lose_nothing_in_silence() {
        let mut random = Random::seeded();
        for _ in 0..3_000 {
            let steps = random.below(200) as usize;
            let input: Vec<u8> = (0..4 + 2 * steps)
                .map(|_| random.below(256) as u8)
                .collect();
            check(&input);
        }
    }
}
