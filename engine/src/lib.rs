//! Pontoon: an embeddable, thread-per-core, multi-Raft consensus engine.
//!
//! This package is where the parts meet: it will own the shard, its drivers and hosts, and the
//! API that an embedding program uses. So far it offers the parts themselves, each complete in
//! its own right: the rules of Raft ([`core`]), the segment log ([`storage`]) and the wire
//! ([`transport`]).
#![deny(unsafe_code)]

pub mod bulk;
mod config;
mod definition;
pub mod doorbell;
pub mod driver;
mod group;
mod host;
mod inbox;
mod machine;
mod node;
mod outcome;
pub mod port;
mod proposals;
mod request;
pub mod shard;
mod wire;

pub use config::{Config, ConfigError, HostKind, Limits, LogSettings, PeerId, RaftSettings};
pub use group::Group;
pub use inbox::Answer;
pub use machine::{Batch, Command, Event, Machines, Made, StateMachine};
pub use node::{Node, StartError, StopError};
pub use outcome::{Applied, Outcome, Proposal, ProposeError, Rejection, Unknown};
pub use pontoon_core::{GroupId, LogIndex, NodeId, RoleName, Status, Term};
pub use request::{CreateError, GroupStatus};
pub use shard::CoreStatistics;

#[cfg(feature = "glommio")]
pub use glommio;
pub use pontoon_core as core;
pub use pontoon_storage as storage;
pub use pontoon_transport as transport;
