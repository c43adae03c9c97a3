//! Serialised events against a client's parser, and queues that must not lose in silence. The body of the
//! target stands beside the code it checks, where an ordinary test replays the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| slotway::sse::naive::check(input));
