//! One core of one node: its shard, if the node runs, and its disk.

use std::collections::BTreeMap;

use pontoon::port::Completion;
use pontoon::raft::Term;
use pontoon::shard::{Mutants, ShardConfig, ShardOpenError};
use pontoon::simulation::{Mutant, SimulatedCore};
use pontoon::storage::{Life, LogConfig, LogIdentity, OpenError, Recovery, SegmentLog};
use pontoon::{GroupId, LogIndex, NodeId};

use crate::costs::Usage;
use crate::disk::Disk;
use crate::flaky::{Flaky, Mishap};
use crate::machine::{SharedOracle, machines};
use crate::replica::Seen;
use crate::settings::{CLUSTER, ELECTION_TIMEOUT, HEARTBEAT_INTERVAL, LIMITS, SEGMENT_BYTES};
use crate::still::Held;
use crate::stops::Stopping;
use crate::strangers::Strangers;
use crate::swarm::Swarm;

/// A core and what the world knows of it.
pub(crate) struct SimCore {
    pub(crate) node: usize,
    pub(crate) core: u16,
    pub(crate) shard: Option<SimulatedCore>,
    pub(crate) disk: Disk,
    pub(crate) completions: Vec<Completion>,
    /// Counts the starts of the node; events of an earlier generation are void.
    pub(crate) generation: u64,
    /// When its next turn is due.
    pub(crate) wake_at: Option<u64>,
    /// Its replicas after its last turn; none just after a start.
    pub(crate) seen: Vec<Seen>,
    /// Memory for the next look.
    pub(crate) seen_before: Vec<Seen>,
    /// For each group that was found damaged at the last start, what was committed by then.
    pub(crate) reported: Vec<(GroupId, LogIndex)>,
    /// It stands still within a turn: the clock that it has read, and what it has taken.
    pub(crate) interrupted: Option<(u64, Vec<Completion>)>,
    /// The last vote of each group that was durable when it was looked at.
    pub(crate) votes: Vec<(GroupId, Term)>,
    /// Groups whose last vote was lost with damage, and which have not voted since.
    pub(crate) votes_lost: Vec<GroupId>,
    /// Turns in a row that asked for nothing, and after which it did not wait.
    pub(crate) spins: u64,
    pub(crate) strangers: Strangers,
    /// It was told to stop.
    pub(crate) stopping: Option<Stopping>,
    /// After so many turns its driver fails.
    pub(crate) driver_fails_after: Option<u64>,
    /// Groups that it leads although their machine failed: since when by its clock, and how many
    /// turns.
    pub(crate) leads_without: BTreeMap<u64, (u64, u64)>,
    /// When its log was last as large as it can be, and short of room; since when it has taken no
    /// commands.
    pub(crate) whole_at: Option<u64>,
    pub(crate) short_at: Option<u64>,
    pub(crate) roomless_since: Option<u64>,
    /// In which life of its log it was last known to others.
    pub(crate) life: Life,
    /// In which life it believed each peer last.
    pub(crate) believed: BTreeMap<NodeId, Life>,
    /// A copy of its disk, and in which life that was made.
    pub(crate) copy: Option<(Disk, Life)>,
    /// Members that said to it, as their leader in a term, that they can't lead.
    pub(crate) renounced: Vec<(GroupId, Term, NodeId)>,
    /// What its disk does not do now, and the segments that do not come.
    pub(crate) still: Held,
    pub(crate) withheld: Held,
    /// What it asked of its disk since that was last looked at.
    pub(crate) usage: Usage,
}

/// Why a core did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Its log did not open.
    Log {
        error: OpenError,
        /// The volume failed while it was opened.
        failed: bool,
    },
    /// Its groups did not.
    Shard(ShardOpenError),
    /// Its driver could not be made.
    Driver,
}

impl std::fmt::Display for StartError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log { error, .. } => error.fmt(formatter),
            Self::Shard(error) => error.fmt(formatter),
            Self::Driver => formatter.write_str("its driver could not be made"),
        }
    }
}

