//! The evil worker: a process that attaches again and again, serves honestly for a while, and then
//! writes whatever it likes wherever it can, from several threads. Everything it does follows from a
//! seed. It never writes what it was not handed: its lanes, its bells, its attach socket.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use slotway::control::WakeMode;
use slotway::shm::descriptor::{Completion, Descriptor, END};
use slotway::shm::layout::{
    DOORBELL_OFFSET, HEAD_OFFSET, RING_OFFSET, SLEEP_OFFSET, STARVED_OFFSET, TAIL_OFFSET,
};

use super::Random;
use super::lies::{self, Lie, bent};
use super::raw_worker::{Claim, Mapped, RawWorker, breathe, descriptor_bytes};

/// How many threads scribble beside the one that serves.
const SCRIBBLERS: u64 = 3;
/// How long one attach goes on where the hub has no reason to end it.
const LIFE: Duration = Duration::from_millis(60);
/// Attaches that have ended whose lanes are still written to.
const GRAVES: usize = 4;

/// What one attach is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    /// One lie that has a name.
    Lie,
    /// Random bytes over all of the response memory.
    NoiseAnywhere,
    /// Random words in the header: indices, sleepers, starved.
    NoiseInHeader,
    /// Random bytes in the completion ring.
    NoiseInRing,
    /// Random bytes in the arena alone: heads and bodies change while the hub reads them.
    NoiseInArena,
    /// Honest descriptors that change and change back while the hub reads them.
    FlippingDescriptors,
    /// Descriptors that are almost right.
    BentDescriptors,
    /// Descriptors of the past.
    Replays,
    /// Each client gets the answer of the next, frame and all.
    CrossedAnswers,
    /// Pages given back to the kernel while the hub reads them.
    Holes,
    /// Bells rung, drained, filled and switched.
    Bells,
    /// READ after READ: the only completion that costs a worker nothing.
    Flood,
    /// Nothing at all is answered.
    Silence,
    /// Bytes on the attach socket.
    SocketNoise,
    /// Gone without a word, in the middle of whatever it is.
    Leave,
}

const MODES: [Mode; 15] = [
    Mode::Lie,
    Mode::NoiseAnywhere,
    Mode::NoiseInHeader,
    Mode::NoiseInRing,
    Mode::NoiseInArena,
    Mode::FlippingDescriptors,
    Mode::BentDescriptors,
    Mode::Replays,
    Mode::CrossedAnswers,
    Mode::Holes,
    Mode::Bells,
    Mode::Flood,
    Mode::Silence,
    Mode::SocketNoise,
    Mode::Leave,
];

/// Does evil until the time is over; then prints what came of it, ending with a line `evil: done`.
///
/// # Panics
/// The hub cannot be attached to for long.
pub fn run(socket: &Path, name: &str, seed: u64, time: Duration, crossing: bool) {
    let mut random = Random(seed);
    let start = Instant::now();
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    let mut modes: BTreeMap<Mode, u64> = BTreeMap::new();
    let mut graves: Vec<RawWorker> = Vec::new();
    while start.elapsed() < time {
        let mode = MODES[random.below(MODES.len() as u64) as usize];
        if !crossing && mode.may_cross() {
            continue;
        }
        let mut worker = attach(socket, name, &mut random);
        *modes.entry(mode).or_default() += 1;
        let ended = live(&mut worker, &mut graves, mode, &mut random);
        *reasons.entry(ended).or_default() += 1;
        graves.push(worker);
        if graves.len() > GRAVES {
            graves.remove(0);
        }
    }
    for (mode, count) in modes {
        println!("evil: mode {mode:?} {count}");
    }
    for (reason, count) in reasons {
        println!("evil: ended {count} {reason}");
    }
    println!("evil: done");
}

impl Mode {
    /// Whether the worker may, on purpose or by chance, name a frame that holds another answer.
    fn may_cross(self) -> bool {
        !matches!(
            self,
            Mode::NoiseInHeader
                | Mode::Holes
                | Mode::Bells
                | Mode::Flood
                | Mode::Silence
                | Mode::SocketNoise
                | Mode::Leave
        )
    }
}

fn attach(socket: &Path, name: &str, random: &mut Random) -> RawWorker {
    let wake = match random.below(2) {
        0 => WakeMode::Futex,
        _ => WakeMode::Eventfd,
    };
    let start = Instant::now();
    loop {
        match RawWorker::attach(
            socket,
            name,
            &["GET /evil/{token}", "POST /evil/{token}"],
            wake,
        ) {
            Ok(worker) => return worker,
            Err(error) => assert!(start.elapsed() < super::GUARD, "cannot attach: {error}"),
        }
        breathe();
    }
}

