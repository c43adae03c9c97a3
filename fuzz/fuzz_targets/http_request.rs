//! Request heads at every split, against the rules as they read, and against hyper, which must find
//! the same request where slotway finds one. The bodies of the target stand beside the code they
//! check and in `tests`, where ordinary tests replay the corpus.
#![no_main]

#[path = "../../tests/support/hyper_peer.rs"]
#[allow(dead_code, reason = "each target uses a part of it")]
mod hyper_peer;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    slotway::http::naive::check(input);
    hyper_peer::check_request(input);
});
