//! Reads from the log that are under way, by what they are for.

use pontoon_raft::{NodeId, Time};
use pontoon_storage::{ReadBuffer, ReadError};

use super::groups::Groups;
use super::peers::Peers;
use super::replicas::ReplicaSlot;

/// What entries are read back for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadPurpose {
    /// The replica's state machine lacks them.
    Apply(ReplicaSlot),
    /// A follower lacks them.
    CatchUp {
        /// The leader's replica.
        slot: ReplicaSlot,
        /// The follower.
        to: NodeId,
    },
    /// They hold the oldest segment and are written once more.
    Relocation,
}

/// All reads of a core, by the id of their operation. The log's read buffers bound their number.
#[derive(Debug, Default)]
pub(super) struct Reads {
    under_way: Vec<(u64, ReadPurpose, Time)>,
}

impl Reads {
    pub(super) fn begin(&mut self, id: u64, purpose: ReadPurpose, now: Time) {
        self.under_way.push((id, purpose, now));
    }

    /// Since when the oldest has been under way.
    pub(super) fn oldest(&self) -> Option<Time> {
        self.under_way.iter().map(|read| read.2).min()
    }

    #[cfg(feature = "simulation")]
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Those for followers.
    #[cfg(feature = "simulation")]
    pub(super) fn for_peers(&self) -> usize {
        let for_peer = |read: &&(u64, ReadPurpose, Time)| {
            matches!(read.1, ReadPurpose::CatchUp { .. })
        };
        self.under_way.iter().filter(for_peer).count()
    }

    fn end(&mut self, id: u64) -> Option<ReadPurpose> {
        let position = self.under_way.iter().position(|read| read.0 == id)?;
        Some(self.under_way.swap_remove(position).1)
    }
}

impl Groups {
    /// A read is over: entries to be applied, or entries for a follower.
    pub(super) fn on_read(
        &mut self,
        peers: &mut Peers,
        id: u64,
        (buffer, result): (ReadBuffer, Result<usize, i32>),
    ) {
        let purpose = self.reads.end(id);
        if purpose == Some(ReadPurpose::Relocation) {
            if self.log.on_relocation_read(id, buffer, result).is_err() {
                self.fail();
            }
            return;
        }
        let records = self.log.on_read(id, buffer, result);
        if let Err(error) = &records
            && !matches!(error, ReadError::Changed { .. })
        {
            tracing::error!(node = %self.config.node, %error, "entries can't be read back");
        }
        if self.log.poisoned().is_some() {
            self.fail();
        }
        match purpose {
            Some(ReadPurpose::Apply(slot)) => self.on_read_to_apply(slot, records),
            Some(ReadPurpose::CatchUp { slot, to }) => {
                if matches!(records, Err(ReadError::Lost { .. })) {
                    // Whoever has these entries can lead the group, and nobody else.
                    self.to_renounce.push(slot);
                }
                self.on_read_for_follower(peers, (slot, to), id, records);
            }
            Some(ReadPurpose::Relocation) | None => {}
        }
    }
}
