//! A Raft instance as the targets of `raft_step` make it.

use pontoon::NodeId;
use pontoon::raft::{
    Boot, EntryId, EntryKind, EntryMeta, LogIndex, Membership, Raft, RaftConfig, Term, Time,
};

/// Members of its group.
pub(super) const NODES: u64 = 3;
/// Bytes that every entry counts for.
const ENTRY_BYTES: u32 = 48;

/// A replica of a group of three, as its disk has it. Durations are numbers, not nanoseconds.
pub(super) fn raft(id: NodeId, start: u64, now: Time, boot: Boot) -> Raft {
    let ids: Vec<NodeId> = (1..=NODES).map(NodeId).collect();
    let config = RaftConfig {
        election_timeout: 1_000,
        heartbeat_interval: 100,
        seed: id.0 ^ start << 8,
        entries_per_message_max: 3,
        messages_in_flight_max: 2,
        ..RaftConfig::new(id)
    };
    let boot = Boot {
        membership: Membership::of_voters(&ids),
        log_epoch: start,
        ..boot
    };
    Raft::new(config, boot, now)
}

/// First entry of each run of entries of equal term.
pub(super) fn term_runs(terms: impl Iterator<Item = Term>) -> Vec<EntryId> {
    let mut runs: Vec<EntryId> = Vec::new();
    for (index, term) in (1..).zip(terms) {
        if runs.last().is_none_or(|run| run.term != term) {
            runs.push(EntryId::new(LogIndex(index), term));
        }
    }
    runs
}

pub(super) fn meta(term: Term, kind: EntryKind) -> EntryMeta {
    EntryMeta {
        term,
        bytes: ENTRY_BYTES,
        kind,
    }
}