/// One attach, from the first request to its end. Returns how it ended.
fn live(
    worker: &mut RawWorker,
    graves: &mut [RawWorker],
    mode: Mode,
    random: &mut Random,
) -> String {
    let honest = random.below(12);
    let lie = Lie::ALL[random.below(Lie::ALL.len() as u64) as usize];
    let stop = Arc::new(AtomicBool::new(false));
    let deadline = Instant::now() + LIFE;
    let mut answered = 0;
    let mut begun = false;
    let mut held: Option<(usize, Claim)> = None;
    let ended = std::thread::scope(|scope| {
        let ended = loop {
            if let Some(ended) = how_it_ended(worker) {
                break ended;
            }
            if Instant::now() >= deadline {
                break "left".to_owned();
            }
            if !begun && (answered >= honest || random.below(40) == 0) {
                begun = true;
                worker.lanes.iter_mut().for_each(|l| l.scribbled = true);
                for _ in 0..SCRIBBLERS {
                    let memories = worker.lanes.iter().map(|l| l.response.clone()).collect();
                    let (stop, seed) = (stop.clone(), random.next());
                    let rings = worker.lanes[0].entry_at(u32::MAX) + 32;
                    let arena = worker.lanes[0].slot_at(0);
                    scope.spawn(move || scribble(mode, memories, rings, arena, &stop, seed));
                }
                if mode == Mode::Leave {
                    break "left".to_owned();
                }
            }
            let claimed = match mode == Mode::Silence && begun {
                true => None,
                false => worker.claim(),
            };
            if let Some((lane, claim)) = claimed {
                answered += 1;
                // A shard learns of the end of one attach before it learns of the next.
                graves.iter_mut().for_each(|g| g.lanes[lane].over = true);
                if begun {
                    misbehave(worker, lane, claim, &mut held, mode, lie, random);
                } else {
                    answer(worker, lane, &claim, random);
                }
            } else {
                if begun {
                    without_a_request(worker, mode, random);
                }
                haunt(graves, random);
                breathe();
            }
        };
        stop.store(true, Ordering::Relaxed);
        ended
    });
    // Left with or without a word: the socket closes when the grave is filled, or here.
    let _ = worker.socket.shutdown(std::net::Shutdown::Both);
    ended
}

fn how_it_ended(worker: &mut RawWorker) -> Option<String> {
    use slotway::control::ToWorker;
    match worker.heard() {
        Ok(Some(ToWorker::Evicted { reason })) => Some(format!("evicted: {reason}")),
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some("dropped".into()),
        Err(error) => Some(format!("lost: {}", error.kind())),
    }
}

/// The token, as often as the client has asked for in `?n=`.
fn body_for(target: &str) -> Vec<u8> {
    let (path, query) = target.split_once('?').unwrap_or((target, "n=1"));
    let token = path.rsplit('/').next().unwrap_or_default();
    let times = query.strip_prefix("n=").and_then(|n| n.parse().ok());
    token.repeat(times.unwrap_or(1)).into_bytes()
}

fn answer(worker: &mut RawWorker, lane: usize, claim: &Claim, random: &mut Random) {
    let mut body = body_for(&claim.target);
    if !claim.body.is_empty() && random.below(2) == 0 {
        body.clone_from(&claim.body);
    }
    worker.lanes[lane].answer(claim, 200, &body);
}

fn misbehave(
    worker: &mut RawWorker,
    lane: usize,
    claim: Claim,
    held: &mut Option<(usize, Claim)>,
    mode: Mode,
    lie: Lie,
    random: &mut Random,
) {
    match mode {
        Mode::Lie if claim.descriptor.is_end() => {
            lies::tell(lie, &mut worker.lanes[lane], &claim, random);
        }
        Mode::BentDescriptors | Mode::FlippingDescriptors => {
            let lane = &mut worker.lanes[lane];
            let Some(right) = lane.frame(&claim, 200, b"", &body_for(&claim.target)) else {
                return;
            };
            let wrong = bent(right, random);
            if mode == Mode::BentDescriptors {
                lane.push(wrong);
                return;
            }
            let at = lane.entry_at(lane.tail);
            lane.push(right);
            // As the hub reads it, one of these is what it sees, or something of each.
            for d in [wrong, right, wrong, right, wrong] {
                lane.response.write(at, &descriptor_bytes(&d));
            }
        }
        Mode::Replays => {
            answer(worker, lane, &claim, random);
            let lane = &mut worker.lanes[lane];
            let old = lane.history[random.below(lane.history.len() as u64) as usize];
            lane.push(old);
        }
        Mode::CrossedAnswers => match held.take() {
            Some((other, before)) if other == lane => {
                let lane = &mut worker.lanes[lane];
                let swap = |to: &Claim, from: &Claim| Claim {
                    descriptor: to.descriptor,
                    ..from.clone()
                };
                for (to, from) in [(&before, &claim), (&claim, &before)] {
                    let crossed = swap(to, from);
                    lane.answer(&crossed, 200, &body_for(&crossed.target));
                }
            }
            Some((other, before)) => {
                answer(worker, other, &before, random);
                *held = Some((lane, claim));
            }
            None => *held = Some((lane, claim)),
        },
        _ => answer(worker, lane, &claim, random),
    }
}

