//! Whose events are gone through next: the workers that have some take turns of a few events each, and
//! after each turn messages are due, so that no worker keeps the thread from the others or from
//! whoever publishes over HTTP. The events of one worker keep their order, and come behind those of the
//! namesake before it.

use std::collections::VecDeque;

use crate::gateway::shard::Command;
use crate::gateway::stream::LaneEvents;
use crate::gateway::stream::fanout::Fanout;
use crate::gateway::stream::handover::Origin;
use crate::gateway::stream::publish::{Intake, Step};

/// Events of one worker in a turn,
const EVENTS_PER_TURN: usize = 16;
/// and bytes of records after which no further one is begun.
const BYTES_PER_TURN: usize = 32 * 1024;
/// Messages that are due after a turn. Most take much less time than an event.
const MESSAGES_PER_TURN: usize = 256;

/// The workers that have events.
#[derive(Default)]
pub struct Turns {
    /// Whose turn it is.
    current: Option<Intake>,
    /// What it has had of its turn.
    events: usize,
    bytes: usize,
    /// Those that wait for theirs.
    line: VecDeque<Intake>,
    /// Those whose next event waits for a subscriber.
    parked: Vec<Intake>,
    messages_due: usize,
}

impl Turns {
    /// A worker has events. Its turn comes before further messages, unless others are before it.
    pub fn list(&mut self, events: LaneEvents) {
        self.line.push_back(Intake::new(events));
        self.messages_due = 0;
    }

    /// Whether a turn is under way.
    pub fn has_turn(&self) -> bool {
        self.current.is_some()
    }

    /// Whether messages come before the next turn.
    pub fn are_messages_due(&self) -> bool {
        self.messages_due > 0
    }

    /// A message was taken; or there is none, and none is due.
    pub fn had_message(&mut self, there_was_one: bool) {
        self.messages_due = match there_was_one {
            true => self.messages_due.saturating_sub(1),
            false => 0,
        };
    }

    /// Whether a worker waits for a subscriber.
    pub fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Begins the next turn, if there is one.
    pub fn begin(&mut self) -> bool {
        while let Some(next) = self.line.pop_front() {
            // Those of lanes that have ended cost nobody a turn.
            if !next.events.handover.delist_if_empty() {
                (self.events, self.bytes) = (0, 0);
                self.current = Some(next);
                return true;
            }
        }
        false
    }

    /// Has those line up again whose next event need not wait any more.
    pub fn unpark(&mut self, fanout: &Fanout) {
        let mut at = 0;
        while let Some(parked) = self.parked.get(at) {
            if fanout.still_waits(parked) {
                at += 1;
            } else {
                self.line.push_back(self.parked.swap_remove(at));
            }
        }
    }

