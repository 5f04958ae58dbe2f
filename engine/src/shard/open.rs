//! Making a shard from what its log held: groups are reopened through their factories.

use std::collections::VecDeque;

use pontoon_raft::{
    Boot, EntryRun, GroupId, HardState, Membership, Output, Raft, RaftConfig, Time,
    Unfounded,
};
use pontoon_storage::{RecoveredGroup, Recovery, SegmentLog};

use super::ask::AwaitingLeader;
use super::catch_up::CatchUps;
use super::creations::Creations;
use super::durability::Durability;
use super::groups::Groups;
use super::machine_failure::{MachineFailure, Mismatch};
use super::peers::Peers;
use super::propose::Proposing;
use super::reads::Reads;
use super::receive::Received;
use super::replica::Replica;
use super::replicas::Replicas;
use super::room::Room;
use super::space::Space;
use super::timers::Timers;
use super::witness::Witnessing;
use super::{Shard, ShardConfig};
use crate::awaited::Awaited;
use crate::definition::Definition;
use crate::inbox::Inbox;
use crate::machine::{Machines, Made};
use crate::proposals::Replies;
use crate::rate_limited::RateLimited;
use crate::statistics::CoreStatistics;

/// Why the groups of a core were not reopened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardOpenError {
    /// The log's record of a group is of no version this program knows.
    #[error("group {group} was defined by another version of this program; use that one")]
    Definition {
        /// The group.
        group: GroupId,
    },
    /// The log lost durable entries and nobody else has them.
    #[error(
        "durable data of group {group}, which has no other copy, is damaged: {place}; restore \
         the data directory from a backup"
    )]
    Damaged {
        /// The group.
        group: GroupId,
        /// Where the damage is.
        place: String,
    },
}

impl Shard {
    /// Reopens the groups of a log. Call it on the shard's own thread.
    ///
    /// # Errors
    /// If a group can't be opened as it was.
    pub(crate) fn open(
        config: ShardConfig,
        log: SegmentLog,
        recovery: &Recovery,
        machines: Machines,
        inbox: Inbox,
        now: Time,
    ) -> Result<Self, ShardOpenError> {
        let mut replicas = Replicas::default();
        for group in &recovery.groups {
            refuse_lost_group(recovery, group)?;
            let replica = reopen((&config, inbox.awaited()), group, &machines, &log, now)?;
            replicas.insert(replica);
        }
        if let Some(forgetting) = recovery.report.forgetting {
            tracing::error!(
                node = %config.node, %forgetting,
                "this node has forgotten what it had promised: its groups with other members take \
                 part again once these have repaired them"
            );
        }
        let peers = Peers::new(&config, now);
        let mut groups = Groups {
            now,
            durability: Durability::new(log.durable_frame()),
            proposing: Proposing::default(),
            awaited: inbox.awaited().clone(),
            replies: Replies::new(config.reply_bytes_max, inbox.awaited().clone()),
            config,
            machines,
            replicas,
            log,
            timers: Timers::default(),
            space: Space::new(),
            witnessing: Witnessing::default(),
            room: Room::default(),
            reads: Reads::default(),
            catch_ups: CatchUps::default(),
            outbox: Vec::new(),
            to_apply: VecDeque::new(),
            to_read: VecDeque::new(),
            to_renounce: Vec::new(),
            creations: Creations::default(),
            awaiting_leader: AwaitingLeader::default(),
            output: Output::default(),
            pieces: Vec::new(),
            life_by: None,
            met_by: 0,
            failed: false,
            stop_by: None,
            stopped: false,
            statistics: CoreStatistics::default(),
            lines: RateLimited::default(),
        };
        for slot in groups.replicas.slots() {
            if groups.replicas[slot].machine_failure.is_some() {
                groups.to_renounce.push(slot);
            }
            groups.queue_to_apply(slot);
            groups.start_replica(slot);
        }
        Ok(Self {
            groups,
            peers,
            inbox,
            received: Received::default(),
        })
    }
}

/// Damage to a group that has other copies is repaired from them; without one it is the end.
fn refuse_lost_group(recovery: &Recovery, group: &RecoveredGroup) -> Result<(), ShardOpenError> {
    let definition = Definition::decode(&group.definition);
    let alone = definition.is_some_and(|found| found.membership().members().len() <= 1);
    if !group.tainted || !alone {
        return Ok(());
    }
    let damage = recovery.report.damage.first();
    Err(ShardOpenError::Damaged {
        group: group.group,
        place: damage.map_or_else(
            || "found at an earlier start".to_owned(),
            |damage| format!("segment-{:04} near offset {}", damage.slot, damage.offset),
        ),
    })
}

