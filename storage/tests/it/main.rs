//! Tests of the segment log through its public interface.
#![allow(clippy::unwrap_used)]

mod bad_sectors;
mod basic;
mod costs;
mod crash;
mod damage;
mod files;
mod harness;
mod inspect;
mod lives;
mod model;
mod property;
mod refusals;
mod space;
mod starts;
mod witness;
