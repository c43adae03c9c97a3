//! How events are laid out in the frame of a [`Completion::Event`](crate::shm::descriptor::Completion):
//! records back to back. Whatever the bytes are, reading them answers or refuses, and never panics.
//!
//! Only the layout is judged here. Whether a name, an id or data may be sent to a client is a rule of
//! Server-Sent Events and is checked elsewhere.

/// Bytes in a record before its target, name, id and data. `docs/SHM_ABI.md` has them one by one.
pub const RECORD_PREFIX: usize = 24;

const TARGET_BROADCAST: u8 = 0;
const TARGET_PATH: u8 = 1;
const TARGET_CONNECTION: u8 = 2;

const FLAG_ID: u8 = 1;
const FLAG_RETRY: u8 = 2;

/// Whom an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventTarget<'a> {
    /// The subscribers of `/events`.
    Broadcast,
    /// The clients of the worker that are connected to this path; the path as clients send it.
    Path(&'a [u8]),
    /// The client of the worker with this connection id.
    Connection(&'a [u8]),
}

/// One event, as bytes that nobody has judged yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRecord<'a> {
    /// Whom it is for.
    pub target: EventTarget<'a>,
    /// Its name; empty where it has none, which makes it a `message`. Of a broadcast, its type.
    pub name: &'a [u8],
    /// Its id.
    pub id: Option<&'a [u8]>,
    /// How long a client is to wait before it connects again, in milliseconds.
    pub retry_ms: Option<u64>,
    /// Its data.
    pub data: &'a [u8],
}

impl<'a> EventTarget<'a> {
    fn encode(self) -> (u8, &'a [u8]) {
        match self {
            EventTarget::Broadcast => (TARGET_BROADCAST, &[]),
            EventTarget::Path(path) => (TARGET_PATH, path),
            EventTarget::Connection(id) => (TARGET_CONNECTION, id),
        }
    }

    fn decode(kind: u8, bytes: &'a [u8]) -> Result<EventTarget<'a>, EventCodecError> {
        match kind {
            TARGET_BROADCAST if bytes.is_empty() => Ok(EventTarget::Broadcast),
            TARGET_BROADCAST => Err(EventCodecError::BadLength),
            TARGET_PATH => Ok(EventTarget::Path(bytes)),
            TARGET_CONNECTION => Ok(EventTarget::Connection(bytes)),
            _ => Err(EventCodecError::UnknownCode),
        }
    }
}

/// Bytes that [`encode_event`] writes for this record.
pub fn encoded_event_len(record: &EventRecord<'_>) -> usize {
    let (_, target) = record.target.encode();
    RECORD_PREFIX
        + target.len()
        + record.name.len()
        + record.id.unwrap_or_default().len()
        + record.data.len()
}

/// Writes a record to the start of `out` and returns its length, or `None` where `out` is too small or
/// a part is longer than its length field can say: 65535 bytes of target, name or id, and 2³²−1 bytes
/// altogether.
pub fn encode_event(out: &mut [u8], record: &EventRecord<'_>) -> Option<usize> {
    let len = encoded_event_len(record);
    let out = out.get_mut(..len)?;
    let (kind, target) = record.target.encode();
    let id = record.id.unwrap_or_default();
    let half = |part: &[u8]| u16::try_from(part.len()).ok().map(u16::to_le_bytes);
    let (target_len, name_len, id_len) = (half(target)?, half(record.name)?, half(id)?);
    let total = u32::try_from(len).ok()?;
    let flags = (u8::from(record.id.is_some()) * FLAG_ID)
        | (u8::from(record.retry_ms.is_some()) * FLAG_RETRY);
    let (prefix, mut rest) = out.split_at_mut(RECORD_PREFIX);
    prefix[0..4].copy_from_slice(&total.to_le_bytes());
    prefix[4..6].copy_from_slice(&[kind, flags]);
    prefix[6..8].copy_from_slice(&target_len);
    prefix[8..10].copy_from_slice(&name_len);
    prefix[10..12].copy_from_slice(&id_len);
    prefix[12..16].copy_from_slice(&(record.data.len() as u32).to_le_bytes());
    prefix[16..24].copy_from_slice(&record.retry_ms.unwrap_or(0).to_le_bytes());
    for part in [target, record.name, id, record.data] {
        let (place, behind) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = behind;
    }
    Some(len)
}

/// Why bytes are no records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventCodecError {
    /// The bytes end before what they announce.
    Truncated,
    /// The lengths of the parts do not add up to that of the record, or a part that is not there has
    /// a length or a value.
    BadLength,
    /// A kind of target, or a flag, that the ABI does not know.
    UnknownCode,
}

