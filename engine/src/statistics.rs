//! What a core counts while it runs.

use std::collections::BTreeMap;
use std::time::Duration;

use pontoon_raft::NodeId;
use pontoon_storage::LogStatistics;

use crate::reason::{CloseReason, DropReason};

/// Counts of one core since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreStatistics {
    /// Turns of the core's loop.
    pub turns: u64,
    /// Commands taken from proposers.
    pub proposals: u64,
    /// Entries applied, the empty ones of new leaders included.
    pub applied: u64,
    /// Messages of groups given to connections.
    pub messages_sent: u64,
    /// Messages without entries that were dropped because too many waited for their peer.
    pub messages_unsent: u64,
    /// Messages of groups taken from frames.
    pub messages_received: u64,
    /// Frames of kinds that only newer versions of the wire know, which were skipped.
    pub frames_skipped: u64,
    /// Messages dropped before Raft saw them.
    pub messages_dropped: BTreeMap<DropReason, u64>,
    /// Connections that were closed.
    pub connections_closed: BTreeMap<CloseReason, u64>,
    /// The way to each peer and back, as measured last: the least of four pings.
    pub round_trips: BTreeMap<NodeId, Duration>,
    /// Calls of io_uring_enter(2) by the core's driver.
    pub enters: u64,
    /// What the log did.
    pub log: LogStatistics,
}
