//! What a node is told: from TOML or by builder methods, checked before anything is touched.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use pontoon_raft::NodeId;
use pontoon_storage::{LogConfig, LogIdentity};
use serde::Deserialize;

/// Settings of a node. `engine/pontoon.toml` shows every key with its default.
///
/// ```
/// use pontoon::Config;
///
/// let config = Config::from_toml_str(
///     r#"
///     node = 1
///     cluster = "c0ffee"
///     data = "/var/lib/pontoon"
///     listen = "0.0.0.0:7400"
///     [peers]
///     2 = "10.0.0.2:7400"
///     3 = "10.0.0.3:7400"
///     "#,
/// )?;
/// assert_eq!(config.cores, 1);
/// # Ok::<(), pontoon::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's id, at least 1. It belongs to the data directory for good.
    pub node: u64,
    /// The cluster's id: up to 32 hexadecimal digits, the same on all its nodes.
    #[serde(deserialize_with = "hexadecimal")]
    pub cluster: u128,
    /// The data directory, on a file system with O_DIRECT. Core N uses `core-N` in it.
    pub data: PathBuf,
    /// Where other nodes reach this one.
    pub listen: SocketAddr,
    /// The other nodes. The IP address is best the one that a node also connects from: it has
    /// places at the door there, which whoever connects in its name from elsewhere can't take.
    #[serde(default)]
    pub peers: BTreeMap<PeerId, SocketAddr>,
    /// Cores, each with a thread, a log and a ring. The same on all nodes; can't change later.
    #[serde(default = "one")]
    pub cores: u16,
    /// Who runs the cores.
    #[serde(default)]
    pub host: HostKind,
    /// How long a core polls before it waits in the kernel. 0 where cores are shared.
    #[serde(default, with = "humantime_serde")]
    pub spin: Duration,
    /// The CPU of each core; empty: none is pinned.
    #[serde(default)]
    pub pin: Vec<usize>,
    /// Raft's times.
    #[serde(default)]
    pub raft: RaftSettings,
    /// The log of each core.
    #[serde(default)]
    pub log: LogSettings,
    /// What is refused, and when.
    #[serde(default)]
    pub limits: Limits,
}

/// A node's id as the key of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct PeerId(pub u64);

impl TryFrom<String> for PeerId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let number = text.parse().map(Self);
        number.map_err(|_| format!("{text:?} under [peers] is not the id of a node"))
    }
}

/// Who runs the cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostKind {
    /// A plain thread for each, which waits in its ring.
    #[default]
    Thread,
    /// The same, and beside it a glommio executor for tasks of the application, if there are any.
    /// Needs the cargo feature `glommio`.
    Glommio,
}

/// Raft's times.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftSettings {
    /// A follower that hears nothing for between one and two of these campaigns (thesis 3.4).
    #[serde(with = "humantime_serde")]
    pub election_timeout: Duration,
    /// A leader with nothing to say says so this often.
    #[serde(with = "humantime_serde")]
    pub heartbeat_interval: Duration,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            election_timeout: Duration::from_secs(1),
            heartbeat_interval: Duration::from_millis(100),
        }
    }
}

/// The log of each core.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// Bytes of a segment. Can't change while segments exist.
    pub segment_bytes: ByteSize,
    /// Most segments on the disk.
    pub segments_max: u32,
    /// Memory for records that are not durable yet.
    pub staging_bytes: ByteSize,
    /// Memory that keeps the latest entries readable without the disk.
    pub cache_bytes: ByteSize,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            segment_bytes: ByteSize::mib(64),
            segments_max: 64,
            staging_bytes: ByteSize::mib(16),
            cache_bytes: ByteSize::mib(16),
        }
    }
}

/// What is refused, and when.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Largest command.
    pub command_bytes_max: ByteSize,
    /// Largest reply of a state machine. A larger one is dropped, and whoever proposed told so.
    pub reply_bytes_max: ByteSize,
    /// Proposals that wait for a core to take them, and tasks that wait to begin beside it.
    pub requests_waiting_max: usize,
    /// Bytes of commands that wait for a core, or that it has taken and not answered. One group may
    /// hold half of it.
    pub proposals_pending_bytes_max: ByteSize,
    /// Bytes of replies of a core that nobody has taken yet, beside what proposals leave of their
    /// own limit: there they keep proposals out. What finds no room is dropped as well.
    pub replies_pending_bytes_max: ByteSize,
    /// Bytes that wait to be sent to one peer.
    pub peer_queue_bytes_max: ByteSize,
    /// Bytes of entries that are on their way to one follower of a group and not answered: over a
    /// long way a group replicates at most so many in a round trip.
    pub in_flight_bytes_max: ByteSize,
    /// Messages with entries that are on their way to one follower of a group.
    pub in_flight_messages_max: u32,
    /// Bytes of its log that a group keeps for a member that lags, when the log is short of room:
    /// at most a quarter of the log, whatever this says.
    pub lag_bytes_max: ByteSize,
    /// Groups of one core.
    pub groups_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            command_bytes_max: ByteSize::kib(256),
            reply_bytes_max: ByteSize::mib(1),
            requests_waiting_max: 16_384,
            proposals_pending_bytes_max: ByteSize::mib(64),
            replies_pending_bytes_max: ByteSize::mib(64),
            peer_queue_bytes_max: ByteSize::mib(8),
            in_flight_bytes_max: ByteSize::mib(4),
            in_flight_messages_max: 256,
            lag_bytes_max: ByteSize::gib(1),
            groups_max: 10_000,
        }
    }
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not TOML, or has an unknown, missing or wrong key.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A key has a value that can't work.
    #[error("`{key}` {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it must be.
        reason: &'static str,
    },
}