impl std::fmt::Display for EventCodecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            EventCodecError::Truncated => "a record of an event ends before what it announces",
            EventCodecError::BadLength => {
                "the parts of a record of an event do not add up to its length"
            }
            EventCodecError::UnknownCode => {
                "a record of an event has a target or a flag unknown to the ABI"
            }
        })
    }
}

impl std::error::Error for EventCodecError {}

/// The records of one frame, in order. After an error nothing more comes.
///
/// The bytes must be a private copy: what another process can still write is not for this.
#[derive(Clone, Debug)]
pub struct EventRecords<'a> {
    rest: &'a [u8],
}

impl<'a> EventRecords<'a> {
    /// The records that these bytes hold from the first to the last.
    pub fn new(bytes: &'a [u8]) -> EventRecords<'a> {
        EventRecords { rest: bytes }
    }

    fn take(&mut self) -> Result<EventRecord<'a>, EventCodecError> {
        // Emptied first, so that an error is the end.
        let rest = std::mem::take(&mut self.rest);
        let (prefix, _) = rest
            .split_first_chunk::<RECORD_PREFIX>()
            .ok_or(EventCodecError::Truncated)?;
        let half = |at: usize| u16::from_le_bytes([prefix[at], prefix[at + 1]]);
        let word = |at: usize| half(at) as u32 | (half(at + 2) as u32) << 16;
        let len = word(0) as usize;
        if len < RECORD_PREFIX {
            return Err(EventCodecError::BadLength);
        }
        let (record, rest) = rest
            .split_at_checked(len)
            .ok_or(EventCodecError::Truncated)?;
        let (kind, flags) = (prefix[4], prefix[5]);
        let (target, name, id) = (half(6) as usize, half(8) as usize, half(10) as usize);
        let data = word(12) as usize;
        let retry_ms = word(16) as u64 | (word(20) as u64) << 32;
        // None of the four is above 2³², and so their sum fits.
        if (RECORD_PREFIX + target + name + id) as u64 + data as u64 != len as u64 {
            return Err(EventCodecError::BadLength);
        }
        if flags & !(FLAG_ID | FLAG_RETRY) != 0 {
            return Err(EventCodecError::UnknownCode);
        }
        let (has_id, has_retry) = (flags & FLAG_ID != 0, flags & FLAG_RETRY != 0);
        if (!has_id && id > 0) || (!has_retry && retry_ms > 0) {
            return Err(EventCodecError::BadLength);
        }
        let (target, parts) = record[RECORD_PREFIX..].split_at(target);
        let (name, parts) = parts.split_at(name);
        let (id, data) = parts.split_at(id);
        let record = EventRecord {
            target: EventTarget::decode(kind, target)?,
            name,
            id: has_id.then_some(id),
            retry_ms: has_retry.then_some(retry_ms),
            data,
        };
        self.rest = rest;
        Ok(record)
    }
}

