//! Deterministic clusters: the shipped shard, core, log and frames on one thread, with a seeded
//! clock, network and disk. A seed replays a whole history exactly.
//!
//! [`run`] is one history in two phases: faults, then a healed majority that must make progress.
//! What must hold is checked after every turn, before every message, and at the end.
#![forbid(unsafe_code)]

mod chaos;
mod check;
mod client;
mod clock;
mod coverage;
mod disk;
mod drive_faults;
mod driver;
mod edn;
mod faults;
mod flaky;
pub mod fuzz;
mod history;
mod liveness;
mod machine;
mod mutants;
mod network;
mod random;
mod recording;
mod replica;
mod sim_core;
mod start;
mod swarm;
mod trace;
mod world;

pub use coverage::{Coverage, MARKS};
pub use edn::{HistoryEvent, Moment, edn};
pub use faults::{FAULTS, Fault, Faults};
pub use history::{Call, is_linearizable};
pub use mutants::{MUTANTS, NamedMutant};
pub use recording::{Recording, record};
pub use swarm::Swarm;
pub use world::{Failure, Options, Report, run};
