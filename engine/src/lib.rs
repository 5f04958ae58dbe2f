//! Pontoon: an embeddable, thread-per-core, multi-Raft consensus engine for storage engines that
//! care about tail latency.
//!
//! A [`Node`] runs on every machine; it has one or more cores, each with a thread, a segment log
//! and a ring of the kernel of its own. A [`Group`] is a replicated log; it lives on one core of
//! each of its members, where a [`StateMachine`] applies what is committed. Many groups share a
//! core, its log, and one durable write for whatever moved in a turn.
//!
//! ```no_run
//! use pontoon::{Batch, Config, GroupId, MachineError, Machines, Node, NodeId, StateMachine};
//!
//! struct Counter(u64);
//!
//! impl StateMachine for Counter {
//!     fn apply(&mut self, batch: &mut Batch<'_>) -> Result<(), MachineError> {
//!         while batch.next().is_some() {
//!             self.0 += 1;
//!             batch.reply(self.0.to_le_bytes().to_vec());
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let machines = Machines::new().register("counter", |_| Ok(Box::new(Counter(0))));
//! let node = Node::start(Config::from_toml("pontoon.toml")?, machines)?;
//! // Every member makes the group; after a restart it is there again.
//! let members = [NodeId(1), NodeId(2), NodeId(3)];
//! let group = node.create_group(GroupId(7), "counter", &members).wait()?;
//! let applied = group.propose(b"one more".to_vec()).wait()?; // or .await, on any executor
//! println!("entry {}: {:?}", applied.index, applied.reply);
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//! - **Nothing acknowledged is lost** while a majority of a group's members keep their disks: an
//!   acknowledged command is durable on a majority, and applied once, in the same order, on all.
//! - A proposal is *applied*, *rejected* (certainly not in the log), or *unknown* (leadership or
//!   the node was lost meanwhile): [`ProposeError`] tells which.
//!   A reply beyond a limit is dropped, and its command said to be applied.
//! - At a limit a proposal is rejected at once; nothing in a core blocks.
//! - After a failed write or sync nothing more is acknowledged by that core.
//!
//! # Features
//! `internals`: parts of a node that only this repository's tests and benchmark name; nobody's API.
//!
//! `glommio` (on by default): a core can be a task of a glommio executor
//! ([`HostKind::Glommio`]), and tasks of the application run beside it. Needs a C compiler and git
//! to build.
#![deny(unsafe_code)]

mod awaited;
mod budget;
/// Public with the feature `internals` only: for the tests and the benchmark of this repository.
macro_rules! internal_mod {
    ($name:ident) => {
        #[cfg(feature = "internals")]
        pub mod $name;
        #[cfg(not(feature = "internals"))]
        #[allow(
            dead_code,
            unreachable_pub,
            reason = "public, and in part used, with the feature alone"
        )]
        mod $name;
    };
}

internal_mod!(bulk);
mod config;
mod core_builder;
mod data_directory;
mod definition;
internal_mod!(doorbell);
internal_mod!(driver);
mod forked;
mod group;
mod health;
mod host;
mod inbox;
mod machine;
mod node;
mod node_error;
mod on_core;
mod outcome;
mod pending;
mod placement;
internal_mod!(port);
mod proposals;
mod rate_limited;
mod reason;
mod request;
internal_mod!(shard);
mod shares;
#[cfg(feature = "simulation")]
pub mod simulation;
mod statistics;
mod wait;
mod waiters;
mod wire;

pub use config::{Config, ConfigError, HostKind, Limits, LogSettings, PeerId, RaftSettings};
pub use group::Group;
pub use health::CoreFailure;
pub use machine::{Batch, Command, Event, MachineError, Machines, Made, StateMachine};
pub use node::Node;
pub use node_error::{StartError, StopError};
pub use outcome::{Applied, Outcome, Proposal, ProposeError, Rejection, Unknown};
pub use pending::Pending;
pub use pontoon_raft::{GroupId, LogIndex, NodeId, RoleName, Status, Term, TransferRejection};
pub use reason::{CloseReason, DropReason, FrameError};
#[cfg(feature = "glommio")]
pub use request::SpawnError;
pub use request::{CampaignError, CreateError, GroupStatus, RequestError, TransferError};
pub use statistics::CoreStatistics;

#[cfg(feature = "glommio")]
pub use glommio;
pub use pontoon_raft as raft;
pub use pontoon_storage as storage;
pub use pontoon_transport as transport;