impl<'a> Iterator for EventRecords<'a> {
    type Item = Result<EventRecord<'a>, EventCodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            None
        } else {
            Some(self.take())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: [EventRecord<'static>; 4] = [
        EventRecord {
            target: EventTarget::Path(b"/rooms/7"),
            name: b"said",
            id: Some(b"41"),
            retry_ms: Some(u64::MAX - 1),
            data: b"one\r\ntwo\0\xFF",
        },
        EventRecord {
            target: EventTarget::Broadcast,
            name: b"",
            id: None,
            retry_ms: None,
            data: b"",
        },
        EventRecord {
            target: EventTarget::Connection(b"c-1"),
            name: b"",
            id: Some(b""),
            retry_ms: None,
            data: b"x",
        },
        EventRecord {
            target: EventTarget::Path(b""),
            name: b"n",
            id: None,
            retry_ms: Some(0),
            data: b"y",
        },
    ];

    fn encoded(records: &[EventRecord<'_>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for record in records {
            let (at, len) = (bytes.len(), encoded_event_len(record));
            bytes.resize(at + len + 8, 0xA5);
            assert_eq!(encode_event(&mut bytes[at..], record), Some(len));
            assert_eq!(bytes[at + len..], [0xA5; 8], "nothing behind it is written");
            bytes.truncate(at + len);
        }
        bytes
    }

    #[test]
    fn records_come_back_as_they_went() {
        let bytes = encoded(&RECORDS);
        let back: Result<Vec<_>, _> = EventRecords::new(&bytes).collect();
        assert_eq!(back.unwrap(), RECORDS);
        assert_eq!(EventRecords::new(&[]).count(), 0);
    }

    #[test]
    fn a_record_that_does_not_fit_is_not_written() {
        for record in &RECORDS {
            let len = encoded_event_len(record);
            for size in 0..len {
                assert_eq!(encode_event(&mut vec![0; size], record), None);
            }
        }
        let long = vec![b'a'; usize::from(u16::MAX) + 1];
        let mut out = vec![0; 2 * long.len()];
        let plain = RECORDS[1];
        for record in [
            EventRecord {
                target: EventTarget::Path(&long),
                ..plain
            },
            EventRecord {
                name: &long,
                ..plain
            },
            EventRecord {
                id: Some(&long),
                ..plain
            },
        ] {
            assert_eq!(encode_event(&mut out, &record), None);
        }
        let record = EventRecord {
            data: &long,
            ..plain
        };
        assert_eq!(encode_event(&mut out, &record), Some(24 + long.len()));
    }

    #[test]
    fn what_is_cut_is_refused_and_ends_the_frame() {
        let bytes = encoded(&RECORDS);
        let ends: Vec<_> = (1..=RECORDS.len())
            .map(|count| encoded(&RECORDS[..count]).len())
            .collect();
        for size in 0..bytes.len() {
            let mut records = EventRecords::new(&bytes[..size]);
            let whole = records.by_ref().take_while(Result::is_ok).count();
            assert_eq!(whole, ends.iter().filter(|end| **end <= size).count());
            assert!(records.next().is_none(), "after an error nothing comes");
            let last = EventRecords::new(&bytes[..size]).last();
            let cut = size > 0 && !ends.contains(&size);
            assert_eq!(
                matches!(last, Some(Err(EventCodecError::Truncated))),
                cut,
                "cut to {size}"
            );
        }
    }

    #[test]
    fn each_lie_has_its_name() {
        use EventCodecError::*;
        let good = encoded(&RECORDS[..1]);
        let plain = encoded(&RECORDS[1..2]);
        let lies: [(&[u8], usize, &[u8], EventCodecError); 12] = [
            (&good, 0, &[23, 0, 0, 0], BadLength),
            (&good, 0, &[0, 0, 0, 0], BadLength),
            (&good, 0, &[0xFF; 4], Truncated),
            (&good, 4, &[3], UnknownCode),
            (&good, 5, &[4], UnknownCode),
            (&good, 5, &[2], BadLength),
            (&good, 5, &[1], BadLength),
            (&good, 4, &[0], BadLength),
            (&good, 6, &[0xFF, 0xFF], BadLength),
            (&good, 12, &[0xFF; 4], BadLength),
            (&plain, 10, &[1, 0], BadLength),
            (&plain, 23, &[1], BadLength),
        ];
        for (bytes, at, lie, expected) in lies {
            let mut bytes = bytes.to_vec();
            bytes[at..at + lie.len()].copy_from_slice(lie);
            let read: Result<Vec<_>, _> = EventRecords::new(&bytes).collect();
            assert_eq!(read, Err(expected), "{lie:?} at {at}");
        }
    }
}