impl SimCore {
    pub(crate) fn new(node: usize, core: u16) -> Self {
        Self {
            node,
            core,
            shard: None,
            disk: Disk::new(),
            completions: Vec::new(),
            generation: 0,
            wake_at: None,
            seen: Vec::new(),
            seen_before: Vec::new(),
            reported: Vec::new(),
            interrupted: None,
            votes: Vec::new(),
            votes_lost: Vec::new(),
            spins: 0,
            strangers: Strangers::default(),
            stopping: None,
            driver_fails_after: None,
            leads_without: BTreeMap::new(),
            whole_at: None,
            short_at: None,
            roomless_since: None,
            life: Life::default(),
            believed: BTreeMap::new(),
            copy: None,
            renounced: Vec::new(),
            still: Held::default(),
            withheld: Held::default(),
            usage: Usage::default(),
        }
    }

    pub(crate) fn log_config(&self, cores: u16) -> LogConfig {
        log_config(LogIdentity {
            cluster: CLUSTER,
            node: self.node as u64 + 1,
            core: self.core,
            cores,
        })
    }

    /// What a start would find if the power failed now.
    pub(crate) fn durable_image(&self, cores: u16) -> Option<Recovery> {
        let mut volume = self.disk.after_power_loss();
        let opened = SegmentLog::open(&mut volume, self.log_config(cores));
        opened.ok().map(|(_, recovery)| recovery)
    }

    /// Starts the core on what its disk holds. Also gives whether its volume went wrong meanwhile.
    pub(crate) fn start(
        &mut self,
        swarm: &Swarm,
        oracle: &SharedOracle,
        mutant: Option<Mutant>,
        now: pontoon::raft::Time,
        mishap: Option<Mishap>,
    ) -> Result<(Recovery, bool), StartError> {
        let config = shard_config(self.node, swarm);
        let mut log_config = self.log_config(swarm.cores);
        log_config.segments_max = swarm.segments_max;
        // No start of any core draws the same.
        log_config.nonce = (self.generation << 8) + u64::from(self.core) + 1;
        if let Some(Mutant::Storage(mutant)) = mutant {
            log_config.mutant = Some(mutant);
        }
        let mut volume = Flaky::new(&mut self.disk.volume, mishap);
        let opened = SegmentLog::open(&mut volume, log_config);
        let failed = volume.failed;
        let (mut log, recovery) = opened.map_err(|error| StartError::Log { error, failed })?;
        log.set_writes_in_flight(swarm.writes_in_flight);
        self.disk.opened();
        let machines = machines(oracle, self.node, swarm);
        let shard = SimulatedCore::open(config, log, &recovery, machines, mutant, now);
        self.shard = Some(shard.map_err(StartError::Shard)?);
        Ok((recovery, failed))
    }
}

/// A log so small that its limits are reached.
pub(crate) fn log_config(identity: LogIdentity) -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT_BYTES,
        frame_bytes_max: 8 << 10,
        slab_bytes: 16 << 10,
        staging_bytes: 128 << 10,
        cache_bytes: 32 << 10,
        read_bytes: 64 << 10,
        segments_max: 64,
        state_bytes_per_frame: 1024,
        ..LogConfig::new(identity)
    }
}

fn shard_config(node: usize, swarm: &Swarm) -> ShardConfig {
    ShardConfig {
        node: NodeId(node as u64 + 1),
        peers: (1..=swarm.nodes as u64).map(NodeId).collect(),
        seed: node as u64 + 1,
        election_timeout: ELECTION_TIMEOUT,
        heartbeat_interval: HEARTBEAT_INTERVAL,
        frame_limits: LIMITS,
        command_bytes_max: 4 << 10,
        reply_bytes_max: 4 << 10,
        peer_queue_bytes_max: 32 << 10,
        in_flight_bytes_max: 4 << 20,
        in_flight_messages_max: 64,
        round_trip_max: ELECTION_TIMEOUT / 6,
        lag_bytes_max: 1 << 30,
        groups_max: 64,
        mutants: Mutants::default(),
    }
}
