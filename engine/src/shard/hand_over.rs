//! A leader that can't go on as it should gives its groups to others: its log takes nothing, or its
//! disk is slow.
//!
//! A log without room is given up for one that is known to have some. A slow disk is worse than
//! those of the others only if they are faster: a leader among members as slow as itself stays, and
//! one that is given a group back, and is slow again, gives it away less and less often. Where the
//! disk stands still, and with it what a successor lacks, the leader resigns: the others elect one
//! among them.

use pontoon_raft::{LogIndex, Term, Time};

use super::groups::Groups;
use super::mutant::Mutant;
use super::persist::Source;
use super::replicas::ReplicaSlot;

/// So many election timeouts pass before a leader that gave its groups away does so again.
const PAUSE_TIMEOUTS: u64 = 2;

/// At most so many, where it is in vain again and again.
const PAUSE_TIMEOUTS_MAX: u64 = 64;

/// An own campaign is put off for so many election timeouts while the disk stands still.
const DEFERRED_TIMEOUTS: u64 = 4;

/// When leadership of a group is given away again.
#[derive(Debug, Default)]
pub(super) struct HandOvers {
    /// Until then it was given away, or nobody could take it.
    pause_until: Time,
    /// How long that was last, in election timeouts.
    pause: u64,
    /// In which term that was, because of a disk, and what was committed.
    begun: Option<(Term, LogIndex)>,
}

/// Why a leader can't go on as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The log takes no commands.
    Full,
    /// It takes small commands and refuses those that are proposed.
    FullForLarge,
    /// Its next segment does not come.
    NotPrepared,
    /// A read hangs.
    SlowRead,
    /// A write hangs.
    SlowWrite,
}

impl Trouble {
    fn is_of_disk(self) -> bool {
        matches!(self, Self::SlowRead | Self::SlowWrite)
    }

    fn label(self) -> &'static str {
        match self {
            Self::Full => "the log is full",
            Self::FullForLarge => "the log is full for large commands",
            Self::NotPrepared => "the log's next segment does not come",
            Self::SlowRead => "a read stands still",
            Self::SlowWrite => "a write stands still",
        }
    }

    /// Whether others may be no better, as far as is known: of a log that has room for something it
    /// is not known for what, nor of a disk how fast it reads.
    fn may_be_everywhere(self) -> bool {
        match self {
            Self::Full | Self::NotPrepared => false,
            Self::FullForLarge | Self::SlowRead | Self::SlowWrite => true,
        }
    }
}

impl HandOvers {
    /// Leadership is given away. What may be no better elsewhere is left alone for twice as long as
    /// before, unless all was well for as long as that.
    fn begin(&mut self, now: Time, trouble: Trouble, election_timeout: u64) {
        let well_for = now.since(self.pause_until) / election_timeout;
        let again = self.pause > 0 && well_for < self.pause && trouble.may_be_everywhere();
        self.pause = match again {
            true => (2 * self.pause).min(PAUSE_TIMEOUTS_MAX),
            false => PAUSE_TIMEOUTS,
        };
        self.pause_until = now.after(self.pause * election_timeout);
    }
}

impl Groups {
    /// Gives every group that this node leads to the member that is best placed for it, if one is
    /// known to be better off.
    pub(super) fn hand_over(&mut self, trouble: Trouble) {
        if self.is(Mutant::StaysWithoutRoom) {
            return;
        }
        let leads: Vec<ReplicaSlot> = self.replicas.leading().collect();
        for slot in leads {
            if self.now >= self.replicas[slot].hand_overs.pause_until {
                self.hand_over_group(slot, trouble);
            }
        }
    }

    fn hand_over_group(&mut self, slot: ReplicaSlot, trouble: Trouble) {
        let replica = &mut self.replicas[slot];
        let (node, group) = (self.config.node, replica.id);
        let raft = &mut replica.raft;
        let seen = (raft.current_term(), raft.commit_index());
        let waits = raft.last_index() > raft.commit_index();
        if trouble.is_of_disk() && waits && replica.hand_overs.begun == Some(seen) {
            let reason = trouble.label();
            tracing::info!(%node, %group, reason, "resigns: nobody could take over, nothing moves");
            raft.resign(self.now, &mut self.output);
            return self.process_output(slot, Source::None);
        }
        let to = match trouble {
            Trouble::SlowWrite => raft.hand_over_to_faster(self.now, &mut self.output),
            _ => raft.hand_over(self.now, &mut self.output),
        };
        let Some(to) = to else {
            replica.hand_overs.pause_until = self.now.after(self.config.heartbeat_interval);
            return;
        };
        replica.hand_overs.begin(self.now, trouble, self.config.election_timeout);
        replica.hand_overs.begun = Some(seen).filter(|_| trouble.is_of_disk());
        tracing::info!(%node, %group, %to, reason = trouble.label(), "hands over leadership");
        self.process_output(slot, Source::None);
    }

    /// Whether a replica whose time has come is not to campaign yet: its vote would not become
    /// durable, or what others lack would not be read. Not for ever, for all may be as slow.
    pub(super) fn defers_campaign(&self, deadline: Time) -> bool {
        let stands_still = self.trouble().is_some_and(Trouble::is_of_disk);
        stands_still && self.now.since(deadline) < DEFERRED_TIMEOUTS * self.config.election_timeout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_it_is_in_vain_and_are_short_again_after_a_while() {
        let timeout = 1_000;
        let mut hand_overs = HandOvers::default();
        let mut begin_after = |well_for: u64, trouble| {
            let now = hand_overs.pause_until.after(well_for * timeout);
            hand_overs.begin(now, trouble, timeout);
            hand_overs.pause_until.since(now) / timeout
        };
        let pauses: Vec<u64> = (0..7).map(|_| begin_after(1, Trouble::SlowWrite)).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(begin_after(63, Trouble::SlowRead), 64);
        assert_eq!(begin_after(1, Trouble::Full), 2, "others are known to have room");
        assert_eq!(begin_after(1, Trouble::SlowWrite), 4);
        assert_eq!(begin_after(5, Trouble::SlowWrite), 2);
    }
}
