//! Deterministic clusters: the shipped shard, core, log and frames on one thread, with a seeded
//! clock, network and disk. A seed replays a whole history exactly.
//!
//! [`run`] is one history in two phases: faults, then a healed majority that must make progress.
//! What must hold is checked after every turn, before every message, and at the end.
//!
//! # How to read a trace
//!
//! `pontoon-sim --seed 7 --trace run.txt` writes one line for each event that matters: simulated
//! milliseconds since the start, then what happened. Nodes count from 0 in a trace. A place is one
//! CPU core of one node: on nodes of two cores, place 5 is core 1 of node 2. Read a failure from
//! its end: the last line is the event before the check failed; go back to the last crash,
//! partition or change of leader of the group that the message names. `--minimize 7` first makes
//! the run as short as it can be. Two runs of one seed have the same trace, and the hash of it is
//! the last word that `--seed` prints. Where messages are looked at (in steady runs, and where
//! promises are checked) they are told as well; the hash does not know of them.
//!
//! # How to add a fault
//!
//! 1. Add its rate to [`Swarm`], drawn at the end of `Swarm::draw`: a draw in the middle changes
//!    the world of every seed.
//! 2. Add a kind to [`Fault`] and its name to [`FAULTS`]: a campaign fails if it never injects it.
//! 3. Inject it where it happens (`chaos.rs` for nodes and connections, `driver.rs` for
//!    operations, `drive_faults.rs` for lost data, `start.rs` for recovery), not once the cluster
//!    is healed, and call `injected`. What loses durable data asks `may_lose`, so that a majority
//!    keeps a copy.
//!
//! # How to add an oracle
//!
//! What one look at a replica can tell belongs to `replica.rs`, what a message must not promise to
//! `check.rs`, what machines apply to `machine.rs`, what clients saw to `history.rs`. A check that
//! fails calls `fail` with the values that contradict each other. Check it with a mutant.
//!
//! # How to add a mutant
//!
//! Add a variant to `RaftMutant`, `ShardMutant` or `StorageMutant`, ask for it at the rule that it
//! breaks, and give it a name in [`MUTANTS`]. `pontoon-sim --mutants` fails until some seed
//! notices.
#![forbid(unsafe_code)]

mod agenda;
mod answers;
mod calls;
mod chaos;
mod check;
mod client;
mod clock;
mod costs;
mod coverage;
mod disk;
mod drive_faults;
mod driver;
mod edn;
mod factories;
mod faults;
mod flaky;
mod forgetting;
pub mod fuzz;
mod gauges;
mod gone_leader;
mod history;
mod hostile;
mod idle;
mod impairment;
mod light_load;
mod links;
mod liveness;
mod lone;
mod machine;
mod machine_failure;
mod mutants;
mod network;
mod random;
mod recording;
mod renounced;
mod replica;
mod resends;
mod return_among;
mod room;
mod settings;
mod sim_core;
mod start;
mod steady;
mod still;
mod stops;
mod strangers;
mod swarm;
mod trace;
mod world;
mod write_fault;

pub use coverage::{Coverage, RARE_EVENTS, RareEvent};
pub use edn::{HistoryEvent, Moment, edn};
pub use faults::{FAULTS, Fault, Faults};
pub use history::{Call, is_linearizable};
pub use mutants::{MUTANTS, NamedMutant};
pub use recording::{Recording, record};
pub use swarm::Swarm;
pub use world::{Failure, Options, Report, run};