/// Largest frame on the wire, and on the disk.
pub(crate) const FRAME_BYTES_MAX: u32 = 1 << 20;

/// Bytes received beyond a partial frame at once.
pub(crate) const RECEIVE_AHEAD_BYTES: u32 = 256 << 10;

/// What a fresh connection carries in its first round trip: ten segments (RFC 6928).
const TCP_FIRST_BYTES: u64 = 14_600;

/// Room that a command's record and frame need beside the command.
const OVERHEAD_BYTES: u64 = 4096;

impl Config {
    /// A node with defaults for everything else, alone until it is given peers.
    #[must_use]
    pub fn new(node: u64, cluster: u128, data: &Path, listen: SocketAddr) -> Self {
        Self {
            node,
            cluster,
            data: data.to_path_buf(),
            listen,
            peers: BTreeMap::new(),
            cores: 1,
            host: HostKind::default(),
            spin: Duration::ZERO,
            pin: Vec::new(),
            raft: RaftSettings::default(),
            log: LogSettings::default(),
            limits: Limits::default(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If it can't be read, is no TOML, or has a key or value that can't work.
    pub fn from_toml(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Self::from_toml_str(&text)
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// If it is no TOML, or has a key or value that can't work.
    pub fn from_toml_str(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text)?;
        config.validate()?;
        Ok(config)
    }

    /// Adds another node.
    #[must_use]
    pub fn peer(mut self, node: u64, address: SocketAddr) -> Self {
        self.peers.insert(PeerId(node), address);
        self
    }

    /// Sets the number of cores.
    #[must_use]
    pub fn cores(mut self, cores: u16) -> Self {
        self.cores = cores;
        self
    }

    /// Sets who runs the cores.
    #[must_use]
    pub fn host(mut self, host: HostKind) -> Self {
        self.host = host;
        self
    }

    /// Checks everything that can be checked without touching the system.
    ///
    /// # Errors
    /// The first key that can't work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let refuse = |key, reason| Err(ConfigError::Value { key, reason });
        if self.node == 0 {
            return refuse("node", "must be at least 1");
        }
        if self.peers.contains_key(&PeerId(self.node)) {
            return refuse("peers", "must name the other nodes, not this one");
        }
        if self.peers.contains_key(&PeerId(0)) {
            return refuse("peers", "names node 0; ids begin at 1");
        }
        if !(1..=1024).contains(&self.cores) {
            return refuse("cores", "must be from 1 to 1024");
        }
        if !self.pin.is_empty() && self.pin.len() != usize::from(self.cores) {
            return refuse("pin", "must name as many CPUs as there are cores, or none");
        }
        if self.host == HostKind::Glommio && !cfg!(feature = "glommio") {
            return refuse(
                "host",
                "is \"glommio\", which this program was built without",
            );
        }
        self.validate_times()?;
        self.validate_limits()
    }

    fn validate_times(&self) -> Result<(), ConfigError> {
        let refuse = |key, reason| Err(ConfigError::Value { key, reason });
        let RaftSettings {
            election_timeout,
            heartbeat_interval,
        } = self.raft;
        if heartbeat_interval < Duration::from_millis(1) {
            return refuse("raft.heartbeat_interval", "must be at least 1 ms");
        }
        if election_timeout < heartbeat_interval.saturating_mul(2) {
            return refuse(
                "raft.election_timeout",
                "must be at least twice raft.heartbeat_interval",
            );
        }
        if election_timeout > Duration::from_secs(3600) {
            return refuse("raft.election_timeout", "must be at most 1 h");
        }
        if self.spin > Duration::from_secs(1) {
            return refuse("spin", "must be at most 1 s");
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<(), ConfigError> {
        let refuse = |key, reason| Err(ConfigError::Value { key, reason });
        let limits = &self.limits;
        let record_bytes = limits.command_bytes_max.0.saturating_add(OVERHEAD_BYTES);
        if record_bytes > u64::from(FRAME_BYTES_MAX) / 2 {
            return refuse(
                "limits.command_bytes_max",
                "must leave a command half of a frame, which is 508 KiB",
            );
        }
        if limits.requests_waiting_max == 0 {
            return refuse("limits.requests_waiting_max", "must be at least 1");
        }
        if limits.proposals_pending_bytes_max < limits.command_bytes_max {
            return refuse(
                "limits.proposals_pending_bytes_max",
                "must be at least limits.command_bytes_max",
            );
        }
        if limits.replies_pending_bytes_max < limits.reply_bytes_max {
            return refuse(
                "limits.replies_pending_bytes_max",
                "must be at least limits.reply_bytes_max",
            );
        }
        if limits.peer_queue_bytes_max.0 < u64::from(FRAME_BYTES_MAX) {
            return refuse("limits.peer_queue_bytes_max", "must be at least 1 MiB");
        }
        if !(1 << 20..=1 << 30).contains(&limits.in_flight_bytes_max.0) {
            return refuse("limits.in_flight_bytes_max", "must be from 1 MiB to 1 GiB");
        }
        if !(1..=65_536).contains(&limits.in_flight_messages_max) {
            return refuse("limits.in_flight_messages_max", "must be from 1 to 65536");
        }
        self.validate_log()
    }

    fn validate_log(&self) -> Result<(), ConfigError> {
        let refuse = |key, reason| Err(ConfigError::Value { key, reason });
        if self.log.segment_bytes.0 < 8 * u64::from(FRAME_BYTES_MAX) {
            return refuse("log.segment_bytes", "must be at least 8 MiB");
        }
        if !self.log.segment_bytes.0.is_multiple_of(1 << 20) {
            return refuse("log.segment_bytes", "must be whole mebibytes");
        }
        if !(3..=9999).contains(&self.log.segments_max) {
            return refuse("log.segments_max", "must be from 3 to 9999");
        }
        if self.log.staging_bytes.0 < 4 * u64::from(FRAME_BYTES_MAX) {
            return refuse("log.staging_bytes", "must be at least 4 MiB");
        }
        Ok(())
    }

    /// The most memory that a node takes for what it queues and caches, in bytes: on each core the
    /// log's staging, cache and read buffers, proposals and replies, and for each peer what waits
    /// to be sent, what is received on its connection and on another that is on trial beside it,
    /// and what was read ahead. State machines, what each group costs, and tasks of the application
    /// come on top.
    #[must_use]
    pub fn memory_bytes_max(&self) -> u64 {
        let log = self.log_config(0);
        let log = log.staging_bytes + log.cache_bytes + log.slab_bytes + log.read_bytes;
        let frame = u64::from(FRAME_BYTES_MAX);
        let receive = frame + u64::from(RECEIVE_AHEAD_BYTES);
        // Half a frame is read ahead, and two reads may be under way when that is looked at.
        let limits = &self.limits;
        let peer = limits
            .peer_queue_bytes_max
            .0
            .saturating_add(2 * receive + 3 * frame);
        let core = [
            log as u64,
            limits.proposals_pending_bytes_max.0,
            limits.replies_pending_bytes_max.0,
            peer.saturating_mul(self.peers.len() as u64),
        ];
        let core = core.into_iter().fold(0, u64::saturating_add);
        core.saturating_mul(u64::from(self.cores))
    }

    /// The longest round trip between two nodes that these settings are good for: elections end and
    /// leaders last.
    ///
    /// A leader hears from a majority once in an election timeout, heartbeats included, even while
    /// its largest command crosses a connection that was idle: TCP begins with ten segments and
    /// doubles what it carries in each round trip.
    #[must_use]
    pub fn round_trip_max(&self) -> Duration {
        let RaftSettings {
            election_timeout,
            heartbeat_interval,
        } = self.raft;
        let frame = self.limits.command_bytes_max.0 + OVERHEAD_BYTES;
        let round_trips = (frame / TCP_FIRST_BYTES + 1).ilog2() + 2;
        election_timeout.saturating_sub(heartbeat_interval) / round_trips
    }

    /// How long a connection may take until its hellos are exchanged: several round trips.
    pub(crate) fn hello_deadline(&self) -> Duration {
        let election_timeouts = self.raft.election_timeout.saturating_mul(5);
        election_timeouts.clamp(Duration::from_secs(2), Duration::from_secs(3600))
    }

    /// What a core's log is told.
    pub(crate) fn log_config(&self, core: u16) -> LogConfig {
        let bytes = |size: ByteSize| usize::try_from(size.0).expect("a 64-bit machine");
        LogConfig {
            segment_bytes: self.log.segment_bytes.0,
            segments_max: self.log.segments_max,
            staging_bytes: bytes(self.log.staging_bytes),
            cache_bytes: bytes(self.log.cache_bytes),
            frame_bytes_max: FRAME_BYTES_MAX,
            ..LogConfig::new(LogIdentity {
                cluster: self.cluster,
                node: self.node,
                core,
                cores: self.cores,
            })
        }
    }

    /// Where a core's segments are.
    pub(crate) fn directory(&self, core: u16) -> PathBuf {
        self.data.join(format!("core-{core}"))
    }

    /// The other nodes and where they are.
    pub(crate) fn peer_addresses(&self) -> BTreeMap<NodeId, SocketAddr> {
        let peers = self.peers.iter();
        peers
            .map(|(id, address)| (NodeId(id.0), *address))
            .collect()
    }
}

fn one() -> u16 {
    1
}

fn hexadecimal<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
    let text = String::deserialize(deserializer)?;
    u128::from_str_radix(&text, 16).map_err(|_| {
        serde::de::Error::custom(format!(
            "cluster {text:?} must be up to 32 hexadecimal digits in quotes"
        ))
    })
}
