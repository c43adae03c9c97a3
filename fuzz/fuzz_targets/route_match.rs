//! The route table against a matcher without any cleverness. The body of the
//! target stands beside the code it checks, where an ordinary test replays the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| slotway::route::naive::check(input));