    /// Goes on with the turn that is under way. Returns whether an event was published.
    pub fn step(&mut self, fanout: &mut Fanout) -> bool {
        let Some(mut intake) = self.current.take() else {
            return false;
        };
        let shard = intake.events.shard;
        let step = fanout.step(&mut intake);
        match step {
            Step::Published(bytes) => {
                self.events += 1;
                self.bytes += bytes;
                if self.events < EVENTS_PER_TURN && self.bytes < BYTES_PER_TURN {
                    self.current = Some(intake);
                } else {
                    intake.pause();
                    self.line.push_back(intake);
                }
            }
            Step::Wait => {
                intake.pause();
                self.parked.push(intake);
            }
            Step::Frame(Origin { index, attach }, frame, outcome) => {
                fanout.shards[shard].send(Command::EventsTaken(index, attach, frame, outcome));
                self.current = Some(intake);
            }
            Step::Empty => {}
            Step::Nonsense(origin) => {
                intake.events.handover.refuse(origin);
                let Origin { index, attach } = origin;
                fanout.shards[shard].send(Command::BadEvents(index, attach));
                self.current = Some(intake);
            }
        }
        if self.current.is_none() {
            self.messages_due = MESSAGES_PER_TURN;
        }
        matches!(step, Step::Published(_))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gateway::lane::EventFrame;
    use crate::gateway::mailbox::{Mailbox, mailbox};
    use crate::gateway::stream::handover::{CopiedFrame, Handover, Progress};
    use crate::gateway::stream::{StreamConfig, Streams};
    use crate::shm::descriptor::Run;
    use crate::shm::events::{EventRecord, EventTarget, encode_event, encoded_event_len};
    use crate::sse::SlowPolicy;

    fn fanout() -> (Fanout, Mailbox<Command>) {
        let config = StreamConfig {
            history_events: 0,
            queue_events: 16,
            slow: SlowPolicy::DropNewest,
            heartbeat_ms: 1_000,
            write_timeout_ms: 30_000,
            sweep_interval_ms: 0,
            orphan_timeout_ms: 1_000,
        };
        let (to_shard, shard) = mailbox().unwrap();
        let (sender, _) = mailbox().unwrap();
        let streams = Streams::new(sender, 1);
        (Fanout::new(streams, config, vec![to_shard], 0), shard)
    }

    fn origin(index: usize) -> Origin {
        Origin { index, attach: 1 }
    }

    /// A lane with frames of so many events of so many bytes.
    fn lane(index: usize, frames: usize, events: usize, size: usize) -> LaneEvents {
        let data = vec![b'x'; size];
        let record = EventRecord {
            target: EventTarget::Path(b"/x"),
            name: b"",
            id: None,
            retry_ms: None,
            data: &data,
        };
        let mut bytes = vec![0; encoded_event_len(&record)];
        encode_event(&mut bytes, &record).unwrap();
        let bytes = bytes.repeat(events);
        let frame = |first| CopiedFrame {
            origin: origin(index),
            progress: Progress::default(),
            frame: EventFrame {
                run: Run { first, slots: 1 },
                len: bytes.len(),
                records: events as u64,
            },
            bytes: bytes.clone(),
        };
        let handover = Arc::new(Handover::default());
        handover.put((0..frames as u32).map(frame).collect());
        assert!(handover.release().lists);
        LaneEvents {
            shard: 0,
            worker: "w".into(),
            handover,
        }
    }

    /// How many events each turn had until there are none left, and whose it was.
    fn turns(turns: &mut Turns, fanout: &mut Fanout) -> Vec<(usize, usize)> {
        let mut had = Vec::new();
        while turns.begin() {
            let index = turns.current.as_ref().unwrap().events.handover.next_is_of();
            let index = index.expect("it has some").index;
            let mut events = 0;
            while turns.has_turn() {
                events += usize::from(turns.step(fanout));
            }
            assert!(turns.are_messages_due(), "after each turn");
            had.push((index, events));
        }
        had
    }

    #[test]
    fn lanes_take_turns_of_a_few_events() {
        let (mut fanout, shard) = fanout();
        let mut rota = Turns::default();
        rota.list(lane(0, 2, 20, 0));
        assert!(!rota.are_messages_due(), "what came first is first");
        rota.list(lane(1, 3, 1, 0));
        rota.list(lane(2, 2, 2, 20 * 1024));
        let had = turns(&mut rota, &mut fanout);
        assert_eq!(
            had,
            [(0, 16), (1, 3), (2, 2), (0, 16), (2, 2), (0, 8), (2, 0)]
        );
        let returned = shard.take().into_iter().map(|command| match command {
            Command::EventsTaken(index, 1, frame, _) => (index, frame.run.first),
            other => panic!("{other:?}"),
        });
        let returned: Vec<_> = returned.collect();
        for (index, frames) in [(0, 2), (1, 3), (2, 2)] {
            let of_lane = returned.iter().filter(|(of, _)| *of == index);
            assert!(of_lane.map(|(_, first)| *first).eq(0..frames));
        }
    }

    #[test]
    fn a_lane_that_ends_costs_nobody_a_turn() {
        let (mut fanout, shard) = fanout();
        let mut rota = Turns::default();
        let ended = lane(0, 1, 100, 0);
        rota.list(ended.clone());
        rota.list(lane(1, 1, 1, 0));
        assert!(rota.begin());
        while rota.has_turn() {
            rota.step(&mut fanout);
        }
        ended.handover.forget(origin(0));
        assert_eq!(turns(&mut rota, &mut fanout), [(1, 1)]);
        assert_eq!(shard.take().len(), 1);
    }
}
