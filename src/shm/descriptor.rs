//! The 32-byte descriptor that both rings carry. Plain data: copied once, then validated.

/// Value of [`Descriptor::total`] while the length of a body is not known.
pub const UNKNOWN_LENGTH: u64 = u64::MAX;

/// One entry of a ring.
///
/// A *frame* is a run of consecutive slots in the sender's arena, holding a head (only in
/// [`Submission::Request`] and [`Completion::Response`]), then, at the next multiple of
/// [`BODY_ALIGN`](crate::shm::layout::BODY_ALIGN), a part of the body. The frame of a
/// [`Completion::Event`] holds records of events instead; see [`crate::shm::events`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// A [`Submission`] or a [`Completion`], by direction.
    pub kind: u8,
    /// [`END`] and [`ABORT`]; in the return of a frame of events what became of them.
    pub flags: u8,
    /// Slots in the frame; zero where nothing is carried.
    pub slots: u16,
    /// First slot of the frame.
    pub first: u32,
    /// Index of the exchange, below the number of slots. For a ping, zero.
    pub exchange: u32,
    /// Generation of the exchange. For a ping, its number. For events, zero.
    pub generation: u32,
    /// Bytes of head. In the return of a frame of events: deliveries that were dropped.
    pub head_len: u32,
    /// Bytes of body, or of records, in this frame. In the return of a frame of events: deliveries
    /// that were queued.
    pub body_len: u32,
    /// Bytes of the whole body, or [`UNKNOWN_LENGTH`]. For events, the number of records.
    pub total: u64,
}

const _: () = assert!(size_of::<Descriptor>() == 32 && align_of::<Descriptor>() == 8);

/// Flag: the body ends with this frame.
pub const END: u8 = 1;
/// Flag: the body will never be complete; nothing more follows. Set together with [`END`].
pub const ABORT: u8 = 2;
/// Flag of the return of a frame of events: a record named a path or a connection that nobody holds,
/// and was not remembered for anybody either.
pub const NO_CONNECTION: u8 = 4;
/// Flag of the return of a frame of events: a record named a connection that is closing.
pub const CLOSING: u8 = 8;
/// Flag of the return of a frame of events: a record broke a rule of Server-Sent Events and was
/// dropped.
pub const REFUSED: u8 = 16;

/// Bit of a cancel word: the client has stopped sending and may be gone, but would still be answered.
/// Without it the exchange is over. Generations never have it.
pub const CLIENT_LEFT: u32 = 1 << 31;

/// What the hub says to the worker (ring in the request memory).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Submission {
    /// A request: head and the first part of its body.
    Request = 1,
    /// A further part of a request body.
    Body = 2,
    /// A run of the response arena is the worker's again. If it held events, their outcome is said
    /// too.
    Return = 3,
    /// Answer with [`Completion::Pong`] and the same number.
    Ping = 4,
}

impl Submission {
    /// The submission with this number. 5 to 15 are reserved.
    pub const fn from_u8(value: u8) -> Option<Submission> {
        match value {
            1 => Some(Submission::Request),
            2 => Some(Submission::Body),
            3 => Some(Submission::Return),
            4 => Some(Submission::Ping),
            _ => None,
        }
    }
}

/// What the worker says to the hub (ring in the response memory).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Completion {
    /// A response: head and the first part of its body.
    Response = 1,
    /// A further part of a response body.
    Body = 2,
    /// A run of the request arena is the hub's again.
    Return = 3,
    /// The answer to [`Submission::Ping`].
    Pong = 4,
    /// Somebody reads the body of the request: its frames may come.
    Read = 5,
    /// A frame of events for the clients of streams. It belongs to no exchange.
    Event = 6,
}

impl Completion {
    /// The completion with this number. 7 to 15 are reserved.
    pub const fn from_u8(value: u8) -> Option<Completion> {
        match value {
            1 => Some(Completion::Response),
            2 => Some(Completion::Body),
            3 => Some(Completion::Return),
            4 => Some(Completion::Pong),
            5 => Some(Completion::Read),
            6 => Some(Completion::Event),
            _ => None,
        }
    }
}

impl Descriptor {
    /// Whether the body ends with this frame.
    pub const fn is_end(&self) -> bool {
        self.flags & END != 0
    }

    /// Whether the body was given up.
    pub const fn is_abort(&self) -> bool {
        self.flags & ABORT != 0
    }

    /// The frame's run of slots.
    pub const fn run(&self) -> Run {
        Run {
            first: self.first,
            slots: self.slots as u32,
        }
    }
}

/// A run of consecutive slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Index of the first slot.
    pub first: u32,
    /// Number of slots.
    pub slots: u32,
}

impl Run {
    /// Whether the run carries nothing.
    pub const fn is_empty(self) -> bool {
        self.slots == 0
    }
}
