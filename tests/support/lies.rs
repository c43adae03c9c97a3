//! Everything a worker can do wrong on purpose, each as one act on a lane: what the hub must make of
//! it is said beside it. Used by a worker in the test's own process and by the evil worker.

use std::os::fd::AsFd;

use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fcntl_setfl};
use slotway::shm::codec::{MAX_ENCODED_RESPONSE, response_prefix};
use slotway::shm::descriptor::{ABORT, Completion, Descriptor, END, Run, UNKNOWN_LENGTH};
use slotway::shm::layout::{HEAD_OFFSET, SLEEP_OFFSET, STARVED_OFFSET, TAIL_OFFSET};
use slotway::sys::eventfd::EventFd;

use super::Random;
use super::raw_worker::{Claim, RawLane, descriptor_bytes, returned, ring};

/// What the hub must make of a lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The worker is evicted, for a reason that holds this text.
    Evicted(&'static str),
    /// The client gets 502, the violation is counted, the worker stays.
    Refused,
    /// The client gets an answer of the worker's making; nothing is wrong but what it says.
    Answered,
    /// Either of [`Verdict::Evicted`] and [`Verdict::Answered`], by what the kernel makes of it.
    DependsOnKernel(&'static str),
    /// The connection of the client breaks in the middle of the answer.
    CutShort,
}

macro_rules! lies {
    ($($name:ident => $verdict:expr,)*) => {
        /// One way to lie about a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Lie { $($name),* }

        impl Lie {
            /// All of them.
            pub const ALL: &[Lie] = &[$(Lie::$name),*];

            /// What the hub must make of it.
            pub fn verdict(self) -> Verdict {
                use Verdict::*;
                match self { $(Lie::$name => $verdict),* }
            }
        }
    };
}

lies! {
    UnknownKind => Evicted("unknown kind"),
    KindZero => Evicted("unknown kind 0"),
    NextGeneration => Evicted("does not exist or is over"),
    LastGeneration => Evicted("does not exist or is over"),
    NoSuchExchange => Evicted("does not exist or is over"),
    AnotherExchange => Evicted("does not exist or is over"),
    DoubleEnd => Evicted("does not exist or is over"),
    DoubleResponse => Evicted("second response"),
    BodyFirst => Evicted("body before its response"),
    AbortWithoutEnd => Evicted("body before its response, or"),
    HeadPastFrame => Evicted("does not fit"),
    HeadOfNothing => Evicted("does not fit"),
    BodyPastFrame => Evicted("does not fit"),
    FrameOfNothing => Evicted("does not fit"),
    FirstPastArena => Evicted("does not fit"),
    RunPastArena => Evicted("does not fit"),
    HugeCounts => Evicted("does not fit"),
    OverlappingFrames => Evicted("still holds"),
    ReturnedTwice => Evicted("not lent"),
    ReturnedInPart => Evicted("not lent"),
    ReturnedElse => Evicted("not lent"),
    ReturnedPastArena => Evicted("not lent"),
    TooMuchBody => Evicted("more or fewer bytes"),
    TooLittleBody => Evicted("more or fewer bytes"),
    PongUnasked => Evicted("ping that was never sent"),
    EventOfAnExchange => Evicted("does not exist or is over"),
    EventWithFlags => Evicted("body before its response, or"),
    EventTooMany => Evicted("does not fit"),
    EventNonsense => Evicted("records cannot be read"),
    TailAhead => Evicted("ring index"),
    TailFarAhead => Evicted("ring index"),
    TailBack => Evicted("ring index"),
    RingNonsense => Evicted("it "),
    ReplayedAnswer => Evicted("it "),
    ReplayedReturn => Evicted("not lent"),
    HeadWithNewlines => Refused,
    HeadWithBareCr => Refused,
    HeadWithNul => Refused,
    HeadWithBadName => Refused,
    HeadFolded => Refused,
    StatusTooLow => Refused,
    StatusTooHigh => Refused,
    StatusInterim => Refused,
    FieldsPastHead => Refused,
    HeadTooLong => Refused,
    HeadOfNoise => Refused,
    Abort => CutShort,
    ConsumerAhead => Answered,
    SleepersNonsense => Answered,
    BellSaturated => Answered,
    BellDrained => Answered,
    HolesBehindTheAnswer => Answered,
    ReadsWithoutEnd => Answered,
    OwnBellBlocked => Answered,
    BellWithoutBlocking => DependsOnKernel("eventfd"),
}

/// Serves `claim`, which was taken from `lane`, with this lie. What follows is the hub's to say.
pub fn tell(lie: Lie, lane: &mut RawLane, claim: &Claim, random: &mut Random) {
    let slots = lane.geometry.slots();
    let honest = lane.frame(claim, 200, b"x-lie: yes\r\n", claim.target.as_bytes());
    let Some(honest) = honest else { return };
    let size = lane.geometry.slot_size() as u32;
    let (one, two) = (
        honest,
        Descriptor {
            flags: 0,
            total: UNKNOWN_LENGTH,
            ..honest
        },
    );
    let body = |d: Descriptor| Descriptor {
        kind: Completion::Body as u8,
        head_len: 0,
        ..d
    };
    let headed = |lane: &mut RawLane, status: u16, fields: &[u8]| {
        lane.forget(&honest);
        if let Some(d) = lane.frame(claim, status, fields, b"body") {
            lane.push(d);
            lane.give_back(&claim.descriptor);
        }
    };
    let event = Descriptor {
        kind: Completion::Event as u8,
        flags: 0,
        exchange: 0,
        generation: 0,
        head_len: 0,
        body_len: size,
        total: 1,
        ..one
    };
    match lie {
        Lie::UnknownKind => lane.push(Descriptor {
            kind: 7 + random.below(249) as u8,
            ..one
        }),
        Lie::KindZero => lane.push(Descriptor::default()),
        Lie::NextGeneration => lane.push(Descriptor {
            generation: one.generation.wrapping_add(1),
            ..one
        }),
        Lie::LastGeneration => lane.push(Descriptor {
            generation: one.generation.wrapping_sub(1),
            ..one
        }),
        Lie::NoSuchExchange => {
            let beyond = slots + random.below(u64::from(u32::MAX - slots)) as u32;
            lane.push(Descriptor {
                exchange: beyond,
                ..one
            });
        }
        Lie::AnotherExchange => lane.push(Descriptor {
            exchange: slots - 1,
            generation: 77,
            ..one
        }),
        Lie::DoubleEnd => {
            lane.push(one);
            lane.push(Descriptor {
                slots: 0,
                body_len: 0,
                ..body(one)
            });
        }
        Lie::DoubleResponse => {
            lane.push(two);
            if let Some(second) = lane.frame(claim, 200, b"", b"") {
                lane.push(second);
            }
        }
        Lie::BodyFirst => lane.push(body(one)),
        Lie::AbortWithoutEnd => lane.push(Descriptor {
            flags: ABORT,
            ..one
        }),
        Lie::HeadPastFrame => lane.push(Descriptor {
            head_len: u32::from(one.slots) * size + 1,
            ..one
        }),
        Lie::HeadOfNothing => lane.push(Descriptor { head_len: 0, ..one }),
        Lie::BodyPastFrame => lane.push(Descriptor {
            body_len: u32::from(one.slots) * size - 63,
            ..one
        }),
        Lie::FrameOfNothing => lane.push(Descriptor { slots: 0, ..one }),
        Lie::FirstPastArena => lane.push(Descriptor {
            first: slots + random.below(1 << 20) as u32,
            ..one
        }),
        Lie::RunPastArena => lane.push(Descriptor {
            first: slots - 1,
            slots: 2,
            ..one
        }),
        Lie::HugeCounts => lane.push(Descriptor {
            slots: u16::MAX,
            first: u32::MAX,
            head_len: u32::MAX,
            body_len: u32::MAX,
            total: u64::MAX - 1,
            ..one
        }),
        Lie::OverlappingFrames => {
            // Published together, so that no reader can give the first back in between.
            let at = [
                lane.entry_at(lane.tail),
                lane.entry_at(lane.tail.wrapping_add(1)),
            ];
            lane.response.write(at[0], &descriptor_bytes(&two));
            lane.response.write(at[1], &descriptor_bytes(&body(two)));
            lane.tail = lane.tail.wrapping_add(2);
            lane.response.set_word(TAIL_OFFSET, lane.tail);
            lane.ring();
        }
        Lie::ReturnedTwice => {
            lane.give_back(&claim.descriptor);
            lane.give_back(&claim.descriptor);
        }
        Lie::ReturnedInPart => lane.push(returned(Run {
            first: claim.descriptor.first,
            slots: u32::from(claim.descriptor.slots) + 1,
        })),
        Lie::ReturnedElse => lane.push(returned(Run {
            first: slots - 1,
            slots: 1,
        })),
        Lie::ReturnedPastArena => lane.push(returned(Run {
            first: u32::MAX,
            slots: 0xFFFF,
        })),
        Lie::TooMuchBody => lane.push(Descriptor {
            total: 1,
            body_len: 64,
            ..one
        }),
        Lie::TooLittleBody => lane.push(Descriptor {
            total: u64::MAX - 1,
            ..one
        }),
        Lie::PongUnasked => lane.push(Descriptor {
            kind: Completion::Pong as u8,
            generation: u32::MAX,
            ..Descriptor::default()
        }),
        Lie::EventOfAnExchange => lane.push(Descriptor {
            exchange: 3,
            generation: 9,
            ..event
        }),
        Lie::EventWithFlags => lane.push(Descriptor {
            flags: END,
            ..event
        }),
        Lie::EventTooMany => lane.push(Descriptor {
            total: u64::MAX,
            ..event
        }),
        Lie::EventNonsense => {
            let noise: Vec<u8> = (0..size).map(|_| random.next() as u8 | 0x80).collect();
            lane.response.write(lane.slot_at(one.first), &noise);
            lane.push(event);
        }
        Lie::TailAhead => jump(lane, lane.geometry.ring_entries() + 1),
        Lie::TailFarAhead => jump(lane, 1 << 31),
        Lie::TailBack => jump(lane, u32::MAX),
        Lie::RingNonsense => {
            for index in 0..lane.geometry.ring_entries() {
                let noise: Vec<u8> = (0..32).map(|_| random.next() as u8 | 0x08).collect();
                lane.response.write(lane.entry_at(index), &noise);
            }
            jump(lane, lane.geometry.ring_entries());
        }
        Lie::BellWithoutBlocking => {
            set_blocking(&lane.hub_bell, false);
            // The hub has to come back to it once.
            lane.push(one);
            lane.give_back(&claim.descriptor);
            ring(&lane.hub_bell);
        }
        Lie::ReplayedAnswer => {
            lane.push(one);
            lane.push(one);
        }
        Lie::ReplayedReturn => {
            lane.push(one);
            lane.give_back(&claim.descriptor);
            let back = *lane.history.last().expect("just pushed");
            lane.push(back);
        }
        Lie::HeadWithNewlines => headed(
            lane,
            200,
            b"x: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        Lie::HeadWithBareCr => headed(lane, 200, b"x: a\rb\r\n"),
        Lie::HeadWithNul => headed(lane, 200, b"x: a\0b\r\n"),
        Lie::HeadWithBadName => headed(lane, 200, b"x y: a\r\n"),
        Lie::HeadFolded => headed(lane, 200, b"x: a\r\n b\r\n"),
        Lie::StatusTooLow => headed(lane, 42, b""),
        Lie::StatusTooHigh => headed(lane, 600 + random.below(64_000) as u16, b""),
        Lie::StatusInterim => headed(lane, 101, b"connection: upgrade\r\n"),
        Lie::FieldsPastHead => {
            let at = lane.slot_at(one.first);
            lane.response.write(at, &response_prefix(200, 16_384));
            lane.push(one);
            lane.give_back(&claim.descriptor);
        }
        Lie::HeadTooLong => {
            // Were it shorter, what follows the field section would not matter.
            lane.forget(&one);
            let rest = vec![b'x'; MAX_ENCODED_RESPONSE];
            let frame = lane.frame(claim, 200, b"x-lie: yes\r\n", &rest);
            let mut long = frame.expect("a lane has room for a head");
            (long.head_len, long.body_len) = (MAX_ENCODED_RESPONSE as u32 + 1, 0);
            long.total = 0;
            finish(lane, claim, long);
        }
        Lie::HeadOfNoise => {
            let noise: Vec<u8> = (0..one.head_len)
                .map(|_| random.next() as u8 | 0x80)
                .collect();
            lane.response.write(lane.slot_at(one.first), &noise);
            lane.push(one);
            lane.give_back(&claim.descriptor);
        }
        Lie::Abort => {
            let rest = Descriptor {
                flags: END | ABORT,
                slots: 0,
                body_len: 0,
                ..body(two)
            };
            lane.push(two);
            lane.push(rest);
            lane.give_back(&claim.descriptor);
        }
        Lie::ConsumerAhead => {
            lane.response.set_word(HEAD_OFFSET, random.next() as u32);
            finish(lane, claim, one);
        }
        Lie::SleepersNonsense => {
            lane.response
                .set_word(SLEEP_OFFSET, random.next() as u32 | 1);
            lane.response
                .set_word(STARVED_OFFSET, random.next() as u32 | 1);
            finish(lane, claim, one);
        }
        Lie::BellSaturated => {
            saturate(&lane.hub_bell);
            finish(lane, claim, one);
        }
        Lie::BellDrained => {
            finish(lane, claim, one);
            drain(&lane.hub_bell);
        }
        Lie::HolesBehindTheAnswer => {
            // All but the page with the rings' indices and the answer: what the hub holds stays.
            let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let len = lane.geometry.arena_len() as u64 / 2;
            let at = lane.geometry.memory_len() as u64 - len;
            fallocate(&lane.response_fd, holes, at, len).expect("the worker's to give up");
            finish(lane, claim, one);
        }
        Lie::ReadsWithoutEnd => {
            for _ in 0..lane.geometry.ring_entries() / 2 {
                lane.push(Descriptor {
                    kind: Completion::Read as u8,
                    exchange: random.next() as u32,
                    generation: random.next() as u32,
                    ..Descriptor::default()
                });
            }
            finish(lane, claim, one);
        }
        Lie::OwnBellBlocked => {
            tamper_with_doorbell(&lane.own_bell);
            lane.response.set_word(SLEEP_OFFSET, 1);
            finish(lane, claim, one);
        }
    }
}

/// The honest end of a request.
fn finish(lane: &mut RawLane, claim: &Claim, answer: Descriptor) {
    lane.push(answer);
    lane.give_back(&claim.descriptor);
}

/// Moves the index of the completion ring without writing anything.
fn jump(lane: &mut RawLane, by: u32) {
    lane.tail = lane.tail.wrapping_add(by);
    lane.response.set_word(TAIL_OFFSET, lane.tail);
    lane.ring();
}

/// Sets or clears the non-blocking flag of an eventfd, which both processes share.
pub fn set_blocking(bell: impl AsFd, blocking: bool) {
    let mut flags = fcntl_getfl(&bell).expect("flags");
    flags.set(OFlags::NONBLOCK, !blocking);
    fcntl_setfl(&bell, flags).expect("flags can be set");
}

/// Fills an eventfd's counter to the brim. Only for a bell that is non-blocking, or that nobody else
/// rings: a write that finds no room would wait.
pub fn saturate(bell: impl AsFd) {
    loop {
        drain(&bell);
        match rustix::io::write(&bell, &(u64::MAX - 1).to_ne_bytes()) {
            // The hub has rung a non-blocking one in between.
            Err(rustix::io::Errno::AGAIN) => {}
            _ => return,
        }
    }
}

/// Does to the worker's own doorbell what would make the hub wait if it rang an eventfd that both share.
/// Nothing of it may be possible.
pub fn tamper_with_doorbell(bell: impl AsFd) {
    set_blocking(&bell, false);
    let filled = rustix::io::write(&bell, &(u64::MAX - 1).to_ne_bytes());
    assert_eq!(filled, Err(rustix::io::Errno::INVAL), "no counter to fill");
    set_blocking(&bell, true);
}

/// Takes a ring away from whoever it was meant for, if it is still there. Never waits.
pub fn drain(bell: impl AsFd) {
    let copy = bell.as_fd().try_clone_to_owned().expect("a descriptor");
    let _ = EventFd::from(copy).drain();
}

/// A descriptor with some of its bytes wrong, for the modes that know the structure.
pub fn bent(d: Descriptor, random: &mut Random) -> Descriptor {
    let odd = |random: &mut Random, value: u32| match random.below(5) {
        0 => value.wrapping_add(1),
        1 => value.wrapping_sub(1),
        2 => u32::MAX,
        3 => random.next() as u32,
        _ => 0,
    };
    let mut bent = d;
    match random.below(8) {
        0 => bent.kind = random.below(9) as u8,
        1 => bent.flags = random.next() as u8,
        2 => bent.slots = odd(random, u32::from(d.slots)) as u16,
        3 => bent.first = odd(random, d.first),
        4 => bent.exchange = odd(random, d.exchange),
        5 => bent.generation = odd(random, d.generation),
        6 => bent.head_len = odd(random, d.head_len),
        _ => (bent.body_len, bent.total) = (odd(random, d.body_len), random.next()),
    }
    bent
}
