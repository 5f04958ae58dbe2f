//! A leader that can't go on as it should gives its groups to others: its log takes nothing, or its
//! disk is slow.
//!
//! A log without room is given up for one that is known to have some. A slow disk is worse than
//! those of the others only if they are faster: a leader among members as slow as itself stays, and
//! one that is given its groups back, and is slow again, gives them away less and less often.

use pontoon_raft::Time;

use super::groups::Groups;
use super::mutant::Mutant;
use super::persist::Source;
use super::replicas::ReplicaSlot;

/// So many election timeouts pass before a leader that gave its groups away does so again.
const PAUSE_TIMEOUTS: u64 = 2;

/// At most so many, where it is in vain again and again.
const PAUSE_TIMEOUTS_MAX: u64 = 64;

/// When this core gives leadership away again.
#[derive(Debug, Default)]
pub(super) struct HandOvers {
    /// Until then it was given away, or nobody could take it.
    pause_until: Time,
    /// How long that was last, in election timeouts.
    pause: u64,
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
        if self.now < self.hand_overs.pause_until || self.is(Mutant::StaysWithoutRoom) {
            return;
        }
        let leads: Vec<ReplicaSlot> = self.replicas.leading().collect();
        let mut begun = false;
        for slot in leads {
            let raft = &mut self.replicas[slot].raft;
            let to = match trouble {
                Trouble::SlowWrite => raft.hand_over_to_faster(self.now, &mut self.output),
                _ => raft.hand_over(self.now, &mut self.output),
            };
            let Some(to) = to else {
                continue;
            };
            begun = true;
            let (node, group) = (self.config.node, self.replicas[slot].id);
            tracing::info!(%node, %group, %to, reason = trouble.label(), "hands over leadership");
            self.process_output(slot, Source::None);
        }
        if begun {
            self.hand_overs.begin(self.now, trouble, self.config.election_timeout);
        } else {
            self.hand_overs.pause_until = self.now.after(self.config.heartbeat_interval);
        }
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
