//! Operations on a lane, from its hub and from a worker that may lie, against a model. The body of the
//! target stands beside the code it checks, where an ordinary test replays the corpus.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| slotway::gateway::lane::slot_ops::check(input));
