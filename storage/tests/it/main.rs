//! Tests of the segment log through its public interface.
// Helpers of tests may panic like tests.
#![allow(clippy::unwrap_used, clippy::type_complexity, clippy::print_stdout)]

mod basic;
mod crash;
mod damage;
mod files;
mod harness;
mod model;
mod property;
