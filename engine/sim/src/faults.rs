//! What is done to a cluster, by kind, and how often: a kind that no run had is not tested.

/// A kind of fault. What a run may have is drawn by its swarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A node's process and power are gone.
    Crash,
    /// The power failed once more while a core wrote the first header of its new epoch.
    CrashInRecovery,
    /// A node was told to stop.
    Stop,
    /// The driver of a core failed, when it was made or later.
    DriverFailed,
    /// A node stood still between two turns.
    Pause,
    /// A node stood still within a turn: between the clock it had read and what it then did.
    PauseInTurn,
    /// A clock took another rate that a sound one may have.
    ClockDrift,
    /// A clock took a rate that no sound one has.
    ClockBeyondBound,
    /// A power loss left a part of what was being written.
    TornWrite,
    /// A write that was under way at a power loss landed after the next start.
    LateWrite,
    /// A durable sector went bad, at rest or under a running node.
    BitRot,
    /// A sector of something durable can't be read any more, ever.
    BadSector,
    /// A sector of a free segment is bad for good.
    BadFreeSector,
    /// A write was acknowledged and is not there.
    LostWrite,
    /// A write was acknowledged and is somewhere else, over something durable or free.
    MisdirectedWrite,
    /// A node found the disk of another one, or of another core, at its start.
    ForeignDisk,
    /// A read failed while the node ran.
    ReadError,
    /// A read gave wrong bytes once.
    WrongRead,
    /// A segment that was read again while a log was opened gave other bytes.
    WrongReadInRecovery,
    /// A read failed while a log was opened.
    ReadErrorInRecovery,
    /// A write failed.
    WriteError,
    /// A disk operation took far longer than usual.
    DiskStall,
    /// The disks of a node stood still for a while, whatever they were asked.
    DiskStill,
    /// The segments that a node's logs asked for did not come for long.
    SegmentWithheld,
    /// No further segment found space on a disk.
    DiskFull,
    /// No further segment found space on a node's disks when it started, and for a while after.
    DiskFullAtStart,
    /// The same, on the disks of a new leader alone.
    DiskFullLeader,
    /// A state machine could not go on.
    MachineFailed,
    /// A state machine could not be made at a start.
    MachineNotMade,
    /// A state machine took long to make.
    SlowFactory,
    /// The state machine of a follower failed, and its leader was made to hand over.
    FollowerRenounced,
    /// A write completed before one that was submitted earlier.
    Reordered,
    /// A connection was cut at both ends, with what was on its way.
    Cut,
    /// A connection ended for its sender alone: what was on its way arrived, and is sent again.
    Duplication,
    /// A connection accepted nothing for a while, and then everything at once.
    Clog,
    /// Somebody connects in the name of a peer, and says nothing.
    Stranger,
    /// Somebody connects in the name of a peer, and says again and again that it is there.
    Talker,
    /// Every message was under way for a good part of an election timeout, or longer.
    LongWay,
    /// A link carried nothing for a while.
    Hang,
    /// A link carried a few bytes a second for a while.
    Drip,
    /// A node took nothing of what was sent to it for a while, and sent as ever.
    Deaf,
    /// A bit was flipped on its way.
    BitFlip,
    /// A send took only a part of what it was given.
    ShortSend,
    /// Some nodes did not reach some others.
    Partition,
    /// Some nodes did not reach some others, which still reached them.
    OneWayPartition,
    /// A leader was cut off from the others soon after its election.
    LeaderIsolated,
    /// Somebody said something in the name of a member that it would never say.
    Lie,
    /// The disks of a node were replaced by empty ones.
    DiskEmptied,
    /// A node got an old copy of its disks back.
    DiskRestored,
    /// What was written last to a disk is gone.
    DiskCutShort,
    /// An old copy of a disk is back, file by file.
    DiskCopied,
}

