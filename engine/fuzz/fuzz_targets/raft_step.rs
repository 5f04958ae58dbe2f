//! Gives `pontoon_sim::fuzz::raft_step` what libFuzzer thinks of.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pontoon_sim::fuzz::raft_step(input));
