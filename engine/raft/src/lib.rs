//! The rules of Raft, without I/O, clocks, chance or threads.
//!
//! [`Raft`] is one replica of one group. Its caller puts in messages, time and acknowledgements
//! of the disk, and takes out an [`Output`]: what to persist, what to send now, and what to send
//! only once that is durable. Payloads never come here: of an entry it
//! knows index, term, kind and size ([`EntryMeta`]), and it names ranges that the caller fills.
//!
//! ```text
//!  step, tick, campaign, propose        +------+   Output: hard_state  -> stage for the disk
//!  transfer_leadership, on_persisted -->| Raft |-->         appended   -> stage for the disk
//!  on_applied, compact,                 +------+            messages   -> send now, or after that
//!  report_unreachable                                                     persist (after_persist)
//!                                        commit_index()  -> apply up to here
//! ```
//!
//! Owned by one thread, which makes all calls; time is nanoseconds of the caller's choice.
//!
//! To read it: `message` and `output` (what goes in and out), `raft` (where each event goes),
//! `append` (follower), `election`, `replication` with `leader` and `progress`, `repair`; `log` is
//! what it knows of its entries, `membership` what a quorum is, `invariants` what always holds.
//!
//! Names and rules are those of Diego Ongaro's thesis, "Consensus: Bridging Theory and Practice"
//! (2014); section numbers in the code are its own.
//!
//! ```
//! use pontoon_raft::{
//!     Boot, EntryKind, EntryMeta, Membership, NodeId, Output, Raft, RaftConfig, Term, Time,
//! };
//!
//! let boot = Boot { membership: Membership::of_voters(&[NodeId(1)]), ..Boot::default() };
//! let mut raft = Raft::new(RaftConfig::new(NodeId(1)), boot, Time(0));
//! let mut output = Output::default();
//! raft.campaign(Time(1), &mut output);
//! // Its own vote counts only once it is durable, and so does its own copy of an entry.
//! raft.on_persisted(Time(2), raft.write_sequence(), &mut output);
//! let command = EntryMeta { term: Term(0), bytes: 48, kind: EntryKind::Command };
//! let proposed = raft.propose(Time(3), &[command], &mut output)?;
//! raft.on_persisted(Time(4), raft.write_sequence(), &mut output);
//! assert_eq!(raft.commit_index(), proposed.first_index);
//! # Ok::<(), pontoon_raft::ProposeRejection>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod append;
mod config;
mod display;
mod election;
mod founding;
mod invariants;
mod leader;
mod log;
mod membership;
mod message;
mod mutant;
mod output;
mod progress;
mod raft;
mod renounce;
mod repair;
mod replication;
mod role;
mod sizes;
mod status;
mod transfer;

pub use config::{Boot, RaftConfig};
pub use founding::Unfounded;
pub use membership::{Membership, VoteResult};
pub use message::{
    AppendEntries, AppendOutcome, AppendResponse, Body, EntryKind, EntryMeta, Founding, LogRoom,
    Message, Repaired, RequestVote, VoteKind, VoteResponse,
};
#[cfg(feature = "mutants")]
pub use mutant::Mutant;
pub use output::{Appended, Forgot, HardState, Outgoing, Output};
pub use pontoon_types::{EntryId, GroupId, LogIndex, NodeId, Term, Time, WriteSequence};
pub use raft::Raft;
pub use replication::{LeaderHint, ProposeRejection, Proposed};
pub use sizes::EntryRun;
pub use status::{PeerStatus, RoleName, Status};
pub use transfer::{TransferRejection, TransferStatus};
