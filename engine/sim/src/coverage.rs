//! How often a run met what is rare: a campaign that never does has tested little.

/// An event that a campaign of some thousand seeds must meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RareEvent {
    /// A start found damage on its disk.
    DamageFoundAtStart,
    /// A log found by its witness that it has forgotten something.
    ForgettingFoundAlone,
    /// A disk forgot while nobody was there who knew what it had promised.
    PromiseForgotten,
    /// A running log could not give entries back, and their group was given up.
    DamageFoundWhileRunning,
    /// A replica started on a damaged log.
    TaintedReplica,
    /// A tainted replica got back what it had lost, and counts again.
    DamageRefetched,
    /// A replica that had lost its vote with damage has voted again.
    VoteRegained,
    /// A disk acknowledged entries that had been replaced meanwhile.
    StaleAcknowledgement,
    /// Recovery dropped frames behind a torn one.
    FramesDropped,
    /// A freed segment was written again.
    SegmentReused,
    /// A full disk had no segment for a start.
    StartRefusedByFullDisk,
    /// A node gave up a connection on which nothing moved.
    StuckConnection,
    /// Two nodes led a group at once, in different terms.
    TwoLeaders,
    /// A node began to lead a group.
    LeaderChanged,
    /// A leader was asked to transfer its leadership.
    LeadershipTransferred,
    /// A leader was asked again and again.
    HandOverAskedAgain,
    /// A proposal was rejected.
    ProposalRejected,
    /// A proposal was rejected for want of room.
    ProposalOverloaded,
    /// A client did not learn what became of its operation.
    OutcomeUnknown,
    /// A leader read entries from its disk again.
    EntriesReadBack,
    /// A segment was freed.
    SegmentFreed,
    /// A node dropped a message.
    MessageDropped,
    /// A follower said that it has no room for entries.
    FollowerFull,
    /// A send found no room in its socket.
    SendWaited,
    /// A quiet window began under load.
    WindowOpened,
    /// A quiet window ended, and all had what they were owed.
    WindowJudged,
    /// A node was down for the whole of a window.
    WindowNodeDown,
    /// A disk was full for the whole of a window.
    WindowDiskFull,
    /// A disk was slow for the whole of a window.
    WindowSlowDisk,
    /// A node's links hung for the whole of a window.
    WindowHung,
    /// A node took nothing for the whole of a window.
    WindowDeaf,
    /// A node took a few bytes a second for the whole of a window.
    WindowDrip,
    /// A node was slow for the whole of a window.
    WindowSlowTurns,
    /// A node was told to stop when a window began.
    WindowStops,
    /// A node's disks stood still for the whole of a window.
    WindowStill,
    /// The disks of all nodes but one stood still for the whole of a window.
    WindowOthersStill,
    /// A node was given no segments for the whole of a window.
    WindowWithheld,
    /// A core that was told to stop has ended.
    CoreStopped,
    /// A call beside proposals was made.
    CallAsked,
}

/// All of them, in the order of their declaration, with their labels.
pub const RARE_EVENTS: &[(RareEvent, &str)] = &[
    (RareEvent::DamageFoundAtStart, "damage found at a start"),
    (RareEvent::ForgettingFoundAlone, "forgetting found alone"),
    (RareEvent::PromiseForgotten, "promise forgotten"),
    (
        RareEvent::DamageFoundWhileRunning,
        "damage found while running",
    ),
    (RareEvent::TaintedReplica, "tainted replica"),
    (RareEvent::DamageRefetched, "damage refetched from a peer"),
    (RareEvent::VoteRegained, "vote lost and regained"),
    (
        RareEvent::StaleAcknowledgement,
        "stale disk acknowledgement ignored",
    ),
    (RareEvent::FramesDropped, "frames dropped by recovery"),
    (RareEvent::SegmentReused, "segment used again"),
    (
        RareEvent::StartRefusedByFullDisk,
        "start refused by a full disk",
    ),
    (RareEvent::StuckConnection, "connection given up as stuck"),
    (RareEvent::TwoLeaders, "two leaders in different terms"),
    (RareEvent::LeaderChanged, "leader changed"),
    (RareEvent::LeadershipTransferred, "leadership transferred"),
    (
        RareEvent::HandOverAskedAgain,
        "hand-over asked for again and again",
    ),
    (RareEvent::ProposalRejected, "proposal rejected"),
    (RareEvent::ProposalOverloaded, "proposal overloaded"),
    (RareEvent::OutcomeUnknown, "outcome unknown"),
    (
        RareEvent::EntriesReadBack,
        "entries read back from the disk",
    ),
    (RareEvent::SegmentFreed, "segment freed"),
    (RareEvent::MessageDropped, "message dropped"),
    (RareEvent::FollowerFull, "follower without room"),
    (RareEvent::SendWaited, "send waited for room"),
    (RareEvent::WindowOpened, "quiet window under load"),
    (RareEvent::WindowJudged, "quiet window judged"),
    (RareEvent::WindowNodeDown, "window with a node down"),
    (RareEvent::WindowDiskFull, "window with a full disk"),
    (RareEvent::WindowSlowDisk, "window with a slow disk"),
    (RareEvent::WindowHung, "window with a hung node"),
    (RareEvent::WindowDeaf, "window with a deaf node"),
    (RareEvent::WindowDrip, "window with a dripping node"),
    (RareEvent::WindowSlowTurns, "window with a slow machine"),
    (RareEvent::WindowStops, "window with a stop"),
    (RareEvent::WindowStill, "window with a still disk"),
    (
        RareEvent::WindowOthersStill,
        "window with one disk that moves",
    ),
    (RareEvent::WindowWithheld, "window without segments"),
    (RareEvent::CoreStopped, "core stopped"),
    (RareEvent::CallAsked, "call beside proposals"),
];

/// How often each rare event was met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// In the order of [`RARE_EVENTS`].
    counts: [u64; RARE_EVENTS.len()],
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            counts: [0; RARE_EVENTS.len()],
        }
    }
}

impl Coverage {
    pub(crate) fn mark(&mut self, event: RareEvent) {
        self.add(event, 1);
    }

    pub(crate) fn add(&mut self, event: RareEvent, count: u64) {
        self.counts[event as usize] += count;
    }

    /// Adds what another run met.
    pub fn join(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
    }

    /// How often an event was met.
    #[must_use]
    pub fn of(&self, event: RareEvent) -> u64 {
        self.counts[event as usize]
    }

    /// Labels of the events that were never met.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = RARE_EVENTS.iter().filter(|(event, _)| self.of(*event) == 0);
        missing.map(|(_, label)| *label).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rare_event_has_its_place_in_the_list() {
        for (position, (event, _)) in RARE_EVENTS.iter().enumerate() {
            assert_eq!(*event as usize, position);
        }
    }
}
