//! Heads in slots: encoding, and decoding bytes that a hostile process wrote. The body of the
//! target stands beside the code it checks, where an ordinary test replays the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| slotway::shm::codec_check::check(input));
