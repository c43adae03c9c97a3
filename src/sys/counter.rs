//! Reads the 8-byte counters of eventfds and timerfds; must never block, whatever flags the
//! descriptor has.

use std::io::{self, IoSliceMut};
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ReadWriteFlags, preadv2, read};

/// The offset that tells the kernel to read at the file position, of which counters have none.
const NO_OFFSET: u64 = u64::MAX;

/// Takes the counter's value and resets it; `None` when it is zero.
///
/// The read is made non-blocking by a flag of the call, not of the descriptor: whoever received a
/// copy of the descriptor could clear `O_NONBLOCK`, which belongs to both copies.
pub(super) fn take(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut value = [0u8; 8];
    loop {
        let outcome = match preadv2(
            fd,
            &mut [IoSliceMut::new(&mut value)],
            NO_OFFSET,
            ReadWriteFlags::NOWAIT,
        ) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return take_after_poll(fd),
            outcome => outcome,
        };
        match outcome {
            Ok(8) => return Ok(Some(u64::from_ne_bytes(value))),
            Ok(count) => return Err(not_a_counter(count)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// For kernels whose counters know no per-call flag. Right as long as one thread drains the
/// descriptor: a second one could take the value between the poll and the read.
fn take_after_poll(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut value = [0u8; 8];
    loop {
        let at_once = Timespec::default();
        let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        match poll(&mut polled, Some(&at_once)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        match read(fd, &mut value) {
            Ok(8) => return Ok(Some(u64::from_ne_bytes(value))),
            Ok(count) => return Err(not_a_counter(count)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn not_a_counter(count: usize) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("read {count} bytes where an eventfd or timerfd gives 8: not such a descriptor"),
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn both_ways_of_taking_agree_and_never_block() {
        for flags in [
            EventfdFlags::CLOEXEC,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        ] {
            for take in [take, take_after_poll] {
                let fd = eventfd(3, flags).unwrap();
                assert_eq!(take(fd.as_fd()).unwrap(), Some(3));
                assert_eq!(take(fd.as_fd()).unwrap(), None);
            }
        }
    }

    #[test]
    fn a_descriptor_of_another_kind_is_an_error() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, b"abc").unwrap();
        let error = take_after_poll(reader.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("3 bytes"), "{error}");
    }
}