fn without_a_request(worker: &mut RawWorker, mode: Mode, random: &mut Random) {
    let index = random.below(worker.lanes.len() as u64) as usize;
    let lane = &mut worker.lanes[index];
    match mode {
        Mode::Bells => match random.below(5) {
            0 => lies::saturate(&lane.hub_bell),
            1 => lies::drain(&lane.hub_bell),
            2 => lies::set_blocking(&lane.hub_bell, random.below(8) != 0),
            3 => lies::tamper_with_doorbell(&lane.own_bell),
            _ => lane.ring(),
        },
        Mode::Flood => {
            for _ in 0..lane.geometry.ring_entries() / 4 {
                lane.push(Descriptor {
                    kind: Completion::Read as u8,
                    exchange: random.below(u64::from(lane.geometry.slots())) as u32,
                    generation: random.next() as u32,
                    flags: END,
                    ..Descriptor::default()
                });
            }
        }
        Mode::Holes => punch(lane.response_fd.as_fd(), lane.response.len(), random),
        Mode::SocketNoise if random.below(4) == 0 => {
            let noise: Vec<u8> = (0..random.below(40)).map(|_| random.next() as u8).collect();
            let _ = worker.send_bytes(&noise);
        }
        _ => {}
    }
}

fn punch(fd: impl AsFd, len: usize, random: &mut Random) {
    let pages = len as u64 / 4096;
    let at = random.below(pages);
    let count = 1 + random.below(pages - at);
    let holes = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let _ = fallocate(fd, holes, at * 4096, count * 4096);
}

/// Writes to lanes that the hub has let go of, rings their bells, and answers what is long over. Until the
/// hub is known to have let go, an answer is as good as any other.
fn haunt(graves: &mut [RawWorker], random: &mut Random) {
    if graves.is_empty() {
        return;
    }
    let index = random.below(graves.len() as u64) as usize;
    for lane in &mut graves[index].lanes {
        if let Some(claim) = lane.claim() {
            let said = match lane.over {
                true => b"from the grave",
                false => b"before the end",
            };
            lane.answer(&claim, 200, said);
        }
        let old = lane.history.last().copied().unwrap_or_default();
        lane.push(old);
        lane.response.set_word(TAIL_OFFSET, random.next() as u32);
    }
}

/// What the threads beside the one that serves do.
fn scribble(
    mode: Mode,
    memories: Vec<Arc<Mapped>>,
    rings: usize,
    arena: usize,
    stop: &AtomicBool,
    seed: u64,
) {
    let mut random = Random(seed);
    let words = [
        TAIL_OFFSET,
        HEAD_OFFSET,
        SLEEP_OFFSET,
        STARVED_OFFSET,
        DOORBELL_OFFSET,
    ];
    while !stop.load(Ordering::Relaxed) {
        let memory = &memories[random.below(memories.len() as u64) as usize];
        let range = match mode {
            Mode::NoiseAnywhere => 0..memory.len(),
            Mode::NoiseInRing => RING_OFFSET..rings.min(memory.len()),
            Mode::NoiseInArena => arena..memory.len(),
            Mode::NoiseInHeader => {
                let at = words[random.below(words.len() as u64) as usize];
                let near = memory.word(at).load(Ordering::Relaxed);
                let value = match random.below(3) {
                    0 => random.next() as u32,
                    1 => near.wrapping_add(random.below(5) as u32),
                    _ => near.wrapping_sub(1),
                };
                memory.set_word(at, value);
                breathe();
                continue;
            }
            _ => return,
        };
        for _ in 0..200 {
            let at = range.start + random.below(range.len() as u64) as usize;
            // Often where the first slots are, which are those in use.
            let at = match (mode, random.below(2)) {
                (Mode::NoiseInArena, 0) => arena + at % 65_536,
                _ => at,
            };
            let len = (1 + random.below(64) as usize).min(range.end - at);
            let noise: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            memory.write(at, &noise);
        }
        std::thread::yield_now();
    }
}