/// All kinds, with their names.
pub const FAULTS: &[(Fault, &str)] = &[
    (Fault::Crash, "node crashed"),
    (Fault::CrashInRecovery, "power lost again in recovery"),
    (Fault::Stop, "node told to stop"),
    (Fault::DriverFailed, "driver failed"),
    (Fault::Pause, "node paused"),
    (Fault::PauseInTurn, "node paused within a turn"),
    (Fault::ClockDrift, "clock drifts within its bound"),
    (Fault::ClockBeyondBound, "clock drifts beyond its bound"),
    (Fault::TornWrite, "write torn by a power loss"),
    (Fault::LateWrite, "write landed after the next start"),
    (Fault::BitRot, "durable sector rotted"),
    (Fault::BadSector, "durable sector bad for good"),
    (Fault::BadFreeSector, "free sector bad for good"),
    (Fault::LostWrite, "write lost"),
    (Fault::MisdirectedWrite, "write misdirected"),
    (Fault::ForeignDisk, "disk of another node or core"),
    (Fault::ReadError, "read failed"),
    (Fault::WrongRead, "read gave wrong bytes once"),
    (
        Fault::WrongReadInRecovery,
        "read gave wrong bytes in recovery",
    ),
    (Fault::ReadErrorInRecovery, "read failed in recovery"),
    (Fault::WriteError, "write failed"),
    (Fault::DiskStall, "disk stalled"),
    (Fault::DiskStill, "disks of a node stood still"),
    (Fault::SegmentWithheld, "segment did not come for long"),
    (Fault::DiskFull, "disk full"),
    (Fault::DiskFullAtStart, "disk full at a start"),
    (Fault::DiskFullLeader, "disk full on the leader alone"),
    (Fault::MachineFailed, "state machine failed"),
    (Fault::MachineNotMade, "state machine not made"),
    (Fault::SlowFactory, "state machine slow to make"),
    (
        Fault::FollowerRenounced,
        "hand-over beside a failed machine",
    ),
    (Fault::Reordered, "writes completed out of order"),
    (Fault::Cut, "connection cut"),
    (Fault::Duplication, "connection cut for its sender alone"),
    (Fault::Clog, "connection clogged"),
    (Fault::Stranger, "silent stranger in a peer's name"),
    (Fault::Talker, "talking stranger in a peer's name"),
    (Fault::LongWay, "long way"),
    (Fault::Hang, "link hung"),
    (Fault::Drip, "link dripped"),
    (Fault::Deaf, "node sent and took nothing"),
    (Fault::BitFlip, "bit flipped on the wire"),
    (Fault::ShortSend, "short send"),
    (Fault::Partition, "network partitioned"),
    (Fault::OneWayPartition, "network partitioned one way"),
    (Fault::LeaderIsolated, "leader isolated"),
    (Fault::Lie, "liar connected as a member"),
    (Fault::DiskEmptied, "disks emptied"),
    (Fault::DiskRestored, "old copy of disks restored"),
    (Fault::DiskCutShort, "disks cut short"),
    (Fault::DiskCopied, "old copy of files restored"),
];

/// How often each kind of fault was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Times and runs, in the order of [`FAULTS`].
    counts: [(u64, u64); FAULTS.len()],
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            counts: [(0, 0); FAULTS.len()],
        }
    }
}

impl Faults {
    pub(crate) fn add(&mut self, fault: Fault) {
        let position = FAULTS.iter().position(|(kind, _)| *kind == fault);
        let count = &mut self.counts[position.expect("every kind is listed")];
        *count = (count.0 + 1, 1);
    }

    /// Adds what other runs had.
    pub fn join(&mut self, other: &Self) {
        for (count, (times, runs)) in self.counts.iter_mut().zip(other.counts) {
            count.0 += times;
            count.1 += runs;
        }
    }

    /// How often a kind was injected, and how many runs had it.
    #[must_use]
    pub fn of(&self, fault: Fault) -> (u64, u64) {
        let position = FAULTS.iter().position(|(kind, _)| *kind == fault);
        self.counts[position.expect("every kind is listed")]
    }

    /// Kinds that were never injected, by name.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let missing = FAULTS.iter().filter(|(fault, _)| self.of(*fault).0 == 0);
        missing.map(|(_, name)| *name).collect()
    }
}
