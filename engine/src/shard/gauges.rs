//! Every queue of a shard against its limit, for the simulator.

use super::Shard;

/// Responses to one peer of one group that may wait for the disk: of each kind one for each frame
/// that is not durable, and some of an earlier term.
const RESPONSES_HELD_MAX: usize = 16;
/// AppendEntries RPCs with entries to one follower that Raft awaits, and some of an earlier term.
const APPENDS_MAX: usize = 1000;
/// Deadlines of one group that were not looked at since they moved.
const DEADLINES_MAX: usize = 64;

/// What a queue or pool holds, and the most that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// What is counted, and the setting that limits it if there is one.
    pub name: &'static str,
    /// How much there is.
    pub value: usize,
    /// How much there may be.
    pub limit: usize,
}

impl Shard {
    /// What every queue holds between two turns.
    pub(crate) fn gauges(&self) -> Vec<Gauge> {
        let groups = &self.groups;
        let config = &groups.config;
        let (replicas, peers) = (groups.replicas.len(), self.peers.len());
        let frame = config.frame_limits.frame_bytes_max as usize;
        let (appends, read_bytes) = groups.catch_ups.waiting();
        let proposal_bytes = self.inbox.gauge();
        let gauge = |name, value, limit| Gauge { name, value, limit };
        vec![
            gauge(
                "bytes waiting for one peer (limits.peer_queue_bytes_max)",
                self.peers.unsent_bytes_max(),
                config.peer_queue_bytes_max + 2 * frame,
            ),
            gauge(
                "bytes of heads waiting for one peer (half of limits.peer_queue_bytes_max)",
                self.peers.unsent_head_bytes_max(),
                config.peer_queue_bytes_max / 2 + frame,
            ),
            gauge("entries waiting for followers", appends, replicas * peers * APPENDS_MAX),
            gauge("bytes read for followers", read_bytes, peers * 8 * frame),
            gauge(
                "responses waiting for the disk",
                groups.durability.held_responses(),
                replicas * peers * RESPONSES_HELD_MAX,
            ),
            gauge(
                "bytes of proposals and replies (limits.replies_pending_bytes_max)",
                proposal_bytes.0,
                proposal_bytes.1,
            ),
            gauge("messages left in the outbox", groups.outbox.len(), 0),
            gauge("replicas with entries to apply", groups.to_apply.len(), replicas),
            gauge("reads under way", groups.reads.len(), replicas + 2 * peers + 1),
            gauge(
                "read buffers that peers hold (log.read_bytes, less one)",
                groups.reads.for_peers(),
                groups.log.reads_for_peers_max(),
            ),
            gauge("deadlines", groups.timers.len(), replicas * DEADLINES_MAX),
        ]
    }
}