fn reopen(
    (config, awaited): (&ShardConfig, &Awaited),
    group: &RecoveredGroup,
    machines: &Machines,
    log: &SegmentLog,
    now: Time,
) -> Result<Replica, ShardOpenError> {
    let id = group.group;
    let definition = if group.tainted && group.definition.is_empty() {
        let (node, group, entries) = (config.node, id, group.last_index);
        tracing::warn!(
            %node, %group, %entries,
            "its definition is lost with other durable data: it stays out until it is created \
             again, with the same kind and members, and the others have repaired it"
        );
        Definition::lost()
    } else {
        let decoded = Definition::decode(&group.definition);
        decoded.ok_or(ShardOpenError::Definition { group: id })?
    };
    let last_index = group.last_index;
    let tainted = group.tainted || group.forgot && !definition.is_alone();
    let (mut machine, mut failure) = match open_machine(machines, &definition, id) {
        Some(Ok(machine)) => (Some(machine), None),
        Some(Err(error)) => {
            let failure = MachineFailure::of_factory((config.node, id), now, &error);
            (None, Some(failure))
        }
        None => (None, None),
    };
    let held = machine.as_ref().and_then(|machine| machine.durable_index());
    // A damaged log may have lost what the machine applied; the others give it back.
    let mismatch = Mismatch::of(held, last_index).filter(|_| !tainted);
    if let Some(mismatch) = mismatch {
        machine = None;
        failure = Some(MachineFailure::of_mismatch((config.node, id), now, mismatch));
    }
    let held = held.filter(|_| mismatch.is_none()).unwrap_or_default();
    let compacted = group.compacted;
    let entry_runs = log.entry_runs(id);
    let entry_runs = entry_runs.map(|(last, bytes)| EntryRun { last, bytes });
    let boot = Boot {
        hard_state: HardState {
            current_term: group.current_term,
            voted_for: group.voted_for,
        },
        membership: definition.membership(),
        commit_index: group.commit_index,
        applied: held,
        compacted,
        terms: group.terms.clone(),
        last_index,
        sizes: entry_runs.collect(),
        log_epoch: log.life().number(),
        tainted,
        unfounded: unfounded(group.unfounded, tainted),
        definition: definition.digest(),
    };
    let raft = Raft::new(raft_config(config, id), boot, now);
    let applied = held.max(compacted.index);
    let frame = log.durable_frame();
    let awaited = awaited.clone();
    let mut replica = Replica::new(id, definition, raft, machine, applied, frame, awaited);
    replica.machine_failure = failure;
    Ok(replica)
}

/// How a replica is that has not met all members: one that was made in a log which had lost
/// something may have been a member before.
fn unfounded(is_unfounded: bool, tainted: bool) -> Option<Unfounded> {
    let lost_nothing = !tainted;
    is_unfounded.then_some(Unfounded { lost_nothing })
}

/// `None` if no factory makes machines of its kind.
fn open_machine(machines: &Machines, definition: &Definition, group: GroupId) -> Option<Made> {
    let factory = machines.factory(&definition.kind);
    if factory.is_none() {
        let kind = &definition.kind;
        tracing::warn!(%group, kind, "no state machine of this kind is registered");
    }
    factory.map(|factory| factory(group))
}

/// The replica of a group that has never existed on this node.
pub(super) fn new_raft(
    config: &ShardConfig,
    group: GroupId,
    definition: &Definition,
    log: &SegmentLog,
    now: Time,
) -> Raft {
    let membership: Membership = definition.membership();
    let forgot = log.has_forgotten(group) && !definition.is_alone();
    let boot = Boot {
        membership,
        log_epoch: log.life().number(),
        tainted: log.is_tainted(group) || forgot,
        unfounded: unfounded(log.is_unfounded(group), log.is_tainted(group) || forgot),
        definition: definition.digest(),
        ..Boot::default()
    };
    Raft::new(raft_config(config, group), boot, now)
}

fn raft_config(config: &ShardConfig, group: GroupId) -> RaftConfig {
    let defaults = RaftConfig::new(config.node);
    // The groups of a node must not all campaign at the same moment.
    let seed = config.seed ^ config.node.0.rotate_left(32) ^ group.0.wrapping_mul(0x9e37_79b9);
    RaftConfig {
        election_timeout: config.election_timeout,
        heartbeat_interval: config.heartbeat_interval,
        seed,
        messages_in_flight_max: config.in_flight_messages_max,
        bytes_in_flight_max: config.in_flight_bytes_max,
        bytes_per_message_max: u64::from(config.frame_limits.frame_bytes_max) / 2,
        #[cfg(feature = "simulation")]
        mutant: config.mutants.raft,
        ..defaults
    }
}
