//! What a replica is told when it is made.

use alloc::vec::Vec;

use crate::founding::Unfounded;
use crate::membership::Membership;
use crate::output::HardState;
use crate::sizes::EntryRun;
use pontoon_types::{EntryId, LogIndex, NodeId};

/// Settings of one replica. Durations are nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// This node.
    pub id: NodeId,
    /// A follower that hears nothing for between one and two of these campaigns (thesis 3.4).
    pub election_timeout: u64,
    /// Interval between heartbeats of an idle leader.
    pub heartbeat_interval: u64,
    /// Seed of the election jitter; should differ between the members of a group.
    pub seed: u64,
    /// Most entries in one `AppendEntries`.
    pub entries_per_message_max: u32,
    /// Most bytes of entries in one `AppendEntries`; a single larger entry goes alone.
    pub bytes_per_message_max: u64,
    /// Most unanswered `AppendEntries` with entries, per follower.
    pub messages_in_flight_max: u32,
    /// Unanswered bytes of entries, per follower, above which no further message is sent.
    pub bytes_in_flight_max: u64,
    /// A rule to break, for the simulator.
    #[cfg(feature = "mutants")]
    pub mutant: Option<crate::Mutant>,
}

impl RaftConfig {
    /// Settings for a local network: 1 s elections, 100 ms heartbeats, seeded by the node's id.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            election_timeout: 1_000_000_000,
            heartbeat_interval: 100_000_000,
            seed: id.0,
            entries_per_message_max: 4096,
            bytes_per_message_max: 512 << 10,
            messages_in_flight_max: 64,
            bytes_in_flight_max: 4 << 20,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// What a replica finds on its disk. All of it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// Term and vote.
    pub hard_state: HardState,
    /// The group's members.
    pub membership: Membership,
    /// A commit index known from before; a hint that may lie behind.
    pub commit_index: LogIndex,
    /// What the state machine already holds.
    pub applied: LogIndex,
    /// The last entry that the log no longer holds.
    pub compacted: EntryId,
    /// First entry of each run of entries of equal term, ascending.
    pub terms: Vec<EntryId>,
    /// Last entry of the log.
    pub last_index: LogIndex,
    /// How many bytes the entries have, in any runs that together hold all of them. Left out, they
    /// count as nothing: then only their number bounds a message.
    pub sizes: Vec<EntryRun>,
    /// Epoch of this node's log: higher at every start of it.
    pub log_epoch: u64,
    /// The disk lost something durable: this replica must not vote, campaign or count. Of the log
    /// only what is compacted is believed; commit index and `applied` are not.
    pub tainted: bool,
    /// The replica has not met all members. Then it is tainted, too.
    pub unfounded: Option<Unfounded>,
    /// A digest of the group's definition.
    pub definition: u64,
}
