//! Gives `pontoon_sim::fuzz::segment_mutate` what libFuzzer thinks of.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| pontoon_sim::fuzz::segment_mutate(input));
