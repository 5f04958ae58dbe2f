//! Tests of the segment log through its public interface.
#![allow(clippy::unwrap_used)]

mod basic;
mod crash;
mod damage;
mod files;
mod harness;
mod inspect;
mod model;
mod property;
mod space;
mod starts;
