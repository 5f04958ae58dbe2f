//! What all packages of Pontoon call things by: nodes, groups, terms, places in a log, moments.
//!
//! Tagged integers, so that a term can't be given for an index. No I/O, no allocation.
#![no_std]
#![forbid(unsafe_code)]

mod ids;

pub use ids::{EntryId, GroupId, LogIndex, NodeId, Term, Time, WriteSequence};
