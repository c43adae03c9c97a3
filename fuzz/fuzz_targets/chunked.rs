//! Chunked bodies at every split, and against the rules as they read. The body of the
//! target stands beside the code it checks, where an ordinary test replays the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| slotway::http::chunked::naive::check(input));
